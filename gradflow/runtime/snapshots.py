"""All that a run is between two units, as tensors and plain data, and a run put back to it.

Batches, draws of the world and dropout are functions of the clocks, so their position is the clocks'. What is kept beside parameters and states:
values that are held from one unit to the next, buffers of modules (running statistics), and torch's generators, for models of one's own that
draw from them. `how` says what the numbers depend on besides the program: a run goes on only where it is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradflow.runtime.events import RunFailed
from gradflow.runtime.shard_files import names_of, read_shards

if TYPE_CHECKING:
    from gradflow.runtime.checkpoints import Checkpoint
    from gradflow.runtime.executor import Run
    from gradflow.runtime.phases import PhasePlan

WORDS = {
    "program": "the pipeline is", "backend": "the backend is", "device": "the device is", "precision": "the precision is", "seed": "the seed is",
    "counts": "the counts of the `train` lines are", "micro": "`micro` is", "optimize": "`optimize` is", "compile": "`compile` is",
}  # fmt: skip


def how_of(run: Run, plans: list[PhasePlan]) -> dict[str, Any]:
    options = run.options
    return {
        "program": run.program.name, "backend": options.backend, "device": run.device.type, "precision": run.precision, "seed": run.seed,
        "counts": [plan.count for plan in plans], "micro": options.micro, "optimize": options.optimize, "compile": options.compile,
    }  # fmt: skip


# ---- taking one


def tensors_of(run: Run) -> dict[str, Tensor]:
    """Every tensor of a run by a name that says what it is."""
    found = _buffers_by_name(run)
    found |= {"held/" + "/".join(path): value for path, value in run.held.items()}
    found |= {f"taken/{flow}/{name}": value for flow, values in run.taken.items() for name, value in values.items()}
    found |= {f"world/{field}/{id_}": value for id_, record in run.world.records.items() for field, value in record.items()}
    found |= {f"buffer/{model}/{name}": value for model, name, value in _buffers(run)}
    found["random/cpu"] = torch.get_rng_state()
    if run.device.type == "cuda":
        found["random/cuda"] = torch.cuda.get_rng_state(run.device)
    parts = run.ranks.in_parts(found)
    return {name: run.ranks.whole(name, value) for name, value in found.items() if name not in parts}


def parts_of(run: Run) -> dict[str, tuple[Tensor, int]]:
    """What is left out there: every rank writes its own part of it."""
    return run.ranks.in_parts(_buffers_by_name(run))


def _buffers_by_name(run: Run) -> dict[str, Tensor]:
    found = {f"param/{name}": value for name, value in run.store.params.items()}
    return found | {f"state/{flow}/{key}": value for (flow, key), value in run.store.states.items()}


def state_of(run: Run, plans: list[PhasePlan], seconds: float) -> dict[str, Any]:
    """Everything else, as plain data."""
    return {
        "program": run.program.name, "seed": run.seed, "how": how_of(run, plans), "clocks": asdict(run.clocks), "phase": run.phase,
        "closed": run.closed, "told": run.told, "seconds": seconds, "learnt": run.learnt.values, "finite": run.watch.seen,
        "batches": [run.batches.seed, run.batches.visit], "tokens": run.world.tokens, "visits": run.world.visits, "sent": run.sending.state(),
    }  # fmt: skip


def _buffers(run: Run) -> Iterator[tuple[str, str, Tensor]]:
    for model, runner in run.store.runners.items():
        trained = {name for name, _ in runner.module.named_parameters(remove_duplicate=False)}
        for name, value in runner.module.state_dict().items():
            if name not in trained and isinstance(value, Tensor):
                yield model, name, value


# ---- putting it back


def put_back(run: Run, plans: list[PhasePlan], checkpoint: Checkpoint) -> None:
    """The run, prepared as for its start, is put where the checkpoint was taken. Raises RunFailed where it does not fit."""
    state, where = checkpoint.state, checkpoint.path
    try:
        _compare(run, state["how"], how_of(run, plans))
        run.phase, run.closed = int(state["phase"]), bool(state["closed"])
        if not 0 <= run.phase < len(plans):
            raise RunFailed(f"the checkpoint {where} does not belong to this run: it has no phase {run.phase}")
        for plan in plans[: run.phase + 1]:
            run.store.bear(run.program, plan.index, run.seed, run._start)
            for one in plan.keepers:
                run.store.add_states(one)
        _clocks(run, state)
        _tensors(run, checkpoint.tensors, checkpoint.shards)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunFailed(f"the checkpoint {where} does not belong to this run: {type(error).__name__}: {error}") from None


def _compare(run: Run, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [f"{WORDS[name]} {_said(now[name])} and was {_said(before.get(name))}" for name in now if now[name] != before.get(name)]
    if different:
        raise RunFailed(f"a run goes on only as it began: {'; '.join(different)}; resume it with what it began with, or start a new run")


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _clocks(run: Run, state: Mapping[str, Any]) -> None:
    clocks, kept = run.clocks, state["clocks"]
    for name in ("seed", "tick", "visit", "t", "t_end"):
        setattr(clocks, name, int(kept[name]))
    clocks.executed = {str(flow): int(count) for flow, count in kept["executed"].items()}
    run.learnt.values = {str(name): (pair[0], pair[1]) for name, pair in state["learnt"].items()}
    run.watch.seen = {str(flow): int(count) for flow, count in state["finite"].items()}
    run.batches.at(*map(int, state["batches"]))
    run.world.tokens = int(state["tokens"])
    run.world.visits = {str(call): int(count) for call, count in state.get("visits", {}).items()}
    if "sent" in state:  # older checkpoints did not count
        run.sending.put_back(state["sent"])
    run.told, run.seconds = int(state["told"]), float(state["seconds"])


def _tensors(run: Run, tensors: Mapping[str, Tensor], shards: Path | None) -> None:
    buffers = _buffers_by_name(run)
    buffers |= {f"buffer/{model}/{name}": value for model, name, value in _buffers(run)}
    apart = names_of(shards) if shards is not None else set()
    missing = sorted(buffers.keys() - tensors.keys() - apart)
    if missing:
        raise RunFailed(f"the checkpoint does not belong to this run: it has no `{missing[0]}`")
    for name, value in tensors.items():
        value = run.ranks.local(name, value)
        kind, _, rest = name.partition("/")
        if name in buffers:
            _overwrite(name, buffers[name], value)
        elif kind == "held":
            run.held[tuple(rest.split("/"))] = value.to(run.device)
        elif kind == "taken":
            flow, _, field = rest.partition("/")
            run.taken.setdefault(flow, {})[field] = value.to(run.device)
        elif kind == "world":
            field, _, id_ = rest.partition("/")
            run.world.records.setdefault(id_, {})[field] = value.to(run.device)
        elif name == "random/cpu":
            torch.set_rng_state(value)
        elif name == "random/cuda" and run.device.type == "cuda":
            torch.cuda.set_rng_state(value, run.device)
        else:
            raise RunFailed(f"the checkpoint does not belong to this run: it has a `{name}`, and the run has none")
    if shards is not None:
        read_shards(shards, buffers, run.ranks.layout, run.device)


@torch.no_grad()
def _overwrite(name: str, buffer: Tensor, value: Tensor) -> None:
    if buffer.shape != value.shape or buffer.dtype != value.dtype:
        now, before = (f"{list(one.shape)} of {str(one.dtype).removeprefix('torch.')}" for one in (buffer, value))
        raise RunFailed(f"the checkpoint does not belong to this run: `{name}` is {before} there and {now} here")
    buffer.copy_(value)

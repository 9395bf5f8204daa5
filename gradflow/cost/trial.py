"""A program walked through without data: the very run that would happen, on torch's fake tensors, with a ledger beside it.

Models are made, batches cut, regions lowered and called and reports taken as `runtime/` does it, two units of every phase (the first often
takes another way than the rest), but no tensor has values and no number is worked out. What asks a tensor for a number is told 1 or true. Data
sets are not loaded where their sizes are stated; what a world call returns has the sizes of its declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize

from gradflow.backends import torch as backend
from gradflow.cost.figures import Step
from gradflow.cost.ledger import Ledger
from gradflow.graph.graph import Region
from gradflow.library.catalogue import DataSpec, catalogue
from gradflow.network.ledger import Ledger as Sent
from gradflow.plan.program import DataPlan, Periodic, Program, Update
from gradflow.procedures.acts import Hold, WorldCall
from gradflow.runtime.batches import Batches, Path
from gradflow.runtime.cuts import Cut
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.models import ModelRunner
from gradflow.runtime.phases import PhasePlan
from gradflow.runtime.regions import Regions
from gradflow.runtime.state import Store, dtype_of
from gradflow.runtime.world import World

UNITS = 2
GUESS = 64  # entries of an axis that nothing says the length of


@dataclass
class Done:
    """One action as it was walked through."""

    name: str
    kind: str
    phase: int
    steps: list[Step]
    peak: int
    activations: int


@dataclass
class Trial:
    """What a walk found. `plans`: the phases with their true number of updates."""

    ledger: Ledger
    done: list[Done]
    plans: list[PhasePlan]
    kept: Mapping[str, int]
    fusion: list[tuple[str, bool, str, str]]
    notes: list[str] = field(default_factory=list)
    prompts: Mapping[str, int] = field(default_factory=dict)  # tokens of the longest prompt that each model read


def walk(program: Program, options: Options | None = None, accelerator: bool = False) -> Trial:
    """Walks through a program; `accelerator`: as it would run there, with kernels on whole tensors instead of blocks.

    Raises what torch raises where a value is needed that nobody can know.
    """
    ledger = Ledger(512 if accelerator else 64)  # what memory is handed out in
    form = patch.object(backend, "_mode", lambda *_: "whole") if accelerator else nullcontext()
    apply, put = patch.object(torch.nn.Module, "_apply", applied), patch.object(parametrize, "_maybe_set", put_in_place)
    with FakeTensorMode(allow_non_fake_inputs=True), ledger, apply, put, form:
        run = Shadow(program, replace(options or Options(), steps=UNITS), ledger)
        for _ in run.events():
            pass
        kept = {"parameters": _bytes(run.store.params.values()), "states": _bytes(run.store.states.values()), "data": run.batches.bytes}
        prompts = {name: runner.rows.prompt for name, runner in run.store.runners.items() if runner.rows is not None}
    return Trial(ledger, run.done, run.true_plans, kept, run.fusion, run.notes, prompts)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Shadow(Run):
    """A run in which nothing has a value."""

    store: ShadowStore
    batches: ShadowBatches

    def __init__(self, program: Program, options: Options, ledger: Ledger):
        super().__init__(program, options)
        self.sending = Sent({}, 0)  # what is counted has no value here
        self.ledger, self.done, self.notes = ledger, list[Done](), list[str]()
        self.true_plans: list[PhasePlan] = []
        self.fusion: list[tuple[str, bool, str, str]] = []
        real = self.store.real
        self.store = ShadowStore(self.device, real, ledger)
        self.batches = ShadowBatches(self.program, self.device, real, ledger)
        self.world = ShadowWorld(self.program, self.store, self.batches, ledger, self.notes)
        self.regions = ShadowRegions(self, options)
        self.inputs = {name: self._given(name, type_) for name, type_ in program.inputs.items()}

    def _given(self, name: str, type_: Any) -> Tensor:
        open_ = [axis.name for axis in type_.axes if axis.size is None]
        if open_:
            self.notes.append(f"the length of {', '.join(open_)} of the input `{name}` is not stated; {GUESS} is assumed")
        shape = [axis.size if axis.size is not None else GUESS for axis in type_.axes]
        with self.ledger.labelled("inputs"):
            return torch.empty(shape, dtype=dtype_of(type_.base, self.store.real), device=self.device)

    def _prepare(self) -> list[PhasePlan]:
        self.ledger.place = "making the models"
        with self.ledger.labelled("parameters"):
            plans = super()._prepare()
        self.acts.blind = True
        for runner in self.store.runners.values():
            watch_runner(runner, self.ledger)
        phases = self.program.phases
        self.true_plans = [replace(plan, count=phase.count) for plan, phase in zip(plans, phases, strict=True)]
        return [replace(plan, updates=_few(plan), count=min(UNITS, phase.count)) for plan, phase in zip(plans, phases, strict=True)]

    def _tick(self, plan: PhasePlan) -> None:
        """Events are not walked through: when they happen is a matter of numbers."""
        if any(update.events is not None for update in plan.flows):
            self.notes.append("the work of events is not counted, what they keep and send is")

    # ---- every action with its share of the ledger

    @contextmanager
    def _noted(self, name: str, kind: str) -> Iterator[None]:
        ledger, before = self.ledger, len(self.ledger.steps)
        place, ledger.place, ledger.local_peak = ledger.place, name, ledger.live
        try:
            yield
        finally:
            held = ledger.__dict__.pop("taped", 0)
            self.done.append(Done(name, kind, self._phase_index, ledger.steps[before:], ledger.local_peak, held))
            ledger.place = place

    def _phase(self, plan: PhasePlan, *more: Any) -> Iterator[Any]:
        self._phase_index = plan.index
        yield from super()._phase(plan, *more)

    def _hold(self, action: Any) -> None:
        name = getattr(action, "name", "") or "held values"
        name = f"draw of {name if getattr(action, 'name', '') else action.call.primitive}" if hasattr(action, "call") else name
        with self._noted(name, "draw"), self.ledger.labelled("held"):
            super()._hold(action)

    def _cuts(self, plan: PhasePlan, group: Any) -> Iterator[Cut | None]:
        with self._noted("once a unit", "rollout"):
            found = list(super()._cuts(plan, group))
        yield from found[:1]

    def _owner(self, plan: Any, group: Any) -> None:
        """Mini-batches of whole groups have the size of any others."""

    def _change(self, action: Any, cut: Cut | None, tally: Any) -> None:
        flow = isinstance(action, Update)
        name = f"flow {', '.join(action.models)} ({action.flow})" if flow else f"assignment of {action.model}"
        with self._noted(name, "flow" if flow else "assign"):
            super()._change(action, cut, tally)

    def _report(self, plan: PhasePlan, block: Periodic, *more: Any, **options: Any) -> Iterator[Any]:
        unit = block.unit.removesuffix("s") if block.count == 1 else f"{block.count} {block.unit}"
        title = f"report every {unit}" if block.count else "report at the end"
        with self._noted(title, "report"):
            found = list(super()._report(plan, block, *more, **options))
        yield from found


def _few(plan: PhasePlan) -> int:
    """Updates of a unit that are walked through."""
    return plan.minibatches if plan.phase.unit == "rollouts" else min(plan.updates, 1)


class ShadowStore(Store):
    """Parameters and states; says which memory is which by the storage itself, since nothing has an address."""

    def __init__(self, device: torch.device, real: torch.dtype, ledger: Ledger):
        super().__init__(device, real)
        self.ledger = ledger

    def add_states(self, update: Update | Hold) -> None:
        with self.ledger.labelled("states"):
            super().add_states(update)

    def write(self, results: Mapping[str, Tensor]) -> None:
        memory = {same_memory(buffer) for buffer in (*self.params.values(), *self.states.values())}
        for name, value in results.items():
            buffer = self.place(name)
            if same_memory(value) != same_memory(buffer):
                buffer.copy_(value.clone() if same_memory(value) in memory else value)


class ShadowBatches(Batches):
    """Rows without values, of the sizes that the data's own description states."""

    def __init__(self, program: Program, device: torch.device, real: torch.dtype, ledger: Ledger):
        super().__init__(program, device, real)
        self.ledger = ledger

    @property
    def bytes(self) -> int:
        return _bytes(self._whole.values())

    def read(self, path: Path) -> Tensor:
        with self.ledger.labelled("batches"):
            return super().read(path)

    def whole(self, name: str, split: str, field: str) -> Tensor:
        key = (name, split, field)
        if key not in self._whole:
            spec = self.plans[name].spec
            one = spec.fields[split][field]
            sizes = [size for _, size in one.axes if size is not None]
            shape = sizes if len(sizes) == len(one.axes) else list(self.loaded(name)[split][field].shape)
            base = "int" if one.target is not None else one.base
            with self.ledger.labelled("data"):
                self._whole[key] = torch.empty(shape, dtype=dtype_of(base, self.real), device=self.device)
        return self._whole[key]

    def rows(self, plan: DataPlan, mode: str, fresh: int = 0) -> Tensor:
        key = (plan.name, mode, str(fresh))
        if key not in self._rows:
            lead, share = self.owned(plan).shape if mode == "node" else (None, self.count(plan))
            own = int(plan.spec.batch or share)
            shape = [own] if lead is None else [int(lead), own]
            self._rows[key] = torch.empty(shape, dtype=torch.int64, device=self.device)
        return self._rows[key]

    def count(self, plan: DataPlan) -> int:
        stated = rows_of(plan.spec)
        return stated if stated is not None else super().count(plan)


def rows_of(spec: DataSpec) -> int | None:
    """Rows of the training split, where the data set states them."""
    return next((size for one in spec.fields[spec.splits[0]].values() for _, size in one.axes[:1]), None)


class ShadowWorld(World):
    """World calls that return what they declare."""

    def __init__(self, program: Program, store: Store, batches: Batches, ledger: Ledger, notes: list[str]):
        super().__init__(program, store, batches)
        self.ledger, self.notes = ledger, notes

    def call(self, call: WorldCall, seed: int, tick: int, given: Any = None, passes: Any = ()) -> dict[str, Tensor]:
        found = {}
        self.texts.update({("world", call.id, name): [] for name, spec in call.fields.items() if spec.base == "text"})
        if call.models:
            self._note(f"what `{call.primitive}` holds and works while it runs is not counted, what it returns is")
        with self.ledger.labelled("held"):
            for name, spec in call.fields.items():
                if spec.base != "text":
                    base = "int" if spec.target is not None else spec.base
                    shape = [self._length(call, axis) if size is None else size for axis, size in spec.axes]
                    found[name] = torch.empty(shape, dtype=dtype_of(base, self.store.real), device=self.store.device)
                    if spec.target is not None and spec.target[1] is not None:
                        found[name].__dict__["hint"] = spec.target[1] - 1
        if {"length", "mask"} <= set(found):
            found["length"].__dict__["hint"] = found["mask"].shape[-1]
        self.records[call.id] = found
        return found

    def _length(self, call: WorldCall, axis: str) -> int:
        """The length of an axis that the declaration leaves open: places are the longest prompt and the longest response."""
        tokens = self._tokens(call)
        if axis == "token" and tokens is not None:
            return tokens
        if axis == "place":
            tokens = tokens or GUESS
            try:
                return self._longest(call) + tokens
            except (AttributeError, IndexError, ImportError, KeyError, OSError, StopIteration, TypeError, ValueError):
                self._guessed(call, axis)
                return self._fitting(call, GUESS + tokens)
        self._guessed(call, axis)
        return GUESS

    def _fitting(self, call: WorldCall, places: int) -> int:
        """As many places, or fewer where the model (of a call that names none: any) takes fewer."""
        lengths = [self.program.models[name].spec.facts.get("length") for name in (call.models.values() or self.program.models)]
        return min([places, *(length for length in lengths if isinstance(length, int))])

    def _tokens(self, call: WorldCall) -> int | None:
        """The longest response: as stated, as asked for, or as long as the primitive lets it be."""
        stated = [size for spec in call.fields.values() for name, size in spec.axes if name == "token" and size is not None]
        default = catalogue()[call.primitive].signature.parameters.get("max_tokens")
        asked = call.options.get("max_tokens", default.default if default is not None else None)
        return stated[0] if stated else asked if isinstance(asked, int) else None

    def _guessed(self, call: WorldCall, axis: str) -> None:
        self._note(f"the length of `{axis}` in what `{call.primitive}` returns is not known before; {GUESS} is assumed")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _longest(self, call: WorldCall) -> int:
        tokenizer: Any = self.model(next(iter(call.models.values())), call).tokenizer
        tasks = self.tasks(*next(iter(call.data.values())))
        return max(len(tokenizer.encode(tokenizer.chat(question))) for question in tasks.questions)


class ShadowRegions(Regions):
    """Regions lowered as ever; what their source calls to go over memory and to compare addresses is put in its place."""

    def __init__(self, run: Shadow, options: Options):
        super().__init__(options.backend, run.store.runners, run.device, run.store.real, False, options.optimize)
        self.run_of = run

    def _lower(self, region: Region, donate: bool) -> Callable[[Mapping[Any, Any]], Mapping[str, Any]]:
        lowered: Any = super()._lower(region, donate)
        ledger = self.run_of.ledger
        lowered.run.__globals__.update(blocks=lambda size, *flat: one_block(ledger, size, *flat), replace=replaced, top=top)
        place = region.name or "region"
        for note in lowered.fusion:
            self.run_of.fusion.append((place, note.fused, note.what, note.reason))
        return lowered


# ---- what stands in for functions of the generated source


def one_block(ledger: Ledger, size: int, *flat: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The first block alone, which counts for all."""
    length = flat[0].shape[0]
    with ledger.kernel(flat, max(length / size, 1.0)):
        yield tuple(tensor[:size] for tensor in flat)


def replaced(old: Tensor, new: Tensor) -> Tensor:
    if new is not old:
        old.copy_(new.clone() if same_memory(new) == same_memory(old) else new)
    return old


def top(x: Tensor, dim: int, count: int) -> Tensor:
    x = x.movedim(dim, -1)
    return torch.topk(x, min(count, x.shape[-1])).indices


def same_memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def watch_runner(runner: ModelRunner, ledger: Ledger) -> None:
    """Labels what a model's calls hold: activations (what the tape keeps of a forward call) and gradients."""
    forward, vjp, attached = runner.forward, runner.vjp, runner._attached

    def is_attached(params: Tensor) -> bool:
        if attached is None or attached is params:
            return attached is params
        return same_memory(attached) == same_memory(params) and attached.shape == params.shape and attached.stride() == params.stride()

    def labelled_forward(*args: Any, **options: Any) -> Any:
        before = ledger.live
        with ledger.labelled("activations"):
            found = forward(*args, **options)
        ledger.__dict__["taped"] = max(ledger.__dict__.get("taped", 0), ledger.live - before)
        return found

    def labelled_vjp(*args: Any, **options: Any) -> Any:
        with ledger.labelled("gradients"):
            return vjp(*args, **options)

    runner._is_attached, runner.forward, runner.vjp = is_attached, labelled_forward, labelled_vjp  # type: ignore[method-assign]


def put_in_place(old: Tensor, new: Tensor) -> None:
    """What a parametrization does to the tensor that it takes over."""
    old.data = new


def applied(module: torch.nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
    """`nn.Module._apply` that puts new parameters in place of the old ones: a fake tensor cannot be swapped. What was one stays one."""
    new: dict[int, Any] = {}
    parts = list(module.modules()) if recurse else [module]
    for part in parts:
        for name, value in part._parameters.items():
            if value is not None:
                if id(value) not in new:
                    new[id(value)] = value, torch.nn.Parameter(function(value.detach()), value.requires_grad)
                part._parameters[name] = new[id(value)][1]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module

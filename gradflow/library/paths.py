"""Unfinished responses, for rollouts that decide between turns who goes on: one generation call of all paths, their tools, branches, new starts.

A path is a row of `agent`'s record with more fields: active (it goes on), waiting (its last turn ends in a call that nobody has answered), born (the
turn in which it became a path of its own: 0, or that behind the place where it left another path). Rewards are there only behind `verify_paths`.

Axes: as in `agents.py`; B paths, T tokens of a response, W prompt width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradflow.library.agents import CALCULATOR, agent_fields, record_of, verified
from gradflow.library.asking import ask, copies_of
from gradflow.library.catalogue import DataSpec, FieldSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.records import opened
from gradflow.library.responses import Record, turn_tokens
from gradflow.library.sampling import Decoding
from gradflow.library.text_tasks import Tasks
from gradflow.library.tools import made
from gradflow.library.turns import Rules, Turns, empty, numbers_of, play

if TYPE_CHECKING:
    from torch import Tensor

BY_SAMPLE = (
    "ids", "prompt_mask", "mask", "action", "turn", "logp_old", "entropy_old", "length", "finished", "calls", "group", "task", "copy", "active",
    "waiting", "born", "likely",
)  # fmt: skip
WRITTEN = ("mask", "length", "finished", "calls", "logp_old", "entropy_old", "waiting", "born", "likely")  # 0 or false where a path begins
SOURCES = {"action": "action", "mask": "mask", "turn": "turn", "logp_old": "logp", "entropy_old": "entropy", "likely": "likely"}  # in what is drawn


@primitive(
    "call", policy="model", tasks="data", copies="int >= 0", prompts="int >= 1", max_tokens="int >= 1", max_calls="int >= 0", keep_top="int >= 0",
)  # fmt: skip
def open_paths(
    policy: Any,
    tasks: Tasks,
    copies: Any = 1,
    prompts: int | None = None,
    max_tokens: int = 48,
    max_calls: int = 4,
    keep_top: int = 0,
    *,
    seed: int,
    tick: int,
    visit: int | None = None,
) -> Record:
    """Paths that have not said anything yet: `copies` of each task, one number or one for each prompt. The other options are those of `agent`.

    The record is that of `agent` without rewards and texts, with active, waiting bool[sample], born int[sample] and the number max_calls.
    Raises ValueError where there are fewer tasks than `prompts`, or where no path is asked for.
    """
    import torch

    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    asked, ids = ask(policy, tasks)
    counts = copies.cpu().numpy() if isinstance(copies, torch.Tensor) else copies
    owner, number = copies_of(counts, len(asked))
    drawn = empty(len(owner), Decoding(max_tokens, keep_top=keep_top), policy.tokenizer.pad_id, policy.head)
    record = record_of(policy, drawn, asked, ids, owner, number, [Turns() for _ in owner], max_calls)
    here = torch.ones_like(record["finished"])
    return record | {"active": here, "waiting": ~here, "born": torch.zeros_like(record["calls"]), "max_calls": max_calls}


@primitive(
    "call", policy="model", paths="record", tools="tools", tokens="int >= 1", temperature="real > 0", top_p="real in (0, 1]", top_k="int >= 0",
)  # fmt: skip
def continue_paths(
    policy: Any,
    paths: Mapping[str, Any],
    tools: Any = CALCULATOR,
    tokens: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
) -> Record:
    """One generation call of every active path that waits for no tool: from where it is to the next call, its end, or `tokens` tokens.

    A path stays active unless it has ended or is as long as a response may be; `waiting` are those that have called.
    """
    import torch

    length, width = paths["length"], paths["action"].shape[1]
    rows = torch.nonzero(paths["active"] & ~paths["waiting"] & (length < width))[:, 0]
    found = {name: paths[name].clone() if name in BY_SAMPLE else value for name, value in paths.items()}
    if not len(rows):
        return found
    longest = min(tokens or width, width - int(length[rows].min()))
    prompts, turns = _standing(paths, rows)
    ids, copies, first = (numpy.asarray(x.cpu()) for x in (paths["task"][rows], paths["copy"][rows], length[rows]))
    draws = numbers_of(random.key(seed, "continue_paths", tick, *site), ids, copies, first, longest)
    top = paths["likely"].shape[-1] if "likely" in paths else 0
    how = Decoding(longest, float(temperature), float(top_p), top_k, keep_top=top)
    drawn = play(policy, prompts, numpy.arange(len(prompts)), turns, draws, how, Rules(made(tools), 0, once=True))
    for i, (row, state) in enumerate(zip(rows.tolist(), turns, strict=True)):
        count = int(drawn["here"][i].sum())
        _append(found, row, {name: drawn[source][i, :count] for name, source in SOURCES.items() if source in drawn})
        found["finished"][row] = drawn["finished"][i]
        found["waiting"][row] = state.asked is not None
        found["active"][row] = not bool(drawn["finished"][i]) and (int(found["length"][row]) < width or state.asked is not None)
    return found


def _standing(paths: Mapping[str, Any], rows: Tensor) -> tuple[list[list[int]], list[Turns]]:
    """What each of these paths has read so far, and where it stands."""
    width = paths["action"].shape[1]
    prompts, turns = [], []
    for row in rows.tolist():
        prompt = paths["ids"][row, :-width][paths["prompt_mask"][row, :-width]]
        prompts.append([*prompt.tolist(), *paths["action"][row, : int(paths["length"][row])].tolist()])
        calls = int(paths["calls"][row])
        turns.append(Turns(calls, calls, turn_tokens(paths, row), room=width - int(paths["length"][row])))
    return prompts, turns


def _append(found: Record, row: int, tokens: Mapping[str, Tensor]) -> None:
    """Puts tokens behind a path, as many as there is room for."""
    width, begin = found["action"].shape[1], int(found["length"][row])
    count = min(len(tokens["action"]), width - begin)
    place = slice(begin, begin + count)
    for name, value in tokens.items():
        found[name][row, place] = value[:count].to(found[name].dtype)
    found["ids"][row, found["ids"].shape[1] - width :][place] = tokens["action"][:count]
    found["length"][row] = begin + count


@primitive("call", policy="model", paths="record", tools="tools")
def call_tools(policy: Any, paths: Mapping[str, Any], tools: Any = CALCULATOR) -> Record:
    """Answers the call of every path that waits, and lets it go on; one that has no call left ends."""
    tool, width = made(tools), paths["action"].shape[1]
    found = {name: paths[name].clone() if name in BY_SAMPLE else value for name, value in paths.items()}
    for row in paths["waiting"].nonzero()[:, 0].tolist():
        found["waiting"][row] = False
        if int(paths["calls"][row]) >= int(paths["max_calls"]):
            found["active"][row] = False
            continue
        call = tool.call_in(policy.tokenizer.decode(turn_tokens(paths, row))) or ""
        answer = found["action"].new_tensor(policy.tokenizer.encode(tool.observation(call)))
        _append(found, row, {"action": answer})
        found["calls"][row] += 1
        found["active"][row] = int(found["length"][row]) < width
    return found


@primitive("call", paths="record", forks="int >= 0", starts="int >= 0")
def branch_paths(paths: Mapping[str, Any], forks: Any = 0, starts: Any = 0) -> Record:
    """The paths, behind them each again as often as `forks` [sample] says, and behind these new paths from the question, `starts` [prompt].

    A fork goes on by itself from where its path is: what both have said until then is in both rows.
    """
    import torch

    old, prompts = paths["group"], len(paths["prompt_id"])
    device = old.device
    again = torch.repeat_interleave(torch.arange(len(old), device=device), torch.as_tensor(forks, device=device).long().expand(len(old)))
    asked = torch.repeat_interleave(torch.arange(prompts, device=device), torch.as_tensor(starts, device=device).long().expand(prompts))
    models = torch.tensor([int((old == prompt).nonzero()[0]) for prompt in asked.tolist()], dtype=torch.int64, device=device)
    index = torch.cat([torch.arange(len(old), device=device), again, models])
    found = {name: value[index] if name in BY_SAMPLE else value for name, value in paths.items()}
    fork, fresh = slice(len(old), len(old) + len(again)), slice(len(old) + len(again), None)
    found["born"][fork] = found["calls"][fork]
    for name in WRITTEN:
        if name in found:
            found[name][fresh] = 0
    found["turn"][fresh] = int(paths["max_calls"]) + 1
    found["active"][fresh] = True
    number = torch.zeros(prompts, dtype=torch.int64, device=device).scatter_reduce_(0, old, paths["copy"] + 1, "amax")
    for row in range(len(old), len(index)):
        found["copy"][row] = number[found["group"][row]]
        number[found["group"][row]] += 1
    return found


@primitive("call", policy="model", tasks="data", paths="record", group="int >= 1")
def verify_paths(policy: Any, tasks: Tasks, paths: Mapping[str, Any], group: int | None = None) -> Record:
    """The paths as responses, their last turns verified: the record of `agent`, prompt by prompt.

    `group`: how many responses a prompt; of more paths the first are taken, of fewer the last one is repeated (and counted as often). None: all.
    """
    import torch

    owner, rows = paths["group"].tolist(), list[int]()
    for prompt in range(len(paths["prompt_id"])):
        own = [row for row, one in enumerate(owner) if one == prompt]
        rows += own if group is None else (own + own[-1:] * group)[:group]
    index = torch.tensor(rows, dtype=torch.int64, device=paths["group"].device)
    record = {name: value[index] if name in BY_SAMPLE else value for name, value in paths.items()}
    return verified(policy, tasks, record) | {"tokens_per_second": 0.0}


# ---- types


def path_fields(policy: ModelSpec, tasks: DataSpec, copies: Any = 1, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `open_paths`."""
    whole = agent_fields(policy, tasks, group=copies, **options)
    fields = {n: f for n, f in whole.items() if n not in ("reward", "correct", "text", "tokens_per_second")}
    sample = fields["length"].axes
    return fields | {
        "active": FieldSpec("bool", sample),
        "waiting": FieldSpec("bool", sample),
        "born": FieldSpec("int", sample),
        "max_calls": FieldSpec("int", ()),
    }


def same_fields(paths: Mapping[str, FieldSpec], **options: Any) -> Mapping[str, FieldSpec]:
    return dict(paths)


def branch_fields(paths: Mapping[str, FieldSpec], **options: Any) -> Mapping[str, FieldSpec]:
    """The same, of a number that is not known."""
    return opened(paths, ("sample",))


def verified_fields(paths: Mapping[str, FieldSpec], group: Any = None, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `agent`; with `group` its size is known where the number of prompts is."""
    prompts = paths["prompt_id"].axes[0][1]
    size = prompts * group if isinstance(prompts, int) and isinstance(group, int) else None

    def sized(spec: FieldSpec) -> FieldSpec:
        axes = tuple((name, size) if name == "sample" else (name, n) for name, n in spec.axes)
        return FieldSpec(spec.base, axes, spec.target, spec.padded)

    sample = (("sample", size),)
    found = {name: sized(spec) for name, spec in paths.items()}
    found |= {"reward": FieldSpec("real", sample), "correct": FieldSpec("bool", sample), "text": FieldSpec("text", sample)}
    return found | {"tokens_per_second": FieldSpec("real", ())}


RESULT_TYPES: Mapping[str, Callable[..., Mapping[str, FieldSpec]]] = {
    "open_paths": path_fields,
    "continue_paths": same_fields,
    "call_tools": same_fields,
    "branch_paths": branch_fields,
    "verify_paths": verified_fields,
}

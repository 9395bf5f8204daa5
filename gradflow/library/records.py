"""Rows of records: choosing samples or whole prompts, putting records behind one another, drawing the tasks of a tick.

A record is a dictionary of tensors, texts as lists. Its rows lie along `sample` and `prompt`; a prompt goes with all of its samples. `types`, which
the runtime gives, says for every field of every record its axes and the axis that an index map points into.

Axes: prompt (a task), sample (a response), token and place as in `rollouts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.text_tasks import Tasks

ROWS = ("sample", "prompt")
MOVERS = ("pick", "first", "rest", "join")  # give back the rows that went in, and compute nothing
Types = Mapping[str, Mapping[str, tuple[tuple[str, ...], str | None]]]
Record = dict[str, Any]


@primitive("call", record="record", mask="bool", over="sample | prompt")
def pick(record: Mapping[str, Any], mask: Any, over: str, types: Types) -> Record:
    """The rows of a record for which `mask` is true, in their order: what `samples[mask]` is. Prompts without samples stay prompts."""
    import torch

    own = types["record"]
    kept = torch.as_tensor(mask)
    if len(kept) != length(record, over, own):
        raise ValueError(f"a truth value for each of {length(record, over, own)} entries along `{over}` is needed, these are {len(kept)}")
    rows = {over: kept}
    group = next((name for name, (axes, target) in own.items() if over == "prompt" and axes == ("sample",) and target == "prompt"), None)
    if group is not None:
        rows["sample"] = kept[record[group]] if len(kept) else kept.new_zeros(len(record[group]))
    places = {axis: chosen.long().cumsum(0) - 1 for axis, chosen in rows.items()}
    found: Record = {}
    for name, (axes, target) in own.items():
        value = record[name]
        if axes and axes[0] in rows:
            chosen = rows[axes[0]]
            value = [one for one, here in zip(value, chosen.tolist(), strict=True) if here] if isinstance(value, list) else value[chosen]
        if target in rows and not isinstance(value, list) and target != "sample":
            value = places[target][value] if len(places[target]) else value
        found[name] = value
    return found


@primitive("call", record="record", count="int >= 0", over="sample | prompt")
def first(record: Mapping[str, Any], count: int, types: Types, over: str = "sample") -> Record:
    """The first `count` samples of a record, or prompts with all their samples; all of them where there are fewer."""
    return pick.function(record, _positions(record, over, types["record"]) < int(count), over, types)


@primitive("call", record="record", count="int >= 0", over="sample | prompt")
def rest(record: Mapping[str, Any], count: int, types: Types, over: str = "sample") -> Record:
    """What `first` leaves out."""
    return pick.function(record, _positions(record, over, types["record"]) >= int(count), over, types)


def _positions(record: Mapping[str, Any], over: str, own: Mapping[str, tuple[tuple[str, ...], str | None]]) -> Any:
    import torch

    return torch.arange(length(record, over, own))


def length(record: Mapping[str, Any], axis: str, own: Mapping[str, tuple[tuple[str, ...], str | None]]) -> int:
    """Entries of a record along one of its axes; where only index maps know it, one more than the largest index."""
    for name, (axes, _) in own.items():
        if axis in axes:
            value = record[name]
            return len(value) if isinstance(value, list) else int(value.shape[axes.index(axis)])
    pointing = [record[name] for name, (_, target) in own.items() if target == axis]
    return max((int(value.max()) + 1 for value in pointing if value.numel()), default=0)


@primitive("call", one="record", other="record")
def join(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None, types: Types) -> Record:
    """The rows of one record and behind them those of another; prompts are numbered on, shorter responses padded. `none` is the empty record.

    Fields without rows are those of the second. Raises ValueError where the two have not the same fields.
    """
    import torch

    if one is None or other is None:
        return dict(one or other or {})
    own = types["one"]
    _same_fields(own, types["other"])
    before = {axis: length(one, axis, own) for axis in ROWS}
    responses = [_responses(record, types[which]) for record, which in ((one, "one"), (other, "other"))]
    found: Record = {}
    for name, (axes, target) in own.items():
        a, b = one[name], other[name]
        if not axes or axes[0] not in ROWS:
            found[name] = b
        elif isinstance(a, list):
            found[name] = [*a, *b]
        else:
            b = b + before[target] if target in ROWS else b
            a, b = _as_wide(a, b, axes, responses)
            found[name] = torch.cat([a, b])
    return found


def _same_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    different = sorted(one.keys() ^ other.keys())
    if different:
        which, this = ("first", "second") if different[0] in one else ("second", "first")
        raise ValueError(f"the two records do not have the same fields: the {which} has `{different[0]}`, the {this} has not")


def _responses(record: Mapping[str, Any], own: Mapping[str, tuple[tuple[str, ...], str | None]]) -> int:
    return length(record, "token", own)


def _as_wide(a: Any, b: Any, axes: tuple[str, ...], responses: list[int]) -> tuple[Any, Any]:
    """Both padded to the same sizes: places of a prompt on the left, everything else on the right."""
    import torch

    both = [a, b]
    for dim, axis in enumerate(axes[1:], 1):
        if axis == "place":
            wide = max(x.shape[dim] - t for x, t in zip(both, responses, strict=True))
            long = max(responses)
            for i, (x, t) in enumerate(zip(both, responses, strict=True)):
                left = _blank(x, dim, wide - (x.shape[dim] - t))
                both[i] = torch.cat([left, x, _blank(x, dim, long - t)], dim=dim)
        else:
            wide = max(x.shape[dim] for x in both)
            both = [torch.cat([x, _blank(x, dim, wide - x.shape[dim])], dim=dim) for x in both]
    return both[0], both[1]


def _blank(x: Any, dim: int, size: int) -> Any:
    return x.new_zeros([*x.shape[:dim], size, *x.shape[dim + 1 :]])


@primitive("call", tasks="data", prompts="int >= 1")
def draw(tasks: Tasks, prompts: int | None = None, *, seed: int, tick: int, visit: int | None = None) -> Record:
    """Tasks of the tick, without replacement within an epoch: a record of their fields that stands wherever tasks can.

    `prompts`: how many (default: the data set's `batch`, else all). `row`: which rows of the data set, `id`: their numbers in it.
    """
    rows = tasks.of_tick(seed, tick if visit is None else visit, prompts).rows
    return {"row": rows, "id": tasks.ids[rows], **tasks.columns(rows)}


# ---- types


def draw_fields(tasks: DataSpec, prompts: Any = None, **options: Any) -> Mapping[str, FieldSpec]:
    """The fields of the data set, for the prompts of the tick."""
    split = tasks.fields[tasks.splits[0]]
    whole = split["question"].axes[0][1]
    size = prompts if isinstance(prompts, int) else None if prompts is not None else tasks.batch or whole
    axis = ("prompt", size)
    fields = {"row": FieldSpec("int", (axis,)), "id": FieldSpec("int", (axis,))}
    return fields | {n: FieldSpec(f.base, (axis, *f.axes[1:]), f.target) for n, f in split.items() if n != "id"}


def opened(fields: Mapping[str, FieldSpec] | None, names: tuple[str, ...] = ROWS) -> dict[str, FieldSpec]:
    """Fields whose number of rows is not known."""

    def size(axis: tuple[str, int | None]) -> tuple[str, int | None]:
        return (axis[0], None) if axis[0] in names else axis

    return {n: FieldSpec(f.base, tuple(map(size, f.axes)), size(f.target) if f.target else None, f.padded) for n, f in (fields or {}).items()}


def pick_fields(record: Mapping[str, FieldSpec] | None, mask: Any = None, over: str = "sample", **options: Any) -> Mapping[str, FieldSpec]:
    """The record's fields; whole prompts may leave fewer samples, samples leave the prompts."""
    return opened(record, ROWS if over == "prompt" else ("sample",))


def part_fields(record: Mapping[str, FieldSpec] | None, count: Any = None, over: str = "sample", **options: Any) -> Mapping[str, FieldSpec]:
    return pick_fields(record, over=over)


def join_fields(one: Mapping[str, FieldSpec] | None, other: Mapping[str, FieldSpec] | None, **options: Any) -> Mapping[str, FieldSpec]:
    """The fields of both; axes beside rows are as long as the longer of the two. Raises ValueError where they have not the same fields."""
    if one and other:
        _same_fields(one, other)
    known = opened(one or other or {})
    if not one or not other:
        return known

    def longer(name: str, i: int, axis: tuple[str, int | None]) -> tuple[str, int | None]:
        if axis[0] in ROWS or name not in other:
            return axis
        size = other[name].axes[i][1]
        return (axis[0], max(axis[1], size) if axis[1] is not None and size is not None else None)

    return {n: FieldSpec(f.base, tuple(longer(n, i, a) for i, a in enumerate(f.axes)), f.target, f.padded) for n, f in known.items()}


RESULT_TYPES: Mapping[str, Callable[..., Mapping[str, FieldSpec]]] = {
    "pick": pick_fields, "first": part_fields, "rest": part_fields, "join": join_fields, "draw": draw_fields,
}  # fmt: skip

"""Buffers: what has been seen, stored one entry behind the other up to a capacity, the oldest overwritten. Histories, trajectories, replay.

`store(x: [node, param], y: [node], capacity: n)` is a record of fields with one more axis, `entry`, of that many places, and of two numbers:
`total`, how many entries were ever stored, and `count`, how many are there now. As a state it is kept field by field. Entry number k lies in
place k modulo the capacity, so the axes of the graph are static; what lies in places that are not filled yet counts for nothing: `closest`
and `newest` say which entries are `here`.

Axes: entry (places of a buffer), near (entries chosen from it), and those that the fields declare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import BUILTINS, builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.suggestions import listed

ENTRY = "entry"
NUMBERED = ("total",)


@dataclass(frozen=True)
class Buffer(v.Record):
    """`axes`: of every field, with `entry`; `capacity`: how many entries there is place for."""

    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    capacity: int = 1

    @property
    def stored(self) -> list[str]:
        return [name for name in self.fields if name not in NUMBERED]


def with_entries(axes: tuple[Axis, ...], size: int) -> tuple[Axis, ...]:
    """`entry` behind the axis `node`, before all others."""
    lead = tuple(axis for axis in axes if axis.name == "node")
    return (*lead, Axis(ENTRY, size), *(axis for axis in axes if axis.name != "node"))


@builtin(
    "store(field: axes, capacity: n)", "Empty storage for entries of these fields, along the axis `entry`; the oldest give way.", "buffers", 0, 0
)
def store(a: Arguments) -> Any:
    a.needed("capacity")
    capacity = a.count("capacity")
    assert capacity is not None
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, arg in a.named.items():
        if name == "capacity":
            continue
        own = a.axis_list(arg) if not isinstance(arg.value, s.ListOf) or arg.value.items else ()
        if any(axis.name == ENTRY for axis in own) or name in NUMBERED:
            raise mistake(
                "E0313", arg.span, f"a buffer has {'an axis `entry`' if name not in NUMBERED else f'a field `{name}`'} of its own",
                why="entries are stored along `entry`, and `total` counts them", fix="choose another name",
            )  # fmt: skip
        axes[name] = with_entries(own, capacity)
    if not axes:
        raise mistake(
            "E0401", a.call.span, "a buffer needs at least one field", why=f"it is `{a.function.signature}`",
            fix="say what an entry holds: `store(x: [param], y: [], capacity: 100)`",
        )  # fmt: skip
    return Buffer({**dict.fromkeys(axes, 0.0), "total": 0.0}, "buffer", axes={**axes, "total": ()}, capacity=capacity)


def stored(a: Arguments) -> Buffer:
    fix = "declare one: `state seen = store(x: [param], y: [], capacity: 100)`"
    return a.of_kind(0, Buffer, "a buffer", "entries are kept in a buffer", fix)


@builtin(
    "append(seen, field: value, where: condition)",
    "The buffer with more entries: values have a field's axes, and where there are several, one more; of these, those for which the condition holds.",
    "buffers",
)
def append(a: Arguments) -> Any:
    seen, ops = stored(a), a.e.ops
    given = {name: a.e.ops.constant(a.e.tensor(a.e.evaluate(arg.value, a.scope), arg.value)) for name, arg in a.named.items() if name != "where"}
    if set(given) != set(seen.stored):
        raise mistake(
            "E0401", a.call.span, f"an entry of this buffer holds {listed(seen.stored)}", why=f"{listed(given) or 'nothing'} is given",
            fix="give each field, by name",
        )  # fmt: skip
    axis, count = along(a, seen, given)
    if count == 0:
        return seen
    condition = a.condition()
    if isinstance(condition, Node) and set(condition.type.names) - {axis}:
        raise mistake(
            "E0308", a.named["where"].value.span, f"all nodes store the same number of entries, this is {v.kind_name(condition)}",
            why="whether an entry is stored may differ by entry alone", fix="reduce the condition: `where: all(keep, over: node)`",
        )  # fmt: skip
    added: Any = count
    kept: Node | None = None  # the entries for which the condition holds, in order, before the others
    if isinstance(condition, Node) and condition.type.has(axis):
        ones = ops.constant(ops.where(condition, 1, 0))
        added, kept = ops.reduce("sum", ones, [axis]), ops.top(ones, count, axis, "kept")
    elif condition is not None:
        added = ops.where(condition, count, 0)
    total = ops.elementwise("round", seen.fields["total"])
    places = ops.range(Axis(ENTRY, seen.capacity))
    age = ops.constant(ops.elementwise("mod", ops.elementwise("sub", places, total), seen.capacity))  # which of the new ones goes here
    turn = ops.constant(ops.elementwise("minimum", age, count - 1))
    new: dict[str, Any] = {"total": ops.elementwise("add", seen.fields["total"], added)}
    for name, node in given.items():
        value: Any = node
        if node.type.has(axis):
            value = ops.gather(node, turn if kept is None else ops.gather(kept, turn, "kept"), axis)
        value = ops.where(ops.elementwise("lt", age, added), value, ops.expand(seen.fields[name], seen.axes[name]))
        new[name] = ops.expand(value, seen.axes[name])
    return replace(seen, fields={name: new[name] for name in seen.fields})


def along(a: Arguments, seen: Buffer, given: Mapping[str, Node]) -> tuple[str, int]:
    """The axis of the given values that is stored entry by entry ("" for a single entry), and how many entries there are at most."""
    found: tuple[Axis, ...] = ()
    for name, node in given.items():
        own = {axis.name for axis in seen.axes[name]} - {ENTRY}
        found = union(found, tuple(axis for axis in node.type.axes if axis.name not in own))
    if len(found) > 1:
        raise mistake(
            "E0308", a.call.span, f"entries are stored along one axis, not along {listed(axis.name for axis in found)}",
            why="what a field does not declare is the axis of the entries",
            fix="store them one after the other, or declare the axis: `store(x: [..])`",
        )  # fmt: skip
    count = found[0].size if found else 1
    if count is None or count > seen.capacity:
        raise mistake(
            "E0402", a.call.span, f"{'this many' if count is None else count} entries at once do not go into a buffer of {seen.capacity}",
            why="the capacity is what it keeps at most", fix="give it a larger `capacity:`",
        )  # fmt: skip
    return (found[0].name if found else ""), count


def chosen(a: Arguments, seen: Buffer, order: Node, count: int) -> v.Record:
    """The first entries by a key over [.., entry] that is -inf where there is none; `here` says which of them there are. Oldest first where equal."""
    ops, count = a.e.ops, min(count, seen.capacity)
    places = ops.range(Axis(ENTRY, seen.capacity))
    total = ops.elementwise("round", seen.fields["total"])
    full = ops.where(ops.elementwise("gt", total, seen.capacity), total, 0)
    stored_at = ops.constant(ops.elementwise("mod", ops.elementwise("add", places, full), seen.capacity))  # the place of the k-th oldest
    index = ops.gather(stored_at, ops.top(ops.gather(order, stored_at, ENTRY), count, ENTRY, "near"), ENTRY)
    fields: dict[str, Any] = {}
    for name in seen.stored:
        taken = ops.gather(ops.expand(seen.fields[name], seen.axes[name]), index, ENTRY)
        fields[name] = ops.rename(taken, {"near": ENTRY})
    return v.Record({**fields, "here": ops.elementwise("lt", ops.range(Axis(ENTRY, count)), seen.fields["total"])}, "entries")


def filled(a: Arguments, seen: Buffer) -> Any:
    return a.e.ops.elementwise("lt", a.e.ops.range(Axis(ENTRY, seen.capacity)), seen.fields["total"])


@builtin(
    "closest(seen, to: point, count: n, by: field)",
    "The n entries whose first field (or `by:`) lies nearest, nearest first, and which of them are `here`; of equal ones the first stored.",
    "buffers",
)
def closest(a: Arguments) -> Any:
    seen, ops = stored(a), a.e.ops
    count = a.count("count") or seen.capacity
    name = axis_names(a.named["by"].value)[0] if a.has("by") else seen.stored[0]
    if name not in seen.stored:
        raise mistake(
            "E0202", a.named["by"].span, f"this buffer has no field `{name}`", why=f"it has {listed(seen.stored)}", fix="name one of its fields",
        )  # fmt: skip
    a.needed("to")
    kept = ops.expand(seen.fields[name], seen.axes[name])
    gap = ops.elementwise("sub", kept, a.quantity("to"))
    over = [axis.name for axis in seen.axes[name] if axis.name not in ("node", ENTRY)]
    distance = ops.reduce("sum", ops.elementwise("mul", gap, gap), over)
    return chosen(a, seen, ops.constant(ops.where(filled(a, seen), ops.elementwise("neg", distance), -math.inf)), count)


@builtin("newest(seen, count: n)", "The n entries stored last, the last first, and which of them are `here`.", "buffers")
def newest(a: Arguments) -> Any:
    seen, ops = stored(a), a.e.ops
    last = ops.elementwise("sub", ops.elementwise("round", seen.fields["total"]), 1)
    age = ops.elementwise("mod", ops.elementwise("sub", last, ops.range(Axis(ENTRY, seen.capacity))), seen.capacity)
    order = ops.where(filled(a, seen), ops.elementwise("neg", age), -math.inf)
    return chosen(a, seen, ops.constant(order), a.count("count") or seen.capacity)


for _name in ("store", "append"):
    BUILTINS[_name] = replace(BUILTINS[_name], names=("*",))  # fields have any names

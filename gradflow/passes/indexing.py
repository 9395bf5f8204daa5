"""Indexing: `x[rows]` through an index map, `x[slot: 0]`, `x[row: 1 .. 4]`, `f[i]` of a static tuple, `data[condition]`."""

from __future__ import annotations

import math
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import NUMBERS, Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, listed, suggestion
from gradflow.procedures.acting import rows_where


def index_value(e: Elaborator, node: s.Index, scope: Scope) -> Any:
    value = e.evaluate(node.value, scope)
    if isinstance(value, tuple | list):
        return _of_tuple(e, node, scope, value)
    if isinstance(value, v.Record) and value.value is None:
        return rows_where(e, value, node, scope)
    for arg in node.args:
        value = _one(e, e.tensor(value, node.value), arg, scope)
    return value


def _of_tuple(e: Elaborator, node: s.Index, scope: Scope, value: Any) -> Any:
    place = e.evaluate(node.args[0].value, scope)
    if not isinstance(place, int) or isinstance(place, bool) or not -len(value) <= place < len(value):
        raise mistake(
            "E0307", node.args[0].span, f"a whole number from 0 to {len(value) - 1} is needed",
            why=f"a tuple is indexed by place, and this one has {len(value)}",
            fix="count from 0; -1 is the last",
        )  # fmt: skip
    return value[place]


def _one(e: Elaborator, value: Any, arg: s.Arg, scope: Scope) -> Any:
    if not isinstance(value, Node):
        raise mistake(
            "E0307", arg.span, "a number has no axes to index", why=f"this is {v.kind_name(value)}", fix="use the number itself, without `[..]`",
        )  # fmt: skip
    if isinstance(arg.value, s.Slice):
        return _cut(e, value, arg, arg.value, scope)
    index = e.tensor(e.evaluate(arg.value, scope), arg.value)
    axis = arg.name or (index.type.target.name if isinstance(index, Node) and index.type.target is not None else None)
    if axis is None and len(value.type.axes) == 1:
        axis = value.type.axes[0].name
    if axis is None:
        axes = value.type.names
        raise mistake(
            "E0308", arg.span, "which axis is indexed here?",
            why=f"the value has the axes {listed(axes)}, and the index does not say which it points into",
            fix=f"name it: `x[{axes[-1]}: i]`" if axes else "a value without axes has nothing to index",
        )  # fmt: skip
    if not value.type.has(axis):
        if isinstance(index, Node) and index.type.target is not None and index.type.target.name == axis:
            return value
        place = head(arg.span, axis) if arg.name else arg.span
        hint = suggestion(place, axis, value.type.names, "index an axis that it has") if arg.name else {"fix": "index an axis that it has"}
        raise mistake("E0303", place, f"{v.kind_name(value)} has no axis `{axis}`", why=f"its axes are {listed(value.type.names) or 'none'}", **hint)
    return select(e, value, axis, index, arg)


def select(e: Elaborator, value: Node, axis: str, index: Any, where: s.Node) -> Node:
    """value[axis: index] for a number, an int node or an index map."""
    if isinstance(index, NUMBERS):
        size = value.type.axis(axis).size
        if isinstance(index, bool) or index != index or index in (math.inf, -math.inf) or index != int(index):
            raise mistake(
                "E0310", where.span, f"an index is needed here, this is {v.kind_name(index)}",
                why="entries are taken by whole numbers, or through an index map",
                fix="to select by a condition, use `where: ..` in the reduction",
            )  # fmt: skip
        place = int(index)
        if size is not None and not -size <= place < size:
            raise mistake(
                "E0309", where.span, f"index {place} is outside of axis `{axis}` of size {size}",
                why=f"entries are counted from 0 to {size - 1}; -1 is the last",
                fix="use an index in this range",
            )  # fmt: skip
        if place < 0 and size is not None:
            place += size
        index = e.ops.make("const", (), Type("int", (), Axis(axis, size)), value=place)
    if index.type.base != "int":
        raise mistake(
            "E0310", where.span, f"an index is needed here, this is {v.kind_name(index)}", why="entries are taken by number, or through an index map",
            fix="to select by a condition, use `where: ..` in the reduction",
        )  # fmt: skip
    return e.ops.gather(value, index, axis)


def _cut(e: Elaborator, value: Node, arg: s.Arg, cut: s.Slice, scope: Scope) -> Node:
    if arg.name is None or not value.type.has(arg.name):
        names = value.type.names
        raise mistake(
            "E0308", arg.span, "which axis is cut here?", why=f"the value has the axes {listed(names) or 'none'}",
            fix=f"name it: `x[{names[-1] if names else 'row'}: 0 .. 4]`",
        )  # fmt: skip
    bounds = [e.evaluate(part, scope) if part is not None else None for part in (cut.start, cut.stop)]
    if any(b is not None and not isinstance(b, int) for b in bounds):
        raise mistake(
            "E0311", arg.span, "the bounds of a range must be whole numbers that are known when the spec is compiled",
            why="they give the result its size",
            fix="give numbers or `int` parameters; to hide a changing part, use `where(position(axis) < n, x, 0)`",
        )  # fmt: skip
    return e.ops.slice(value, arg.name, bounds[0] or 0, bounds[1])

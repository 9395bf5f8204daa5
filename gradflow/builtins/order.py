"""Built-ins that ask where entries stand: running sums, largest entries, sorting."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.reductions import index_map, one_axis
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import union
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names


@builtin("argmax(x, over: axis)", "An index map to the largest entry, the first of equal ones.", "order")
def argmax(a: Arguments) -> Any:
    x = a.node(0)
    return a.e.ops.arg_reduce("argmax", x, one_axis(a, x))


@builtin("argmin(x, over: axis)", "An index map to the smallest entry, the first of equal ones.", "order")
def argmin(a: Arguments) -> Any:
    x = a.node(0)
    return a.e.ops.arg_reduce("argmin", x, one_axis(a, x))


@builtin("cumsum(x, over: axis)", "Running sum along an axis, each entry included.", "order")
def cumsum(a: Arguments) -> Any:
    x = a.node(0)
    return a.e.ops.scan_sum(x, one_axis(a, x))


@builtin("last(x, over: axis)", "True at the last true entry along the axis.", "order")
def last(a: Arguments) -> Any:
    x = a.node(0)
    axis = one_axis(a, x)
    e = a.e
    ones = e.ops.where(x, 1, 0)
    seen = e.ops.scan_sum(e.ops.constant(ones), axis)
    return e.ops.elementwise("and", x, e.ops.elementwise("eq", seen, e.ops.reduce("sum", ones, [axis])))


@builtin("sort(x, over: axis, descending: bool)", "The entries in order along an axis; indices in ascending order.", "order")
def sort(a: Arguments) -> Any:
    x = a.node(0)
    axis = one_axis(a, x) if a.has("over") or len(x.type.axes) != 1 else x.type.axes[0].name
    return a.e.ops.sort(x, axis, bool(a.number("descending", False)))


@builtin(
    "rank(x, over: axes, by: map, descending: bool)",
    "The place of each entry in the sorted order, 0 first, of all or of its group; equal entries keep their order.",
    "order",
)
def rank(a: Arguments) -> Any:
    x, descending = a.node(0), bool(a.number("descending", False))
    if a.has("by"):
        return rank_by(a, x, descending)
    over = tuple(n for n in x.type.names if n in a.over(x))
    return a.e.ops.rank(x, over, descending)


def rank_by(a: Arguments, x: Node, descending: bool) -> Any:
    """Ordered by value and then, keeping that order, by group: what stands before in all, less the members of the groups before."""
    ops, index = a.e.ops, index_map(a)
    over = index.type.names
    x = ops.expand(x, union(x.type.axes, index.type.axes))
    target = index.type.target
    assert target is not None
    size = ops.segment("sum", 1, index, over)
    before = ops.elementwise("sub", ops.scan_sum(size, target.name), size)
    total = ops.constant(ops.reduce("sum", size, [target.name]))
    key = ops.elementwise("add", ops.elementwise("mul", index, total), ops.rank(x, over, descending))
    return ops.elementwise("sub", ops.rank(ops.constant(key), over, False), ops.gather(ops.constant(before), index, target.name))


@builtin(
    "top(x, count, over: axis, named: axis)", "An index map to the `count` largest entries, largest first; of equal ones the first.", "order", 2, 2
)
def top(a: Arguments) -> Any:
    x = a.node(0)
    number = a.raw(1)
    if not isinstance(number, int):
        raise mistake(
            "E0311", a.places[1].span, "how many must be a whole number that is known when the spec is compiled",
            why=f"this is {v.kind_name(number)}",
            fix="give a number or an `int` parameter; to keep a share of a changing number, compare `rank(..)` with it",
        )  # fmt: skip
    axis = one_axis(a, x)
    named = axis_names(a.named["named"].value)[0] if a.has("named") else f"top_{axis}"
    return a.e.ops.top(x, number, axis, named)

"""Built-ins that share a whole amount out over entries: what a budget is cut into."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.reductions import counted
from gradflow.builtins.table import builtin


@builtin(
    "evenly(amount, axes, where: condition)",
    "A whole amount shared out over the entries of the axes for which the condition holds, as equally as it goes: the first of them get one more.",
    "order",
    2,
    2,
)
def evenly(a: Arguments) -> Any:
    ops, amount, inside = a.e.ops, a.tensor(0), a.condition()
    axes = a.axis_list(a.places[1])
    if inside is False:
        return 0
    for axis in axes:  # a condition that lacks an axis holds for all of it
        inside = ops.elementwise("and", True if inside is None else inside, ops.elementwise("ge", ops.range(axis, a.scope.holder(axis.name)), 0))
    amount, inside = a.aligned(amount, inside)
    inside = ops.expand(inside, (*inside.type.without(axis.name for axis in axes), *axes))  # so that the first axis is the slowest
    names = tuple(axis.name for axis in axes)
    among = counted(a, inside, inside, names)
    each = ops.elementwise("floor", ops.elementwise("div", amount, ops.elementwise("maximum", among, 1)))
    rest = ops.elementwise("sub", amount, ops.elementwise("mul", each, among))
    place = ops.rank(inside, names, descending=True)  # those inside come first, in order
    more = ops.where(ops.elementwise("lt", place, rest), 1, 0)
    return ops.where(inside, ops.elementwise("add", each, more), 0)

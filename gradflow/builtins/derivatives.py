"""Built-ins about derivatives: `gradient`, `jacobian`, and `black_box`, a value that may be asked for and whose derivative may not.

What seals a black box is known to the elaborator alone: a run pays nothing for it.
"""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node, ordered
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import Label, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator


@builtin("gradient(value, of: x)", "The derivative of a value (summed over its axes) with respect to x.", "derivatives")
def gradient_of(a: Arguments) -> Any:
    value, of = a.tensor(0), a.e.tensor(a.option("of"), a.call)
    if not isinstance(of, Node):
        raise mistake(
            "E0406", a.call.span, f"`gradient` needs a value that varies, {'this is ' + v.kind_name(of) if a.has('of') else 'none is given'}",
            why="it is the derivative with respect to `of:`", fix="`gradient(value, of: x)`",
        )  # fmt: skip
    if not isinstance(value, Node):
        return a.e.ops.expand(0.0, of.type.axes)
    return derivative(a.e, value, of, a.call.span)


def derivative(e: Elaborator, value: Node, of: Node, span: Span) -> Node:
    """The derivative of a value, summed over its axes; what has none is a mistake of whoever asked, at `span`."""
    from gradflow.passes.differentiate import NotDifferentiable, gradient

    check_open(e, value, of, span)
    try:
        return gradient(e.ops, value, [of])[0]
    except NotDifferentiable as error:
        raise mistake(
            "E0527", span, f"the derivative of this runs through {error.what}, which has none here",
            secondary=(Label(error.span, "this has no derivative"),),
            why="every operation between a loss and its parameters must have a derivative",
            fix="hold it constant with `stop(..)`, or write it another way",
        ) from None  # fmt: skip


@builtin("jacobian(f, of: x)", "The derivative of every entry of f(x), with respect to x; axes that both have are matched by name.", "derivatives")
def jacobian(a: Arguments) -> Any:
    """Every entry gets an x of its own, along new axes beside those of the result; the gradient of the diagonal is the Jacobian."""
    from gradflow.passes.calls import call_values

    e, ops = a.e, a.e.ops
    why, fix = "it is evaluated beside x, once for each entry", "`jacobian(x => .., of: x)`; of a value, `gradient` is the derivative of its sum"
    f = a.of_kind(0, v.Function | v.LambdaValue, "a function", why, fix)
    a.needed("of")
    x = ops.constant(a.quantity("of"))
    here = ops.constant(e.tensor(call_values(e, f, a.call.span, x)))
    new = [axis for axis in here.type.axes if not x.type.has(axis.name)]
    beside = {axis.name: Axis("of " + axis.name, axis.size) for axis in new}
    wide = ops.make("expand", (x,), Type("real", (*beside.values(), *x.type.axes)))
    picked: Any = ops.constant(e.tensor(call_values(e, f, a.call.span, wide)))
    for axis in new:
        same = ops.elementwise("eq", ops.range(axis, here), ops.range(beside[axis.name], wide))
        picked = ops.where(same, picked, 0.0)
    return ops.rename(derivative(e, ops.constant(picked), wide, a.call.span), {axis.name: name for name, axis in beside.items()})


@builtin("black_box(value)", "The same value, of which no derivative may be taken: only values can be asked for.", "derivatives")
def black_box(a: Arguments) -> Any:
    value = a.node(0)
    sealed = a.e.ops.make("expand", (value,), value.type)  # a value of its own: the one inside stays as open as it was
    a.e.sealed.add(sealed.id)
    return sealed


def check_open(e: Elaborator, value: Node, of: Node, span: Span) -> None:
    """Raises Mistake where the derivative of `value` with respect to `of` runs through a black box."""
    from gradflow.passes.differentiate import active_nodes

    if not e.sealed:
        return
    active = active_nodes([value], [of])
    box = next((node for node in ordered([value]) if node.id in active and node.id in e.sealed), None)
    if box is not None:
        raise mistake(
            "E0535", span, "the derivative of a black box is asked for", secondary=(Label(box.span, "only the value of this may be asked for"),),
            why="`black_box` says that there is no derivative to be had",
            fix="estimate it from values, `loss -> finite_differences() -> ..` or `loss -> spsa() -> ..`, or take `black_box` away",
        )  # fmt: skip

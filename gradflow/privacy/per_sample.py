"""Gradients record by record: what each entry of an axis (`sample`, say) contributes to the gradient of a loss.

A loss is a mean (or another weighted sum) over records of terms that each see one record, plus terms that see none. Its gradient for one
record is that of the record's own loss: its term, with weight 1 in a mean, and every term without records once. So their mean over the
records is the gradient. They come from a copy of the parameter for every record: the graph below the terms is built again with the axis on
the parameter, and then differentiated as ever. What looks across records (a batch norm) has no such gradient.

Axes: `axis` is that of the records; lifted axes (`node`) stand before it, `param` or a leaf's own axes behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gradflow.graph.graph import Node, depends, ordered
from gradflow.graph.operations import ELEMENTWISE, REDUCTIONS, Operations, Value
from gradflow.graph.types import Axis, Type
from gradflow.passes.differentiate import gradient


class NotPerSample(Exception):
    """The loss does not fall apart into records; `node` is where it does not."""

    def __init__(self, node: Node, why: str):
        super().__init__(why)
        self.node, self.why = node, why


@dataclass(frozen=True)
class Term:
    """A part of a loss: `value` times `factors` through `divisors`; `records`: it was summed over the records, else it sees none of them."""

    value: Node
    records: bool
    factors: tuple[Node, ...] = ()
    divisors: tuple[Node, ...] = ()
    sign: int = 1


def per_sample(ops: Operations, loss: Node, point: Node, axis: str) -> tuple[Node, Any]:
    """(gradients [lifted.., axis, param], which records there are: a bool with the axis, or True). Raises NotPerSample, NotDifferentiable."""
    active = depends([loss], lambda node: node is point)
    mixing = depends([loss], lambda node: node.id in active and _reduces(node, axis) and _operand(node, active))
    terms = list(_terms(loss, Term(loss, False), active, mixing, axis))
    summed = [term for term in terms if term.records]
    if not summed:
        raise NotPerSample(loss, f"it is no mean over `{axis}`")
    lifted = {one.name for one in point.type.without(["param"])}
    masks = [_mask(term.value, active, lifted | {axis}, axis) for term in summed]
    if any(mask is not masks[0] for mask in masks):
        raise NotPerSample(summed[-1].value, f"its terms cover different entries of `{axis}`")
    extent = next(one for term in summed for below in term.value.inputs for one in below.type.axes if one.name == axis)
    whole: Value = 0.0
    for term in terms:
        weighed = _weighed(ops, term, masks[0], axis)
        extra = [name for name in weighed.type.names if name not in lifted and name != axis]
        whole = ops.elementwise("add", whole, ops.reduce("sum", weighed, extra))
    copies = ops.make("expand", (point,), Type("real", (*point.type.without(["param"]), extent, point.type.axis("param"))))
    root = lifted_over(ops, ops.constant(whole), point, copies, axis)
    return gradient(ops, root, [copies])[0], True if masks[0] is None else masks[0]


def _reduces(node: Node, axis: str) -> bool:
    over = node.get("over", ())
    return any(below.type.has(axis) for below in node.inputs) and (axis in over if isinstance(over, tuple) else over == axis)


def _operand(node: Node, active: set[int]) -> bool:
    return any(below.id in active for below in node.inputs)


# ---- the terms of a loss


def _terms(node: Node, term: Term, active: set[int], mixing: set[int], axis: str) -> Iterator[Term]:
    """The parts of a node that is reached with the factors and divisors of `term`."""
    again = (active, mixing, axis)
    if node.id not in mixing:
        yield replace(term, value=node)
    elif _reduces(node, axis) and node.op in ("sum", "dot"):
        if any(below.id in mixing for below in node.inputs):
            raise NotPerSample(node, f"it reduces `{axis}` twice")
        yield replace(term, value=node, records=True)
    elif node.op in ("add", "sub", "neg"):
        for place, below in enumerate(node.inputs):
            sign = node.op == "neg" or (node.op == "sub" and place == 1)
            for part in _terms(below, term, *again):
                yield replace(part, sign=-part.sign) if sign else part
    elif node.op in ("mul", "div") and (node.op == "div" or sum(below.id in active for below in node.inputs) == 1):
        first, second = node.inputs if node.inputs[0].id in active else node.inputs[::-1]
        if second.id in active:
            raise NotPerSample(node, "it divides by something that is trained")
        divided = replace(term, divisors=(*term.divisors, second)) if node.op == "div" else replace(term, factors=(*term.factors, second))
        yield from _terms(first, divided, *again)
    elif node.op in ("sum", "expand"):
        yield from _terms(node.inputs[0], term, *again)
    else:
        raise NotPerSample(node, f"`{node.op}` is taken of something that was reduced over `{axis}`")


def _mask(node: Node, active: set[int], wanted: set[str], axis: str) -> Node | None:
    """The condition on records under which a summed term counts: the `where:` of the mean."""
    inner = node.inputs[0]
    fits = node.op == "sum" and inner.op == "where" and inner.inputs[2].op == "const" and inner.inputs[2]["value"] == 0
    if not fits or inner.inputs[0].id in active or not inner.inputs[0].type.has(axis) or not set(inner.inputs[0].type.names) <= wanted:
        return None
    return inner.inputs[0]


def _weighed(ops: Operations, term: Term, mask: Node | None, axis: str) -> Node:
    """The term for one record each: what it sums, times the number of records, so that a mean over them weighs each by 1."""
    value: Value = term.value
    divisors = list(term.divisors)
    if term.records:
        inner = term.value.inputs
        value = inner[0] if term.value.op == "sum" else ops.elementwise("mul", *inner)  # what a `dot` sums is a product
        number: Value = ops.axis_size(axis, *inner)
        floor = number
        if mask is not None:
            number = ops.reduce("sum", ops.where(mask, 1, 0), [axis])
            floor = ops.elementwise("maximum", number, 1)
        known = next((one for one in divisors if _same(one, number) or _same(one, floor)), None)
        if known is not None:
            divisors.remove(known)
        else:
            value = ops.elementwise("mul", value, floor)
    for factor in term.factors:
        value = ops.elementwise("mul", value, factor)
    for divisor in divisors:
        value = ops.elementwise("div", value, divisor)
    return ops.constant(value if term.sign > 0 else ops.elementwise("neg", value))


def _same(node: Node, value: Value) -> bool:
    return node is value if isinstance(value, Node) else node.op == "const" and node["value"] == value


# ---- the same graph with one more axis


def lifted_over(ops: Operations, root: Node, point: Node, copies: Node, axis: str) -> Node:
    """The root with `copies` [.., axis, param] in the place of `point`, everything above it typed anew. Raises NotPerSample."""
    extent = copies.type.axis(axis)
    new: dict[int, Node] = {point.id: copies}
    span = ops.span
    for node in ordered([root]):
        if node.id in new:
            continue
        inputs = tuple(new.get(below.id, below) for below in node.inputs)
        if inputs != node.inputs:
            ops.span = node.span
            new[node.id] = _again(ops, node, inputs, extent)
    ops.span = span
    return new.get(root.id, root)


def _again(ops: Operations, node: Node, inputs: tuple[Node, ...], extent: Axis) -> Node:
    op, axis = node.op, extent.name
    if _reduces(node, axis) or node.get("axis") == axis or node.get("over") == axis:
        raise NotPerSample(node, f"`{op}` looks across `{axis}`")
    if op in ELEMENTWISE:
        return ops.constant(ops.elementwise(op, *inputs))
    if op in REDUCTIONS:
        return ops.constant(ops.reduce(op, inputs[0], node["over"]))
    if op == "where":
        return ops.constant(ops.where(*inputs))
    if op == "dot":
        return ops.dot(inputs[0], inputs[1], node["over"])
    if op == "gather":
        return ops.gather(inputs[0], inputs[1], node["axis"])
    lifted = inputs[0].type.without(["param"])
    if op == "leaf":
        own = node.type.without(one.name for one in node.inputs[0].type.without(["param"]))
        return ops.make(op, inputs, Type("real", (*lifted, *own)), offset=node["offset"])
    if op == "model":
        rest = node.type.without(one.name for one in lifted)
        return ops.make(op, inputs, Type("real", (*lifted, *rest)), **dict(node.attrs))
    axes = node.type.axes if node.type.has(axis) else (extent, *node.type.axes)
    if op == "choose":
        return ops.constant(ops.where(*inputs) if inputs[0].type.axes else ops.choose(*inputs))
    if op in ("expand", "cumsum", "sort"):
        return ops.make(op, inputs, replace(node.type, axes=axes), **dict(node.attrs))
    if op == "slice":
        return ops.slice(inputs[0], node["axis"], node["start"], node["stop"])
    if op == "rename":
        names = dict(zip(node.inputs[0].type.names, node.type.names, strict=True))
        return ops.rename(inputs[0], names)
    if op == "stack":
        return ops.stack(inputs, node["axis"])
    if op == "concat":
        return ops.concat(inputs, node["axis"])
    if op == "pack":
        own_axes = [below.type.without(one.name for one in node.type.without(["param"])) for below in node.inputs]
        return ops.pack(inputs, own_axes)
    raise NotPerSample(node, f"`{op}` cannot be taken record by record yet")

"""The derivative of each operation: one table, `RULES`, op -> one function an input, (tools, node, g) -> what g sends to that input.

g is the cotangent of the node: a number or a node whose axes are some of the node's; it is constant along those that it lacks. What a rule
returns may lack axes of the input in the same sense, and for elementwise operations may have all axes of the node (`differentiate.py` sums
over those that the input lacks). Operations that need more than their own cotangent (loops, models, leaves) are in `differentiate.py`;
those that are in no table have derivative zero.

Choices at kinks: the smaller or larger of two equal values shares g half and half, an extreme over an axis evenly among equal entries,
abs has 0 at 0. A power of 0 has derivative 0 with respect to its exponent. The second derivative of a product over an axis that holds a 0
is not exact.

Axes: names are free; `over` are those that an operation reduces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.operations import Operations, Value
from gradflow.graph.types import Axis, Type


@dataclass(frozen=True)
class Tools:
    """Short names for the arithmetic of rules, and what axes need that have no size yet."""

    ops: Operations

    def do(self, op: str, *values: Value) -> Value:
        return self.ops.elementwise(op, *values)

    def add(self, a: Value, b: Value) -> Value:
        return self.do("add", a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.do("sub", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.do("mul", a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.do("div", a, b)

    def neg(self, a: Value) -> Value:
        return self.do("neg", a)

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        return self.ops.where(condition, a, b)

    def full(self, value: Value, like: Node | Sequence[Node], axes: tuple[Axis, ...] | None = None) -> Node:
        """The value with exactly these axes (those of `like` unless given); `like` measures those whose size is not known yet."""
        holders = [like] if isinstance(like, Node) else like
        axes = holders[0].type.axes if axes is None else axes
        node = self.ops.constant(value)
        for axis in axes:
            if axis.size is None and not node.type.has(axis.name):
                holder = next(holder for holder in holders if holder.type.has(axis.name))
                along = self.do("ge", self.ops.range(axis, holder), 0)
                node = self.ops.constant(self.where(along, node, node))
        return self.ops.expand(node, axes)

    def zeros(self, like: Node) -> Node:
        return self.full(0.0, like)

    def quiet(self, g: Value, value: Value) -> Value:
        """The value, or 0 where g is 0 and the value is not finite: what is not selected sends nothing back, not even 0 * inf."""
        if not isinstance(value, Node) or not isinstance(g, Node):
            return value
        kept = self.do("or", self.do("ne", g, 0), self.do("isfinite", value))
        return self.where(kept, value, 0.0)

    def scatter(self, g: Value, index: Node, axis: str, like: Node, given: Node, wraps: bool = True) -> Node:
        """The transpose of `like[axis: index]`, the node `given`; where the axis has no size yet, by group sums that are then padded.

        `wraps`: the index may be negative, counted from the end.
        """
        full = self.full(g, given)
        if like.type.axis(axis).size is not None:
            return self.ops.scatter_add(full, index, like.type.axis(axis), like.type.axes)
        if wraps:
            index = self.ops.constant(self.where(self.do("lt", index, 0), self.add(index, self.ops.axis_size(axis, like)), index))
        places = self.ops.range(Axis(axis), like)
        own = tuple(a.name for a in index.type.axes if a.name == axis or not like.type.has(a.name))
        if not own:
            return self.ops.constant(self.where(self.do("eq", places, index), full, 0.0))
        renamed = {axis: "from " + axis} if axis in own else {}
        full, index = self.ops.rename(full, renamed), self.ops.rename(index, renamed)
        index = self.ops.make("rename", (index,), Type("int", index.type.axes, Axis(axis)))
        sums = self.ops.segment("sum", full, index, [renamed.get(name, name) for name in own])
        count = self.ops.axis_size(axis, sums)
        inside = self.do("lt", places, count)
        read = self.ops.constant(self.do("minimum", places, self.do("sub", count, 1)))
        return self.ops.constant(self.where(inside, self.ops.gather(sums, read, axis), 0.0))


Rule = Callable[[Tools, Node, Value], Value]


def number(node: Node) -> Any:
    """The value of a constant, None for anything else."""
    return node["value"] if node.op == "const" else None


# ---- elementwise


def power_base(t: Tools, node: Node, g: Value) -> Value:
    a, b = node.inputs
    known = number(b)
    if known == 2:
        return t.mul(g, t.mul(2.0, a))
    if known is not None:
        return t.mul(g, t.mul(float(known), t.do("pow", a, float(known) - 1.0))) if known else 0.0
    return t.where(t.do("eq", b, 0), 0.0, t.mul(g, t.mul(b, t.do("pow", a, t.sub(b, 1.0)))))


def power_exponent(t: Tools, node: Node, g: Value) -> Value:
    a, b = node.inputs
    flat = t.do("and", t.do("eq", a, 0), t.do("ge", b, 0))
    return t.where(flat, 0.0, t.mul(g, t.mul(node, t.do("log", a))))


def extreme(closer: str, place: int) -> Rule:
    """minimum (`lt`) and maximum (`gt`): all of g to the one taken, half of it where both are equal."""

    def rule(t: Tools, node: Node, g: Value) -> Value:
        mine, other = node.inputs[place], node.inputs[1 - place]
        return t.where(t.do(closer, mine, other), g, t.where(t.do("eq", mine, other), t.mul(g, 0.5), 0.0))

    return rule


ELEMENTWISE_RULES: dict[str, tuple[Rule, ...]] = {
    "add": (lambda t, n, g: g, lambda t, n, g: g),
    "sub": (lambda t, n, g: g, lambda t, n, g: t.neg(g)),
    "mul": (lambda t, n, g: t.mul(g, n.inputs[1]), lambda t, n, g: t.mul(g, n.inputs[0])),
    "div": (lambda t, n, g: t.div(g, n.inputs[1]), lambda t, n, g: t.neg(t.div(t.mul(g, n), n.inputs[1]))),
    "pow": (power_base, power_exponent),
    "mod": (lambda t, n, g: g, lambda t, n, g: t.neg(t.mul(g, t.do("floor", t.div(n.inputs[0], n.inputs[1]))))),
    "minimum": (extreme("lt", 0), extreme("lt", 1)),
    "maximum": (extreme("gt", 0), extreme("gt", 1)),
    "neg": (lambda t, n, g: t.neg(g),),
    "abs": (lambda t, n, g: t.mul(g, t.do("sign", n.inputs[0])),),
    "exp": (lambda t, n, g: t.mul(g, n),),
    "log": (lambda t, n, g: t.div(g, n.inputs[0]),),
    "log2": (lambda t, n, g: t.div(g, t.mul(n.inputs[0], math.log(2.0))),),
    "log1mexp": (lambda t, n, g: t.neg(t.mul(g, t.do("exp", t.sub(n.inputs[0], n)))),),
    "sqrt": (lambda t, n, g: t.div(t.mul(g, 0.5), n),),
    "sin": (lambda t, n, g: t.mul(g, t.do("cos", n.inputs[0])),),
    "cos": (lambda t, n, g: t.neg(t.mul(g, t.do("sin", n.inputs[0]))),),
    "tanh": (lambda t, n, g: t.mul(g, t.sub(1.0, t.mul(n, n))),),
    "sigmoid": (lambda t, n, g: t.mul(g, t.mul(n, t.sub(1.0, n))),),
    "softplus": (lambda t, n, g: t.mul(g, t.do("sigmoid", n.inputs[0])),),
    "where": (lambda t, n, g: 0.0, lambda t, n, g: g, lambda t, n, g: g),  # the side not taken is blanked in differentiate.py
    "choose": (lambda t, n, g: 0.0, lambda t, n, g: g, lambda t, n, g: g),
    "expand": (lambda t, n, g: g,),
}


# ---- reductions and contractions


def prod(t: Tools, node: Node, g: Value) -> Value:
    """Each entry's derivative is the product of the others, also where one of them, or the entry itself, is 0."""
    x, over = node.inputs[0], node["over"]
    nothing = t.do("eq", x, 0)
    filled = t.where(nothing, 1.0, x)
    zeros = t.ops.reduce("sum", t.where(nothing, 1, 0), over)
    others = t.ops.reduce("prod", filled, over)
    at_zero = t.where(t.do("eq", zeros, 1), others, 0.0)
    elsewhere = t.where(t.do("eq", zeros, 0), t.div(others, filled), 0.0)
    return t.mul(g, t.where(nothing, at_zero, elsewhere))


def extreme_over(t: Tools, node: Node, g: Value) -> Value:
    x = node.inputs[0]
    best = t.do("eq", x, node)
    count = t.ops.reduce("sum", t.where(best, 1.0, 0.0), node["over"])
    return t.where(best, t.div(g, count), 0.0)


def segment_sum(t: Tools, node: Node, g: Value) -> Value:
    return t.ops.gather(t.full(g, node), node.inputs[1], node.type.names[-1])


def segment_extreme(t: Tools, node: Node, g: Value) -> Value:
    x, index = node.inputs
    group = node.type.axes[-1]
    best = t.do("eq", x, t.ops.gather(node, index, group.name))
    ones = t.full(t.where(best, 1.0, 0.0), x)
    count = t.ops.make("segment_sum", (ones, index), node.type, over=node["over"])
    share = t.ops.constant(t.div(t.full(g, node), count))
    return t.where(best, t.ops.gather(share, index, group.name), 0.0)


def cumsum(t: Tools, node: Node, g: Value) -> Value:
    """The sum from each entry to the end: turned around, summed, and turned back."""
    axis = node["over"]
    last = t.sub(t.ops.axis_size(axis, node), 1)
    back = t.ops.constant(t.sub(last, t.ops.range(node.type.axis(axis), node)))
    return t.ops.gather(t.ops.scan_sum(t.ops.gather(t.full(g, node), back, axis), axis), back, axis)


def dot(place: int) -> Rule:
    def rule(t: Tools, node: Node, g: Value) -> Value:
        mine, other = node.inputs[place], node.inputs[1 - place]
        names = {*other.type.names, *(g.type.names if isinstance(g, Node) else ())} - set(mine.type.names)
        if not names or not isinstance(g, Node):
            return t.ops.reduce("sum", t.mul(g, other), names)
        return t.ops.dot(g, other, sorted(names))

    return rule


# ---- axes, order, places


def rename(t: Tools, node: Node, g: Value) -> Value:
    if not isinstance(g, Node):
        return g
    back = {new: old for new, old in zip(node.type.names, node.inputs[0].type.names, strict=True) if new != old}
    return t.ops.rename(g, back)


def gather(t: Tools, node: Node, g: Value) -> Value:
    return t.scatter(g, node.inputs[1], node["axis"], node.inputs[0], node)


def scatter_add(t: Tools, node: Node, g: Value) -> Value:
    return t.ops.gather(t.full(g, node), node.inputs[1], node["axis"])


def slice_(t: Tools, node: Node, g: Value) -> Value:
    x, axis, start = node.inputs[0], node["axis"], node["start"]
    size = x.type.axis(axis).size
    first: Value = start
    if size is not None:
        first = range(size)[slice(start, node["stop"])].start
    elif start < 0:
        first = t.do("maximum", t.add(t.ops.axis_size(axis, x), start), 0)
    index = t.ops.constant(t.add(t.ops.range(node.type.axis(axis), node), first))
    return t.scatter(g, index, axis, x, node, wraps=False)


def sort(t: Tools, node: Node, g: Value) -> Value:
    x, over = node.inputs[0], node["over"]
    return t.ops.gather(t.full(g, node), t.ops.rank(x, (over,), node["descending"]), over)


def stack(t: Tools, node: Node, g: Value, place: int) -> Value:
    axis = node.type.axes[0]
    if not isinstance(g, Node) or not g.type.has(axis.name):
        return g
    return t.ops.gather(g, t.ops.make("const", (), Type("int", (), axis), value=place), axis.name)


def concat(t: Tools, node: Node, g: Value, place: int) -> Value:
    axis = node["axis"]
    if not isinstance(g, Node) or not g.type.has(axis):
        return g
    first: Value = 0
    for part in node.inputs[:place]:
        first = t.add(first, t.ops.axis_size(axis, part))
    part = node.inputs[place]
    return t.ops.gather(t.full(g, node), t.ops.constant(t.add(t.ops.range(part.type.axis(axis), part), first)), axis)


def pack(t: Tools, node: Node, g: Value, place: int) -> Value:
    if not isinstance(g, Node) or not g.type.has("param"):
        return g
    lifted = node.type.without(["param"])
    own = node.inputs[place].type.without(axis.name for axis in lifted)
    return t.ops.leaf(t.full(g, node), node["offsets"][place], own)


def each(rule: Callable[[Tools, Node, Value, int], Value], node: Node) -> tuple[Rule, ...]:
    """The rules of an operation with any number of inputs."""
    return tuple(lambda t, n, g, place=place: rule(t, n, g, place) for place in range(len(node.inputs)))


def nothing(t: Tools, node: Node, g: Value) -> Value:
    return 0.0


RULES: dict[str, tuple[Rule, ...]] = {
    **ELEMENTWISE_RULES,
    "sum": (lambda t, n, g: g,), "prod": (prod,), "max": (extreme_over,), "min": (extreme_over,), "cumsum": (cumsum,),
    "segment_sum": (segment_sum, nothing), "segment_max": (segment_extreme, nothing), "segment_min": (segment_extreme, nothing),
    "dot": (dot(0), dot(1)), "rename": (rename,), "gather": (gather, nothing), "scatter_add": (scatter_add, nothing),
    "slice": (slice_,), "sort": (sort,),
}  # fmt: skip
VARIADIC: dict[str, Callable[[Tools, Node, Value, int], Value]] = {"stack": stack, "concat": concat, "pack": pack}


def rules_of(node: Node) -> Sequence[Rule]:
    return each(VARIADIC[node.op], node) if node.op in VARIADIC else RULES[node.op]

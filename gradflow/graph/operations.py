"""The operations of the graph and their typing: one constructor each, static numbers folded on the way.

Elementwise operations broadcast by axis name; reductions, contractions, gathers and the rest say what they do with axes. What each
operation means numerically is the reference backend's table (`backends/reference/operations.py`); its derivative is in
`passes/differentiate.py`. A value is a Python number (known now) or a node (known when it runs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.types import REAL, Axis, Type, union, wider
from gradflow.language.source import NOWHERE, Span

Number = bool | int | float
Value = Number | Node


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def _power(a: float, b: float) -> float:
    if abs(b) > 64:  # whole numbers would grow without bound
        a, b = float(a), float(b)
    try:
        result = a**b
    except ZeroDivisionError:
        return math.inf
    except OverflowError:
        return math.inf
    return math.nan if isinstance(result, complex) else result


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def _sigmoid(x: float) -> float:
    return 1 / (1 + _exp(-x)) if x >= 0 else _exp(x) / (1 + _exp(x))


def _softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def _whole(function: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: x if math.isinf(x) or math.isnan(x) else int(function(x))


def _sign(x: float) -> float:
    return float((x > 0) - (x < 0))


# name: (how the result's base follows from the operands', what it is for numbers known now)
ELEMENTWISE: dict[str, tuple[str, Callable[..., Any]]] = {
    "add": ("wider", lambda a, b: a + b),
    "sub": ("wider", lambda a, b: a - b),
    "mul": ("wider", lambda a, b: a * b),
    "div": ("real", _divide),
    "pow": ("real", _power),
    "mod": ("wider", lambda a, b: a - b * math.floor(_divide(a, b)) if b and math.isfinite(_divide(a, b)) else math.nan),
    "minimum": ("wider", min),
    "maximum": ("wider", max),
    "neg": ("wider", lambda a: -a),
    "abs": ("wider", abs),
    "sign": ("wider", _sign),
    "exp": ("real", _exp),
    "log": ("real", _log),
    "log2": ("real", lambda x: math.log2(x) if x > 0 else _log(x)),
    "log1mexp": ("real", lambda x: _log(-math.expm1(x))),
    "sqrt": ("real", lambda x: math.sqrt(x) if x >= 0 else math.nan),
    "sin": ("real", lambda x: math.sin(x) if math.isfinite(x) else math.nan),
    "cos": ("real", lambda x: math.cos(x) if math.isfinite(x) else math.nan),
    "tanh": ("real", math.tanh),
    "sigmoid": ("real", _sigmoid),
    "softplus": ("real", _softplus),
    "floor": ("int", _whole(math.floor)),
    "ceil": ("int", _whole(math.ceil)),
    "truncate": ("int", _whole(math.trunc)),
    "round": ("int", _whole(lambda x: math.floor(x + 0.5))),
    "isfinite": ("bool", math.isfinite),
    "lt": ("bool", lambda a, b: a < b),
    "le": ("bool", lambda a, b: a <= b),
    "gt": ("bool", lambda a, b: a > b),
    "ge": ("bool", lambda a, b: a >= b),
    "eq": ("bool", lambda a, b: a == b),
    "ne": ("bool", lambda a, b: a != b),
    "and": ("bool", lambda a, b: bool(a) and bool(b)),
    "or": ("bool", lambda a, b: bool(a) or bool(b)),
    "not": ("bool", lambda a: not a),
    "stop": ("same", lambda a: a),
}
REDUCTIONS = {"sum": "wider", "prod": "wider", "max": "wider", "min": "wider", "any": "bool", "all": "bool"}


class Operations:
    """Constructors over one graph. `span` is what the nodes made next belong to; the elaborator moves it along."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.span: Span = NOWHERE

    # ---- constants and sources

    def constant(self, value: Value) -> Node:
        if isinstance(value, Node):
            return value
        base = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
        return self.graph.node("const", (), Type(base), self.span, value=value)

    def table(self, values: Iterable[Number], type_: Type) -> Node:
        """Numbers known when the spec is compiled, in row-major order of the type's axes."""
        return self.make("table", (), type_, values=tuple(values))

    def source(self, type_: Type, kind: str, *path: str) -> Node:
        """Something that comes from outside the region: kind is param, state, data, held, input, clock, ..."""
        return self.graph.node("source", (), type_, self.span, kind=kind, path=path)

    def make(self, op: str, inputs: Iterable[Value], type_: Type, body: Region | None = None, **attrs: Any) -> Node:
        return self.graph.node(op, [self.constant(v) for v in inputs], type_, self.span, body, **attrs)

    # ---- elementwise

    def elementwise(self, op: str, *values: Value) -> Value:
        rule, fold = ELEMENTWISE[op]
        if all(not isinstance(v, Node) for v in values):
            return fold(*values)
        simple = self._identity(op, values)
        if simple is not None:
            return simple
        nodes = [self.constant(v) for v in values]
        axes = union(*(n.type.axes for n in nodes))
        bases = [n.type.base for n in nodes]
        base = bases[0] if rule == "same" else wider(*bases) if rule == "wider" else rule
        target = nodes[0].type.target if rule == "same" else None
        return self.make(op, nodes, Type(base, axes, target))

    def _identity(self, op: str, values: Sequence[Value]) -> Value | None:
        """What needs no node: x + 0, x * 1, x ^ 1, a bound that cannot bind. Exact for every float but the sign of zero."""
        first, second = values[0], values[1] if len(values) > 1 else None
        if isinstance(first, Node) and second is not None and not isinstance(second, Node):
            neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1, "pow": 1, "minimum": math.inf, "maximum": -math.inf}.get(op)
            if neutral is not None and second == neutral and not isinstance(second, bool) and (op != "div" or first.type.base == "real"):
                return first
        if isinstance(second, Node) and not isinstance(first, Node):
            neutral = {"add": 0, "mul": 1, "minimum": math.inf, "maximum": -math.inf}.get(op)
            if neutral is not None and first == neutral and not isinstance(first, bool):
                return second
        if op in ("and", "or"):
            for known, other in ((first, second), (second, first)):
                if isinstance(known, bool) and isinstance(other, Node):
                    return other if known == (op == "and") else known
        return None

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """Selects by element: what is not taken reaches neither value nor gradient."""
        if not isinstance(condition, Node):
            return a if condition else b
        if not isinstance(a, Node) and not isinstance(b, Node) and type(a) is type(b) and a == b:
            return a
        nodes = [self.constant(v) for v in (condition, a, b)]
        axes = union(*(n.type.axes for n in nodes))
        target = nodes[1].type.target or nodes[2].type.target
        base = "bool" if nodes[1].type.base == nodes[2].type.base == "bool" else wider(nodes[1].type.base, nodes[2].type.base)
        return self.make("where", nodes, Type(base, axes, target))

    def choose(self, condition: Value, a: Value, b: Value) -> Value:
        """The lazy form of `where` for a condition without axes: only the branch taken is computed."""
        if not isinstance(condition, Node):
            return a if condition else b
        if a is b:
            return a
        first, second = self.constant(a), self.constant(b)
        axes = union(first.type.axes, second.type.axes)
        base = first.type.base if first.type.base == second.type.base else wider(first.type.base, second.type.base)
        type_ = Type(base, axes, first.type.target or second.type.target)
        return self.make("choose", (condition, self.expand(first, axes), self.expand(second, axes)), type_)

    def expand(self, value: Value, axes: tuple[Axis, ...]) -> Node:
        """The value with exactly these axes in this order, repeated along those it lacks."""
        node = self.constant(value)
        if node.type.names == tuple(a.name for a in axes):
            return node
        sizes = union(node.type.axes, axes)
        kept = tuple(next(s for s in sizes if s.name == a.name) for a in axes)
        return self.make("expand", (node,), Type(node.type.base, kept, node.type.target))

    # ---- reductions

    def reduce(self, op: str, value: Value, over: Iterable[str]) -> Value:
        """sum, prod, max, min, any, all over the named axes; axes that the value lacks are left alone by the caller's care."""
        if not isinstance(value, Node):
            return value
        names = tuple(name for name in value.type.names if name in set(over))
        if not names:
            return value
        rule = REDUCTIONS[op]
        base = rule if rule == "bool" else wider(value.type.base)
        return self.make(op, (value,), Type(base, value.type.without(names)), over=names)

    def axis_size(self, name: str, *values: Value) -> Value:
        """The number of entries of an axis: a number where known, else read off the first value that has it."""
        holders = [v for v in values if isinstance(v, Node) and v.type.has(name)]
        for node in holders:
            size = node.type.axis(name).size
            if size is not None:
                return size
        return self.make("axis_size", (holders[0],), Type("int"), axis=name)

    def arg_reduce(self, op: str, value: Node, over: str) -> Node:
        """argmax or argmin: an index into the axis; the first where several are equal."""
        return self.make(op, (value,), Type("int", value.type.without([over]), value.type.axis(over)), over=over)

    def scan_sum(self, value: Node, over: str) -> Node:
        return self.make("cumsum", (value,), Type(wider(value.type.base), value.type.axes), over=over)

    def segment(self, op: str, value: Value, index: Node, over: Sequence[str]) -> Node:
        """sum, max, min by group: the axes `over` are replaced by the axis that the index map points into."""
        target = index.type.target
        assert target is not None
        node = self.constant(value)
        node = self.expand(node, union(node.type.axes, index.type.axes))
        axes = (*node.type.without(over), target)
        return self.make(f"segment_{op}", (node, index), Type(wider(node.type.base), axes), over=tuple(over))

    # ---- axes

    def rename(self, value: Node, names: dict[str, str]) -> Node:
        axes = tuple(Axis(names.get(a.name, a.name), a.size) for a in value.type.axes)
        target = value.type.target
        if target is not None and target.name in names:
            target = Axis(names[target.name], target.size)
        if axes == value.type.axes and target == value.type.target:
            return value
        origin = value.inputs[0] if value.op == "rename" else value
        if origin.type.axes == axes and origin.type.target == target:
            return origin
        return self.make("rename", (origin,), Type(value.type.base, axes, target))

    def transpose(self, value: Node, names: Sequence[str]) -> Node:
        """The same value with its axes in this order."""
        return self.expand(value, tuple(value.type.axis(name) for name in names))

    def dot(self, a: Node, b: Node, over: Sequence[str]) -> Node:
        """Sum of products over the named axes; other shared axes are kept, matched by name."""
        axes = tuple(axis for axis in union(a.type.axes, b.type.axes) if axis.name not in set(over))
        return self.make("dot", (a, b), Type("real", axes), over=tuple(over))

    def gather(self, value: Node, index: Node, axis: str) -> Node:
        """value[axis: index]: the axis gives way to the index's axes; axes that both have are matched by name."""
        shared = [a for a in index.type.axes if not value.type.has(a.name) or a.name == axis]
        axes: list[Axis] = []
        for a in value.type.axes:
            axes.extend(shared if a.name == axis else [a])
        return self.make("gather", (value, index), Type(value.type.base, tuple(axes), value.type.target), axis=axis)

    def scatter_add(self, value: Node, index: Node, axis: Axis, like: tuple[Axis, ...]) -> Node:
        """The transpose of gather: sums `value` into an `axis` of its own at the places that `index` names; result has axes `like`."""
        return self.make("scatter_add", (value, index), Type("real", like), axis=axis.name)

    def one_hot(self, index: Value, axis: Axis) -> Node:
        node = self.constant(index)
        return self.make("one_hot", (node,), Type("real", (*node.type.axes, axis)), axis=axis.name)

    def range(self, axis: Axis, like: Value | None = None, target: Axis | None = None) -> Node:
        """0, 1, 2, .. along an axis; `like` supplies the size where it is not known yet."""
        inputs = () if axis.size is not None or like is None else (like,)
        return self.make("range", inputs, Type("int", (axis,), target), axis=axis.name)

    def slice(self, value: Node, axis: str, start: int, stop: int | None) -> Node:
        """value[axis: start .. stop], Python's convention for negative bounds."""
        size = value.type.axis(axis).size
        new = len(range(*slice(start, stop).indices(size))) if size is not None else None
        axes = tuple(Axis(a.name, new) if a.name == axis else a for a in value.type.axes)
        return self.make("slice", (value,), Type(value.type.base, axes, value.type.target), axis=axis, start=start, stop=stop)

    def stack(self, values: Sequence[Value], axis: str) -> Node:
        nodes = [self.constant(v) for v in values]
        axes = union(*(n.type.axes for n in nodes))
        base = wider(*(n.type.base for n in nodes))
        return self.make("stack", [self.expand(n, axes) for n in nodes], Type(base, (Axis(axis, len(nodes)), *axes)), axis=axis)

    def concat(self, values: Sequence[Value], axis: str) -> Node:
        """Values one behind the other along an axis, which comes first; one without it is a single entry."""
        nodes = [self.constant(v) for v in values]
        others = union(*(n.type.without([axis]) for n in nodes))
        base = "bool" if all(n.type.base == "bool" for n in nodes) else wider(*(n.type.base for n in nodes))
        parts = [self.expand(n, (n.type.axis(axis) if n.type.has(axis) else Axis(axis, 1), *others)) for n in nodes]
        sizes = [part.type.axes[0].size for part in parts]
        whole = None if None in sizes else sum(size for size in sizes if size is not None)
        return self.make("concat", parts, Type(base, (Axis(axis, whole), *others)), axis=axis)

    def sort(self, value: Node, over: str, descending: bool) -> Node:
        return self.make("sort", (value,), value.type, over=over, descending=descending)

    def rank(self, value: Node, over: tuple[str, ...], descending: bool) -> Node:
        """The place that each entry has in the sorted order, 0 first; equal entries keep their order."""
        return self.make("rank", (value,), Type("int", value.type.axes), over=over, descending=descending)

    def top(self, value: Node, count: int, over: str, named: str) -> Node:
        """Indices of the `count` largest, largest first; of equal ones the first."""
        size = value.type.axis(over).size
        axes = (*value.type.without([over]), Axis(named, count if size is None else min(count, size)))
        return self.make("top", (value,), Type("int", axes, value.type.axis(over)), over=over, count=count, named=named)

    # ---- leaves of a flat parameter

    def leaf(self, flat: Node, offset: int, axes: tuple[Axis, ...]) -> Node:
        """One tensor out of the flat axis `param`."""
        lifted = flat.type.without(["param"])
        if len(axes) == 1 and axes[0].name == "param" and axes[0].size == flat.type.axis("param").size:
            return flat
        if flat.op == "pack":
            for piece, at in zip(flat.inputs, flat["offsets"], strict=True):
                if (
                    at == offset
                    and piece.type.without(a.name for a in lifted) == axes
                    and piece.type.axes[len(piece.type.axes) - len(axes) :] == axes
                ):
                    return piece
        return self.make("leaf", (flat,), Type(flat.type.base, (*lifted, *axes)), offset=offset)

    def pack(self, leaves: Sequence[Node], layouts: Sequence[tuple[Axis, ...]]) -> Node:
        """The inverse: leaves laid side by side along `param`."""
        sizes = [math.prod(a.size or 0 for a in axes) for axes in layouts]
        offsets = tuple(sum(sizes[:i]) for i in range(len(sizes)))
        names = [{a.name for a in axes} for axes in layouts]
        lifted = union(*(leaf.type.without(own) for leaf, own in zip(leaves, names, strict=True)))
        full = [self.expand(leaf, (*lifted, *axes)) for leaf, axes in zip(leaves, layouts, strict=True)]
        first = full[0]
        whole = first.inputs[0] if first.op == "leaf" else None
        if (
            whole is not None
            and whole.type.has("param")
            and whole.type.axis("param").size == sum(sizes)
            and all(f.op == "leaf" and f.inputs[0] is whole and f["offset"] == offset for f, offset in zip(full, offsets, strict=True))
        ):
            return whole
        return self.make("pack", full, Type("real", (*lifted, Axis("param", sum(sizes)))), offsets=offsets)

    def hole(self, type_: Type = REAL) -> Node:
        """A value that is filled in later by `substitute`."""
        return self.graph.fresh("hole", type_, self.span)

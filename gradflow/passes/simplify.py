"""Simplification: a table of rewrite rules, `RULES`, applied from the sources up until none fits, and loops that differ in their results merged.

Every rule keeps the value bit for bit for finite numbers, but for the sign of a zero; none reassociates sums or products (a function of a
constant is computed by Python's math, which may round its last digit another way). Common subexpressions are shared and dead code is gone
by the way graphs are made. `--passes none` leaves this out and gives the same numbers.

Axes: names are free; a rewritten node keeps its type's axes and their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gradflow.graph.graph import Node, Region, rebuild
from gradflow.graph.operations import ELEMENTWISE, Operations, Value
from gradflow.graph.types import Type

Trace = list[tuple[str, Node, Node]]
Rewrite = Callable[[Operations, Node], Value | None]

ROUNDS = 8  # passes over a region; in practice two or three change anything


def simplify(ops: Operations, region: Region, trace: Trace | None = None) -> Region:
    """The region with fewer operations and the same results; `trace` receives (rule, node before, node after) for each rewrite."""
    span = ops.span
    for _ in range(ROUNDS):
        merged = merge_loops(ops, region, trace)
        after = _once(ops, merged, trace)
        settled = after.roots == region.roots
        region = after
        if settled:
            break
    ops.span = span
    return region


def _once(ops: Operations, region: Region, trace: Trace | None) -> Region:
    bodies: dict[int, Region] = {}

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        ops.span = node.span
        body = node.body
        if body is not None:
            if id(body) not in bodies:
                bodies[id(body)] = simplify(ops, body, trace)
            new = bodies[id(body)]
            body = body if new.roots == body.roots else new
        same = inputs == node.inputs and body is node.body
        return rewritten(ops, node if same else ops.graph.node(node.op, inputs, node.type, node.span, body, **dict(node.attrs)), trace)

    new = rebuild(ops.graph, region.roots, replace)
    return Region(tuple((name, new[node.id]) for name, node in region.results), region.parameters, region.name)


def rewritten(ops: Operations, node: Node, trace: Trace | None = None) -> Node:
    """The node after as many rules as fit, one after the other."""
    changed = True
    while changed:
        changed = False
        for name, operations, rule in RULES:
            if node.op not in operations:
                continue
            value = rule(ops, node)
            after = None if value is None else _typed(ops, value, node.type)
            if after is not None and after is not node:
                if trace is not None:
                    trace.append((name, node, after))
                node, changed = after, True
                break
    return node


def _typed(ops: Operations, value: Value, type_: Type) -> Node | None:
    """The value with the axes of the type, or None where its base or its meaning as an index is another."""
    if not isinstance(value, Node):
        if type_.axes or type_.target is not None or value != value:
            return None
        value = float(value) if type_.base == "real" else value
        node = ops.constant(value)
    else:
        node = value
    if node.type.base != type_.base or node.type.target != type_.target or set(node.type.names) != set(type_.names):
        return None
    return ops.expand(node, type_.axes)


# ---- reading nodes


def known(node: Node) -> bool | int | float | None:
    """The number of a constant that is no index, else None."""
    return node["value"] if node.op == "const" and node.type.target is None else None


def is_number(node: Node, number: float) -> bool:
    value = known(node)
    return value is not None and not isinstance(value, bool) and value == number


def repeated(node: Node) -> Node | None:
    """What a node repeats along further axes: an `expand`, or a `where` with equal sides (which is how an axis without size is added)."""
    if node.op == "expand":
        return node.inputs[0]
    if node.op == "where" and node.inputs[1] is node.inputs[2] and node.inputs[1].type.base == node.type.base:
        return node.inputs[1]
    return None


def _made(ops: Operations, op: str, node: Node, inputs: Sequence[Node]) -> Node | None:
    """An elementwise operation of the node's own type on other operands, where these have all of its axes."""
    names = {name for below in inputs for name in below.type.names}
    return ops.make(op, inputs, node.type) if names == set(node.type.names) else None


def _sized(node: Node) -> bool:
    return all(axis.size is not None for axis in node.type.axes)


# ---- rules


def fold(ops: Operations, node: Node) -> Value | None:
    """Numbers are computed now; x + 0, x * 1, x / 1, x ^ 1 and bounds that cannot bind are x."""
    values = [below if known(below) is None else known(below) for below in node.inputs]
    numbers = [value for value in values if not isinstance(value, Node)]
    if not numbers or any(number != number for number in numbers):
        return None
    try:
        result = ops.elementwise(node.op, *(value for value in values if value is not None))
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    if isinstance(result, Node):
        return result if any(result is below for below in node.inputs) else None
    if node.type.axes:  # a truth that no operand can change
        return ops.expand(ops.constant(result), node.type.axes) if _sized(node) else None
    if node.type.base == "int" and (not math.isfinite(result) or abs(result) >= 2**63):
        return None
    return int(result) if node.type.base == "int" else result


def negation(ops: Operations, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.op == "neg":
        return x.inputs[0]
    if x.op == "sub":
        return _made(ops, "sub", node, (x.inputs[1], x.inputs[0]))
    return None


def addition(ops: Operations, node: Node) -> Value | None:
    a, b = node.inputs
    if b.op == "neg":
        return _made(ops, "sub", node, (a, b.inputs[0]))
    return _made(ops, "sub", node, (b, a.inputs[0])) if a.op == "neg" else None


def subtraction(ops: Operations, node: Node) -> Value | None:
    a, b = node.inputs
    if b.op == "neg":
        return _made(ops, "add", node, (a, b.inputs[0]))
    return _made(ops, "neg", node, (b,)) if is_number(a, 0) else None


def product_of_negations(ops: Operations, node: Node) -> Value | None:
    a, b = node.inputs
    if a.op == "neg" and b.op == "neg":
        return _made(ops, node.op, node, (a.inputs[0], b.inputs[0]))
    for one, other in ((a, b), (b, a)):
        if is_number(one, -1) and (one is b or node.op == "mul"):
            return _made(ops, "neg", node, (other,))
    return None


def same_sides(ops: Operations, node: Node) -> Value | None:
    condition, a, b = node.inputs
    inner = repeated(condition)
    taken = known(condition if inner is None else inner)
    if taken is None:
        return a if a is b else None
    side = a if taken else b
    return ops.expand(side, node.type.axes) if _sized(node) else side


def turned_condition(ops: Operations, node: Node) -> Value | None:
    condition, a, b = node.inputs
    return ops.make(node.op, (condition.inputs[0], b, a), node.type) if condition.op == "not" else None


def nested_choice(ops: Operations, node: Node) -> Value | None:
    """where(c, where(c, a, _), b) and where(c, a, where(c, _, b)) are where(c, a, b)."""
    condition, a, b = node.inputs
    inner = [a.inputs[1] if a.op == node.op and a.inputs[0] is condition else a, b.inputs[2] if b.op == node.op and b.inputs[0] is condition else b]
    if inner[0] is a and inner[1] is b:
        return None
    return _made(ops, "where", node, (condition, *inner)) if node.op == "where" else ops.make("choose", (condition, *inner), node.type)


def needless_repetition(ops: Operations, node: Node) -> Value | None:
    """Elementwise operations repeat by themselves along axes that another operand has."""
    inputs = list(node.inputs)
    for place, below in enumerate(inputs):
        inner = repeated(below)
        if inner is None:
            continue
        others = {name for i, other in enumerate(inputs) if i != place for name in other.type.names}
        if set(below.type.names) <= others | set(inner.type.names) and inner.type.target == below.type.target:
            inputs[place] = inner
    return _made(ops, node.op, node, inputs) if tuple(inputs) != node.inputs else None


def merged_expand(ops: Operations, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.type == node.type:
        return x
    inner = repeated(x)
    unknown = {axis.name for axis in node.type.axes if axis.size is None}
    if inner is None or (inner.type.base, inner.type.target) != (node.type.base, node.type.target):
        return None
    if (unknown & set(x.type.names)) - set(inner.type.names):  # x measures an axis that inner lacks
        return None
    return ops.make("expand", (inner,), node.type)


def merged_rename(ops: Operations, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.type == node.type:
        return x
    return ops.make("rename", (x.inputs[0],), node.type) if x.op == "rename" else None


def known_size(ops: Operations, node: Node) -> Value | None:
    return node.inputs[0].type.axis(node["axis"]).size


def entry_of_stack(ops: Operations, node: Node) -> Value | None:
    x, index = node.inputs
    if x.op != "stack" or index.op != "const" or x["axis"] != node["axis"] or not -len(x.inputs) <= index["value"] < len(x.inputs):
        return None
    return x.inputs[index["value"]]


def leaf_of_pack(ops: Operations, node: Node) -> Value | None:
    (flat,) = node.inputs
    if flat.op != "pack":
        return None
    pairs = zip(flat.inputs, flat["offsets"], strict=True)
    return next((piece for piece, offset in pairs if offset == node["offset"] and piece.type.axes == node.type.axes), None)


def only_leaf(ops: Operations, node: Node) -> Value | None:
    """A vector that is all of a model, out of `param` or into it, is the same under another name."""
    if len(node.inputs) != 1:
        return None
    (x,) = node.inputs
    flat, own = (node, x) if node.op == "pack" else (x, node)
    rest = own.type.without(flat.type.names)
    lifted = flat.type.without(["param"])
    if len(rest) != 1 or rest[0].size is None or rest[0].size != flat.type.axis("param").size or own.type.without([rest[0].name]) != lifted:
        return None
    return ops.make("rename", (ops.expand(x, (*lifted, x.type.axes[-1])),), node.type) if x.type.axes[-1].name in ("param", rest[0].name) else None


def twice(ops: Operations, node: Node) -> Value | None:
    (x,) = node.inputs
    if x.op == node.op:
        return x.inputs[0] if node.op == "not" else x
    return None


def same_truths(ops: Operations, node: Node) -> Value | None:
    return node.inputs[0] if node.inputs[0] is node.inputs[1] else None


BROADCASTING = frozenset(ELEMENTWISE) | {"where"}
RULES: tuple[tuple[str, frozenset[str], Rewrite], ...] = (
    ("a number computed now, or a neutral operand", frozenset(ELEMENTWISE) - {"stop"}, fold),
    ("negation of a negation or a difference", frozenset({"neg"}), negation),
    ("sum with a negation", frozenset({"add"}), addition),
    ("difference with a negation", frozenset({"sub"}), subtraction),
    ("product of negations", frozenset({"mul", "div"}), product_of_negations),
    ("choice already made, or between equals", frozenset({"where", "choose"}), same_sides),
    ("choice by a negated condition", frozenset({"where", "choose"}), turned_condition),
    ("choice within the same choice", frozenset({"where", "choose"}), nested_choice),
    ("repetition that the operation does itself", BROADCASTING, needless_repetition),
    ("repetition of a repetition", frozenset({"expand"}), merged_expand),
    ("renaming of a renaming", frozenset({"rename"}), merged_rename),
    ("size known now", frozenset({"axis_size"}), known_size),
    ("entry of a stack", frozenset({"gather"}), entry_of_stack),
    ("leaf of a pack", frozenset({"leaf"}), leaf_of_pack),
    ("the only leaf", frozenset({"leaf", "pack"}), only_leaf),
    ("twice the same", frozenset({"stop", "not", "abs", "floor", "ceil", "truncate", "round"}), twice),
    ("the same truth twice", frozenset({"and", "or"}), same_truths),
)


# ---- loops


def merge_loops(ops: Operations, region: Region, trace: Trace | None = None) -> Region:
    """Loops over the same values with the same carries become one, which stacks what any of them is asked for and nothing else."""
    groups: dict[Any, list[Node]] = {}
    for node in region.nodes():
        if node.op == "item":
            scan = node.inputs[0]
            body = scan.body
            assert body is not None
            carried = tuple(root.id for root in body.roots[: scan["carries"]])
            groups.setdefault((tuple(n.id for n in scan.inputs), scan.attrs, tuple(p.id for p in body.parameters), carried), []).append(node)
    plans = {item.id: plan for items in groups.values() for item, plan in _plans(items).items()}
    if not plans:
        return region
    made: dict[int, Node] = {}

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.id not in plans:
            return None
        body, index = plans[node.id]
        scan = node.inputs[0]
        if id(body) not in made:
            made[id(body)] = ops.graph.node("scan", inputs[0].inputs, scan.type, scan.span, body, **dict(scan.attrs))
            if trace is not None:
                trace.append(("loops over the same values", scan, made[id(body)]))
        return ops.graph.node("item", (made[id(body)],), node.type, node.span, index=index)

    new = rebuild(ops.graph, region.roots, replace)
    return Region(tuple((name, new[node.id]) for name, node in region.results), region.parameters, region.name)


def _plans(items: list[Node]) -> dict[Node, tuple[Region, int]]:
    """For the items of loops that can be one: its body, and the place of each item in it. Nothing where it is one already."""
    scan = items[0].inputs[0]
    body, carries = scan.body, scan["carries"]
    assert body is not None
    stacked: dict[int, Node] = {}
    for item in items:
        roots = item.inputs[0].body.roots  # type: ignore[union-attr]
        if item["index"] >= carries:
            stacked.setdefault(roots[item["index"]].id, roots[item["index"]])
    if len({item.inputs[0].id for item in items}) == 1 and len(stacked) == len({root.id for root in body.roots[carries:]}):
        return {}
    results = (*body.results[:carries], *((str(carries + k), root) for k, root in enumerate(stacked.values())))
    places = {root: carries + k for k, root in enumerate(stacked)}
    merged = Region(results, body.parameters, body.name)

    def place(item: Node) -> int:
        index = item["index"]
        return index if index < carries else places[item.inputs[0].body.roots[index].id]  # type: ignore[union-attr]

    return {item: (merged, place(item)) for item in items}

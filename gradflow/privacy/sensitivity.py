"""How far one record can move what is released: derived from the graph, and held against what the release declares.

Recognized: rows shortened to a radius (`x * min(1, r / norm(x))`), chosen by a mask, summed over `sample`, then over `node`, and divided by
numbers. A row of a sum moves it by at most its radius when it is added or removed, by twice that when it is replaced; it belongs to one node.
What is not recognized stays as declared, and `gradflow plan` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gradflow.graph.graph import Node, ordered
from gradflow.privacy.flow import SIZES
from gradflow.privacy.mechanisms import EVERY, Mechanism, Sampling, is_release

RECORDS = "sample"
LIFTED = ("node", RECORDS)
SLACK = 1e-9  # rounding of a quotient


@dataclass(frozen=True)
class Moved:
    """`factor` times `radius`: the most that a record adds; `masks`: conditions under which records take part."""

    factor: float
    radius: Node
    masks: tuple[Node, ...] = ()


def reads_data(node: Node, known: dict[int, bool] | None = None) -> bool:
    """Whether a value is computed of rows; sizes are none, and what was released is public."""
    known = {} if known is None else known
    for one in ordered([node]):
        own = one.op == "source" and one["kind"] in ("data", "held", "rollout", "world")
        known[one.id] = own or (one.op not in SIZES and not is_release(one) and any(known[below.id] for below in one.inputs))
    return known[node.id]


def separate(node: Node) -> bool:
    """Whether every record has its own entry all the way down: nothing between the rows of the data and this value looks across records."""
    reading: dict[int, bool] = {}
    if not reads_data(node, reading):
        return True
    queue, seen = [(node, RECORDS)], set[tuple[int, str]]()
    while queue:
        one, axis = queue.pop()
        if (one.id, axis) in seen or not reading[one.id]:
            continue
        seen.add((one.id, axis))
        over = one.get("over", ())
        across = axis == one.get("axis") or axis in (over if isinstance(over, tuple) else (over,))
        if not one.type.has(axis) or across or one.op in ("scan", "item", "linalg"):
            return False
        if one.op == "rename":
            axis = one.inputs[0].type.names[one.type.names.index(axis)]
        queue += [(below, axis) for below in one.inputs]
    return True


def number(node: Node) -> float | None:
    return float(node["value"]) if node.op == "const" else None


def rows(node: Node) -> Moved | None:
    """The bound of every row of a value with an axis of records."""
    clipped = _clipped(node)
    if clipped is not None:
        return Moved(1.0, clipped) if separate(node) else None
    if node.op == "neg":
        return rows(node.inputs[0])
    if node.op in ("mul", "where"):
        for place, one in enumerate(node.inputs):
            inner = rows(one) if one.type.has(RECORDS) else None
            if inner is None:
                continue
            if node.op == "where":
                rest = number(node.inputs[2])
                return _masked(inner, node.inputs[0], node) if place == 1 and rest == 0 else None
            other = node.inputs[1 - place]
            known = number(other)
            if known is not None:
                return replace(inner, factor=inner.factor * abs(known))
            mask = _indicator(other)
            return _masked(inner, mask, node) if mask is not None else None
    return None


def _masked(inner: Moved, mask: Node, node: Node) -> Moved | None:
    """With a condition on records. One drawn for every record by itself has all axes of records; one made of data could choose by all of them."""
    if reads_data(mask):
        return None
    own = len(mask.type.names) == sum(name in LIFTED for name in node.type.names)
    return replace(inner, masks=(*inner.masks, mask)) if own else inner


def _indicator(node: Node) -> Node | None:
    """The condition of a value that is 1 where it holds and 0 elsewhere."""
    if node.op in ("rename", "expand"):
        return _indicator(node.inputs[0])
    fits = node.op == "where" and number(node.inputs[1]) == 1 and number(node.inputs[2]) == 0
    return node.inputs[0] if fits else None


def _clipped(node: Node) -> Node | None:
    """The radius r of `x * min(1, r / max(norm(x), tiny))`."""
    node = _plain(node)
    if node.op != "mul":
        return None
    for place, x in enumerate(node.inputs):
        share = _plain(node.inputs[1 - place])
        if share.op == "minimum" and any(number(one) == 1 for one in share.inputs):
            quotient = next(one for one in share.inputs if number(one) != 1 or share.inputs[0] is share.inputs[1])
            if quotient.op == "div" and _is_norm(quotient.inputs[1], _plain(x)):
                return quotient.inputs[0]
    return None


def _plain(node: Node) -> Node:
    """Without changes of names."""
    return _plain(node.inputs[0]) if node.op == "rename" else node


def _is_norm(node: Node, x: Node) -> bool:
    """At least the norm of x over all its axes but those of records and nodes."""
    if node.op == "maximum":
        return any(_is_norm(one, x) for one in node.inputs)
    if node.op != "sqrt" or node.inputs[0].op != "sum":
        return False
    total = node.inputs[0]
    square = total.inputs[0]
    factors = square.inputs if square.op in ("mul", "pow") else ()
    squared = bool(factors) and all(_plain(one) is x for one in factors[: 2 if square.op == "mul" else 1])
    exponent = square.op == "mul" or (len(factors) == 2 and number(factors[1]) == 2)
    left = set(square.type.names) - set(total["over"])
    return squared and exponent and left <= set(LIFTED)


def moved(node: Node) -> Moved | None:
    """The bound of a value that was summed over records."""
    if node.op == "sum":
        over = set(node["over"])
        inner = rows(node.inputs[0]) if RECORDS in over else moved(node.inputs[0])
        return inner if over <= {*LIFTED} else None
    if node.op in ("rename", "neg"):
        return moved(node.inputs[0])
    if node.op in ("mul", "div"):
        for place, one in enumerate(node.inputs):
            known = number(node.inputs[1 - place])
            inner = moved(one) if known is not None and (node.op == "mul" or place == 0) else None
            if inner is not None and known:
                return replace(inner, factor=inner.factor * abs(known) if node.op == "mul" else inner.factor / abs(known))
    return None


def factored(node: Node) -> tuple[float, Node | None]:
    """A value as a number times a node that is no product with a number; None: the number alone."""
    known = number(node)
    if known is not None:
        return known, None
    if node.op in ("mul", "div"):
        (a, first), (b, second) = factored(node.inputs[0]), factored(node.inputs[1])
        if second is None and b:
            return (a * b if node.op == "mul" else a / b), first
        if first is None and node.op == "mul":
            return a * b, second
    return 1.0, node


class Declared(Exception):
    """A release declares less than it must: `what` is wrong with it, `least` what it needs, where that is known."""

    def __init__(self, what: str, least: str = ""):
        super().__init__(what)
        self.what, self.least = what, least


def checked(one: Mechanism) -> Mechanism:
    """The mechanism with what was found out about its sensitivity and its sampling. Raises Declared."""
    found = moved(one.clean)
    sampling = _sampling(one, found)
    if found is None:
        return replace(one, sampling=sampling)
    times = 1.0 if sampling.kind == "poisson" else 2.0
    a, radius = factored(found.radius)
    b, base = factored(one.sensitivity)
    if radius is not base:
        return replace(one, sampling=sampling)
    needed = times * found.factor * abs(a)
    if abs(b) < needed * (1 - SLACK):
        how = "added or removed" if times == 1 else "replaced"
        text = f"{needed:.6g}" if base is None else f"{needed:.6g} times the radius"
        raise Declared(f"a record that is {how} moves this by up to {text}; {b:.6g}{' times it' if base is not None else ''} is declared", text)
    return replace(one, sampling=sampling, checked=True)


def _sampling(one: Mechanism, found: Moved | None) -> Sampling:
    """How records are chosen, where a share is declared: by a coin each, or so many of them."""
    if one.share == -1.0:
        return EVERY
    if not 0 < one.share <= 1:
        raise Declared("the share of the records that takes part is not known, or does not lie in (0, 1]")
    for mask in found.masks if found is not None else ():
        chosen = _chosen(mask)
        if chosen is not None and chosen.rate <= one.share * (1 + SLACK):
            return replace(chosen, rate=one.share) if chosen.kind == "poisson" else chosen
    raise Declared(f"a share of {one.share:.4g} is declared, and no draw among the records was found that takes so few of them")


def _chosen(mask: Node) -> Sampling | None:
    if mask.op != "lt" or number(mask.inputs[1]) is None:
        return None
    drawn, limit = _plain(mask.inputs[0]), number(mask.inputs[1])
    assert limit is not None
    if _uniform(drawn):
        return Sampling("poisson", rate=min(limit, 1.0))
    if drawn.op == "rank" and drawn["over"] == (_records_of(drawn),) and _uniform(_plain(drawn.inputs[0])):
        total = drawn.type.axis(drawn["over"][0]).size
        taken = math.ceil(limit)
        return Sampling("subset", taken / total, taken, total) if total else None
    return None


def _records_of(node: Node) -> str:
    return next((name for name in node.type.names if name != "node"), "")


def _uniform(node: Node) -> bool:
    """A draw of its own for every record: uniform, with an axis of records (called as a function's input may call it)."""
    return node.op == "draw" and node["dist"] == "uniform" and any(name != "node" for name in node.type.names)

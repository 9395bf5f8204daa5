"""How a loss is averaged, read off its graph: for every term, what it is summed over and what the sum is divided by.

The effective normalizer is what silently goes wrong in training code, so `plan` prints it. Only what the graph says is told: a quotient whose
numerator is no sum over axes is shown as a value of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from gradflow.graph.graph import Node

MOST_TERMS = 12
DEEPEST = 40
PASSED = ("stop", "rename", "expand")


def terms_of(loss: Node) -> list[str]:
    """One text a term of the loss, such as `mean over sample (128)` or `0.1 * mean over sample of (sum over token / entries of mask)`."""
    found: list[str] = []
    _terms(loss, 1.0, found, 0)
    return found[:MOST_TERMS]


def _terms(node: Node, factor: float, found: list[str], depth: int) -> None:
    """Walks down sums, signs and constant factors to the terms."""
    if depth > DEEPEST or len(found) >= MOST_TERMS:
        return
    if node.op in PASSED:
        _terms(node.inputs[0], factor, found, depth + 1)
    elif node.op == "neg":
        _terms(node.inputs[0], -factor, found, depth + 1)
    elif node.op in ("add", "sub"):
        _terms(node.inputs[0], factor, found, depth + 1)
        _terms(node.inputs[1], factor if node.op == "add" else -factor, found, depth + 1)
    elif node.op == "mul" and _constant(node.inputs[0]) is not None:
        _terms(node.inputs[1], factor * (_constant(node.inputs[0]) or 0.0), found, depth + 1)
    elif node.op == "mul" and _constant(node.inputs[1]) is not None:
        _terms(node.inputs[0], factor * (_constant(node.inputs[1]) or 0.0), found, depth + 1)
    elif node.op != "const":
        text = reduction_text(node, depth)
        found.append(text if abs(factor) == 1 else f"{abs(factor):.4g} * {text}")


def reduction_text(node: Node, depth: int = 0) -> str:
    """`mean over sample (128)`, `sum over token / entries of mask over token`, .., with what is reduced inside, if that is a reduction too."""
    while node.op in (*PASSED, "neg"):
        node = node.inputs[0]
    if depth > DEEPEST:
        return "a value"
    if node.op == "div" and _constant(node.inputs[1]) is None and _sum_below(node.inputs[0]) is None:
        return "a quotient"
    if node.op == "div":
        total = _sum_below(node.inputs[0])
        return _quotient(node, total, depth) if total is not None else reduction_text(node.inputs[0], depth + 1)
    if node.op == "sum":
        return f"sum over {', '.join(node['over'])}{_inside(node.inputs[0], depth)}"
    if node.op.startswith("segment_"):
        return f"{node.op.removeprefix('segment_')} by {node.type.names[-1]}{_inside(node.inputs[0], depth)}"
    return "a value"


def _quotient(node: Node, total: Node, depth: int) -> str:
    over = _over(total)
    length = _constant(node.inputs[1])
    inner = _inside(total.inputs[0], depth)
    if length is not None and length == _length(total):
        return f"mean over {over} ({length:g}){inner}"
    divisor = divisor_text(node.inputs[1], 0)
    if divisor == f"the length of {over}":
        return f"mean over {over}{inner}"
    return f"sum over {over}{inner} / {divisor}"


def _inside(node: Node, depth: int) -> str:
    """` of (..)`, where what is reduced is itself reduced, possibly times something, or is a sum of such terms."""
    core = node
    while core.op in PASSED:
        core = core.inputs[0]
    if core.op in ("add", "sub"):
        terms: list[str] = []
        _terms(core, 1.0, terms, depth + 1)
        terms = [term for term in terms if not term.endswith("a value")]
        if len(terms) > 1:
            return f" of ({' + '.join(terms)})"
    found = _first(node, lambda n: n.op in ("sum", "segment_sum"), 3)
    if found is None:
        return ""
    quotient = _first(node, lambda n: n.op == "div" and _sum_below(n.inputs[0]) is not None, 3)
    text = reduction_text(quotient if quotient is not None else found, depth + 1)
    return f" of ({text})"


def divisor_text(node: Node, depth: int) -> str:
    """What a sum is divided by: a number, the length of an axis, the entries that a mask lets through, a weight's sum."""
    if depth > DEEPEST:
        return "a count"
    number = _constant(node)
    if number is not None:
        return f"{number:g}"
    if node.op == "maximum" and _constant(node.inputs[1]) == 1:
        return divisor_text(node.inputs[0], depth + 1)
    if node.op == "where":
        return divisor_text(node.inputs[2], depth + 1)
    if node.op == "axis_size":
        return f"the length of {node['axis']}"
    if node.op == "mul":
        return " * ".join(divisor_text(below, depth + 1) for below in node.inputs)
    if node.op in ("sum", "segment_sum"):
        counted = node.inputs[0]
        while counted.op == "expand":
            counted = counted.inputs[0]
        what = f"over {', '.join(node['over'])}" if node.op == "sum" else f"by {node.type.names[-1]}"
        if _constant(counted) == 1:
            return f"entries {what}"
        if counted.op == "where" and (_constant(counted.inputs[1]), _constant(counted.inputs[2])) == (1, 0):
            return f"entries of {_name(counted.inputs[0])} {what}"
        return f"the sum of {_name(counted)} {what}"
    return _name(node)


def _name(node: Node) -> str:
    """What a value is called: the last part of a source's path, else that of the one source below it."""
    source = node if node.op == "source" else _first(node, lambda n: n.op == "source", 6)
    if source is None:
        return "a value"
    path = source["path"]
    return str(path[2] if source["kind"] == "data" and len(path) > 2 else path[-1])


def _sum_below(node: Node) -> Node | None:
    """The sum that a numerator is, if it is one."""
    while node.op in (*PASSED, "neg"):
        node = node.inputs[0]
    return node if node.op in ("sum", "segment_sum") else None


def _over(total: Node) -> str:
    return ", ".join(total["over"]) if total.op == "sum" else f"{', '.join(total['over'])} by {total.type.names[-1]}"


def _length(total: Node) -> int | None:
    sizes = [axis.size for axis in total.inputs[0].type.axes if axis.name in total["over"]]
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def _constant(node: Node) -> float | None:
    return float(node["value"]) if node.op == "const" else None


def _first(node: Node, wanted: Callable[[Node], bool], depth: int) -> Node | None:
    """The first node for which `wanted` holds, breadth first, at most `depth` steps below."""
    level = [node]
    for _ in range(depth + 1):
        for one in level:
            if wanted(one):
                return one
        level = [below for one in level for below in one.inputs][:200]
    return None

"""Constant folding through the reference semantics: nodes that depend on nothing from outside are computed when the spec is compiled."""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node, Region, ordered

CLOSED = ("source", "draw", "hole", "element", "model", "model_vjp")


def is_closed(node: Node) -> bool:
    """Whether the node depends on constants alone (a draw keyed by constants counts)."""
    return all(n.op not in CLOSED or (n.op == "draw" and all(i.op == "const" for i in n.inputs)) for n in ordered([node]))


def compute(*nodes: Node) -> list[Any]:
    """The values of closed nodes, as numpy arrays."""
    from gradflow.backends.reference import lower

    region = Region(tuple((str(i), node) for i, node in enumerate(nodes)))
    values = lower(region)({})
    return [values[str(i)] for i in range(len(nodes))]


def known(node: Node) -> Any:
    """The value of a closed node without axes as a Python number; None where it is not known yet."""
    if node.op == "const":
        return node["value"]
    if node.type.axes or not is_closed(node):
        return None
    return compute(node)[0].item()

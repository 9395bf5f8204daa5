"""Where the length of an axis is read off when the graph does not know it.

An axis is known by its name: a value that has it tells the length of every other value that has it. `witnesses` finds, for the nodes whose
own operands do not have an axis of their result, another value that does: first what their readers read beside them, then a source. An axis
that no value has, and that index maps point into, is as long as these reach (`pointers`).
"""

from __future__ import annotations

from collections.abc import Iterable

from gradflow.backends.torch.schedule import Operands, walk
from gradflow.graph.graph import Node, users

POINTED = {"one_hot", "segment_sum", "segment_max", "segment_min"}  # have an axis that indices point into
SIZED = {"expand", "range", "draw", "scatter_add", "linalg"} | POINTED  # operations that make axes out of sizes


def witnesses(nodes: list[Node], below: Operands, reach: Iterable[Node]) -> dict[tuple[int, str], Node]:
    """(node, axis) -> a value that has the axis and does not depend on the node. `reach`: values of outer scopes and sources.

    What is found counts as an operand of the node from then on, also here: two nodes must not wait for each other.
    """
    readers = users(nodes)
    found: dict[tuple[int, str], Node] = {}
    for node in nodes:
        if node.op not in SIZED:
            continue
        for axis in node.type.axes:
            if axis.size is None and not any(b.type.has(axis.name) for b in node.inputs if b.op != "scan"):
                near = None if node.op in POINTED else _witness(node, axis.name, readers, below)
                witness = near or next((value for value in reach if value.type.has(axis.name)), None)
                if witness is not None:
                    found[node.id, axis.name] = witness
                    if witness.op not in ("source", "element"):
                        below.added[node.id] = (*below.added.get(node.id, ()), witness)
    return found


def _witness(node: Node, name: str, readers: dict[int, list[Node]], below: Operands) -> Node | None:
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop(0)
        for reader in readers.get(current.id, []):
            if reader.id in seen or reader.op == "scan":
                continue
            seen.add(reader.id)
            for other in reader.inputs:
                if other is not node and other.type.has(name) and all(n is not node for n in walk([other], below)):
                    return other
            if reader.type.has(name):
                waiting.append(reader)
    return None


def pointers(sources: Iterable[Node]) -> dict[str, list[Node]]:
    """The sources that point into each axis of unknown size."""
    found: dict[str, list[Node]] = {}
    for node in sources:
        if node.type.target is not None and node.type.target.size is None:
            found.setdefault(node.type.target.name, []).append(node)
    return found

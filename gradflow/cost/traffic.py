"""What crosses the network in one update of a flow over a topology, read off the graph.

Three forms cross it. A product with weights [node, from] sends a value from every node over each of its links. A sum over `node` that parameters
or states depend on is an all-reduce: every node but the center sends its share there, and the result comes back. A choice of one node by an
index that moves is a walk: one message to the next node. What is sent is as large as the value without its nodes, or as what the stage says of
its compressor: k entries with their places, bits an entry, r columns and rows.

Axes: node (who holds a value), from (who is heard), param.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from gradflow.cost.figures import Message
from gradflow.events.traffic import sent_in_a_unit
from gradflow.graph.graph import Node, ordered
from gradflow.plan.program import Program, Update, asked_for

INDEX_BYTES = 4


def messages_of(update: Update, program: Program, width: int, unit: str = "steps") -> tuple[Message, ...]:
    """The messages of one update, or what events are expected to send in a unit of training; `width`: bytes of a real number."""
    if update.events is not None:
        sent = sent_in_a_unit(update.events, width, unit)
        return () if sent is None else (Message("events at links", "link", *sent),)
    topology = update.topology
    if topology is None or not topology.nodes:
        return ()
    nodes = topology.nodes
    facts = asked_for(update.facts.get("topology"))
    links = facts.links if facts is not None else None
    gives = " ".join(gives for _, kind, _, gives in update.facts.get("stages", ()) if kind == "exchange")
    roots = [node for name, node in update.region.results if name.startswith(("param/", "state/"))]
    found = [*_exchanged(roots, gives, width, nodes, facts is not None and facts.hub), *_mixed(roots, gives, width, links, topology.directed)]
    return tuple(found or _walked(update, program, width))


def _mixed(roots: list[Node], gives: str, width: int, links: int | None, directed: bool) -> Iterator[Message]:
    if links is None:
        return
    arcs = links if directed else 2 * links
    for node in ordered(roots):
        if node.op == "dot" and "from" in node["over"]:
            value = next((one for one in node.inputs if not (one.type.has("node") and one.type.has("from"))), None)
            if value is not None and value.type.has("from"):
                size = _size(value, ("from",), width)
                size = compressed(gives, size, width) if value.type.has("param") else size
                yield Message("mix", "link", arcs, size, arcs * size)


def _exchanged(roots: list[Node], gives: str, width: int, nodes: int, hub: bool) -> Iterator[Message]:
    counted: dict[int, Node] = {}
    for node in ordered(roots):
        if node.op == "sum" and node["over"] == ("node",) and node.type.axes and not node.type.has("from") and not _started(node, roots):
            counted[node.id] = node
    for node in counted.values():
        dense = _size(node.inputs[0], ("node",), width)
        sent = compressed(gives, dense, width) if node.inputs[0].type.has("param") else dense
        others = nodes - (0 if hub else 1)  # who is not the center
        yield Message("all-reduce", "gather", 2 * others, sent + dense, others * (sent + dense))


def _started(node: Node, roots: list[Node]) -> bool:
    """Whether a value is only there for the first update: every way to it leads through one side of a lazy choice."""
    reached: set[int] = set()
    stack = list(roots)
    while stack:
        one = stack.pop()
        if one.id in reached:
            continue
        reached.add(one.id)
        if one.op == "choose" and _at_the_start(one.inputs[0]):
            stack.append(one.inputs[2])
        else:
            stack.extend(one.inputs)
    return node.id not in reached


def _at_the_start(condition: Node) -> bool:
    return condition.op in ("eq", "le", "lt") and any(below.op == "source" and below["kind"] == "clock" for below in condition.inputs)


def _walked(update: Update, program: Program, width: int) -> Iterator[Message]:
    moves = any(plan.type.target is not None and plan.type.target.name == "node" for plan in update.states)
    if moves:
        size = sum(program.models[name].spec.size for name in update.models) * width
        yield Message("the parameters to the next node", "walk", 1, size, size)


def _size(node: Node, without: tuple[str, ...], width: int) -> int:
    return math.prod(axis.size or 1 for axis in node.type.axes if axis.name not in without) * {"bool": 1, "int": 8}.get(node.type.base, width)


def compressed(gives: str, dense: int, width: int) -> int:
    """Bytes of what a compressor lets through, by what the stage says of it; `dense` where it says nothing."""
    sizes = [dense]
    if found := re.search(r"sparse\(k: (\d+)", gives):
        sizes.append(int(found[1]) * (width + INDEX_BYTES))
    if found := re.search(r"(?<!_)\bbits\(b: ([\d.]+)", gives):
        sizes.append(math.ceil(dense / width * float(found[1]) / 8) + width)
    if found := re.search(r"scalar\(n: (\d+)", gives):
        sizes.append(int(found[1]) * width)
    return min(sizes)

"""Topologies that change: links of round t that repeat after K rounds, stated (`rounds = K`) or put together (`cycle(a, b)`).

`graph.sequence` is the same topology with the axis `round` (K entries, 1 where nothing changes) on its adjacency, weights and Laplacian, for
methods that need a graph of every round: functions lift over it. t counts rounds from 1; those of round t are entry mod(t - 1, K).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node, substitute
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.topologies.edges import Listed, Rule, arcs_of

MOST_ROUNDS = 1000


def at_round(e: Elaborator, node: Node, number: int) -> Node:
    """The value with the clock at round `number`, from 1."""
    clock = e.ops.source(Type("int"), "clock", "t")
    return substitute(e.graph, [node], {clock.id: e.ops.constant(number)})[node.id]


def rounds_of(e: Elaborator, topology: v.Topology) -> list[v.Topology]:
    """The constant topologies that a sequence runs through; of one that does not change, itself."""
    if topology.constant or not topology.rounds:
        return [topology]
    found = []
    for number in range(1, topology.rounds + 1):
        weights = at_round(e, topology.weights, number) if topology.weights is not None else None
        options = {k: at_round(e, x, number) if isinstance(x, Node) else x for k, x in topology.options.items()}
        listing = _rule(e, topology.listing, number) if isinstance(topology.listing, Rule) else None
        adjacency = at_round(e, topology.adjacency, number)
        found.append(replace(topology, adjacency=adjacency, weights=weights, options=options, constant=True, rounds=1, listing=listing))
    return found


def _rule(e: Elaborator, rule: Rule, number: int) -> Rule:
    return Rule(lambda receiver, sender: at_round(e, e.ops.constant(rule.holds(receiver, sender)), number))


def union(e: Elaborator, topology: v.Topology) -> v.Topology:
    """Who is linked in some round; its weights are Metropolis-Hastings."""
    import numpy

    every = [arcs_of(e, part) for part in rounds_of(e, topology)]
    pairs = numpy.unique(numpy.concatenate([numpy.stack(one) for one in every], axis=1), axis=1)
    return listed(e, topology.name, topology.nodes or 0, (pairs[0], pairs[1]), topology.directed)


def listed(e: Elaborator, name: str, nodes: int, arcs: Any, directed: bool) -> v.Topology:
    """A topology out of senders and receivers (of an undirected one, both directions of every link)."""
    axes = (Axis("node", nodes), Axis("from", nodes))
    flat = [int(receiver) * nodes + int(sender) for sender, receiver in zip(*arcs, strict=True)]
    return v.Topology(name, nodes, e.ops.constant(_scattered(e, flat, axes)), None, directed, listing=Listed(arcs), rounds=1)


def _scattered(e: Elaborator, flat: list[int], axes: tuple[Axis, Axis]) -> Any:
    """True at these places of [node, from], counted row by row."""
    ops, n = e.ops, axes[0].size or 0
    if not flat:
        return ops.expand(False, axes)
    pair = Axis("pair", n * n)
    marks = ops.segment("sum", 1, ops.table(flat, Type("int", (Axis("arc", len(flat)),), pair)), ["arc"])
    place = ops.elementwise("add", ops.elementwise("mul", ops.range(axes[0]), n), ops.range(axes[1]))
    return ops.elementwise("gt", ops.gather(marks, ops.constant(place), "pair"), 0)


def cycle(e: Elaborator, parts: list[v.Topology], span: Any) -> v.Topology:
    """The links of round t are those of entry mod(t - 1, K). Raises Mistake where the entries have different numbers of nodes."""
    from gradflow.topologies.facts import stated
    from gradflow.topologies.links import weights_of

    sizes = {part.nodes for part in parts}
    if len(sizes) != 1 or None in sizes or not all(part.constant for part in parts):
        shown = ", ".join(f"`{part.name}` {part.nodes if part.constant else 'changes by itself'}" for part in parts)
        raise mistake(
            "E0605", span, "the graphs of a cycle need the same nodes, and links that do not change by themselves", why=f"nodes: {shown}",
            fix="give all of them one number of nodes: `cycle(ring(8), complete(8))`",
        )  # fmt: skip
    turn = e.ops.elementwise("mod", e.ops.elementwise("sub", e.ops.source(Type("int"), "clock", "t"), 1), len(parts))

    def of_round(values: list[Node]) -> Node:
        return e.ops.gather(e.ops.stack(values, "round"), e.ops.constant(turn), "round")

    gives = {"connected"} if any("connected" in part.gives for part in parts) else set()
    gives |= {"doubly_stochastic"} if all(stated(part, "doubly_stochastic") for part in parts) else set()
    directed = any(part.directed for part in parts)
    plain = not directed and all(part.weights is None and "weights" not in part.options for part in parts)
    weights = None if plain else of_round([weights_of(e, part, span) for part in parts])
    name = f"cycle({', '.join(part.name for part in parts)})"
    adjacency = of_round([part.adjacency for part in parts])
    return v.Topology(name, parts[0].nodes, adjacency, weights, directed, {}, False, frozenset(gives), None, len(parts))


def sequence(e: Elaborator, topology: v.Topology, span: Any) -> v.Topology:
    """The topology with the axis `round` on everything it says: its K graphs side by side."""
    from gradflow.topologies.links import weights_of

    if not topology.constant and not topology.rounds:
        raise mistake(
            "E0605", span, f"`{topology.name}` does not say after how many rounds its links repeat",
            why="a graph of every round is only there for a sequence that repeats", fix="add `rounds = K` to the topology, or use `cycle(..)`",
        )  # fmt: skip
    parts = rounds_of(e, topology)
    adjacency = e.ops.stack([part.adjacency for part in parts], "round")
    weights = e.ops.stack([weights_of(e, part, span) for part in parts], "round")
    return replace(topology, adjacency=adjacency, weights=weights, options={}, constant=True, rounds=len(parts), listing=union(e, topology).listing)

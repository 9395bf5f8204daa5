"""A program that says what it sends: results `sent/K/..` are added to the region of every flow over a topology, one K for each crossing.

    sent/K/now        whether it happens in this update
    sent/K/entries    [node]: how many numbers of a node's share are not zero, where a compressor keeps some of them
    sent/K/here       [node]: who takes part, where the sum over nodes says so
    sent/K/links      [node, from]: who hears whom, where that changes from round to round
    sent/K/before, sent/K/after    where a walk was, and is

They read what is there and change nothing: a reduction where entries are counted, else what the update computes anyway. What does not depend on
the run (links that stay, dense shares) needs no result and is in the `Counter`.

Axes: node, from as in `crossings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy

from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.network.crossings import Crossing, Wire, crossings_of, gradients_of, shapes_of, wire_for
from gradflow.network.heard import Heard
from gradflow.passes.constants import is_closed
from gradflow.placement.sparse import sparse_of
from gradflow.plan.program import Program, Update, asked_for
from gradflow.plan.rewriting import all_nodes


@dataclass(frozen=True)
class Counter:
    """What is known before the run of one crossing. `links`: who hears whom, where it does not change; `center`: who gathers."""

    key: int
    crossing: Crossing
    wire: Wire
    shapes: tuple[tuple[int, ...], ...]
    nodes: int
    links: Heard | None = None
    center: int = 0
    hub: bool = False  # the center is no node

    def share(self, width: int, entries: Any = None) -> Any:
        """Bytes of a node's share, or of each node's where the entries of each were counted."""
        dense = self.crossing.dense(width)
        if not self.crossing.compressible:
            return dense
        if entries is None:
            return self.wire.size(dense, width, None, self.shapes)
        return [self.wire.size(dense, width, int(one), self.shapes) for one in entries]


@dataclass(frozen=True)
class Counted:
    """A flow's crossings; `gradients`: how many a node takes in one update."""

    counters: tuple[Counter, ...]
    gradients: int
    nodes: int


def counted(program: Program) -> tuple[Program, Mapping[int, Counted]]:
    """The program that says what it sends, and what is counted, by number: the first crossing's of each flow."""
    if not any(isinstance(action, Update) and action.topology is not None for phase in program.phases for action in phase.actions):
        return program, {}
    ops = Operations(Graph(count=max((node.id for node in all_nodes(program)), default=0)))
    found: dict[int, Counted] = {}
    key = 0

    def action(one: Any) -> Any:
        nonlocal key
        own = counters_of(one, program, key) if isinstance(one, Update) else ()
        if not own:
            return one
        found[key] = Counted(own, gradients_of(one.region), own[0].nodes)
        key += len(own)
        results = [result for counter in own for result in _results(ops, counter)]
        return replace(one, region=Region((*one.region.results, *results), one.region.parameters, one.region.name))

    phases = tuple(replace(phase, actions=tuple(map(action, phase.actions))) for phase in program.phases)
    return replace(program, phases=phases), found


def counters_of(update: Update, program: Program, first: int = 0) -> tuple[Counter, ...]:
    crossings = crossings_of(update, program)
    if not crossings:
        return ()
    wire, shapes, nodes, center = wire_for(update), shapes_of(update, program), update.topology.nodes, center_of(update.topology)
    hub = bool(getattr(asked_for(update.facts.get("topology")), "hub", False))
    return tuple(Counter(first + place, one, wire, shapes, nodes, _links(one, update), center, hub) for place, one in enumerate(crossings))


def center_of(topology: Any) -> int:
    """The first node that is linked to all others; the first of all where there is none, or where links change."""
    if not is_closed(topology.adjacency):
        return 0
    heard = sparse_of(topology.adjacency, "node", "from")
    hubs = numpy.flatnonzero(numpy.diff(heard.starts) == heard.rows - 1)
    return int(hubs[0]) if len(hubs) else 0


def _links(crossing: Crossing, update: Update) -> Heard | None:
    """Who hears whom, where that is known; None where the run must tell."""
    if crossing.kind != "link":
        return None
    weights = crossing.weights
    if weights is None and not is_closed(update.topology.adjacency):
        return Heard.of(numpy.ones((update.topology.nodes,) * 2))
    value = update.topology.adjacency if weights is None else weights
    return Heard.of(sparse_of(value, "node", "from").matrix) if is_closed(value) else None


def _results(ops: Operations, counter: Counter) -> list[tuple[str, Node]]:
    crossing, name = counter.crossing, f"sent/{counter.key}"
    ops.span = crossing.operand.span
    now: Any = True
    for condition, outcome in crossing.guard:
        now = ops.elementwise("and", now, condition if outcome else ops.elementwise("not", condition))
    found = [(f"{name}/now", ops.constant(now))]
    if crossing.kind == "walk" and crossing.before is not None and crossing.after is not None:
        return [*found, (f"{name}/before", crossing.before), (f"{name}/after", crossing.after)]
    if crossing.kind == "link" and counter.links is None and crossing.weights is not None:
        axes = (Axis("node", counter.nodes), Axis("from", counter.nodes))
        found.append((f"{name}/links", ops.expand(ops.elementwise("ne", crossing.weights, 0), axes)))
    if crossing.here is not None:
        found.append((f"{name}/here", ops.expand(crossing.here, (Axis("node", counter.nodes),))))
    if counter.wire.kept is not None and crossing.compressible and not crossing.inside:
        found.append((f"{name}/entries", _entries(ops, crossing)))
    return found


def _entries(ops: Operations, crossing: Crossing) -> Node:
    """[node]: how many entries of each node's share are not zero."""
    value = crossing.operand
    holder = "node" if value.type.has("node") else "from"
    count = ops.constant(ops.reduce("sum", ops.elementwise("ne", value, 0), [name for name in value.type.names if name != holder]))
    if crossing.guard:
        zero = ops.expand(ops.constant(0), count.type.axes)
        for condition, outcome in crossing.guard:
            count = ops.constant(ops.choose(condition, count, zero) if outcome else ops.choose(condition, zero, count))
    return ops.make("rename", (count,), Type(count.type.base, (Axis("node", count.type.axes[0].size),))) if holder == "from" else count


__all__ = ["Counted", "Counter", "center_of", "counted", "counters_of"]

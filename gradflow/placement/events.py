"""Event regions for one rank: they look up the rows of an event's own nodes, so all that changes is how many nodes there are to look among.

Axes: node (own nodes only), event.
"""

from __future__ import annotations

from dataclasses import replace

from gradflow.events.plan import EventPlan
from gradflow.graph.graph import Node, Region, rebuild
from gradflow.graph.operations import Operations
from gradflow.placement.spread import Spreader
from gradflow.runtime.events import RunFailed

LOOKING_ALONG = ("range", "table", "one_hot", "axis_size")


def placed_events(plan: EventPlan, spreader: Spreader) -> EventPlan:
    """The plan for the rank of a spreader: constants are whole, and an event looks up its own nodes among those of the rank."""

    def own(region: Region) -> Region:
        return _among_own(region, spreader)

    kinds = tuple(replace(kind, body=own(kind.body)) for kind in plan.kinds)
    return replace(
        plan, kinds=kinds, constants=spreader.region(plan.constants), start=spreader.region(plan.start), settle=own(plan.settle),
        settle_schedule=plan.settle_schedule,
    )  # fmt: skip


def _among_own(region: Region, spreader: Spreader) -> Region:
    """A region over events whose sources over nodes have those of the rank alone. Raises RunFailed where it needs the numbers of all."""
    ops: Operations = spreader.ops

    def replaced(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if not spreader.has(node):
            return None
        if node.op in LOOKING_ALONG:
            raise RunFailed("an event that reads the numbers of all nodes cannot be placed on several processes", node.span)
        return ops.make(node.op, inputs, spreader.type(node.type), node.body, **dict(node.attrs))

    new = rebuild(ops.graph, region.roots, replaced)
    return Region(tuple((name, new[node.id]) for name, node in region.results), region.parameters, region.name)


__all__ = ["placed_events"]

"""What need not be computed at every event: constants are taken once, and what depends on times and places alone for many events at once.

Both are cut out of a region at the highest nodes that qualify; the region reads them as sources const/N and sched/N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradflow.events.rowwise import INSTEAD
from gradflow.graph.graph import Node, Region, ordered, rebuild
from gradflow.graph.operations import Operations
from gradflow.passes.suggestions import unbuilt

PLAIN = ("const", "source", "element", "range", "table")
LARGEST = 256  # numbers for each event that are worth keeping for many events
UNTIED = ("clock", "world", "rollout", "held")


@dataclass
class Hoisting:
    """`constants`: values taken once, by number; `parts`: for each region (by the ids of its results) what it reads of the schedule."""

    ops: Operations
    constants: dict[int, tuple[int, Node]] = field(default_factory=dict)
    parts: dict[tuple[int, ...], list[tuple[str, Node]]] = field(default_factory=dict)

    def lifted(self, region: Region) -> Region:
        """The region without what is constant and what depends on the schedule alone."""
        kinds = self._kinds(region)
        users = _users(region)
        schedule: list[tuple[str, Node]] = []

        def replaced(node: Node, inputs: tuple[Node, ...]) -> Node | None:
            top = any(kinds[user] != kinds[node.id] for user in users.get(node.id, ())) or node.id not in users
            if not top or node.op in PLAIN:
                return None
            if kinds[node.id] == "constant":
                number, _ = self.constants.setdefault(node.id, (len(self.constants), node))
                return self.ops.source(node.type, "const", str(number))
            size = math.prod(axis.size or LARGEST + 1 for axis in node.type.without(["event"]))
            if kinds[node.id] == "schedule" and node.type.has("event") and node.type.base == "real" and size <= LARGEST and node.op != "gather":
                new = self.ops.graph.node(node.op, inputs, node.type, node.span, node.body, **dict(node.attrs))
                schedule.append((f"sched/{len(schedule)}", new))
                return self.ops.source(node.type, "sched", str(len(schedule) - 1))
            return None

        new = rebuild(self.ops.graph, region.roots, replaced)
        found = Region(tuple((name, new[node.id]) for name, node in region.results), (), region.name)
        used = {"/".join(("sched", *source["path"])) for source in found.sources() if source["kind"] == "sched"}
        self.parts[tuple(node.id for node in found.roots)] = [one for one in schedule if one[0] in used]
        return found

    def schedule(self, region: Region) -> Region:
        return Region(tuple(self.parts[tuple(node.id for node in region.roots)]), (), f"schedule of {region.name}")

    def results(self, kind: str) -> list[tuple[str, Node]]:
        return [(f"{kind}/{number}", node) for number, node in self.constants.values()]

    def _kinds(self, region: Region) -> dict[int, str]:
        """Of each node: constant, schedule, or event."""
        found: dict[int, str] = {}
        for node in ordered(region.roots):
            if node.op == "source":
                found[node.id] = self._source(node)
            elif node.op == "draw" and any(below.op == "source" for below in node.inputs):
                raise unbuilt(node.span, "draws inside of an event cannot run yet", INSTEAD)
            elif node.op == "gather" and found[node.inputs[0].id] == "constant":
                found[node.id] = "event" if found[node.inputs[1].id] != "constant" else "constant"  # rows of data are not held for many events
            else:
                below = {found[one.id] for one in node.inputs}
                found[node.id] = "event" if "event" in below or node.op in ("hole", "element") else "schedule" if "schedule" in below else "constant"
        return found

    def _source(self, node: Node) -> str:
        kind, path = node["kind"], node["path"]
        if kind in UNTIED:
            if kind == "clock":
                fix = "count in a state of the node, `state n = 0` and `n <- n + 1`; the time since its last event is `on each wait(dt)`"
                raise unbuilt(node.span, f"`{path[0]}` cannot be read in an event yet", fix)
            fix = "give the exchange a number that is known when the spec is compiled, or train in steps, where flows read what was drawn"
            raise unbuilt(node.span, "what is drawn or measured in the pipeline cannot be read in an event yet", fix)
        if kind == "data" and (path[3] == "batch" or len(path) > 4):
            raise unbuilt(node.span, "events on data that is drawn in batches cannot run yet", "take all rows of a node: leave out `batch:`")
        return "schedule" if kind == "event" else "event" if kind == "row" else "constant"


def _users(region: Region) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for node in region.nodes():
        for below in node.inputs:
            found.setdefault(below.id, []).append(node.id)
    return found

"""A graph over all nodes made into one over the nodes that events touch: the axis `node` gives way to the axis `event`.

What is computed for each node by itself is computed in the same way for each event, from that node's row. Where an operation works along `node`, or
reads the states of all nodes at once, an event would need more than its own nodes: that is a mistake of the spec, told at the place.

Axes: node -> event; all others stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gradflow.graph.graph import Node, ordered
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes.suggestions import unbuilt

EVENT = "event"
INSTEAD = "let clocks draw: what happens with probability 0.2 has a clock of its own, `on each node(i) ~ poisson(0.2 * rate) { .. }`"
Rows = Mapping[int, Mapping[int, Node]]


def nonlocal_read(node: Node) -> Mistake:
    return mistake(
        "E0530",
        node.span,
        "an event reads more than the nodes that it touches",
        why="nobody waits for anybody: what the other nodes hold now is not known here",
        fix="take the value at the event's own nodes: `x[node: i]`",
    )


@dataclass
class Rowwise:
    """`marks`: ids of values [node, ..] that stand for what all nodes hold, with the row of each end of the event."""

    ops: Operations
    ends: tuple[Node, ...]
    marks: Rows
    memo: dict[tuple[int, int], Node] = field(default_factory=dict)
    marked: dict[int, bool] = field(default_factory=dict)

    def live(self, root: Node) -> bool:
        """Whether a value depends on what nodes hold."""
        for node in ordered([root]):
            if node.id not in self.marked:
                self.marked[node.id] = node.id in self.marks or _state(node) or any(self.marked[below.id] for below in node.inputs)
        return self.marked[root.id]

    def resolve(self, node: Node) -> Node:
        """The value with everything that it takes at an end of the event made out of rows."""
        key = (node.id, -1)
        if key not in self.memo:
            end = self.end_of(node)
            if end is not None:
                self.memo[key] = self.row(node.inputs[0], end)
            elif node.id in self.marks or _state(node):
                raise nonlocal_read(node)
            else:
                self.memo[key] = self.with_inputs(node, tuple(self.resolve(below) for below in node.inputs), node.type)
        return self.memo[key]

    def end_of(self, node: Node) -> int | None:
        """The end at which a value is taken: x[node: i]."""
        if node.op != "gather" or node["axis"] != "node":
            return None
        return next((place for place, end in enumerate(self.ends) if node.inputs[1] is end), None)

    def row(self, node: Node, end: int) -> Node:
        """The entry of a value [node, ..] that belongs to the node at an end: [event, ..]."""
        key = (node.id, end)
        if key not in self.memo:
            self.memo[key] = self._row(node, end)
        return self.memo[key]

    def _row(self, node: Node, end: int) -> Node:
        if node.id in self.marks:
            return self.marks[node.id][end]
        if not self.live(node):
            node = self.resolve(node)
            return self.ops.gather(node, self.ends[end], "node") if node.type.has("node") else node
        if _state(node):
            raise nonlocal_read(node)
        if node.op in ("scan", "item", "draw"):
            if node.op == "draw":
                raise unbuilt(node.span, "draws inside of an event cannot run yet", INSTEAD)
            fix = "take the row of a node before it, `y = x[node: i]`, and repeat with that"
            raise unbuilt(node.span, "a loop inside of an event cannot work on all nodes yet", fix)
        if not node.type.has("node") and any(below.type.has("node") for below in node.inputs):
            raise nonlocal_read(node)
        if any(_along(value) for name, value in node.attrs if name in ("over", "axis", "named")):
            raise nonlocal_read(node)
        axes = [Axis(EVENT, None) if axis.name == "node" else axis for axis in node.type.axes]
        names = [axis.name for axis in axes]
        axes = [axis for place, axis in enumerate(axes) if axis.name not in names[:place]]
        inputs = tuple(self.row(below, end) for below in node.inputs)
        if node.op not in ("expand", "model", "model_vjp", "leaf", "pack"):  # of the others the inputs say who has the axis
            held = any(below.type.has(EVENT) for below in inputs)
            axes = [axis for axis in axes if axis.name != EVENT or held]
        return self.with_inputs(node, inputs, replace(node.type, axes=tuple(axes)))

    def with_inputs(self, node: Node, inputs: tuple[Node, ...], type_: Type) -> Node:
        if inputs == node.inputs and type_ == node.type:
            return node
        return self.ops.graph.node(node.op, inputs, type_, node.span, node.body, **dict(node.attrs))


def _state(node: Node) -> bool:
    return node.op == "source" and node["kind"] in ("param", "state", "held") and node.type.has("node")


def _along(value: object) -> bool:
    return value == "node" or isinstance(value, tuple) and "node" in value

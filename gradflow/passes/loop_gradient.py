"""The derivative of a loop: a loop that runs the other way, over the carries that the forward loop went through.

The forward loop is made once more with its carries stacked beside its results (`simplify` merges the two). The backward loop carries the
cotangents of the carries and, for each captured value, the sum of its cotangents; it reads the stacked carries, the sequences and the
cotangents of stacked results, and stacks the cotangents of the sequences. Its body is the forward body differentiated, so it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradflow.graph.graph import Node, Region, ordered
from gradflow.graph.operations import Operations, Value
from gradflow.graph.types import Axis, Type
from gradflow.passes.derivatives import Tools
from gradflow.passes.differentiate import NotDifferentiable, active_nodes, pull

Nodes = dict[int, Node]


def loop_cotangents(ops: Operations, scan: Node, given: Sequence[tuple[Node, Value]], active: set[int], masked: bool) -> dict[int, Value]:
    """What the cotangents of a loop's items send to its inputs, by their place. Raises NotDifferentiable."""
    return _Loop(ops, scan, given, active).backward(masked)


class _Loop:
    """A forward loop and what of it is active."""

    def __init__(self, ops: Operations, scan: Node, given: Sequence[tuple[Node, Value]], active: set[int]):
        assert scan.body is not None
        self.ops = ops
        self.tools = Tools(ops)
        self.scan = scan
        self.body = scan.body
        self.carries = scan["carries"]
        self.fixed = scan["carries"] + scan["sequences"]
        self.axis: Axis = scan.inputs[self.carries].type.axis(scan["axis"])
        if any(node.id in active for node in self.body.nodes()):
            raise NotDifferentiable(scan, "a value that a loop reads without capturing it")
        self.active = self._activity(active)
        self.cotangents: dict[int, Value] = {}
        for item, g in given:
            index = item["index"]
            self.cotangents[index] = self.tools.add(self.cotangents.get(index, 0.0), self.tools.full(g, item))

    def _activity(self, active: set[int]) -> set[int]:
        """Places of the parameters that the outside is active in, and of carries that become so on the way."""
        found = {i for i, (n, p) in enumerate(zip(self.scan.inputs, self.body.parameters, strict=True)) if n.id in active and p.type.base == "real"}
        while True:
            inside = active_nodes(self.body.roots, [self.body.parameters[i] for i in found])
            grown = found | {i for i in range(self.carries) if self.body.roots[i].id in inside and self.body.parameters[i].type.base == "real"}
            if grown == found:
                return found
            found = grown

    def backward(self, masked: bool) -> dict[int, Value]:
        ops, parameters = self.ops, self.body.parameters
        states = [i for i in sorted(self.active) if i < self.carries]
        rows = [i for i in sorted(self.active) if self.carries <= i < self.fixed]
        captured = [i for i in sorted(self.active) if i >= self.fixed]
        inside = active_nodes(self.body.roots, [parameters[i] for i in self.active])
        stacked = [i for i in sorted(self.cotangents) if i >= self.carries and self.body.roots[i].id in inside]
        holes = {i: ops.graph.fresh("element", Type("real", self.body.roots[i].type.axes), self.scan.span) for i in (*states, *stacked)}
        sums = {i: ops.graph.fresh("element", Type("real", parameters[i].type.axes), self.scan.span) for i in captured}
        found = pull(ops, [(self.body.roots[i], hole) for i, hole in holes.items()], [parameters[i] for i in (*states, *rows, *captured)], masked)
        parts = dict(zip((*states, *rows, *captured), found, strict=True))
        carried = [ops.expand(parts[i], holes[i].type.axes) for i in states]
        carried += [ops.constant(ops.elementwise("add", sums[i], parts[i])) for i in captured]
        results = [*carried, *(parts[i] for i in rows)]
        loop = self._loop(results, states, stacked, captured, holes, sums)
        return {i: self._item(loop, k, results[k], i in rows) for k, i in enumerate((*states, *captured, *rows))}

    def _loop(self, results: list[Node], states: list[int], stacked: list[int], captured: list[int], holes: Nodes, sums: Nodes) -> Node:
        reads = {node.id for node in ordered(results)}
        parameters, inputs = self.body.parameters, self.scan.inputs
        starts = [self._start(i, holes[i]) for i in states] + [self.tools.zeros(inputs[i]) for i in captured]
        saved = [i for i in range(self.carries) if parameters[i].id in reads]
        kept = [i for i in range(self.carries, self.fixed) if parameters[i].id in reads]
        read = [i for i in range(self.fixed, len(parameters)) if parameters[i].id in reads]
        if not saved and not kept and not stacked:
            kept = [self.carries]
        sequences = [*self._saved(saved), *(inputs[i] for i in kept), *(self.ops.constant(self.cotangents[i]) for i in stacked)]
        region = Region(
            tuple((str(i), node) for i, node in enumerate(results)),
            (
                *(holes[i] for i in states), *(sums[i] for i in captured), *(parameters[i] for i in (*saved, *kept)),
                *(holes[i] for i in stacked), *(parameters[i] for i in read),
            ),
            f"{self.body.name} backward",
        )  # fmt: skip
        return self.ops.make(
            "scan", (*starts, *sequences, *(inputs[i] for i in read)), Type("real"), region, carries=len(starts), sequences=len(sequences),
            axis=self.axis.name, backward=not self.scan["backward"],
        )  # fmt: skip

    def _start(self, place: int, hole: Node) -> Node:
        given = self.cotangents.get(place, 0.0)
        return self.tools.full(given, self.scan.inputs[place], hole.type.axes)

    def _saved(self, places: list[int]) -> list[Node]:
        """The carries that each pass began with, stacked by the forward loop."""
        if not places:
            return []
        parameters = self.body.parameters
        region = Region((*self.body.results, *((f"carry{i}", parameters[i]) for i in places)), parameters, self.body.name)
        loop = self.ops.make("scan", self.scan.inputs, Type("real"), region, **dict(self.scan.attrs))
        first = len(self.body.results)
        types = [parameters[i].type for i in places]
        return [self.ops.make("item", (loop,), Type(t.base, (self.axis, *t.axes), t.target), index=first + k) for k, t in enumerate(types)]

    def _item(self, loop: Node, index: int, result: Node, stacked: bool) -> Node:
        axes = (self.axis, *result.type.axes) if stacked else result.type.axes
        return self.ops.make("item", (loop,), Type("real", axes), index=index)

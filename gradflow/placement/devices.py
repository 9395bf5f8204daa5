"""One model on several processes (`over devices(..)`): every rank takes its rows of a batch, and where parameters are sharded its part of these.

The processes are no network of nodes. A rank runs the flow's own program on consecutive rows of the batch that one process would see; what looks
along the rows ends in a sum over the ranks, counts of masks among them, so that a mean is the mean of all rows whatever each rank holds. Draws
are made whole, so that their numbers do not depend on how many ranks there are. The gradient of a model comes back summed over the ranks
(`summed` on `model_vjp`); whoever carries that out may begin before it is complete.

Axes: sample (split by rows), param (split where parameters are sharded).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gradflow.graph.graph import Graph, Node, ordered
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.placement.partition import Placement
from gradflow.placement.spread import Part, Spreader
from gradflow.plan.program import Program, Update
from gradflow.plan.rewriting import all_nodes

DEVICE = "device"  # the axis of a placement whose entries are the processes themselves; no value has it
ROWS = "sample"
SIZED = ("one_hot", "segment_sum", "segment_max", "segment_min")  # what is looked at says how long an axis of unknown size is
READ = ("data", "held", "rollout", "input")  # where rows come from


@dataclass(frozen=True)
class Rows:
    """Consecutive rows for each rank, as equal as can be. `size`: all of them, None where only the run knows."""

    rank: int
    ranks: int
    size: int | None = None

    @property
    def least(self) -> int:
        """Entries below which they cannot be shared."""
        return self.ranks

    def stretches(self, rank: int, size: int) -> tuple[tuple[int, int], ...]:
        """Where a rank's entries stand among `size`: (start, stop) of each piece, in the order in which the rank has them."""
        return ((rank * size // self.ranks, (rank + 1) * size // self.ranks),)


def length(stretches: tuple[tuple[int, int], ...]) -> int:
    return sum(stop - start for start, stop in stretches)


def placement_on_devices(ranks: int, rank: int = 0) -> Placement:
    return Placement(tuple((one,) for one in range(ranks)), rank, DEVICE)


def spread_updates(program: Program) -> Iterator[Update]:
    """The flows over devices."""
    return (action for phase in program.phases for action in phase.actions if isinstance(action, Update) and action.spread)


def too_few_rows(program: Program, ranks: int) -> str:
    """Why the rows of a batch cannot be spread over so many processes; nothing where they can."""
    for update in spread_updates(program):
        for region in (update.region, *((update.rollout,) if update.rollout is not None else ())):
            for source in region.sources():
                size = source.type.axis(ROWS).size if source["kind"] in READ and source.type.has(ROWS) else None
                if size is not None and size < ranks:
                    what = f"`{source['path'][0]}` gives {size} row{'s' * (size != 1)} to an update"
                    return f"{what}, which {ranks} processes cannot share: each takes at least one; use --nproc {size} at most"
    return ""


class RowSpreader(Spreader):
    """Makes the regions of a flow over for a rank that takes some rows of the batch. Results are whole on every rank."""

    kept = ()

    def __init__(self, ops: Operations, placement: Placement, axis: str = ROWS):
        super().__init__(ops, placement)
        self.axis = Axis(axis)
        self.types: dict[int, Type] = {}  # of what is split, the type that it has whole
        self.origin: dict[int, Node] = {}

    def ours(self, axis: Axis) -> bool:
        return axis.name == self.axis.name

    def part(self, root: Node) -> Part:
        for node in ordered([root]):
            if node.id not in self.known:
                self.ops.span = node.span
                found = self.known[node.id] = self.visit(node, [self.known[below.id] for below in node.inputs])
                if found.split:
                    self.types[found.node.id] = replace(found.node.type, axes=node.type.axes)
        return self.known[root.id]

    # ---- from one form to the other

    def layout(self, whole: Type) -> Rows:
        return Rows(self.placement.rank, self.placement.ranks, whole.axis(self.axis.name).size)

    def type(self, type_: Type) -> Type:
        if not any(map(self.ours, type_.axes)):
            return type_
        layout = self.layout(type_)
        own = length(layout.stretches(layout.rank, layout.size)) if layout.size is not None else None
        return replace(type_, axes=tuple(Axis(a.name, own) if self.ours(a) else a for a in type_.axes))

    def own(self, node: Node) -> Node:
        made = self.ops.make("transfer", (node,), self.type(node.type), form="part", axis=self.axis.name, route=self.layout(node.type))
        self.origin[made.id] = node
        return made

    def whole(self, part: Part) -> Node:
        if not part.split:
            return part.node
        if part.node.id in self.origin:
            return self.origin[part.node.id]
        if part.node.id not in self.gathered:
            type_ = self.types[part.node.id]
            made = self.ops.make("transfer", (part.node,), type_, form="gather", axis=self.axis.name, route=self.layout(type_))
            self.gathered[part.node.id] = made
        return self.gathered[part.node.id]

    def collected(self, form: str, node: Node) -> Part:
        if node.op == "model_vjp" and node["wrt"] == "params":
            return Part(self.ops.make("model_vjp", node.inputs, node.type, **dict(node.attrs), summed=True))
        return super().collected(form, node)

    # ---- operations

    def apart(self, node: Node, inputs: list[Part]) -> Part:
        unknown = self.has(node) and node.type.axis(self.axis.name).size is None
        if node.op == "expand" and unknown and not any(part.split for part in inputs):
            return Part(self.again(node, [part.node for part in inputs], node.type))
        given = {name for below in node.inputs for name in below.type.names}
        if node.op in SIZED and any(axis.size is None and axis.name not in given for axis in node.type.axes):
            return self.together(node, inputs)
        return super().apart(node, inputs)

    def source(self, node: Node, inputs: list[Part]) -> Part:
        return self.local(Part(node)) if node["kind"] in READ and self.has(node) else Part(node)

    def range(self, node: Node, inputs: list[Part]) -> Part | None:
        if not self.has(node):
            return None
        if node.type.axis(self.axis.name).size is None:
            return self.together(node, inputs)
        return Part(self.ops.make("range", (), node.type, **dict(node.attrs)))

    def size(self, node: Node, inputs: list[Part]) -> Part | None:
        if not self.ours(node.inputs[0].type.axis(node["axis"])):
            return None
        own = self.again(node, [inputs[0].node], node.type)
        return self.collected("sum", own) if inputs[0].split else Part(own)

    def one_hot(self, node: Node, inputs: list[Part]) -> Part | None:
        return self.together(node, inputs) if self.ours(node.type.axis(node["axis"])) else None

    def choice(self, node: Node, inputs: list[Part]) -> Part | None:
        return self.together(node, inputs) if node["axis"] == self.axis.name else None

    def scan(self, node: Node, inputs: list[Part]) -> Part:
        """Loops are gone through whole: what they carry is small beside what the model makes of it."""
        return self.together(node, inputs)

    def item(self, node: Node, inputs: list[Part]) -> Part:
        return self.together(node, inputs)


def on_devices(program: Program, placement: Placement) -> Program:
    """The program of the placement's rank."""
    ops = Operations(Graph(count=max((node.id for node in all_nodes(program)), default=0)))
    rows = RowSpreader(ops, placement)

    def spread(update: Update) -> Update:
        rollout = rows.region(update.rollout) if update.rollout is not None else None
        return replace(update, region=rows.region(update.region), rollout=rollout)

    phases = tuple(
        replace(phase, actions=tuple(spread(one) if isinstance(one, Update) and one.spread else one for one in phase.actions))
        for phase in program.phases
    )
    return replace(program, phases=phases)


__all__ = ["DEVICE", "Rows", "on_devices", "placement_on_devices", "spread_updates", "too_few_rows"]

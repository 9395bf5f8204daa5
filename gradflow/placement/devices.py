"""One model on several processes (`over devices(..)`): every rank takes its rows of a batch, and where parameters are sharded its part of these.

The processes are no network of nodes. A rank runs the flow's own program on consecutive rows of the batch that one process would see; what looks
along the rows ends in a sum over the ranks, counts of masks among them, so that a mean is the mean of all rows whatever each rank holds. Draws
are made whole, so that their numbers do not depend on how many ranks there are. The gradient of a model comes back summed over the ranks
(`summed` on `model_vjp`); whoever carries that out may begin before it is complete.

Axes: sample (split by rows), param (split where parameters are sharded).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from gradflow.graph.graph import Graph, Node, ordered
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.placement.partition import Placement
from gradflow.placement.spread import Part, Spreader
from gradflow.plan.program import Program, Update
from gradflow.plan.rewriting import all_nodes, rewritten


class Unplaced(Exception):
    """A program that cannot be spread over processes; `str(error)` says why and what would help."""


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


@dataclass(frozen=True)
class Shards:
    """Of every leaf of a model the rows of its first axis that FSDP2 gives a rank: equal stretches, the last ones shorter or empty."""

    rank: int
    ranks: int
    leaves: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        return sum(map(math.prod, self.leaves))

    @property
    def least(self) -> int:
        return 1

    def stretches(self, rank: int, size: int) -> tuple[tuple[int, int], ...]:
        found, place = [], 0
        for rows, *rest in self.leaves:
            row, most = math.prod(rest), -(-rows // self.ranks)
            start, stop = min(rank * most, rows), min((rank + 1) * most, rows)
            found.append((place + start * row, place + stop * row))
            place += rows * row
        return tuple(found)

    def counts(self, rank: int) -> list[int]:
        """How many coordinates of each leaf a rank has."""
        return [stop - start for start, stop in self.stretches(rank, self.size)]


Layout = Rows | Shards


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

    kept: tuple[str, ...] = ()

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

    def layout(self, whole: Type) -> Layout:
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


class ShardSpreader(RowSpreader):
    """Makes regions over for a rank that keeps a part of a model's coordinates. What needs them all, whole leaves say, has them gathered."""

    kept = Spreader.kept

    def __init__(self, ops: Operations, placement: Placement, shards: Shards, models: Collection[str]):
        super().__init__(ops, placement, "param")
        self.shards, self.models = shards, models

    def ours(self, axis: Axis) -> bool:
        return axis.name == "param" and axis.size == self.shards.size

    def layout(self, whole: Type) -> Layout:
        return self.shards

    def collected(self, form: str, node: Node) -> Part:
        return Spreader.collected(self, form, node)

    def source(self, node: Node, inputs: list[Part]) -> Part:
        if node["kind"] not in ("param", "state", "held", "rollout") or not self.has(node):
            return Part(node)
        return Part(self.ops.source(self.type(node.type), node["kind"], *node["path"]), True)

    def size(self, node: Node, inputs: list[Part]) -> Part | None:
        return Part(self.ops.constant(self.shards.size)) if self.ours(node.inputs[0].type.axis(node["axis"])) else None

    def scan(self, node: Node, inputs: list[Part]) -> Part:
        if node.body is not None and any(one.op in ("model", "model_vjp") and one["model"] in self.models for one in node.body.nodes()):
            raise Unplaced("a loop calls the model, which cannot be done where parameters are sharded: use `devices(shard: none)`")
        return self.together(node, inputs)


def shards_of(program: Program, placement: Placement) -> dict[str, Shards]:
    """The models whose parameters are sharded: the one that a flow trains so, and those with the same leaves. Raises Unplaced."""
    named = {name for update in spread_updates(program) if update.spread == "parameters" for name in update.models}
    if not named:
        return {}
    if len(named) > 1:
        raise Unplaced(f"parameters of one model can be sharded, not of {', '.join(sorted(named))}: use `devices(shard: none)`")
    first = program.models[min(named)]
    leaves = tuple(leaf.shape for leaf in first.spec.leaves)
    alike = [plan for plan in program.models.values() if plan.spec.size == first.spec.size]
    for plan in alike:
        why = ""
        if plan.free or plan.start is not None or plan.lifted:
            why = "is no single network"
        elif plan.stored:
            why = "is stored in a format"
        elif plan.born:
            why = "is made in a later phase"
        elif tuple(leaf.shape for leaf in plan.spec.leaves) != leaves:
            why = f"has as many parameters as `{first.name}`, and other leaves"
        elif not all(leaf.shape for leaf in plan.spec.leaves):
            why = "has parameters that are single numbers"
        if why:
            raise Unplaced(f"`{plan.name}` {why}, so its parameters cannot be sharded: use `devices(shard: none)`")
    return {plan.name: Shards(placement.rank, placement.ranks, leaves) for plan in alike}


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
    program = replace(program, phases=phases)
    shards = shards_of(program, placement)
    return _sharded(program, ShardSpreader(ops, placement, next(iter(shards.values())), shards)) if shards else program


def _sharded(program: Program, spreader: ShardSpreader) -> Program:
    program = rewritten(program, spreader.region)

    def kept(update: Update) -> Update:
        return replace(update, states=tuple(replace(state, type=spreader.type(state.type)) for state in update.states))

    phases = tuple(replace(phase, actions=tuple(kept(one) if isinstance(one, Update) else one for one in phase.actions)) for phase in program.phases)
    return replace(program, phases=phases)


__all__ = ["DEVICE", "Rows", "on_devices", "placement_on_devices", "spread_updates", "too_few_rows"]

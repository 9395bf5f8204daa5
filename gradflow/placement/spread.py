"""One program, many processes: a region made over for the rank that holds some entries of an axis (the nodes of a topology, the samples of a batch).

Every value with that axis is *split* (a rank has the entries it holds) or *whole* (every rank has all of them and the same); a value without it
is whole. Arithmetic on split values stays where it is. What crosses the network becomes a `transfer`: a sum over the axis ends in a
reduction over the ranks, a value read under another axis (`node` as `from`) is gathered, an entry chosen by an index is fetched from the rank
that holds it. All else that looks along the axis (sorting, scans, matrices over it) is done whole on every rank. So a plan needs no second
definition of its methods, and one rank is the simulator.

Every rank walks the same graph in the same order and takes the same branches, so that their transfers meet. With `exact`, sums are made of
gathered operands in the order of one process: more bytes, the same bits.

Axes: node (or another that is split), with the entries of the rank; from, to: the same entries under another name, always whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradflow.graph.graph import Node, Region, ordered
from gradflow.graph.operations import ELEMENTWISE, REDUCTIONS, Operations
from gradflow.graph.types import Axis, Type
from gradflow.placement.partition import Placement

if TYPE_CHECKING:
    from gradflow.placement.sparse import Mixing

SUMMED = {"sum": "sum", "max": "max", "min": "min", "any": "max", "all": "min"}
TRANSPOSES = {"model_vjp", "scatter_add"}  # of a model, of a choice of entries: they sum over axes that the result lacks
KEPT = ("param/", "state/", "held/", "rollout/", "start")  # results that stay where they are made


@dataclass(frozen=True)
class Part:
    """A value on this rank. `split`: it has only the entries that the rank holds."""

    node: Node
    split: bool = False


@dataclass(frozen=True, eq=False)
class Route:
    """Which entries every rank needs of the others: `wanted[r]`, ascending by number, those it holds among them."""

    placement: Placement
    wanted: tuple[tuple[int, ...], ...]

    def __repr__(self) -> str:
        away = sum(len(set(numbers) - set(part)) for numbers, part in zip(self.wanted, self.placement.parts, strict=True))
        return f"Route({away} rows cross)"


class Spreader:
    """Makes regions over for one rank."""

    kept: tuple[str, ...] = KEPT

    def __init__(self, ops: Operations, placement: Placement, exact: bool = False, products: Mixing | None = None):
        self.ops = ops
        self.products = products
        self.placement = placement
        self.axis = Axis(placement.axis, len(placement.own))
        self.exact = exact
        self.known: dict[int, Part] = {}
        self.gathered: dict[int, Node] = {}
        self.localized: dict[int, Node] = {}

    def region(self, region: Region, bound: tuple[Node, ...] = ()) -> Region:
        """The region for this rank. Parameters and states are split where they have the axis, what is shown is whole."""
        results = []
        for name, node in region.results:
            part = self.part(node)
            results.append((name, self.local(part).node if name.startswith(self.kept) else self.whole(part)))
        return Region(tuple(results), bound or region.parameters, region.name)

    def part(self, root: Node) -> Part:
        for node in ordered([root]):
            if node.id not in self.known:
                self.ops.span = node.span
                self.known[node.id] = self.visit(node, [self.known[below.id] for below in node.inputs])
        return self.known[root.id]

    # ---- from one form to the other

    def has(self, node: Node) -> bool:
        """Whether a whole value has the axis; an axis of the same name and another size (of the factor of a product) is none of ours."""
        return any(self.ours(axis) for axis in node.type.axes)

    def ours(self, axis: Axis) -> bool:
        return axis.name == self.axis.name and axis.size in (None, self.placement.size)

    def whole(self, part: Part) -> Node:
        if not part.split:
            return part.node
        if part.node.id not in self.gathered:
            type_ = self.full(part.node.type)
            self.gathered[part.node.id] = self.ops.make("transfer", (part.node,), type_, form="gather", axis=self.axis.name)
        return self.gathered[part.node.id]

    def local(self, part: Part) -> Part:
        """Split, if the value has the axis at all."""
        if part.split or not self.has(part.node):
            return part
        if part.node.id not in self.localized:
            self.localized[part.node.id] = self.own(part.node)
        return Part(self.localized[part.node.id], True)

    def own(self, node: Node) -> Node:
        """Of a whole value the entries that this rank holds."""
        return self.ops.gather(node, self.places(), self.axis.name)

    def places(self) -> Node:
        """The numbers of the entries that this rank holds."""
        return self.ops.table(self.placement.own, Type("int", (self.axis,)))

    def type(self, type_: Type) -> Type:
        """The type of a whole value, as it is where this rank has its own entries."""
        return replace(type_, axes=tuple(self.axis if self.ours(a) else a for a in type_.axes))

    def full(self, type_: Type) -> Type:
        """The type of a split value, as it is whole."""
        axis = Axis(self.axis.name, self.placement.size)
        return replace(type_, axes=tuple(axis if a.name == axis.name else a for a in type_.axes))

    def collected(self, form: str, node: Node) -> Part:
        """A result of every rank's own entries, put together over the ranks."""
        return Part(self.ops.make("transfer", (node,), node.type, form=form, axis=self.axis.name))

    # ---- one node

    def visit(self, node: Node, inputs: list[Part]) -> Part:
        special = SPECIAL.get(node.op)
        if special is not None:
            found = getattr(self, special.__name__)(node, inputs)
            if found is not None:
                return found
        elif node.op in REDUCTIONS and self.axis.name in node["over"]:
            return self.reduction(node, inputs)
        if self.axis.name in along(node):
            return self.together(node, inputs)
        return self.apart(node, inputs)

    def together(self, node: Node, inputs: list[Part]) -> Part:
        """On whole values, the same on every rank."""
        return Part(self.again(node, [self.whole(part) for part in inputs], node.type))

    def apart(self, node: Node, inputs: list[Part]) -> Part:
        """On this rank's entries, where any operand has only these."""
        fresh = self.has(node) and not any(self.has(below) for below in node.inputs) and node.op in ("expand", "source")
        if not fresh and not any(part.split for part in inputs):
            return Part(self.again(node, [part.node for part in inputs], node.type))
        made = self.again(node, [self.local(part).node for part in inputs], self.type(node.type))
        if self.has(node):
            return Part(made, True)
        return self.collected("sum", made) if node.op in TRANSPOSES else Part(made)

    def again(self, node: Node, inputs: list[Node], type_: Type) -> Node:
        if type_ == node.type and all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return node
        return self.ops.make(node.op, inputs, type_, node.body, **dict(node.attrs))

    # ---- operations that look along the axis

    def reduction(self, node: Node, inputs: list[Part]) -> Part:
        (part,) = inputs
        form = SUMMED.get(node.op)
        if not part.split or form is None or (self.exact and node.op == "sum"):
            return self.together(node, inputs)
        return self.collected(form, self.again(node, [part.node], node.type))

    def source(self, node: Node, inputs: list[Part]) -> Part:
        if not self.has(node) or node["kind"] == "world":
            return Part(node)
        return Part(self.ops.source(self.type(node.type), node["kind"], *node["path"]), True)

    def range(self, node: Node, inputs: list[Part]) -> Part | None:
        if not self.has(node):
            return None
        places = self.places()
        if node.type.target is not None:
            places = self.ops.make("rename", (places,), Type("int", (self.axis,), node.type.target))
        return Part(places, True)

    def size(self, node: Node, inputs: list[Part]) -> Part | None:
        axis = node.inputs[0].type.axis(node["axis"])
        return Part(self.ops.constant(self.placement.size)) if self.ours(axis) else None

    def one_hot(self, node: Node, inputs: list[Part]) -> Part | None:
        if not self.ours(node.type.axis(node["axis"])):
            return None
        equal = self.ops.elementwise("eq", inputs[0].node, self.places())
        return Part(self.ops.expand(self.ops.where(equal, 1.0, 0.0), self.type(node.type).axes), True)

    def dot(self, node: Node, inputs: list[Part]) -> Part | None:
        if self.axis.name not in node["over"]:
            return self.product(node)
        if self.exact or not any(part.split for part in inputs):
            return self.together(node, inputs)
        return self.collected("sum", self.again(node, [self.local(part).node for part in inputs], node.type))

    def product(self, node: Node) -> Part | None:
        """A product with known weights: a rank gets the rows that its own nodes hear, and multiplies with the entries that are not zero."""
        found = self.products.of(node, self.axis.name) if self.products is not None else None
        if found is None or not self.known[found.value.id].split:
            return None
        assert self.products is not None
        sparse = self.products.pays(found)
        if self.exact and not sparse:
            return None
        value = self.known[found.value.id]
        own = self.products.weights(found)
        if self.exact:
            moved, rows = self.ops.rename(self.whole(value), {found.row: found.column}), own.part(self.placement.own)
        else:
            heard = [own.heard(part) for part in self.placement.parts]
            route = Route(self.placement, tuple(heard))
            axes = tuple(Axis(a.name, len(heard[self.placement.rank])) if a.name == self.axis.name else a for a in value.node.type.axes)
            type_ = replace(value.node.type, axes=axes)
            moved = self.ops.make("transfer", (value.node,), type_, form="halo", axis=self.axis.name, route=route)
            moved = self.ops.rename(moved, {found.row: found.column})
            rows = own.part(self.placement.own, heard[self.placement.rank])
        mixed = self.products.mix(moved, rows, self.axis, found.column)
        return Part(self.ops.expand(mixed, self.type(node.type).axes), True)

    def choice(self, node: Node, inputs: list[Part]) -> Part | None:
        """x[node: i]: one entry comes from the rank that holds it; many are looked up in the whole."""
        if node["axis"] != self.axis.name:
            return None
        value, index = inputs
        if not value.split or index.node.type.axes:
            if index.split or not self.has(node):
                made = self.ops.make("gather", (self.whole(value), index.node), self.type(node.type), axis=node["axis"])
                return Part(made, self.has(node))
            return self.together(node, inputs)
        return Part(self.ops.make("transfer", (value.node, index.node), node.type, form="fetch", axis=self.axis.name))

    def draw(self, node: Node, inputs: list[Part]) -> Part:
        """Made whole: its numbers are counted along all of its axes."""
        return self.together(node, inputs)

    def scan(self, node: Node, inputs: list[Part]) -> Part:
        """A loop: what it carries, reads and captures is split where it has the axis; along the axis itself all is whole."""
        assert node.body is not None
        if node["axis"] == self.axis.name:
            return self.together(node, inputs)
        given = [self.local(part) for part in inputs]
        inner = Spreader(self.ops, self.placement, self.exact, self.products)
        parameters = []
        for old in node.body.parameters:
            split = self.has(old)
            fresh = self.ops.graph.fresh("element", self.type(old.type) if split else old.type, old.span)
            parameters.append(fresh)
            inner.known[old.id] = Part(fresh, split)
        results = []
        for place, (name, root) in enumerate(node.body.results):
            part = inner.part(root)
            results.append((name, inner.local(part).node if place < node["carries"] or part.split else part.node))
        body = Region(tuple(results), tuple(parameters), node.body.name)
        return Part(self.ops.make("scan", [part.node for part in given], node.type, body, **dict(node.attrs)))

    def item(self, node: Node, inputs: list[Part]) -> Part:
        """A final carry, or what was stacked."""
        scan = inputs[0].node
        assert scan.body is not None
        index = node["index"]
        like = scan.body.parameters[index] if index < scan["carries"] else scan.body.roots[index]
        split = self.axis in like.type.axes and scan["axis"] != self.axis.name
        made = self.ops.make("item", (scan,), self.type(node.type) if split else node.type, **dict(node.attrs))
        return Part(made, split and self.has(node))


def along(node: Node) -> set[str]:
    """The axes that an operation looks along, and not only repeats itself over."""
    if node.op in ELEMENTWISE or node.op in ("where", "choose", "expand", "model", "model_vjp", "const", "element"):
        return set()
    if node.op in ("leaf", "pack"):
        flat, leaves = (node.inputs[0], [node]) if node.op == "leaf" else (node, list(node.inputs))
        return {"param", *(name for leaf in leaves for name in leaf.type.names if not flat.type.has(name))}
    if node.op == "rename":
        return {name for pair in zip(node.inputs[0].type.names, node.type.names, strict=True) if pair[0] != pair[1] for name in pair}
    if node.op == "linalg":
        matrix = node.type.names if node["name"] == "identity" else node.inputs[0].type.names[-2:]
        given = {name for below in node.inputs for name in below.type.names}
        return set(matrix) | (given ^ set(node.type.names))
    if node.op.startswith("segment_"):
        target = node.inputs[1].type.target
        return {*node["over"], *((target.name,) if target is not None else ())}
    over = node.get("over", ())
    return {*((over,) if isinstance(over, str) else over), *((node["axis"],) if node.get("axis") is not None else ())}


SPECIAL: dict[str, Callable[[Spreader, Node, list[Part]], Part | None]] = {
    "source": Spreader.source, "range": Spreader.range, "axis_size": Spreader.size, "one_hot": Spreader.one_hot, "dot": Spreader.dot,
    "gather": Spreader.choice, "draw": Spreader.draw, "scan": Spreader.scan, "item": Spreader.item,
}  # fmt: skip


__all__ = ["Part", "Route", "Spreader", "along"]

"""Products with the weights of a topology, where most weights are zero: known before the run, found a stretch of rows at a time.

`dot(weights, rename(x, node: from), over: from)` with weights that depend on nothing from outside becomes `mix(x)`, which holds the entries that
are not zero, row by row. The weights themselves are worked out from the spec's own formulas, for a stretch of nodes at a time as a rank would, so
that a topology of many nodes never needs a matrix of all pairs.

Axes: node (rows: who receives), from (columns: who is heard).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy

from gradflow.graph.graph import Graph, Node, Region, ordered, rebuild
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.passes.constants import is_closed
from gradflow.placement.partition import Placement
from gradflow.placement.spread import Part, Spreader

MANY = 64  # nodes from which on the zeros are left out
DENSE = 0.25  # share of entries up to which leaving zeros out pays
STRETCH = 1 << 18  # pairs of nodes looked at at a time: what is made of them stays in the cache


@dataclass(frozen=True, eq=False)
class Weights:
    """The entries that are not zero: of row i those from starts[i] to starts[i + 1], ascending by column."""

    columns: int
    starts: numpy.ndarray
    places: numpy.ndarray
    values: numpy.ndarray

    @property
    def rows(self) -> int:
        return len(self.starts) - 1

    @property
    def matrix(self) -> Any:
        import scipy.sparse

        return scipy.sparse.csr_matrix((self.values, self.places, self.starts), (self.rows, self.columns))

    @property
    def density(self) -> float:
        return len(self.places) / max(self.rows * self.columns, 1)

    def heard(self, rows: Sequence[int]) -> tuple[int, ...]:
        """The columns that these rows read, and the rows' own numbers, ascending."""
        found = self.matrix[list(rows)].indices
        return tuple(sorted({*map(int, found), *rows}))

    def part(self, rows: Sequence[int], columns: Sequence[int] | None = None) -> Weights:
        """Some rows; with `columns` only these, which must hold all that the rows read."""
        found = self.matrix[list(rows)]
        return weights_of(found if columns is None else found[:, list(columns)])

    def __repr__(self) -> str:
        return f"Weights({self.rows} x {self.columns}, {len(self.places)} entries)"


def weights_of(matrix: Any) -> Weights:
    """From any scipy or numpy matrix."""
    import scipy.sparse

    found = scipy.sparse.csr_matrix(matrix)
    found.eliminate_zeros()
    found.sort_indices()
    return Weights(found.shape[1], found.indptr.astype(numpy.int64), found.indices.astype(numpy.int64), found.data)


# ---- evaluation in stretches


class Stretches:
    """Evaluates closed nodes over an axis, a stretch of its entries at a time; what is needed whole (a degree, say) is put together first."""

    def __init__(self, ops: Operations, axis: str, size: int):
        self.size = size
        self.rows = max(1, min(size, STRETCH // max(size, 1)))
        self.kinds = {length: _Stretch(ops, axis, length, size) for length in {self.rows, size % self.rows} if length}
        self.wholes: dict[int, numpy.ndarray] = {}

    def each(self, node: Node, names: tuple[str, ...]) -> Iterable[numpy.ndarray]:
        """The node's value by stretches, dimensions in the order of `names`."""
        from gradflow.backends.reference import lower

        ready = {}
        for length, kind in self.kinds.items():
            part = kind.local(kind.part(node)).node
            part = kind.ops.expand(part, tuple(part.type.axis(name) for name in names))
            given = {source["path"][0] for source in ordered([part]) if source.op == "source" and source["kind"] == "whole"}
            ready[length] = lower(Region((("part", part),))), {("whole", key): self.whole(kind.origin[int(key)]) for key in given}
        for start in range(0, self.size, self.rows):
            length = min(self.rows, self.size - start)
            run, inputs = ready[length]
            yield run(inputs | {("place",): numpy.arange(start, start + length)})["part"]

    def whole(self, node: Node) -> numpy.ndarray:
        if node.id not in self.wholes:
            names = node.type.names
            place = names.index(next(iter(self.kinds.values())).axis.name)
            self.wholes[node.id] = numpy.concatenate(list(self.each(node, names)), axis=place)
        return self.wholes[node.id]


class _Stretch(Spreader):
    """A rank that can be anywhere: its places are given, its gathers are read from what was worked out before."""

    def __init__(self, ops: Operations, axis: str, length: int, size: int):
        super().__init__(ops, Placement((tuple(range(length)), tuple(range(length, size))), 0, axis), exact=True)
        self.origin: dict[int, Node] = {}

    def visit(self, node: Node, inputs: list[Part]) -> Part:
        part = super().visit(node, inputs)
        self.origin.setdefault(part.node.id, node)
        return part

    def reduction(self, node: Node, inputs: list[Part]) -> Part:
        """There are no other ranks to ask: what looks at all entries (the largest degree, say) sees the whole."""
        return self.together(node, inputs)

    def choice(self, node: Node, inputs: list[Part]) -> Part | None:
        return self.together(node, inputs) if node["axis"] == self.axis.name else None

    def places(self) -> Node:
        return self.ops.source(Type("int", (self.axis,)), "place")

    def whole(self, part: Part) -> Node:
        if not part.split:
            return part.node
        return self.ops.source(self.full(part.node.type), "whole", str(part.node.id))


@lru_cache(maxsize=8)
def sparse_of(node: Node, row: str, column: str) -> Weights:
    """The entries of a closed value [row, column] that are not zero; asked for by whoever places, mixes and counts, and worked out once."""
    size = node.type.axis(row).size
    assert size is not None
    stretches = Stretches(Operations(Graph(count=node.id)), row, size)
    import scipy.sparse

    return weights_of(scipy.sparse.vstack([scipy.sparse.csr_matrix(part) for part in stretches.each(node, (row, column))]))


# ---- products


@dataclass(frozen=True)
class Product:
    """dot(weights, rename(value)) as found in a graph. `value` has the axis `row` where its copy has `column`."""

    weights: Node
    value: Node
    row: str
    column: str


def product_of(node: Node) -> Product | None:
    """The product with known weights that a node is, if it is one."""
    if node.op != "dot" or len(node["over"]) != 1:
        return None
    (column,) = node["over"]
    for weights, moved in (node.inputs, node.inputs[::-1]):
        if moved.op != "rename" or len(weights.type.axes) != 2 or not weights.type.has(column) or weights.type.base != "real":
            continue
        value = moved.inputs[0]
        (row,) = (name for name in weights.type.names if name != column)
        renamed = [pair for pair in zip(value.type.names, moved.type.names, strict=True) if pair[0] != pair[1]]
        sized = weights.type.axis(row).size is not None and weights.type.axis(row).size == weights.type.axis(column).size
        if renamed == [(row, column)] and sized and is_closed(weights):
            return Product(weights, value, row, column)
    return None


class Mixing:
    """Products with known weights."""

    def __init__(self, ops: Operations):
        self.ops = ops

    def weights(self, product: Product) -> Weights:
        return sparse_of(product.weights, product.row, product.column)

    def of(self, node: Node, axis: str) -> Product | None:
        """The product over the entries of an axis that a node is, if it is one."""
        product = product_of(node)
        return product if product is not None and product.row == axis else None

    def pays(self, product: Product) -> bool:
        """Whether leaving out the zeros is worth it."""
        size = product.weights.type.axis(product.row).size or 0
        return size >= MANY and self.weights(product).density <= DENSE

    def mix(self, value: Node, weights: Weights, row: Axis, column: str) -> Node:
        """The product: `value` has the axis `column`, in whose place comes `row`."""
        axes = (row, *value.type.without([column]))
        return self.ops.make("mix", (value,), Type("real", axes), weights=weights, over=column, axis=row.name)


def sparsely(ops: Operations) -> Callable[[Region], Region]:
    """Replaces the products of a region that pay."""
    mixing = Mixing(ops)

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        product = product_of(node)
        if product is None or not mixing.pays(product):
            return None
        moved = next(new for new, old in zip(inputs, node.inputs, strict=True) if old is not product.weights)
        ops.span = node.span
        mixed = mixing.mix(moved, mixing.weights(product), product.weights.type.axis(product.row), product.column)
        return ops.expand(mixed, node.type.axes)

    def rewrite(region: Region) -> Region:
        if not any(product_of(node) is not None for node in region.nodes()):
            return region
        new = rebuild(ops.graph, region.roots, replace)
        return Region(tuple((name, new[node.id]) for name, node in region.results), region.parameters, region.name)

    return rewrite


__all__ = ["Mixing", "Product", "Weights", "product_of", "sparse_of", "sparsely", "weights_of"]

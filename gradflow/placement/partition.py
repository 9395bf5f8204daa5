"""Which rank holds which nodes: parts of nearly equal size with few links between them.

Three cuts are tried and the cheapest is taken: the order of the numbers (best for rings, paths and tori as they are numbered), the spectral
order of the graph (its Fiedler vector), and recursive bisection by Kernighan and Lin, which is networkx's. Rank 0 decides for all: where
eigenvectors are not unique, the last bit of an arithmetic may.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SEARCHED = 2000  # nodes up to which other orders than that of the numbers are tried


@dataclass(frozen=True)
class Placement:
    """`parts[r]`: the nodes that rank r holds, ascending; `rank`: whose view this is."""

    parts: tuple[tuple[int, ...], ...]
    rank: int = 0
    axis: str = "node"

    @property
    def own(self) -> tuple[int, ...]:
        return self.parts[self.rank]

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def ranks(self) -> int:
        return len(self.parts)

    @cached_property
    def owner(self) -> dict[int, int]:
        """The rank of each node."""
        return {node: rank for rank, part in enumerate(self.parts) for node in part}


def cut(links: Iterable[tuple[int, int]], parts: Sequence[Sequence[int]]) -> int:
    """How many links join two parts."""
    owner = {node: rank for rank, part in enumerate(parts) for node in part}
    return sum(owner[i] != owner[j] for i, j in links)


def partition(nodes: int, links: Iterable[tuple[int, int]], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Parts whose sizes differ by one at most. Raises ValueError where there are fewer nodes than ranks."""
    if not 1 <= ranks <= nodes:
        raise ValueError(f"{nodes} nodes cannot be placed on {ranks} processes: each holds at least one")
    links = list(links)
    candidates = [blocks(range(nodes), ranks)]
    if 1 < ranks < nodes <= SEARCHED and 0 < len(links) < nodes * (nodes - 1) // 2:
        import networkx

        graph = networkx.Graph(links)
        graph.add_nodes_from(range(nodes))
        candidates.append(blocks(_spectral_order(graph), ranks))
        candidates.append(_bisected(graph, ranks))
    equal = sorted(map(len, candidates[0]))
    best = min((parts for parts in candidates if sorted(map(len, parts)) == equal), key=lambda parts: cut(links, parts))
    return tuple(sorted((tuple(sorted(part)) for part in best), key=lambda part: part[0]))


def blocks(order: Iterable[int], ranks: int) -> list[list[int]]:
    """Consecutive stretches of an order, as equal as can be."""
    listed = list(order)
    return [listed[rank * len(listed) // ranks : (rank + 1) * len(listed) // ranks] for rank in range(ranks)]


def _spectral_order(graph: Any) -> list[int]:
    """By the second eigenvector of the Laplacian, equal entries by number. (networkx's own search for it need not end where eigenvalues coincide.)"""
    import networkx
    import numpy

    laplacian = networkx.laplacian_matrix(graph, nodelist=range(len(graph))).toarray().astype(float)
    fiedler = numpy.linalg.eigh(laplacian)[1][:, 1]
    return [int(node) for node in numpy.argsort(fiedler.round(9), kind="stable")]


def _bisected(graph: Any, ranks: int) -> list[list[int]]:
    from networkx.algorithms.community import kernighan_lin_bisection

    if ranks == 1:
        return [sorted(graph)]
    total, fewer = len(graph), ranks // 2
    order = sorted(graph)
    start = total * fewer // ranks
    first, second = kernighan_lin_bisection(graph, (set(order[:start]), set(order[start:])), seed=0) if start else (set(), set(order))
    return [*_bisected(graph.subgraph(first), fewer), *_bisected(graph.subgraph(second), ranks - fewer)]


__all__ = ["Placement", "blocks", "cut", "partition"]

"""Who hears whom, as what is asked of it update after update: how many hear a node, and how many arcs there are. Kept sparse, summed once.

Axes: node (who receives), from (who is heard); nobody hears itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy


@dataclass(frozen=True, eq=False)
class Heard:
    """`matrix`: a sparse [node, from] with an entry for every arc."""

    matrix: Any

    @classmethod
    def of(cls, weights: Any) -> Heard:
        """From weights (dense or sparse): who has one that is not zero, but for a node's own."""
        import scipy.sparse  # of topologies alone, and slow to import

        found = scipy.sparse.csr_matrix(weights, dtype=None)
        found = scipy.sparse.csr_matrix(found != 0)
        found.setdiag(False)
        found.eliminate_zeros()
        found.sort_indices()
        return cls(found)

    @cached_property
    def hearers(self) -> numpy.ndarray[Any, numpy.dtype[numpy.int64]]:
        """[from]: how many hear each node."""
        return numpy.bincount(self.matrix.indices, minlength=self.matrix.shape[1])

    @property
    def arcs(self) -> int:
        return int(self.matrix.nnz)

    @cached_property
    def dense(self) -> numpy.ndarray[Any, numpy.dtype[numpy.bool_]]:
        """[node, from], for clocks, which keep a delay for every pair anyway."""
        found: numpy.ndarray[Any, numpy.dtype[numpy.bool_]] = self.matrix.toarray().astype(bool)
        return found

    def same(self, other: Heard) -> bool:
        return self is other or (self.arcs == other.arcs and not (self.matrix != other.matrix).nnz)

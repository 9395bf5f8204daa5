"""Which rows of a table train and which test, and which training rows a node owns.

All is drawn from fixed keys with `runtime.random`: the same rows for everybody, whatever the seed of the run and the version of numpy.

How rows are divided among nodes, all nodes getting equally many: `iid` at random; `by_label` sorted by y and cut into runs, so that a node
sees one or two classes; `dirichlet` each node with a mix of classes drawn from Dirichlet(alpha), as in arXiv:1909.06335.
"""

from __future__ import annotations

from typing import Any

from gradflow.library.deferred import numpy, random


def held_out(rows: int, share: float) -> int:
    return int(rows * share + 0.5)


def train_and_test(name: str, groups: Any, share: float) -> tuple[Any, Any]:
    """Row indices of the two splits, ascending; of each value of `groups` int [rows] the same share is held out."""
    test = numpy.zeros(len(groups), bool)
    for value in numpy.unique(groups):
        rows = numpy.flatnonzero(groups == value)
        order = random.permutation(random.key(0, "test split", name, int(value)), len(rows))
        test[rows[order[: held_out(len(rows), share)]]] = True
    return numpy.flatnonzero(~test), numpy.flatnonzero(test)


def keep_some(rows: Any, count: int) -> Any:
    """`count` of the rows drawn at random, in their old order; a larger count keeps those of a smaller one."""
    return numpy.sort(rows[random.permutation(random.key(0, "kept rows"), len(rows))[:count]])


def divide_rows(nodes: int, y: Any, how: str, alpha: float = 1.0, per_node: int | None = None) -> list[Any]:
    """The rows of each node: int64 arrays of equal length, disjoint. `per_node` keeps so many of a node's rows, drawn at random."""
    share = len(y) // nodes
    if share < (per_node or 1):
        raise ValueError(f"{len(y)} training rows do not give each of {nodes} nodes {per_node or 1}")
    order = random.permutation(random.key(0, "rows of nodes"), len(y))
    if how == "dirichlet":
        owned = deal_by_mixes(nodes, share, order, y, alpha)
    else:
        order = order if how == "iid" else numpy.argsort(y, kind="stable")
        owned = [order[i * len(y) // nodes :][:share] for i in range(nodes)]  # cut evenly, so that what is left over is not one class
    if per_node is not None:
        owned = [rows[random.permutation(random.key(0, "rows kept by a node", i), share)[:per_node]] for i, rows in enumerate(owned)]
    return owned


def deal_by_mixes(nodes: int, share: int, order: Any, y: Any, alpha: float) -> list[Any]:
    """Rows are dealt in turn; whose turn it is draws a class from its mix, among those of which rows are left."""
    from scipy.special import gammaincinv

    piles = [list(order[y[order] == label]) for label in numpy.unique(y)]
    weight = numpy.array([len(pile) for pile in piles]) / len(y) * len(piles) * alpha
    uniforms = random.uniform(random.key(0, "mixes"), numpy.arange(nodes * len(piles))).reshape(nodes, -1)
    mixes = numpy.maximum(gammaincinv(weight, uniforms), 1e-300)  # gamma variates: their shares are Dirichlet(weight)
    turns = random.uniform(random.key(0, "turns"), numpy.arange(share * nodes)).reshape(share, nodes)
    owned: list[list[int]] = [[] for _ in range(nodes)]
    for turn in turns:
        for node, u in enumerate(turn):
            sums = numpy.cumsum(mixes[node] * [len(pile) > 0 for pile in piles])
            owned[node].append(piles[int(numpy.searchsorted(sums, u * sums[-1], side="right"))].pop())
    return [numpy.array(rows, numpy.int64) for rows in owned]


def standardized(train: Any, test: Any) -> tuple[Any, Any]:
    """Mean 0 and variance 1 over the training rows; a constant column stays at 0."""
    center, spread = train.mean(0), train.std(0)
    spread = numpy.where(spread == 0, 1.0, spread)
    return (train - center) / spread, (test - center) / spread

"""Sparse products: weights worked out in stretches are the dense ones, and the rows of a product do not depend on how they are cut."""

from __future__ import annotations

import shutil

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.backends.torch.mixing import CompiledMixer, Mixer, mix
from gradflow.cli.plan import program_of
from gradflow.passes.constants import compute
from gradflow.placement import sparse
from gradflow.placement.partition import cut, partition
from gradflow.plan.program import Update

GRAPHS = ["ring(70)", "torus(9, 8)", "star(80)", "exponential(96)", "path(65)"]
GRAPHS += ["path(70, weights: max_degree())", "torus(9, 8, weights: best_constant())"]  # which look at all degrees, at all eigenvalues


def gossip(graph: str) -> Update:
    program = program_of("baselines/exchanges:gossip_on_digits", [f"graph={graph}"])
    assert program is not None
    return next(action for action in program.phases[0].actions if isinstance(action, Update))


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_by_stretches_are_the_dense_ones(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "STRETCH", 1000)
    products = [found for node in gossip(graph).region.nodes() if (found := sparse.product_of(node)) is not None]
    assert len(products) == 1
    (dense,) = compute(products[0].weights)
    sparse.sparse_of.cache_clear()
    found = sparse.sparse_of(products[0].weights, products[0].row, products[0].column)
    numpy.testing.assert_array_equal(found.matrix.toarray(), dense)
    assert found.density < 1 or graph == "complete"


def matrices() -> st.SearchStrategy[numpy.ndarray]:
    """Sparse matrices with bands, empty rows and a crowded row."""

    def make(rows: int, columns: int, seed: int, band: bool, crowded: bool) -> numpy.ndarray:
        random = numpy.random.default_rng(seed)
        w = numpy.where(random.uniform(size=(rows, columns)) < 0.1, random.normal(size=(rows, columns)), 0.0)
        if band:
            for offset in (-1, 0, 1):
                for row in range(rows):
                    w[row, (row + offset) % columns] = 0.25 + offset
        if crowded:
            w[rows // 2] = random.normal(size=columns)
        return w

    return st.builds(make, st.integers(1, 120), st.integers(1, 120), st.integers(0, 99), st.booleans(), st.booleans())


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(0, 5))
def test_products_are_those_of_the_dense_matrix(w: numpy.ndarray, rest: int) -> None:
    x = torch.randn(w.shape[1], rest, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = mix(sparse.weights_of(w), x)
    torch.testing.assert_close(found, torch.as_tensor(w) @ x, rtol=1e-12, atol=1e-12)
    out = torch.full_like(found, torch.nan)
    assert mix(sparse.weights_of(w), x, out=out) is out and torch.equal(out, found)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_products_are_the_same() -> None:
    w = numpy.zeros((70, 70))
    for row in range(70):
        w[row, [(row - 1) % 70, row, (row + 1) % 70][: 2 + row % 2]] = 1 / numpy.array([3, 4, 5])[: 2 + row % 2]
    weights = sparse.weights_of(w)
    x = torch.randn(70, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert CompiledMixer.takes(weights)
    torch.testing.assert_close(mix(weights, x, compiled=True), torch.as_tensor(w) @ x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_has_the_same_bits_whichever_rows_stand_with_it(dtype: torch.dtype) -> None:
    n, width = 200, 37
    w = numpy.zeros((n, n))
    for row in range(n):
        w[row, [row, (row + 1) % n, (row - 1) % n, (row * 7) % n]] = 1 / numpy.array([3, 4, 5, 6])
    weights = sparse.weights_of(w)
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = Mixer(weights, dtype, torch.device("cpu"))(x)
    for rows in (range(0, 33), range(33, 34), range(100, 200), [3, 77, 5]):
        columns = weights.heard(list(rows))
        part = Mixer(weights.part(list(rows), columns), dtype, torch.device("cpu"))(x[list(columns)])
        assert torch.equal(part, whole[list(rows)])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_parts_are_balanced_and_cut_few_links(ranks: int) -> None:
    side = 6
    torus = [(i, j) for i in range(36) for j in (i // side * side + (i + 1) % side, (i + side) % 36)]
    parts = partition(36, torus, ranks)
    assert sorted(node for part in parts for node in part) == list(range(36))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    random = numpy.random.default_rng(0).permutation(36)
    scattered = [sorted(map(int, piece)) for piece in numpy.array_split(random, ranks)]
    assert ranks == 1 or cut(torus, parts) < 0.8 * cut(torus, scattered)


def test_clusters_with_scattered_numbers_are_found() -> None:
    """Two cliques whose numbers alternate: one link between them, and the parts are the cliques."""
    even, odd = range(0, 20, 2), range(1, 20, 2)
    links = [(i, j) for group in (even, odd) for i in group for j in group if i < j] + [(0, 1)]
    assert partition(20, links, 2) == (tuple(even), tuple(odd))


def test_fewer_nodes_than_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 nodes cannot be placed on 4 processes"):
        partition(3, [(0, 1), (1, 2)], 4)

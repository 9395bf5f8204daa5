"""Facts of topologies: against networkx and numpy on random graphs, against closed forms, and what was stated against what is computed."""

from __future__ import annotations

import math

import networkx
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.topologies import facts as rooms
from tests.topologies.harness import Graph

CONNECTED = ["ring(7)", "path(6)", "star(8)", "star(9, 3)", "complete(5)", "torus(3, 4)", "torus(2, 5)", "torus(1, 6)", "grid(3, 2)", "hypercube(3)",
             "barbell(8)", "exponential(9)", "karate_club()", "ring(2)", "ring(1)", "path(1)", "complete(1)", "hypercube(0)", "star(1)"]  # fmt: skip


@pytest.mark.parametrize("text", CONNECTED)
def test_what_is_stated_is_so(text: str) -> None:
    graph = Graph(text)
    found = graph.facts
    assert found.connected and found.components == 1 and found.holds("connected")
    for name in ("connected", "central", "doubly_stochastic"):
        assert not rooms.stated(graph.value, name) or getattr(found, "connected" if name == "central" else name)
    assert rooms.stated(graph.value, "connected") or text == "karate_club()"


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 14), st.floats(0.15, 0.9), st.integers(0, 10**6))
def test_random_graphs_against_networkx(n: int, p: float, seed: int) -> None:
    reference = networkx.gnp_random_graph(n, p, seed=seed)
    links = " or ".join(f"i == {a} and j == {b}" for a, b in reference.edges) or "i == j"
    graph = Graph("drawn()", f"topology drawn {{ nodes = {n}; link i <-> j if {links} }}")
    found = graph.facts
    assert found.links == reference.number_of_edges() and found.components == networkx.number_connected_components(reference)
    assert found.edges == tuple(sorted(tuple(sorted(edge)) for edge in reference.edges))
    assert (found.degree_least, found.degree_most) == (min(d for _, d in reference.degree), max(d for _, d in reference.degree))
    laplacian = networkx.laplacian_matrix(reference).toarray().astype(float)
    w = graph.get("graph.weights")
    numpy.testing.assert_allclose(w.sum(0), 1, atol=1e-12)
    numpy.testing.assert_allclose(w.sum(1), 1, atol=1e-12)
    assert (w > -1e-12).all() and found.doubly_stochastic
    assert found.contraction is not None and (found.contraction < 1 - 1e-12) == (networkx.is_connected(reference))
    numpy.testing.assert_allclose(found.contraction, numpy.linalg.svd(w - 1 / n, compute_uv=False)[0], atol=1e-12)
    numpy.testing.assert_allclose(found.slem, sorted(abs(numpy.linalg.eigvals(w)))[-2], atol=1e-9)
    x = numpy.random.default_rng(seed).normal(size=(n, 3))
    assert numpy.linalg.norm(w @ x - x.mean(0)) <= found.contraction * numpy.linalg.norm(x - x.mean(0)) + 1e-9
    numpy.testing.assert_allclose((w @ x).mean(0), x.mean(0), atol=1e-12)
    if not networkx.is_connected(reference):
        assert found.connectivity == 0 and found.chi_1 is None and found.chi_2 is None and found.diameter is None
        return
    assert found.diameter == networkx.diameter(reference)
    numpy.testing.assert_allclose(found.connectivity, numpy.linalg.eigvalsh(laplacian)[1], rtol=1e-8)
    inverse = numpy.linalg.inv(laplacian + 1 / n)  # networkx.resistance_distance inverts rounding errors of the null space
    resistance = inverse.diagonal()[:, None] + inverse.diagonal() - 2 * inverse
    worst = max(resistance[a][b] for a, b in reference.edges)
    numpy.testing.assert_allclose(found.chi_2, found.links * worst / 2, rtol=1e-8)
    assert found.chi_2 is not None and found.chi_1 is not None and found.chi_2 <= found.chi_1 * (1 + 1e-9)
    total = sum(resistance[a][b] for a, b in reference.edges)
    numpy.testing.assert_allclose(total, n - 1, rtol=1e-8)  # Foster


@settings(max_examples=12, deadline=None)
@given(st.integers(3, 9), st.integers(0, 10**6))
def test_delays_of_link_rates(n: int, seed: int) -> None:
    """chi_1, chi_2 of rates in the language: scaling, Foster's theorem, and the facts' own where all rates are equal."""
    reference = networkx.connected_watts_strogatz_graph(n, 2, 0.4, seed=seed)
    links = " or ".join(f"i == {a} and j == {b}" for a, b in reference.edges)
    graph = Graph("drawn()", f"topology drawn {{ nodes = {n}; link i <-> j if {links} }}")
    rates = numpy.random.default_rng(seed).uniform(0.1, 2, graph.facts.links)
    listed = f"[{', '.join(map(repr, rates.tolist()))}]"
    graph.scope.names["rate"] = graph.e.ops.rename(graph.e.ops.stack(rates.tolist(), "item"), {"item": "link"})
    assert listed
    chi_1, chi_2 = (graph.get(f"delays(graph, rate).{name}") for name in ("chi1", "chi2"))
    lap = graph.get("arrange(laplacian(graph, rate), [node, from])")
    expected = numpy.zeros((n, n))
    for (a, b), rate in zip(graph.facts.edges, rates, strict=True):
        expected[[a, b], [a, b]] += rate
        expected[[a, b], [b, a]] -= rate
    numpy.testing.assert_allclose(lap, expected, atol=1e-12)
    pinv = numpy.linalg.pinv(expected)
    resistances = numpy.array([pinv[a, a] + pinv[b, b] - 2 * pinv[a, b] for a, b in graph.facts.edges])
    numpy.testing.assert_allclose((rates * resistances).sum(), n - 1, rtol=1e-8)
    numpy.testing.assert_allclose(chi_2, resistances.max() / 2, rtol=1e-7)
    numpy.testing.assert_allclose(chi_1, 1 / numpy.linalg.eigvalsh(expected)[1], rtol=1e-7)
    numpy.testing.assert_allclose(graph.get("delays(graph, 3 * rate).chi1"), chi_1 / 3, rtol=1e-8)
    even = graph.get("delays(graph, 1 / graph.links).chi2")
    numpy.testing.assert_allclose(even, graph.facts.chi_2, rtol=1e-8)
    numpy.testing.assert_allclose(graph.get("arrange(laplacian(graph), [node, from])"), graph.get("graph.laplacian"), atol=1e-12)


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_closed_forms(n: int) -> None:
    assert Graph(f"ring({n})").facts.contraction == pytest.approx(abs(1 / 3 + 2 / 3 * math.cos(2 * math.pi / n)) if n > 3 else 0, abs=1e-12)
    assert Graph(f"star({n})").facts.contraction == pytest.approx(1 - 1 / n)
    assert Graph(f"complete({n})").facts.contraction == pytest.approx(0, abs=1e-12)
    if n % 2 == 0:
        assert Graph(f"exponential({n})").facts.contraction == pytest.approx(1 - 2 / (1 + math.ceil(math.log2(n))))
    assert Graph(f"path({n})").facts.chi_2 == pytest.approx((n - 1) / 2)  # of a tree 1 / (2 rate), the rates summing to 1


GAPS = {"ring(16)": 0.0507, "path(16)": 0.0128, "torus(4, 4)": 0.4, "hypercube(4)": 0.4, "star(16)": 0.0625, "complete(16)": 1.0,
        "exponential(16)": 0.4, "barbell(16)": 0.0227}  # fmt: skip


@pytest.mark.parametrize(("text", "gap"), GAPS.items())
def test_gaps_of_sixteen_nodes(text: str, gap: float) -> None:
    assert Graph(text).facts.gap == pytest.approx(gap, abs=5e-5)


def test_one_node_and_two() -> None:
    for text in ("ring(1)", "path(1)", "complete(1)", "star(1)", "torus(1, 1)"):
        found = Graph(text).facts
        assert (found.nodes, found.links, found.connected, found.diameter, found.gap) == (1, 0, True, 0, 1.0) and found.chi_1 is None
    for text in ("ring(2)", "path(2)", "complete(2)", "star(2)", "torus(2, 1)", "hypercube(1)"):
        found = Graph(text).facts
        assert (found.nodes, found.links, found.diameter) == (2, 1, 1) and found.contraction == pytest.approx(0, abs=1e-12)
    assert Graph("torus(2, 4)").facts.degree_most == 3 and Graph("torus(2, 2)").facts.links == 4


@pytest.mark.parametrize("text", ["ring(9)", "karate_club()", "star(7)", "barbell(8)"])
def test_walks_are_in_detailed_balance(text: str) -> None:
    graph = Graph(text)
    for walk in ("metropolis_hastings(graph)", "simple_walk(graph)", "max_degree_walk(graph)", "lazy_walk(simple_walk(graph))"):
        p, law = graph.get(f"arrange({walk}, [node, to])"), graph.get(f"stationary({walk})")
        numpy.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
        numpy.testing.assert_allclose(law[:, None] * p, (law[:, None] * p).T, atol=1e-12)


def test_a_hub_that_is_no_node() -> None:
    graph = Graph("star(5, hub: trusted)")
    found = graph.facts
    assert found.hub and not found.connected and found.links == 0 and "none of them" in found.why("connected")
    assert rooms.stated(graph.value, "central") and not rooms.stated(graph.value, "connected")
    assert not Graph("star(5)").facts.hub and not Graph("apart()", "topology apart { nodes = 3; link i <-> j if i > 5 }").facts.hub


def test_direction_and_bad_sums_are_named() -> None:
    down = Graph("down()", "topology down { nodes = 4; link i -> j if i < j }").facts
    assert not down.connected and down.components == 1 and "go one way" in down.why("connected")
    drifting = Graph("star(8, weights: uniform_weights())").facts
    assert not drifting.doubly_stochastic and "2.6" in drifting.why("doubly_stochastic") and drifting.worst_column == 0
    apart = Graph("apart()", "topology apart { nodes = 6; link i <-> j if mod(i, 3) == mod(j, 3) }").facts
    assert apart.components == 3 and apart.contraction == pytest.approx(1) and "3 parts" in apart.why("connected")


@pytest.mark.parametrize("text", ["ring(30)", "torus(5, 6)", "star(31)", "path(40)", "complete(20)", "barbell(30)"])
def test_sparse_numbers_are_the_dense_ones(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = Graph(text).facts
    monkeypatch.setattr(rooms, "SMALL", 10)
    sparse = Graph(text).facts
    for name in ("contraction", "slem", "connectivity", "chi_1"):
        assert getattr(sparse, name) == pytest.approx(getattr(dense, name), abs=2e-8, rel=2e-6), name
    assert (sparse.links, sparse.connected, sparse.degree_most) == (dense.links, dense.connected, dense.degree_most)
    assert sparse.diameter is None and sparse.chi_2 is None


@pytest.mark.parametrize("text", ["ring(9)", "exponential(6)", "torus(3, 4)", "hypercube(3)", "erdos_renyi(12, 0.4)", "path(2) * ring(3) * path(2)"])
def test_listed_links_are_those_of_the_adjacency(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradflow.topologies import edges

    monkeypatch.setattr(edges, "BLOCK", 25)
    graph = Graph(text)
    sender, receiver = edges.arcs_of(graph.e, graph.value)
    found = numpy.zeros((graph.value.nodes, graph.value.nodes), bool)
    found[receiver, sender] = True
    assert (found == graph.get("graph.adjacency")).all() and found.any()
    incidence = graph.get("graph.incidence")
    assert incidence.shape == (graph.facts.links, graph.value.nodes) and (incidence.sum(1) == 0).all() and (abs(incidence).sum(1) == 2).all()
    pairs = list(zip(*edges.links_of(graph.e, graph.value), strict=True))
    assert pairs == sorted(pairs)


def test_large_graphs_take_seconds() -> None:
    found = Graph("torus(60, 60)").facts
    assert found.links == 7200 and found.gap == pytest.approx(2 / 5 * (1 - math.cos(2 * math.pi / 60)), rel=1e-6)

"""Graphs that change with the round: cycles, stated periods, and all rounds side by side."""

from __future__ import annotations

import math

import numpy
import pytest

from gradflow.language.diagnostics import Mistake
from gradflow.passes.constants import compute
from gradflow.topologies.sequences import at_round
from tests.topologies.harness import Graph


@pytest.mark.parametrize("n", range(2, 13))
def test_one_peer_reaches_the_mean_for_powers_of_two_alone(n: int) -> None:
    found = Graph(f"one_peer_exponential({n})").facts
    assert found.rounds == max(1, math.ceil(math.log2(n))) and found.doubly_stochastic and found.connected
    assert found.contraction is not None and (found.contraction < 1e-6) == (n & (n - 1) == 0)
    assert (found.degree_least, found.degree_most) == (1, 1)


def test_a_cycle_is_its_entries_in_turn() -> None:
    graph = Graph("cycle(ring(6), complete(6), star(6, weights: max_degree()))")
    parts = [Graph("ring(6)"), Graph("complete(6)"), Graph("star(6, weights: max_degree())")]
    assert graph.value.rounds == 3 and not graph.value.constant
    for number in range(1, 8):
        part = parts[(number - 1) % 3]
        for value, expected in ((graph.value.adjacency, "graph.adjacency"), (graph.value.weights, "graph.weights")):
            assert (compute(at_round(graph.e, value, number))[0] == part.get(expected)).all()
    found = graph.facts
    assert found.rounds == 3 and found.links == 15 and found.connected and found.doubly_stochastic
    product = numpy.eye(6)
    for part in parts:
        product = part.get("graph.weights") @ product
    assert found.contraction == pytest.approx(numpy.linalg.norm(product - 1 / 6, 2) ** (1 / 3), abs=1e-9)


def test_a_sequence_has_all_rounds_side_by_side() -> None:
    graph = Graph("cycle(path(5), ring(5))")
    assert graph.get("graph.rounds") == 2
    adjacency = graph.get("graph.sequence.adjacency")
    assert adjacency.shape == (2, 5, 5) and adjacency.sum(axis=(1, 2)).tolist() == [8, 10]
    slow = graph.get("eigenvalue(graph.sequence.laplacian, 2)")
    numpy.testing.assert_allclose(slow, [Graph("path(5)").facts.connectivity, Graph("ring(5)").facts.connectivity])
    numpy.testing.assert_allclose(graph.get("min(eigenvalue(graph.sequence.laplacian, 2), over: round)"), min(slow))
    chi = graph.get("delays(graph.sequence).chi2")
    numpy.testing.assert_allclose(chi, [1 / 2, 4 / 5 / 2])
    assert Graph("ring(4)").get("graph.sequence.weights").shape == (1, 4, 4)


def test_no_graph_is_connected_and_all_together_are() -> None:
    even = "topology even { nodes = 4; link i <-> j if i == 0 and j == 1 or i == 2 and j == 3 }"
    odd = "topology odd { nodes = 4; link i <-> j if i == 1 and j == 2 or i == 0 and j == 3 }"
    found = Graph("cycle(even(), odd())", f"{even}\n{odd}").facts
    assert found.connected and found.contraction is not None and found.contraction < 1


def test_without_a_period_there_is_no_sequence() -> None:
    text = "topology drifting(n: int) { nodes = n; link i -> j if mod(j - i, n) == t }"
    graph = Graph("drifting(5)", text)
    assert graph.value.rounds == 0
    with pytest.raises(Mistake, match="after how many rounds"):
        graph.get("graph.sequence.adjacency")
    assert Graph("drifting(5)", text.replace("nodes = n;", "nodes = n; rounds = 4;")).facts.rounds == 4


@pytest.mark.parametrize("text", ["cycle(ring(4), ring(5))", "cycle(one_peer_exponential(4), ring(4))", "cycle(3)"])
def test_entries_that_do_not_go_together(text: str) -> None:
    with pytest.raises(Mistake):
        Graph(text)

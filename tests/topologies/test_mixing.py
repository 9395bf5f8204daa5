"""Weights by a semidefinite program: what they must be, closed forms, and what is said without the solver."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy
import pytest

from gradflow.language.diagnostics import Mistake
from tests.topologies.harness import Graph


@pytest.mark.parametrize("text", ["ring(7)", "path(6)", "star(7)", "barbell(8)", "grid(3, 3)", "karate_club()"])
def test_no_other_weights_are_faster(text: str) -> None:
    pytest.importorskip("cvxpy")
    inner = text.removesuffix(")")
    joined = inner if inner.endswith("(") else inner + ", "
    fastest = Graph(f"{joined}weights: fastest_mixing())")
    w, adjacency = fastest.get("graph.weights"), fastest.get("graph.adjacency")
    numpy.testing.assert_allclose(w, w.T, atol=1e-12)
    numpy.testing.assert_allclose(w.sum(1), 1, atol=1e-12)
    assert (w[~adjacency & ~numpy.eye(len(w), dtype=bool)] == 0).all() and fastest.facts.doubly_stochastic
    for other in ("metropolis", "max_degree", "best_constant"):
        rho = Graph(f"{joined}weights: {other}())").facts.contraction
        assert fastest.facts.contraction is not None and rho is not None and fastest.facts.contraction <= rho + 1e-6, other
    assert fastest.facts.weights == "fastest_mixing"


def test_closed_forms() -> None:
    pytest.importorskip("cvxpy")
    first, last = (2 - 2 * math.cos(2 * math.pi * k / 8) for k in (1, 4))
    assert Graph("ring(8, weights: fastest_mixing())").facts.contraction == pytest.approx((last - first) / (last + first), abs=1e-6)
    assert Graph("complete(5, weights: fastest_mixing())").facts.contraction == pytest.approx(0, abs=1e-6)
    assert Graph("path(3, weights: fastest_mixing())").facts.contraction == pytest.approx(0.5, abs=1e-6)
    assert Graph("path(1, weights: fastest_mixing())").get("graph.weights").tolist() == [[1.0]]


def test_without_the_solver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "cvxpy":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Mistake) as told:
        Graph("ring(5, weights: fastest_mixing())").get("graph.weights")
    assert told.value.diagnostic.code == "E0209" and "gradflow[opt]" in str(told.value.diagnostic.fix)


@pytest.mark.parametrize("text", ["exponential(6, weights: fastest_mixing())", "ring(500, weights: fastest_mixing())"])
def test_what_it_cannot_weigh(text: str) -> None:
    with pytest.raises(Mistake, match="cannot weigh"):
        Graph(text).get("graph.weights")


def test_it_runs_as_a_constant_of_the_plan() -> None:
    pytest.importorskip("cvxpy")
    from gradflow.plan.artifact import decode, encode
    from tests.plan.programs import of

    program = of("""pipeline p {
  model x = free([coordinate: 3])
  loss = sum((x - 1)^2, over: coordinate)
  flow x over barbell(6, weights: fastest_mixing()): loss -> backprop -> gossip() -> sgd(lr: 0.1)
  train 3 rounds
}""")
    again = decode(encode(program))
    tables = [node for phase in again.phases for node in phase.actions[0].region.nodes() if node.op == "table"]  # type: ignore[union-attr]
    assert len(tables) == 1 and len(tables[0]["values"]) == 36

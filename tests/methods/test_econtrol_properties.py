"""Invariants of compressors, error feedback and gossip (cards 14 and the communication baselines), as properties over random problems."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

RULES = ("econtrol", "ef14", "ef21", "ef21_sgdm", "csgd", "d_ec_sgd")


def problem(seed: int, nodes: int = 4, rows: int = 5, dim: int = 6, rounds: int = 12, noise: float = 0.3) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    return {
        "A": random.normal(size=(nodes, rows, dim)), "b": random.normal(size=(nodes, rows)), "x0": random.normal(size=dim),
        "noise": noise * random.normal(size=(rounds + 1, nodes, dim)),
    }  # fmt: skip


def trajectory(inputs: dict[str, numpy.ndarray], **params: Any) -> dict[str, numpy.ndarray]:
    return compute("14-econtrol.trajectory", {"lr": 0.02, "eta": 0.1, "k": 2, "compressor": "topk", **params}, inputs, "reference")


def gradients(inputs: dict[str, numpy.ndarray], x: numpy.ndarray, tick: int) -> numpy.ndarray:
    gap = numpy.einsum("nrd,d->nr", inputs["A"], x) - inputs["b"]
    return numpy.einsum("nrd,nr->nd", inputs["A"], gap) + inputs["noise"][tick]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_identity_compressor_is_gradient_descent(seed: int) -> None:
    inputs = problem(seed)
    found = trajectory(inputs, algorithm="econtrol", compressor="identity")
    x = inputs["x0"]
    for tick in range(12):
        x = x - 0.02 * gradients(inputs, x, tick).mean(0)
        numpy.testing.assert_allclose(found["x"][tick + 1], x, rtol=1e-9, atol=1e-11)
    numpy.testing.assert_allclose(found["e"], 0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_without_noise_the_first_step_is_exact(seed: int) -> None:
    inputs = problem(seed, noise=0.0)
    found = trajectory(inputs, algorithm="econtrol")
    expected = inputs["x0"] - 0.02 * gradients(inputs, inputs["x0"], 0).mean(0)
    numpy.testing.assert_allclose(found["x"][1], expected, rtol=1e-10)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_no_feedback_is_ef21(seed: int) -> None:
    """eta = 0, started with gradients: the same iterates when each iterate uses the same sample (EF21's noise is one ahead)."""
    inputs = problem(seed)
    ours = trajectory(inputs, algorithm="econtrol", eta=0.0)
    theirs = trajectory(inputs, algorithm="ef21", eta=0.0)
    numpy.testing.assert_allclose(ours["x"], theirs["x"], rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_error_is_all_that_was_not_sent(seed: int) -> None:
    """e_T is the sum over time of g_t minus the estimate after the step; the estimate's mean is what the server has moved by."""
    inputs = problem(seed)
    found = trajectory(inputs, algorithm="econtrol")
    moves = (found["x"][:-1] - found["x"][1:]) / 0.02
    total = sum(gradients(inputs, found["x"][tick], tick).mean(0) for tick in range(12)) - moves.sum(0)
    numpy.testing.assert_allclose(found["e"].mean(0), total, rtol=1e-8, atol=1e-9)
    numpy.testing.assert_allclose(found["h"].mean(0), moves[-1], rtol=1e-8, atol=1e-10)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_ideal_control_around_nothing_is_error_feedback(seed: int) -> None:
    inputs = problem(seed)
    ideal = trajectory({**inputs, "h_star": numpy.zeros((4, 6))}, algorithm="ec_ideal")
    numpy.testing.assert_allclose(ideal["x"], trajectory(inputs, algorithm="ef14")["x"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("algorithm", RULES)
def test_one_node_and_one_coordinate(algorithm: str) -> None:
    found = trajectory(problem(5, nodes=1, rows=1, dim=1, rounds=3), algorithm=algorithm, k=1)
    assert found["x"].shape == (4, 1) and numpy.isfinite(found["x"]).all()


# ---- compressors


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.data())
def test_topk_contracts_and_is_idempotent(dim: int, seed: int, data: Any) -> None:
    k = data.draw(st.integers(1, dim))
    x = numpy.random.default_rng(seed).normal(size=dim)
    once = compute("14-econtrol.compressors", {"kind": "topk", "k": k}, {"x": x}, "reference")["c"]
    assert ((once - x) ** 2).sum() <= (1 - k / dim) * (x**2).sum() + 1e-12
    assert numpy.count_nonzero(once) == k
    numpy.testing.assert_array_equal(compute("14-econtrol.compressors", {"kind": "topk", "k": k}, {"x": once}, "reference")["c"], once)


def test_topk_ties_go_to_the_lowest_index() -> None:
    found = compute("14-econtrol.compressors", {"kind": "topk", "k": 2}, {"x": numpy.array([1.0, -1.0, 1.0])}, "reference")["c"]
    numpy.testing.assert_array_equal(found, [1, -1, 0])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10**6))
def test_signs_contract_by_the_norms(dim: int, seed: int) -> None:
    x = numpy.random.default_rng(seed).normal(size=dim)
    found = compute("14-econtrol.compressors", {"kind": "sign_l1"}, {"x": x}, "reference")["c"]
    delta = numpy.abs(x).sum() ** 2 / (dim * (x**2).sum())
    numpy.testing.assert_allclose(((found - x) ** 2).sum(), (1 - delta) * (x**2).sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["qsgd", "natural"])
def test_unbiased_over_the_draws(kind: str) -> None:
    """The mean over 4000 draws within 6 standard errors in every coordinate: a false alarm in fewer than 1 of 10^7 runs."""
    random = numpy.random.default_rng(1)
    x = random.normal(size=7)
    draws = random.uniform(size=(4000, 7))
    samples = numpy.stack([compute_vectorized(kind, x, u) for u in draws])
    error = samples.std(0) / len(draws) ** 0.5
    assert (numpy.abs(samples.mean(0) - x) <= 6 * error + 1e-12).all()
    omega = {"qsgd": min(7 / 16, 7**0.5 / 4), "natural": 1 / 8}[kind]
    assert ((samples - x) ** 2).sum(1).mean() <= omega * (x**2).sum() * 1.05


def compute_vectorized(kind: str, x: numpy.ndarray, u: numpy.ndarray) -> numpy.ndarray:
    """The same formulas on arrays, compared with the component on the first draw of every hundred."""
    if kind == "qsgd":
        size = numpy.linalg.norm(x)
        found = size / 4 * numpy.sign(x) * numpy.floor(4 * numpy.abs(x) / size + u)
    else:
        low = 2.0 ** numpy.floor(numpy.log2(numpy.abs(x)))
        found = numpy.sign(x) * low * numpy.where(u < numpy.abs(x) / low - 1, 2, 1)
    if u[0] < 0.01:
        numpy.testing.assert_allclose(
            compute("14-econtrol.compressors", {"kind": kind, "levels": 4}, {"x": x, "u": u}, "reference")["c"], found, rtol=1e-12
        )
    return found


@pytest.mark.parametrize("kind", ["qsgd", "natural", "sign_l1", "topk"])
def test_nothing_stays_nothing(kind: str) -> None:
    inputs = {"x": numpy.zeros(5), "u": numpy.full(5, 0.9)}
    numpy.testing.assert_array_equal(compute("14-econtrol.compressors", {"kind": kind}, inputs, "reference")["c"], numpy.zeros(5))


# ---- gossip


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_gossip_keeps_the_mean_and_contracts(nodes: int, seed: int) -> None:
    random = numpy.random.default_rng(seed)
    links = numpy.triu(random.uniform(size=(nodes, nodes)) < 0.6, 1)
    adjacency = (links | links.T).astype(int)
    found = compute("00-communication-baselines.mixing", {"scheme": "metropolis"}, {"adjacency": adjacency}, "reference")
    w = found["W"]
    numpy.testing.assert_allclose(w.sum(0), 1, rtol=1e-12)
    numpy.testing.assert_allclose(w.sum(1), 1, rtol=1e-12)
    assert (w >= 0).all()
    x = random.normal(size=(nodes, 3))
    before, after = x - x.mean(0), w @ x - x.mean(0)
    assert numpy.linalg.norm(after) <= found["rho"] * numpy.linalg.norm(before) + 1e-12


def test_gossip_on_the_complete_graph_is_the_mean() -> None:
    text = """
    pipeline both(form: adapt_combine | combine_adapt = adapt_combine) {
      input A : [node, row, coordinate]
      input b : [node, row]
      model x = free([coordinate: 3])
      model y = free([coordinate: 3])
      one = 0.5 * sum((dot(A, x, over: coordinate) - b)^2, over: row)
      two = 0.5 * sum((dot(A, y, over: coordinate) - b)^2, over: row)
      flow x over complete(4, weights: uniform_weights()): one -> backprop -> gossip(form) -> sgd(lr: 0.05)
      flow y over complete(4): two -> backprop -> average() -> sgd(lr: 0.05)
      train 5 rounds { every round { report x = mean(x, over: node); report y = y } }
    }
    """
    random = numpy.random.default_rng(0)
    inputs = {"A": random.normal(size=(4, 5, 3)), "b": random.normal(size=(4, 5))}
    found = evaluate_text(text, "both", {}, inputs)
    numpy.testing.assert_allclose(found["x"][1:3], found["y"][1:3], rtol=1e-9)
    assert not numpy.allclose(found["y"][0], found["y"][-1])

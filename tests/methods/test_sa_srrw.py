"""Invariants of self-repellent walks (card 03): the kernel, its law, the walk, what it has in common with the plain token, and its covariances."""

from __future__ import annotations

from typing import Any

import networkx
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_continuous_lyapunov

from gradflow.verify.vectors import compute

SEEDS = st.integers(0, 10**6)
ALPHAS = st.sampled_from([0.0, 0.5, 1.0, 5.0, 20.0])
Arrays = dict[str, numpy.ndarray]


def chain(seed: int, nodes: int = 6) -> tuple[numpy.ndarray, numpy.ndarray]:
    """A Metropolis-Hastings walk on a random connected graph, and its law."""
    random = numpy.random.default_rng(seed)
    graph = networkx.connected_watts_strogatz_graph(nodes, 4, 0.5, seed=int(seed))
    law = random.uniform(0.5, 2, nodes)
    law /= law.sum()
    degrees = numpy.array([graph.degree(i) for i in range(nodes)])
    p = numpy.zeros((nodes, nodes))
    for i in range(nodes):
        for j in graph[i]:
            p[i, j] = min(1, law[j] * degrees[i] / (law[i] * degrees[j])) / degrees[i]
    return p + numpy.diag(1 - p.sum(1)), law


def inside(seed: int, nodes: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed + 1).dirichlet(numpy.full(nodes, 2.0)) * 0.98 + 0.02 / nodes


def kernel(p: numpy.ndarray, law: numpy.ndarray, x: numpy.ndarray, alpha: float) -> Arrays:
    return compute("03-sa-srrw.kernel", {"alpha": alpha}, {"P": p, "mu": law, "x": x}, "reference")


def walk(p: numpy.ndarray, law: numpy.ndarray, x0: numpy.ndarray, u: numpy.ndarray, **params: Any) -> Arrays:
    return compute("03-sa-srrw.walk", {"alpha": 5.0, "a": 0.8, "start": 0, **params}, {"P": p, "mu": law, "x0": x0, "u": u}, "reference")


@settings(max_examples=15, deadline=None)
@given(SEEDS, ALPHAS)
def test_the_kernel_is_a_walk_along_the_same_links(seed: int, alpha: float) -> None:
    p, law = chain(seed)
    x = inside(seed, len(p))
    found = kernel(p, law, x, alpha)
    numpy.testing.assert_allclose(found["K"].sum(1), 1, rtol=1e-12)
    assert ((found["K"] > 0) == (p > 0)).all()
    numpy.testing.assert_allclose(found["pi_x"] @ found["K"], found["pi_x"], atol=1e-12)
    numpy.testing.assert_allclose(kernel(p, 7 * law, 3 * x, alpha)["K"], found["K"], rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(SEEDS, ALPHAS)
def test_at_its_law_it_is_the_base_walk(seed: int, alpha: float) -> None:
    p, law = chain(seed)
    found = kernel(p, law, law, alpha)
    numpy.testing.assert_allclose(found["K"], p, atol=1e-12)
    numpy.testing.assert_allclose(found["pi_x"], law, rtol=1e-9)


def test_strong_repulsion_stays_finite_and_goes_where_it_has_been_least() -> None:
    p = numpy.array([[0.2, 0.3, 0.5, 0.0], [0.3, 0.3, 0.4, 0.0], [0.5, 0.4, 0.0, 0.1], [0.0, 0.0, 0.1, 0.9]])
    x = numpy.array([0.1, 0.1, 0.6, 0.2])
    found = kernel(p, numpy.full(4, 0.25), x, 1e5)["K"]
    numpy.testing.assert_allclose(found[0], [0.4, 0.6, 0, 0], atol=1e-12)  # a tie is split by the base
    numpy.testing.assert_allclose(found[2], [5 / 9, 4 / 9, 0, 0], atol=1e-12)
    numpy.testing.assert_allclose(found[3], [0, 0, 0, 1], atol=1e-12)  # the diagonal takes part


def test_the_law_of_strong_repulsion_is_that_of_detailed_balance() -> None:
    """Where single factors underflow: between two nodes the law is even whatever the visits are."""
    found = kernel(numpy.array([[0.0, 1.0], [1.0, 0.0]]), numpy.array([0.5, 0.5]), numpy.array([0.9, 0.1]), 1e6)
    numpy.testing.assert_allclose(found["pi_x"], [0.5, 0.5])


def test_one_node() -> None:
    one = numpy.ones(1)
    found = walk(numpy.ones((1, 1)), one, one, numpy.array([0.3, 0.999]))
    assert found["path"].tolist() == [0, 0, 0] and found["x"].tolist() == [[1.0]] * 3


def test_a_single_neighbor_is_always_next() -> None:
    p = numpy.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    for alpha in (0.0, 3.0, 1e3):
        found = kernel(p, numpy.array([0.25, 0.5, 0.25]), numpy.array([0.2, 0.7, 0.1]), alpha)["K"]
        numpy.testing.assert_allclose(found[[0, 2]], [[0, 1, 0], [0, 1, 0]], atol=1e-15)


@settings(max_examples=8, deadline=None)
@given(SEEDS, ALPHAS, st.sampled_from([0.6, 0.8, 1.0]))
def test_the_walk_follows_links_and_counts_its_visits(seed: int, alpha: float, a: float) -> None:
    p, law = chain(seed)
    u = numpy.random.default_rng(seed).random(30)
    found = walk(p, law, inside(seed, len(p)), u, alpha=alpha, a=a, start=seed % len(p))
    path, x = found["path"].astype(int), found["x"]
    assert path[0] == seed % len(p) and (p[path[:-1], path[1:]] > 0).all()
    numpy.testing.assert_allclose(x.sum(1), 1, rtol=1e-12)
    assert (x > 0).all()
    for t, here in enumerate(path[1:]):
        numpy.testing.assert_allclose(x[t + 1], x[t] + (t + 2.0) ** -a * (numpy.eye(len(p))[here] - x[t]), rtol=1e-10)


def test_counts_are_kept_where_a_is_one_and_visits_come_to_the_law() -> None:
    p, law = chain(3)
    u = numpy.random.default_rng(0).random(1500)
    found = walk(p, law, numpy.full(6, 1 / 6), u, alpha=10.0, a=1.0)
    counts = numpy.bincount(found["path"][1:].astype(int), minlength=6)
    numpy.testing.assert_allclose(found["x"][-1], (1 / 6 + counts) / 1501, rtol=1e-9)
    assert abs(found["x"][-1] - law).max() < 0.01  # the base walk's is five times as far


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_without_repulsion_it_is_the_token(seed: int) -> None:
    random = numpy.random.default_rng(seed)
    graph = networkx.connected_watts_strogatz_graph(5, 2, 0.5, seed=int(seed))
    adjacency = networkx.to_numpy_array(graph, dtype=int)
    data = {"A": random.normal(size=(5, 2, 3)), "b": random.normal(size=(5, 2)), "theta0": random.normal(size=3), "u": random.random(20)}
    plain = compute(
        "00-communication-baselines.token_sgd", {"kind": "mhrw", "start": 2, "lr": 0.5, "power": 0.9},
        {"adjacency": adjacency, **{k: v for k, v in data.items() if k != "x0"}, "noise": numpy.zeros((20, 3))}, "reference",
    )  # fmt: skip
    p = compute("00-communication-baselines.walk", {"kind": "mhrw", "start": 0}, {"adjacency": adjacency, "u": data["u"][:2]}, "reference")["P"]
    ours = compute(
        "03-sa-srrw.sa", {"objective": "quadratic", "kappa": 0.0, "alpha": 0.0, "a": 0.8, "b": 0.9, "start": 2, "beta_scale": 0.5},
        {"P": p, "mu": numpy.full(5, 0.2), "x0": numpy.full(5, 0.2), **data}, "reference",
    )  # fmt: skip
    assert (plain["path"] == ours["path"]).all() and len(set(ours["path"])) > 1
    # the token's rate starts at lr 1^-power, ours at 2^-b: the first difference tells them apart
    assert plain["theta"].shape == ours["theta"].shape
    first = int(ours["path"][1])
    gradient = data["A"][first].T @ (data["A"][first] @ data["theta0"] - data["b"][first])
    numpy.testing.assert_allclose(plain["theta"][1], data["theta0"] - 0.5 * gradient, rtol=1e-9)
    numpy.testing.assert_allclose(ours["theta"][1], data["theta0"] - 0.5 * 2**-0.9 * gradient, rtol=1e-9)


def covariance(seed: int, **params: float) -> tuple[Arrays, dict[str, numpy.ndarray]]:
    random = numpy.random.default_rng(seed)
    p, law = chain(seed)
    pull = random.normal(size=(6, 2))
    pull -= law @ pull
    root = random.normal(size=(2, 2))
    inputs = {"P": p, "mu": law, "H": pull, "grad_h": -(root @ root.T + numpy.eye(2))}
    return compute("03-sa-srrw.covariance", {"alpha": 5.0, "a": 0.8, "b": 0.9, **params}, inputs, "reference"), inputs


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_variance_falls_as_one_over_alpha_squared(seed: int) -> None:
    found = {alpha: covariance(seed, alpha=alpha)[0] for alpha in (0.0, 1.0, 10.0, 100.0, 1000.0)}
    alphas = sorted(found)
    for low, high in zip(alphas, alphas[1:], strict=False):
        for name in ("V_theta_1", "V_theta_2", "V_x"):
            gap = found[low][name] - found[high][name]
            assert numpy.linalg.eigvalsh((gap + gap.T) / 2).min() > -1e-10, name
        numpy.testing.assert_allclose(found[low]["V_theta_3"], found[high]["V_theta_3"], rtol=1e-8)
    sizes = [alpha**2 * numpy.trace(found[alpha]["U_theta"]) for alpha in (100.0, 1000.0)]
    assert sizes[0] <= sizes[1] <= 1.5 * sizes[0] and sizes[0] > 0
    for name in ("V_theta_1", "V_theta_2"):
        numpy.testing.assert_allclose(found[0.0][name], found[0.0]["V_theta_3"], rtol=1e-8)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([0.9, 1.0]))
def test_the_joint_regime_solves_the_whole_equation(seed: int, b: float) -> None:
    found, inputs = covariance(seed, b=b)
    p, law, pull, drift = inputs["P"], inputs["mu"], inputs["H"], inputs["grad_h"]
    root = numpy.sqrt(law)
    lam, v = numpy.linalg.eigh((root[:, None] * p / root + (root[:, None] * p / root).T) / 2)
    u = root[:, None] * v[:, :-1]
    modes = (u * ((1 + lam[:-1]) / (1 - lam[:-1]))) @ u.T
    top = numpy.hstack([drift, -5 * pull.T @ (p.T + numpy.eye(6))])
    joint = numpy.vstack([top, numpy.hstack([numpy.zeros((6, 2)), 10 * numpy.outer(law, numpy.ones(6)) - 5 * p.T - 6 * numpy.eye(6)])])
    noise = numpy.block([[pull.T @ modes @ pull, pull.T @ modes], [modes @ pull, modes]])
    joint = joint + (0.5 if b == 1 else 0) * numpy.eye(8)
    expected = solve_continuous_lyapunov(joint, -noise)[:2, :2]
    numpy.testing.assert_allclose(found["V_theta_2"], expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_large_scale_is_held_below_one(backend: str) -> None:
    """gamma_scale may ask for steps beyond 1: the visits stay inside the simplex, so that no node is lost for ever."""
    from tests.methods.harness import evaluate_text

    text = """
topology along(p: [node, to]) { nodes = size(node); directed = false; adjacency = arrange(rename(rename(p, node: from), to: node), [node, from]) }
function given(p: [node, to]) { input graph : topology; return p }
pipeline far {
  input P : [node, to]
  model theta = free([coordinate: 1])
  loss  = sum(theta^2, over: coordinate) + 0 * sum(P, over: to)
  route = self_repellent(alpha: 3, base: given(p: P), law: 0 * P[to: 0] + 0.25, gamma_scale: 50)
  flow theta over along(P): loss -> backprop -> route -> sgd(lr: 0)
  train 12 steps (seed: 1) { every step { report x = where(t == 0, 0.25 + 0 * P[to: 0], route.visits) } }
}
"""
    p = numpy.full((4, 4), 0.25)
    x = evaluate_text(text, "far", {}, {"P": p}, backend)["x"]
    assert (x > 0).all() and numpy.isfinite(x).all() and x.max() > 0.99

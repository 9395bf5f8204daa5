"""Odd cases of the communication baselines and of recorded events: graphs of one node, without links, in parts, directed; lazy weights and walks."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.language.diagnostics import GradflowError
from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

BASELINES = "00-communication-baselines"
SEEDS = st.integers(0, 10**6)
BACKENDS = st.sampled_from(["reference", "torch"])
Arrays = dict[str, numpy.ndarray]


def linked(random: numpy.random.Generator, nodes: int, share: float = 0.5) -> numpy.ndarray:
    upper = numpy.triu(random.random((nodes, nodes)) < share, 1).astype(int)
    return upper + upper.T


def connected(random: numpy.random.Generator, nodes: int) -> numpy.ndarray:
    adjacency = linked(random, nodes, 0.3)
    for i in range(1, nodes):
        j = random.integers(i)
        adjacency[i, j] = adjacency[j, i] = 1
    return adjacency


# ---- mixing weights


def weights(scheme: str, adjacency: numpy.ndarray) -> numpy.ndarray:
    degree, one = adjacency.sum(1), numpy.eye(len(adjacency))
    laplacian = numpy.diag(degree) - adjacency
    if scheme.startswith("lazy_"):
        return (one + weights(scheme[5:], adjacency)) / 2
    if scheme == "metropolis":
        w = adjacency / (1 + numpy.maximum.outer(degree, degree))
        return w + numpy.diag(1 - w.sum(1))
    if scheme == "uniform":
        return (adjacency + one) / (1 + degree)[:, None]
    if scheme == "max_degree":
        return one - laplacian / (1 + degree.max())
    values = numpy.linalg.eigvalsh(laplacian)
    return one - 2 / (values[1] + values[-1]) * laplacian if len(values) > 1 and values[-1] > 0 else one


SCHEMES = [lazy + plain for lazy in ("", "lazy_") for plain in ("metropolis", "uniform", "max_degree", "best_constant")]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(SCHEMES), st.integers(1, 7), st.booleans(), BACKENDS)
def test_mixing(seed: int, scheme: str, nodes: int, directed: bool, backend: str) -> None:
    """Of any graph: of one node, without links, in parts; uniform weights also of one whose links have a direction and are no circle."""
    random = numpy.random.default_rng(seed)
    adjacency = linked(random, nodes)
    if directed and scheme.endswith("uniform"):
        adjacency = (random.random((nodes, nodes)) < 0.6).astype(int) * (1 - numpy.eye(nodes, dtype=int))
    found = compute(f"{BASELINES}.mixing", {"scheme": scheme}, {"adjacency": adjacency}, backend)
    w = weights(scheme, adjacency)
    numpy.testing.assert_allclose(found["W"], w, rtol=1e-12, atol=1e-14)
    rho = numpy.linalg.norm(w - 1 / nodes, 2)
    numpy.testing.assert_allclose([found["rho"], found["gap"]], [rho, 1 - rho], atol=1e-12)
    if numpy.allclose(w, w.T):  # a few eigenvalues of other matrices are known to fewer digits
        numpy.testing.assert_allclose(found["eigenvalues"], numpy.linalg.eigvalsh(w)[::-1], atol=1e-12)
    slem = numpy.sort(abs(numpy.linalg.eigvals(w)))[-2] if nodes > 1 else 0.0
    numpy.testing.assert_allclose(found["slem"], slem, atol=1e-5 if directed else 1e-10)


# ---- walks


def transitions(kind: str, adjacency: numpy.ndarray, law: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The matrix, and the law that it keeps."""
    degree, one = adjacency.sum(1), numpy.eye(len(adjacency))
    if kind.startswith("lazy_"):
        p, kept = transitions(kind[5:], adjacency, law)
        return (one + p) / 2, kept
    if kind == "srw":
        return adjacency / degree[:, None], degree / degree.sum()
    if kind == "max_degree":
        p, law = adjacency / max(degree.max(), 1), numpy.ones(len(law))
    else:
        flow = numpy.outer(1 / law, law) * numpy.outer(degree, 1 / numpy.maximum(degree, 1))
        p = adjacency * numpy.minimum(1, flow) / numpy.maximum(degree, 1)[:, None]
    return p + numpy.diag(1 - p.sum(1)), law / law.sum()


def route(p: numpy.ndarray, start: int, u: numpy.ndarray) -> list[int]:
    path = [start]
    for z in u:
        beyond = numpy.flatnonzero(numpy.cumsum(p[path[-1]]) > z)
        path.append(int(beyond[0] if len(beyond) else numpy.flatnonzero(p[path[-1]] > 0)[-1]))
    return path


KINDS = [lazy + plain for lazy in ("", "lazy_") for plain in ("srw", "mhrw", "max_degree")]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 6), st.booleans(), BACKENDS)
def test_walks(seed: int, kind: str, nodes: int, apart: bool, backend: str) -> None:
    random = numpy.random.default_rng(seed)
    nodes = max(nodes, 2) if kind.endswith("srw") else nodes
    adjacency, law = connected(random, nodes), random.uniform(0.3, 3, nodes)
    if apart:  # two graphs that never meet: their walk has the eigenvalue 1 twice
        adjacency = numpy.kron(numpy.eye(2, dtype=int), adjacency)
        law = numpy.tile(law, 2)
    law = law if "mhrw" in kind else numpy.ones(len(law))
    u = numpy.append(random.random(6), numpy.nextafter(1, 0))
    inputs = {"adjacency": adjacency, "u": u, **({"pi": law} if "mhrw" in kind and seed % 2 else {})}
    p, kept = transitions(kind, adjacency, law if "pi" in inputs else numpy.ones(len(law)))
    found = compute(f"{BASELINES}.walk", {"kind": kind, "start": len(p) - 1}, inputs, backend)
    numpy.testing.assert_allclose(found["P"], p, atol=1e-14)
    numpy.testing.assert_allclose(found["stationary"], kept, rtol=1e-12)
    values = numpy.sort(numpy.linalg.eigvals(p).real)[::-1]
    numpy.testing.assert_allclose(found["eigenvalues"], values, atol=1e-6)
    numpy.testing.assert_allclose(found["gap"], 1 - max(abs(values[1:]), default=0), atol=1e-6)
    assert found["path"].tolist() == route(p, len(p) - 1, u) and found["gap"].dtype.kind == "f"


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 4), st.integers(0, 6), st.booleans(), BACKENDS)
def test_tokens(seed: int, kind: str, nodes: int, steps: int, importance: bool, backend: str) -> None:
    random = numpy.random.default_rng(seed)
    nodes = max(nodes, 2) if kind.endswith("srw") else nodes
    adjacency, law = connected(random, nodes), random.uniform(0.3, 3, nodes) if "mhrw" in kind else numpy.ones(nodes)
    a, b, u = random.normal(size=(nodes, 2, 3)), random.normal(size=(nodes, 2)), random.random(steps)
    noise, x = random.normal(size=(steps, 3)), random.normal(size=3)
    inputs = {"adjacency": adjacency, "A": a, "b": b, "theta0": x, "u": u, "noise": noise, "pi": law}
    params = {"kind": kind, "start": 0, "lr": 0.2, "power": 0.6, "importance": int(importance)}
    found = compute(f"{BASELINES}.token_sgd", params, inputs, backend)
    p, kept = transitions(kind, adjacency, law)
    path = route(p, 0, u)
    assert found["path"].tolist() == path
    for t, here in enumerate(path[1:]):
        scale = 1 / (nodes * kept[here]) if importance else 1.0
        x = x - 0.2 * (t + 1) ** -0.6 * scale * (a[here].T @ (a[here] @ x - b[here]) + noise[t])
        numpy.testing.assert_allclose(found["theta"][t + 1], x, rtol=1e-9, atol=1e-12)


def test_a_node_without_a_way_out_is_named_as_the_trouble_it_makes() -> None:
    adjacency = numpy.diag([1, 0], 1) + numpy.diag([1, 0], -1)
    for backend in ("reference", "torch"):
        with pytest.raises(Exception, match="entries that are not finite"):
            compute(f"{BASELINES}.walk", {"kind": "srw"}, {"adjacency": adjacency, "u": numpy.zeros(2)}, backend)


# ---- topologies


@pytest.mark.parametrize(
    ("params", "links", "whole"),
    [
        ({"kind": "exponential", "n": 1}, 0, 1), ({"kind": "one_peer_exponential", "n": 1, "round": 3}, 0, 1), ({"kind": "ring", "n": 1}, 0, 1),
        ({"kind": "ring", "n": 2}, 1, 1), ({"kind": "torus", "rows": 2, "cols": 2}, 4, 1), ({"kind": "torus", "rows": 1, "cols": 5}, 5, 1),
        ({"kind": "hypercube", "n": 1}, 0, 1), ({"kind": "star", "n": 4, "center": 3}, 3, 1), ({"kind": "erdos_renyi", "n": 3, "p": 0.0}, 0, 0),
        ({"kind": "erdos_renyi", "n": 3, "p": 1.0}, 3, 1), ({"kind": "random_geometric", "n": 3, "radius": 0.0}, 1, 0),
        ({"kind": "barbell", "n": 2}, 1, 1), ({"kind": "exponential", "n": 3}, 3, 1), ({"kind": "one_peer_exponential", "n": 4, "round": 1}, 2, 0),
    ],
)  # fmt: skip
def test_small_topologies(params: dict[str, Any], links: int, whole: int) -> None:
    inputs = {"u": numpy.full((3, 3), 0.5), "pos": numpy.array([[0.1, 0.2], [0.1, 0.2], [0.5, 0.5]])}
    given = {"erdos_renyi": ["u"], "random_geometric": ["pos"]}.get(params["kind"], [])
    found = compute(f"{BASELINES}.topology", params, {name: inputs[name] for name in given}, "reference")
    assert (int(found["n_edges"]), int(found["connected"]), int(found["symmetric"])) == (links, whole, 1)
    assert found["degree"].tolist() == found["adjacency"].sum(1).tolist() and found["degree"].sum() == 2 * links


def test_a_center_that_is_no_node_is_refused() -> None:
    with pytest.raises(GradflowError, match="center"):
        compute(f"{BASELINES}.topology", {"kind": "star", "n": 3, "center": 3}, {}, "reference")
    text = """
    pipeline p {
      model x = free([coordinate: 2])
      flow x over star(3, center: 3): sum(x^2, over: coordinate) -> backprop -> token() -> sgd(lr: 0.1)
      train 1 steps
    }"""
    with pytest.raises(GradflowError, match="center"):
        evaluate_text(text, "p", {}, {})


def test_lazy_weights_of_a_flow() -> None:
    text = """
    pipeline p {
      input start : [node, coordinate]
      model x = free(start)
      flow x over ring(5, weights: lazy(weights: max_degree())): sum(0 * x, over: coordinate) -> backprop -> gossip() -> sgd(lr: 0.1)
      train 1 rounds { every round { report x = x } }
    }"""
    start = numpy.random.default_rng(0).normal(size=(5, 2))
    ring = numpy.roll(numpy.eye(5, dtype=int), 1, 0) + numpy.roll(numpy.eye(5, dtype=int), -1, 0)
    numpy.testing.assert_allclose(evaluate_text(text, "p", {}, {"start": start})["x"][1], weights("lazy_max_degree", ring) @ start)


# ---- recorded events


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_no_event_and_events_at_one_time(backend: str) -> None:
    """Before any event nothing is reported, and no output is missing; at one and the same time nothing drifts in between."""
    random = numpy.random.default_rng(1)
    data = {"data": random.normal(size=(3, 4, 2)), "labels": random.normal(size=(3, 4, 1)), "X0": random.normal(size=(3, 2))}
    params = {"task": "linreg", "mu": 0.5, "L": 2.0, "chi1_star": 1.0}

    def trajectory(nodes: list[list[int]]) -> Arrays:
        at = numpy.array(nodes, int).reshape(-1, 2)
        events = {"event_time": numpy.zeros(len(at)), "event_is_grad": (at[:, 1] < 0).astype(int), "event_nodes": at}
        return compute("13-dadao.trajectory", params, data | events, backend)

    none = trajectory([])
    assert none["X"].shape == (0, 3, 2) and none["t_last"].tolist() == [0, 0, 0] and not none["Y_tilde"].any()
    found = trajectory([[1, -1], [2, 0]])
    slope = 2 * data["data"][1].T @ (data["data"][1] @ data["X0"][1] - data["labels"][1][:, 0]) / 4
    numpy.testing.assert_allclose(found["X"][1, 1], data["X0"][1] - (slope - 0.25 * data["X0"][1]) / 8, rtol=1e-12)
    numpy.testing.assert_array_equal(found["X"][1, [0, 2]], data["X0"][[0, 2]])

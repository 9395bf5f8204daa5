"""Invariants of DADAO (card 13), as properties over random problems, graphs and streams of events."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from gradflow.compiler import build, load
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime.embed import run
from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

BACKENDS = ("reference", "torch")


def constants(L: float, mu: float, dt: float, state: Any, backend: str = "reference") -> dict[str, numpy.ndarray]:
    return compute("13-dadao.constants", {"L": L, "mu": mu, "chi1_star": 1.0, "dt": dt}, {"state": state}, backend)


def problem(seed: int, nodes: int = 4, rows: int = 5, dim: int = 3, events: int = 25) -> dict[str, Any]:
    """Least squares at each node and a stream of events on the complete graph."""
    random = numpy.random.default_rng(seed)
    pairs = numpy.array([random.permutation(nodes)[:2] for _ in range(events)])
    is_grad = random.uniform(size=events) < 0.5
    pairs[is_grad, 1] = -1
    data, labels = random.normal(size=(nodes, rows, dim)), random.normal(size=(nodes, rows, 1))
    return {
        "data": data, "labels": labels, "X0": random.normal(size=(nodes, dim)), "event_time": numpy.cumsum(random.exponential(0.3, events)),
        "event_is_grad": is_grad.astype(int), "event_nodes": pairs,
    }  # fmt: skip


def trajectory(inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return compute("13-dadao.trajectory", {"task": "linreg", "mu": 0.5, "L": 8.0, "chi1_star": 0.8, "reg_mu": 0.0, **params}, inputs, backend)


# ---- what happens between events


@settings(max_examples=12, deadline=None)
@given(st.floats(1, 1e4), st.floats(1e-3, 1), st.floats(0, 3), st.floats(0, 3), st.integers(0, 10**6))
def test_flow_over_two_times_is_flow_over_their_sum(L: float, share: float, s: float, t: float, seed: int) -> None:
    state = numpy.random.default_rng(seed).normal(size=(6, 2))
    mu = L * share
    once = constants(L, mu, s + t, state)["flow"]
    twice = constants(L, mu, s, constants(L, mu, t, state)["flow"])["flow"]
    numpy.testing.assert_allclose(twice, once, rtol=1e-9, atol=1e-9 * numpy.abs(once).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_time_is_no_change(backend: str) -> None:
    state = numpy.random.default_rng(0).normal(size=(6, 4))
    numpy.testing.assert_array_equal(constants(100.0, 0.1, 0.0, state, backend)["flow"], state)


@settings(max_examples=12, deadline=None)
@given(st.floats(1e-2, 1e4), st.floats(1e-6, 1))
def test_rows_of_the_matrix_sum_to_zero_but_the_fourth(L: float, share: float) -> None:
    found = constants(L, L * share, 0.0, numpy.zeros((6, 1)))["ode_matrix"]
    numpy.testing.assert_allclose(found.sum(1)[[0, 1, 2, 4, 5]], 0, atol=1e-12 * numpy.abs(found).max())
    assert found.sum(1)[3] < -1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_nearly_singular_eigenvectors_do_no_harm(backend: str) -> None:
    """L / mu = 2000, where the matrix cannot be diagonalized to any digit; the flow follows the system within a step of Runge and Kutta."""
    state = numpy.random.default_rng(1).normal(size=(6, 3))
    found = constants(1.0, 1 / 2000, 5.0, state, backend)
    x, m, h = state, found["ode_matrix"], 5.0 / 4000
    for _ in range(4000):
        a = m @ x
        b = m @ (x + h / 2 * a)
        c = m @ (x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + m @ (x + h * c))
    numpy.testing.assert_allclose(found["flow"], x, rtol=1e-8, atol=1e-8 * numpy.abs(x).max())


# ---- trajectories


def seen_at(now: float, found: dict[str, numpy.ndarray]) -> numpy.ndarray:
    """x, x~, y, y~, z, z~ [node, 6, coordinate] at one moment, out of what each node kept at its own last event."""
    kept = numpy.stack([found["X"][-1], *(found[name] for name in ("X_tilde", "Y", "Y_tilde", "Z", "Z_tilde"))], 1)
    return expm(constants(8.0, 0.5, 0.0, numpy.zeros((6, 1)))["ode_matrix"] * (now - found["t_last"])[:, None, None]) @ kept


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_z_sums_to_nothing(seed: int, nodes: int) -> None:
    """At one moment: what each node has not integrated yet is linear and the same for all, so it is integrated first."""
    inputs = problem(seed, nodes)
    found = trajectory(inputs)
    z = seen_at(inputs["event_time"][-1], found)[:, 4:]
    size = numpy.abs(z).max()
    assert size > 1e-6 or (inputs["event_is_grad"] == 1).all()
    numpy.testing.assert_allclose(z.sum(0), 0, atol=1e-10 * max(size, 1))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_lazy_is_eager(seed: int) -> None:
    """All nodes integrated at every event, written out, against each at its own events alone."""
    inputs = problem(seed)
    found = trajectory(inputs)
    m = constants(8.0, 0.5, 0.0, numpy.zeros((6, 1)))["ode_matrix"]
    expected, last = eager(inputs, m)
    numpy.testing.assert_allclose(seen_at(inputs["event_time"][-1], found), expected, rtol=1e-8, atol=1e-9)
    numpy.testing.assert_array_equal(found["t_last"], last)


def eager(inputs: dict[str, Any], m: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    L, nu = 8.0, 0.25
    state = numpy.zeros((4, 6, 3))
    state[:, 0] = inputs["X0"]
    before, last = 0.0, numpy.zeros(4)
    for time, is_grad, (i, j) in zip(inputs["event_time"], inputs["event_is_grad"], inputs["event_nodes"], strict=True):
        state, before = expm(m * (time - before)) @ state, time
        if is_grad:
            a, b = inputs["data"][i], inputs["labels"][i, :, 0]
            q = 2 / len(b) * a.T @ (a @ state[i, 0] - b) - nu * state[i, 0] - state[i, 3]
            state[i, 0] -= q / (4 * L)
            state[i, 1] -= q / (4 * (L * nu) ** 0.5)
            state[i, 3] += (1 + (nu / L) ** 0.5 / 4) * q
            last[i] = time
        else:
            gap = state[i, 2] + state[i, 4] - state[j, 2] - state[j, 4]
            for sign, k in ((-1, i), (1, j)):
                state[k, 4] += sign * gap / 2
                state[k, 5] += sign * 2 * 0.8 * (L / nu) ** 0.5 * gap
                last[k] = time
    return state, last


def test_a_solved_problem_stays_solved() -> None:
    """From x = x~ = x*, y = y~ = grad f_i(x*) - nu x* and z = z~ = -nu x* - y nothing moves, whatever happens."""
    text = """
    exchange settled(best: [node, coordinate], pull: [node, coordinate]) over connected {
      a = acceleration(0.5, 4)
      state ahead   : [grad] = rename(best, coordinate: param)
      state y       : [grad] = rename(pull, coordinate: param)
      state y_ahead : [grad] = rename(pull, coordinate: param)
      state z       : [grad] = -a.nu * rename(best, coordinate: param) - rename(pull, coordinate: param)
      state z_ahead : [grad] = -a.nu * rename(best, coordinate: param) - rename(pull, coordinate: param)
      drift = (x, ahead, y, y_ahead, z, z_ahead) => momentum_drift(a.nu, a.speed, x, ahead, y, y_ahead, z, z_ahead)
      on each wait(dt) {
        param, ahead, y, y_ahead, z, z_ahead <- linear_ode(drift, dt, from: (param, ahead, y, y_ahead, z, z_ahead))
      }
      on each node(i) ~ poisson(1) {
        q        = grad(at: param) - a.nu * param - y_ahead
        param   <- param - q / 16
        ahead   <- ahead - q / (4 * sqrt(4 * a.nu))
        y_ahead <- y_ahead + (1 + a.speed / 4) * q
      }
      on each link(i, j) ~ poisson(1) {
        m     = (y + z)[node: i] - (y + z)[node: j]
        z[i] <- z[i] - m / 2
        z[j] <- z[j] + m / 2
      }
    }
    pipeline p {
      input A    : [node, row, coordinate]
      input b    : [node, row]
      input best : [node, coordinate]
      input pull : [node, coordinate]
      model x = free(best)
      loss = 0.5 * sum((dot(A, x, over: coordinate) - b)^2, over: row)
      flow x over ring(4): loss -> backprop -> settled(best, pull)
      train 30 time { every 10 time { report x = x } }
    }
    """
    random = numpy.random.default_rng(4)
    a, b = random.normal(size=(4, 5, 3)), random.normal(size=(4, 5))
    best = numpy.linalg.solve(numpy.einsum("nrc,nrd->cd", a, a), numpy.einsum("nrc,nr->c", a, b))
    pull = numpy.einsum("nrc,nr->nc", a, a @ best - b) - 0.25 * best
    every = numpy.broadcast_to(best, (4, 3)).copy()
    found = evaluate_text(text, "p", {}, {"A": a, "b": b, "best": every, "pull": pull})
    numpy.testing.assert_allclose(found["x"], numpy.broadcast_to(every, (4, 4, 3)), rtol=1e-9)
    moved = evaluate_text(text, "p", {}, {"A": a, "b": b, "best": every, "pull": pull + 0.1})
    assert numpy.abs(moved["x"][-1] - every).max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_nodes_that_agree_have_nothing_to_say(backend: str) -> None:
    """At the start y = z = 0 everywhere: gossip changes nothing, whoever talks to whom."""
    inputs = problem(3)
    inputs["event_is_grad"][:] = 0
    inputs["event_nodes"] = numpy.array([[i % 4, (i + 1) % 4] for i in range(25)])
    found = trajectory(inputs, backend)
    for name in ("Z", "Z_tilde"):
        scale = numpy.abs(found["Y"]).max()
        assert found[name].shape == (4, 3) and numpy.isfinite(found[name]).all() and scale > 0
    inputs["X0"] = numpy.ones((4, 3))
    inputs["event_time"] = numpy.zeros(25)
    found = trajectory(inputs, backend)
    numpy.testing.assert_array_equal(found["Z"], 0)
    numpy.testing.assert_array_equal(found["X"][-1], inputs["X0"])


def test_two_nodes_have_one_link() -> None:
    inputs = problem(8, nodes=2)
    found = trajectory(inputs)
    numpy.testing.assert_allclose(trajectory(inputs, "torch")["X"], found["X"], rtol=1e-10)
    assert found["X"].shape == (25, 2, 3) and not numpy.allclose(found["X"][-1, 0], found["X"][-1, 1])


# ---- rates of links


def graph(seed: int, nodes: int, more: float) -> numpy.ndarray:
    """A random tree with links added."""
    random = numpy.random.default_rng(seed)
    found = numpy.triu(random.uniform(size=(nodes, nodes)) < more, 1)
    for node in range(1, nodes):
        found[random.integers(node), node] = True
    return (found | found.T).astype(int)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.floats(0, 0.7))
def test_resistances_and_delays(seed: int, nodes: int, more: float) -> None:
    """chi2 <= chi1; scaled rates are tight; Foster: rate times resistance sums to nodes - 1; on trees chi2 = max 1 / (2 rate)."""
    adjacency = graph(seed, nodes, more)
    first, second = numpy.nonzero(numpy.triu(adjacency))
    rates = numpy.random.default_rng(seed).uniform(0.2, 2.0, len(first))
    found = compute("13-dadao.spectral", {}, {"adjacency": adjacency, "rates": rates}, "reference")
    assert found["chi2_rates"] <= found["chi1_rates"] * (1 + 1e-9) and found["chi2_unit"] <= found["chi1_unit"] * (1 + 1e-9)
    numpy.testing.assert_allclose(found["chi1_star"] * found["chi2_star"], 0.5, rtol=1e-9)
    again = compute("13-dadao.spectral", {}, {"adjacency": adjacency, "rates": found["rates_scaled"]}, "reference")
    numpy.testing.assert_allclose(again["chi1_rates"] * again["chi2_rates"], 0.5, rtol=1e-8)
    ends = numpy.eye(nodes)[first] - numpy.eye(nodes)[second]
    inverse = numpy.linalg.pinv((ends.T * rates) @ ends)
    resistance = numpy.einsum("en,nm,em->e", ends, inverse, ends)
    numpy.testing.assert_allclose((rates * resistance).sum(), nodes - 1, rtol=1e-8)
    numpy.testing.assert_allclose(found["chi2_rates"], resistance.max() / 2, rtol=1e-8)
    if len(first) == nodes - 1:
        numpy.testing.assert_allclose(found["chi2_rates"], (1 / (2 * rates)).max(), rtol=1e-8)


def test_the_best_rates_are_tight_and_save_on_a_barbell() -> None:
    pytest.importorskip("cvxpy")
    adjacency = numpy.zeros((8, 8), int)
    for i in range(8):
        for j in range(i + 1, 8):
            adjacency[i, j] = adjacency[j, i] = int(i // 4 == j // 4 or (i, j) == (3, 4))
    found = compute("13-dadao.gossip_sdp", {}, {"adjacency": adjacency}, "reference")
    numpy.testing.assert_allclose(found["total_rate_optimal"], 13.2, atol=0.05)
    numpy.testing.assert_allclose(found["total_rate_uniform"], 21.8, atol=0.05)
    rates = {"adjacency": adjacency, "rates": numpy.maximum(found["rates_reference"], 0)}
    tight = compute("13-dadao.spectral", {}, rates, "reference")
    assert tight["chi1_rates"] * tight["chi2_rates"] <= 0.5 * (1 + 1e-4)


def test_a_graph_in_parts_is_refused() -> None:
    text = """
    topology apart(n: int = 4) { nodes = n; link i <-> j if i + 2 == j }
    pipeline p {
      data  train = random_least_squares(nodes: 4)
      model x = free([coordinate: 10])
      loss = 0.5 * sum((dot(train.a, x, over: coordinate) - train.b)^2, over: row)
      flow x over apart(): loss -> backprop -> dadao(strong: train.strong, smooth: train.smooth)
      train 1 time
    }
    """
    found, diagnostics = build(Module.of(Source("<test>", text)), "p")
    assert found is None and [one.code for one in diagnostics] == ["E0603"]


# ---- the run


def test_waves_are_one_by_one_up_to_round_off() -> None:
    text = (load("13_dadao")[0].source.text).replace("train 3000 time", "train 300 events").replace("every 100 time", "PERIOD")
    ends = []
    for period in ("every 300 events", "every event"):
        made, _ = build(Module.of(Source("<test>", text.replace("PERIOD", period))), "asynchronous")
        running = run(made)
        running.finish()
        ends.append(running.parameters("x")["value"].numpy().copy())
    numpy.testing.assert_allclose(ends[0], ends[1], rtol=1e-11, atol=1e-12)
    assert numpy.abs(ends[0]).max() > 1

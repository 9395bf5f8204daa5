"""Exchanges of the library against their recursions, written down in numpy: compressed gossip, local steps with server momentum, SCAFFOLD."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.methods.harness import evaluate_text

SEEDS = st.integers(0, 10**6)
LR = 0.05


def spec(graph: str, chain: str, reports: str = "report x = x") -> str:
    return f"""
    pipeline p {{
      input A : [node, row, coordinate]
      input b : [node, row]
      model x = free([coordinate: 4])
      loss = 0.5 * sum((dot(A, x, over: coordinate) - b)^2, over: row)
      flow x over {graph}: loss -> backprop -> {chain}
      train 6 rounds {{ every round {{ {reports} }} }}
    }}"""


def problem(seed: int, nodes: int = 5) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    return {"A": random.normal(size=(nodes, 6, 4)), "b": random.normal(size=(nodes, 6))}


def slope(inputs: dict[str, numpy.ndarray], x: numpy.ndarray) -> numpy.ndarray:
    """[node, coordinate] at x, which every node may have of its own."""
    x = numpy.broadcast_to(x, (len(inputs["A"]), 4))
    return numpy.einsum("nrd,nr->nd", inputs["A"], numpy.einsum("nrd,nd->nr", inputs["A"], x) - inputs["b"])


def run(inputs: dict[str, Any], chain: str, graph: str = "star(size(node))", backend: str = "reference") -> numpy.ndarray:
    return evaluate_text(spec(graph, chain), "p", {}, inputs, backend)["x"]


def largest(x: numpy.ndarray, k: int) -> numpy.ndarray:
    places = numpy.argsort(-numpy.abs(x), axis=-1, kind="stable")[..., :k]
    kept = numpy.zeros_like(x)
    numpy.put_along_axis(kept, places, numpy.take_along_axis(x, places, -1), -1)
    return kept


# ---- compressed gossip


def choco(inputs: dict[str, numpy.ndarray], w: numpy.ndarray, k: int, consensus: float) -> numpy.ndarray:
    """Algorithm 2 of arXiv:1902.00340: every node keeps copies of what it knows of the others."""
    nodes = len(w)
    x = numpy.zeros((nodes, 4))
    copies = numpy.zeros((nodes, nodes, 4))  # [who believes, of whom]
    found = [x]
    for _ in range(6):
        half = x - LR * slope(inputs, x)
        message = largest(half - copies[numpy.arange(nodes), numpy.arange(nodes)], k)
        copies = copies + message[None]
        x = half + consensus * numpy.stack([sum(w[i, j] * (copies[i, j] - copies[i, i]) for j in range(nodes)) for i in range(nodes)])
        found.append(x)
    return numpy.stack(found)


def ring_weights(n: int) -> numpy.ndarray:
    return (numpy.eye(n) + numpy.roll(numpy.eye(n), 1, 0) + numpy.roll(numpy.eye(n), -1, 0)) / 3


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.integers(1, 4), st.floats(0.05, 1.0))
def test_choco_is_its_recursion(seed: int, k: int, consensus: float) -> None:
    inputs = problem(seed)
    for backend in ("reference", "torch"):
        found = run(inputs, f"choco(topk({k / 4}), {consensus!r}) -> sgd({LR})", "ring(5)", backend)
        numpy.testing.assert_allclose(found[1:], choco(inputs, ring_weights(5), k, consensus)[1:], rtol=1e-8, atol=1e-10)


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.sampled_from(["topk(30%)", "sign_l1()", "randk(50%)", "scaled(dither(2))"]))
def test_compressed_gossip_keeps_the_mean(seed: int, compress: str) -> None:
    """The nodes' average moves as if they averaged exactly: by the mean of their gradients, each at its own point."""
    inputs = problem(seed)
    x = run(inputs, f"choco({compress}, 0.4) -> sgd({LR})", "ring(5)")
    for before, after in zip(x, x[1:], strict=False):
        numpy.testing.assert_allclose(
            after.mean(-2) if after.ndim > 1 else after, (before - LR * slope(inputs, before)).mean(0), rtol=1e-9, atol=1e-11
        )
    assert numpy.ptp(x[-1], axis=0).max() > 1e-3


def test_without_compression_it_is_gossip_and_consensus_contracts() -> None:
    inputs = problem(3)
    plain = run(inputs, f"gossip() -> sgd({LR})", "ring(5)")
    numpy.testing.assert_allclose(run(inputs, f"choco(topk(100%), 1) -> sgd({LR})", "ring(5)"), plain, rtol=1e-10, atol=1e-12)
    far = {**inputs, "A": 0 * inputs["A"]}
    start = "model x = free([coordinate: 4])"
    text = spec("ring(5)", f"choco(topk(50%), 0.4) -> sgd({LR})").replace(start, "model x = free(b0)")
    text = text.replace("input b :", "input b0 : [node, coordinate]\n      input b :").replace("train 6", "train 60")
    x = evaluate_text(text, "p", {}, {**far, "b0": numpy.random.default_rng(0).normal(size=(5, 4))})["x"]
    apart = ((x - x.mean(1, keepdims=True)) ** 2).sum((1, 2))
    assert apart[-1] < 1e-3 * apart[0]
    numpy.testing.assert_allclose(x[-1].mean(0), x[0].mean(0), rtol=1e-9)


# ---- local steps


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.floats(0, 0.9), st.floats(0, 2))
def test_local_steps_with_server_momentum(seed: int, momentum: float, prox: float) -> None:
    """FedAvg-M, with a proximal term: the mean of what the nodes moved is a gradient for heavy-ball momentum at the server."""
    inputs = problem(seed)
    found = run(inputs, f"local_steps(sgd({LR}), 3, {prox!r}) -> sgd(0.7, {momentum!r})")
    x, held = numpy.zeros(4), None
    for round_ in range(6):
        y = numpy.tile(x, (5, 1))
        for _ in range(3):
            y = y - LR * (slope(inputs, y) + prox * (y - x))
        move = (x - y).mean(0)
        held = move if held is None else momentum * held + move
        x = x - 0.7 * held
        numpy.testing.assert_allclose(found[round_ + 1], x, rtol=1e-8, atol=1e-10)


def test_one_local_step_is_the_mean_gradient() -> None:
    inputs = problem(7)
    plain = run(inputs, f"average() -> sgd({LR})")
    for rule in (f"local_steps(sgd({LR}), 1)", f"local_steps(sgd({LR}), 1, prox: 3)", f"scaffold(sgd({LR}), 1)"):
        numpy.testing.assert_allclose(run(inputs, f"{rule} -> sgd(1)"), plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("control", ["mean", "start", "end"])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_scaffold_is_its_recursion(control: str, backend: str) -> None:
    inputs = problem(11)
    found = run(inputs, f"scaffold(sgd({LR}), 3, control: {control}) -> sgd(0.9)", backend=backend)
    x, own = numpy.zeros(4), numpy.zeros((5, 4))
    for round_ in range(6):
        y, total = numpy.tile(x, (5, 1)), numpy.zeros((5, 4))
        for _ in range(3):
            g = slope(inputs, y)
            total += g / 3
            y = y - LR * (g - own + own.mean(0))
        start, x = x, x - 0.9 * (x - y).mean(0)
        own = {"mean": total, "start": slope(inputs, start), "end": slope(inputs, x)}[control]
        numpy.testing.assert_allclose(found[round_ + 1], x, rtol=1e-8, atol=1e-10)


def test_adam_inside_a_round_starts_anew() -> None:
    """Its moments and its count of steps are those of the round: the first local step has length lr in every coordinate, in every round."""
    inputs = problem(2)
    found = run(inputs, "local_steps(adam(0.01), 2) -> sgd(1)")
    x = numpy.zeros(4)
    for round_ in range(6):
        y, m, v = numpy.tile(x, (5, 1)), numpy.zeros((5, 4)), numpy.zeros((5, 4))
        for t in (1, 2):
            g = slope(inputs, y)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            y = y - 0.01 * (m / (1 - 0.9**t)) / (numpy.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = y.mean(0)
        numpy.testing.assert_allclose(found[round_ + 1], x, rtol=1e-8, atol=1e-10)


def test_a_worse_average_is_not_taken() -> None:
    inputs = problem(4)
    found = run(inputs, "local_steps(sgd(0.4), 4, accept: better) -> sgd(1)")
    numpy.testing.assert_array_equal(found[1:], numpy.zeros((6, 4)))
    assert numpy.abs(run(inputs, "local_steps(sgd(0.4), 4) -> sgd(1)")[1]).max() > 1

"""Invariants of diffGrad: its friction against Adam with the same eps, the published variants, the first release's alias, the toys."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow.verify.vectors import compute

from .cases import SHAPES, close, few, path, seeds, stepped, walk
from .harness import evaluate_text

RULE = "17-diffgrad.diffgrad"
ADAM = "update plain(lr: real, b1: real = 0.9) = adam(lr, b1, variant: classic)"
rates = st.floats(1e-4, 0.3)


def adam(inputs: dict[str, numpy.ndarray], lr: float, beta1: float = 0.9) -> numpy.ndarray:
    """The path of Adam with eps where diffGrad has it."""
    return path(evaluate_text(ADAM, "plain", {"lr": lr, "b1": beta1}, inputs), inputs)


def moves(points: numpy.ndarray) -> numpy.ndarray:
    return points[1:] - points[:-1]


def sigmoid(x: numpy.ndarray) -> numpy.ndarray:
    return 1 / (1 + numpy.exp(-x))


@few
@given(seeds, st.sampled_from(SHAPES), rates)
def test_a_gradient_that_does_not_change_halves_the_step(seed: int, shape: tuple[int, ...], lr: float) -> None:
    inputs = walk(seed, shape, 5)
    inputs.update({f"grad_{k}": inputs["grad_0"] for k in range(5)})
    ours, theirs = moves(path(stepped(RULE, inputs, lr=lr), inputs)), moves(adam(inputs, lr))
    close(ours[1:], theirs[1:] / 2, rtol=1e-7)
    close(ours[0], theirs[0] * sigmoid(numpy.abs(inputs["grad_0"])), rtol=1e-7)


@few
@given(seeds, st.sampled_from(SHAPES), rates)
def test_a_gradient_that_changes_without_bound_leaves_adam(seed: int, shape: tuple[int, ...], lr: float) -> None:
    r = numpy.random.default_rng(seed)
    inputs = {"param_0": r.normal(size=shape), **{f"grad_{k}": (-1.0) ** k * 1e4 * (1 + r.uniform(size=shape)) for k in range(4)}}
    close(path(stepped(RULE, inputs, lr=lr), inputs), adam(inputs, lr))


GATES: dict[int, tuple[float, float, Callable[[numpy.ndarray], numpy.ndarray]]] = {
    0: (0.5, 1.0, lambda change: sigmoid(numpy.abs(change))),
    1: (0.0, 1.0, sigmoid),
    2: (0.5, 5.0, lambda change: 9 * sigmoid(numpy.abs(change) / 2) - 4),
}


@pytest.mark.parametrize("version", GATES)
@few
@given(seeds, st.sampled_from(SHAPES), st.floats(0.01, 20))
def test_the_friction_of_every_version(version: int, seed: int, shape: tuple[int, ...], scale: float) -> None:
    inputs = walk(seed, shape, 4, scale)
    found = moves(path(stepped(RULE, inputs, lr=0.1, version=version), inputs))
    plain = moves(adam(inputs, 0.1))
    low, high, formula = GATES[version]
    grads = numpy.stack([numpy.zeros(shape), *(inputs[f"grad_{k}"] for k in range(4))])
    gate = formula(grads[:-1] - grads[1:])
    assert ((gate >= low) & (gate <= high)).all()
    close(found, gate * plain, rtol=1e-7, atol=1e-11)


@few
@given(seeds, st.sampled_from(SHAPES))
def test_turning_all_signs_turns_the_path(seed: int, shape: tuple[int, ...]) -> None:
    inputs = walk(seed, shape, 4)
    turned = {name: -value for name, value in inputs.items()}
    close(path(stepped(RULE, turned, lr=0.1), turned), -path(stepped(RULE, inputs, lr=0.1), inputs))


@few
@given(seeds, st.sampled_from(SHAPES), rates)
def test_the_first_release_was_adam_at_half_the_rate(seed: int, shape: tuple[int, ...], lr: float) -> None:
    inputs = walk(seed, shape, 5)
    found = moves(path(stepped(RULE, inputs, lr=lr, buggy_alias=True), inputs))
    close(found[1:], moves(adam(inputs, lr / 2))[1:], rtol=1e-7)


@few
@given(seeds, st.sampled_from(SHAPES), st.floats(0, 1), st.booleans())
def test_decay_and_amsgrad_by_their_equations(seed: int, shape: tuple[int, ...], decay: float, amsgrad: bool) -> None:
    inputs = walk(seed, shape, 4)
    for mode in ("l2", "decoupled"):
        p, m, v, peak, before = inputs["param_0"], 0.0, 0.0, 0.0, 0.0
        found = stepped(RULE, inputs, lr=0.05, weight_decay=decay, weight_decay_mode=mode, amsgrad=amsgrad)
        for k in range(4):
            g = inputs[f"grad_{k}"] + (decay * p if mode == "l2" else 0)
            p = p * (1 - 0.05 * decay) if mode == "decoupled" else p
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            peak = numpy.maximum(peak, v)
            rate = 0.05 * numpy.sqrt(1 - 0.999 ** (k + 1)) / (1 - 0.9 ** (k + 1))
            p = p - rate * sigmoid(numpy.abs(before - g)) * m / (numpy.sqrt(peak if amsgrad else v) + 1e-8)
            before = g
            close(found[f"param_{k + 1}"], p, rtol=1e-8, atol=1e-11)
        close(found["previous_grad"], before, rtol=1e-8, atol=1e-11)


@few
@given(seeds, rates)
def test_without_momentum_the_first_step_is_the_gated_sign(seed: int, lr: float) -> None:
    inputs = walk(seed, (5,), 1)
    found = stepped(RULE, inputs, lr=lr, betas=[0.0, 0.999], eps=1e-14)
    g = inputs["grad_0"]
    close(found["param_1"], inputs["param_0"] - lr * sigmoid(numpy.abs(g)) * numpy.sign(g), rtol=1e-7)


# ---- the toys: what the claim says, on the derivatives as the notebook has them

SLOPES: dict[str, Callable[[float], float]] = {
    "F1": lambda x: 2 * x + 0.6 if x <= 0 else 2 * x - 0.4,
    "F2": lambda x: -40.0 if x <= -0.9 else x * numpy.cos(8 * x) + numpy.sin(8 * x) + 3 * x**2,
    "F3": lambda x: 2 * x if x <= -0.5 or x > 0.5 else 1.0 if x <= -0.4 else -7 / 8 if x <= 0 else 7 / 8 if x <= 0.4 else -1.0,
}


def notebook(slope: Callable[[float], float], x: float, steps: int, gated: bool) -> list[float]:
    """The authors' loop: eps under the root for Adam, after it for diffGrad."""
    found, m, v, before = [x], 0.0, 0.0, 0.0
    for t in range(1, steps):
        g = slope(x)
        m, v = 0.95 * m + 0.05 * g, 0.999 * v + 0.001 * g * g
        average, square = m / (1 - 0.95**t), v / (1 - 0.999**t)
        change = 1 / (1 + numpy.exp(-abs(before - g)))
        x = x - 0.1 * (change * average / (numpy.sqrt(square) + 1e-8) if gated else average / numpy.sqrt(square + 1e-8))
        before = g
        found.append(x)
    return found


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("start", [-1.0, 0.7])
def test_the_toys_of_the_notebook(name: str, start: float) -> None:
    found = stepped("17-diffgrad.toy", {"x0": numpy.asarray(start)}, function=name, iterations=40)
    close(found["x_diffgrad"], notebook(SLOPES[name], start, 40, True), rtol=1e-7)
    close(found["x_adam"], notebook(SLOPES[name], start, 40, False), rtol=1e-7)


@pytest.mark.parametrize("name, ours, theirs", [("F1", -0.3, 0.2), ("F2", -0.812, 0.0)])
def test_friction_stops_in_the_global_minimum(name: str, ours: float, theirs: float) -> None:
    found = stepped("17-diffgrad.toy", {"x0": numpy.asarray(-1.0)}, function=name)
    close(found["x_diffgrad"][-1], ours, rtol=0, atol=2e-3)
    close(found["x_adam"][-1], theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_short_toy(iterations: int) -> None:
    found = stepped("17-diffgrad.toy", {"x0": numpy.asarray(-1.0)}, iterations=iterations)
    assert found["x_adam"].shape == found["x_diffgrad"].shape == (iterations,) and found["x_adam"][0] == -1


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_nothing_need_stand_beside_the_root(backend: str) -> None:
    """eps = 0: the first step is the gated sign, however small the gradient."""
    g = numpy.array([1e-150, -1e-6, 3.0])
    found = compute(RULE, {"lr": 0.5, "eps": 0}, {"param_0": numpy.zeros(3), "grad_0": g}, backend)
    close(found["param_1"], -0.5 * sigmoid(numpy.abs(g)) * numpy.sign(g), rtol=1e-12)

"""QZO and MeZO where values and options are odd: losses beyond all floats, groups that do not come out even, zeros of asymmetric weights."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.language.diagnostics import GradflowError
from gradflow.verify.vectors import compute

Inputs = dict[str, numpy.ndarray]
backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def qzo(inputs: Inputs, backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return compute("15-qzo.qzo", {"layers": 1, "group_size": [1], "lr": 0.1, "loss": "mse", "eps": 1.0, **params}, inputs, backend)


def one_weight(xs: list[float]) -> Inputs:
    """One scale, 1 at first, whose noise is 1: l+ and l- are the squares of x (scale + 1) and x (scale - 1)."""
    found: Inputs = {"q_0": numpy.array([[1]]), "scale_0_0": numpy.ones((1, 1))}
    for k, x in enumerate(xs):
        found |= {f"noise_scale_0_{k}": numpy.ones((1, 1)), f"x_{k}": numpy.full((1, 1), x), f"y_{k}": numpy.zeros((1, 1))}
    return found


@backends
@pytest.mark.parametrize(("x", "slope", "kept"), [(1e154, numpy.inf, 5.0), (numpy.nan, numpy.nan, numpy.nan)])
def test_a_step_whose_slope_is_not_finite_is_skipped(backend: str, x: float, slope: float, kept: float) -> None:
    """Clipping would make a number of inf: d = (inf - 0) / 2. The next batch moves the scale by lr d' = 0.1 * 2."""
    found = qzo(one_weight([x, 1.0]), backend, clip=5)
    numpy.testing.assert_equal([found["d_0"], found["d_clipped_0"]], [slope, kept])
    numpy.testing.assert_allclose([found["scale_0_1"], found["scale_0_2"]], [[[1.0]], [[0.8]]])


@backends
def test_weights_do_not_decay_in_a_skipped_step(backend: str) -> None:
    inputs = {f"{name}_0_{k}": numpy.ones(shape) for name, shape in (("noise_weight", (1, 1)), ("noise_bias", (1,))) for k in (0, 1)}
    inputs |= {"weight_0_0": numpy.ones((1, 1)), "bias_0_0": numpy.zeros(1), "x_0": numpy.array([[numpy.nan]]), "x_1": numpy.zeros((1, 1))}
    inputs |= {"y_0": numpy.zeros((1, 1)), "y_1": numpy.zeros((1, 1))}
    found = compute("15-qzo.mezo", {"eps": 0.5, "lr": 0.1, "weight_decay": 1.0}, inputs, backend)
    numpy.testing.assert_allclose([found["weight_0_1"], found["weight_0_2"]], [[[1.0]], [[0.9]]])


@backends
def test_a_last_group_that_is_shorter_and_zeros_that_are_given(backend: str) -> None:
    r = numpy.random.default_rng(3)
    q, scale, zero, noise = r.integers(0, 16, (2, 5)), r.random((2, 2)), r.integers(0, 16, (2, 2)), r.normal(size=(2, 2))
    x, y = r.normal(size=(3, 5)), r.integers(-2, 3, (3, 2))

    def loss(s: numpy.ndarray) -> float:
        place = numpy.arange(5) // 3
        return float(((x @ ((q - zero[:, place]) * s[:, place]).T - y) ** 2).mean())

    inputs = {"q_0": q, "scale_0_0": scale, "zero_0": zero, "noise_scale_0_0": noise, "x_0": x, "y_0": y}
    for clip in (None, 10):
        found = qzo(inputs, backend, group_size=[3], eps=1e-3, lr=1e-3, clip=clip, scale_min=0.1)
        slope = (loss(scale + 1e-3 * noise) - loss(scale - 1e-3 * noise)) / 2e-3
        kept = slope if clip is None else numpy.clip(slope, -clip, clip)
        numpy.testing.assert_allclose([found["d_0"], found["d_clipped_0"]], [slope, kept], rtol=1e-8)
        numpy.testing.assert_allclose(found["scale_0_1"], numpy.maximum(scale - 1e-3 * kept * noise, 0.1), rtol=1e-8)
    assert abs(slope) > 10


def test_groups_have_a_size() -> None:
    inputs = one_weight([1.0])
    for size in ([0], [1.5]):
        with pytest.raises(GradflowError, match=r"`group_size` cannot be \("):
            qzo(inputs, group_size=size)

"""Draws of the property tests: parameters with their gradients, of every shape that a rule must take, and how a component is stepped through them."""

from __future__ import annotations

from typing import Any

import numpy
from hypothesis import settings
from hypothesis import strategies as st

from gradflow.verify import evaluate

SHAPES = [(), (1,), (4,), (1, 1), (1, 5), (4, 1), (3, 4), (2, 3, 2)]
MATRICES = [(1, 1), (1, 5), (4, 1), (3, 3), (6, 4), (3, 7)]

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def walk(seed: int, shape: tuple[int, ...], steps: int, scale: float = 1.0) -> dict[str, numpy.ndarray]:
    """param_0 and grad_0, grad_1, ..; some entries of some gradients are exactly zero."""
    r = numpy.random.default_rng(seed)
    grads = [scale * r.normal(size=shape) * (r.uniform(size=shape) > 0.1) for _ in range(steps)]
    return {"param_0": r.normal(size=shape), **{f"grad_{k}": numpy.asarray(g) for k, g in enumerate(grads)}}


def stepped(component: str, inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return {name: value.numpy() for name, value in evaluate(component, params, inputs, backend).items()}


def path(outputs: dict[str, numpy.ndarray], inputs: dict[str, Any]) -> numpy.ndarray:
    """param_0, param_1, .. stacked."""
    steps = sum(name.startswith("grad_") for name in inputs)
    return numpy.stack([inputs["param_0"], *(outputs[f"param_{k + 1}"] for k in range(steps))])


def close(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    numpy.testing.assert_allclose(numpy.asarray(a), numpy.asarray(b), rtol=rtol, atol=atol)


def orthogonal(r: numpy.random.Generator, n: int) -> numpy.ndarray:
    q, upper = numpy.linalg.qr(r.normal(size=(n, n)))
    return q * numpy.sign(numpy.diag(upper))

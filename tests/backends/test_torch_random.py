"""Random regions through the torch backend: fused and in place, against the reference.

Each graph mixes flat values, numbers that are known when the source is written, when it runs and only as tensors, reductions, leaves and lazy
choices, and lets random results replace the parameters and states that it reads: order of reads and writes, guards and memory of kernels
are all at stake.
"""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch

from gradflow.backends import reference
from gradflow.backends.torch import kernels, lower
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from tests.backends.operation_cases import Case, Maker

FLAT = Axis("param", 403)
UNARY = ("neg", "abs", "sin", "tanh", "sigmoid", "floor", "softplus", "stop")
BINARY = ("add", "sub", "mul", "div", "minimum", "maximum")
STATES = ("a", "b", "c")


def grow(seed: int) -> Case:
    """A graph of some forty operations."""
    pick, m = random.Random(seed), Maker(seed)
    e = m.ops.elementwise
    flat: list[Node] = [m.data("net", FLAT, kind="param"), *(m.data(n, FLAT, kind="state") for n in STATES), m.data("grad", FLAT)]
    numbers: list[Any] = [m.clock("t", 3), m.data("rate"), 0.9, 0.1, 2.0]
    truths: list[Node] = [m.data("flag", base="bool"), m.ops.constant(e("gt", numbers[0], 2))]

    def number() -> Any:
        kind = pick.random()
        if kind < 0.3:
            numbers.append(e("tanh", m.ops.reduce(pick.choice(("sum", "max")), pick.choice(flat), ["param"])))
        elif kind < 0.5:
            numbers.append(e(pick.choice(("add", "mul")), pick.choice(numbers), pick.choice(numbers)))
        return pick.choice(numbers)

    def leafed() -> Node:
        value = pick.choice(flat)
        axes = ((Axis("row", 20), Axis("col", 20)), (Axis("rest", 3),))
        parts = [m.ops.leaf(value, 0, axes[0]), m.ops.leaf(value, 400, axes[1])]
        return m.ops.pack([e("sin", parts[0]), parts[1]], axes)

    for _ in range(40):
        kind = pick.random()
        if kind < 0.2:
            new: Any = e(pick.choice(UNARY), pick.choice(flat))
        elif kind < 0.5:
            new = e(pick.choice(BINARY[:3]), pick.choice(flat), pick.choice(flat))
        elif kind < 0.75:
            pair = [pick.choice(flat), number()]
            pick.shuffle(pair)
            new = e(pick.choice(BINARY), *pair)
        elif kind < 0.85:
            new = m.ops.choose(pick.choice(truths), pick.choice(flat), pick.choice(flat))
        elif kind < 0.93:
            new = m.ops.where(e("gt", pick.choice(flat), number()), pick.choice(flat), number())
        else:
            new = leafed()
        flat.append(m.ops.constant(e("tanh", new) if pick.random() < 0.3 else new))
        if pick.random() < 0.1:
            truths.append(m.ops.constant(e("gt", number(), number())))
    results: dict[str, Any] = {f"state/{n}": pick.choice(flat[-25:] + flat[:5]) for n in pick.sample(STATES, pick.randint(1, 3))}
    results |= {"param/net": flat[-1], "number": number(), "other": pick.choice(flat)}
    return m.region(**results)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.filterwarnings("error")
def test_a_random_region_in_place(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "block_entries", lambda arrays, itemsize: 100)
    region, inputs = grow(seed)
    want = reference.lower(region)(inputs)
    for donate, optimize in ((True, True), (False, True), (True, False)):
        given = {key: torch.tensor(value) if isinstance(value, numpy.ndarray) else value for key, value in inputs.items()}
        lowered = lower(region, dtype=torch.float64, donate=donate, optimize=optimize)
        got = lowered(given)
        for name, value in want.items():
            numpy.testing.assert_allclose(got[name].numpy(), value, rtol=1e-7, atol=1e-9, err_msg=f"{name} donate={donate} optimize={optimize}")
        for key in given:
            if donate and "/".join(key) in want and f"buffer(inputs[{key!r}]" in lowered.source:
                assert got["/".join(key)] is given[key]
            elif isinstance(given[key], torch.Tensor):
                assert numpy.array_equal(given[key].numpy(), inputs[key]), f"{key} was changed"

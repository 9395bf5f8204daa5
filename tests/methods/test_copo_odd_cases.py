"""COPO where values are odd: ratios beyond any float, a dual clip that is off, a row whose first position is masked, inputs of other kinds."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.verify import evaluate

from .policy_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def loss(change: float, local: float, backend: str, **params: Any) -> dict[str, Any]:
    """One token, of the advantage within the prompt alone."""
    inputs = {"logp": [[-1.0]], "logp_old": [[-1.0 - change]], "mask": [[1.0]], "adv_local": [[local]], "adv_global": [[0.0]]}
    rows = {"entropy": [0.0], "reward": [0.0]}
    return evaluate("10-copo.loss", {"mode": "no global", **params}, {name: numpy.array(x) for name, x in {**inputs, **rows}.items()}, backend)


@backends
@pytest.mark.parametrize(("change", "local", "value", "slope"), [(1e4, 1, -1.2, 0), (1e4, -1, 3, 0), (-1e4, 1, 0, 0), (-1e4, -1, 0.8, 0)])
def test_a_ratio_beyond_all_floats_is_one(backend: str, change: float, local: float, value: float, slope: float) -> None:
    found = loss(change, local, backend)
    same(found["loss"], value)
    same(found["grad_logp"], [[slope]])


@backends
@pytest.mark.parametrize("dual", [0, None])
def test_the_ratio_is_as_it_is_and_the_dual_clip_can_be_off(backend: str, dual: float | None) -> None:
    same(loss(30.0, -1.0, backend, clip_dual=dual)["grad_logp"], [[numpy.exp(30.0)]])
    same(loss(-25.0, 1.0, backend)["grad_logp"], [[-numpy.exp(-25.0)]], atol=0)


@backends
def test_a_row_whose_first_position_is_masked_out_counts_as_zero(backend: str) -> None:
    mask = numpy.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    inputs = {
        "logp": -mask,
        "logp_old": -mask,
        "mask": mask,
        "adv_local": mask,
        "adv_global": -mask,
        "entropy": numpy.ones(3),
        "reward": numpy.ones(3),
    }
    found = evaluate("10-copo.loss", {"mode": "only forced"}, inputs, backend)
    same(found["w_local"], [0, 1, 0])
    same(found["grad_logp"], [[0, 1 / 3], [-1 / 3, 0], [0, 0]])


@backends
def test_truth_values_are_rewards_and_a_mask(backend: str) -> None:
    plain = {
        "reward": numpy.array([1, 1, 0]),
        "group": numpy.array([0, 9, 9]),
        "answer": numpy.array([4, 4, -7]),
        "mask": numpy.array([[1], [0], [1]]),
    }
    wanted = evaluate("10-copo.advantages", {}, {name: x.astype(float) if name == "reward" else x for name, x in plain.items()}, backend)
    found = evaluate("10-copo.advantages", {}, plain | {"reward": plain["reward"] > 0, "mask": plain["mask"] > 0}, backend)
    for name, value in wanted.items():
        same(found[name], value)

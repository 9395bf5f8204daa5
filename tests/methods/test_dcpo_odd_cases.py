"""DCPO where numbers are very small, equal or missing: bands of impossible tokens, bounds of nothing, rewards that hardly or never differ."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.verify import evaluate

pytestmark = pytest.mark.parametrize("backend", ["reference", "torch"])


def visited(backend: str, rewards: list[Any], group: Any, **params: Any) -> dict[str, numpy.ndarray]:
    zero = numpy.zeros(len(group))
    inputs = {"group": numpy.array(group), "count0": zero, "mean0": zero, "std0": zero}
    inputs |= {f"reward_{k}": numpy.asarray(reward) for k, reward in enumerate(rewards)}
    found = evaluate("22-dcpo.sas_advantage", {"steps": len(rewards), **params}, inputs, backend)
    return {name: value.numpy() for name, value in found.items()}


def test_without_a_cap_the_band_of_the_rarest_token_is_still_its_own(backend: str) -> None:
    logp_old = numpy.array([-1.0, -85.0, -700.0, -1e4, -numpy.inf])
    found = evaluate("22-dcpo.clip_bounds", {"ratio_max": None}, {"logp_old": logp_old}, backend)
    with numpy.errstate(over="ignore"):
        numpy.testing.assert_allclose(found["high"], 0.5 + 0.5 * numpy.sqrt(1 + 0.8 * numpy.exp(-logp_old)), rtol=1e-12)
    numpy.testing.assert_array_equal(found["low"][1:], 0.5)


def test_with_no_bound_only_a_ratio_of_one_is_free(backend: str) -> None:
    still = {"eps_low": 0, "eps_high": 0}
    found = evaluate("22-dcpo.clip_bounds", still, {"logp_old": numpy.array([[0.0, -1.0], [-50.0, -1e4]])}, backend)
    numpy.testing.assert_array_equal([found["low"], found["high"]], numpy.ones((2, 2, 2)))
    logp = numpy.log(numpy.array([[0.5, 0.7, 0.4]]))
    inputs = {"logp": logp, "logp_old": numpy.full((1, 3), numpy.log(0.5)), "mask": numpy.ones((1, 3)), "advantage": numpy.ones(1)}
    found = evaluate("22-dcpo.loss", still | {"aggregate": "token-mean"}, inputs, backend)
    numpy.testing.assert_allclose(found["grad_logp"], [[-1 / 3, 0, -0.8 / 3]], atol=1e-12)


def test_an_overflowing_ratio_is_held_and_has_no_gradient(backend: str) -> None:
    inputs = {
        "logp": numpy.array([[1e4], [1e4]]),
        "logp_old": numpy.full((2, 1), -0.5),
        "mask": numpy.ones((2, 1)),
        "advantage": numpy.array([2.0, -3.0]),
    }
    found = evaluate("22-dcpo.loss", {"ratio_max": 4.0, "dual_clip_c": 5.0}, inputs, backend)
    high = min(0.5 + 0.5 * numpy.sqrt(1 + 0.8 * numpy.exp(0.5)), 4)
    numpy.testing.assert_allclose(found["loss"], -2 * high + 3 * 5)
    numpy.testing.assert_array_equal(found["grad_logp"], numpy.zeros((2, 1)))


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e6])
def test_rewards_of_any_scale_have_one_advantage(backend: str, scale: float) -> None:
    r, group = numpy.random.default_rng(3), [7, 2, 7, 2, 7, 2, 2]
    rewards = [r.integers(-1, 2, 7) for _ in range(4)]
    rewards[2][:] = 1
    plain, scaled = visited(backend, rewards, group), visited(backend, [scale * reward for reward in rewards], group)
    for visit in range(4):
        numpy.testing.assert_allclose(scaled[f"advantage_{visit}"], plain[f"advantage_{visit}"], rtol=1e-9, atol=1e-9)
        numpy.testing.assert_allclose(scaled[f"std_{visit}"], scale * plain[f"std_{visit}"], rtol=1e-9)
    assert plain["advantage_2"].all(), "rewards that are equal now, and were not"


@pytest.mark.parametrize("value", [0.3, 0.1, -1 / 3])
def test_rewards_that_never_differ_teach_nothing(backend: str, value: float) -> None:
    found = visited(backend, [numpy.full(5, value)] * 7, [4, 4, 4, 9, 9])
    for visit in range(7):
        assert not found[f"advantage_{visit}"].any() and not found[f"std_{visit}"].any()
        numpy.testing.assert_array_equal(found[f"mean_{visit}"], value)


def test_a_sample_alone_is_compared_with_the_history_only(backend: str) -> None:
    found = visited(backend, [[1.0], [0.0]], [5])
    assert not found["advantage_0"].any() and not found["std_0"].any()
    numpy.testing.assert_allclose(found["advantage_1"], -0.5 / 0.5 / 2)  # M = 1/2, S^2 = (1/2) / 2

"""Odd cases of Knapsack RL: rates that repeat or are hardly any, prompts never seen, no prompts, totals beyond every cap, kinds of outputs."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.verify import evaluate

from .policy_cases import same
from .test_knapsack_rl_properties import allocate, by_the_rules, worth

backends = pytest.mark.parametrize("backend", ["reference", "torch"])


@backends
@pytest.mark.parametrize(
    ("rates", "options"),
    [
        ([0.25] * 5, {"total_budget": 43}),
        ([0.125, 0.5, 0.125, 0.5, 0.875], {}),
        ([0.3, 0.5, 0.0], {"max_n": 4, "total_budget": 100}),
        ([0.3, 0.5, 0.0], {"max_n": 4, "total_budget": 100, "allow_fallback": False}),
        ([1.0, 0.5, 1.0], {"max_n": 8}),  # what is over goes to what is solved
        ([0.5], {"max_n": 64, "total_budget": 64}),
        ([0.5, 0.5], {"max_n": 16, "alpha": 0.1, "cost_estimation": "probability"}),
        ([1e-12, 1 - 1e-12, 0.5, 0.0], {"max_n": 64, "cost_estimation": "expectation"}),
        ([0.4, 0.0, 1.0], {"negative_n": 10, "positive_n": 0}),
        ([0.4, 0.6], {"min_n": 1, "max_n": 6, "total_budget": 2}),
    ],
)
def test_rates_and_totals(backend: str, rates: list[float], options: dict[str, Any]) -> None:
    states = [[1.0, p, 8.0] for p in rates]
    found, (budget, rich, share) = allocate(states, backend, **options), by_the_rules(states, **options)
    assert found["budget"].tolist() == budget and bool(found["fallback"]) is rich
    assert float(found["fallback_effective_ratio"]) == pytest.approx(share)
    assert float(found["objective"]) == pytest.approx(sum(worth(n, p) for n, p in zip(budget, rates) if 0 < p < 1), rel=1e-6, abs=1e-12)


@backends
@pytest.mark.parametrize("fallback", [True, False])
def test_outputs_are_of_one_kind_and_the_cap_is_n_where_none_is_given(backend: str, fallback: bool) -> None:
    states = numpy.array([[1, 0.5, 8], [1, 0.1, 8], [1, 0, 8]])
    found = evaluate("39-knapsack-rl.allocate", {"allow_fallback": fallback}, {"reward_states": states}, backend)
    kinds = {name: value.dtype for name, value in found.items()}
    assert kinds == {"budget": torch.int64, "fallback": torch.bool, "fallback_effective_ratio": torch.float64, "objective": torch.float64}
    assert all(value.shape == () for name, value in found.items() if name != "budget")
    assert found["budget"].tolist() == by_the_rules(states.tolist(), max_n=8, allow_fallback=fallback)[0]


@backends
def test_of_prompts_never_seen_the_rate_is_not_looked_at(backend: str) -> None:
    states = [[0, 0.5, 0], [0, numpy.nan, 0], [1, 0.3, 8]]
    assert allocate(states, backend)["budget"].tolist() == allocate([[0, 0, 0], [0, 0, 0], [1, 0.3, 8]], backend)["budget"].tolist()


@backends
def test_no_prompts_have_no_responses(backend: str) -> None:
    assert allocate(numpy.zeros((0, 3)), backend)["budget"].tolist() == []
    found = evaluate("39-knapsack-rl.allocate_exact", {"total_budget": 0}, {"success_rate": numpy.zeros(0)}, backend)
    assert found["budget"].tolist() == [] and found["objective"] == 0


@backends
def test_where_nothing_is_gained_the_first_get_it(backend: str) -> None:
    found = evaluate("39-knapsack-rl.allocate_exact", {"n_low": 2, "n_up": 4, "total_budget": 9}, {"success_rate": numpy.array([0, 1, 0])}, backend)
    assert found["budget"].tolist() == [4, 3, 2] and found["objective"] == 0


@backends
@pytest.mark.parametrize("by_std", [True, False])
def test_advantages_of_rewards_on_all_scales(backend: str, by_std: bool) -> None:
    """Equal rewards that no binary fraction is have an advantage of exactly 0."""
    reward = numpy.array([0.1, 0.1, 0.1, 1e4, -1e4, 1e-30, 3e-30, 2.0])
    group = numpy.array([-7, -7, -7, 4, 4, 100, 100, 5])
    mask = numpy.array([[1, 0]] * 7 + [[0, 1]])
    found = evaluate("39-knapsack-rl.group_advantage", {"norm_by_std": by_std}, {"reward": reward, "group": group, "mask": mask}, backend)
    column = found["advantage"].sum(1)
    assert (column[:3] == 0).all() and (found["advantage"][mask == 0] == 0).all()
    same(column[3:], [0.5**0.5, -(0.5**0.5), 0, 0, 2 / (1 + 1e-6)] if by_std else [1e4, -1e4, 0, 0, 2], rtol=1e-9)
    assert float(found["effective_gradient_ratio"]) == 0.5

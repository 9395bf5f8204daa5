"""Invariants of Knapsack RL: the allocator against the authors' dynamic program, the exact one against every allocation there is, sums and bounds,
and the advantages of groups of any size."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow import compiler
from gradflow.compiler import load
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime.events import Report
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate
from tests.runtime.interrupting import assert_same_run, begun, resumed, stopped, whole

from .cases import few, seeds
from .policy_cases import same

OPTIONS = {"n": 8, "min_n": 2, "max_n": 32, "alpha": 0.9, "allow_fallback": True, "negative_n": None, "positive_n": None, "total_budget": None}


def worth(count: Any, p: Any) -> Any:
    return (1 - p**count - (1 - p) ** count) * p * (1 - p) ** 2


# ---- the authors' rules, step by step


def shared_out(amount: int, rows: list[int], budget: list[int]) -> None:
    for place, row in enumerate(rows):
        budget[row] += amount // len(rows) + (place < amount % len(rows))


def dynamic_program(rates: list[float], amount: int, low: int, high: int) -> list[int]:
    """What each gets beyond `low`: the best sum of values with exactly this amount, or with all that the caps allow."""
    amount = min(amount, len(rates) * (high - low))
    best = numpy.full(amount + 1, -numpy.inf)
    best[0] = 0.0
    choices = []
    for p in rates:
        following, choice = numpy.full(amount + 1, -numpy.inf), numpy.zeros(amount + 1, int)
        for spent in range(amount + 1):
            for k in range(min(spent, high - low) + 1):
                value = best[spent - k] + (worth(low + k, p) if k else 0.0)
                if value > following[spent]:
                    following[spent], choice[spent] = value, k
        best = following
        choices.append(choice)
    found: list[int] = []
    for choice in reversed(choices):
        found.insert(0, int(choice[amount]))
        amount -= found[0]
    return found


def by_the_rules(states: Any, **options: Any) -> tuple[list[int], bool, float]:
    o = {**OPTIONS, "cost_estimation": "probability", **options}
    rate = [p if valid else 0.0 for valid, p, _ in states]
    floors = {
        0.0: o["negative_n"] if o["negative_n"] is not None else o["min_n"],
        1.0: o["positive_n"] if o["positive_n"] is not None else o["min_n"],
    }
    budget = [floors.get(p, o["min_n"]) if valid else o["n"] for (valid, _, _), p in zip(states, rate)]
    spare = (len(states) * o["n"] if o["total_budget"] is None else o["total_budget"]) - sum(budget)
    mixed = [row for row, p in enumerate(rate) if 0 < p < 1]
    unsolved = [row for row, p in enumerate(rate) if p == 0]
    if spare <= 0:
        return budget, False, 1.0
    if not mixed and not unsolved:
        return [o["n"]] * len(states), False, 1.0
    if not mixed:
        shared_out(spare, unsolved, budget)
        return budget, False, 1.0
    cost = {
        "probability": lambda p: numpy.log(1 - o["alpha"]) / numpy.log(max(p, 1 - p)),
        "expectation": lambda p: 1 / p + 1 / (1 - p) - 1,
    }[o["cost_estimation"]]
    need = sum(int(min(o["max_n"], cost(rate[row]))) for row in mixed)
    others = unsolved or [row for row in range(len(states)) if row not in mixed]
    share, rich = 1.0, o["allow_fallback"] and need < spare and bool(others)
    if rich:
        shared_out(spare - need, others, budget)
        share, spare = need / spare, need
    extra = dynamic_program([rate[row] for row in mixed], spare, o["min_n"], o["max_n"])
    for row, k in zip(mixed, extra):
        budget[row] += k
    shared_out(spare - sum(extra), mixed, budget)
    return budget, rich, share


def allocate(states: Any, backend: str = "reference", **options: Any) -> dict[str, torch.Tensor]:
    return evaluate("39-knapsack-rl.allocate", {**OPTIONS, **options}, {"reward_states": numpy.asarray(states, float)}, backend)


def allocate_exact(p: Any, low: int, high: int, total: int) -> dict[str, torch.Tensor]:
    return evaluate("39-knapsack-rl.allocate_exact", {"n_low": low, "n_up": high, "total_budget": total}, {"success_rate": numpy.asarray(p, float)})


@st.composite
def histories(draw: Any, most: int = 6, kinds: str = "unseen solved unsolved mixed mixed mixed") -> list[list[float]]:
    """[valid, success rate, count] a prompt; no two mixed rates are equal, so that the optimum is unique."""
    chosen = draw(st.lists(st.sampled_from(kinds.split()), min_size=1, max_size=most))
    rates = iter(draw(st.lists(st.floats(0.02, 0.98), min_size=len(chosen), max_size=len(chosen), unique_by=lambda p: round(p, 2))))
    return [{"unseen": [0.0, 0.0, 0.0], "solved": [1, 1.0, 8], "unsolved": [1, 0.0, 8], "mixed": [1, next(rates), 8]}[kind] for kind in chosen]


# ---- the allocator


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(
    histories(),
    st.sampled_from([(8, 2, 32), (4, 1, 6), (8, 2, 9), (5, 5, 5), (8, 3, 8)]),
    st.booleans(),
    st.sampled_from(["probability", "expectation"]),
)
def test_it_is_the_authors_dynamic_program(backend: str, states: Any, sizes: tuple[int, int, int], fallback: bool, cost: str) -> None:
    n, low, high = sizes
    options = {"n": n, "min_n": low, "max_n": high, "allow_fallback": fallback, "cost_estimation": cost}
    budget, rich, share = by_the_rules(states, **options)
    found = allocate(states, backend, **options)
    assert found["budget"].tolist() == budget
    assert bool(found["fallback"]) is rich
    assert float(found["fallback_effective_ratio"]) == pytest.approx(share)
    p, count = numpy.array([state[1] * state[0] for state in states]), numpy.array(budget)
    assert float(found["objective"]) == pytest.approx(worth(count, p)[(p > 0) & (p < 1)].sum())


@few
@given(histories(), st.integers(0, 60), st.sampled_from([None, 0, 3]), st.sampled_from([None, 0, 4]))
def test_totals_and_floors_of_all_kinds(states: Any, total: int, negative: int | None, positive: int | None) -> None:
    options = {"total_budget": total, "negative_n": negative, "positive_n": positive}
    assert allocate(states, **options)["budget"].tolist() == by_the_rules(states, **options)[0]


@few
@given(histories(most=12))
def test_what_there_is_is_spent(states: Any) -> None:
    budget = allocate(states)["budget"]
    assert int(budget.sum()) == 8 * len(states)
    assert int(budget.min()) >= 2


@few
@given(histories(kinds="mixed"), st.integers(2, 10))
def test_equal_rates_get_equal_shares(states: Any, copies: int) -> None:
    same_rate = numpy.array([states[0]] * copies)
    budget = allocate(same_rate, max_n=128)["budget"]
    assert int(budget.max() - budget.min()) <= 1 and int(budget.sum()) == 8 * copies
    assert (budget.diff() <= 0).all()  # the first get what is over


@few
@given(histories(), seeds)
def test_the_order_of_prompts_does_not_matter(states: Any, seed: int) -> None:
    """Where nothing has to be cut unevenly among prompts of one kind."""
    order = numpy.random.default_rng(seed).permutation(len(states))
    mixed = [0 < s[1] < 1 for s in states]
    here, there = (allocate(numpy.array(states)[rows], allow_fallback=False)["budget"] for rows in (slice(None), order))
    if all(mixed) and int(here.max()) < 32:
        assert here[order].tolist() == there.tolist()
    assert sorted(here.tolist()) == sorted(there.tolist())


@few
@given(histories())
def test_with_one_size_allowed_it_is_uniform(states: Any) -> None:
    assert allocate(states, min_n=8, max_n=8)["budget"].tolist() == [8] * len(states)


@few
@given(histories(kinds="mixed"))
def test_it_is_worth_at_least_what_uniform_is(states: Any) -> None:
    """By the paper's value, which counts the floor too."""
    p = numpy.array([state[1] for state in states])
    found = allocate_exact(p, 2, 128, 8 * len(p))
    assert float(found["objective"]) >= worth(8, p).sum() - 1e-12


@few
@given(st.lists(st.floats(0.02, 0.98), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 12))
def test_no_allocation_is_worth_more_than_the_exact_one(p: list[float], low: int, room: int, more: int) -> None:
    total = min(low * len(p) + more, (low + room) * len(p))
    found = allocate_exact(p, low, low + room, total)
    every = [plan for plan in product(range(low, low + room + 1), repeat=len(p)) if sum(plan) == total]
    assert int(found["budget"].sum()) == total
    assert low <= int(found["budget"].min()) and int(found["budget"].max()) <= low + room
    assert float(found["objective"]) >= max(worth(numpy.array(plan), numpy.array(p)).sum() for plan in every) - 1e-12


def test_the_measured_gain_over_uniform() -> None:
    """256 prompts of known rates from Beta(0.3, 0.3): 9.97 -> 11.04 in the card."""
    p = numpy.random.default_rng(0).beta(0.3, 0.3, 256)
    states = numpy.stack([numpy.ones(256), p, numpy.full(256, 8)], 1)
    gain = float(allocate(states, max_n=128)["objective"]) / worth(8, p).sum()
    assert gain == pytest.approx(11.04 / 9.97, abs=0.03)


# ---- values and advantages


@few
@given(st.floats(0.01, 0.99), st.integers(1, 60))
def test_values_of_groups(p: float, count: int) -> None:
    found = evaluate("39-knapsack-rl.value", {}, {"success_rate": numpy.array([p]), "N": numpy.array([1, 2, count, count + 1])})
    single, pair, here, further = found["p_nonzero_grad"][0].tolist()
    assert single == pytest.approx(0, abs=1e-12) and pair == pytest.approx(2 * p * (1 - p))
    assert further >= here - 1e-12
    assert float(found["info_gain"]) <= float(4 / 27) + 1e-12  # at p = 1/3


def test_what_is_solved_or_hopeless_is_never_mixed() -> None:
    found = evaluate("39-knapsack-rl.value", {}, {"success_rate": numpy.array([0.0, 1.0]), "N": numpy.array([1, 8])})
    assert not found["value"].any()
    assert torch.isinf(found["cost_probability"]).all() and (found["cost_probability"] > 0).all()
    assert torch.isinf(found["cost_expectation"]).all()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(seeds, st.integers(1, 12), st.booleans())
def test_advantages_of_ragged_groups(backend: str, seed: int, count: int, by_std: bool) -> None:
    r = numpy.random.default_rng(seed)
    reward, group, mask = r.integers(0, 2, count).astype(float), r.integers(0, 5, count), r.uniform(size=(count, 3)) < 0.7
    inputs = {"reward": reward, "group": group, "mask": mask.astype(float)}
    found = evaluate("39-knapsack-rl.group_advantage", {"norm_by_std": by_std, "eps": 1e-6}, inputs, backend)
    expected = numpy.zeros(count)
    for one in set(group.tolist()):
        own = group == one
        center, spread = (reward[own].mean(), reward[own].std(ddof=1)) if own.sum() > 1 else (0.0, 1.0)
        expected[own] = (reward[own] - center) / (spread + 1e-6 if by_std else 1)
    same(found["advantage"], expected[:, None] * mask, atol=1e-7)
    useful = numpy.mean([len(set(reward[group == one].tolist())) > 1 for one in set(group.tolist())])
    assert float(found["effective_gradient_ratio"]) == pytest.approx(useful)


# ---- the pipelines


SMALL = """
pipeline small(allocation: function = knapsack(n: 4, high: 16), rollouts: int = 5) {
  data  tasks  = combination_lock(prompts: 32, length: 1, vocabulary: 2)
  model policy = linear_policy(prompts: 32, features: 6, spread: 4)
  samples ~ allocated(policy, tasks, prompts: 8, tokens: 1, allocation: allocation)
  flow policy: grpo(score(policy, samples)) -> backprop -> sgd(lr: 1)
  train rollouts rollouts (seed: 0, minibatches: 2) {
    every rollout {
      report largest  = max(count(by: samples.group))
      report smallest = min(count(by: samples.group))
      report spent    = count(samples.reward)
      report success  = mean(samples.reward)
      report useful   = effective(samples.reward, samples.group)
      checkpoint
    }
  }
}
"""


def program(*parameters: str) -> Any:
    found, diagnostics = compiler.build(Module.of(Source("small.gflow", SMALL)), None, parameters)
    assert found is not None, [d.message for d in diagnostics]
    return found


def reports(*parameters: str, backend: str = "torch") -> list[dict[str, Any]]:
    return [event.values for event in execute(program(*parameters), Options(backend=backend, precision="float64")) if isinstance(event, Report)]


def test_rollouts_are_spent_where_they_were_mixed_before() -> None:
    """In the first epoch, of four rollouts, nothing is known; from the second on the prompts have as many in all, and not as many each."""
    found, other = (reports("rollouts=12", backend=backend) for backend in ("reference", "torch"))
    assert found == [pytest.approx(one) for one in other]
    assert [one["largest"] for one in found[:4]] == [4] * 4
    assert {one["spent"] for one in found} == {32}
    assert max(one["largest"] for one in found[4:]) > 4 and min(one["smallest"] for one in found[4:]) == 2


def test_as_many_for_each_are_always_as_many_for_each() -> None:
    found = reports("rollouts=12", "allocation=knapsack(n: 4, low: 4, high: 4)")
    assert {one["largest"] for one in found} == {one["smallest"] for one in found} == {4}


def test_what_was_seen_is_there_after_a_stop(tmp_path: Path) -> None:
    one = program("rollouts=8")
    path = whole(one, tmp_path)
    run, folder = begun(one, tmp_path, "cut")
    stopped(run, folder, 6)
    again, folder = resumed(one, folder.path)
    list(folder.record(again.events(), again.resume))
    assert_same_run(path, folder.path)


def test_the_pipeline_of_the_claim_runs() -> None:
    found, diagnostics = compiler.build(load("39_knapsack_rl")[0], "bandits", ["rollouts=4"])
    assert found is not None, diagnostics
    last = [event.values for event in execute(found, Options(precision="float64")) if isinstance(event, Report)][-1]
    assert 0 < last["useful"] < 1 and 0.2 < last["success"] < 0.8

"""What a rollout is made of and told by: dynamic sampling, pass@k, and the figures that every run of graded samples has."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow import compiler
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.procedures.figures import figures, rollout_figures
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few


def run(text: str) -> list[Any]:
    program, diagnostics = compiler.build(Module.of(Source("inline.gflow", text)), None)
    assert program is not None, [d.message for d in diagnostics]
    return list(execute(program, Options()))


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=24), st.integers(1, 6), st.integers(0, 2**31))
def test_pass_at_k_is_the_unbiased_estimate(groups: list[int], k: int, seed: int) -> None:
    group = numpy.unique(groups, return_inverse=True)[1]
    correct = numpy.random.default_rng(seed).uniform(size=len(group)) < 0.4
    wanted = []
    for prompt in range(group.max() + 1):
        n, c = int((group == prompt).sum()), int(correct[group == prompt].sum())
        wanted += [1 - comb(n - c, k) / comb(n, k)] if n >= k else []
    for backend in ("reference", "torch"):
        found = evaluate("policy.pass_at", {"k": k}, {"correct": correct, "group": group}, backend)["value"]
        assert float(found) == pytest.approx(numpy.mean(wanted) if wanted else 0, abs=1e-12)


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(0, 2**31))
def test_figures_are_what_they_say(groups: list[int], seed: int) -> None:
    r = numpy.random.default_rng(seed)
    group = numpy.unique(groups, return_inverse=True)[1]
    reward = r.integers(0, 3, size=len(group)) / 2
    mask = numpy.arange(5) < r.integers(1, 6, size=len(group))[:, None]
    entropy = r.uniform(size=mask.shape)
    record = {"reward": reward, "group": group, "mask": mask, "entropy_old": entropy, "finished": r.uniform(size=len(group)) < 0.5}
    found = figures({name: torch.as_tensor(value) for name, value in record.items()})
    assert found["samples"] == len(group)
    own = [reward[group == prompt] for prompt in range(group.max() + 1)]
    assert found["reward"] == pytest.approx(reward.mean()) and found["length"] == pytest.approx(mask.sum(1).mean())
    assert found["reward_std"] == pytest.approx(reward.std(ddof=1) if len(reward) > 1 else 0)
    assert found[f"pass_at_{max(map(len, own))}"] == pytest.approx(numpy.mean([rewards.max() >= 1 for rewards in own]))
    assert found["mixed_groups"] == pytest.approx(numpy.mean([rewards.max() > rewards.min() for rewards in own]))
    assert found["entropy"] == pytest.approx(entropy[mask].mean()) and found["finished"] == pytest.approx(record["finished"].mean())


def test_a_rollout_in_which_nothing_teaches_is_told() -> None:
    unsolved = LOCKS.replace("vocabulary: 3", "vocabulary: 40").replace("DRAWN", "informative(policy, tasks, group: 2, prompts: 2, batches: 2)")
    found = [event.metrics for event in run(unsolved.replace("minibatches: 2", "minibatches: 1")) if isinstance(event, UnitDone)]
    assert [metrics["samples"] for metrics in found] == [0] * 6 and all("reward" not in metrics for metrics in found)


def test_several_records_go_by_their_names() -> None:
    one = {"reward": torch.ones(4), "group": torch.tensor([0, 0, 1, 1]), "mask": torch.ones(4, 2, dtype=torch.bool)}
    held = {(name, field): value for name in ("main", "warm") for field, value in one.items()} | {("credit", "value"): torch.ones(4)}
    assert set(rollout_figures(held)) == {f"{name}.{field}" for name in ("main", "warm") for field in figures(one)}
    assert rollout_figures({path: value for path, value in held.items() if path[0] != "warm"}) == figures(one)
    assert rollout_figures({("main", "reward"): torch.ones(4)}) == {}
    assert rollout_figures(held, {"main", "credit"}) == figures(one)  # what another phase drew is old
    assert rollout_figures(held | {("warm", "logp_old"): torch.zeros(4, 2)}) == figures(one)  # and what was shown to the policy is not its own


def test_a_solved_prompt_is_one_with_a_right_answer() -> None:
    record = {"reward": torch.tensor([0.4, 0.2, 1.5, 0]), "group": torch.tensor([0, 0, 1, 1]), "mask": torch.ones(4, 2, dtype=torch.bool)}
    assert figures(record)["pass_at_2"] == 0.5
    assert figures(record | {"correct": torch.tensor([True, False, False, False])})["pass_at_2"] == 0.5
    assert figures(record | {"correct": torch.tensor([True, False, True, False])})["pass_at_2"] == 1


LOCKS = """
pipeline locks {
  data  tasks  = combination_lock(prompts: 16, length: 2, vocabulary: 3)
  model policy = table_policy(prompts: 16, length: 2, vocabulary: 3)
  samples ~ DRAWN
  flow policy: dapo(score(policy, samples)) -> backprop -> clip_norm(1) -> adam(lr: 0.1)
  train 6 rollouts (seed: 0, epochs: 2, minibatches: 2) { every rollout { report prompts = size(samples, over: prompt) } }
}
"""
WATCHED = {
    "samples", "reward", "reward_std", "pass_at_4", "mixed_groups", "length", "finished", "entropy", "ratio_mean", "ratio_least", "ratio_most",
    "clip_low", "clip_high", "drift", "credited", "clip_norm.gradient_norm",
}  # fmt: skip


def test_a_run_tells_what_people_look_at() -> None:
    done = [event for event in run(LOCKS.replace("DRAWN", "sample(policy, tasks, group: 4, max_tokens: 2)")) if isinstance(event, UnitDone)]
    assert all(set(event.metrics) >= WATCHED and event.rate_unit == "tokens" and event.rate for event in done)
    first, last = done[0].metrics, done[-1].metrics
    assert first["entropy"] == pytest.approx(numpy.log(3), abs=1e-6) and last["reward"] > first["reward"]
    assert 0 < first["ratio_least"] < 1 < first["ratio_most"] and 0 < first["credited"] <= 1 and first["drift"] > 0


@pytest.mark.parametrize(("drop", "left"), [("uniform", "mixed"), ("all_right", "not solved"), ("all_wrong", "not lost")])
def test_dynamic_sampling_keeps_groups_that_teach(drop: str, left: str) -> None:
    events = run(LOCKS.replace("DRAWN", f"informative(policy, tasks, group: 4, prompts: 8, max_tokens: 2, drop: {drop}, batches: 40)"))
    assert [event.values["prompts"] for event in events if isinstance(event, Report)] == [8] * 6
    done = [event.metrics for event in events if isinstance(event, UnitDone)]
    if left == "mixed":
        assert all(metrics["mixed_groups"] == 1 for metrics in done)
    else:
        assert all(metrics["pass_at_4"] == 1 if left == "not lost" else metrics["reward"] < 1 for metrics in done)

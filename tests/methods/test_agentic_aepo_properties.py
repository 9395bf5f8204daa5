"""Invariants of agentic AEPO: the update against its formula and limits, the budget of roots, the law of branching and its bounds, the tree."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, load
from gradflow.language.diagnostics import GradflowError
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few, seeds
from .policy_cases import Batch, aggregated, batches, component, same

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])
switches = st.tuples(st.booleans(), st.booleans())


def update(batch: Batch, backend: str = "reference", changes: dict[str, Any] | None = None, seed: int = 0, **params: Any) -> dict[str, torch.Tensor]:
    r = numpy.random.default_rng(seed)
    inputs = {name: x for name, x in batch.inputs(**(changes or {})).items() if name != "logp_ref"}
    wide = torch.as_tensor(inputs["advantage"])
    inputs["advantage"] = (wide if wide.ndim == 2 else wide[:, None]).expand(batch.mask.shape)
    return evaluate("28-agentic-aepo.policy_loss", params, {"entropy": r.uniform(0, 3, batch.mask.shape), **inputs}, backend)


@BACKENDS
@few
@given(batches(scales=(0.1, 1.0, 3.0)), switches, seeds, st.sampled_from(["token-mean", "seq-mean-token-sum"]))
def test_the_loss_is_the_formula(backend: str, batch: Batch, on: tuple[bool, bool], seed: int, way: str) -> None:
    entropy = torch.tensor(numpy.random.default_rng(seed).uniform(0, 3, batch.mask.shape))
    logp = batch.logp.clone().requires_grad_()
    wide = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(logp)
    here = entropy[batch.mask]
    spread = float(here.std()) if len(here) > 1 else 1.0
    if on[1] and len(here):
        wide = torch.where(batch.mask, wide * (1 + 0.2 * (entropy - here.mean()) / (spread if spread > 1e-12 else 1.0)), wide)
    ratio = (logp - batch.logp_old).exp()
    upper = 1.2 * ratio / ratio.detach() if on[0] else torch.full_like(ratio, 1.2)
    hard = torch.max(-wide * ratio, -wide * torch.clamp(ratio, torch.full_like(ratio, 0.8), upper))
    losses = torch.where(wide < 0, torch.min(hard, -wide * 3), hard)
    total = aggregated(losses, batch.mask, way, "count") + 0 * logp.sum()
    total.backward()
    found = update(batch, backend, seed=seed, balanced_clip=on[0], balanced_advantage=on[1], loss_agg=way)
    same(found["loss"], total.detach())
    same(found["grad_logp"], torch.where(batch.mask, logp.grad, 0.0))
    same(found["advantage_shaped"], torch.where(batch.mask, wide, 0.0))


@few
@given(batches())
def test_with_both_switches_off_it_is_ppo_with_a_dual_clip(batch: Batch) -> None:
    ours = update(batch, balanced_clip=False, balanced_advantage=False)
    ppo = component("policy_loss", batch.inputs(), algo="ppo", dual_clip_c=3.0, log_ratio_clamp=None, aggregate="token-mean")
    same(ours["loss"], ppo["loss"])
    same(ours["grad_logp"], ppo["grad_logp"])


@few
@given(batches(), st.booleans(), seeds)
def test_the_clip_changes_no_value(batch: Batch, shaped: bool, seed: int) -> None:
    on, off = (update(batch, seed=seed, balanced_clip=clip, balanced_advantage=shaped) for clip in (True, False))
    same(on["loss"], off["loss"])
    inside = (batch.logp - batch.logp_old).exp() <= 1.2
    same(torch.where(inside, on["grad_logp"], 0.0), torch.where(inside, off["grad_logp"], 0.0))


@few
@given(batches(scales=(1.0,)))
def test_a_good_token_behind_the_clip_keeps_the_gradient_of_its_edge(batch: Batch) -> None:
    found = update(batch, balanced_advantage=False)
    wide = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(batch.logp)
    behind = batch.mask & ((batch.logp - batch.logp_old).exp() > 1.2) & (wide > 0)
    same(found["grad_logp"][behind], (-1.2 * wide / max(int(batch.mask.sum()), 1))[behind])


@few
@given(batches(), seeds)
def test_the_factors_of_the_advantage_are_one_in_the_mean(batch: Batch, seed: int) -> None:
    found = update(batch, changes={"advantage": torch.ones_like(batch.logp)}, seed=seed)
    if batch.mask.any():
        assert float(found["advantage_shaped"][batch.mask].mean()) == pytest.approx(1, abs=1e-9)


def test_equal_entropies_leave_the_advantage_as_it_is() -> None:
    ones = numpy.ones((2, 3))
    inputs = {"logp": -ones, "logp_old": -ones, "entropy": 0.1 * ones, "advantage": ones, "mask": ones}
    for mask in (ones, numpy.eye(2, 3), 0 * ones, numpy.eye(1, 6).reshape(2, 3)):
        same(evaluate("28-agentic-aepo.policy_loss", {}, {**inputs, "mask": mask})["advantage_shaped"], mask)


# ---- budget and entropy


def roots(gap: Any, total: int = 16, beta: float = 0.5) -> list[int]:
    gap = numpy.atleast_1d(numpy.asarray(gap, float))
    inputs = {"h_root": gap, "h_step": numpy.zeros((len(gap), 2)), "n_steps": numpy.full(len(gap), 2)}
    return evaluate("28-agentic-aepo.budget", {"total": total, "beta": beta}, inputs)["initial_rollouts"].long().tolist()


@few
@given(st.integers(1, 20), st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0, 5))
def test_the_roots_grow_with_the_entropy_of_the_question_and_are_never_too_many(total: int, gaps: list[float], beta: float) -> None:
    found = roots(sorted(gaps), total, beta)
    assert found == sorted(found) and min(found) >= 1 and max(found) <= total
    assert roots(0.0, total, beta) == [total // 2 + 1 if total > 1 else 1]


def test_without_tool_steps_the_question_stands_for_them() -> None:
    inputs = {"h_root": numpy.array([3.0]), "h_step": numpy.array([[9.0, 9.0]]), "n_steps": numpy.array([0])}
    assert evaluate("28-agentic-aepo.budget", {"total": 16}, inputs)["initial_rollouts"].tolist() == [9]


@pytest.mark.parametrize(("rows", "tokens"), [(0, 20), (3, 20), (30, 20), (5, 2)])
def test_step_entropy_is_a_truncated_sum(rows: int, tokens: int) -> None:
    likely = numpy.log(numpy.random.default_rng(0).dirichlet(numpy.ones(12), size=rows))[:, :10]
    found = evaluate("28-agentic-aepo.step_entropy", {"vocab": 50, "max_tokens": tokens}, {"topk_logprobs": likely})["entropy"]
    same(found, -(numpy.exp(likely) * likely)[:tokens].sum() / math.log(50))


def test_impossible_words_add_no_entropy() -> None:
    found = evaluate("28-agentic-aepo.step_entropy", {"vocab": 50}, {"topk_logprobs": numpy.array([[0.0, -numpy.inf]])})["entropy"]
    assert float(found) == 0


# ---- branching


def simulated(p: dict[str, Any], uniform: numpy.ndarray, entropy: numpy.ndarray, finished: numpy.ndarray) -> dict[str, list[Any]]:
    """The card's section C, in plain Python."""
    prompts, first, k = range(p["n_samples"]), p["initial_rollouts"], p["total"]
    owner = [s for s in prompts for _ in range(first)]
    active, start = list(range(len(owner))), dict.fromkeys(range(len(owner)))
    used, streak, drawn = [first] * len(prompts), [0] * len(prompts), 0
    found: dict[str, list[Any]] = {
        name: [] for name in ("branch_source", "branch_sample", "branch_iteration", "rollouts_used", "consecutive", "uniforms_consumed")
    }
    for i in range(p["iterations"]):
        for path in active:
            start[path] = entropy[i, path] if start[path] is None else start[path]
        active = [path for path in active if not finished[i, path]]
        new: list[tuple[int, int]] = []
        made = [0] * len(prompts)
        for s in dict.fromkeys(owner[path] for path in active):
            for path in (one for one in active if owner[one] == s):
                tries = min(p["beam_size"] - 1, k - used[s] - made[s])
                if tries <= 0:
                    break
                for _ in range(tries):
                    lifted = (uniform[drawn] + p["entropy_weight"] * (entropy[i, path] - start[path])) * max(0, 1 - p["penalty"] * streak[s])
                    drawn += 1
                    if min(max(lifted, 0), 1) >= p["branch_probability"]:
                        new.append((path, s))
                        made[s] += 1
        new += [(-1, s) for s in prompts if used[s] < k and s not in {owner[path] for path in active}]
        for source, s in new:
            start[len(owner)] = None
            active.append(len(owner))
            owner.append(s)
            used[s] += 1
            found["branch_source"].append(source)
            found["branch_sample"].append(s)
            found["branch_iteration"].append(i)
        if new:
            streak = [streak[s] + 1 if s in {one for _, one in new} else 0 for s in prompts]
        found["rollouts_used"].append(list(used))
        found["consecutive"].append(list(streak))
        found["uniforms_consumed"].append(drawn)
    return found


def branched(
    p: dict[str, Any], seed: int, ends: float = 0.3, backend: str = "reference", level: float = 1.0
) -> tuple[dict[str, Any], dict[str, Any]]:
    r = numpy.random.default_rng(seed)
    shape = (p["iterations"], p["n_samples"] * p["total"])
    entropy, finished = r.normal(size=shape), (r.uniform(size=shape) < ends).astype(numpy.int64)
    uniform = r.uniform(size=2 + shape[0] * shape[1] * max(p["beam_size"] - 1, 1))
    inputs = {"uniform": uniform, "entropy": entropy, "finished": finished}
    return evaluate("28-agentic-aepo.branch", p, inputs, backend), simulated(p, uniform, entropy, finished)


@st.composite
def trees(draw: Any) -> dict[str, Any]:
    total = draw(st.integers(1, 5))
    return {
        "n_samples": draw(st.integers(1, 3)), "initial_rollouts": draw(st.integers(1, total)), "total": total, "beam_size": draw(st.integers(1, 4)),
        "entropy_weight": draw(st.sampled_from([0.0, 0.2, 2.0])), "branch_probability": draw(st.sampled_from([0.0, 0.5, 0.9])),
        "penalty": draw(st.sampled_from([0.0, 0.05, 0.4, 1.5])), "iterations": draw(st.integers(1, 4)),
    }  # fmt: skip


@BACKENDS
@few
@given(trees(), seeds, st.sampled_from([0.0, 0.3, 1.0]))
def test_branching_is_that_of_the_card(backend: str, p: dict[str, Any], seed: int, ends: float) -> None:
    found, expected = branched(p, seed, ends, backend)
    for name, value in expected.items():
        assert found[name].tolist() == value and found[name].dtype == torch.int64, name
    assert int(found["rollouts_used"].max()) <= p["total"]


def test_prompts_branch_in_the_order_of_their_first_active_path() -> None:
    """Long after the roots have ended; the order decides who gets which random number."""
    p = {
        "n_samples": 4, "initial_rollouts": 1, "total": 8, "beam_size": 2, "entropy_weight": 0.2, "branch_probability": 0.2, "penalty": 0.05,
        "iterations": 9,
    }  # fmt: skip
    found, expected = branched(p, 1, ends=0.5, backend="torch")
    for name, value in expected.items():
        assert found[name].tolist() == value, name


def test_where_nothing_branches_the_lists_are_empty() -> None:
    p = {"n_samples": 2, "initial_rollouts": 2, "total": 2, "iterations": 1}
    inputs = {"uniform": numpy.zeros(0), "entropy": numpy.zeros((1, 4)), "finished": numpy.zeros((1, 4), numpy.int64)}
    for backend in ("reference", "torch"):
        assert evaluate("28-agentic-aepo.branch", p, inputs, backend)["branch_source"].shape == (0,)


def test_a_table_with_too_few_columns_is_refused() -> None:
    inputs = {"uniform": numpy.zeros(9), "entropy": numpy.zeros((1, 4)), "finished": numpy.zeros((1, 4), numpy.int64)}
    with pytest.raises(GradflowError, match="every path that may ever be has its column"):
        evaluate("28-agentic-aepo.branch", {"n_samples": 2, "initial_rollouts": 1, "total": 3, "iterations": 1}, inputs)


@pytest.mark.parametrize("penalty", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("streak", [0, 4, 8, 10])
def test_the_chance_to_branch_has_a_closed_form(penalty: float, streak: int) -> None:
    """clip(1 - p0 / (1 - pen c), 0, 1); 4000 draws, within five standard deviations (one in a million)."""
    module = load("28_agentic_aepo")[0]
    from gradflow.verify.drivers import drive

    r = numpy.random.default_rng(streak)
    inputs = {"luck": r.uniform(size=4000), "rise": numpy.zeros(4000), "streak": numpy.full(4000, float(streak))}
    share = float(drive(module, "branches", {"penalty": penalty}, inputs, "reference")["value"].mean())
    chance = min(max(1 - 0.5 / (1 - penalty * streak), 0), 1) if penalty * streak < 1 else 0.0
    assert share == pytest.approx(chance, abs=5 * math.sqrt(max(chance * (1 - chance), 1e-9) / 4000) + 1e-12)


# ---- the rollout


@cache
def run(backend: str) -> tuple[list[float], list[dict[str, Any]]]:
    text = ("rollouts=2", "shown=3", "steps=1", "tokens=12")
    program, diagnostics = build(load("28_agentic_aepo")[0], "deep_search", text)
    assert program is not None, diagnostics
    events = list(execute(program, Options(backend=backend, precision="float64")))
    return [e.loss for e in events if isinstance(e, UnitDone) and e.loss is not None], [dict(e.values) for e in events if isinstance(e, Report)]


def test_the_tree_is_the_same_on_every_backend() -> None:
    reference, torch_ = run("reference"), run("torch")
    assert len(torch_[0]) == 5
    same(reference[0], torch_[0])

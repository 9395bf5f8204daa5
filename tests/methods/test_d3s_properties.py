"""Invariants of D3S: the extremes are the best subset, what is kept and what never is, the schedule, GRPO where everything is kept."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime.events import Report
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import Batch, batches, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def selected(advantage: Any, group: Any, mode: str, n: int, backend: str = "reference") -> tuple[numpy.ndarray, float]:
    inputs = {"advantage": numpy.asarray(advantage, float), "group": numpy.asarray(group)}
    found = evaluate("36-d3s.select_samples", {"mode": mode, "n_keep": n}, inputs, backend)
    return found["selected"].numpy(), float(found["variance"])


def extremes(advantage: numpy.ndarray, n: int) -> list[int]:
    """The card's rule, sorted and tried one by one."""
    order = numpy.argsort(advantage, kind="stable")
    if n >= len(order):
        return sorted(order.tolist())
    best: tuple[float, list[int]] = (-math.inf, [])
    for i in range(n + 1):
        rows = [*order[: n - i], *order[len(order) - i :]]
        spread = float(numpy.var(advantage[rows]))
        if spread > best[0] + 1e-12:
            best = (spread, rows)
    return sorted(int(row) for row in best[1])


@st.composite
def rewards(draw: Any, most: int = 12) -> numpy.ndarray:
    """Whole numbers give many ties, real ones none; all equal, too."""
    r = numpy.random.default_rng(draw(seeds))
    size = draw(st.integers(2, most))
    kind = draw(st.sampled_from(["binary", "few", "real", "equal"]))
    return {"binary": r.integers(0, 2, size), "few": r.integers(-2, 3, size), "real": r.normal(size=size), "equal": numpy.ones(size)}[kind].astype(
        float
    )


@backends
@few
@given(rewards(), st.integers(1, 14))
def test_of_the_whole_batch_the_extremes_are_chosen(backend: str, advantage: numpy.ndarray, n: int) -> None:
    rows, spread = selected(advantage, numpy.zeros(len(advantage), int), "batch", n, backend)
    assert rows.tolist() == extremes(advantage, n)
    assert spread == pytest.approx(numpy.var(advantage[rows]), abs=1e-12)


@backends
@few
@given(rewards(16), seeds, st.integers(1, 5))
def test_within_groups_each_group_chooses_for_itself(backend: str, advantage: numpy.ndarray, seed: int, n: int) -> None:
    """Groups of any sizes, their members mixed."""
    group = numpy.random.default_rng(seed).integers(0, 3, len(advantage))
    rows, _ = selected(advantage, group, "group", n, backend)
    expected: list[int] = []
    for one in numpy.unique(group):
        members = numpy.flatnonzero(group == one)
        expected += [int(members[row]) for row in extremes(advantage[members], n)]
    assert rows.tolist() == sorted(expected)


@few
@given(rewards(8), st.integers(2, 7))
def test_no_other_subset_varies_more(advantage: numpy.ndarray, n: int) -> None:
    n = min(n, len(advantage))
    _, spread = selected(advantage, numpy.zeros(len(advantage), int), "batch", n)
    assert spread >= max(numpy.var(advantage[list(rows)]) for rows in itertools.combinations(range(len(advantage)), n)) - 1e-9


@few
@given(rewards(), st.integers(2, 12))
def test_the_unbiased_variance_of_what_is_kept_is_no_smaller_than_that_of_all(advantage: numpy.ndarray, n: int) -> None:
    rows, _ = selected(advantage, numpy.zeros(len(advantage), int), "batch", n)
    assert numpy.var(advantage[rows], ddof=1) >= numpy.var(advantage, ddof=1) - 1e-12


@few
@given(seeds, st.integers(2, 6))
def test_over_the_batch_groups_with_nothing_to_tell_drop_out(seed: int, n: int) -> None:
    r = numpy.random.default_rng(seed)
    informative = r.permutation([-1.0] * 3 + [1.0] * 3)
    group = numpy.repeat([0, 1, 2], [4, 6, 3])
    advantage = numpy.concatenate([numpy.zeros(4), informative, numpy.zeros(3)])
    rows, _ = selected(advantage, group, "batch", n)
    alone, _ = selected(informative, numpy.zeros(6, int), "batch", n)
    assert (group[rows] == 1).all()
    assert sorted(advantage[rows]) == sorted(informative[alone]), "the same values; of equal ones others may stand in"


@few
@given(batches(), st.floats(0.01, 1), seeds, st.booleans())
def test_the_tokens_kept_are_those_of_the_largest_products(batch: Batch, keep: float, seed: int, ties: bool) -> None:
    r = numpy.random.default_rng(seed)
    entropy = r.integers(0, 3, batch.mask.shape).astype(float) if ties else r.uniform(size=batch.mask.shape)
    mask = batch.mask.numpy()
    inputs = {"advantage": batch.advantage, "entropy": numpy.where(mask, entropy, numpy.nan), "mask": mask.astype(float)}
    found = evaluate("36-d3s.select_tokens", {"keep_ratio": keep}, inputs)
    value = numpy.abs(numpy.broadcast_to(batch.advantage.numpy().reshape(len(mask), -1), mask.shape)) * entropy
    places = numpy.flatnonzero(mask)
    order = places[numpy.argsort(-value.reshape(-1)[places], kind="stable")]
    expected = numpy.zeros(mask.size)
    expected[order[: max(1, math.ceil(keep * len(order) - 1e-9))]] = 1
    numpy.testing.assert_array_equal(found["token_mask"].numpy().reshape(-1), expected)
    assert float(found["n_kept"]) == expected.sum()


@few
@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_schedule_is_a_straight_line_between_its_ends(total: int, first: int, last: int, keep: float, all_: float) -> None:
    step = numpy.array([-1, 0, *range(1, total), total, total + 3])
    params = {"total_steps": total, "n_init": first, "n_final": last, "k_init": keep, "k_final": all_}
    found = evaluate("36-d3s.schedule", params, {"step": step})
    n, share = found["n_keep"].numpy(), found["keep_ratio"].numpy()
    assert (n[0], n[1], n[-2], n[-1]) == (first, first, last, last)
    assert (share[0], share[1], share[-2], share[-1]) == (keep, keep, all_, all_)
    p = numpy.clip(step / total, 0, 1)
    numpy.testing.assert_allclose(share, keep + p * (all_ - keep), rtol=1e-12)
    assert (numpy.abs(n - (first + p * (last - first))) <= 0.5 + 1e-9).all()


def whole(batch: Batch, group: Any, backend: str = "reference", **params: Any) -> dict[str, Any]:
    r = numpy.random.default_rng(int(batch.mask.sum()))
    inputs = {name: getattr(batch, name) for name in ("logp", "logp_old")} | {"mask": batch.mask.double(), "group": group}
    return evaluate(
        "36-d3s.loss", params, {**inputs, "reward": r.integers(0, 3, len(batch.mask)), "entropy": r.uniform(size=batch.mask.shape)}, backend
    )


@backends
@few
@given(batches(rows=True))
def test_keeping_everything_is_grpo_over_all_tokens(backend: str, batch: Batch) -> None:
    group = numpy.arange(len(batch.mask)) // 2
    found = whole(batch, group, backend, n_keep=len(batch.mask) + 2, keep_ratio=1.0)
    inputs = {"logp": batch.logp, "logp_old": batch.logp_old, "mask": batch.mask.double(), "advantage": found["advantage"]}
    grpo = component("policy_loss", inputs, algo="ppo", aggregate="token-mean", log_ratio_clamp=None)
    same(found["loss"], grpo["loss"])
    same(found["grad_logp"], grpo["grad_logp"])


@few
@given(batches(rows=True), st.sampled_from(["batch", "group"]), st.floats(0.05, 1), st.sampled_from(["kept-token-mean", "seq-mean-token-mean"]))
def test_nothing_outside_of_what_is_kept_has_a_gradient(batch: Batch, mode: str, keep: float, way: str) -> None:
    rows = len(batch.mask)
    found = whole(batch, numpy.arange(rows) % 2, mode=mode, n_keep=2, keep_ratio=keep, loss_agg=way)
    tokens = found["token_mask"].numpy() > 0
    kept = numpy.isin(numpy.arange(rows), found["selected"].numpy())
    assert not (tokens & ~batch.mask.numpy()).any() and not (tokens & ~kept[:, None]).any()
    assert tokens.sum() == (max(1, math.ceil(keep * batch.mask.numpy()[kept].sum() - 1e-9)) if batch.mask.numpy()[kept].any() else 0)
    assert (found["grad_logp"].numpy()[~tokens] == 0).all()


@few
@given(batches(rows=True))
def test_by_sequences_it_is_the_mean_over_the_rows_kept(batch: Batch) -> None:
    rows = len(batch.mask)
    found = whole(batch, numpy.zeros(rows, int), n_keep=2, keep_ratio=0.5, loss_agg="seq-mean-token-mean")
    tokens, advantage = found["token_mask"] > 0, found["advantage"][:, None]
    ratio = (batch.logp - batch.logp_old).exp()
    loss = torch.where(tokens, torch.max(-ratio * advantage, -ratio.clamp(0.8, 1.2) * advantage), 0.0)
    each = loss.sum(1) / tokens.sum(1).clamp(min=1)
    same(found["loss"], each[found["selected"]].mean())


def test_equal_rewards_teach_nothing() -> None:
    """Any subset has variance 0: the first rows are taken, and the gradient is 0."""
    mask = torch.ones(4, 3)
    inputs = {"logp": -mask, "logp_old": -1.1 * mask, "entropy": mask, "mask": mask, "reward": torch.ones(4), "group": numpy.array([0, 0, 1, 1])}
    found = evaluate("36-d3s.loss", {"n_keep": 2, "keep_ratio": 0.5}, inputs)
    assert found["selected"].tolist() == [0, 1]
    assert (found["grad_logp"] == 0).all()


def test_places_in_groups_and_in_all() -> None:
    """`rank(.., by: ..)`: equal entries keep their order, groups may be mixed and of any size, and further axes are lifted."""
    text = """
    function places {
      input x     : [sample, column]
      input group : [sample -> prompt]
      return (up: rank(x, by: group), down: rank(x, by: group, descending: true))
    }
    """
    r = numpy.random.default_rng(0)
    x, group = r.integers(0, 4, (9, 2)).astype(float), numpy.array([2, 0, 1, 0, 2, 0, 0, 1, 2])
    for backend in ("reference", "torch"):
        found = evaluate_text(text, "places", {}, {"x": x, "group": group}, backend)
        for name, sign in (("up", 1), ("down", -1)):
            for column, one in itertools.product(range(2), range(3)):
                members = numpy.flatnonzero(group == one)
                order = numpy.argsort(sign * x[members, column], kind="stable")
                numpy.testing.assert_array_equal(found[name][members[order], column], numpy.arange(len(members)))


# ---- the pipelines

TWO_WAYS = """
pipeline two_ways(across: group | batch = batch, n: int = 6) {
  data  tasks  = last_digits(length: 2, scored: 1)
  model policy = transformer(vocabulary: 12, layers: 1, width: 8, heads: 2, length: 6)
  samples ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 2)
  kept    ~ worthwhile(samples: samples, n: n, keep: 0.5, across: across)
  masked  = d3s(score(policy, samples), n: n, keep: 0.5, across: across)
  dropped = policy_gradient(score(policy, kept), aggregate: token_mean())
  flow policy: masked -> backprop -> adam(lr: 0.01)
  train 4 rollouts (seed: 0) {
    every rollout {
      report masked = masked; report dropped = dropped; report rows = size(kept, over: sample)
      report gap = norm(gradient(masked, of: policy) - gradient(dropped, of: policy)); report slope = norm(gradient(masked, of: policy))
    }
  }
}
"""


@pytest.mark.parametrize("across", ["group", "batch"])
def test_samples_left_out_are_as_good_as_masked(across: str) -> None:
    """The rollout without them gives the same loss and the same gradient, at a part of the passes."""
    program, diagnostics = build(Module.of(Source("<test>", TWO_WAYS)), None, [f"across={across}", f"n={2 if across == 'group' else 6}"])
    assert program is not None, diagnostics
    found = [event.values for event in execute(program, Options(precision="float64")) if isinstance(event, Report)]
    assert any(abs(one["masked"]) > 1e-3 for one in found if "masked" in one)
    for one in found[1:]:
        same(one["masked"], one["dropped"])
        assert one["rows"] == (12 if across == "group" else 6)
        assert one["gap"] < 1e-9 < one["slope"] or one["masked"] == 0

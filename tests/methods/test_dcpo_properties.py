"""Invariants of DCPO: its band solves what it is made from, the first visit is GRPO's advantage, many visits, and what a history leaves unchanged."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.verify import evaluate

from .cases import few, seeds
from .policy_cases import GARBAGE, Batch, aggregated, batches, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
bounds = st.floats(0.01, 0.5)
WAYS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-sum-token-mean")


def edges(p: Any, **params: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
    """least and most ratio for old probabilities."""
    with numpy.errstate(divide="ignore"):
        found = evaluate("22-dcpo.clip_bounds", params, {"logp_old": numpy.log(numpy.asarray(p, float))})
    return found["low"].numpy(), found["high"].numpy()


def visits(rewards: list[Any], group: Any, backend: str = "reference", start: Any = None, **params: Any) -> tuple[list[numpy.ndarray], ...]:
    """Advantages, centers and spreads of one visit after another."""
    zero = numpy.zeros(len(group))
    count, mean, std = (zero, zero, zero) if start is None else start
    inputs = {"group": numpy.asarray(group), "count0": count, "mean0": mean, "std0": std, **{f"reward_{k}": r for k, r in enumerate(rewards)}}
    found = evaluate("22-dcpo.sas_advantage", {"steps": len(rewards), **params}, inputs, backend)
    return tuple([found[f"{name}_{k}"].numpy() for k in range(len(rewards))] for name in ("advantage", "mean", "std"))


def histories(seed: int, length: int, kind: str) -> tuple[list[numpy.ndarray], numpy.ndarray]:
    """Three prompts of four, three and two samples."""
    r = numpy.random.default_rng(seed)
    group = numpy.repeat([0, 1, 2], [4, 3, 2])
    draw = {
        "binary": lambda: r.integers(0, 2, 9).astype(float),
        "format": lambda: r.integers(-1, 2, 9).astype(float),
        "real": lambda: r.normal(size=9),
    }
    rewards = [draw[kind]() for _ in range(length)]
    for reward in rewards[1::2]:
        reward[group == 1] = reward[group == 1][0]  # all equal on every second visit
    return rewards, r.permutation(group)


several = st.tuples(seeds, st.integers(1, 6), st.sampled_from(["binary", "format", "real"]))


# ---- the band


@few
@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=8), bounds, bounds)
def test_at_its_ends_the_probability_moves_by_the_bound(p: list[float], low: float, high: float) -> None:
    q = numpy.array(p)
    least, most = edges(q, eps_low=low, eps_high=high, ratio_max=None)
    numpy.testing.assert_allclose(most * (most - 1) * q, high, rtol=1e-9)
    solved = q >= 4 * low
    numpy.testing.assert_allclose((least * (1 - least) * q)[solved], low, rtol=1e-7)
    assert (least[~solved] == 0.5).all()


@few
@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=8, unique=True), bounds, bounds)
def test_the_rarer_the_token_the_wider_its_band(p: list[float], low: float, high: float) -> None:
    least, most = edges(numpy.sort(p), eps_low=low, eps_high=high)
    assert (numpy.diff(least) >= 0).all() and (numpy.diff(most) <= 0).all()
    assert (least >= 0.5).all() and (least < 1).all() and (most > 1).all() and (most <= 10).all()


def test_the_band_of_the_card() -> None:
    least, most = edges([1, 0.9, 0.01])
    numpy.testing.assert_allclose(least, [0.8, 0.769, 0.5], atol=5e-4)
    numpy.testing.assert_allclose(most, [1.171, 1.187, 5], atol=5e-4)


def test_without_a_bound_nothing_may_move_and_an_impossible_token_has_the_widest_band() -> None:
    least, most = edges([1.0, 0.5], eps_low=1e-12, eps_high=1e-12)
    numpy.testing.assert_allclose([least, most], 1, atol=1e-9)
    least, most = edges([0.0])
    assert least == 0.5 and most == 10


# ---- the loss


@backends
@few
@given(batches(scales=(0.1, 1.0, 3.0)), bounds, bounds, st.sampled_from([None, 2.0, 10.0]), st.sampled_from(WAYS), st.sampled_from([None, *GARBAGE]))
def test_the_loss_is_the_formula(backend: str, batch: Batch, low: float, high: float, dual: float | None, way: str, garbage: float | None) -> None:
    logp = batch.logp.clone().requires_grad_()
    advantage = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(logp)
    ratio, q = (logp - batch.logp_old).exp(), batch.logp_old.exp()
    least, most = 0.5 + 0.5 * (1 - 4 * low / q).clamp(min=0).sqrt(), (0.5 + 0.5 * (1 + 4 * high / q).sqrt()).clamp(max=10)
    hard = torch.max(-advantage * ratio, -advantage * ratio.clamp(least, most))
    loss = aggregated(torch.where(advantage < 0, torch.min(hard, -advantage * dual), hard) if dual else hard, batch.mask, way)
    loss.backward()
    inputs = {name: x for name, x in batch.inputs(garbage).items() if name != "logp_ref"}
    found = evaluate("22-dcpo.loss", {"eps_low": low, "eps_high": high, "dual_clip_c": dual, "aggregate": way}, inputs, backend)
    same(found["loss"], loss.detach())
    same(found["grad_logp"], logp.grad)


@few
@given(batches())
def test_on_policy_it_is_the_policy_gradient(batch: Batch) -> None:
    inputs = {name: x for name, x in batch.inputs(logp_old=batch.logp).items() if name != "logp_ref"}
    ours = evaluate("22-dcpo.loss", {}, inputs)
    plain = component("policy_loss", inputs, algo="reinforce", aggregate="seq-sum-token-mean")
    same(ours["grad_logp"], plain["grad_logp"])
    assert ours["clipfrac"] == 0


def test_a_rare_token_learns_where_ppo_has_stopped() -> None:
    one = torch.ones(1, 1)
    inputs = {"logp": one * numpy.log(0.03), "logp_old": one * numpy.log(0.01), "mask": one, "advantage": one}
    assert evaluate("22-dcpo.loss", {}, inputs)["grad_logp"] == pytest.approx(-3)
    assert component("policy_loss", inputs, algo="ppo")["grad_logp"] == 0


def test_what_is_held_back_is_counted_on_each_side() -> None:
    """Of four tokens: one beyond its band, one bad one beyond the dual clip, two free."""
    ratio, advantage = numpy.array([[2.0, 50.0, 1.0, 0.9]]), numpy.array([[1.0, -1.0, 1.0, -1.0]])
    inputs = {"logp": numpy.log(0.5 * ratio), "logp_old": numpy.log(0.5 + 0 * ratio), "mask": 0 * ratio + 1, "advantage": advantage}
    found = evaluate("22-dcpo.loss", {}, inputs)
    assert (found["clipfrac"], found["clipfrac_lower"]) == (0.25, 0.25)
    numpy.testing.assert_array_equal(found["grad_logp"].numpy() == 0, [[True, True, False, False]])


# ---- the advantage


@backends
@few
@given(several)
def test_the_first_visit_is_grpo_without_an_eps(backend: str, history: tuple[int, int, str]) -> None:
    rewards, group = histories(*history)
    (advantage, *_), (mean, *_), _ = visits(rewards, group, backend)
    for one in range(3):
        r = rewards[0][group == one]
        expected = (r - r.mean()) / r.std(ddof=1) if r.std() > 0 else 0 * r
        numpy.testing.assert_allclose(advantage[group == one], expected, atol=1e-9)
        numpy.testing.assert_allclose(mean[group == one], r.mean(), atol=1e-12)


@backends
@few
@given(several, st.sampled_from([0.0, 0.01, 0.5, 0.9, 1.0]), st.booleans())
def test_every_visit_is_the_formula(backend: str, history: tuple[int, int, str], keep: float, scaled: bool) -> None:
    rewards, group = histories(*history)
    found = visits(rewards, group, backend, history_coeff=keep, norm_by_std=scaled)
    for one in range(3):
        center = spread = 0.0
        for t, (reward, *told) in enumerate(zip(rewards, *found)):
            r = reward[group == one]
            m, s, i = r.mean(), r.std(ddof=1) if r.std() > 1e-12 else 0.0, t + 1
            past, width = keep * center, keep * spread
            center = (t * past + m) / i if t else m
            spread = numpy.sqrt((t * width**2 + s**2 + t / i * (m - past) ** 2) / i) if t else s
            now = (r - m) / (s if scaled else 1) if s > 0 or not scaled else 0 * r
            total = (r - center) / (spread if scaled else 1) if spread > 1e-12 or not scaled else 0 * r
            u, w = (i - 1) / i * now + total / i, now / i + (i - 1) / i * total
            advantage, mean, std = (x[group == one] for x in told)
            numpy.testing.assert_allclose(mean, center, atol=1e-9)
            numpy.testing.assert_allclose(std, spread, atol=1e-7)
            numpy.testing.assert_allclose(numpy.abs(advantage), numpy.minimum(numpy.abs(u), numpy.abs(w)), atol=1e-6)
            clear = numpy.abs(numpy.abs(u) - numpy.abs(w)) > 1e-6
            numpy.testing.assert_allclose(advantage[clear], numpy.where(numpy.abs(u) < numpy.abs(w), u, w)[clear], atol=1e-6)


@few
@given(several)
def test_the_center_is_the_mean_of_the_visits_means(history: tuple[int, int, str]) -> None:
    rewards, group = histories(*history)
    _, mean, _ = visits(rewards, group)
    for one in range(3):
        numpy.testing.assert_allclose(mean[-1][group == one], numpy.mean([r[group == one].mean() for r in rewards]), atol=1e-9)


@few
@given(seeds, st.integers(1, 5), st.floats(0.5, 4), st.floats(-3, 3))
def test_scale_and_shift_of_a_whole_history_change_no_advantage(seed: int, length: int, scale: float, shift: float) -> None:
    rewards, group = histories(seed, length, "real")
    for a, b in zip(visits(rewards, group)[0], visits([scale * r + shift for r in rewards], group)[0]):
        numpy.testing.assert_allclose(a, b, atol=1e-6)


def test_after_many_visits_what_is_equal_now_still_tells_a_little() -> None:
    """Equal rewards teach nothing on the first visit, and where a prompt was never mixed."""
    mixed, equal = numpy.array([0.0, 1.0]), numpy.array([1.0, 1.0])
    advantage, _, _ = visits([mixed, mixed, equal, equal], [0, 0])
    assert (numpy.abs(advantage[2]) > 0.1).all()
    never, _, _ = visits([equal] * 4, [0, 0])
    assert not numpy.any(never)


def test_far_along_the_two_mixes_are_now_and_all() -> None:
    """With count visits behind it, U is near the advantage of this visit and W near that of the whole history; the smaller is taken."""
    start = tuple(numpy.full(4, x) for x in (1e9, 0.2, 0.5))
    reward = numpy.array([0.0, 1.0, 1.0, 1.0])
    (advantage,), _, _ = visits([reward], [0] * 4, start=start)
    now, total = (reward - 0.75) / 0.5, (reward - 0.2) / 0.5
    numpy.testing.assert_allclose(advantage, numpy.where(numpy.abs(now) < numpy.abs(total), now, total), atol=1e-6)

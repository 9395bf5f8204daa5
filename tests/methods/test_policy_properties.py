"""Invariants of the policy baselines: the loss against torch's autograd, on-policy identities, advantages, KL estimators, GAE, selection."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradflow.language.diagnostics import GradflowError

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import AGGREGATES, GARBAGE, SHAPES, Batch, aggregated, batches, component, divergence, options, policy_loss, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
garbages = st.sampled_from([None, *GARBAGE])
ways = st.tuples(st.sampled_from(AGGREGATES), st.sampled_from(["exclude", "count"]))


def loss_of(batch: Batch, changes: dict[str, Tensor] | None = None, garbage: float | None = None, **params: Any) -> dict[str, Tensor]:
    return component("policy_loss", batch.inputs(garbage, **(changes or {})), **params)


# ---- the loss


@backends
@few
@given(options(), batches(), garbages)
def test_every_option_of_the_loss_is_the_formula(backend: str, p: dict[str, Any], batch: Batch, garbage: float | None) -> None:
    """Also where the mask has nothing, and whatever stands behind it."""
    if p["algo"] == "rloo_seq" and batch.advantage.ndim == 2:
        batch = Batch(**{**vars(batch), "advantage": batch.advantage[:, 0]})
    found, expected = component("policy_loss", batch.inputs(garbage), backend, **p), policy_loss(p, batch)
    same(found["loss"], expected["loss"])
    same(found["grad_logp"], expected["grad_logp"])


@few
@given(batches(), ways)
def test_on_policy_ppo_is_minus_the_mean_advantage_and_moves_like_reinforce(batch: Batch, way: tuple[str, str]) -> None:
    here = {"logp_old": batch.logp}
    ppo = loss_of(batch, here, algo="ppo", dual_clip_c=3.0, aggregate=way[0], empty_seq=way[1])
    reinforce = loss_of(batch, here, algo="reinforce", aggregate=way[0], empty_seq=way[1])
    advantage = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(batch.logp)
    same(ppo["loss"], -aggregated(advantage, batch.mask, *way))
    same(ppo["grad_logp"], reinforce["grad_logp"])


@few
@given(batches(), ways)
def test_on_policy_cispo_moves_like_reinforce(batch: Batch, way: tuple[str, str]) -> None:
    here = {"logp_old": batch.logp}
    for form in ("1-low..1+high", "max"):
        cispo = loss_of(batch, here, algo="cispo", clip_form=form, aggregate=way[0], empty_seq=way[1])
        same(cispo["grad_logp"], loss_of(batch, here, algo="reinforce", aggregate=way[0], empty_seq=way[1])["grad_logp"])


@few
@given(batches(rows=True), st.sampled_from([None, 10.0]))
def test_on_policy_gspo_moves_like_grpo(batch: Batch, most: float | None) -> None:
    here = {"logp_old": batch.logp}
    gspo = loss_of(batch, here, algo="gspo", log_ratio_clamp_max=most, aggregate="seq-mean-token-mean")
    same(gspo["grad_logp"], loss_of(batch, here, algo="ppo", aggregate="seq-mean-token-mean")["grad_logp"])


@few
@given(batches(scales=(0.1, 1.0), rows=True), st.sampled_from(["exclude", "count"]))
def test_both_codings_of_gspo_agree_where_a_response_counts_as_one(batch: Batch, empty: str) -> None:
    p = {"algo": "gspo", "eps_low": 0.1, "eps_high": 0.15, "aggregate": "seq-mean-token-mean", "empty_seq": empty}
    one, other = loss_of(batch, **p), loss_of(batch, log_ratio_clamp_max=10.0, **p)
    same(one["loss"], other["loss"])
    same(one["grad_logp"], other["grad_logp"])


def test_the_codings_of_gspo_differ_where_tokens_count() -> None:
    logp, mask = torch.tensor([[-1.0, -2.0], [-1.0, -1.0]]).double(), torch.tensor([[1, 1], [1, 0]])
    inputs = {"logp": logp, "logp_old": logp, "mask": mask, "advantage": torch.tensor([[1.0, -1.0], [1.0, 0.0]]).double()}
    whole, by_token = (component("policy_loss", inputs, algo="gspo", log_ratio_clamp_max=most)["grad_logp"] for most in (None, 10.0))
    same(whole[0], [0.0, 0.0])
    assert abs(float(by_token[0, 0])) > 0.1


@few
@given(batches(scales=(0.1, 1.0)))
def test_without_bounds_nothing_is_clipped(batch: Batch) -> None:
    found = loss_of(batch, algo="ppo", eps_low=1.0, eps_high=1e12, dual_clip_c=1e12, log_ratio_clamp=None)
    logp = batch.logp.clone().requires_grad_()
    advantage = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(logp)
    aggregated(-advantage * (logp - batch.logp_old).exp(), batch.mask, "token-mean").backward()
    same(found["grad_logp"], logp.grad)


@pytest.mark.parametrize(("change", "advantage"), [(0.5, 1.0), (-0.5, -1.0), (2.0, -1.0)])
def test_beyond_the_bounds_no_gradient_is_left(change: float, advantage: float) -> None:
    """The last by the dual clip alone: without it, a bad token that has become likelier is pulled back in full."""
    one = torch.ones(1, 1).double()
    inputs = {"logp": change * one, "logp_old": 0 * one, "mask": one, "advantage": advantage * one}
    assert float(component("policy_loss", inputs, algo="ppo", dual_clip_c=3.0)["grad_logp"]) == 0
    if change == 2.0:
        same(component("policy_loss", inputs, algo="ppo")["grad_logp"], one * numpy.exp(2.0))


@backends
def test_on_the_edge_of_the_band_a_token_keeps_its_gradient(backend: str) -> None:
    text = """
    objective edge {
      input ratio, advantage : [token]
      minimize sum(clipped(ratio: ratio, advantage: advantage, low: 0.25, high: 0.25))
    }
    """
    inputs = {"ratio": numpy.array([0.75, 0.75, 1.25, 1.25]), "advantage": numpy.array([1.0, -1.0, 1.0, -1.0])}
    same(evaluate_text(text, "edge", {}, inputs, backend)["grad_ratio"], -inputs["advantage"])


@few
@given(batches(), st.integers(1, 3), st.sampled_from(["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]), st.floats(1, 50))
def test_micro_batches_with_a_global_count_add_up_to_the_whole(batch: Batch, cut: int, aggregate: str, norm: float) -> None:
    inputs = {"loss_mat": batch.logp, "mask": batch.mask.double()}
    whole = component("aggregate", inputs, aggregate=aggregate, norm=norm)
    pieces = [{name: x[part] for name, x in inputs.items()} for part in (slice(0, cut), slice(cut, None)) if len(batch.logp[part])]
    parts = [component("aggregate", piece, aggregate=aggregate, norm=norm) for piece in pieces]
    same(sum(part["loss"] for part in parts), whole["loss"])
    same(torch.cat([part["grad_loss_mat"] for part in parts]), whole["grad_loss_mat"])


@backends
@few
@given(batches(), ways, st.sampled_from([None, 7.0]), st.sampled_from([1, 2]), garbages)
def test_every_aggregation_is_the_formula(
    backend: str, batch: Batch, way: tuple[str, str], norm: float | None, dp_size: int, garbage: float | None
) -> None:
    loss = batch.logp.clone().requires_grad_()
    expected = aggregated(loss, batch.mask, *way, norm, dp_size)
    expected.backward()
    given_ = batch.logp if garbage is None else batch.logp.masked_fill(~batch.mask, garbage)
    found = component(
        "aggregate", {"loss_mat": given_, "mask": batch.mask.double()}, backend, aggregate=way[0], empty_seq=way[1], norm=norm, dp_size=dp_size
    )
    same(found["loss"], expected.detach())
    same(found["grad_loss_mat"], loss.grad)


def test_an_option_that_is_none_of_the_words_is_refused() -> None:
    with pytest.raises(GradflowError, match="seq_mean"):
        component("aggregate", {"loss_mat": torch.ones(1, 1), "mask": torch.ones(1, 1)}, aggregate="seq-mean")


# ---- KL


@backends
@few
@given(
    batches(scales=(1.0, 30.0)),
    st.sampled_from(["k1", "k2", "k3", "abs", "k1+", "k3+"]),
    st.sampled_from([None, 20.0, 0.5]),
    st.sampled_from([None, 10.0, 0.3]),
)
def test_every_estimator_is_the_formula(backend: str, batch: Batch, kl: str, bound: float | None, most: float | None) -> None:
    logp = batch.logp.clone().requires_grad_()
    expected = divergence(logp, batch.logp_ref, kl, bound or float("inf"), most or float("inf"))
    expected.sum().backward()
    found = component("kl", {"logp": batch.logp, "logp_ref": batch.logp_ref}, backend, kl=kl, log_ratio_clamp=bound, value_clamp=most)
    same(found["kl"], expected.detach())
    same(found["grad_logp"], logp.grad)


@few
@given(batches(), st.sampled_from(["k1", "k3"]))
def test_a_straight_through_estimator_has_its_own_value_and_the_gradient_of_k2(batch: Batch, kl: str) -> None:
    inputs = {"logp": batch.logp, "logp_ref": batch.logp_ref}
    plus, plain, square = (component("kl", inputs, kl=name) for name in (kl + "+", kl, "k2"))
    same(plus["kl"], plain["kl"])
    same(plus["grad_logp"], square["grad_logp"])


@few
@given(batches())
def test_k3_is_never_negative(batch: Batch) -> None:
    assert bool((component("kl", {"logp": batch.logp, "logp_ref": batch.logp_ref}, kl="k3")["kl"] >= 0).all())


# ---- advantages


def groups(seed: int, count: int = 8) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rewards, some of them equal, and ids of three groups with gaps between the numbers."""
    r = numpy.random.default_rng(seed)
    return numpy.round(r.normal(size=count), int(r.integers(0, 3))), 7 * r.integers(0, 3, count) - 5


def credit(reward: Any, group: Any, **params: Any) -> Tensor:
    return component("advantage", {"reward": reward, "group": group}, **params)["advantage"]


def sizes(group: numpy.ndarray) -> numpy.ndarray:
    return (group[:, None] == group).sum(1)


@few
@given(seeds)
def test_rloo_is_dr_grpo_times_n_over_n_less_one(seed: int) -> None:
    reward, group = groups(seed)
    n = sizes(group)
    factor = numpy.where(n > 1, n / numpy.maximum(n - 1, 1), 1)
    same(credit(reward, group, estimator="rloo"), factor * credit(reward, group, estimator="grpo", scale="none").numpy())


@few
@given(seeds)
def test_rloo_compares_with_the_others(seed: int) -> None:
    reward, group = groups(seed)
    others = [reward[(group == group[i]) & (numpy.arange(len(reward)) != i)] for i in range(len(reward))]
    same(credit(reward, group, estimator="rloo"), [x - (rest.mean() if len(rest) else 0) for x, rest in zip(reward, others, strict=True)])


@few
@given(
    seeds,
    st.sampled_from([{"estimator": "grpo"}, {"estimator": "grpo", "scale": "none"}, {"estimator": "grpo", "scale": "batch"}, {"estimator": "rloo"}]),
)
def test_advantages_of_a_group_sum_to_zero_and_ignore_a_shift(seed: int, params: dict[str, Any]) -> None:
    reward, group = groups(seed)
    found = credit(reward, group, singleton="zero", **params)
    for one in numpy.unique(group):
        assert abs(float(found[group == one].sum())) < 1e-8
    if params.get("scale") != "batch":
        same(credit(reward + 3.0 * group, group, singleton="zero", **params), found, rtol=1e-6, atol=1e-7)


@few
@given(seeds, st.floats(0.5, 5))
def test_a_factor_of_the_rewards_reaches_only_what_is_not_normalized(seed: int, factor: float) -> None:
    reward, group = groups(seed)
    same(
        credit(factor * reward, group, estimator="grpo", eps=0.0, scale="none"),
        factor * credit(reward, group, estimator="grpo", eps=0.0, scale="none"),
    )
    spread = numpy.array([len(set(reward[group == one])) for one in group]) > 1
    scaled, plain = (credit(x, group, estimator="grpo", eps=0.0)[spread] for x in (factor * reward, reward))
    same(scaled, plain, rtol=1e-6, atol=1e-7)


@few
@given(seeds, st.sampled_from(["grpo", "rloo", "gdpo"]), st.sampled_from(["raw", "zero"]))
def test_rows_may_come_in_any_order(seed: int, estimator: str, singleton: str) -> None:
    reward, group = groups(seed)
    order = numpy.random.default_rng(seed).permutation(len(reward))
    same(
        credit(reward[order], group[order], estimator=estimator, singleton=singleton),
        credit(reward, group, estimator=estimator, singleton=singleton)[order],
        atol=1e-9,
    )


def test_alone_in_its_group_and_a_group_without_spread() -> None:
    reward, group = numpy.array([2.0, 0.7, 0.7, 0.7]), numpy.array([9, 4, 4, 4])
    assert credit(reward, group, estimator="grpo").tolist() == [2 / (1 + 1e-6), 0, 0, 0]
    assert credit(reward, group, estimator="grpo", singleton="zero").tolist() == [0, 0, 0, 0]
    same(credit(reward, group, estimator="rloo"), [2, 0, 0, 0])


@few
@given(seeds, st.integers(1, 3))
def test_several_rewards_are_added_before_or_after_their_groups_are_normalized(seed: int, kinds: int) -> None:
    r = numpy.random.default_rng(seed)
    reward, group, weights = r.normal(size=(8, kinds)), numpy.arange(8) // 4, list(r.uniform(0.5, 2, kinds))
    same(credit(reward, group, estimator="grpo", weights=weights), credit(reward @ weights, group, estimator="grpo"))
    each = sum(w * credit(reward[:, k], group, estimator="grpo", eps=1e-4).numpy() for k, w in enumerate(weights))
    same(credit(reward, group, estimator="gdpo", weights=weights), (each - each.mean()) / (each.std(ddof=1) + 1e-4))


def test_gdpo_keeps_a_small_reward_audible() -> None:
    """Two responses that differ only in the small reward are equal for the sum, up to its size, and far apart for GDPO."""
    reward, group = numpy.array([[100.0, 0.0], [100.0, 1.0], [0.0, 0.0], [0.0, 1.0]]), numpy.zeros(4, int)
    added, each = credit(reward, group, estimator="grpo"), credit(reward, group, estimator="gdpo")
    assert float(added[1] - added[0]) < 0.02
    assert float(each[1] - each[0]) > 1


@few
@given(batches(full=True), st.floats(0, 1))
def test_kl_in_the_reward_is_taken_off_before_the_baseline(batch: Batch, beta: float) -> None:
    rows = len(batch.logp)
    reward, group = numpy.arange(rows) % 2, numpy.zeros(rows, int)
    inputs = {"reward": reward, "group": group, "logp_old": batch.logp_old, "logp_ref": batch.logp_ref, "mask": batch.mask.double()}
    paid = reward - beta * torch.where(batch.mask, batch.logp_old - batch.logp_ref, 0.0).sum(1).numpy()
    same(component("advantage", inputs, estimator="rloo", beta=beta)["advantage"], credit(paid, group, estimator="rloo"))


# ---- along the tokens


@st.composite
def episodes(draw: Any) -> dict[str, Tensor]:
    r = numpy.random.default_rng(draw(seeds))
    shape, share = draw(st.sampled_from(SHAPES)), draw(st.sampled_from([1.0, 0.6, 0.0]))
    return {
        "reward_tok": torch.tensor(r.normal(size=shape)),
        "values": torch.tensor(r.normal(size=shape)),
        "mask": torch.tensor(r.uniform(size=shape) < share),
    }


def returns_of(reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    found = torch.zeros_like(reward)
    for row in range(len(reward)):
        total = 0.0
        for place in reversed(mask[row].nonzero().flatten().tolist()):
            total = float(reward[row, place]) + gamma * total
            found[row, place] = total
    return found


@backends
@few
@given(episodes(), st.floats(0, 1))
def test_with_lambda_one_advantage_plus_value_is_the_discounted_return(backend: str, episode: dict[str, Tensor], gamma: float) -> None:
    """Tokens between, that the policy did not write, take no part: what stands there does not matter."""
    inputs = {
        **episode,
        "reward_tok": episode["reward_tok"].masked_fill(~episode["mask"], float("nan")),
        "values": episode["values"].masked_fill(~episode["mask"], float("inf")),
    }
    found = component("gae", inputs, backend, gamma=gamma, lam=1.0)
    expected = returns_of(episode["reward_tok"], episode["mask"], gamma)
    same(found["returns"], expected)
    same(found["advantage_raw"], torch.where(episode["mask"], expected - episode["values"], 0.0))


@few
@given(episodes(), st.floats(0, 1))
def test_with_lambda_zero_the_advantage_is_one_step_of_temporal_difference(episode: dict[str, Tensor], gamma: float) -> None:
    found = component("gae", episode, gamma=gamma, lam=0.0)["advantage_raw"]
    for row, mask in enumerate(episode["mask"]):
        places = mask.nonzero().flatten().tolist()
        for here, following in zip(places, [*places[1:], None], strict=False):
            ahead = 0.0 if following is None else float(episode["values"][row, following])
            same(found[row, here], float(episode["reward_tok"][row, here]) + gamma * ahead - float(episode["values"][row, here]))


@few
@given(episodes())
def test_whitened_advantages_have_mean_zero_and_variance_one(episode: dict[str, Tensor]) -> None:
    found = component("gae", episode, gamma=0.9, lam=0.9)
    taken = found["advantage"][episode["mask"]]
    if len(taken) > 1:
        assert abs(float(taken.mean())) < 1e-6
        spread = float(found["advantage_raw"][episode["mask"]].var())
        same(taken.var(), spread / (spread + 1e-8), rtol=1e-6)
    same(found["advantage"][~episode["mask"]], torch.zeros(int((~episode["mask"]).sum())))


@backends
@few
@given(episodes(), st.floats(0, 1))
def test_the_returns_of_reinforce_plus_plus(backend: str, episode: dict[str, Tensor], gamma: float) -> None:
    inputs = {"reward_tok": episode["reward_tok"], "mask": episode["mask"]}
    found = component("advantage", inputs, backend, estimator="reinforce_plus_plus", gamma=gamma)
    same(found["returns"], returns_of(episode["reward_tok"], episode["mask"], gamma))


# ---- the critic, rewards, selection


@few
@given(batches(), st.sampled_from([0.5, 0.2, None]), ways)
def test_the_value_loss_is_the_larger_of_two(batch: Batch, clip: float | None, way: tuple[str, str]) -> None:
    values = batch.logp.clone().requires_grad_()
    bound = clip or float("inf")
    here, near = (values - batch.logp_ref) ** 2, (torch.clamp(values, batch.logp_old - bound, batch.logp_old + bound) - batch.logp_ref) ** 2
    expected = 0.5 * aggregated(torch.max(here, near), batch.mask, *way)
    expected.backward()
    inputs = {"values": batch.logp, "values_old": batch.logp_old, "returns": batch.logp_ref, "mask": batch.mask.double()}
    found = component("value_loss", inputs, clip=clip, aggregate=way[0], empty_seq=way[1])
    same(found["loss"], expected.detach())
    same(found["grad_values"], values.grad)
    same(found["clipfrac"], aggregated((near > here).double(), batch.mask, "token-mean"))


@few
@given(seeds, st.sampled_from([None, -1.0]))
def test_the_overlong_penalty_sets_in_at_the_buffer(seed: int, floor: float | None) -> None:
    length = numpy.random.default_rng(seed).integers(0, 200, 9)
    found = component("overlong", {"length": length}, max_len=100, buffer=20, factor=0.5, floor=floor)["penalty"].numpy()
    assert (found[length <= 80] == 0).all() and (found[length > 80] < 0).all()
    same(found, numpy.clip((80 - length) / 20 * 0.5, -numpy.inf if floor is None else floor, 0))


@few
@given(seeds)
def test_a_group_is_dropped_when_its_members_all_earn_the_same(seed: int) -> None:
    """0.1 three times has a standard deviation of 1e-17 in floating point; it is a group without spread all the same."""
    r = numpy.random.default_rng(seed)
    reward, group = 0.1 * r.integers(0, 2, 9), r.integers(0, 4, 9)
    keep = [int((group == one).sum() == 1 or len(set(reward[group == one])) > 1) for one in group]
    assert component("group_filter", {"reward": reward, "group": group}, strategy="all")["keep"].tolist() == keep


# ---- the presets of the library

RECORD = """
  input logp, logp_old : [sample, token]
  input mask           : bool[sample, token]
  input reward         : [sample]
  input group          : [sample -> prompt]
"""
PRESETS = {
    "ppo": ({}, {"algo": "ppo", "dual_clip_c": 3.0, "aggregate": "token-mean"}),
    "grpo": ({}, {"algo": "ppo", "aggregate": "seq-mean-token-mean"}),
    "dapo": ({}, {"algo": "ppo", "eps_high": 0.28, "aggregate": "token-mean"}),
    "gspo": ({}, {"algo": "gspo", "eps_low": 3e-4, "eps_high": 4e-4, "aggregate": "seq-mean-token-mean"}),
    "luspo": ({}, {"algo": "gspo", "eps_low": 3e-4, "eps_high": 4e-4, "aggregate": "seq-mean-token-sum", "empty_seq": "count"}),
    "cispo": ({}, {"algo": "cispo", "aggregate": "token-mean"}),
    "dr_grpo": ({"scale": "none"}, {"algo": "ppo", "aggregate": "seq-mean-token-sum-norm", "norm": 16}),
    "rloo": ({"estimator": "rloo"}, {"algo": "rloo_seq"}),
}


@backends
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_parts(preset: str, backend: str) -> None:
    r = numpy.random.default_rng(3)
    old = -3 * r.uniform(size=(6, 5))
    inputs = {"logp": old + 0.4 * r.normal(size=old.shape), "logp_old": old, "mask": numpy.arange(5) < r.integers(1, 6, (6, 1))}
    reward, group = r.normal(size=6), numpy.arange(6) // 3
    advantage, loss = PRESETS[preset]
    longest = "longest: 16, " if preset == "dr_grpo" else ""
    text = f"objective whole {{{RECORD}  minimize {preset}({longest}logp: logp, logp_old: logp_old, mask: mask, reward: reward, group: group)\n}}"
    whole = evaluate_text(text, "whole", {}, {**inputs, "reward": reward, "group": group}, backend)
    parts = component("policy_loss", {**inputs, "advantage": credit(reward, group, **{"estimator": "grpo", **advantage})}, backend, **loss)
    assert float(numpy.abs(whole["grad_logp"]).max()) > 1e-3
    same(whole["loss"], parts["loss"])
    same(whole["grad_logp"], parts["grad_logp"])


def test_reinforce_takes_the_reward_itself() -> None:
    text = f"objective whole {{{RECORD}  minimize reinforce(logp: logp, logp_old: logp_old, mask: mask, reward: reward, group: group)\n}}"
    inputs = {
        "logp": -numpy.ones((2, 2)),
        "logp_old": -numpy.ones((2, 2)),
        "mask": numpy.array([[1, 1], [1, 0]]),
        "reward": numpy.array([2.0, -1.0]),
        "group": numpy.zeros(2, int),
    }
    whole = evaluate_text(text, "whole", {}, inputs)
    same(whole["loss"], (2.0 * 2 - 1.0) / 2)
    same(whole["grad_logp"], [[-1, -1], [0.5, 0]])

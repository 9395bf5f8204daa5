"""What `policy_variants.gflow` adds to the vocabulary of policy gradients, each against its formula written a second time in float64 (torch's
autograd for gradients), with the cases at the edge: one sample a group, empty rows, rewards that are all equal.

Axes: B responses, T tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.runtime.harness import ran, series, written

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import Batch, batches, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
INPUTS = """
  input reward, extra : [sample]
  input group : [sample -> prompt]
  input reward_greedy : [prompt]
  input logp, logp_old, logp_ref, logp_sampler, entropy, advantage, ticket : [sample, token]
  input mask : bool[sample, token]
"""


def value(expression: str, inputs: dict[str, Any], backend: str = "reference") -> Tensor:
    """What an expression is worth for these inputs."""
    text = f"function run {{{INPUTS}  return (out: {expression})\n}}"
    return torch.as_tensor(evaluate_text(text, "run", {}, inputs, backend)["out"])


def loss(expression: str, inputs: dict[str, Any], backend: str = "reference") -> tuple[Tensor, Tensor]:
    """The value of an objective of policy gradients, and its gradient with respect to logp. Its `..` stands for a record of the inputs."""
    record = f"({', '.join(f'{name}: {name}' for name in inputs)})"
    text = f"objective run {{{INPUTS}  minimize {expression.replace('..', record)}\n}}"
    found = evaluate_text(text, "run", {}, inputs, backend)
    return torch.as_tensor(found["loss"]), torch.as_tensor(found["grad_logp"])


def autograd(loss: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logp = batch.logp.clone().requires_grad_()
    found = loss(logp)
    (slope,) = torch.autograd.grad(found, logp) if found.requires_grad else (torch.zeros_like(logp),)
    return found.detach(), slope


def whole(batch: Batch) -> dict[str, Any]:
    """The inputs of a loss, an advantage for each token."""
    return {"logp": batch.logp, "logp_old": batch.logp_old, "mask": batch.mask, "advantage": wide(batch)}


def wide(batch: Batch) -> Tensor:
    return (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(batch.logp).clone()


def token_mean(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, 0.0).sum() / max(int(mask.sum()), 1)


def agree(expression: str, batch: Batch, inputs: dict[str, Any], formula: Any, backend: str) -> None:
    found, expected = loss(expression, inputs, backend), autograd(formula, batch)
    same(found[0], expected[0])
    same(found[1], expected[1])


# ---- advantages


@st.composite
def rewarded(draw: Any) -> dict[str, Any]:
    """Rewards, many of them equal, in groups of any size; responses some of which are empty."""
    r = numpy.random.default_rng(draw(seeds))
    count, width = draw(st.sampled_from([(1, 1), (1, 3), (2, 3), (7, 4), (12, 5)]))
    reward = draw(st.sampled_from([r.integers(0, 2, count).astype(float), r.normal(size=count), numpy.full(count, 0.3)]))
    group = 5 * r.integers(0, draw(st.sampled_from([1, 3, count])), count) - 3
    return {"reward": reward, "group": group, "mask": r.uniform(size=(count, width)) < draw(st.sampled_from([1.0, 0.6]))}


def by_group(given: dict[str, Any], formula: Any) -> numpy.ndarray:
    """The formula of (rewards, lengths) of a group, for each group."""
    found = numpy.zeros(len(given["reward"]))
    for one in numpy.unique(given["group"]):
        rows = given["group"] == one
        found[rows] = formula(given["reward"][rows], given["mask"][rows].sum(1))
    return found


@backends
@few
@given(rewarded())
def test_the_length_weighted_baseline(backend: str, case: dict[str, Any]) -> None:
    def opo(reward: numpy.ndarray, length: numpy.ndarray) -> numpy.ndarray:
        return reward - (reward @ length) / length.sum() if length.sum() else reward - reward.max()

    found = value("length_baseline(reward, group, mask)", case, backend)
    same(found, by_group(case, opo))
    if len(set(case["reward"])) == 1:
        assert not found.any()


@few
@given(rewarded())
def test_responses_of_one_length_have_the_baseline_of_dr_grpo(case: dict[str, Any]) -> None:
    case["mask"][:] = True
    same(value("length_baseline(reward, group, mask)", case), value("group_norm(reward, group, scale: none, alone: zero)", case))


@backends
@few
@given(rewarded(), st.booleans())
def test_only_the_best_of_a_group_gains_its_lead(backend: str, case: dict[str, Any], scaled: bool) -> None:
    def lead(reward: numpy.ndarray, _: numpy.ndarray) -> numpy.ndarray:
        if len(reward) < 2:
            return numpy.zeros(1)
        second, first = numpy.sort(reward)[-2:]
        spread = reward.std(ddof=1) + 1e-6 if scaled else 1
        return numpy.where(numpy.arange(len(reward)) == reward.argmax(), (first - second) / spread, 0)

    same(value(f"best_alone(reward, group{'' if scaled else ', scale: none'})", case, backend), by_group(case, lead))


@backends
def test_the_greedy_response_as_baseline(backend: str) -> None:
    inputs = {"reward": numpy.array([1.0, 0.0, 0.5]), "group": numpy.array([9, 4, 9]), "reward_greedy": numpy.array([0.25, 1.0])}
    same(value("greedy_baseline(reward: reward, reward_greedy: reward_greedy, group: group)", inputs, backend), [0.0, -0.25, -0.5])


@backends
@few
@given(rewarded(), st.sampled_from(["spread", "nonzero"]))
def test_groups_without_spread_do_not_dilute(backend: str, case: dict[str, Any], counted: str) -> None:
    def alive(reward: numpy.ndarray, _: numpy.ndarray) -> Any:
        return float(len(set(reward)) > 1)

    share = by_group(case, alive).mean() if counted == "spread" else (case["reward"] != 0).mean()
    center = by_group(case, lambda reward, _: reward - reward.mean())
    same(value(f"undiluted(reward, group, counted: {counted})", case, backend), center / share if share else 0 * center, atol=1e-9)


def whitened(x: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
    taken = x[mask]
    if not taken.size:
        return numpy.zeros_like(x)
    variance = ((taken - taken.mean()) ** 2).sum() / (taken.size - 1) if taken.size > 1 else 0.0
    return numpy.where(mask, (x - taken.mean()) / numpy.sqrt(variance + 1e-8), 0)


@backends
@few
@given(rewarded(), st.floats(0, 1))
def test_an_outcome_as_a_whitened_return(backend: str, case: dict[str, Any], gamma: float) -> None:
    rows = numpy.zeros(case["mask"].shape)
    for i, mask in enumerate(case["mask"]):
        places = numpy.flatnonzero(mask)
        rows[i, places] = case["reward"][i] * gamma ** (len(places) - 1 - numpy.arange(len(places)))
    same(value(f"return_whitened(reward, mask, gamma: {gamma!r})", case, backend), whitened(rows, case["mask"]), atol=1e-9)


@backends
@few
@given(rewarded(), st.booleans())
def test_the_group_mean_as_baseline_of_reinforce_plus_plus(backend: str, case: dict[str, Any], samples: bool) -> None:
    center = by_group(case, lambda reward, _: reward - reward.mean() if len(reward) > 1 else reward)
    expected = whitened(numpy.broadcast_to(center[:, None], case["mask"].shape), case["mask"])
    if samples:
        spread = numpy.sqrt(((center - center.mean()) ** 2).sum() / max(len(center) - 1, 1))
        expected = numpy.where(case["mask"], ((center - center.mean()) / (spread + 1e-8))[:, None], 0)
    found = value(f"group_whitened(reward, group, mask, over: {'samples' if samples else 'tokens'})", case, backend)
    if numpy.ptp(center) > 1e-9:
        same(found, expected, rtol=1e-6, atol=1e-9)
    else:
        assert float(found.abs().max()) < 1e-6


# ---- ratios


@backends
@few
@given(batches(scales=(0.1, 1.0)), st.sampled_from([0.4, 0.05]))
def test_the_geometric_mean_of_held_ratios(backend: str, batch: Batch, low: float) -> None:
    """The published form: a minimum of the ratio to the power of the advantage's sign and of the same, held."""

    def gmpo(logp: Tensor) -> Tensor:
        sign = torch.sign(wide(batch))
        change = logp - batch.logp_old
        held = torch.where(sign == 0, change.clamp(min=-low), sign * torch.minimum(sign * change, sign * change.clamp(-low, 0.3)))
        length = batch.mask.sum(1).clamp(min=1)
        ratio = (torch.where(batch.mask, held, 0.0).sum(1) / length).exp()
        rows = torch.where(batch.mask, -wide(batch) * ratio[:, None], 0.0).sum(1) / length
        return rows.mean()

    call = f"policy_gradient(.., ratio: geometric_ratio(low: {low}, high: 0.3), surrogate: unclipped(), aggregate: sequence_mean(empty: count))"
    agree(call, batch, whole(batch), gmpo, backend)


def test_gmpo_holds_a_token_before_the_mean_is_taken() -> None:
    inputs = {"logp": torch.tensor([[2.0, -0.1]]).double(), "logp_old": torch.zeros(1, 2).double(), "mask": torch.ones(1, 2),
              "advantage": torch.ones(1, 2).double()}  # fmt: skip
    found, slope = loss("gmpo(..)", inputs)
    same(found, -math.exp((0.4 - 0.1) / 2))
    same(slope, [[0.0, -math.exp(0.15) / 2]])


# ---- weights


def drawn(batch: Batch, gap: float = 0.5) -> dict[str, Any]:
    sampler = batch.logp_old + gap * (batch.logp_ref - batch.logp_old)
    return {"logp_old": batch.logp_old, "logp_sampler": sampler, "mask": batch.mask}


def rollout_weights(given: dict[str, Any], level: str, least: float, most: float, drop: bool, normalize: bool) -> Tensor:
    change = torch.where(given["mask"], given["logp_old"] - given["logp_sampler"], 0.0)
    ratio = change.clamp(-20, 20).exp() if level == "token" else change.sum(1, keepdim=True).clamp(-20, 20).exp()
    weight = torch.where((ratio >= least) & (ratio <= most), ratio, 0.0) if drop else ratio.clamp(least, most)
    if normalize:
        taken = weight[given["mask"]] if level == "token" else weight[given["mask"].any(1), 0]
        weight = weight / taken.mean() if taken.numel() and float(taken.mean()) > 0 else weight
    return weight


@backends
@few
@given(
    batches(), st.sampled_from(["token", "sequence"]), st.sampled_from([(0.0, 2.0), (0.5, 1.1)]), st.booleans(), st.booleans(),
    st.sampled_from([0.5, 5.0]),
)  # fmt: skip
def test_the_weight_of_a_sampler_that_disagrees(
    backend: str, batch: Batch, level: str, bounds: tuple[float, float], drop: bool, normalize: bool, gap: float
) -> None:
    inputs = drawn(batch, gap)
    call = f"rollout_weight(logp_old: logp_old, logp_sampler: logp_sampler, mask: mask, level: {level}, least: {bounds[0]}, most: {bounds[1]}"
    call += f", beyond: {'drop' if drop else 'truncate'}, normalize: {'true' if normalize else 'false'})"
    found = value(call, inputs, backend)
    expected = rollout_weights(inputs, level, *bounds, drop, normalize).expand_as(batch.logp)
    found = found if found.ndim == 2 else found[:, None].expand_as(batch.logp)
    same(found[batch.mask], expected[batch.mask])


def test_without_disagreement_every_weight_is_one() -> None:
    inputs = {"logp_old": torch.randn(2, 3).double(), "mask": torch.ones(2, 3)}
    inputs["logp_sampler"] = inputs["logp_old"]
    for level in ("token", "sequence"):
        assert (value(f"rollout_weight(logp_old: logp_old, logp_sampler: logp_sampler, mask: mask, level: {level})", inputs) == 1).all()


@backends
@few
@given(batches(scales=(0.1, 1.0)))
def test_a_weight_scales_the_loss_and_has_no_gradient(backend: str, batch: Batch) -> None:
    inputs = whole(batch) | drawn(batch)
    weight = rollout_weights(inputs, "token", 0.0, 1.5, False, False)

    def corrected(logp: Tensor) -> Tensor:
        ratio = (logp - batch.logp_old).clamp(-20, 20).exp()
        return token_mean(weight * torch.max(-wide(batch) * ratio, -wide(batch) * ratio.clamp(0.8, 1.2)), batch.mask)

    call = "policy_gradient(.., surrogate: weighted(weight: rollout_weight(most: 1.5)), aggregate: token_mean())"
    agree(call, batch, inputs, corrected, backend)


@backends
@few
@given(batches(scales=(0.1, 1.0), rows=True), st.sampled_from([0.05, 0.5]))
def test_bad_responses_that_the_policy_has_left_are_masked(backend: str, batch: Batch, delta: float) -> None:
    left = torch.where(batch.mask, batch.logp_old - batch.logp, 0.0).sum(1) / batch.mask.sum(1).clamp(min=1)
    kept = ~((left > delta) & (batch.advantage < 0))

    def masked(logp: Tensor) -> Tensor:
        ratio = (logp - batch.logp_old).exp()
        return token_mean(torch.where(kept[:, None], -wide(batch) * ratio, 0.0), batch.mask)

    call = f"policy_gradient(.., surrogate: weighted(surrogate: unclipped(), weight: near_policy(delta: {delta})), aggregate: token_mean())"
    agree(call, batch, whole(batch), masked, backend)


@backends
@few
@given(batches(), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans())
def test_the_tokens_of_highest_entropy(backend: str, batch: Batch, share: float, equal: bool) -> None:
    entropy = torch.full_like(batch.logp, 0.7) if equal else batch.logp.abs()
    active = entropy[batch.mask]
    expected = torch.zeros_like(entropy)
    if active.numel():
        expected = (batch.mask & (entropy >= torch.quantile(active, 1 - share))).double()
    found = value(f"top_entropy(entropy: entropy, mask: mask, share: {share})", {"entropy": entropy, "mask": batch.mask}, backend)
    assert (found.double() == expected).all()


def test_the_highest_entropy_is_found_through_the_record_of_the_objective() -> None:
    """`entropy` is no input of policy_gradient: the weight finds it in the record that the objective was called with."""
    inputs = {"logp": torch.tensor([[-1.0, -2.0]]).double(), "logp_old": torch.tensor([[-1.0, -2.0]]).double(), "mask": torch.ones(1, 2),
              "advantage": torch.ones(1, 2).double(), "entropy": torch.tensor([[0.1, 0.2]]).double()}  # fmt: skip
    same(loss("policy_gradient(.., surrogate: weighted(weight: top_entropy(share: 0)), aggregate: token_mean())", inputs)[1], [[0.0, -0.5]])


def covariances(batch: Batch) -> Tensor:
    if not bool(batch.mask.any()):
        return torch.zeros_like(batch.logp)
    return (batch.logp - batch.logp[batch.mask].mean()) * (wide(batch) - wide(batch)[batch.mask].mean())


@backends
@few
@given(batches(scales=(0.1, 1.0)), st.sampled_from([0.0, 0.2, 0.5, 1.0]), seeds)
def test_clip_cov_spares_a_share_of_what_is_eligible(backend: str, batch: Batch, share: float, seed: int) -> None:
    ticket = torch.tensor(numpy.random.default_rng(seed).uniform(size=batch.logp.shape))
    own = covariances(batch)
    eligible = batch.mask & (own >= 0.01) & (own <= 0.5)
    chosen = ticket.masked_fill(~eligible, math.inf).flatten().argsort()[: math.floor(share * int(batch.mask.sum()))]
    expected = torch.ones_like(ticket)
    expected.view(-1)[chosen] = 0
    call = f"spared_by(logp: logp, advantage: advantage, mask: mask, ticket: ticket, share: {share}, low: 0.01, high: 0.5)"
    found = value(call, whole(batch) | {"ticket": ticket}, backend)
    assert (found == torch.where(eligible, expected, 1.0)).all()


def test_clip_cov_draws_whom_it_spares() -> None:
    """In a run: nothing moves where all are spared, and with half of them spared another half from seed to seed."""
    text = """
    pipeline p {
      data  tasks  = combination_lock(prompts: 8, length: 3, vocabulary: 8)
      model policy = table_policy(prompts: 8, length: 3, vocabulary: 8)
      samples ~ sample(policy, tasks, group: 4, max_tokens: 3)
      right   = exp(-sum(cross_entropy(policy(tasks.id), tasks.code, over: word), over: token))
      loss    = policy_gradient(score(policy, samples), advantage: 1, surrogate: weighted(weight: spared(share: SHARE, low: -99, high: 99)))
      flow policy: loss -> backprop -> sgd(lr: 9)
      train 1 rollouts (seed: 0) { report right = mean(right, over: prompt) }
    }
    """
    start = 1 / 8**3
    found = {share: series(ran(written(text.replace("SHARE", share)))[1], "right")[-1] for share in ("1", "0.5", "0")}
    assert found["1"] == pytest.approx(start, rel=1e-5)
    assert len(set(found.values())) == 3


@backends
@few
@given(batches(scales=(0.1, 1.0)), st.sampled_from([0.0, 0.3, 1.0]))
def test_kl_cov_penalizes_the_tokens_of_highest_covariance(backend: str, batch: Batch, share: float) -> None:
    own = covariances(batch).masked_fill(~batch.mask, -math.inf)
    count = math.floor(share * int(batch.mask.sum()))
    taken = torch.zeros_like(batch.mask)
    taken.view(-1)[own.flatten().argsort(descending=True, stable=True)[:count]] = True

    def penalized(logp: Tensor) -> Tensor:
        change = logp - batch.logp_old
        return token_mean(-wide(batch) * change.clamp(-20, 20).exp() + torch.where(taken & batch.mask, 0.7 * change.abs(), 0.0), batch.mask)

    call = f"policy_gradient(.., surrogate: penalized(share: {share}, weight: 0.7), aggregate: token_mean())"
    agree(call, batch, whole(batch), penalized, backend)


# ---- surrogates


@backends
@few
@given(batches(scales=(0.1, 1.0)))
def test_vespo_weighs_a_response_by_a_smooth_kernel(backend: str, batch: Batch) -> None:
    w = torch.where(batch.mask, batch.logp - batch.logp_old, 0.0).sum(1, keepdim=True).exp()
    good = wide(batch) >= 0
    kernel = torch.where(good, w**2 * (3 * (1 - w)).exp(), w**3 * (2 * (1 - w)).exp())
    agree("vespo(..)", batch, whole(batch), lambda logp: token_mean(-kernel * wide(batch) * logp, batch.mask), backend)


@few
@given(batches(), st.floats(0.1, 5), st.floats(0.1, 5))
def test_on_policy_vespo_is_reinforce(batch: Batch, k: float, rate: float) -> None:
    inputs = whole(batch) | {"logp_old": batch.logp}
    found = loss(f"policy_gradient(.., ratio: sequence_ratio(of: product), surrogate: softened(k_pos: {k!r}, lambda_pos: {rate!r}))", inputs)
    same(found[1], loss("policy_gradient(.., surrogate: likelihood())", inputs)[1])


@few
@given(batches(scales=(30.0, 300.0)))
def test_vespo_stays_finite_far_from_the_old_policy(batch: Batch) -> None:
    found = loss("vespo(..)", whole(batch))
    assert bool(found[0].isfinite()) and bool(found[1].isfinite().all())


@backends
@few
@given(batches(scales=(0.1, 1.0)), st.sampled_from(["variation", "binary_kl"]))
def test_a_bound_to_the_divergence_in_place_of_the_ratio(backend: str, batch: Batch, of: str) -> None:
    p, old, advantage = batch.logp.exp().clamp(max=1), batch.logp_old.exp(), wide(batch)
    batch = Batch(**{**vars(batch), "logp": p.log()})
    kl = old * (batch.logp_old - batch.logp) + (1 - old) * ((1 - old + 1e-8) / (1 - p + 1e-8)).log()
    apart = (p - old).abs() if of == "variation" else kl
    spent = torch.where(advantage > 0, (p > old) & (apart > 0.1), (p < old) & (apart > 0.05))
    ratio = (batch.logp - batch.logp_old).exp().clamp(max=4)

    def dppo(logp: Tensor) -> Tensor:
        return token_mean(torch.where(spent, 0.0, -ratio * advantage * logp), batch.mask)

    call = f"policy_gradient(.., surrogate: divergence_bounded(of: {of}, low: 0.05, high: 0.1, most: 4), aggregate: token_mean())"
    agree(call, batch, whole(batch), dppo, backend)


# ---- masks


@backends
@few
@given(batches(full=True), st.sampled_from(["k1", "k2", "k3"]), st.sampled_from(["token", "sum", "mean", "max"]))
def test_rejection_of_what_sampler_and_trainer_disagree_about(backend: str, batch: Batch, by: str, level: str) -> None:
    inputs = drawn(batch, 3.0)
    change = inputs["logp_old"] - inputs["logp_sampler"]
    apart = {"k1": change, "k2": change**2 / 2, "k3": change.exp() - 1 - change}[by]
    inside = torch.where(batch.mask, apart, 0.0)
    length = batch.mask.sum(1)
    rows = {"sum": inside.sum(1), "mean": inside.sum(1) / length, "max": apart.masked_fill(~batch.mask, -math.inf).amax(1)}
    found = apart if level == "token" else rows[level][:, None].expand_as(apart)
    kept = (found.exp() >= 0.6) & (found.exp() <= 1.4) if by == "k1" else found <= 1.4
    call = f"accepted(logp_old: logp_old, logp_sampler: logp_sampler, mask: mask, by: {by}, level: {level}, least: 0.6, most: 1.4)"
    assert (value(call, inputs, backend).bool() == (kept & batch.mask)).all()


# ---- objectives


@backends
@few
@given(batches())
def test_the_entropy_bonus(backend: str, batch: Batch) -> None:
    entropy = batch.logp.abs()
    text = "objective run { input entropy : [sample, token]; input mask : bool[sample, token]; minimize entropy_bonus(entropy, mask, weight: 0.3) }"
    found = evaluate_text(text, "run", {}, {"entropy": entropy, "mask": batch.mask}, backend)
    same(found["loss"], -0.3 * token_mean(entropy, batch.mask))
    same(found["grad_entropy"], -0.3 * batch.mask.double() / max(int(batch.mask.sum()), 1))


@backends
@few
@given(rewarded())
def test_presets_take_what_their_credit_needs_from_the_record(backend: str, case: dict[str, Any]) -> None:
    """`mask` is no argument of the call of `credit` in policy_gradient; it comes from the record."""
    logp = torch.full(case["mask"].shape, -1.0).double()
    inputs = {**case, "logp": logp, "logp_old": logp}
    found = loss("opo(..)", inputs, backend)
    advantage = value("length_baseline(reward, group, mask)", case)
    mask = torch.as_tensor(case["mask"])
    same(found[0], -token_mean(advantage[:, None].expand_as(logp), mask))
    same(found[1], -torch.where(mask, advantage[:, None], 0.0) / max(int(mask.sum()), 1))


@backends
@few
@given(batches(scales=(0.1, 1.0), rows=True))
def test_pure_importance_sampling(backend: str, batch: Batch) -> None:
    weight = torch.where(batch.mask, batch.logp - batch.logp_old, 0.0).sum(1).clamp(-20, 20).exp().clamp(max=2)

    def pure(logp: Tensor) -> Tensor:
        rows = torch.where(batch.mask, -weight[:, None] * wide(batch) * logp, 0.0).sum(1)
        return rows.sum() / max(int(batch.mask.any(1).sum()), 1)

    agree("importance_sampled(..)", batch, whole(batch), pure, backend)

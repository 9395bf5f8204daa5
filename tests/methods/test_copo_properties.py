"""Invariants of COPO: both advantages for ragged groups, the blend of the losses in every mode, its limits, who has a gradient, single prompts."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, load
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few
from .grouped_cases import Groups, groups
from .harness import evaluate_text
from .policy_cases import GARBAGE, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
MODES = ("only soft", "soft with zero", "soft with forced", "only zero", "only forced", "only global", "no global")
AGGREGATES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
GRADED = (0.0, 0.25, 1.0)
garbages = st.sampled_from([None, *GARBAGE])


def advantages(drawn: Groups, backend: str = "reference", changes: dict[str, Any] | None = None, **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("10-copo.advantages", params, drawn.inputs("reward", "group", "answer", "mask", **(changes or {})), backend)


def loss(
    drawn: Groups, backend: str = "reference", garbage: float | None = None, changes: dict[str, Any] | None = None, **params: Any
) -> dict[str, torch.Tensor]:
    known = advantages(drawn)
    made = {name: known[name] for name in ("adv_local", "adv_global", "entropy")}
    inputs = drawn.inputs("logp", "logp_old", "mask", "reward", garbage=garbage) | made | (changes or {})
    return evaluate("10-copo.loss", params, inputs, backend)


def expected(drawn: Groups, eps: float = 1e-6, norm_by_std: bool = True, reward_coef: bool = False) -> dict[str, torch.Tensor]:
    """The card, prompt by prompt."""
    local, entropy, level, each = (torch.zeros_like(drawn.reward) for _ in range(4))
    levels = []
    for rows in drawn.members:
        own, n = drawn.reward[rows], len(rows)
        share = drawn.answer[rows].unique(return_counts=True)[1].double() / n
        entropy[rows] = -(share * torch.log2(share + 1e-8)).sum()
        agree = 1 - (1 - 1 / n) / numpy.log2(n) * float(entropy[rows[0]]) if reward_coef and n > 1 else 1.0
        levels.append(own.mean() * agree)
        level[rows] = levels[-1]
        center, spread = (own.mean(), own.std()) if n > 1 else (0.0, torch.tensor(1.0))
        local[rows] = (own - center) / (spread + eps) if norm_by_std else own - center
    stacked = torch.stack(levels)
    for rows, one in zip(drawn.members, levels):
        spread = (stacked.std() if len(levels) > 1 else torch.tensor(0.0)) + eps if norm_by_std else 1.0
        each[rows] = (one - stacked.mean()) / spread
    mask = drawn.mask.double()
    return {"adv_local": local[:, None] * mask, "adv_global": each[:, None] * mask, "entropy": entropy, "global_reward": level}


def weight_of(mode: str, soft: torch.Tensor, reward: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    paid, moved = (reward != 0).double(), (first != 0).double()
    table = {
        "only soft": soft, "soft with zero": soft * paid, "soft with forced": soft * moved, "only zero": paid, "only forced": moved,
        "only global": 0 * soft, "no global": 0 * soft + 1,
    }  # fmt: skip
    return table[mode]


def averaged(x: torch.Tensor, mask: torch.Tensor, way: str) -> torch.Tensor:
    """As the authors do, over all rows; a row without tokens is 0."""
    x = torch.where(mask, x, 0.0)
    rows = {
        "seq-mean-token-mean": x.sum(1) / mask.sum(1).clamp(min=1), "seq-mean-token-sum": x.sum(1), "token-mean": x.sum(1) / max(int(mask.sum()), 1),
        "seq-mean-token-sum-norm": x.sum(1) / mask.shape[1],
    }[way]  # fmt: skip
    return rows.mean() if way.startswith("seq-mean-token") and not way.endswith("norm") else rows.sum()


@backends
@few
@given(groups(rewards=GRADED), st.booleans(), st.booleans(), st.sampled_from([1e-6, 1e-2]))
def test_the_advantages_are_the_formula(backend: str, drawn: Groups, scaled: bool, discounted: bool, eps: float) -> None:
    params = {"eps": eps, "norm_by_std": scaled, "reward_coef": discounted}
    found = advantages(drawn, backend, **params)
    for name, value in expected(drawn, **params).items():
        same(found[name], value, rtol=1e-7, atol=2e-9)


@backends
@few
@given(groups(rewards=GRADED), st.sampled_from(MODES), st.sampled_from([(20.0, 1.5), (5.0, 1.0)]), st.sampled_from(AGGREGATES), garbages)
def test_the_loss_is_the_blend(backend: str, drawn: Groups, mode: str, slope: tuple[float, float], way: str, garbage: float | None) -> None:
    known = advantages(drawn)
    logp = drawn.logp.clone().requires_grad_()
    ratio = (logp - drawn.logp_old).clamp(-20, 20).exp()

    def clipped(advantage: torch.Tensor) -> torch.Tensor:
        hard = torch.max(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
        return torch.where(advantage < 0, torch.min(hard, -3.0 * advantage), hard)

    soft = torch.sigmoid(slope[0] * (known["entropy"] - slope[1]))
    w = weight_of(mode, soft, drawn.reward, known["adv_local"][:, 0])
    wanted = averaged(w[:, None] * clipped(known["adv_local"]) + (1 - w[:, None]) * clipped(known["adv_global"]), drawn.mask, way)
    wanted.backward()
    found = loss(drawn, backend, garbage, mode=mode, k=slope[0], b=slope[1], loss_agg=way)
    same(found["w_local"], w)
    same(found["loss"], wanted.detach(), rtol=1e-7)
    same(found["grad_logp"], logp.grad, rtol=1e-7)


# ---- limits


@few
@given(groups(rewards=GRADED, full=True))
def test_without_the_global_part_it_is_grpo(drawn: Groups) -> None:
    inputs = drawn.inputs("logp", "logp_old", "mask") | {"advantage": advantages(drawn)["adv_local"]}
    grpo = component("policy_loss", inputs, algo="ppo", dual_clip_c=3.0, aggregate="seq-mean-token-mean")
    found = [loss(drawn, mode="no global"), loss(drawn, mode="only soft", b=-1e9)]
    for one in found:
        same(one["loss"], grpo["loss"])
        same(one["grad_logp"], grpo["grad_logp"])


@few
@given(groups(rewards=GRADED))
def test_no_entropy_is_enough_for_a_bound_of_infinity(drawn: Groups) -> None:
    soft, whole = loss(drawn, mode="only soft", b=1e9), loss(drawn, mode="only global")
    assert not soft["w_local"].any()
    same(soft["grad_logp"], whole["grad_logp"])


@few
@given(groups(rewards=GRADED))
def test_a_slope_of_zero_weighs_both_alike_and_the_loss_is_linear_in_the_weight(drawn: Groups) -> None:
    half, near, far = loss(drawn, mode="only soft", k=0.0), loss(drawn, mode="no global"), loss(drawn, mode="only global")
    same(half["w_local"], torch.full_like(half["w_local"], 0.5))
    same(half["loss"], (near["loss"] + far["loss"]) / 2)
    same(half["grad_logp"], (near["grad_logp"] + far["grad_logp"]) / 2)


# ---- the global advantage


@few
@given(groups(rewards=GRADED, full=True), st.booleans(), st.booleans())
def test_prompts_are_judged_against_each_other_once_each(drawn: Groups, scaled: bool, discounted: bool) -> None:
    whole = advantages(drawn, norm_by_std=scaled, reward_coef=discounted)["adv_global"]
    level = torch.stack([whole[rows][drawn.mask[rows]][0] for rows in drawn.members])
    same(level.sum(), 0.0, atol=1e-9)


@few
@given(groups(rewards=GRADED), st.integers(0, 2**16))
def test_only_whether_answers_are_equal_matters(drawn: Groups, seed: int) -> None:
    names, place = drawn.answer.unique(return_inverse=True)
    other = torch.tensor(numpy.random.default_rng(seed).permutation(1000)[: len(names)] - 500)[place]
    order = torch.tensor(numpy.random.default_rng(seed).permutation(len(drawn.reward)))
    plain = advantages(drawn, reward_coef=True)
    changes = {"answer": other[order], "group": (7 - drawn.group)[order], "reward": drawn.reward[order], "mask": drawn.mask[order]}
    moved = advantages(drawn, changes=changes, reward_coef=True)
    for name, value in plain.items():
        same(moved[name], value[order], rtol=1e-7)


@few
@given(groups(rewards=GRADED, sizes=(2, 3, 8)), st.floats(-3, 3), st.floats(0.2, 5))
def test_both_ignore_shift_and_scale_of_the_reward(drawn: Groups, shift: float, factor: float) -> None:
    plain, moved = advantages(drawn, eps=1e-12), advantages(drawn, changes={"reward": factor * drawn.reward + shift}, eps=1e-12)
    for name in ("adv_local", "adv_global", "entropy"):
        same(moved[name], plain[name], rtol=1e-5, atol=1e-3 if name == "adv_global" else 1e-5)


@backends
@pytest.mark.parametrize("params", [{}, {"norm_by_std": False}, {"reward_coef": True}])
def test_a_prompt_alone_and_prompts_alike_have_no_global_advantage(params: dict[str, bool], backend: str) -> None:
    for group in ([3, 3, 3, 3], [0, 0, 1, 1]):
        inputs = {"reward": numpy.array([1.0, 0, 1, 0]), "group": numpy.array(group), "answer": numpy.array([1, 2, 1, 2]), "mask": numpy.ones((4, 2))}
        found = evaluate("10-copo.advantages", params, inputs, backend)
        assert (found["adv_global"] == 0).all() and found["adv_local"].all()


def test_a_sample_alone_keeps_its_reward_and_its_prompt_is_not_discounted() -> None:
    inputs = {"reward": numpy.array([1.0, 0.5]), "group": numpy.array([0, 1]), "answer": numpy.array([4, 4]), "mask": numpy.ones((2, 1))}
    found = evaluate("10-copo.advantages", {"reward_coef": True}, inputs)
    same(found["adv_local"][:, 0], [1.0, 0.5], rtol=2e-6)
    same(found["global_reward"], [1.0, 0.5])
    same(found["entropy"], [0.0, 0.0], atol=2e-8)


def test_entropy_is_in_bits_and_right_or_wrong_does_not_count() -> None:
    inputs = {"reward": numpy.zeros(4), "group": numpy.zeros(4, int), "mask": numpy.ones((4, 1))}
    for answer, bits in (([1, 1, 1, 1], 0.0), ([1, 1, 2, 2], 1.0), ([1, 2, 3, 4], 2.0), ([1, 1, 1, 2], 0.8112781245)):
        same(evaluate("10-copo.advantages", {}, inputs | {"answer": numpy.array(answer)})["entropy"], [bits] * 4, atol=1e-7)


def test_a_discounted_prompt_whose_answers_all_differ_is_worth_an_nth() -> None:
    inputs = {"reward": numpy.ones(8), "group": numpy.repeat([0, 1], 4), "answer": numpy.array([1, 2, 3, 4, 5, 5, 5, 5]), "mask": numpy.ones((8, 1))}
    same(evaluate("10-copo.advantages", {"reward_coef": True}, inputs)["global_reward"], [0.25] * 4 + [1.0] * 4, atol=1e-6)


# ---- who has a gradient


@few
@given(groups(sizes=(2, 3, 8), full=True, scale=0.0))
def test_a_prompt_has_a_gradient_unless_it_is_worth_what_the_batch_is(drawn: Groups) -> None:
    """On-policy, with both parts; GRPO has none where all rewards are equal."""
    found, grpo = (loss(drawn, mode=mode, k=5.0, b=1.0)["grad_logp"] for mode in ("only soft", "no global"))
    levels = torch.stack([drawn.reward[rows].mean() for rows in drawn.members])
    for rows, level in zip(drawn.members, levels):
        mixed = len(drawn.reward[rows].unique()) > 1
        apart = abs(float(level - levels.mean())) > 1e-9
        assert bool(grpo[rows].any()) == mixed
        assert bool(found[rows].any()) or not (apart or mixed)
        assert not (apart and not mixed) or float(found[rows].abs().max()) > 1e-14


def test_from_a_record_it_makes_the_advantages_itself() -> None:
    """What the wrapped components do in two steps, the objective does in one; a scored record has an entropy too, of words."""
    text = """
    objective whole {
      input logp, logp_old : [sample, token]
      input mask           : bool[sample, token]
      input reward         : [sample]
      input group          : [sample -> prompt]
      input answer         : [sample -> answer]
      known = (logp: logp, logp_old: logp_old, mask: mask, reward: reward, group: group, answer: answer, entropy: exp(logp), advantage: logp)
      minimize copo(known, k: 5, b: 1, mode: soft_forced, discount: true)
    }
    """
    r = numpy.random.default_rng(5)
    old, reward = -r.uniform(size=(12, 4)), r.choice([0.0, 1.0], 12)
    drawn = Groups(*(torch.tensor(x) for x in (reward, numpy.arange(12) // 4, r.integers(0, 3, 12), old + 0.3 * r.normal(size=(12, 4)), old)),
                   torch.tensor(r.uniform(size=(12, 4)) < 0.8))  # fmt: skip
    known = advantages(drawn, reward_coef=True)
    made = {name: known[name] for name in ("adv_local", "adv_global", "entropy")}
    parts = loss(drawn, changes=made, mode="soft with forced", k=5.0, b=1.0)
    found = evaluate_text(text, "whole", {}, drawn.inputs("logp", "logp_old", "mask", "reward", "group", "answer"))
    same(found["loss"], parts["loss"])
    same(found["grad_logp"], parts["grad_logp"])
    assert numpy.abs(found["grad_logp"]).max() > 1e-3


def losses(backend: str, *parameters: str) -> list[float]:
    program, diagnostics = build(load("10_copo")[0], "sums", parameters)
    assert program is not None, diagnostics
    options = Options(backend=backend, precision="float64", steps=2)
    return [event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None]


def test_sums_run_alike_on_every_backend() -> None:
    reference = losses("reference", "loss=copo(k: 5, b: 1)")
    assert len(reference) == 4
    same(reference, losses("torch", "loss=copo(k: 5, b: 1)"))

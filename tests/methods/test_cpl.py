"""Invariants of CPL: its formula, symmetry and shifts, DPO as a special case, its optimum on processes that are solved exactly, and its pipelines.

Axes: B pairs or segments, T steps.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import softplus

from gradflow.compiler import build, load
from gradflow.library.decision_processes import preference_segments, soft_optimum, soft_policy
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few
from .harness import evaluate_text
from .preference_cases import GARBAGE, SHAPES, component, masks, same

alphas = st.sampled_from([0.1, 0.2, 1.0])
losers = st.sampled_from([0.25, 0.5, 0.75, 1.0])
gammas = st.sampled_from([1.0, 0.9])
LABELS = numpy.array([0.0, 1.0, 0.5, 0.8])


@st.composite
def segments(draw: Any, masked: bool = True, references: bool = False) -> dict[str, Any]:
    """logp_1, logp_2, label, (mask_1, mask_2), (ref_logp_1, ref_logp_2) as in a vector file; some labels are ties, some soft."""
    seed, shape = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(SHAPES))
    r = numpy.random.default_rng(seed)
    found = {f"logp_{i}": r.normal(-1, 2, size=shape) for i in (1, 2)} | {"label": r.choice(LABELS, size=shape[0])}
    if masked:
        found |= {f"mask_{i}": masks(r, shape, 0).astype(float) for i in (1, 2)}
    return found | ({f"ref_logp_{i}": r.normal(-1, 2, size=shape) for i in (1, 2)} if references else {})


def loss(inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("40-cpl.comparison_loss", params, inputs, backend)


def formula(p: dict[str, Any], inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The card's steps 1 to 5 in torch."""
    logp = [torch.tensor(inputs[f"logp_{i}"], requires_grad=True) for i in (1, 2)]
    mask = [torch.tensor(inputs[f"mask_{i}"]) for i in (1, 2)]
    ref = [torch.tensor(inputs[f"ref_logp_{i}"]) if p["use_reference"] else 0.0 for i in (1, 2)]
    y = torch.tensor(inputs["label"])
    weight = p["alpha"] * p["gamma"] ** torch.arange(logp[0].shape[1], dtype=torch.float64)
    one, two = (((x - r) * weight * m).sum(1) for x, r, m in zip(logp, ref, mask, strict=True))
    contrast = (y * softplus(p["contrastive_bias"] * one - two) + (1 - y) * softplus(p["contrastive_bias"] * two - one)).mean()
    use = [torch.ones_like(y), torch.ones_like(y)] if p["bc_data"] == "all" else [(y <= 0.5).double(), (y >= 0.5).double()]
    kept = [m * u[:, None] for m, u in zip(mask, use, strict=True)]
    cloning = -sum((x * k).sum() for x, k in zip(logp, kept, strict=True)) / max(1.0, sum(float(k.sum()) for k in kept))
    total = contrast + p["bc_coeff"] * cloning
    slopes = torch.autograd.grad(total, logp)
    found = {"loss": total, "cpl_loss": contrast, "bc_loss": cloning, "segment_adv_1": one, "segment_adv_2": two}
    found["accuracy"] = ((two > one) == (torch.round(y) == 1)).double().mean()
    return {name: x.detach() for name, x in found.items()} | {"grad_logp_1": slopes[0], "grad_logp_2": slopes[1]}


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(
    segments(references=True), alphas, losers, gammas, st.sampled_from([0.0, 0.5]), st.sampled_from(["all", "pos"]), st.booleans(),
    st.sampled_from([None, *GARBAGE]),
)  # fmt: skip
def test_the_loss_is_the_formula(
    backend: str, inputs: dict[str, Any], alpha: float, loser: float, gamma: float, coeff: float, data: str, reference: bool, junk: float | None
) -> None:
    options = {"alpha": alpha, "contrastive_bias": loser, "gamma": gamma, "bc_coeff": coeff, "bc_data": data, "use_reference": reference}
    expected = formula(options, inputs)
    if junk is not None:
        inputs = {name: numpy.where(inputs[f"mask_{name[-1]}"] > 0, x, junk) if name.startswith(("logp", "ref")) else x for name, x in inputs.items()}
    found = loss(inputs, backend, **options)
    for name, value in expected.items():
        same(found[name], value)


@few
@given(segments(), alphas, losers, st.sampled_from(["all", "pos"]))
def test_which_segment_is_called_the_first_does_not_matter(inputs: dict[str, Any], alpha: float, loser: float, data: str) -> None:
    swapped = {f"{name}_{i}": inputs[f"{name}_{3 - i}"] for name in ("logp", "mask") for i in (1, 2)} | {"label": 1 - inputs["label"]}
    options: dict[str, Any] = {"alpha": alpha, "contrastive_bias": loser, "bc_coeff": 1.0, "bc_data": data}
    one, other = loss(inputs, **options), loss(swapped, **options)
    same(one["loss"], other["loss"])
    same(one["grad_logp_1"], other["grad_logp_2"])


@few
@given(segments(masked=False), alphas, st.floats(-3, 3))
def test_a_loser_that_counts_in_full_sees_no_shift(inputs: dict[str, Any], alpha: float, shift: float) -> None:
    moved = {**inputs, "logp_1": inputs["logp_1"] + shift, "logp_2": inputs["logp_2"] + shift}
    one, other = (loss(x, alpha=alpha, contrastive_bias=1.0) for x in (inputs, moved))
    same(one["loss"], other["loss"])
    same(one["grad_logp_1"], other["grad_logp_1"])
    same((one["grad_logp_1"] + one["grad_logp_2"]).sum(), 0)


@few
@given(segments(masked=False), alphas, st.sampled_from([0.25, 0.5, 0.75]))
def test_a_loser_that_counts_less_pulls_all_seen_actions_up(inputs: dict[str, Any], alpha: float, loser: float) -> None:
    found = loss(inputs, alpha=alpha, contrastive_bias=loser)
    assert float((found["grad_logp_1"] + found["grad_logp_2"]).sum()) < 0


@few
@given(segments(), alphas)
def test_of_equal_segments_nothing_is_learnt(inputs: dict[str, Any], alpha: float) -> None:
    twice = {**inputs, "logp_2": inputs["logp_1"], "mask_2": inputs["mask_1"]}
    found = loss(twice, alpha=alpha, contrastive_bias=1.0)
    same(found["loss"], log(2))
    same(found["grad_logp_1"] + found["grad_logp_2"], 0 * inputs["logp_1"])


@few
@given(segments(references=True), st.sampled_from([0.05, 0.1, 2.0]))
def test_with_a_reference_and_hard_labels_it_is_dpo(inputs: dict[str, Any], beta: float) -> None:
    inputs = {**inputs, "label": numpy.ones_like(inputs["label"])}
    ours = loss(inputs, alpha=beta, contrastive_bias=1.0, use_reference=True)
    sides = {"chosen": 2, "rejected": 1}
    names = {"logp": "{}_logp", "ref_logp": "ref_{}_logp", "mask": "{}_mask"}
    theirs = {name.format(side): inputs[f"{field}_{i}"] for field, name in names.items() for side, i in sides.items()}
    found = component("dpo", theirs, loss_type=["sigmoid"], beta=beta)
    same(ours["loss"], found["loss"], rtol=1e-10)
    same(ours["grad_logp_2"], found["grad_chosen_logp"], rtol=1e-10)
    same(ours["grad_logp_1"], found["grad_rejected_logp"], rtol=1e-10)


@few
@given(segments(), losers)
def test_a_small_alpha_asks_for_little(inputs: dict[str, Any], loser: float) -> None:
    """The loss tends to log 2, the gradient over alpha to half the difference that a label makes."""
    found = loss(inputs, alpha=1e-7, contrastive_bias=loser)
    same(found["loss"], log(2), atol=1e-4)
    y = inputs["label"][:, None]
    same(found["grad_logp_2"] / 1e-7, -(y - (1 - y) * loser) / 2 / len(y) * inputs["mask_2"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_long_sums_do_not_overflow(scale: float) -> None:
    found = loss({"logp_1": numpy.full((2, 64), -scale), "logp_2": numpy.full((2, 64), scale), "label": numpy.array([1.0, 0.0])}, alpha=1.0)
    assert all(torch.isfinite(x).all() for x in found.values())


def test_without_steps_cloning_is_nothing() -> None:
    inputs = {f"{name}_{i}": numpy.zeros((2, 3)) for name in ("logp", "mask") for i in (1, 2)} | {"label": numpy.ones(2)}
    assert float(loss(inputs, bc_coeff=1.0, bc_data="pos")["bc_loss"]) == 0


# ---- the optimum


@pytest.fixture(scope="module")
def solved() -> tuple[dict[str, Any], float]:
    """Segments with the probability of each preference as its label, and the log-probabilities of the optimal policy."""
    spec = preference_segments(processes=2, states=6, actions=3, pairs=60, length=5, label="likely", seed=1)
    loaded = spec.load()
    logits = numpy.log(loaded["process"]["optimal"])
    train = loaded["train"]
    inputs = {f"logp_{i}": logits[train[f"states_{i}"], train[f"actions_{i}"]] for i in (1, 2)} | {"label": train["label"]}
    return inputs, float(spec.facts["temperature"])


def test_at_the_max_entropy_optimum_the_gradient_vanishes(solved: tuple[dict[str, Any], float]) -> None:
    """Pair by pair, where the odds of a preference are the regrets over the temperature: alpha log pi in units of it."""
    inputs, _ = solved
    found = loss(inputs, alpha=1.0, contrastive_bias=1.0)
    same(found["grad_logp_1"], numpy.zeros_like(inputs["logp_1"]), atol=1e-9)
    same(found["grad_logp_2"], numpy.zeros_like(inputs["logp_1"]), atol=1e-9)
    for alpha, loser in ((0.5, 1.0), (1.0, 0.5)):
        assert float(loss(inputs, alpha=alpha, contrastive_bias=loser)["grad_logp_1"].abs().max()) > 1e-4


def test_the_advantage_is_alpha_log_pi_there(solved: tuple[dict[str, Any], float]) -> None:
    inputs, temperature = solved
    found = loss(inputs, alpha=temperature, contrastive_bias=1.0)
    gap = (found["segment_adv_2"] - found["segment_adv_1"]) / temperature
    same(torch.sigmoid(gap), inputs["label"], rtol=1e-8)


# ---- ranks


def ranked(logp: Any, score: Any, **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("40-cpl.score_loss", params, {"logp": logp, "score": score})


@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), alphas, losers, gammas)
def test_ranks_are_all_their_pairs(seed: int, rows: int, alpha: float, loser: float, gamma: float) -> None:
    """Scores from a few values: tied pairs say nothing."""
    r = numpy.random.default_rng(seed)
    logp, score = r.normal(size=(rows, 4)), r.integers(0, 4, size=rows)
    live = torch.tensor(logp, requires_grad=True)
    adv = (live * alpha * gamma ** torch.arange(4, dtype=torch.float64)).sum(1)
    each = [softplus(loser * adv[i] - adv[j]) for i in range(rows) for j in range(rows) if score[j] > score[i]]
    right = [float(adv[j] > adv[i]) for i in range(rows) for j in range(rows) if score[j] > score[i]]
    total = torch.stack(each).mean() if each else torch.zeros(())
    found = ranked(logp, score.astype(float), alpha=alpha, contrastive_bias=loser, gamma=gamma)
    same(found["loss"], total.detach() if each else 0.0)
    same(found["grad_logp"], torch.autograd.grad(total, live)[0] if each else 0 * logp)
    same(found["accuracy"], sum(right) / max(len(right), 1))
    same(found["segment_adv"], adv.detach())


@few
@given(st.integers(0, 2**32 - 1), alphas, losers)
def test_two_ranked_segments_are_one_comparison(seed: int, alpha: float, loser: float) -> None:
    logp = numpy.random.default_rng(seed).normal(size=(2, 5))
    ours = ranked(logp, [0.3, 0.7], alpha=alpha, contrastive_bias=loser)
    pair = loss({"logp_1": logp[:1], "logp_2": logp[1:], "label": [1.0]}, alpha=alpha, contrastive_bias=loser)
    same(ours["loss"], pair["loss"])
    same(ours["grad_logp"], torch.cat([pair["grad_logp_1"], pair["grad_logp_2"]]))


# ---- what the pipelines measure


CONTROL = """
function earned {
  input policy, reward : [state, action]
  input transition : [state, action, next]
  return worth(policy: policy, reward: reward, transition: transition, gamma: 0.9)
}
function planned {
  input reward : [state, action]
  input transition : [state, action, next]
  return soft_control(reward: reward, transition: transition, gamma: 0.9, temperature: 0.3)
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_worth_is_the_value_and_control_the_optimum(backend: str) -> None:
    r = numpy.random.default_rng(0)
    transition, reward, policy = r.dirichlet(numpy.full(5, 0.3), size=(5, 3)), r.normal(size=(5, 3)), r.dirichlet(numpy.ones(3), size=5)
    move, income = 0.9 * numpy.einsum("sa,sat->st", policy, transition), (policy * reward).sum(-1)
    inputs = {"reward": reward, "transition": transition}
    found = evaluate_text(CONTROL, "earned", {}, {"policy": policy, **inputs}, backend)["value"]
    same(found, 0.1 * numpy.linalg.solve(numpy.eye(5) - move, income).mean())
    best = soft_policy(soft_optimum(transition, reward, 0.9, 0.3)[0], 0.3)
    same(evaluate_text(CONTROL, "planned", {}, inputs, backend)["value"], best, rtol=1e-4)


def run(pipeline: str, *parameters: str, backend: str = "torch", steps: int | None = None) -> tuple[list[float], dict[str, Any]]:
    """The losses, and the last values reported."""
    program, diagnostics = build(load("40_cpl")[0], pipeline, parameters)
    assert program is not None, diagnostics
    losses: list[float] = []
    values: dict[str, Any] = {}
    for event in execute(program, Options(backend=backend, precision="float64", steps=steps)):
        if isinstance(event, UnitDone) and event.loss is not None:
            losses.append(event.loss)
        if isinstance(event, Report):
            values.update(event.values)
    return losses, values


EVERY = ["cpl()", "cpl_kl()", "cpl_bc()", "cpl_ranked()", "cloning(data: preferred)", "dpo()", "ipo()", "kto()", "simpo()", "orpo()"]


@pytest.mark.parametrize("objective", EVERY)
def test_segments_are_learnt_from_by_each(objective: str) -> None:
    losses, values = run("segments", f"loss={objective}", "pairs=20", "steps=3")
    assert len(losses) == 3 and losses[2] < losses[0]
    assert values["behavior"] < values["optimal"] and numpy.isfinite(values["earned"])


def test_from_the_uniform_policy_the_loss_is_log_2_and_backends_agree() -> None:
    reference, torch_ = (run("segments", "pairs=20", "steps=2", backend=backend)[0] for backend in ("reference", "torch"))
    same(reference, torch_)
    same(reference[0], log(2))


def test_cpl_learns_where_imitation_does_not() -> None:
    ours, imitation = (run("segments", "pairs=150", "steps=100", f"loss={x}")[1] for x in ("cpl(alpha: 1, loser: 1)", "cloning(data: preferred)"))
    assert ours["earned"] > imitation["earned"] + 0.05 > ours["behavior"] + 0.05


def test_imitation_first_makes_the_reference() -> None:
    """After it, CPL-KL starts at log-ratios of 0: a loss of log 2, and of less from there on."""
    losses, _ = run("segments", "loss=cpl_kl(loser: 1)", "pairs=20", "warm=5", "steps=3")
    assert len(losses) == 8 and losses[4] < losses[0]
    same(losses[5], log(2))
    assert losses[7] < losses[5]


def test_rewards_first_also_learns() -> None:
    losses, values = run("reward_first", "pairs=150", steps=20)
    assert losses[-1] < losses[0] and numpy.isfinite(values["earned"])

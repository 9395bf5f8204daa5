"""Invariants of the objectives of preferences: the card's formulas, where the losses meet and vanish, and what masks, ties and empty rows do."""

from __future__ import annotations

from math import log
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

from .cases import few
from .harness import evaluate_text
from .preference_cases import DIVERGENCES, GARBAGE, MARGINS, SEPARATE, Pairs, component, cpo_loss, dpo_loss, pairs, same

betas = st.sampled_from([0.05, 0.1, 0.5, 2.0])
garbage = st.sampled_from([None, *GARBAGE])
GIVEN: dict[str, Any] = {
    "label_smoothing": 0.1,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
    "ld_alpha": None,
    "discopop_tau": 0.05,
}


@st.composite
def dpo_options(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(MARGINS + SEPARATE))
    divergence = draw(st.sampled_from(DIVERGENCES)) if kind in MARGINS else "reverse_kl"
    return {
        **GIVEN, "loss_type": [kind], "loss_weights": draw(st.sampled_from([None, [0.7]])), "beta": draw(betas), "f_divergence_type": divergence,
        "f_alpha_divergence_coef": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])), "ld_alpha": draw(st.sampled_from([None, 0.0, 0.5, 1.0])),
    }  # fmt: skip


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        same(found[name], value, rtol=1e-8)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(pairs(scales=(0.1, 1.0)), dpo_options(), garbage)
def test_dpo_is_the_formula(backend: str, data: Pairs, options: dict[str, Any], junk: float | None) -> None:
    alike(component("dpo", data.inputs(junk), backend, **options), dpo_loss(options, data))


@few
@given(pairs(scales=(0.1, 1.0)), betas, st.lists(st.sampled_from(MARGINS + SEPARATE), min_size=2, max_size=5, unique=True), st.booleans())
def test_a_list_of_losses_is_their_weighted_sum(data: Pairs, beta: float, kinds: list[str], weighted: bool) -> None:
    weights = [0.3 * (k + 1) for k in range(len(kinds))] if weighted else None
    options = {**GIVEN, "loss_type": kinds, "loss_weights": weights, "beta": beta}
    alike(component("dpo", data.inputs(), **options), dpo_loss(options, data))


@few
@given(pairs(scales=(30.0,)), betas, st.sampled_from(("sigmoid", "hinge", "robust", "discopop", "apo_zero", "exo_pair", "nca_pair")))
def test_a_large_margin_is_no_overflow(data: Pairs, beta: float, kind: str) -> None:
    """discopop's exponential may be large; it is never a number that is none."""
    found = component("dpo", data.inputs(), loss_type=[kind], beta=beta, label_smoothing=0.1)
    assert all(torch.isfinite(found[name]).all() for name in ("loss", "grad_chosen_logp", "grad_rejected_logp"))


@few
@given(pairs(least=1), betas)
def test_where_the_policy_is_the_reference(data: Pairs, beta: float) -> None:
    at = Pairs(data.ref_chosen, data.ref_rejected, data.ref_chosen, data.ref_rejected, data.chosen_mask, data.rejected_mask)
    found = component("dpo", at.inputs(), loss_type=["sigmoid"], beta=beta)
    same(found["loss"], log(2))
    same(found["grad_chosen_logp"], -beta / 2 / len(at.chosen) * at.chosen_mask.double())
    same(found["grad_rejected_logp"], beta / 2 / len(at.chosen) * at.rejected_mask.double())
    same(found["chosen_rewards"], torch.zeros(len(at.chosen)))
    assert float(found["reward_accuracy"]) == 0  # strictly greater
    same(component("dpo", at.inputs(), loss_type=["hinge"], beta=beta)["loss"], 1)
    same(component("dpo", at.inputs(), loss_type=["ipo"], beta=beta)["loss"], 1 / (4 * beta**2))


@few
@given(pairs(least=1, scales=(0.1, 1.0)), betas, st.floats(-3, 3), st.sampled_from(["sigmoid", "hinge", "robust", "discopop", "exo_pair"]))
def test_only_the_difference_counts(data: Pairs, beta: float, shift: float, kind: str) -> None:
    """A constant on both log-ratios, put on the first token, which every answer has."""
    first = torch.zeros_like(data.chosen)
    first[:, 0] = shift
    moved = Pairs(data.chosen + first, data.rejected + first, data.ref_chosen, data.ref_rejected, data.chosen_mask, data.rejected_mask)
    one, other = (component("dpo", x.inputs(), loss_type=[kind], beta=beta, label_smoothing=0.1) for x in (data, moved))
    same(one["loss"], other["loss"])
    same(one["grad_chosen_logp"], other["grad_chosen_logp"])


@few
@given(betas, st.integers(1, 5), st.integers(1, 5))
def test_ipo_rests_at_its_target(beta: float, long: int, short: int) -> None:
    """Where the difference of the mean log-ratios is 1 / (2 beta), and the gradient changes its sign there."""

    def at(margin: float) -> dict[str, torch.Tensor]:
        zeros = torch.zeros(1, 5)
        chosen, rejected = (torch.arange(5)[None] < n for n in (long, short))
        return component("dpo", Pairs(zeros + margin, zeros, zeros, zeros, chosen, rejected).inputs(), loss_type=["ipo"], beta=beta)

    target = 1 / (2 * beta)
    same(at(target)["grad_chosen_logp"], torch.zeros(1, 5), atol=1e-9)
    assert float(at(target - 0.1)["grad_chosen_logp"][0, 0]) < 0 < float(at(target + 0.1)["grad_chosen_logp"][0, 0])


@few
@given(pairs(), betas)
def test_options_that_change_nothing(data: Pairs, beta: float) -> None:
    plain = component("dpo", data.inputs(), loss_type=["sigmoid"], beta=beta)
    same_kl = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0}
    for options in ({"loss_type": ["robust"], "label_smoothing": 0.0}, {"ld_alpha": 1.0}, same_kl):
        given: dict[str, Any] = {"loss_type": ["sigmoid"], "beta": beta, **options}
        alike(component("dpo", data.inputs(), **given), plain)


@pytest.mark.parametrize(("divergence", "slope"), [("forward_kl", 1.0), ("alpha_divergence", 1.0), ("js_divergence", 0.5)])
def test_divergences_meet_at_small_ratios(divergence: str, slope: float) -> None:
    r = numpy.random.default_rng(0)
    data = Pairs(*(torch.tensor(1e-6 * r.normal(size=(2, 3))) for _ in range(4)), *(torch.ones(2, 3, dtype=torch.bool) for _ in range(2)))
    ours = component("dpo", data.inputs(), loss_type=["sigmoid"], f_divergence_type=divergence)
    plain = component("dpo", data.inputs(), loss_type=["sigmoid"])
    same(ours["grad_chosen_logp"], slope * plain["grad_chosen_logp"], rtol=1e-4)


@pytest.mark.parametrize(("kind", "smoothing"), [("exo_pair", 0.0), ("robust", 0.5)])
def test_a_smoothing_without_meaning_is_refused(kind: str, smoothing: float) -> None:
    data = Pairs(*(torch.zeros(1, 2) for _ in range(4)), *(torch.ones(1, 2, dtype=torch.bool) for _ in range(2)))
    with pytest.raises(GradflowError, match="flip"):
        component("dpo", data.inputs(), loss_type=[kind], label_smoothing=smoothing)


def test_ties_of_the_policy_do_not_move_quantiles() -> None:
    """aot sorts the policy's and the reference's differences on their own: the pairing of the two is lost."""
    r = numpy.random.default_rng(3)
    chosen, rejected, ref_chosen, ref_rejected = (torch.tensor(r.normal(size=(4, 3))) for _ in range(4))
    every = torch.ones(4, 3, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    one = component("dpo", Pairs(chosen, rejected, ref_chosen, ref_rejected, every, every).inputs(), loss_type=["aot"])
    other = component("dpo", Pairs(chosen, rejected, ref_chosen[order], ref_rejected[order], every, every).inputs(), loss_type=["aot"])
    same(one["loss"], other["loss"])
    same(one["grad_chosen_logp"], other["grad_chosen_logp"])


# ---- KTO


def answers(seed: int, good: list[int], shift: float = 0.0) -> dict[str, Any]:
    r = numpy.random.default_rng(seed)
    rows = len(good)
    mask = numpy.arange(4) < r.integers(0, 5, size=(rows, 1))
    logp, ref = r.normal(size=(2, rows, 4))
    kl, kl_ref = r.normal(size=(2, rows))
    return {"logp": logp, "ref_logp": ref, "mask": mask.astype(float), "label": numpy.array(good), "kl_logp": kl + shift, "kl_ref_logp": kl_ref}


@few
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 1), min_size=1, max_size=5), betas, st.sampled_from(["kto", "apo_zero_unpaired"]), garbage)
def test_kto_is_the_formula(seed: int, good: list[int], beta: float, kind: str, junk: float | None) -> None:
    data = answers(seed, good)
    logp = torch.tensor(data["logp"], requires_grad=True)
    mask, label = torch.tensor(data["mask"]), torch.tensor(good)
    gain = ((logp - torch.tensor(data["ref_logp"])) * mask).sum(1)
    z = max(0.0, float(numpy.mean(data["kl_logp"] - data["kl_ref_logp"]))) if kind == "kto" else 0.0
    each = torch.where(label == 1, 1.3 * (1 - torch.sigmoid(beta * (gain - z))), 0.7 * (1 - torch.sigmoid(beta * (z - gain))))
    each.mean().backward()
    if junk is not None:
        data = {**data, **{name: numpy.where(data["mask"] > 0, data[name], junk) for name in ("logp", "ref_logp")}}
    found = component("kto", data, loss_type=kind, beta=beta, desirable_weight=1.3, undesirable_weight=0.7)
    same(found["loss"], each.mean().detach())
    same(found["grad_logp"], logp.grad)
    same(found["kl"], z)


@few
@given(st.integers(0, 2**32 - 1), st.floats(-5, 5))
def test_the_base_of_kto_has_no_gradient_and_is_never_negative(seed: int, shift: float) -> None:
    found = component("kto", answers(seed, [1, 0, 1], shift))
    assert float(found["kl"]) >= 0
    assert not found["grad_kl_logp"].any() and not found["grad_kl_ref_logp"].any() and not found["grad_ref_logp"].any()


@pytest.mark.parametrize("good", [[1], [0], [1, 1, 1], [0, 0]])
def test_kto_with_answers_of_one_kind_only(good: list[int]) -> None:
    found = component("kto", answers(1, good))
    assert 0 < float(found["loss"]) < 1 and torch.isfinite(found["grad_logp"]).all()


# ---- SimPO, CPO, ORPO


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(
    pairs(scales=(0.1, 1.0)), betas, st.sampled_from(["simpo", "sigmoid", "hinge", "ipo"]), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.4]),
    st.sampled_from([0.0, 1.0]), garbage,
)  # fmt: skip
def test_cpo_is_the_formula(
    backend: str, data: Pairs, beta: float, kind: str, smoothing: float, alpha: float, imitate: float, junk: float | None
) -> None:
    options = {"loss_type": kind, "beta": beta, "simpo_gamma": 0.3, "label_smoothing": smoothing, "cpo_alpha": imitate, "alpha": alpha}
    alike(component("simpo", data.inputs(junk, reference=False), backend, **options), cpo_loss(options, data))


@few
@given(pairs(least=1), betas)
def test_simpo_without_a_target_is_cpo_of_averages(data: Pairs, beta: float) -> None:
    lengths = [mask.sum(1, keepdim=True) for mask in (data.chosen_mask, data.rejected_mask)]
    shrunk = Pairs(data.chosen / lengths[0], data.rejected / lengths[1], data.ref_chosen, data.ref_rejected, data.chosen_mask, data.rejected_mask)
    ours = component("simpo", data.inputs(reference=False), loss_type="simpo", beta=beta, simpo_gamma=0, cpo_alpha=0)
    theirs = component("simpo", shrunk.inputs(reference=False), loss_type="sigmoid", beta=beta, cpo_alpha=0)
    same(ours["loss"], theirs["loss"])
    same(ours["grad_chosen_logp"] * lengths[0], theirs["grad_chosen_logp"])


@few
@given(pairs(least=1, scales=(0.1, 1.0)), betas)
def test_simpo_does_not_pay_for_length(data: Pairs, beta: float) -> None:
    """Every token twice: the same loss, and half the gradient at each."""
    twice = Pairs(*(torch.cat([x, x], 1) for x in vars(data).values()))
    one, two = (component("simpo", x.inputs(reference=False), loss_type="simpo", beta=beta, cpo_alpha=0) for x in (data, twice))
    same(one["loss"], two["loss"])
    same(one["grad_rejected_logp"], 2 * two["grad_rejected_logp"][:, : data.chosen.shape[1]])


@few
@given(pairs(scales=(0.1, 1.0)), st.sampled_from([0.1, 1.0]), st.integers(0, 2**32 - 1))
def test_orpo_is_the_formula(data: Pairs, beta: float, seed: int) -> None:
    r = numpy.random.default_rng(seed)
    nll = torch.tensor(-r.uniform(size=(len(data.chosen), 7)), requires_grad=True)
    nll_mask = torch.tensor(r.uniform(size=nll.shape) < 0.7)
    chosen, rejected = data.chosen.clone().requires_grad_(), data.rejected.clone().requires_grad_()
    s_c, s_r = ((x * m).sum(1) / m.sum(1).clamp(min=1) for x, m in ((chosen, data.chosen_mask), (rejected, data.rejected_mask)))
    here = data.chosen_mask.any(1) & data.rejected_mask.any(1)
    odds = [s[here] - torch.log(-torch.expm1(s[here])) for s in (s_c, s_r)]
    term = -torch.nn.functional.logsigmoid(odds[0] - odds[1]).sum() / max(int(here.sum()), 1)
    loss = beta * term - (nll * nll_mask).sum() / nll_mask.sum().clamp(min=1)
    loss.backward()
    inputs = {**data.inputs(reference=False), "nll_logp": nll.detach(), "nll_mask": nll_mask.double()}
    found = component("orpo", inputs, beta=beta)
    same(found["loss"], loss.detach(), rtol=1e-7)
    same(found["log_odds_ratio_mean"], -term.detach(), rtol=1e-7)
    for name, leaf in (("chosen", chosen), ("rejected", rejected), ("nll", nll)):
        same(found[f"grad_{name}_logp"], torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, rtol=1e-7)


def test_orpo_compares_odds() -> None:
    """Mean probabilities of 4/5 and 1/3: odds of 4 against 1/2."""
    ones = torch.ones(1, 2, dtype=torch.float64)
    inputs = {"chosen_logp": ones * log(4 / 5), "rejected_logp": ones * log(1 / 3), "nll_logp": -ones, "nll_mask": ones}
    found = component("orpo", {**inputs, "chosen_mask": ones, "rejected_mask": ones}, beta=0.5)
    same(found["log_odds_mean"], log(8))
    same(found["loss"], 0.5 * log(1 + 1 / 8) + 1)


@pytest.mark.parametrize("value", [0.0, -1e-12])
def test_orpo_at_certainty_is_finite(value: float) -> None:
    ones = torch.ones(2, 2)
    inputs = {"chosen_logp": ones * value, "rejected_logp": -ones, "nll_logp": -ones, "chosen_mask": ones, "rejected_mask": ones, "nll_mask": ones}
    found = component("orpo", inputs)
    assert all(torch.isfinite(x).all() for x in found.values())


# ---- online


@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from(["sigmoid", "ipo"]), st.sampled_from([None, 1.0]))
def test_online_dpo_is_dpo_of_the_better_answer(seed: int, count: int, kind: str, penalty: float | None) -> None:
    r = numpy.random.default_rng(seed)
    logp, ref = r.normal(size=(2, 2 * count, 3))
    mask = (numpy.arange(3) < r.integers(0, 4, size=(2 * count, 1))).astype(float)
    reward, end = r.integers(0, 2, size=2 * count).astype(float), r.integers(0, 2, size=2 * count)
    live = torch.tensor(logp, requires_grad=True)
    gain = ((live - torch.tensor(ref)) * torch.tensor(mask)).sum(1)
    paid = reward - (penalty or 0.0) * (1 - end)
    first = torch.tensor(paid[:count] >= paid[count:])
    margin = torch.where(first, gain[:count] - gain[count:], gain[count:] - gain[:count])
    loss = (torch.nn.functional.softplus(-0.3 * margin) if kind == "sigmoid" else (margin - 1 / 0.6) ** 2).mean()
    loss.backward()
    inputs = {"logp": logp, "ref_logp": ref, "mask": mask, "reward": reward, "contains_eos": end}
    found = component("online_dpo", inputs, loss_type=kind, beta=0.3, missing_eos_penalty=penalty)
    same(found["loss"], loss.detach())
    same(found["grad_logp"], live.grad)
    same(found["first_is_chosen"], first.double())


def nash(seed: int, **changes: Any) -> dict[str, Any]:
    r = numpy.random.default_rng(seed)
    logits = {"model_logits": r.normal(size=(2, 5)), "ref_logits": r.normal(size=(2, 5))}
    rows = {"logp": r.normal(size=(3, 4)), "ref_logp": r.normal(size=(3, 4)), "mask": numpy.ones((3, 4)), "win_prob": r.uniform(size=3)}
    return {**logits, **rows, **changes}


def test_an_even_game_without_a_penalty_moves_nothing() -> None:
    found = component("nash_md", nash(0, win_prob=numpy.full(3, 0.5)), beta=0.0)
    assert not found["grad_logp"].any()
    assert component("nash_md", nash(0), beta=0.0)["grad_logp"].any()


@few
@given(st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_the_gradient_of_nash_md_is_token_by_token(seed: int, beta: float) -> None:
    data = nash(seed)
    slope = (beta * (data["logp"] - data["ref_logp"]) - (data["win_prob"][:, None] - 0.5)) / 3
    same(component("nash_md", data, beta=beta)["grad_logp"], slope)


@pytest.mark.parametrize(("mix", "which"), [(0.0, "model_logits"), (1.0, "ref_logits")])
def test_the_mixture_at_its_ends(mix: float, which: str) -> None:
    data = nash(1)
    found = component("nash_md", data, mixture_coef=mix)["mixture_log_probs"]
    same(found, torch.log_softmax(torch.tensor(data[which]), -1))
    same(found.exp().sum(-1), torch.ones(2))


# ---- without the wrappers: defaults of the library's own definitions


def test_masks_may_be_left_out() -> None:
    text = """
    objective both {
      input chosen_logp, rejected_logp, chosen_logp_ref, rejected_logp_ref : [pair, token]
      minimize dpo(
        chosen_logp: chosen_logp, rejected_logp: rejected_logp, chosen_logp_ref: chosen_logp_ref, rejected_logp_ref: rejected_logp_ref, late: 0.5
      )
      minimize orpo(chosen_logp: chosen_logp, rejected_logp: rejected_logp) + simpo(chosen_logp: chosen_logp, rejected_logp: rejected_logp)
    }
    """
    r = numpy.random.default_rng(0)
    names = ("chosen_logp", "rejected_logp", "chosen_logp_ref", "rejected_logp_ref")
    inputs = {name: -r.uniform(0.1, 2, size=(3, 4)) for name in names}
    found = evaluate_text(text, "both", {}, inputs)
    ones = {"chosen_mask": numpy.ones((3, 4)), "rejected_mask": numpy.ones((3, 4))}
    sides = {name: inputs[name] for name in names[:2]} | ones
    renamed = {"ref_chosen_logp": inputs["chosen_logp_ref"], "ref_rejected_logp": inputs["rejected_logp_ref"]}
    parts = [
        component("dpo", {**sides, **renamed}, loss_type=["sigmoid"]),
        component("orpo", {**sides, "nll_logp": inputs["chosen_logp"], "nll_mask": numpy.ones((3, 4))}),
        component("simpo", sides, loss_type="simpo", beta=2, simpo_gamma=1, cpo_alpha=0),
    ]
    same(found["loss"], sum(float(part["loss"]) for part in parts))


# ---- the pipelines


def run(pipeline: str, *parameters: str, backend: str = "torch", steps: int = 2) -> tuple[list[float], dict[str, Any]]:
    """The losses, and the last values reported."""
    program, diagnostics = build(load("preferences")[0], pipeline, parameters)
    assert program is not None, diagnostics
    losses: list[float] = []
    values: dict[str, Any] = {}
    for event in execute(program, Options(backend=backend, precision="float64", steps=steps)):
        if isinstance(event, UnitDone) and event.loss is not None:
            losses.append(event.loss)
        if isinstance(event, Report):
            values.update(event.values)
    return losses, values


@pytest.mark.parametrize(
    "loss",
    [
        "dpo()",
        "ipo()",
        "simpo()",
        "orpo()",
        "cpl(alpha: 0.1, loser: 1, reference: given)",
        "kto()",
    ],
)
def test_a_transformer_is_trained_by_each(loss: str) -> None:
    found, values = run("sums", f"loss={loss}", "pairs=4")
    assert len(set(found)) == 2 and numpy.isfinite(found).all()
    assert 0 <= values["accuracy"] <= 1


def test_backends_train_alike() -> None:
    reference, torch_ = (run("sums", "pairs=4", backend=backend)[0] for backend in ("reference", "torch"))
    same(reference, torch_)
    same(reference[0], log(2))  # the policy starts as the reference
    assert reference[1] != reference[0]


def test_cpl_with_tokens_for_time_is_dpo() -> None:
    same(run("sums", "loss=dpo(beta: 0.1)", "pairs=4")[0], run("sums", "loss=cpl(alpha: 0.1, loser: 1, reference: given)", "pairs=4")[0])

"""Preference losses where options and shapes are odd: a loss twice, more losses than six, a word for a list, weights, divergences that do not fit,
one mask for both segments, a reference that is not there."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate

from .preference_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
TYPES = ["sigmoid", "hinge", "ipo", "robust", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft"]


def pairs(rows: int = 3, tokens: int = 4) -> dict[str, numpy.ndarray]:
    r = numpy.random.default_rng(5)
    names = ("chosen_logp", "rejected_logp", "ref_chosen_logp", "ref_rejected_logp")
    masks = {name: numpy.tile(numpy.arange(tokens) < tokens - 1, (rows, 1)) for name in ("chosen_mask", "rejected_mask")}
    return {name: -r.exponential(size=(rows, tokens)) for name in names} | masks


def dpo(backend: str = "reference", **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("00-preference-baselines.dpo", params, pairs(), backend)


@backends
@pytest.mark.parametrize("types", [["sigmoid", "sigmoid"], ["sigmoid", "hinge", "sigmoid"], TYPES], ids=["twice", "again", "all"])
def test_every_loss_of_a_list_is_added(backend: str, types: list[str]) -> None:
    weights = [1 / (k + 1) for k in range(len(types))]
    each = [dpo(backend, loss_type=one) for one in types]
    together, weighted = dpo(backend, loss_type=types), dpo(backend, loss_type=types, loss_weights=weights)
    for name in ("loss", "grad_chosen_logp", "grad_rejected_logp"):
        same(together[name], sum(one[name] for one in each))
        same(weighted[name], sum(w * one[name] for w, one in zip(weights, each, strict=True)))
    same(together["chosen_rewards"], each[0]["chosen_rewards"])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_each_loss_has_one_weight(weights: list[float]) -> None:
    with pytest.raises(GradflowError, match="each loss has one weight"):
        dpo(loss_type=["sigmoid", "hinge"], loss_weights=weights)


@pytest.mark.parametrize("loss", ["nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down"])
def test_a_divergence_that_would_change_nothing_is_refused(loss: str) -> None:
    with pytest.raises(GradflowError, match="a divergence would change nothing"):
        dpo(loss_type=["sigmoid", loss], f_divergence_type="js_divergence")
    dpo(loss_type=loss, f_divergence_type="reverse_kl")


@backends
def test_a_margin_that_is_just_enough_pulls_no_more(backend: str) -> None:
    """As in torch's relu, where `max` would share the gradient."""
    inputs = {"chosen_logp": [[-1.0], [-1.0]], "rejected_logp": [[-3.0], [-2.0]], "chosen_mask": [[True]] * 2, "rejected_mask": [[True]] * 2}
    inputs |= {"ref_chosen_logp": [[-1.0]] * 2, "ref_rejected_logp": [[-1.0]] * 2}
    found = evaluate("00-preference-baselines.dpo", {"loss_type": ["hinge"], "beta": 0.5}, inputs, backend)
    same(found["grad_chosen_logp"], [[0.0], [-0.25]])


@backends
def test_without_a_baseline_the_kl_is_a_number_like_others(backend: str) -> None:
    inputs = {"logp": [[-1.0]], "ref_logp": [[-2.0]], "mask": [[True]], "label": [1]}
    found = evaluate("00-preference-baselines.kto", {"loss_type": "apo_zero_unpaired"}, inputs, backend)
    assert found["kl"].dtype == torch.float64 and found["kl"] == 0


@backends
def test_without_odds_orpo_is_supervised(backend: str) -> None:
    inputs = {k: x for k, x in pairs().items() if "ref" not in k}
    inputs |= {"nll_logp": inputs["chosen_logp"], "nll_mask": inputs["chosen_mask"]}
    found = evaluate("00-preference-baselines.orpo", {"beta": 0.0}, inputs, backend)
    same(found["loss"], -inputs["nll_logp"][:, :3].mean())
    assert not found["grad_chosen_logp"].any()


@backends
@pytest.mark.parametrize("data", ["all", "pos"])
def test_one_mask_is_the_mask_of_both_segments(backend: str, data: str) -> None:
    both = pairs()
    mask = both["chosen_mask"]
    inputs = {f"logp_{k}": numpy.where(mask, both[n], numpy.nan) for k, n in ((1, "rejected_logp"), (2, "chosen_logp"))}
    inputs["label"] = numpy.array([0, 0.5, 1])
    one, two, cut = (
        evaluate("40-cpl.comparison_loss", {"bc_coeff": 1.0, "bc_data": data}, given, backend)
        for given in (
            inputs | {"mask": mask},
            inputs | {"mask_1": mask, "mask_2": mask},
            {name: x[:, :3] if x.ndim == 2 else x for name, x in inputs.items()},
        )
    )
    for name, value in one.items():
        same(value, two[name])
        same(value[..., :3] if value.ndim == 2 else value, cut[name])


def test_a_reference_that_is_asked_for_has_to_be_there() -> None:
    inputs = {"logp_1": [[-1.0]], "logp_2": [[-2.0]], "label": [1.0]}
    evaluate("40-cpl.comparison_loss", {}, inputs)
    with pytest.raises(GradflowError, match="needs the input `ref_logp_1`"):
        evaluate("40-cpl.comparison_loss", {"use_reference": True}, inputs)


def test_the_default_of_the_family_without_reference_is_cpo() -> None:
    inputs = {k: x for k, x in pairs().items() if "ref" not in k}
    same(*(evaluate("00-preference-baselines.simpo", params, inputs)["loss"] for params in ({}, {"loss_type": "sigmoid", "cpo_alpha": 1.0})))

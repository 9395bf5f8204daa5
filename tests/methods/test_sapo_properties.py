"""Invariants of SAPO: its formula, GRPO on-policy, the limit of a small temperature, the shape of its weight, and what it survives."""

from __future__ import annotations

import json
from pathlib import Path
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
from .harness import evaluate_text
from .policy_cases import AGGREGATES, GARBAGE, Batch, aggregated, batches, component, same

GOLDEN = Path(__file__).parent.parent / "golden"
temperatures = st.floats(0.2, 8)
ways = st.tuples(st.sampled_from(AGGREGATES), st.sampled_from(["exclude", "count"]))
ONE_ROW = torch.ones(1, 1)


def sapo(
    batch: Batch, backend: str = "reference", garbage: float | None = None, changes: dict[str, Any] | None = None, **params: Any
) -> dict[str, torch.Tensor]:
    inputs = {name: x for name, x in batch.inputs(garbage, **(changes or {})).items() if name != "logp_ref"}
    return evaluate("18-sapo.loss", params, inputs, backend)


def slope_at(ratio: float, advantage: float, **params: float) -> float:
    """dL/dlogp of a single token."""
    inputs = {"logp": ONE_ROW * numpy.log(ratio), "logp_old": 0 * ONE_ROW, "mask": ONE_ROW, "advantage": advantage * ONE_ROW}
    return float(evaluate("18-sapo.loss", params, inputs)["grad_logp"])


def weights(ratio: Any, tau: float) -> numpy.ndarray:
    return evaluate("18-sapo.gate", {"tau": tau}, {"ratio": numpy.atleast_1d(ratio)})["weight"].numpy()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(batches(), temperatures, temperatures, ways, st.sampled_from([None, *GARBAGE]))
def test_the_loss_is_the_formula(backend: str, batch: Batch, tau_pos: float, tau_neg: float, way: tuple[str, str], garbage: float | None) -> None:
    logp = batch.logp.clone().requires_grad_()
    advantage = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(logp)
    tau = torch.where(advantage > 0, *torch.tensor([tau_pos, tau_neg], dtype=torch.float64))
    ratio = (logp - batch.logp_old).clamp(-20, 20).exp()
    loss = aggregated(-4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage, batch.mask, *way)
    loss.backward()
    found = sapo(batch, backend, garbage, tau_pos=tau_pos, tau_neg=tau_neg, aggregate=way[0], empty_seq=way[1])
    same(found["loss"], loss.detach())
    same(found["grad_logp"], logp.grad)


@few
@given(batches(), temperatures, temperatures, ways)
def test_on_policy_its_gradient_is_that_of_grpo(batch: Batch, tau_pos: float, tau_neg: float, way: tuple[str, str]) -> None:
    here = {"logp_old": batch.logp}
    ours = sapo(batch, changes=here, tau_pos=tau_pos, tau_neg=tau_neg, aggregate=way[0], empty_seq=way[1])
    grpo = component("policy_loss", batch.inputs(**here), algo="ppo", aggregate=way[0], empty_seq=way[1])
    same(ours["grad_logp"], grpo["grad_logp"])


@few
@given(batches(scales=(0.1, 0.5)))
def test_a_small_temperature_is_the_unclipped_policy_gradient(batch: Batch) -> None:
    ours = sapo(batch, tau_pos=1e-3, tau_neg=1e-3)
    plain = component("policy_loss", batch.inputs(), algo="ppo", eps_low=1.0, eps_high=1e9, aggregate="seq-mean-token-mean")
    same(ours["grad_logp"], plain["grad_logp"], rtol=1e-4)


@few
@given(batches(), temperatures)
def test_with_one_temperature_the_sign_of_the_advantage_flips_the_gradient(batch: Batch, tau: float) -> None:
    there = sapo(batch, tau_pos=tau, tau_neg=tau)
    back = sapo(batch, changes={"advantage": -batch.advantage}, tau_pos=tau, tau_neg=tau)
    same(there["grad_logp"], -back["grad_logp"])
    same(there["loss"], -back["loss"])


@few
@given(st.floats(0, 1), temperatures)
def test_the_weight_is_symmetric_around_one_and_one_there(distance: float, tau: float) -> None:
    below, at, above = weights([1 - distance, 1.0, 1 + distance], tau)
    assert at == pytest.approx(1, rel=1e-12)
    assert below == pytest.approx(above, rel=1e-9)


@few
@given(temperatures, st.lists(st.floats(0, 30), min_size=2, max_size=8, unique=True))
def test_the_weight_falls_with_the_distance_from_one(tau: float, distances: list[float]) -> None:
    found = weights(1 + numpy.sort(distances), tau)
    assert (numpy.diff(found) <= 1e-15).all()
    assert (found >= 0).all() and (found <= 1).all()


@few
@given(st.floats(0, 20).filter(lambda ratio: abs(ratio - 1) > 1e-3), temperatures, st.floats(1.01, 3))
def test_a_larger_temperature_weighs_less_away_from_one(ratio: float, tau: float, factor: float) -> None:
    assert weights(ratio, factor * tau)[0] <= weights(ratio, tau)[0] + 1e-15


@few
@given(st.floats(0, 100), temperatures)
def test_the_gate_is_bounded(ratio: float, tau: float) -> None:
    value = float(evaluate("18-sapo.gate", {"tau": tau}, {"ratio": numpy.array([ratio])})["value"])
    lowest = 4 / tau / (1 + numpy.exp(tau))
    assert lowest * (1 - 1e-9) <= value <= 4 / tau


@few
@given(st.floats(-30, 30), st.floats(-5, 5))
def test_no_token_moves_more_than_the_bound(change: float, advantage: float) -> None:
    assert abs(slope_at(float(numpy.exp(change)), advantage, tau_pos=1.0, tau_neg=1.0)) <= 1.5751 * abs(advantage) + 1e-12


def test_the_bound_is_reached() -> None:
    assert abs(slope_at(2.06, 1.0, tau_pos=1.0)) == pytest.approx(1.575, abs=1e-3)


def test_bad_tokens_are_damped_more_by_default() -> None:
    assert abs(slope_at(2.0, -1.0)) < abs(slope_at(2.0, 1.0))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(("change", "clamp"), [(-800.0, 20.0), (-800.0, None), (-40.0, 20.0), (40.0, 20.0), (40.0, None), (800.0, 20.0)])
def test_a_ratio_however_large_leaves_a_finite_gradient_near_zero(change: float, clamp: float | None, backend: str) -> None:
    """Unclamped, a log ratio above 709 overflows: that is what the clamp is for."""
    inputs = {"logp": change * ONE_ROW, "logp_old": 0 * ONE_ROW, "mask": ONE_ROW, "advantage": torch.ones(1)}
    found = evaluate("18-sapo.loss", {"log_ratio_clamp": clamp}, inputs, backend)
    assert torch.isfinite(found["loss"]) and abs(float(found["grad_logp"])) < 1e-8


def test_without_an_advantage_it_takes_that_of_the_groups() -> None:
    """The library's objective, from a record, is the wrapped component with the group-normalized advantage."""
    text = """
    objective whole {
      input logp, logp_old : [sample, token]
      input mask           : bool[sample, token]
      input reward         : [sample]
      input group          : [sample -> prompt]
      minimize sapo(logp: logp, logp_old: logp_old, mask: mask, reward: reward, group: group)
    }
    """
    case = json.loads((GOLDEN / "18-sapo.loss.json").read_text())["cases"][0]
    inputs = {name: case["inputs"][name] for name in ("logp", "logp_old", "mask")}
    rows = case["inputs"]["mask"]["shape"][0]
    reward, group = numpy.arange(rows) % 3 - 0.5, numpy.arange(rows) // 2
    credit = component("advantage", {"reward": reward, "group": group}, estimator="grpo")["advantage"]
    whole = evaluate_text(text, "whole", {}, {**inputs, "reward": reward, "group": group})
    parts = evaluate("18-sapo.loss", {}, {**inputs, "advantage": credit})
    assert float(credit.abs().max()) > 0.5
    same(whole["loss"], parts["loss"])
    same(whole["grad_logp"], parts["grad_logp"])


# ---- the pipelines


def losses(pipeline: str, backend: str, *parameters: str) -> list[float]:
    """Of two rollouts."""
    program, diagnostics = build(load("18_sapo")[0], pipeline, parameters)
    assert program is not None, diagnostics
    options = Options(backend=backend, precision="float64", steps=2)
    return [event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None]


@pytest.mark.parametrize("noise", [0, 3])
def test_locks_run_alike_on_every_backend(noise: int) -> None:
    """Samples, noise and mini-batches are the same draws, so the losses are the same numbers."""
    reference, torch_ = (losses("locks", backend, f"noise={noise}") for backend in ("reference", "torch"))
    assert len(reference) == 2 and len(set(reference)) == 2
    same(reference, torch_)


def test_noise_reaches_the_loss() -> None:
    assert losses("locks", "torch", "noise=3") != losses("locks", "torch")


def test_a_transformer_is_trained_through_the_same_objective() -> None:
    found = losses("arithmetic", "torch")
    assert len(found) == 2 and numpy.isfinite(found).all()

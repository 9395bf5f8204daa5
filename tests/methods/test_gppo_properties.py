"""Invariants of GPPO: the values of hard clipping, the bounded weight of each token's gradient, its limits, what extreme ratios leave of it."""

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
from .policy_cases import AGGREGATES, GARBAGE, Batch, aggregated, batches, component, same

ONE = torch.ones(1, 1).double()
backends = pytest.mark.parametrize("backend", ["reference", "torch"])
ways = st.sampled_from(AGGREGATES)
widths = st.sampled_from([(0.2, 0.28), (0.2, 0.2), (0.05, 0.05), (1.0, 3.0)])
duals = st.sampled_from([3.0, 10.0, None])


def gppo(batch: Batch, backend: str = "reference", garbage: float | None = None, **params: Any) -> dict[str, torch.Tensor]:
    inputs = {name: x for name, x in batch.inputs(garbage).items() if name != "logp_ref"}
    return evaluate("29-gppo.loss", params, inputs, backend)


def general(batch: Batch, correct: Any, garbage: float | None = None, backend: str = "reference", **params: Any) -> dict[str, torch.Tensor]:
    inputs = {name: x for name, x in batch.inputs(garbage).items() if name != "logp_ref"}
    return evaluate("29-gppo.general", params, inputs | {"correct": torch.as_tensor(correct, dtype=torch.float64)}, backend)


def weight_at(change: float, advantage: float, backend: str = "reference", **params: Any) -> float:
    """F of a single token: -(dL/dlogp) / A."""
    inputs = {"logp": change * ONE, "logp_old": 0 * ONE, "mask": ONE, "advantage": advantage * ONE}
    return -float(evaluate("29-gppo.loss", params, inputs, backend)["grad_logp"]) / advantage


def ahead(batch: Batch) -> torch.Tensor:
    return (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(batch.logp)


@backends
@few
@given(batches(), widths, duals, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0, 2.0]), ways, st.sampled_from([None, *GARBAGE]))
def test_value_and_weight_are_those_of_the_card(
    backend: str, batch: Batch, width: tuple[float, float], dual: float | None, low: float, high: float, way: str, garbage: float | None
) -> None:
    """The value of the clipped objective; -A F as gradient, F a bound where that clips, 0 at the dual bound, else the ratio."""
    ratio, advantage = (batch.logp - batch.logp_old).exp(), ahead(batch)
    floor, roof, most = 1 - width[0], 1 + width[1], dual or float("inf")
    value = torch.max(-advantage * ratio, -advantage * ratio.clamp(floor, roof))
    value = torch.where(advantage < 0, torch.min(value, -advantage * most), value)
    factor = torch.where((advantage > 0) & (ratio > roof), torch.full_like(ratio, high * roof), ratio)
    factor = torch.where((advantage < 0) & (ratio < floor), torch.full_like(ratio, low * floor), factor)
    factor = torch.where((advantage < 0) & (ratio > most), torch.zeros_like(ratio), factor)
    logp = batch.logp.clone().requires_grad_()
    aggregated(-advantage * factor * logp, batch.mask, way).backward()
    options = {"eps_low": width[0], "eps_high": width[1], "dual_clip_c": dual, "beta1": low, "beta2": high, "aggregate": way}
    found = gppo(batch, backend, garbage, **options)
    same(found["loss"], aggregated(value, batch.mask, way))
    same(found["grad_logp"], logp.grad)


@few
@given(batches(), widths, duals, ways)
def test_the_value_is_that_of_clipping_and_without_beta_the_gradient_too(
    batch: Batch, width: tuple[float, float], dual: float | None, way: str
) -> None:
    options = {"eps_low": width[0], "eps_high": width[1], "dual_clip_c": dual, "aggregate": way}
    plain = component("policy_loss", batch.inputs(), algo="ppo", log_ratio_clamp=None, **options)
    same(gppo(batch, **options)["loss"], plain["loss"])
    same(gppo(batch, beta1=0.0, beta2=0.0, **options)["grad_logp"], plain["grad_logp"])


@few
@given(batches(), st.sampled_from([3.0, 10.0]))
def test_no_token_moves_more_than_the_larger_bound(batch: Batch, dual: float) -> None:
    moved = gppo(batch, dual_clip_c=dual, aggregate="token-sum")["grad_logp"].abs()
    assert (moved <= ahead(batch).abs() * max(1.28, dual) * (1 + 1e-12)).all()


@few
@given(batches(), ways)
def test_on_policy_it_moves_like_reinforce(batch: Batch, way: str) -> None:
    here = Batch(**{**vars(batch), "logp_old": batch.logp})
    same(gppo(here, aggregate=way)["grad_logp"], component("policy_loss", here.inputs(), algo="reinforce", aggregate=way)["grad_logp"])


@few
@given(batches(scales=(0.1, 1.0)))
def test_without_bounds_it_is_the_unclipped_policy_gradient(batch: Batch) -> None:
    plain = component("policy_loss", batch.inputs(), algo="ppo", eps_low=1.0, eps_high=1e12, log_ratio_clamp=None)
    same(gppo(batch, eps_low=1.0, eps_high=1e12, dual_clip_c=None)["grad_logp"], plain["grad_logp"])


@few
@given(st.floats(-3, 4), st.sampled_from([3.0, 10.0]))
def test_the_weight_of_a_good_token_is_held_above_and_that_of_a_bad_one_below(change: float, dual: float) -> None:
    """For a good one it is CISPO's."""
    ratio = numpy.exp(change)
    assert weight_at(change, 1.5, dual_clip_c=dual) == pytest.approx(min(ratio, 1.28))
    assert weight_at(change, -0.7, dual_clip_c=dual) == pytest.approx(0 if ratio > dual else max(ratio, 0.8))


@pytest.mark.parametrize(("bound", "advantage"), [(1.28, 1.0), (0.8, -1.0)])
def test_the_weight_does_not_jump_at_the_bound_and_that_of_hard_clipping_does(bound: float, advantage: float) -> None:
    inside, outside = (weight_at(numpy.log(bound) + side * numpy.sign(advantage) * 1e-7, advantage) for side in (-1, 1))
    assert inside == pytest.approx(outside, abs=1e-6)
    assert weight_at(numpy.log(bound) + numpy.sign(advantage) * 1e-7, advantage, beta1=0.0, beta2=0.0) == 0


@backends
@pytest.mark.parametrize(
    ("change", "advantage", "weight"),
    [(-800.0, -1.0, 0.8), (-800.0, 1.0, 0.0), (40.0, 1.0, 1.28), (40.0, -1.0, 0.0), (700.0, 1.0, 1.28), (0.0, 1.0, 1.0)],
)
def test_extreme_ratios_leave_the_bound(change: float, advantage: float, weight: float, backend: str) -> None:
    """A ratio of 0 too, where the authors' bound / ratio * ratio is not a number."""
    assert weight_at(change, advantage, backend) == pytest.approx(weight, abs=1e-12)


def test_without_advantage_nothing_moves() -> None:
    inputs = {"logp": torch.tensor([[-3.0, 0.0, 2.0]]), "logp_old": torch.zeros(1, 3), "mask": torch.ones(1, 3), "advantage": torch.zeros(1)}
    assert not evaluate("29-gppo.loss", {}, inputs)["grad_logp"].any()


def test_clipped_tokens_are_counted_as_hard_clipping_counts_them() -> None:
    """Good and above, bad and below; bad and far above by the dual bound."""
    change = torch.log(torch.tensor([[1.5, 0.5, 1.5, 0.5, 20.0, 1.0, 9.0]])).double()
    advantage = torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 0.0]]).double()
    found = evaluate("29-gppo.loss", {}, {"logp": change, "logp_old": 0 * change, "mask": torch.ones(1, 7), "advantage": advantage})
    assert float(found["clipfrac"]) == pytest.approx(2 / 7) and float(found["clipfrac_lower"]) == pytest.approx(1 / 7)


@few
@given(batches(scales=(0.1, 1.0)), st.sampled_from([0.0, 0.1, 2.0]), st.sampled_from([None, *GARBAGE]), st.integers(0, 2**16))
def test_right_answers_are_imitated_beside(batch: Batch, alpha: float, garbage: float | None, seed: int) -> None:
    """The token mean of the correct rows alone; nothing where there is none."""
    correct = torch.tensor(numpy.random.default_rng(seed).uniform(size=len(batch.logp)) < 0.5)
    found, alone = (general(batch, correct, garbage, alpha_pos_nll=a) for a in (alpha, 0.0))
    shown = batch.mask & correct[:, None]
    same(found["loss"] - alone["loss"], -alpha * torch.where(shown, batch.logp, 0.0).sum() / max(int(shown.sum()), 1), atol=1e-8)
    same(found["grad_logp"] - alone["grad_logp"], -alpha * shown.double() / max(int(shown.sum()), 1), atol=1e-8)


def losses(backend: str, *parameters: str) -> list[float]:
    program, diagnostics = build(load("29_gppo")[0], "locks", parameters)
    assert program is not None, diagnostics
    options = Options(backend=backend, precision="float64", steps=8)
    return [event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None]


def test_locks_run_alike_on_every_backend_and_clipping_shows() -> None:
    reference, torch_ = losses("reference"), losses("torch")
    assert len(set(reference)) > 2, "some code was found"
    same(reference, torch_)
    assert losses("torch", "loss=dapo()") != torch_
    same(losses("torch", "loss=dapo()", "epochs=1", "minibatches=1"), losses("torch", "epochs=1", "minibatches=1"))

"""Invariants of ST-PPO: its formula, levels that are others' ratios, the lemma of the turn gradient, the clipping bias, and dividing by it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradflow.compiler import build, load
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few
from .policy_cases import aggregated, component, same

WORDS, WIDTH = 5, 3
levels = st.sampled_from([("token", "turn"), ("turn", "turn"), ("turn", "token")])
ways = st.sampled_from(["seq-mean-token-mean", "token-mean"])
BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])


@dataclass(frozen=True)
class Talk:
    """logp, logp_old, advantage [B, T], mask bool [B, T], turn_id [B, T] (-1 where the mask is false)."""

    logp: Tensor
    logp_old: Tensor
    advantage: Tensor
    mask: Tensor
    turn_id: Tensor

    def inputs(self, **changes: Any) -> dict[str, Any]:
        return {**vars(self), **changes} | {"mask": self.mask.double()}


def turns_of(mask: Tensor) -> Tensor:
    """Runs of the mask, numbered from 0 in every row."""
    begins = mask & ~torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
    return torch.where(mask, begins.long().cumsum(1) - 1, -1)


@st.composite
def talks(draw: Any, scale: tuple[float, ...] = (0.1, 0.5, 3.0), constant: bool = False) -> Talk:
    """`constant`: one advantage a response."""
    r = numpy.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(1, 1), (1, 6), (3, 8), (4, 5)]))
    mask = torch.tensor(r.uniform(size=shape) < draw(st.sampled_from([1.0, 0.7, 0.4])))
    if shape[0] > 2:
        mask[-1] = False
    old = -2 * r.uniform(size=shape)
    advantage = r.normal(size=(shape[0], 1)) + numpy.zeros(shape) if constant else r.normal(size=shape)
    change = draw(st.sampled_from(scale)) * r.normal(size=shape)
    return Talk(*(torch.tensor(x) for x in (old + change, old, advantage)), mask, turns_of(mask))


def loss(talk: Talk, backend: str = "reference", changes: dict[str, Any] | None = None, **params: Any) -> dict[str, Tensor]:
    return evaluate("27-st-ppo.turn_loss", params, talk.inputs(**(changes or {})), backend)


def turn_ratio(talk: Talk, logp: Tensor, slope: str) -> Tensor:
    change = torch.where(talk.mask, logp - talk.logp_old, 0.0)
    whole = torch.zeros_like(change)
    for row, turn in {(row, int(turn)) for row, own in enumerate(talk.turn_id) for turn in own if turn >= 0}:
        here = talk.turn_id[row] == turn
        whole = torch.where(here & (torch.arange(len(whole)) == row)[:, None], change[row][here].mean(), whole)
    return whole.exp() if slope == "turn" else (logp - logp.detach() + whole.detach()).exp()


@BACKENDS
@few
@given(talks(), levels, ways, st.sampled_from([0.2, 0.05]))
def test_the_loss_is_the_formula(backend: str, talk: Talk, level: tuple[str, str], way: str, low: float) -> None:
    logp = talk.logp.clone().requires_grad_()
    ratio = (logp - talk.logp_old).exp() if level[0] == "token" else turn_ratio(talk, logp, level[1])
    losses = torch.max(-talk.advantage * ratio, -talk.advantage * ratio.clamp(1 - low, 1.3))
    total = aggregated(losses, talk.mask, way, "count")
    (total + 0 * logp.sum()).backward()
    found = loss(talk, backend, level=level[0], ratio_grad=level[1], clip_low=low, clip_high=0.3, loss_agg=way)
    same(found["loss"], total.detach())
    same(found["grad_logp"], torch.where(talk.mask, logp.grad, 0.0))
    same(found["ratio"], torch.where(talk.mask, ratio.detach(), 0.0))


@few
@given(talks(), ways)
def test_turns_of_one_token_are_tokens(talk: Talk, way: str) -> None:
    alone = torch.where(talk.mask, torch.arange(talk.mask.shape[1]), -1)
    by_turn = loss(talk, changes={"turn_id": alone}, level="turn", loss_agg=way)
    by_token = loss(talk, level="token", loss_agg=way)
    for name in ("loss", "grad_logp", "ratio"):
        same(by_turn[name], by_token[name])


@few
@given(talks())
def test_one_turn_a_response_is_the_ratio_of_gspo(talk: Talk) -> None:
    single = torch.where(talk.mask, 0, -1)
    found = loss(talk, changes={"turn_id": single}, level="turn", clip_low=0.1, clip_high=0.2)
    inputs = {"logp": talk.logp, "logp_old": talk.logp_old, "logp_ref": talk.logp, "advantage": talk.advantage, "mask": talk.mask.double()}
    params = {"algo": "gspo", "eps_low": 0.1, "eps_high": 0.2, "log_ratio_clamp": None, "aggregate": "seq-mean-token-mean", "empty_seq": "count"}
    gspo = component("policy_loss", inputs, **params)
    same(found["loss"], gspo["loss"])
    same(found["grad_logp"], gspo["grad_logp"])


@few
@given(talks(constant=True), ways)
def test_before_the_policy_has_moved_both_levels_are_one(talk: Talk, way: str) -> None:
    here = {"logp": talk.logp_old}
    by_turn, by_token = (loss(talk, changes=here, level=level, loss_agg=way) for level in ("turn", "token"))
    same(by_turn["loss"], by_token["loss"])
    same(by_turn["grad_logp"], by_token["grad_logp"])


@few
@given(talks())
def test_a_turn_shares_its_advantage_evenly(talk: Talk) -> None:
    """The lemma: without clipping dJ/dlogp_t = w_k / |y^k| * (sum of the turn's advantages), over |y|."""
    found = loss(talk, level="turn", clip_low=1e9, clip_high=1e9)
    ratio, expected = turn_ratio(talk, talk.logp, "turn"), torch.zeros_like(talk.logp)
    for row in range(len(talk.mask)):
        for turn in range(int(talk.turn_id[row].max()) + 1):
            here = talk.turn_id[row] == turn
            expected[row][here] = -ratio[row][here] * talk.advantage[row][here].sum() / here.sum() / talk.mask[row].sum() / len(talk.mask)
    same(found["grad_logp"], expected)


@few
@given(talks())
def test_ratios_of_turns_vary_less(talk: Talk) -> None:
    by_turn, by_token = (loss(talk, level=level)["ratio"][talk.mask].log() for level in ("turn", "token"))
    if talk.mask.sum() > 1:
        assert float(by_turn.std()) <= float(by_token.std()) * (1 + 1e-9) + 1e-12


@few
@given(talks(), st.sampled_from([float("nan"), float("inf")]))
def test_what_the_policy_did_not_write_does_not_matter(talk: Talk, garbage: float) -> None:
    spoiled = {name: getattr(talk, name).masked_fill(~talk.mask, garbage) for name in ("logp", "logp_old")}
    for slope in ("turn", "token"):
        clean, found = (loss(talk, changes=changes, level="turn", ratio_grad=slope) for changes in ({}, spoiled))
        same(found["loss"], clean["loss"])
        same(found["grad_logp"], clean["grad_logp"])


# ---- the clipping bias


def stabilized(talk: Talk, backend: str = "reference", scale: float = 1.0, seed: int = 0, **params: Any) -> dict[str, Tensor]:
    r = numpy.random.default_rng(seed)
    shape = talk.mask.shape
    inputs = {
        "weight": r.normal(size=(WORDS, WIDTH)), "hidden": r.normal(size=(*shape, WIDTH)), "actions": r.integers(WORDS, size=shape),
        "logp_old": talk.logp_old, "advantage": scale * talk.advantage, "mask": talk.mask.double(), "turn_id": talk.turn_id,
    }  # fmt: skip
    return evaluate("27-st-ppo.clip_bias", params, inputs, backend)


@BACKENDS
@few
@given(talks(), levels, st.sampled_from([0.0, 0.1, 1.0]))
def test_clipping_takes_away_the_bias(backend: str, talk: Talk, level: tuple[str, str], floor: float) -> None:
    found = stabilized(talk, backend, level=level[0], ratio_grad=level[1], norm_floor=floor)
    same(found["grad_clipped_loss"] - found["grad_unclipped_loss"], found["clip_bias"], rtol=1e-10, atol=1e-12)
    same(found["clip_bias_norm"], found["clip_bias"].norm())
    size = float(found["clip_bias_norm"])
    same(found["scale"], 1 / max(size, floor) if size > 0 else 1.0)
    same(found["grad_stabilized"], found["scale"] * found["grad_clipped_loss"])


@few
@given(talks(), levels)
def test_where_nothing_is_clipped_the_gradient_is_that_of_ppo(talk: Talk, level: tuple[str, str]) -> None:
    found = stabilized(talk, level=level[0], clip_low=1e6, clip_high=1e6)
    assert float(found["scale"]) == 1
    same(found["grad_stabilized"], found["grad_unclipped_loss"])


@few
@given(talks(), levels, st.floats(0.01, 100))
def test_without_a_floor_the_size_of_advantages_does_not_matter(talk: Talk, level: tuple[str, str], size: float) -> None:
    plain, scaled = (stabilized(talk, scale=one, level=level[0], norm_floor=0.0) for one in (1.0, size))
    if float(plain["clip_bias_norm"]) > 1e-9:
        same(scaled["grad_stabilized"], plain["grad_stabilized"], rtol=1e-6)


@few
@given(talks(), levels)
def test_a_floor_of_one_never_amplifies(talk: Talk, level: tuple[str, str]) -> None:
    assert float(stabilized(talk, level=level[0], norm_floor=1.0)["scale"]) <= 1


# ---- the pipelines


@cache
def losses(backend: str, **options: Any) -> list[float]:
    program, diagnostics = build(load("27_st_ppo")[0], "calculation", ("steps=1", "tokens=12", "shown=35", "rollouts=2", "floor=0"))
    assert program is not None, diagnostics
    run = execute(program, Options(backend=backend, precision="float64", **options))
    return [event.loss for event in run if isinstance(event, UnitDone) and event.loss is not None]


def test_agents_are_trained_alike_on_every_backend() -> None:
    reference, torch_ = losses("reference"), losses("torch")
    assert len(reference) == 37 and len(set(reference)) == 37
    same(reference, torch_)


def test_the_bias_is_that_of_the_mini_batch_however_it_is_cut() -> None:
    same(losses("torch", micro=3), losses("torch"), rtol=1e-7)

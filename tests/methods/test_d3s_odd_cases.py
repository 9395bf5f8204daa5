"""Odd cases of D3S: samples alone in their group, ids with holes, nothing to choose from, log ratios beyond any bound, what stands under the mask."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from gradflow.verify import evaluate

from .policy_cases import same
from .test_d3s_properties import backends, extremes

OPTIONS = {"mode": "batch", "n_keep": 2, "keep_ratio": 1.0, "clip_low": 0.2, "clip_high": 0.2, "loss_agg": "kept-token-mean", "adv_eps": 1e-6}


def by_the_card(inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    o = {**OPTIONS, **options}
    reward, group, mask = inputs["reward"].astype(float), inputs["group"], inputs["mask"] > 0
    pools = [numpy.flatnonzero(group == one) for one in numpy.unique(group)]
    advantage = numpy.zeros(len(reward))
    for own in pools:
        gap = reward[own] - reward[own].mean()
        advantage[own] = gap / ((gap.std(ddof=1) if len(own) > 1 else 0.0) + o["adv_eps"])
    pools = pools if o["mode"] == "group" else [numpy.arange(len(reward))]
    selected = sorted(int(own[row]) for own in pools for row in extremes(advantage[own], o["n_keep"]))
    open_ = mask & numpy.isin(numpy.arange(len(reward)), selected)[:, None]
    places = numpy.flatnonzero(open_)
    value = (numpy.abs(advantage)[:, None] * inputs["entropy"]).reshape(-1)[places]
    kept = places[numpy.argsort(-value, kind="stable")][: max(1, math.ceil(o["keep_ratio"] * len(places) - 1e-9))]
    tokens = torch.zeros(mask.size, dtype=torch.bool)
    tokens[kept.tolist()] = True
    tokens = tokens.reshape(mask.shape)
    logp = torch.tensor(inputs["logp"], requires_grad=True)
    ratio = torch.where(tokens, logp - torch.tensor(inputs["logp_old"]), 0.0).exp()
    credit = torch.tensor(advantage)[:, None]
    each = torch.where(tokens, -torch.min(ratio * credit, ratio.clamp(1 - o["clip_low"], 1 + o["clip_high"]) * credit), 0.0)
    if o["loss_agg"] == "kept-token-mean":
        loss = each.sum() / max(1, int(tokens.sum()))
    else:
        loss = (each.sum(1) / tokens.sum(1).clamp(min=1)).sum() / max(1, len(selected))
    (slope,) = torch.autograd.grad(loss, logp)
    return {"advantage": advantage, "selected": selected, "token_mask": tokens.double(), "loss": loss.detach(), "grad_logp": slope}


def odd_batch(seed: int, moved: float = 0.5) -> dict[str, Any]:
    """Ids with holes, often alone; rows without a token; rewards of any kind."""
    r = numpy.random.default_rng(seed)
    shape = rows, _ = int(r.integers(1, 12)), int(r.integers(1, 5))
    old = -3 * r.uniform(size=shape)
    reward = [r.integers(0, 2, rows), r.integers(0, 2, rows) > 0, r.normal(size=rows), -100 * r.uniform(size=rows), numpy.ones(rows)][seed % 5]
    mask = [r.uniform(size=shape) < 0.6, (r.uniform(size=shape) < 0.6).astype(float), numpy.zeros(shape, int), numpy.ones(shape, int)][seed % 4]
    return {
        "reward": reward, "group": r.choice([7, -2, 100, 3, 50], rows), "logp": old + moved * r.normal(size=shape), "logp_old": old,
        "entropy": 2 * r.uniform(size=shape), "mask": mask,
    }  # fmt: skip


def agree(inputs: dict[str, Any], backend: str, **options: Any) -> None:
    found, expected = evaluate("36-d3s.loss", {**OPTIONS, **options}, inputs, backend), by_the_card(inputs, **options)
    assert found["selected"].tolist() == expected.pop("selected")
    for name, value in expected.items():
        assert found[name].dtype == torch.float64 and tuple(found[name].shape) == numpy.shape(value)
        same(found[name], value, rtol=1e-6, atol=1e-9)


@backends
@pytest.mark.parametrize("seed", range(8))
def test_batches_of_odd_shapes(backend: str, seed: int) -> None:
    way = ("kept-token-mean", "seq-mean-token-mean")[seed // 2 % 2]
    agree(odd_batch(seed), backend, mode=("batch", "group")[seed % 2], n_keep=2 + seed % 3, keep_ratio=(0.2, 0.5, 1.0)[seed % 3], loss_agg=way)


@backends
def test_a_sample_alone_in_its_group_has_nothing_to_tell(backend: str) -> None:
    inputs = odd_batch(7) | {"reward": numpy.array([5.0, 1.0, 0.0, 1.0]), "group": numpy.array([9, 4, 4, 4])}
    inputs |= {name: numpy.full((4, 2), value) for name, value in (("logp", -1.0), ("logp_old", -1.2), ("entropy", 1.0), ("mask", 1.0))}
    agree(inputs, backend, n_keep=3)
    found = evaluate("36-d3s.loss", {"n_keep": 3}, inputs, backend)
    assert found["advantage"][0] == 0 and 0 not in found["selected"].tolist()


@backends
def test_log_ratios_are_not_held_within_bounds(backend: str) -> None:
    """Downward, for what was wrong: nothing clips a ratio that grew."""
    tokens = numpy.ones((2, 1))
    inputs = {"reward": numpy.array([0.0, 1.0]), "group": numpy.zeros(2, int), "entropy": tokens, "mask": tokens, "logp_old": -100 * tokens}
    agree(inputs | {"logp": numpy.array([[-60.0], [-1.0]])}, backend)
    agree(inputs | {"logp": numpy.array([[-130.0], [-9000.0]])}, backend)


@backends
def test_what_stands_under_the_mask_is_not_looked_at(backend: str) -> None:
    inputs = odd_batch(4)
    hidden = inputs["mask"] == 0
    inputs["mask"][0] = 0
    hidden[0] = True
    covered = {name: numpy.where(hidden, numpy.nan, inputs[name]) for name in ("logp", "logp_old", "entropy")}
    clean, bad = (evaluate("36-d3s.loss", {"n_keep": 3}, one, backend) for one in (inputs, inputs | covered))
    for name in ("loss", "token_mask", "grad_logp"):
        same(bad[name], clean[name])


@backends
@pytest.mark.parametrize("mode", ["batch", "group"])
def test_of_no_samples_none_are_chosen(backend: str, mode: str) -> None:
    none = {"advantage": numpy.zeros(0), "group": numpy.zeros(0, int)}
    found = evaluate("36-d3s.select_samples", {"mode": mode, "n_keep": 2}, none, backend)
    assert found["selected"].tolist() == [] and found["variance"] == 0
    tokens = {name: numpy.zeros((0, 3)) for name in ("logp", "logp_old", "entropy", "mask")}
    found = evaluate("36-d3s.loss", {"mode": mode, "n_keep": 2}, {"reward": numpy.zeros(0), "group": none["group"], **tokens}, backend)
    assert found["loss"] == 0 and tuple(found["grad_logp"].shape) == (0, 3)


@backends
def test_counts_are_numbers_and_a_single_sample_is_the_lowest(backend: str) -> None:
    shape = (2, 2)
    inputs = {"advantage": numpy.array([1, -1]), "entropy": numpy.zeros(shape), "mask": numpy.ones(shape, bool)}
    found = evaluate("36-d3s.select_tokens", {"keep_ratio": 0.5}, inputs, backend)
    assert found["token_mask"].tolist() == [[1, 1], [0, 0]] and found["token_mask"].dtype == found["n_kept"].dtype == torch.float64
    rows = {"advantage": numpy.array([3, 1, 2, 1]), "group": numpy.array([5, 5, 9, 9])}
    assert evaluate("36-d3s.select_samples", {"n_keep": 1}, rows, backend)["selected"].tolist() == [1]
    assert evaluate("36-d3s.select_samples", {"n_keep": 1, "mode": "group"}, rows, backend)["selected"].tolist() == [1, 3]

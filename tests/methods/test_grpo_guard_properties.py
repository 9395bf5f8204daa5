"""Invariants of GRPO-Guard: the log-ratios of Gaussian steps and their clip, gradients that are equal over the steps, single precision, the sampler.

Axes: B samples, D dims, T steps.
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

import gradflow
from gradflow.compiler import build, load
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import same

KINDS = ("flow_grpo", "guard", "guard_batch_bias", "rationorm", "mean_revised")
TYPES = ("sde", "cps", "constant")
SHAPES = [(1, 2), (4, 3), (3, 2, 2), (2, 1, 3, 2)]
LEVELS = [(1.0, 0.9), (0.9, 0.75), (0.6, 0.5), (0.3, 0.1), (0.25, 0.0)]
backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def transition(x: Tensor, v: Tensor, s: float, to: float, second: float, noise: float, kind: str) -> tuple[Tensor, float, float]:
    """Mean, standard deviation and sigma_t, as in the card."""
    dt = to - s
    if kind == "cps":
        sigma = to * math.sin(noise * math.pi / 2)
        return (x - s * v) * (1 - to) + (x + (1 - s) * v) * math.sqrt(max(to**2 - sigma**2, 0)), sigma, sigma
    sigma = noise if kind == "constant" else noise * math.sqrt(s / (1 - (second if s == 1 else s)))
    mean = x * (1 + sigma**2 / (2 * s) * dt) + v * (1 + sigma**2 * (1 - s) / (2 * s)) * dt
    return mean, sigma * math.sqrt(-dt), sigma


def log_prob(x: Tensor, mean: Tensor, width: float, kind: str) -> Tensor:
    square = (x.detach() - mean) ** 2
    every = -square if kind == "cps" else -square / (2 * width**2) - math.log(width) - 0.5 * math.log(2 * math.pi)
    return every.flatten(1).mean(1)


@st.composite
def steps(draw: Any, shapes: list[tuple[int, ...]] = SHAPES, levels: list[tuple[float, float]] = LEVELS) -> dict[str, Any]:
    """The inputs of the component `loss`: a step drawn around velocity_old, and a velocity that has moved."""
    r = numpy.random.default_rng(draw(seeds))
    shape, (s, to), moved = draw(st.sampled_from(shapes)), draw(st.sampled_from(levels)), draw(st.sampled_from([0.0, 1e-3, 0.1]))
    x, old, drawn, gap, reference = (torch.tensor(r.normal(size=shape)) for _ in range(5))
    mean, width, _ = transition(x, old, s, to, 0.9, 0.7, "sde")
    return {
        "sample": x, "next_sample": mean + width * drawn, "velocity_old": old, "velocity": old + moved * gap, "velocity_ref": reference,
        "advantage": torch.tensor(3 * r.normal(size=shape[0]) * (r.uniform(size=shape[0]) < 0.8)),
        "sigma": numpy.array(s), "sigma_next": numpy.array(to), "sigma_max": numpy.array(0.9),
    }  # fmt: skip


def loss(inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, Tensor]:
    return evaluate("19-grpo-guard.loss", params, inputs, backend)


def by_the_card(inputs: dict[str, Any], kind: str, clip: float, most: float, beta: float, form: str) -> dict[str, Tensor]:
    """The formulas with differences of log-probabilities, as the authors compute them, in torch's autograd."""
    v = inputs["velocity"].clone().requires_grad_()
    s, to = float(inputs["sigma"]), float(inputs["sigma_next"])
    (new, width, sigma), (old, *_), (ref, *_) = (
        transition(inputs["sample"], one, s, to, 0.9, 0.7, form) for one in (v, inputs["velocity_old"], inputs["velocity_ref"])
    )
    logp, logp_old = (log_prob(inputs["next_sample"], mean, width, form) for mean in (new, old))
    h = s - to
    k = sigma * math.sqrt(h)
    bias = ((new - old) ** 2).flatten(1).mean(1) / (2 * k**2)
    bias = bias.mean() if kind == "guard_batch_bias" else 0 if kind == "flow_grpo" else bias
    ratio = ((logp - logp_old + bias) * (1 if kind in ("flow_grpo", "mean_revised") else k)).exp()
    credit = inputs["advantage"].clamp(-most, most)
    value = torch.max(-credit * ratio, -credit * ratio.clamp(1 - clip, 1 + clip)).mean() / (h if kind.startswith("guard") else 1)
    kl = ((new - ref) ** 2 / (2 * sigma**2)).flatten(1).mean(1).mean() if beta else torch.tensor(0.0)
    value = value + beta * kl
    (slope,) = torch.autograd.grad(value, v)
    return {"log_prob": logp.detach(), "log_prob_old": logp_old, "ratio": ratio.detach(), "loss": value.detach(), "grad_velocity": slope}


@backends
@few
@given(steps(), st.sampled_from(KINDS), st.sampled_from([1e-3, 0.02, 0.2, 1.5]), st.sampled_from([5.0, 1.0]), st.sampled_from([0.0, 0.04]))
def test_the_loss_is_that_of_the_card(backend: str, inputs: dict[str, Any], kind: str, clip: float, most: float, beta: float) -> None:
    found = loss(inputs, backend, kind=kind, clip_range=clip, adv_clip_max=most, beta=beta)
    for name, value in by_the_card(inputs, kind, clip, most, beta, "sde").items():
        same(found[name], value, rtol=1e-6, atol=1e-8)


@few
@given(steps(levels=LEVELS[1:-1]), st.sampled_from(KINDS), st.sampled_from(["cps", "constant"]), st.sampled_from([0.0, 0.04]))
def test_so_it_is_with_other_noise(inputs: dict[str, Any], kind: str, form: str, beta: float) -> None:
    found = loss(inputs, kind=kind, clip_range=0.02, sde_type=form, beta=beta)
    for name, value in by_the_card(inputs, kind, 0.02, 5.0, beta, form).items():
        same(found[name], value, rtol=1e-6, atol=1e-8)


@few
@given(steps(levels=LEVELS[1:]), st.sampled_from(KINDS))
def test_where_nothing_moved_the_ratio_is_one_and_gradients_of_guard_are_equal_over_steps(inputs: dict[str, Any], kind: str) -> None:
    found = loss(inputs | {"velocity": inputs["velocity_old"]}, kind=kind, clip_range=1e-3)
    same(found["ratio"], numpy.ones(len(inputs["advantage"])))
    if kind.startswith("guard"):
        mean, width, _ = transition(inputs["sample"], inputs["velocity_old"], float(inputs["sigma"]), float(inputs["sigma_next"]), 0.9, 0.7, "sde")
        e = (inputs["next_sample"] - mean) / width
        credit = inputs["advantage"].clamp(-5, 5).reshape(-1, *[1] * (e.ndim - 1))
        same(found["grad_velocity"], credit * e * (1 + 0.7**2 / 2) / e.numel(), atol=1e-10)  # no level in it


@few
@given(steps(shapes=[(1, 3), (1, 2, 2)]))
def test_one_sample_has_its_own_bias(inputs: dict[str, Any]) -> None:
    own, batch = (loss(inputs, kind=kind, clip_range=0.02) for kind in ("guard", "guard_batch_bias"))
    for name in own:
        same(own[name], batch[name])


@few
@given(st.sampled_from(LEVELS), seeds)
def test_log_ratios_of_guard_have_mean_zero_and_those_of_flow_grpo_fall_below(levels: tuple[float, float], seed: int) -> None:
    """Over 4,000 draws, within 5 standard errors: an error in 3.5 million for each."""
    r, rows = numpy.random.default_rng(seed), 4000
    old, x, gap = (torch.tensor(r.normal(size=(1, 2))).expand(rows, 2) for _ in range(3))
    mean, width, _ = transition(x, old, *levels, 0.9, 0.7, "sde")
    new, *_ = transition(x, old + 0.3 * gap, *levels, 0.9, 0.7, "sde")
    inputs = {
        "sample": x, "next_sample": mean + width * torch.tensor(r.normal(size=(rows, 2))), "velocity_old": old, "velocity": old + 0.3 * gap,
        "advantage": torch.ones(rows), "sigma": levels[0], "sigma_next": levels[1], "sigma_max": 0.9,
    }  # fmt: skip
    guard, flow = (loss(inputs, kind=kind, clip_range=0.2)["ratio"].log() for kind in ("guard", "flow_grpo"))
    square = float(((new - mean) ** 2)[0].mean())
    error = 5 / math.sqrt(rows)
    assert abs(float(guard.mean())) < error * math.sqrt(square / 2)
    assert float(guard.var()) == pytest.approx(square / 2, rel=0.2)
    assert abs(float(flow.mean()) + square / (2 * width**2)) < error * math.sqrt(square / 2) / width


@pytest.mark.parametrize("clip", [2e-6, 4e-6, 1e-4])
def test_single_precision_clips_what_double_precision_clips(clip: float) -> None:
    """The band is narrower than what single precision tells apart around 1, so ratios cannot be compared; their logs can."""
    r = numpy.random.default_rng(0)
    rows, dims = 64, 48
    x, old, gap, drawn = (r.normal(size=(rows, 1, dims)) for _ in range(4))
    mean, width, _ = transition(torch.tensor(x), torch.tensor(old), 0.75, 0.6, 0.9, 0.7, "sde")
    gap *= clip / 0.15 * numpy.linspace(0.01, 40, rows)[:, None, None]
    inputs = {
        "velocity": old + gap, "x": x, "x_next": mean.numpy() + width * drawn, "center": mean.numpy(), "s": numpy.array([0.75]),
        "s_next": numpy.array([0.6]), "second": numpy.array(0.9), "advantage": r.normal(size=rows),
    }  # fmt: skip
    slopes = []
    for dtype in (torch.float64, torch.float32):
        given_ = {name: torch.tensor(numpy.asarray(value), dtype=dtype) for name, value in inputs.items()}
        given_["velocity"].requires_grad_()
        gradflow.objective("grpo_guard", clip_range=clip)(**given_).backward()
        slopes.append(given_["velocity"].grad.double())
    kept = [(slope != 0).flatten(1).any(1) for slope in slopes]
    assert 10 < int(kept[0].sum()) < rows - 10
    assert int((kept[0] != kept[1]).sum()) <= 2
    both = kept[0] & kept[1]
    same(slopes[1][both], slopes[0][both], rtol=1e-3, atol=1e-6)


@few
@given(seeds, st.sampled_from([0.9, 0.5, 0.2]))
def test_without_noise_a_step_is_eulers(seed: int, s: float) -> None:
    r = numpy.random.default_rng(seed)
    x, v, xi = (r.normal(size=(3, 2)) for _ in range(3))
    inputs = {"sample": x, "velocity": v, "velocity_new": v, "noise": xi, "sigma": [s] * 3, "sigma_next": [s - 0.1] * 3, "sigma_max": 0.95}
    found = evaluate("19-grpo-guard.sde_step", {"noise_level": 1e-9}, {name: numpy.asarray(value) for name, value in inputs.items()})
    same(found["next_sample"], x - 0.1 * v, atol=1e-8)


@few
@given(seeds, st.floats(0, 1), st.sampled_from(LEVELS))
def test_cps_keeps_the_level_of_noise(seed: int, noise: float, levels: tuple[float, float]) -> None:
    """A sample (1 - s) data + s xi, with the true velocity xi - data, becomes (1 - s') data + c xi + sigma xi': c^2 + sigma^2 = s'^2."""
    r = numpy.random.default_rng(seed)
    (s, to), data, xi = levels, r.normal(size=(2, 3)), r.normal(size=(2, 3))
    inputs = {
        "sample": (1 - s) * data + s * xi, "velocity": xi - data, "velocity_new": xi - data, "noise": 0 * xi, "sigma": [s] * 2,
        "sigma_next": [to] * 2, "sigma_max": 0.95,
    }  # fmt: skip
    found = evaluate("19-grpo-guard.sde_step", {"noise_level": noise, "sde_type": "cps"}, {n: numpy.asarray(x) for n, x in inputs.items()})
    share = (found["mean"].numpy() - (1 - to) * data) / xi
    same(share**2 + found["std_dev_t"].numpy()[:, None] ** 2, numpy.full_like(xi, to**2), rtol=1e-6, atol=1e-9)


@backends
@few
@given(seeds, st.sampled_from(TYPES), st.integers(2, 6), st.integers(1, 3))
def test_a_rollout_is_one_step_after_another(backend: str, seed: int, form: str, count: int, dims: int) -> None:
    r = numpy.random.default_rng(seed)
    u = 1 - numpy.arange(count + 1) / count
    sigmas, w, b = 3 * u / (1 + 2 * u), 0.5 * r.normal(size=(dims, dims)), r.normal(size=dims)
    x, noise = r.normal(size=(2, dims)), r.normal(size=(count, 2, dims))
    inputs = {"x_T": x, "W": w, "b": b, "noise": noise, "sigmas": sigmas}
    found = evaluate("19-grpo-guard.rollout", {"noise_level": 0.7, "sde_type": form, "steps": count}, inputs, backend)
    for i in range(count):
        mean, width, _ = transition(torch.tensor(x), torch.tensor(x @ w + sigmas[i] * b), sigmas[i], sigmas[i + 1], sigmas[1], 0.7, form)
        same(found["latents"][i], x)
        same(found["means"][i], mean)
        x = mean.numpy() + width * noise[i]
        same(found["log_probs"][i], log_prob(torch.tensor(x), mean, width, form))
    same(found["latents"][count], x)


@few
@given(seeds, st.booleans(), st.sampled_from([5.0, 0.5]), st.sampled_from([0, 1]))
def test_advantages_are_those_of_the_groups(seed: int, whole: bool, most: float, ddof: int) -> None:
    r = numpy.random.default_rng(seed)
    group = numpy.array([0, 0, 0, 1, 1, 2])  # the last is alone
    reward = r.integers(0, 4, 6) / 3
    found = evaluate("19-grpo-guard.advantage", {"global_std": whole, "ddof": ddof, "adv_clip_max": most}, {"reward": reward, "group": group})
    expected = numpy.zeros(6)
    for one in (0, 1):
        own = group == one
        spread = reward.std(ddof=ddof) if whole else reward[own].std(ddof=ddof)
        expected[own] = (reward[own] - reward[own].mean()) / (spread + 1e-4)
    same(found["advantage"], expected.clip(-most, most), atol=1e-9)


STEPS = """
objective whole {
  input velocity, x, x_next, center : [sample, step, dim]
  input s, s_next : [step]
  input second    : real
  input advantage : [sample]
  minimize grpo_guard(
    velocity: velocity, x: x, x_next: x_next, center: center, s: s, s_next: s_next, second: second, advantage: advantage, clip_range: 0.02
  )
}
"""


def test_all_steps_at_once_are_the_mean_of_the_steps_and_the_last_is_left_out() -> None:
    r = numpy.random.default_rng(0)
    s, to = numpy.array([one for one, _ in LEVELS]), numpy.array([other for _, other in LEVELS])
    x, old, gap, xi = (r.normal(size=(3, len(s), 2)) for _ in range(4))
    parts = [transition(torch.tensor(x[:, i]), torch.tensor(old[:, i]), s[i], to[i], 0.9, 0.7, "sde") for i in range(len(s))]
    mean, width = numpy.stack([part[0].numpy() for part in parts], 1), numpy.array([part[1] for part in parts])
    drawn, credit = mean + width[:, None] * xi, r.normal(size=3)
    whole = evaluate_text(
        STEPS, "whole", {},
        {"velocity": old + 0.1 * gap, "x": x, "x_next": drawn, "center": mean, "s": s, "s_next": to, "second": numpy.array(0.9), "advantage": credit},
    )  # fmt: skip
    each = [
        loss(
            {
                "sample": x[:, i], "next_sample": drawn[:, i], "velocity_old": old[:, i], "velocity": (old + 0.1 * gap)[:, i], "advantage": credit,
                "sigma": s[i], "sigma_next": to[i], "sigma_max": 0.9,
            },
            clip_range=0.02,
        )
        for i in range(len(s) - 1)
    ]  # fmt: skip
    same(whole["loss"], numpy.mean([float(one["loss"]) for one in each]))
    same(whole["grad_velocity"][:, :-1], numpy.stack([one["grad_velocity"] for one in each], 1) / len(each))
    assert not whole["grad_velocity"][:, -1].any()


# ---- the pipelines


def events(backend: str, pipeline: str, *parameters: str) -> list[Any]:
    program, diagnostics = build(load("19_grpo_guard")[0], pipeline, parameters)
    assert program is not None, diagnostics
    return list(execute(program, Options(backend=backend, precision="float64")))


def test_the_ring_runs_alike_on_every_backend() -> None:
    reference, torch_ = (events(backend, "ring", "warm=3", "rollouts=2") for backend in ("reference", "torch"))
    one, other = ([e.loss for e in found if isinstance(e, UnitDone)] for found in (reference, torch_))
    assert len(one) == 5 and len(set(one)) == 5
    same(one, other)


def test_log_ratios_begin_at_zero() -> None:
    """Without a step, what is scored is what was drawn."""
    found = [e.values for e in events("torch", "ring", "warm=2", "rollouts=1", "lr=1e-30") if isinstance(e, Report)][-1]
    assert 0 <= found["first_width"] < 1e-12 and 0 <= found["last_width"] < 1e-12


@pytest.mark.parametrize("pipeline", ["ring", "images"])
def test_the_reference_is_the_model_as_it_was_before_the_rewards(pipeline: str) -> None:
    """In the first rollout nothing lies between the two; then something does."""
    found = [
        e.metrics["kl"]
        for e in events("torch", pipeline, "warm=3", "rollouts=2", "loss=flow_grpo(beta: 1)")
        if isinstance(e, UnitDone) and "kl" in e.metrics
    ]
    assert len(found) == 2 and 0 < found[0] < found[1] < 0.1

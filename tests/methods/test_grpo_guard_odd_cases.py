"""Odd cases of GRPO-Guard: latents of any number of axes, samples at different steps, no noise, one sample, groups of one."""

from __future__ import annotations

import numpy
import pytest
import torch

from gradflow.verify import evaluate

from .policy_cases import same
from .test_grpo_guard_properties import KINDS, TYPES, backends, by_the_card, log_prob, loss, transition


@backends
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(3,), (3, 1, 2, 1, 2)])
def test_each_sample_is_at_its_own_step(backend: str, kind: str, shape: tuple[int, ...]) -> None:
    r = numpy.random.default_rng(len(shape))
    x, v, noise, other = (r.normal(size=shape) for _ in range(4))
    levels, second = [(1.0, 0.8), (0.6, 0.5), (0.2, 0.1)], [0.9, 0.9, 0.9]
    inputs = {"sample": x, "velocity": v, "noise": noise, "velocity_new": other, "sigma_max": numpy.array(second)}
    inputs |= {"sigma": numpy.array([s for s, _ in levels]), "sigma_next": numpy.array([to for _, to in levels])}
    found = evaluate("19-grpo-guard.sde_step", {"sde_type": kind}, inputs, backend)
    for row, (s, to) in enumerate(levels):
        mean, width, sigma = transition(torch.tensor(x[row : row + 1]), torch.tensor(v[row : row + 1]), s, to, 0.9, 0.7, kind)
        changed = torch.tensor(other[row : row + 1], requires_grad=True)
        new, *_ = transition(torch.tensor(x[row : row + 1]), changed, s, to, 0.9, 0.7, kind)
        made = mean + width * torch.tensor(noise[row : row + 1])
        logp = log_prob(made.reshape(1, -1), new.reshape(1, -1), width, kind)
        (slope,) = torch.autograd.grad(logp.sum(), changed)
        expected = {"next_sample": made, "mean": mean, "mean_new": new, "log_prob_new": logp, "grad_velocity_new": slope}
        expected |= {"log_prob": log_prob(made.reshape(1, -1), mean.reshape(1, -1), width, kind)}
        expected |= {"std_dev_t": torch.tensor([sigma]), "sqrt_dt": torch.tensor([(s - to) ** 0.5])}
        for name, value in expected.items():
            assert len(found[name]) == 3
            same(found[name][row : row + 1], value.detach(), rtol=1e-7)


@backends
def test_without_noise_the_step_is_that_of_the_ode(backend: str) -> None:
    r = numpy.random.default_rng(0)
    inputs = {name: r.normal(size=(2, 3)) for name in ("sample", "velocity", "noise", "velocity_new")}
    levels = {"sigma": numpy.array([1.0, 0.5]), "sigma_next": numpy.array([0.5, 0.0]), "sigma_max": numpy.array(0.9)}
    found = evaluate("19-grpo-guard.sde_step", {"noise_level": 0}, inputs | levels, backend)
    same(found["next_sample"], inputs["sample"] - 0.5 * inputs["velocity"])


@backends
@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_or_one_number(backend: str, kind: str) -> None:
    r = numpy.random.default_rng(1)
    shape, most, beta = [((1, 1), 0.5, 0), ((3,), None, 0.5)][KINDS.index(kind) % 2]
    names = ("sample", "next_sample", "velocity", "velocity_old", "velocity_ref")
    inputs = {name: torch.tensor(r.normal(size=shape)) for name in names} | {"advantage": torch.tensor(4 * r.normal(size=shape[0]))}
    inputs |= {"sigma": numpy.array(1), "sigma_next": numpy.array(0.8), "sigma_max": numpy.array(0.9)}
    flat = {name: value.reshape(shape[0], -1) if name in names else value for name, value in inputs.items()}
    found = loss(inputs, backend, kind=kind, clip_range=0.1, adv_clip_max=most, beta=beta)
    for name, value in by_the_card(flat, kind, 0.1, most or 1e9, beta, "sde").items():
        same(found[name], value.reshape(found[name].shape), rtol=1e-7)


@backends
@pytest.mark.parametrize("everywhere", [True, False])
def test_advantages_of_groups_of_one_and_of_equal_rewards(backend: str, everywhere: bool) -> None:
    reward, group = numpy.array([1, 0, 1, 1, 100]), numpy.array([50, 50, -3, -3, 9])
    inputs = {"reward": reward, "group": group}
    found = evaluate("19-grpo-guard.advantage", {"global_std": everywhere, "adv_clip_max": None}, inputs, backend)["advantage"]
    spread = reward.std() if everywhere else 0.5
    same(found, [0.5 / (spread + 1e-4), -0.5 / (spread + 1e-4), 0, 0, 0])
    held = evaluate("19-grpo-guard.advantage", {"global_std": False, "adv_clip_max": 0.5}, inputs, backend)["advantage"]
    assert held.tolist() == [0.5, -0.5, 0, 0, 0]
    assert evaluate("19-grpo-guard.advantage", {}, {"reward": numpy.zeros(0), "group": numpy.zeros(0, int)}, backend)["advantage"].shape == (0,)

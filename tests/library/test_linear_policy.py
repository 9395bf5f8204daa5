"""Policies whose logits are linear in features of the prompt: what they say, what they share, and that steps and whole responses agree."""

from __future__ import annotations

import numpy
import torch

from gradflow.library.tabular_policy import linear_policy, table_policy


def test_logits_are_linear_in_the_features() -> None:
    spec = linear_policy(prompts=6, length=2, vocabulary=3, features=4)
    policy, other = spec.build(0), spec.build(1)
    assert [(leaf.name, leaf.shape) for leaf in spec.leaves] == [(name, tuple(p.shape)) for name, p in policy.named_parameters()]
    assert torch.equal(policy.features, other.features) and not torch.equal(policy.theta, other.theta)
    logits = policy(torch.arange(6))
    assert logits.shape == (6, 2, 3)
    with torch.no_grad():
        policy.theta.copy_(policy.theta + other.theta)
    torch.testing.assert_close(policy(torch.arange(6)), logits + other(torch.arange(6)))


def test_steps_and_whole_responses_say_the_same() -> None:
    for policy in (linear_policy(prompts=5, length=3, vocabulary=4).build(0), table_policy(prompts=5, length=3, vocabulary=4, decoy=1.0).build(0)):
        numbers = torch.tensor([4, 0, 4])
        whole, cache = policy(numbers), ()
        for place in range(3):
            said, cache = policy.step(numbers[:, None], cache)
            torch.testing.assert_close(said[:, 0], whole[:, place])
        torch.testing.assert_close(policy.hidden(numbers[:, None].expand(3, 3)), whole)


def test_features_have_unit_length_on_average() -> None:
    features = linear_policy(prompts=400, features=24, seed=3).build(0).features
    assert abs(float((features**2).sum(1).mean()) - 1) < 0.1
    assert numpy.isfinite(features.numpy()).all()


def test_what_is_common_moves_all_alike_and_the_decoy_stays() -> None:
    policy = linear_policy(prompts=50, features=8, spread=0.0, common=1.0, decoy=2.0).build(0)
    assert torch.equal(policy(torch.arange(50)).detach(), torch.tensor([2.0, 0.0]).expand(50, 1, 2))
    policy(torch.tensor([7]))[0, 0, 1].backward()
    with torch.no_grad():
        policy.theta += policy.theta.grad
    moved = policy(torch.arange(50))[:, 0, 1].detach()
    assert float(moved.min()) > 0 and torch.allclose(moved, moved[0].expand(50))

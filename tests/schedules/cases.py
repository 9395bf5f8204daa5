"""Records of samples as `sample` gives them, of any shape, and `score` with and without a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gradflow.compiler import build, load
from gradflow.language.source import Source
from gradflow.library.rollouts import score
from gradflow.passes.scope import Module
from gradflow.plan.program import Program
from gradflow.schedules.rows import Rows, lowering

WORDS = 12


def program_of(text: str, name: str | None = None, *overrides: str) -> Program:
    program, diagnostics = build(Module.of(Source("<test>", text)), name, list(overrides))
    assert program is not None, diagnostics
    return program


def warnings_of(text: str, *overrides: str) -> list[str]:
    """The codes of what is said about a text that has no errors."""
    program, diagnostics = build(Module.of(Source("<test>", text)), None, list(overrides))
    assert program is not None, diagnostics
    return [one.code for one in diagnostics]


@cache
def shared_prefix() -> Any:
    program, _ = build(load("37_prefix_grouper")[0], "same")
    assert program is not None
    return program.schedule


def rows(backend: str = "torch") -> Rows:
    return Rows(shared_prefix(), lowering(backend, torch.device("cpu")), lambda samples: samples)


def record(prompts: Sequence[int], responses: Sequence[Sequence[int]], seed: int, shuffled: bool = False, words: int = WORDS) -> dict[str, Tensor]:
    """Prompts padded on the left, responses on the right; of some tokens of a response the policy is not asked."""
    g = torch.Generator().manual_seed(seed)
    owner = torch.tensor([prompt for prompt, group in enumerate(responses) for _ in group])
    length = torch.tensor([size for group in responses for size in group])
    places, tokens = max(prompts) + 1, max(int(length.max()), 1) + 1
    asked = torch.randint(1, words, (len(prompts), places), generator=g)
    real = torch.arange(places) >= places - torch.tensor(prompts)[:, None]
    action = torch.randint(1, words, (len(owner), tokens), generator=g)
    here = torch.arange(tokens) < length[:, None]
    order = torch.randperm(len(owner), generator=g) if shuffled else torch.arange(len(owner))
    found = {
        "ids": torch.cat([(asked * real)[owner], action * here], 1), "prompt_mask": torch.cat([real[owner], torch.zeros_like(here)], 1),
        "mask": here & (torch.rand(here.shape, generator=g) < 0.8), "action": action * here, "length": length, "group": 3 * owner + 1,
    }  # fmt: skip
    return {name: value[order] for name, value in found.items()}


def scored(policy: nn.Module, samples: dict[str, Any], weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """logp, entropy, and the gradient of a weighted sum of both with respect to every parameter."""
    policy.zero_grad()
    found = score(policy, samples, entropy=True)
    (found["logp"] * weight + 0.3 * found["entropy"] * weight.flip(0)).sum().backward()
    return found["logp"].detach(), found["entropy"].detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]

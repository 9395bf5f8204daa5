"""Draws for Prefix Grouper: prompts with groups of responses of any lengths, padded anywhere; and both layouts written out in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """`prompts`: tokens of each prompt; `responses`: the lengths of each prompt's responses; `seed` draws the rest."""

    prompts: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    seed: int

    @property
    def lengths(self) -> list[int]:
        return [length for group in self.responses for length in group]

    @property
    def owner(self) -> list[int]:
        return [prompt for prompt, group in enumerate(self.responses) for _ in group]

    @property
    def totals(self) -> list[int]:
        return [prompt + sum(group) for prompt, group in zip(self.prompts, self.responses)]

    @property
    def random(self) -> numpy.random.Generator:
        return numpy.random.default_rng(self.seed)

    def masked(self, sizes: list[int], width: int, how: str) -> numpy.ndarray:
        """Which places hold a token: so many in each row."""
        r, mask = self.random, numpy.zeros((len(sizes), width), bool)
        for row, size in zip(mask, sizes):
            row[{"left": slice(width - size, None), "right": slice(0, size)}.get(how, r.permutation(width)[:size])] = True
        return mask

    def inputs(self, how: str = "scattered", spare: int = 1) -> dict[str, Any]:
        """Of the component `layout` (without `hidden`): padding where `how` says, `spare` more columns than needed."""
        r = self.random
        prefix = self.masked(list(self.prompts), max(self.prompts) + spare, how)
        suffix = self.masked(self.lengths, max(self.lengths) + spare, how if how != "left" else "right")
        return {
            "prefix_ids": r.integers(1, 90, prefix.shape), "prefix_mask": prefix, "suffix_ids": r.integers(1, 90, suffix.shape),
            "suffix_mask": suffix, "group_size": numpy.array([len(group) for group in self.responses]),
        }  # fmt: skip


@st.composite
def groups(draw: Any, most: int = 3) -> Groups:
    count = draw(st.integers(1, most))
    prompts = tuple(draw(st.integers(1, 4)) for _ in range(count))
    responses = tuple(tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))) for _ in range(count))
    return Groups(prompts, responses, draw(st.integers(0, 2**32 - 1)))


def rows(case: Groups) -> list[list[tuple[int, int]]]:
    """For each packed row its tokens as (owner, place in the own piece); owner -1 is the prompt."""
    found, sample = [], 0
    for prompt, group in zip(case.prompts, case.responses):
        row = [(-1, place) for place in range(prompt)]
        for length in group:
            row += [(sample, place) for place in range(length)]
            sample += 1
        found.append(row)
    return found


def repeated_attention(q: Tensor, k: Tensor, v: Tensor, case: Groups, slots: list[list[int]], causal: bool = True) -> Tensor:
    """The layout that repeats the prompt for every response, written out: [B, L, H, D], 0 at padding."""
    out = torch.zeros(q.shape[0], q.shape[2], q.shape[1], q.shape[3], dtype=q.dtype)
    for b, row in enumerate(rows(case)):
        prompt = [slots[b][i] for i, (owner, _) in enumerate(row) if owner < 0]
        for sample in [-1, *sorted({owner for owner, _ in row if owner >= 0})]:
            own = [slots[b][i] for i, (owner, _) in enumerate(row) if owner == sample and sample >= 0]
            line = prompt + own
            score = torch.einsum("hid,hjd->hij", q[b][:, line], k[b][:, line]) / q.shape[-1] ** 0.5
            sees = torch.ones(len(line), len(line)).tril().bool() if causal else torch.ones(len(line), len(line)).bool()
            if not causal:
                sees[: len(prompt), len(prompt) :] = False
            weight = score.masked_fill(~sees, -torch.inf).softmax(-1)
            mixed = torch.einsum("hij,hjd->ihd", weight, v[b][:, line])
            kept = own if sample >= 0 else prompt
            out[b] = out[b].index_copy(0, torch.tensor(kept), mixed[len(line) - len(kept) :])
    return out


def toy_logp(weights: dict[str, Tensor], words: list[int], heads: int) -> Tensor:
    """The toy decoder of the card on one plain row: log-probabilities [T, V] of the token that follows each."""
    x = weights["E"][words] + weights["P"][: len(words)]
    size = x.shape[-1] // heads
    for n in range(len(weights["Wq"])):
        q, k, v = ((x @ weights[name][n]).unflatten(-1, (heads, size)).transpose(0, 1) for name in ("Wq", "Wk", "Wv"))
        score = (q @ k.transpose(-1, -2) / size**0.5).masked_fill(~torch.ones(len(words), len(words)).tril().bool(), -torch.inf)
        x = x + (score.softmax(-1) @ v).transpose(0, 1).flatten(-2) @ weights["Wo"][n]
        x = x + torch.tanh(x @ weights["W1"][n]) @ weights["W2"][n]
    return torch.log_softmax(x @ weights["U"], -1)

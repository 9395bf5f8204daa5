"""Attention where each slot of a row sees slots of its own choice, computed in blocks: slots that see nearly the same are taken together,
and no score is worked out for keys that none of them sees. What is seen comes as a condition; how it came about is the business of others.

Axes: B rows, L slots, S = B L slots of all rows, H heads, G heads of keys and values (H is a multiple), C channels, N blocks, Q queries, K keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Blocks:
    """Blocks of one size. `queries` [N, Q] and `keys` [N, K]: slots among S, 0 where a block is smaller; `real`: which of the N Q queries are
    no such padding; `seen` [N, Q, K]: whether a query sees a key. A padded query sees the first key, so that no row of a softmax is empty.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor
    seen: Tensor


def written_out(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """[N, G, R, C] and [N, G, K, C], `seen` [N, 1, R, K]: every step has every derivative."""
    score = (query @ key.transpose(-1, -2)) * scale
    return score.masked_fill(~seen, -torch.inf).softmax(-1) @ value


def eager(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """As the networks of `transformers` write it out: the softmax in float32 at the least."""
    score = ((query @ key.transpose(-1, -2)) * scale).masked_fill(~seen, -torch.inf)
    wide = score.dtype if score.dtype == torch.float64 else torch.float32
    return score.softmax(-1, dtype=wide).to(query.dtype) @ value


def fused(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


def attend(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Blocks], scale: float | None = None, kernel: Any = written_out) -> Tensor:
    """query [B, H, L, C], key and value [B, G, L, C] -> [B, L, H, C]; 0 at slots that are in no block. Keys that several blocks see are
    gathered for each; their gradients sum over the blocks.
    """
    batch, heads, slots, channels = query.shape
    groups = key.shape[1]
    scale = 1 / math.sqrt(channels) if scale is None else scale
    flat = [x.transpose(1, 2).reshape(batch * slots, -1) for x in (query, key, value)]
    out = query.new_zeros(batch * slots, heads * value.shape[-1])
    for one in blocks:
        (count, asking), answering = one.queries.shape, one.keys.shape[1]
        q = flat[0].index_select(0, one.queries.reshape(-1)).view(count, asking, groups, heads // groups, channels)
        q = q.permute(0, 2, 3, 1, 4).reshape(count, groups, -1, channels)  # heads that share keys ask them together
        k, v = (x.index_select(0, one.keys.reshape(-1)).view(count, answering, groups, -1).transpose(1, 2) for x in flat[1:])
        seen = one.seen[:, None].repeat(1, 1, heads // groups, 1) if heads != groups else one.seen[:, None]
        found = kernel(q, k, v, seen, scale).view(count, groups, heads // groups, asking, -1).permute(0, 3, 1, 2, 4)
        rows = found.reshape(count * asking, -1).index_select(0, one.real)
        out = out.index_copy(0, one.queries.reshape(-1).index_select(0, one.real), rows)
    return out.view(batch, slots, heads, -1)


def blocks_of(visible: Tensor, piece: Tensor, filled: Tensor) -> tuple[Blocks, ...]:
    """visible bool [B, L, L] (query, key), piece int64 [B, L], filled bool [B, L]: the slots of a row with one piece number are a block. Blocks
    that see equally many pieces have one size, the largest of theirs.
    """
    rows, slots = filled.shape
    first = int(piece.min())
    names = torch.arange(rows, device=piece.device)[:, None] * (int(piece.max()) - first + 1) + piece - first
    place = filled.reshape(-1).nonzero()[:, 0]
    _, own = names.reshape(-1)[place].unique(return_inverse=True)
    count = int(own.max()) + 1
    row = torch.empty(count, dtype=torch.int64, device=own.device).index_copy(0, own, place // slots)
    queries, asks = listed(place, own, count)
    seen = visible.reshape(rows * slots, slots)[place]
    reached = torch.zeros(count, slots, dtype=torch.int32, device=own.device).index_add_(0, own, seen.int()) > 0
    at, slot = reached.nonzero(as_tuple=True)
    keys, answers = listed(row[at] * slots + slot, at, count)
    label = torch.full((rows * slots,), -1, device=own.device).index_copy(0, place, own)
    crowd = torch.zeros(count, count, dtype=torch.bool, device=own.device)
    crowd[at, label[row[at] * slots + slot]] = True
    found = []
    for number in crowd.sum(1).unique().tolist():
        here = (crowd.sum(1) == number).nonzero()[:, 0]
        q, k, asking, answering = queries[here], keys[here], asks[here], answers[here]
        q, asking = trimmed(q, asking)
        k, answering = trimmed(k, answering)
        mask = visible.reshape(rows * slots, slots)[q[:, :, None], (k % slots)[:, None, :]] & asking[:, :, None] & answering[:, None, :]
        mask[:, :, 0] |= ~asking
        found.append(Blocks(q, k, asking.reshape(-1).nonzero()[:, 0], mask))
    return tuple(found)


def listed(values: Tensor, owner: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The values of each owner side by side, [count, most], in their order; 0 behind them; and which are values."""
    order = owner.argsort(stable=True)
    sizes = torch.bincount(owner, minlength=count)
    start = sizes.cumsum(0) - sizes
    place = torch.arange(len(order), device=owner.device) - start[owner[order]]
    table = torch.zeros(count, int(sizes.max()), dtype=torch.int64, device=owner.device)
    table[owner[order], place] = values[order]
    return table, torch.arange(table.shape[1], device=owner.device) < sizes[:, None]


def trimmed(table: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    width = int(real.sum(1).max())
    return table[:, :width], real[:, :width]

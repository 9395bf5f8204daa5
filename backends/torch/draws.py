"""Random draws at run time: the counterpart of `backends/reference/draws.py`, on tensors.

The key of a draw is (seed; tick, place), its counters number the entries of the result in row-major order, and the uniforms are the same bits
as everywhere else. What decides something (categorical, bernoulli, subset) is decided in float64, so that the decision does not depend on
the precision of the run. A seed or a tick with axes of its own gives every entry along them its own key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradflow.runtime import random

Words = tuple[Any, Any, Any]
PIECE = 1 << 22  # entries of a large draw that are made at a time


def draw(
    dist: str,
    words: Words,
    shape: Sequence[int],
    options: Sequence[tuple[str, Any]],
    *inputs: Any,
    dim: int = -1,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Random numbers of a shape. `words`: seed, tick, place; `inputs` are aligned with the result; `dim`: the axis of a subset."""
    make = random.normal if dist == "normal" else random.uniform
    words = (*(int(word) if isinstance(word, Tensor) and word.dim() == 0 else word for word in words[:2]), words[2])
    if not inputs and dist in ("normal", "uniform") and not any(isinstance(word, Tensor) for word in words[:2]) and math.prod(shape) > PIECE:
        return _piecewise(dist, words, tuple(shape), make, dtype, device)
    base = _keyed(words, tuple(shape), make, device)
    return DISTRIBUTIONS[dist](base, inputs, dict(options), dim, dtype)


def _piecewise(dist: str, words: Words, shape: tuple[int, ...], make: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same numbers, made a stretch at a time: the generator's words take ten times the memory of the result."""
    seed, tick, place = words
    key, count = random.key(int(seed), int(tick), place), math.prod(shape)
    result = torch.empty(count, dtype=dtype, device=device)
    for start in range(0, count, PIECE):
        base = make(key, torch.arange(start, min(start + PIECE, count), device=device), torch)
        result[start : start + PIECE] = DISTRIBUTIONS[dist](base, (), {}, -1, dtype)
    return result.reshape(shape)


def _keyed(words: Words, shape: tuple[int, ...], make: Callable[..., Any], device: torch.device) -> Tensor:
    seed, tick, place = words
    if not isinstance(seed, Tensor) and not isinstance(tick, Tensor):
        counters = torch.arange(math.prod(shape), device=device)
        return make(random.key(int(seed), int(tick), place), counters, torch).reshape(shape)
    seeds, ticks = torch.broadcast_tensors(torch.as_tensor(seed), torch.as_tensor(tick))
    lead = (1,) * (len(shape) - seeds.dim()) + tuple(seeds.shape)
    seeds, ticks = seeds.reshape(lead).tolist(), ticks.reshape(lead).tolist()
    rest = tuple(1 if n > 1 else size for n, size in zip(lead, shape, strict=True))
    counters = torch.arange(math.prod(rest), device=device).reshape(rest)
    result = torch.empty(shape, dtype=torch.float64, device=device)
    for at in torch.cartesian_prod(*[torch.arange(n) for n in lead]).reshape(-1, len(lead)).tolist():
        key = random.key(_entry(seeds, at), _entry(ticks, at), place)
        result[tuple(slice(i, i + 1) if n > 1 else slice(None) for i, n in zip(at, lead, strict=True))] = make(key, counters, torch)
    return result


def _entry(nested: Any, place: Sequence[int]) -> int:
    for i in place:
        nested = nested[i]
    return int(nested)


# ---- distributions: (independent uniforms or normals, inputs, options, dim, dtype) -> result


def _uniform(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    if inputs:
        low, high = inputs
        return (low + (high - low) * base).to(dtype)
    unit = base.to(dtype)
    return unit if dtype == torch.float64 else unit.clamp_(max=1.0 - torch.finfo(dtype).eps / 2)  # rounding must not reach 1


def _normal(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    if inputs:
        mean, scale = inputs
        base = mean + scale * base
    return base.to(dtype)


def _uniform_int(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    low, high = (torch.as_tensor(value, device=base.device) for value in inputs)
    return torch.minimum(low + (base * (high - low)).floor().to(torch.int64), high - 1)


def _bernoulli(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    return base < inputs[0]


def _categorical(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    """Probabilities [.., choice], dimensions of the result before them."""
    p = inputs[0].double()
    total = p.cumsum(-1)
    if p.shape[-1] == 0 or not bool((total[..., -1] > 0).all()):
        raise ValueError("the probabilities of a categorical draw must have a positive sum")
    total, limit = total.expand(*base.shape, -1).contiguous(), (base * total[..., -1])[..., None]
    index = torch.searchsorted(total, limit.contiguous(), right=True).squeeze(-1)
    last = p.shape[-1] - 1 - (p.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(index, last)


def _subset(base: Tensor, inputs: Sequence[Any], options: Mapping[str, Any], dim: int, dtype: torch.dtype) -> Tensor:
    count = inputs[0] if inputs else options["count"]
    order = torch.argsort(base, dim=dim, stable=True)
    return torch.argsort(order, dim=dim, stable=True) < count


DISTRIBUTIONS: dict[str, Callable[[Tensor, Sequence[Any], Mapping[str, Any], int, torch.dtype], Tensor]] = {
    "uniform": _uniform, "normal": _normal, "uniform_int": _uniform_int, "bernoulli": _bernoulli, "categorical": _categorical, "subset": _subset,
}  # fmt: skip

"""What generated source calls: values in and out, sizes, and the few operations that are more than one line of torch.

Nothing here knows the graph. Axes are positions by now: the source that calls these has already brought dimensions in order.
`S` stands for shared leading dimensions, `M` for entries that are grouped or selected, `T` for targets, `R` for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradflow.graph.operations import ELEMENTWISE

SMALL = 1 << 14  # below this many entries a full stable sort is as quick as a selection

# Python arithmetic with the conventions of floating-point tensors: x / 0 is infinite, exp overflows to infinity, ...
NUMBERS: dict[str, Callable[..., Any]] = {f"number_{name}": function for name, (_, function) in ELEMENTWISE.items()}


def number(value: Any) -> Any:
    """A clock value as a Python number."""
    return value.item() if hasattr(value, "item") else value


def load(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An input as a tensor of this type and place; the very same object where it is one already."""
    if isinstance(value, Tensor) and value.dtype == dtype and value.device == device:
        return value.detach() if value.requires_grad else value
    return torch.as_tensor(value, dtype=dtype, device=device).detach()


def buffer(value: Any, dtype: torch.dtype, device: torch.device, name: str) -> Tensor:
    """An input whose memory is going to be overwritten. Raises ValueError where that could not be seen from outside."""
    if not isinstance(value, Tensor) or value.dtype != dtype or value.device.type != device.type:
        raise ValueError(f"`{name}` is updated in place: give a tensor of {dtype} on {device}, not {_describe(value)}")
    if not value.is_contiguous():
        raise ValueError(f"`{name}` is updated in place: its memory must be contiguous")
    return value.detach() if value.requires_grad else value


def _describe(value: Any) -> str:
    return f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def entries(*indices: Tensor) -> int:
    """How long an axis must be that these point into."""
    return max(int(index.max()) + 1 if index.numel() else 0 for index in indices)


def stacked(values: list[Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a loop left behind, one entry a pass; no pass leaves an axis of length 0."""
    return torch.stack(values) if values else torch.empty((0, *shape), dtype=dtype, device=device)


def product(x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim)
    return x


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow and without a linear cut-off."""
    return -torch.nn.functional.logsigmoid(-x)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, in the form that keeps its digits on either side of -ln 2."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def extreme(op: str, x: Tensor, dims: Sequence[int]) -> Tensor:
    """max or min over dimensions that may be empty: then -inf or +inf."""
    if x.numel():
        return x.amax(tuple(dims)) if op == "max" else x.amin(tuple(dims))
    return x.new_full([n for d, n in enumerate(x.shape) if d not in dims], _neutral(op, x.dtype))


def arg_extreme(op: str, x: Tensor, dim: int) -> Tensor:
    """argmax or argmin along a dimension that may be empty where there are no rows either: then there are no places."""
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    if 0 in shape:
        return torch.zeros(shape, dtype=torch.int64, device=x.device)
    return x.argmax(dim) if op == "argmax" else x.argmin(dim)


# ---- groups


def segments(op: str, x: Tensor, index: Tensor, over: int, size: int | None) -> Tensor:
    """x [S.., M..] by group: [S.., T]. The last `over` dimensions of x are grouped; `index` has these alone, or all dimensions of x (some of
    length 1). Groups of nothing: 0, -inf (max), +inf (min)."""
    if size is None:
        size = entries(index)
    lead = x.shape[: x.dim() - over]
    rows = x.reshape(math.prod(lead), math.prod(x.shape[len(lead) :]))  # no -1: any of these may be 0
    target = torch.full((rows.shape[0], size), _neutral(op, x.dtype), dtype=x.dtype, device=x.device)
    places = index.expand(x.shape[x.dim() - index.dim() :])
    if op == "sum" and index.dim() == over:
        found = target.index_add_(1, places.reshape(-1), rows)
    else:
        kind = {"sum": "sum", "max": "amax", "min": "amin"}[op]
        found = target.scatter_reduce_(1, places.expand(x.shape).reshape(rows.shape), rows, kind)
    return found.reshape(*lead, size)


def _neutral(op: str, dtype: torch.dtype) -> float | int:
    if op == "sum":
        return 0
    if dtype.is_floating_point:
        return -math.inf if op == "max" else math.inf
    limits = torch.iinfo(dtype)
    return limits.min if op == "max" else limits.max


# ---- places


def gather_rows(x: Tensor, index: Tensor, shared: int) -> Tensor:
    """x [S.., A, R..] at index [S.., M..] along A: [S.., M.., R..]."""
    index = _from_start(index, x.shape[shared])
    if x.dim() == shared + 1:
        flat = index.reshape(*index.shape[:shared], math.prod(index.shape[shared:]))
        return torch.gather(x, shared, flat).reshape(index.shape)
    if shared == 0:
        return x.index_select(0, index.reshape(-1)).reshape(*index.shape, *x.shape[1:])
    return x[(*_rows(x.shape[:shared], index), index)]


def scatter_rows(x: Tensor, index: Tensor, shared: int, shape: Sequence[int]) -> Tensor:
    """The transpose of `gather_rows`: x [S.., M.., R..] summed into zeros of `shape` [S.., A, R..]."""
    target = torch.zeros(tuple(shape), dtype=x.dtype, device=x.device)
    index = _from_start(index, shape[shared])
    if len(shape) == shared + 1:
        flat = index.reshape(*index.shape[:shared], math.prod(index.shape[shared:]))
        return target.scatter_add_(shared, flat, x.reshape(flat.shape))
    if shared == 0:
        return target.index_add_(0, index.reshape(-1), x.reshape(index.numel(), *shape[1:]))
    return target.index_put_((*_rows(shape[:shared], index), index), x, accumulate=True)


def _from_start(index: Tensor, size: int) -> Tensor:
    """-1 is the last entry."""
    return torch.where(index < 0, index + size, index)


def _rows(sizes: Sequence[int], index: Tensor) -> list[Tensor]:
    """For each shared dimension its own coordinate, broadcast against `index`."""
    count = index.dim()
    return [
        torch.arange(size, device=index.device).reshape(*[-1 if d == i else 1 for d in range(count)]).expand(index.shape)
        for i, size in enumerate(sizes)
    ]


# ---- order


def order(x: Tensor, dim: int, descending: bool) -> Tensor:
    """A stable order along `dim`: of equal entries the first stays first, also when descending; what is not a number comes last."""
    if x.dtype == torch.bool:
        x = x.to(torch.uint8)
        return torch.argsort(1 - x if descending else x, dim=dim, stable=True)
    return torch.argsort(-x if descending else x, dim=dim, stable=True)


def ranks(x: Tensor, dims: Sequence[int], descending: bool) -> Tensor:
    """The place of each entry in the sorted order of the flattened `dims`, 0 first; equal entries keep their order."""
    kept = x.dim() - len(dims)
    last = list(range(kept, x.dim()))
    moved = x.movedim(list(dims), last)
    flat = moved.reshape(*moved.shape[: x.dim() - len(dims)], math.prod(moved.shape[x.dim() - len(dims) :]))
    places = order(flat, -1, descending)
    place = torch.empty_like(places)
    place.scatter_(-1, places, torch.arange(flat.shape[-1], device=x.device).expand_as(places))
    return place.reshape(moved.shape).movedim(last, list(dims))


def top(x: Tensor, dim: int, count: int) -> Tensor:
    """Indices of the `count` largest along `dim` (moved last), largest first; of equal ones the first.

    Long rows are not sorted: the entries that reach the smallest selected value are the candidates, and only these are put in order.
    """
    x = x.movedim(dim, -1)
    count = min(count, x.shape[-1])
    if x.dim() > 1 or x.shape[-1] < SMALL or count == 0 or count * 4 > x.shape[-1]:
        return order(x, -1, True)[..., :count]
    least = torch.topk(x, count).values[-1]
    candidates = torch.nonzero(x >= least).squeeze(-1)  # in order of place
    if candidates.numel() < count:  # there is a value that is not a number
        return order(x, -1, True)[:count]
    return candidates[order(x[candidates], -1, True)[:count]]


def one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """1 where the index is, along a new last dimension."""
    return (_from_start(index, size)[..., None] == torch.arange(size, device=index.device)).to(dtype)


# ---- kernels and buffers


def blocks(size: int, *flat: Tensor) -> Any:
    """The same stretch of every flat tensor, `size` entries at a time."""
    return zip(*(tensor.split(size) for tensor in flat), strict=True)


def fresh(like: Tensor, dtype: torch.dtype) -> Tensor:
    """New memory of the same shape, whatever order the dimensions of `like` have in memory."""
    return torch.empty(like.shape, dtype=dtype, device=like.device)


class Scratch:
    """Memory for intermediate blocks, kept from call to call; not for use by two threads at once."""

    def __init__(self, device: torch.device):
        self.device = device
        self.kept: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(self, place: int, dtype: torch.dtype, like: Tensor, size: int) -> Tensor:
        count = like.shape[0]
        found = self.kept.get((place, dtype))
        if found is None or found.shape[0] < count:
            found = self.kept[place, dtype] = torch.empty(count, dtype=dtype, device=self.device)
        return found if found.shape[0] == count else found[:count]


def replace(old: Tensor, new: Tensor) -> Tensor:
    """Puts a result into the memory of what it replaces."""
    if new is not old:
        shared = new.untyped_storage().data_ptr() == old.untyped_storage().data_ptr()
        old.copy_(new.clone() if shared else new)
    return old

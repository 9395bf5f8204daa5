"""Data parallel on torch.distributed: rows in and out, and a gradient that is summed over the ranks while the backward pass still makes it.

The gradient of a rank stands in one flat buffer, leaves side by side. Stretches of it (buckets, 25 MB as those of DistributedDataParallel, from
the last leaf to the first) are handed to an asynchronous `all_reduce` of torch.distributed as soon as the leaves in them have their gradient, so
that sending overlaps with what autograd still has to do. The reducer of DistributedDataParallel does the same, but only for `.backward()` on the
parameters of a module that was called once, through it, since the last time. Here a gradient is asked of any call at any point (two calls in one
update, a look-ahead, micro-batches), with `torch.autograd.grad`, and goes where the update reads it: its hooks sit on the leaves of that call, and
there is no second copy of the gradient.

Axes: param (all coordinates), or the split one (dimension `dim`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradflow.placement.devices import Layout, length

if TYPE_CHECKING:
    from gradflow.backends.distributed.communicator import Communicator

BUCKET = 25 << 20  # bytes


def part(value: Tensor, layout: Layout, dim: int) -> Tensor:
    """Of a whole value what this rank holds: a view where that stands together. Raises ValueError where there is too little for all ranks."""
    size = value.shape[dim]
    if size < layout.least:
        raise ValueError(f"{size} rows cannot be shared by {layout.ranks} processes: each takes at least one")
    stretches = layout.stretches(layout.rank, size)
    found = [value.narrow(dim, start, stop - start) for start, stop in stretches]
    return found[0] if len(found) == 1 else torch.cat(found, dim)


def put_together(communicator: Communicator, value: Tensor, layout: Layout, dim: int) -> Tensor:
    """[.., own, ..] to [.., all, ..]."""
    size = layout.size
    if size is None:
        size = int(communicator.reduce("sum", torch.tensor(value.shape[dim], device=value.device)))
    parts = [layout.stretches(rank, size) for rank in range(layout.ranks)]
    rows = value.movedim(dim, 0).contiguous()
    pieces = communicator.pieces(rows, [length(stretches) for stretches in parts])
    whole = rows.new_empty((size, *rows.shape[1:]))
    for piece, stretches in zip(pieces, parts, strict=True):
        place = 0
        for start, stop in stretches:
            whole[start:stop] = piece[place : place + stop - start]
            place += stop - start
    return whole.movedim(0, dim)


class Buckets:
    """Sums a flat gradient over the ranks, bucket by bucket. `leaves`: of each leaf its place in the buffer, in the buffer's order."""

    def __init__(self, communicator: Communicator, flat: Tensor, leaves: Sequence[Tensor], size: int = BUCKET):
        self.communicator, self.flat, self.leaves = communicator, flat, leaves
        self.bucket_of: list[int] = [0] * len(leaves)
        self.stretches: list[tuple[int, int]] = []  # of the buffer, last first: the order in which gradients come
        stop = start = flat.numel()
        for i in reversed(range(len(leaves))):
            self.bucket_of[i] = len(self.stretches)
            start -= leaves[i].numel()
            if (stop - start) * flat.element_size() >= size or i == 0:
                self.stretches.append((start, stop))
                stop = start
        self.missing = [self.bucket_of.count(bucket) for bucket in range(len(self.stretches))]
        self.done = [False] * len(leaves)
        self.ends: list[Callable[[], None]] = []

    def put(self, leaf: int, gradient: Tensor | None) -> Tensor:
        """The gradient of a leaf (None: it has none), which stands in the buffer afterwards."""
        place = self.leaves[leaf]
        if gradient is None:
            place.zero_()
        else:
            place.copy_(gradient)
        if not self.done[leaf]:
            self.done[leaf] = True
            self.missing[self.bucket_of[leaf]] -= 1
            while len(self.ends) < len(self.stretches) and not self.missing[len(self.ends)]:  # all ranks send in the same order
                start, stop = self.stretches[len(self.ends)]
                self.ends.append(self.communicator.begin_sum(self.flat[start:stop]))
        return place

    def finish(self) -> None:
        """Waits until the sum is there. Leaves without a gradient here may have one on another rank."""
        for leaf, done in reversed(list(enumerate(self.done))):
            if not done:
                self.put(leaf, None)
        for end in self.ends:
            end()

    def watch(self, leaves: Sequence[Tensor | None]) -> list[Any]:
        """Hooks on the leaves of a call that is about to be differentiated; each takes the gradient as soon as it is whole."""
        return [leaf.register_hook(lambda gradient, i=i: self.put(i, gradient)) for i, leaf in enumerate(leaves) if leaf is not None]


def summed(communicator: Communicator, flat: Tensor) -> Tensor:
    """A gradient that is complete already, summed in place."""
    pieces = flat.view(-1).split(max(BUCKET // flat.element_size(), 1))
    for end in [communicator.begin_sum(piece) for piece in pieces]:
        end()
    return flat


__all__ = ["Buckets", "part", "put_together", "summed"]

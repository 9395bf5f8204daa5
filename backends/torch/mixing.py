"""Products with sparse known weights on tensors: every row of the result is a sum of few rows, each times its weight.

Rows whose columns follow those of the row before (a ring's, a torus', any band's) are added up as shifted stretches, without an index; others are
picked by index. Both go a block of rows at a time, so that a block is summed while it is in the cache, and add in the order of the columns
with the same arithmetic, so that a row has the same bits whichever way and in whichever block it is computed. Rows with far more entries than
most (the hub of a star) are products of their own.

Axes: row (who receives), column (who is heard), slot (entries of a row), rest (all else, flattened).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

BLOCK = 1 << 18  # bytes of a block of rows
RUN = 16  # rows from which on a shifted stretch pays
MOST_SLOTS = 16  # of a compiled sum
CROWDED = 64  # entries of a row from which on it is a product of its own


@dataclass(frozen=True)
class Stretch:
    """Rows start to stop with equally many entries: the columns of the first row, which move on by one with each row, or (`index`) of each."""

    start: int
    stop: int
    first: tuple[int, ...]
    weights: Tensor  # [row, slot]
    index: Tensor | None = None


class Mixer:
    """Weights ready to be multiplied with. `source`: anything with `starts`, `places` and `values` of a compressed sparse matrix."""

    def __init__(self, source: Any, dtype: torch.dtype, device: torch.device):
        self.rows = len(source.starts) - 1
        self.stretches = [_stretch(source, start, stop, moves, dtype, device) for start, stop, moves in _runs(source)]

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[column, rest..] to [row, rest..]; `out` must not share memory with x."""
        result = x.new_empty((self.rows, *x.shape[1:])) if out is None else out
        rows, flat = result.view(self.rows, -1), x.reshape(x.shape[0], -1)
        step = max(1, BLOCK // max(flat.shape[1] * flat.element_size(), 1))
        for one in self.stretches:
            if len(one.first) > CROWDED:
                torch.mm(one.weights, flat[one.index[0]] if one.index is not None else flat, out=rows[one.start : one.stop])
                continue
            for start in range(one.start, one.stop, step):
                _block(one, start, min(start + step, one.stop), flat, rows)
        return result


def _block(one: Stretch, start: int, stop: int, x: Tensor, result: Tensor) -> None:
    begin, end = start - one.start, stop - one.start
    out = result[start:stop]
    if not one.first:
        out.zero_()
    for slot, column in enumerate(one.first):
        part = x[column + begin : column + end] if one.index is None else x.index_select(0, one.index[begin:end, slot])
        weights = one.weights[begin:end, slot, None]
        if slot == 0:
            torch.mul(part, weights, out=out)
        else:
            out.addcmul_(part, weights)


def _stretch(source: Any, start: int, stop: int, moves: bool, dtype: torch.dtype, device: torch.device) -> Stretch:
    low, high = source.starts[start], source.starts[stop]
    places = numpy.asarray(source.places[low:high]).reshape(stop - start, -1)
    weights = torch.as_tensor(numpy.asarray(source.values[low:high]).reshape(stop - start, -1), dtype=dtype, device=device)
    first = tuple(int(column) for column in places[0]) if places.size else ()
    return Stretch(start, stop, first, weights, None if moves else torch.as_tensor(places, device=device))


def _runs(source: Any) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, whether the columns move on with the rows): rows with equally many entries, long moving runs apart."""
    counts = numpy.diff(source.starts)
    bounds = [0, *(numpy.flatnonzero(numpy.diff(counts)) + 1).tolist(), len(counts)]
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        if low == high:
            continue
        if counts[low] > CROWDED or counts[low] == 0:
            yield from ((row, row + 1, False) for row in range(low, high)) if counts[low] else [(low, high, False)]
            continue
        yield from _moving(source, low, high, int(counts[low]))


def _moving(source: Any, low: int, high: int, count: int) -> Iterator[tuple[int, int, bool]]:
    places = numpy.asarray(source.places[source.starts[low] : source.starts[high]]).reshape(-1, count)
    breaks = numpy.flatnonzero((numpy.diff(places, axis=0) != 1).any(1)) + 1 + low
    bounds = [low, *breaks.tolist(), high]
    waiting = low
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        if end - begin < RUN:
            continue
        if waiting < begin:
            yield waiting, begin, False
        yield begin, end, True
        waiting = end
    if waiting < high:
        yield waiting, high, False


class CompiledMixer:
    """The same in one pass over memory, under torch.compile: each row is summed over its slots, those that it lacks with weight 0 of its first."""

    def __init__(self, source: Any, dtype: torch.dtype, device: torch.device):
        counts = numpy.diff(source.starts)
        slots = numpy.arange(int(counts.max()))
        places = numpy.minimum(source.starts[:-1, None] + slots, len(source.places) - 1)
        there = slots < counts[:, None]
        first = numpy.asarray(source.places)[numpy.minimum(source.starts[:-1], len(source.places) - 1)]
        index = numpy.where(there, numpy.asarray(source.places)[places], first[:, None])
        weights = numpy.where(there, numpy.asarray(source.values)[places], 0.0)
        self.index = [torch.as_tensor(numpy.ascontiguousarray(column), device=device) for column in index.T]
        self.weights = [torch.as_tensor(column[:, None].copy(), dtype=dtype, device=device) for column in weights.T]
        self.run = torch.compile(_summed, dynamic=False, fullgraph=True)

    @staticmethod
    def takes(source: Any) -> bool:
        """Rows of about equally many entries, and few of them."""
        counts = numpy.diff(source.starts)
        return bool(len(counts)) and 0 < int(counts.max()) <= MOST_SLOTS and int(counts.max()) <= 2 * int(counts.min())

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        result = x.new_empty((len(self.index[0]), *x.shape[1:])) if out is None else out
        self.run(x.reshape(x.shape[0], -1), self.index, self.weights, result.view(result.shape[0], -1))
        return result


def _summed(x: Tensor, index: list[Tensor], weights: list[Tensor], out: Tensor) -> None:
    total = x[index[0]] * weights[0]
    for places, factors in zip(index[1:], weights[1:], strict=True):
        total = total + x[places] * factors
    out.copy_(total)


_mixers: dict[tuple[int, torch.dtype, str, bool], tuple[Any, Mixer | CompiledMixer]] = {}


def mix(weights: Any, x: Tensor, out: Tensor | None = None, compiled: bool = False) -> Tensor:
    """weights [row, column] times x [column, rest..]. `weights` as for `Mixer`, which is made once for each type and place."""
    key = id(weights), x.dtype, str(x.device), compiled
    if key not in _mixers:
        kind = CompiledMixer if compiled and CompiledMixer.takes(weights) else Mixer
        _mixers[key] = weights, kind(weights, x.dtype, x.device)
    return _mixers[key][1](x, out)

"""Counter-based randomness: every draw is a pure function of a key and a counter, so nothing depends on order, batch cut or world size.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a 64-bit key and a 128-bit counter
give 128 bits. `key` hashes what a draw belongs to (seed, tick, place in the text, ...) to the generator's key; the counter counts along the
axes that the draw has. Of the 128 counter bits, `counters` fills the lower 64 and `stream` the upper 64, so that ids of samples (stream)
and positions in a sample (counters) need no common numbering.

One body serves numpy and torch on any device: all arithmetic is on int64 arrays that hold 32-bit words. `bits`, `uniform`, `permutation` and
`subset` are the same bit for bit everywhere; `normal` goes through log and cos, which libraries round differently in the last place.

Axes: `...` any, shared by `counters` and `stream` (they broadcast).
"""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import Any

import numpy

Key = tuple[int, int]

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by each round: the golden ratio, and sqrt(3) - 1
ROUNDS = 10
BLOCK = 1 << 16  # words worked on at a time on a CPU: the rounds stay in the cache, some five times faster for millions of draws


def key(seed: int, *words: int | str) -> Key:
    """The key of a draw: a stable hash of the seed and of whatever words place it. `1` and `"1"` differ, so do `("ab", "c")` and `("a", "bc")`."""
    digest = hashlib.blake2b(digest_size=8)
    for word in (seed, *words):
        text = f"s{word}" if isinstance(word, str) else f"i{int(word)}"
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    value = int.from_bytes(digest.digest(), "little")
    return value & WORD, value >> 32


def bits(key: Key, counters: Any, xp: ModuleType | None = None, stream: Any = 0) -> tuple[Any, Any, Any, Any]:
    """Four words of 32 random bits for each counter.

    `counters`, `stream`: int64 [...], as array, tensor, list or number. `xp`: numpy or torch; left out, that of `counters`.
    Returns four arrays [...] of int64 that hold values in [0, 2^32) (torch has no full arithmetic on uint32).
    """
    counters, stream = _integers(counters, stream, xp)
    shape = counters.shape
    counters, stream = counters.reshape(-1), stream.reshape(-1)  # numpy warns of wrapped products of scalars, never of arrays
    step = BLOCK if str(getattr(counters, "device", "cpu")) == "cpu" else counters.shape[0]
    pieces = []
    for start in range(0, max(counters.shape[0], 1), max(step, 1)):
        c, s = counters[start : start + step], stream[start : start + step]
        pieces.append(philox(key, (c & WORD, (c >> 32) & WORD, s & WORD, (s >> 32) & WORD)))
    join = _library(counters).concatenate
    first, second, third, fourth = (join(words).reshape(shape) for words in zip(*pieces))
    return first, second, third, fourth


def philox(key: Key, counter: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 itself on four int64 arrays [...] of 32-bit words.

    The product of two words needs 64 unsigned bits; in int64 it wraps, which leaves the bits as they should be, and the mask after the
    arithmetic shift removes the copies of the sign.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        product, other = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = ((other >> 32) & WORD) ^ b ^ low, other & WORD, ((product >> 32) & WORD) ^ d ^ high, product & WORD
        low, high = (low + WEYL[0]) & WORD, (high + WEYL[1]) & WORD
    return a, b, c, d


def uniform(key: Key, counters: Any, xp: ModuleType | None = None, stream: Any = 0) -> Any:
    """Uniform float64 [...] in [0, 1), multiples of 2^-53, one a counter; the same bits in numpy and torch. Arguments as for `bits`."""
    first, second, _, _ = bits(key, counters, xp, stream)
    return _unit(first, second)


def normal(key: Key, counters: Any, xp: ModuleType | None = None, stream: Any = 0) -> Any:
    """Standard normal float64 [...] by Box-Muller, one a counter; |x| <= 8.6. Equal in numpy and torch up to rounding. Arguments as for `bits`."""
    first, second, third, fourth = bits(key, counters, xp, stream)
    library = xp or _library(first)
    radius = library.sqrt(-2.0 * library.log(1.0 - _unit(first, second)))  # 1 - u lies in (0, 1]
    return radius * library.cos(2.0 * numpy.pi * _unit(third, fourth))


def permutation(key: Key, count: int, xp: ModuleType = numpy) -> Any:
    """A uniformly drawn order of 0 .. count - 1: int64 [count] (with torch: on the CPU)."""
    keys = uniform(key, xp.arange(count), xp)
    return xp.argsort(keys, stable=True)


def subset(key: Key, count: int, size: int, xp: ModuleType = numpy) -> Any:
    """`size` different numbers of 0 .. count - 1 in random order: int64 [size]. Growing `size` keeps those that came before."""
    if size > count:
        raise ValueError(f"{size} different numbers were asked for, there are {count}")
    return permutation(key, count, xp)[:size]


def _unit(first: Any, second: Any) -> Any:
    """53 bits, 27 of one word and 26 of another, as float64 in [0, 1): every step is exact."""
    number = (first >> 5) * (1 << 26) + (second >> 6)
    if _library(number) is numpy:
        return number.astype(numpy.float64) * 2.0**-53
    return number.double() * 2.0**-53


def _integers(counters: Any, stream: Any, xp: ModuleType | None) -> tuple[Any, Any]:
    library = xp or _library(counters)
    if library is numpy:
        left, right = numpy.broadcast_arrays(numpy.asarray(counters, numpy.int64), numpy.asarray(stream, numpy.int64))
        return left, right
    counters = library.as_tensor(counters, dtype=library.int64)
    return library.broadcast_tensors(counters, library.as_tensor(stream, dtype=library.int64, device=counters.device))


def _library(array: Any) -> ModuleType:
    """numpy, or torch where the array is a tensor (it is only looked at, so torch is not imported for numpy's sake)."""
    if type(array).__module__.split(".")[0] != "torch":
        return numpy
    import torch

    return torch

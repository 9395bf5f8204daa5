"""Random draws: one table, `DISTRIBUTIONS`, from independent uniforms (or normals) to what a `draw` node stands for.

The key of a draw is (seed; tick, place); its counters number the entries of the result's axes in row-major order. A seed or a tick that has
axes of its own (the runs of a claim, say) gives every entry along them its own key, and the counters run along the rest. For `categorical`
one uniform makes one index.

    dist         inputs        options        result
    uniform      [low, high]                  real in [low, high); without inputs in [0, 1)
    normal       [mean, scale]                standard normal, without inputs
    uniform_int  low, high                    int in [low, high)
    bernoulli    p                            bool, true with probability p
    categorical  p             axis           index into the axis: the smallest j with p_0 + .. + p_j > u * sum(p); p need not sum to 1
    subset       [count]       axis, [count]  bool: `count` entries of the axis, evenly without replacement: those of the smallest uniforms

Inputs broadcast to the result by name. Round-off at the upper end of a categorical falls to the last j with p > 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy

from gradflow.backends.reference.operations import DTYPES, Array, align, common_sizes, sizes_of
from gradflow.graph.graph import Node
from gradflow.runtime import random

Named = tuple[Array, tuple[str, ...]]


def evaluate(node: Node, seed: Array, tick: Array, *arrays: Array) -> Array:
    """The value of a `draw` node, dimensions in the order of its type."""
    inputs = [(array, below.type.names) for array, below in zip(arrays, node.inputs[2:], strict=True)]
    shape = sizes_of(node, common_sizes(node, (seed, tick, *arrays)))
    make = random.normal if node["dist"] == "normal" else random.uniform
    base = keyed(node, seed, tick, shape, make)
    return numpy.asarray(DISTRIBUTIONS[node["dist"]](node, base, inputs, dict(node.get("options", ()))))


def keyed(node: Node, seed: Array, tick: Array, shape: tuple[int, ...], make: Callable[..., Array]) -> Array:
    """Independent numbers of the result's shape, one key for each pair of seed and tick."""
    own = {name for below in node.inputs[:2] for name in below.type.names}
    names = node.type.names
    seeds, ticks = (align(array, below.type.names, names) for array, below in zip((seed, tick), node.inputs, strict=False))
    lead = tuple(size if name in own else 1 for name, size in zip(names, shape, strict=True))
    rest = tuple(1 if name in own else size for name, size in zip(names, shape, strict=True))
    seeds, ticks = numpy.broadcast_to(seeds, lead), numpy.broadcast_to(ticks, lead)
    counters = numpy.arange(int(numpy.prod(rest, dtype=numpy.int64)), dtype=numpy.int64).reshape(rest)
    result = numpy.empty(shape)
    for place in numpy.ndindex(*lead):
        key = random.key(int(seeds[place]), int(ticks[place]), node["place"])
        where = tuple(slice(i, i + 1) if name in own else slice(None) for i, name in zip(place, names, strict=True))
        result[where] = make(key, counters, numpy)
    return result


def uniform(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    if not inputs:
        return base
    low, high = (align(array, names, node.type.names) for array, names in inputs)
    return low + (high - low) * base


def normal(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    if not inputs:
        return base
    mean, scale = (align(array, names, node.type.names) for array, names in inputs)
    return mean + scale * base


def uniform_int(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    low, high = (align(array, names, node.type.names) for array, names in inputs)
    return numpy.minimum(low + numpy.floor(base * (high - low)).astype(DTYPES["int"]), high - 1)


def bernoulli(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    p = align(*inputs[0], node.type.names)
    return base < p


def categorical(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    (array, names), axis = inputs[0], options["axis"]
    p = align(array, names, (*node.type.names, axis))
    total = numpy.cumsum(p, axis=-1)
    if p.shape[-1] == 0 or not numpy.all(total[..., -1] > 0):
        raise ValueError("the probabilities of a categorical draw must have a positive sum")
    index = numpy.sum(total <= base[..., None] * total[..., -1:], axis=-1)
    last = p.shape[-1] - 1 - numpy.argmax(p[..., ::-1] > 0, axis=-1)
    return numpy.minimum(index, last)


def subset(node: Node, base: Array, inputs: list[Named], options: Mapping[str, Any]) -> Array:
    place = node.type.names.index(options["axis"])
    count = align(*inputs[0], node.type.names) if inputs else options["count"]
    order = numpy.argsort(base, axis=place, kind="stable")
    ranks = numpy.argsort(order, axis=place, kind="stable")
    return ranks < count


DISTRIBUTIONS: dict[str, Callable[[Node, Array, list[Named], Mapping[str, Any]], Array]] = {
    "uniform": uniform, "normal": normal, "uniform_int": uniform_int, "bernoulli": bernoulli, "categorical": categorical, "subset": subset
}  # fmt: skip

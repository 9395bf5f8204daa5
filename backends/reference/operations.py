"""What each operation of the graph means, as numpy: one table, `OPERATIONS`, op -> function(node, *arrays) -> array.

Arrays come and go with their dimensions in the order of the node's type: real as float64, int as int64, bool as bool. The interpreter has
already put a size on every axis of the type that the run knows; a `None` that is left is decided here (a group axis) or is an error.
Random draws, linear algebra, loops, lazy choice and models are elsewhere (`draws.py`, `linalg.py`, `interpreter.py`).

Decided here, where the written contract leaves room: extremes over nothing are the neutral element (-inf, +inf, for ints the outermost
int); gather and scatter take indices from -n to n - 1, negative ones from the end, segments only 0 to n - 1; the sign of NaN is 0; a whole
number modulo 0 is 0; a non-finite number made whole is undefined; in an order NaN is last.

Axes: names are free; a dimension of size 1 never stretches to meet a longer one of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from gradflow.graph.graph import Node

Array = numpy.ndarray
Names = Sequence[str]
Meaning = Callable[..., Array]

DTYPES = {"real": numpy.dtype(numpy.float64), "int": numpy.dtype(numpy.int64), "bool": numpy.dtype(numpy.bool_)}


# ---- axes


def align(array: Array, from_axes: Names, to_axes: Names) -> Array:
    """The array with its dimensions in the order of `to_axes`, with length 1 for the axes that it lacks."""
    missing = [name for name in from_axes if name not in to_axes]
    if missing:
        raise ValueError(f"axis `{missing[0]}` has no place among {list(to_axes)}")
    kept = [name for name in to_axes if name in from_axes]
    moved = array.transpose([list(from_axes).index(name) for name in kept])
    return moved[tuple(slice(None) if name in from_axes else None for name in to_axes)]


def dims(names: Names, over: Names) -> tuple[int, ...]:
    """Where the axes `over` stand among `names`."""
    return tuple(list(names).index(name) for name in over)


def common_sizes(node: Node, arrays: Sequence[Array]) -> dict[str, int]:
    """The size of every axis of the inputs by name. Raises ValueError where two inputs disagree."""
    found: dict[str, int] = {}
    for below, array in zip(node.inputs, arrays, strict=True):
        for name, size in zip(below.type.names, array.shape, strict=True):
            if found.setdefault(name, size) != size:
                raise ValueError(f"axis `{name}` has {found[name]} entries on one side and {size} on the other")
    return found


def sizes_of(node: Node, known: dict[str, int] | None = None) -> tuple[int, ...]:
    """The sizes of the result's axes: the type's own, else those of `known`. Raises ValueError where neither says."""
    result = []
    for name, size in node.type.axes:
        size = (known or {}).get(name) if size is None else size
        if size is None:
            raise ValueError(f"the size of axis `{name}` is not known in this run")
        result.append(size)
    return tuple(result)


def places(value: Any, size: int, what: str, negative: bool = True) -> Array:
    """Indices checked against the axis that they point into; negative ones counted from the end."""
    index = numpy.asarray(value, numpy.int64)
    lowest = -size if negative else 0
    if index.size and (index.min() < lowest or index.max() >= size):
        raise ValueError(f"an index into axis `{what}` is {int(index.min())} .. {int(index.max())}, the axis has {size} entries")
    return numpy.where(index < 0, index + size, index)


# ---- elementwise


def sigmoid(x: Array) -> Array:
    small = numpy.exp(-numpy.abs(x))
    return numpy.where(x >= 0, 1.0, small) / (1.0 + small)


def softplus(x: Array) -> Array:
    return numpy.maximum(x, 0.0) + numpy.log1p(numpy.exp(-numpy.abs(x)))


def log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x <= 0, in the form that keeps digits on either side of -log 2."""
    return numpy.where(x > -numpy.log(2.0), numpy.log(-numpy.expm1(x)), numpy.log1p(-numpy.exp(x)))


def sign(x: Array) -> Array:
    return (x > 0).astype(numpy.int64) - (x < 0).astype(numpy.int64)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": numpy.add, "sub": numpy.subtract, "mul": numpy.multiply, "div": numpy.true_divide, "pow": numpy.power, "mod": numpy.mod,
    "minimum": numpy.minimum, "maximum": numpy.maximum, "neg": numpy.negative, "abs": numpy.abs, "sign": sign,
    "exp": numpy.exp, "log": numpy.log, "log2": numpy.log2, "log1mexp": log1mexp, "sqrt": numpy.sqrt, "sin": numpy.sin, "cos": numpy.cos,
    "tanh": numpy.tanh, "sigmoid": sigmoid, "softplus": softplus,
    "floor": numpy.floor, "ceil": numpy.ceil, "truncate": numpy.trunc, "round": lambda x: numpy.floor(x + 0.5), "isfinite": numpy.isfinite,
    "lt": numpy.less, "le": numpy.less_equal, "gt": numpy.greater, "ge": numpy.greater_equal, "eq": numpy.equal, "ne": numpy.not_equal,
    "and": numpy.logical_and, "or": numpy.logical_or, "not": numpy.logical_not, "stop": lambda x: x,
}  # fmt: skip
BY_RESULT = {"add", "sub", "mul", "div", "pow", "mod", "minimum", "maximum", "neg", "abs", "sign"}  # operands take the result's base first
REALS = {"exp", "log", "log2", "log1mexp", "sqrt", "sin", "cos", "tanh", "sigmoid", "softplus"}


def elementwise(node: Node, *arrays: Array) -> Array:
    common_sizes(node, arrays)
    function = ELEMENTWISE[node.op]
    if node.op in BY_RESULT or node.op in REALS:
        arrays = tuple(a.astype(DTYPES[node.type.base], copy=False) for a in arrays)
    if node.op in ("floor", "ceil", "truncate", "round") and arrays[0].dtype != numpy.float64:
        return arrays[0].astype(numpy.int64)
    return numpy.asarray(function(*(align(a, n.type.names, node.type.names) for a, n in zip(arrays, node.inputs, strict=True))))


def where(node: Node, condition: Array, a: Array, b: Array) -> Array:
    common_sizes(node, (condition, a, b))
    c, x, y = (align(v, n.type.names, node.type.names) for v, n in zip((condition, a, b), node.inputs, strict=True))
    return numpy.where(c, x.astype(DTYPES[node.type.base], copy=False), y.astype(DTYPES[node.type.base], copy=False))


# ---- constants, axes


def constant(node: Node) -> Array:
    return numpy.asarray(node["value"])


def expand(node: Node, x: Array) -> Array:
    names = node.inputs[0].type.names
    shape = sizes_of(node, dict(zip(names, x.shape, strict=True)))
    aligned = align(x, names, node.type.names)
    for name, size, wanted in zip(node.type.names, aligned.shape, shape, strict=True):
        if name in names and size != wanted:
            raise ValueError(f"axis `{name}` has {size} entries, {wanted} were declared")
    return numpy.broadcast_to(aligned, shape)


def axis_size(node: Node, x: Array) -> Array:
    return numpy.asarray(x.shape[node.inputs[0].type.names.index(node["axis"])])


def rename(node: Node, x: Array) -> Array:
    return x


def table(node: Node) -> Array:
    return numpy.array(node["values"], DTYPES[node.type.base]).reshape([axis.size or 0 for axis in node.type.axes])


def range_(node: Node, *like: Array) -> Array:
    axis = node.type.axes[0]
    size = axis.size
    if like and axis.name in node.inputs[0].type.names:
        size = like[0].shape[node.inputs[0].type.names.index(axis.name)]
    return numpy.arange(sizes_of(node)[0] if size is None else size)


def slice_(node: Node, x: Array) -> Array:
    place = node.type.names.index(node["axis"])
    return x[(slice(None),) * place + (slice(node["start"], node["stop"]),)]


def stack(node: Node, *arrays: Array) -> Array:
    common_sizes(node, arrays)
    rest = node.type.names[1:]
    full = [align(a, n.type.names, rest) for a, n in zip(arrays, node.inputs, strict=True)]
    return numpy.stack([a.astype(DTYPES[node.type.base], copy=False) for a in numpy.broadcast_arrays(*full)])


def concat(node: Node, *arrays: Array) -> Array:
    return numpy.concatenate([a.astype(DTYPES[node.type.base], copy=False) for a in arrays])


def one_hot(node: Node, index: Array) -> Array:
    size = node.type.axis(node["axis"]).size
    size = int(index.max(initial=-1)) + 1 if size is None else size
    inner = places(index, size, node["axis"])[..., None] == numpy.arange(size)
    return align(inner, (*node.inputs[0].type.names, node["axis"]), node.type.names)


# ---- reductions


def plain(x: Array, dtype: Any) -> Array:
    """The array laid out in the order of its axes: numpy sums in the order of memory, and that must not change a result."""
    return numpy.ascontiguousarray(x, dtype).reshape(x.shape)


def reduction(node: Node, x: Array) -> Array:
    function, neutral = REDUCERS[node.op]
    over = dims(node.inputs[0].type.names, node["over"])
    if node.op in ("any", "all"):
        return numpy.asarray(function(x, axis=over))
    x = plain(x, DTYPES[node.type.base])
    start = neutral if node.op in ("sum", "prod") else extreme(x.dtype, neutral)
    return numpy.asarray(function(x, axis=over, initial=start))


def extreme(dtype: Any, direction: int) -> Any:
    """The value that never wins a maximum (direction -1) or a minimum (+1)."""
    if dtype == numpy.float64:
        return direction * numpy.inf
    limits = numpy.iinfo(numpy.int64)
    return limits.min if direction < 0 else limits.max


REDUCERS: dict[str, tuple[Callable[..., Any], int]] = {
    "sum": (numpy.sum, 0), "prod": (numpy.prod, 1), "max": (numpy.max, -1), "min": (numpy.min, 1), "any": (numpy.any, 0), "all": (numpy.all, 0)
}  # fmt: skip


def arg_extreme(node: Node, x: Array) -> Array:
    names = node.inputs[0].type.names
    function = numpy.argmax if node.op == "argmax" else numpy.argmin
    axis = names.index(node["over"])
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    places = numpy.zeros(shape, numpy.int64) if 0 in shape else function(x, axis=axis)  # where there are no rows, there are no places
    return align(numpy.asarray(places), [n for n in names if n != node["over"]], node.type.names)


def cumsum(node: Node, x: Array) -> Array:
    x = x.astype(DTYPES[node.type.base], copy=False)
    return numpy.cumsum(x, axis=node.inputs[0].type.names.index(node["over"]))


def dot(node: Node, a: Array, b: Array) -> Array:
    common_sizes(node, (a, b))
    names = {name: place for place, name in enumerate(dict.fromkeys((*node.inputs[0].type.names, *node.inputs[1].type.names)))}
    left, right = ([names[name] for name in n.type.names] for n in node.inputs)
    a, b = plain(a, numpy.float64), plain(b, numpy.float64)
    return numpy.asarray(numpy.einsum(a, left, b, right, [names[name] for name in node.type.names], optimize=True))


def segment(node: Node, x: Array, index: Array) -> Array:
    """Axes `over` of x give way to the target axis of the index; axes that the index has beside them are matched by name."""
    common_sizes(node, (x, index))
    source, target = node.inputs[0].type.names, node.type.axes[-1]
    size = target.size if target.size is not None else int(index.max(initial=-1)) + 1
    place = align(places(index, size, target.name, negative=False), node.inputs[1].type.names, source)
    kept = [name for name in source if name not in node["over"]]
    known = dict(zip(source, x.shape, strict=True))
    dtype = DTYPES[node.type.base]
    function, neutral = {"segment_sum": (numpy.add, 0), "segment_max": (numpy.maximum, -1), "segment_min": (numpy.minimum, 1)}[node.op]
    start = 0 if neutral == 0 else extreme(dtype, neutral)
    result = numpy.full((*(known[name] for name in kept), size), start, dtype)
    where_to = (*(numpy.arange(known[name]).reshape([-1 if n == name else 1 for n in source]) for name in kept), place)
    where_to = numpy.broadcast_arrays(*where_to, x)[:-1]
    function.at(result, tuple(where_to), x.astype(dtype, copy=False))
    return align(result, (*kept, target.name), node.type.names)


# ---- indexing and order


def _addresses(names: Names, axis: str, index: Array, index_names: Names, own: dict[str, int], frame: Names) -> tuple[Array, ...]:
    """For every axis of a gathered value the index arrays that read it, over the axes of `frame`."""
    return tuple(align(index, index_names, frame) if name == axis else align(numpy.arange(own[name]), [name], frame) for name in names)


def gather(node: Node, x: Array, index: Array) -> Array:
    value, pointer, axis = node.inputs[0].type.names, node.inputs[1].type.names, node["axis"]
    own = dict(zip(value, x.shape, strict=True))
    for name, size in zip(pointer, index.shape, strict=True):
        if name != axis and own.get(name, size) != size:
            raise ValueError(f"axis `{name}` has {own[name]} entries in the value and {size} in the index")
    index = places(index, own[axis], axis)
    return numpy.asarray(x[_addresses(value, axis, index, pointer, own, node.type.names)])


def scatter_add(node: Node, x: Array, index: Array) -> Array:
    """The transpose of `gather`: the value's axes are the result's without `axis`, and the index's; what it lacks is repeated."""
    result, axis = node.type.names, node["axis"]
    value, pointer = node.inputs[0].type.names, node.inputs[1].type.names
    known = common_sizes(node, (x, index))
    own = dict(zip(result, sizes_of(node, {name: size for name, size in known.items() if name != axis}), strict=True))
    frame = tuple(dict.fromkeys((*(name for name in result if name != axis), *pointer, *value)))
    addresses = _addresses(result, axis, places(index, own[axis], axis), pointer, own, frame)
    total = numpy.zeros(tuple(own[name] for name in result))
    *full, filled = numpy.broadcast_arrays(*addresses, align(x, value, frame))
    numpy.add.at(total, tuple(full), filled)
    return total


def sort(node: Node, x: Array) -> Array:
    place = node.type.names.index(node["over"])
    return numpy.take_along_axis(x, _order(x, place, node["descending"]), place)


def _order(x: Array, place: int, descending: bool) -> Array:
    """A stable order along a dimension: of equal entries the first stays first, also when descending; NaN comes last."""
    key = x.astype(numpy.int64) if x.dtype == numpy.bool_ else x
    return numpy.argsort(-key if descending else key, axis=place, kind="stable")


def rank(node: Node, x: Array) -> Array:
    names, over = node.inputs[0].type.names, tuple(node["over"])
    kept = [name for name in names if name not in over]
    moved = align(x, names, (*kept, *over))
    flat = moved.reshape(*moved.shape[: len(kept)], int(numpy.prod(moved.shape[len(kept) :], dtype=numpy.int64)))
    order = _order(flat, flat.ndim - 1, node["descending"])
    ranks = numpy.empty_like(order)
    numpy.put_along_axis(ranks, order, numpy.broadcast_to(numpy.arange(flat.shape[-1]), order.shape), -1)
    return align(ranks.reshape(moved.shape), (*kept, *over), node.type.names)


def top(node: Node, x: Array) -> Array:
    names, over = node.inputs[0].type.names, node["over"]
    place = names.index(over)
    if node["count"] > x.shape[place] and node.type.axis(node["named"]).size == node["count"]:
        raise ValueError(f"the {node['count']} largest were asked for, axis `{over}` has {x.shape[place]} entries")
    order = numpy.moveaxis(_order(x, place, node.get("descending", True)), place, -1)[..., : node["count"]]
    return align(order, (*(name for name in names if name != over), node["named"]), node.type.names)


# ---- leaves of a flat parameter


def leaf(node: Node, flat: Array) -> Array:
    names = node.inputs[0].type.names
    lifted = [name for name in names if name != "param"]
    moved = align(flat, names, (*lifted, "param"))
    shape = sizes_of(node, dict(zip(names, flat.shape, strict=True)))
    own = shape[len(lifted) :]
    size = int(numpy.prod(own, dtype=numpy.int64))
    return moved[..., node["offset"] : node["offset"] + size].reshape((*moved.shape[:-1], *own))


def pack(node: Node, *leaves: Array) -> Array:
    lifted = node.type.names[:-1]
    pieces = []
    for below, array in zip(node.inputs, leaves, strict=True):
        own = [name for name in below.type.names if name not in lifted]
        missing = [name for name in lifted if name not in below.type.names]
        if missing:
            raise ValueError(f"a leaf lacks the axis `{missing[0]}` that the others have")
        moved = align(array, below.type.names, (*lifted, *own))
        lead = moved.shape[: len(lifted)]
        pieces.append(moved.reshape(*lead, int(numpy.prod(moved.shape[len(lifted) :], dtype=numpy.int64))))
    return numpy.concatenate(pieces, axis=-1).astype(numpy.float64, copy=False)


# ---- placed on several processes


def mix(node: Node, x: Array) -> Array:
    rest = [name for name in node.inputs[0].type.names if name != node["over"]]
    rows = align(x, node.inputs[0].type.names, (node["over"], *rest))
    product = node["weights"].matrix @ rows.reshape(rows.shape[0], -1)
    return align(product.reshape(-1, *rows.shape[1:]), (node["axis"], *rest), node.type.names)


def transfer(node: Node, value: Array, *index: Array) -> Array:
    from gradflow.backends.distributed import array_transfer

    names = node.inputs[0].type.names
    after = [name for name in names if name != node["axis"]] if node["form"] == "fetch" else names
    return align(array_transfer(node, value, *index), after, node.type.names)


OPERATIONS: dict[str, Meaning] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCERS, reduction),
    "const": constant, "table": table, "where": where, "expand": expand, "axis_size": axis_size, "rename": rename, "range": range_, "slice": slice_,
    "stack": stack, "concat": concat, "one_hot": one_hot, "argmax": arg_extreme, "argmin": arg_extreme, "cumsum": cumsum, "dot": dot,
    "segment_sum": segment, "segment_max": segment, "segment_min": segment, "gather": gather, "scatter_add": scatter_add,
    "sort": sort, "rank": rank, "top": top, "leaf": leaf, "pack": pack,
    "mix": mix, "transfer": transfer,
}  # fmt: skip

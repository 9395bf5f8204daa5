"""Text for the operations that move entries: axes, places, order, groups, leaves of a flat parameter, draws and linear algebra.

The second half of the table of `emit.py`. Where torch needs dimensions in a certain order, the operands are permuted on the way in and the
result on the way out; both vanish from the source where the order is right already.
"""

from __future__ import annotations

from collections.abc import Callable

from gradflow.backends.torch.emit import DTYPES, UnknownSize, Writer, permuted, positions, shape
from gradflow.graph.graph import Node

# ---- axes


def expand(w: Writer, node: Node) -> str:
    return w.full(node.inputs[0], node.type.names, lambda n: w.size(node, n))


def axis_size(w: Writer, node: Node) -> str:
    return w.size_of(node.inputs[0], node["axis"])


def table(w: Writer, node: Node) -> str:
    kinds = {"real": "real", "int": "torch.int64", "bool": "torch.bool"}
    values = w.constant(node["values"], "values")
    return f"torch.tensor({values}, dtype={kinds[node.type.base]}, device=device).reshape({[axis.size for axis in node.type.axes]})"


def range_(w: Writer, node: Node) -> str:
    return f"torch.arange({w.size(node, node.type.names[0])}, device=device)"


def slice_(w: Writer, node: Node) -> str:
    below = node.inputs[0]
    start, stop = node["start"], node["stop"]
    cut = f"{start or ''}:{'' if stop is None else stop}"
    return f"{w.ref(below)}[{', '.join([':'] * below.type.names.index(node['axis']) + [cut])}]"


def stack(w: Writer, node: Node) -> str:
    rest = node.type.names[1:]
    if all(w.is_host(below) for below in node.inputs):
        return f"torch.tensor([{', '.join(w.ref(below) for below in node.inputs)}], dtype={DTYPES[node.type.base]}, device=device)"
    texts = [w.tensor(b, node.type.base) if w.is_host(b) else w.align(b, rest, node.type.base) for b in node.inputs]
    return f"torch.stack([{', '.join(texts)}])"


def concat(w: Writer, node: Node) -> str:
    return f"torch.cat([{', '.join(w.align(below, node.type.names, node.type.base) for below in node.inputs)}])"


def one_hot(w: Writer, node: Node) -> str:
    index = w.tensor(node.inputs[0], "int")
    axis = node.type.axis(node["axis"])
    size = size_or_none(w, node, axis.name) or f"entries({index})"
    text = f"one_hot({index}, {size}, real)"
    return permuted(text, (*node.inputs[0].type.names, axis.name), node.type.names)


# ---- places


def gather(w: Writer, node: Node) -> str:
    value, index = node.inputs
    axis, names = node["axis"], value.type.names
    rest = tuple(n for n in names if n != axis)
    if not index.type.axes:
        place = w.ref(index) if w.is_host(index) else f"int({w.ref(index)})"
        if not w.is_host(index) and not rest:
            return f"gather_rows({w.ref(value)}, {w.ref(index)}, 0)"
        return permuted(f"{w.ref(value)}.select({names.index(axis)}, {place})", rest, node.type.names)
    shared, new = split(index, names, axis)
    rest = tuple(n for n in rest if n not in shared)
    x = permuted(w.ref(value), names, (*shared, axis, *rest))
    places = permuted(w.ref(index), index.type.names, (*shared, *new))
    return permuted(f"gather_rows({x}, {places}, {len(shared)})", (*shared, *new, *rest), node.type.names)


def split(index: Node, names: tuple[str, ...], axis: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The index's axes that the value has as well, and those that take the place of `axis`."""
    shared = tuple(n for n in index.type.names if n in names and n != axis)
    return shared, tuple(n for n in index.type.names if n not in shared)


def scatter_add(w: Writer, node: Node) -> str:
    value, index = node.inputs
    axis, names = node["axis"], node.type.names
    shared, new = split(index, names, axis)
    rest = tuple(n for n in names if n != axis and n not in shared)

    def size(name: str) -> str:
        return w.size_of(index, name) if index.type.has(name) else w.size(node, name)

    x = w.full(value, (*shared, *new, *rest), size, "real")
    places = permuted(w.tensor(index, "int"), index.type.names, (*shared, *new))
    sizes = shape(size(n) if n in shared else w.size(node, n) for n in (*shared, axis, *rest))
    return permuted(f"scatter_rows({x}, {places}, {len(shared)}, {sizes})", (*shared, axis, *rest), names)


def segment(w: Writer, node: Node) -> str:
    value, index = node.inputs
    over, target = tuple(node["over"]), node.type.axes[-1]
    kept = tuple(n for n in value.type.names if n not in over)
    x = w.align(value, (*kept, *over), node.type.base)
    if set(index.type.names) == set(over):
        places = permuted(w.ref(index), index.type.names, over)
    else:  # inserted dimensions may not be left out: their number says which dimensions the index has
        places = w.align(index, (*kept, *over))
        missing = next(i for i, n in enumerate((*kept, *over)) if index.type.has(n))
        places = f"{places}[{'None, ' * missing}...]" if missing else places
    text = f"segments({node.op.removeprefix('segment_')!r}, {x}, {places}, {len(over)}, {size_or_none(w, node, target.name)})"
    return permuted(text, (*kept, target.name), node.type.names)


def size_or_none(w: Writer, node: Node, name: str) -> str | None:
    try:
        return w.size(node, name)
    except UnknownSize:
        return None


# ---- order


def sort(w: Writer, node: Node) -> str:
    x, dim = w.ref(node.inputs[0]), node.type.names.index(node["over"])
    return f"{x}.take_along_dim(order({x}, {dim}, {node['descending']}), {dim})"


def rank(w: Writer, node: Node) -> str:
    return f"ranks({w.ref(node.inputs[0])}, {positions(node.inputs[0], node['over'])}, {node['descending']})"


def top(w: Writer, node: Node) -> str:
    below = node.inputs[0]
    rest = tuple(n for n in below.type.names if n != node["over"])
    return permuted(f"top({w.ref(below)}, {below.type.names.index(node['over'])}, {node['count']})", (*rest, node["named"]), node.type.names)


# ---- leaves


def leaf(w: Writer, node: Node) -> str:
    flat = node.inputs[0]
    lifted = tuple(n for n in flat.type.names if n != "param")
    own = [axis for axis in node.type.axes if axis.name not in lifted]
    count = 1
    for axis in own:
        count *= axis.size or 0
    text = permuted(w.ref(flat), flat.type.names, (*lifted, "param"))
    text = f"{text}.narrow({len(lifted)}, {node['offset']}, {count})"
    if len(own) != 1:
        text += f".unflatten({len(lifted)}, {shape(str(a.size) for a in own)})" if own else f".squeeze({len(lifted)})"
    return permuted(text, (*lifted, *(a.name for a in own)), node.type.names)


def pack(w: Writer, node: Node) -> str:
    lifted = node.type.names[:-1]
    texts = []
    for below in node.inputs:
        own = tuple(n for n in below.type.names if n not in lifted)
        text = w.tensor(below, "real") if w.is_host(below) else w.align(below, (*lifted, *own), "real")
        if len(own) != 1:
            text += f".flatten({len(lifted)})" if own else f".unsqueeze({len(lifted)})"
        texts.append(text)
    return f"torch.cat([{', '.join(texts)}], dim={len(lifted)})"


# ---- draws and linear algebra


def draw(w: Writer, node: Node) -> str:
    seed, tick, *arguments = node.inputs
    options = dict(node.get("options", ()))
    names = (*node.type.names, options["axis"]) if node["dist"] == "categorical" else node.type.names
    given = "".join(f", {w.align(a, names)}" for a in arguments)
    key = (w.align(seed, node.type.names), w.align(tick, node.type.names), w.constant(node["place"], "place"))
    dim = f", dim={node.type.names.index(options['axis'])}" if node["dist"] == "subset" else ""
    sizes = shape(w.size(node, n) for n in node.type.names)
    static = w.constant(tuple(options.items()), "options")
    return f"draw({node['dist']!r}, ({', '.join(key)}), {sizes}, {static}{given}{dim}, dtype={DTYPES[node.type.base]}, device=device)"


OPERATIONS: dict[str, Callable[[Writer, Node], str]] = {
    "expand": expand, "axis_size": axis_size, "range": range_, "table": table, "slice": slice_, "stack": stack, "concat": concat, "one_hot": one_hot,
    "gather": gather,
    "scatter_add": scatter_add, "segment_sum": segment, "segment_max": segment, "segment_min": segment, "sort": sort, "rank": rank, "top": top,
    "leaf": leaf, "pack": pack, "draw": draw,
}  # fmt: skip

"""What is legal in a graph, as a written table, and `verify`, which checks a region against it between passes.

Operations beyond elementwise and reductions, with their inputs, attributes and meaning (axes legend: names are free, `param` is the flat
axis of all coordinates of a model):

    const()                      value
    source()                     kind, path: from outside. kind: param, state, data, held, input, clock (path t | t_end | progress | tick | seed)
    where(c, a, b)               elementwise choice;  choose(c, a, b): lazy, c without axes
    expand(x)                    to the type's axes, repeating and permuting
    axis_size(x)                 axis: its length, an int
    argmax(x), argmin(x)         over: first place of the extreme
    cumsum(x)                    over
    segment_sum|max|min(x, i)    over: axes of x replaced by the target axis of i (last axis of the result); x has all axes of i; groups that
                                 nothing falls into give 0 (sum), -inf (max), +inf (min); a target of unknown size has max(i) + 1 entries
    rename(x)                    same data, the type's names
    dot(a, b)                    over: sum of products
    gather(x, i)                 axis: x[axis: i], shared axes matched by name
    scatter_add(x, i)            axis: the transpose of gather; the result has the type's axes
    one_hot(i)                   axis: 1.0 where the index is, along a new last axis
    table()                      values: a tuple of numbers, in row-major order of the type's axes
    range([x])                   axis: 0, 1, ..; its size is the type's, or that of x along the same axis
    mix(x)                       weights (known, sparse), over, axis: the product with weights [axis, over]; axis comes first in the result
    slice(x)                     axis, start, stop
    stack(x..)                   axis: new first axis
    concat(x..)                  axis: the first axis of all; other axes are the same in all
    sort(x), rank(x), top(x)     over, descending / over (a tuple: places in the flattened order of these axes), descending / over, count, named
    leaf(flat)                   offset: a tensor of the type's axes (after lifted ones) out of `param`
    pack(leaf..)                 offsets: flattened and laid along `param`, lifted axes first
    hole()                       filled in before any backend sees it
    element()                    a loop's parameter
    scan(init.., seq.., cap..)   carries, sequences, axis, backward, body: parameters are carries, elements of the sequences (without the axis),
                                 captured values; results are the next carries, then the values to stack along the axis (first axis of the result).
                                 The node itself has no value: `item(scan)` with `index` picks a final carry or a stacked value
    draw(seed, tick, arg..)      dist (uniform | normal | uniform_int | bernoulli | categorical | subset), place, options: random numbers of the type,
                                 keyed by seed, tick and place, counted along the type's axes in row-major order
    linalg(x..)                  name, options: singular_vectors, svd, eigenvalues, ... (`backends/reference/linalg.py` is the list)
    transfer(x, [i])             form (sum | max | min | gather | fetch), axis: what crosses between the ranks of a placed region
    model(params, arg..)         model, method, fields (names of the arguments), output, options: one output of a model's method
    model_vjp(params, arg.., cotangent..)   the same, and outputs (those that have a cotangent), wrt ("params" or a field): its transpose

After `resolve` no hole may be left; after `differentiate` no gradient; a backend may assume both.
"""

from __future__ import annotations

import math

from gradflow.graph.graph import Node, Region
from gradflow.graph.operations import ELEMENTWISE, REDUCTIONS

ARITY: dict[str, tuple[int, int | None]] = {
    "const": (0, 0), "table": (0, 0), "source": (0, 0), "element": (0, 0), "hole": (0, 0),
    "where": (3, 3), "choose": (3, 3), "expand": (1, 1), "axis_size": (1, 1), "argmax": (1, 1), "argmin": (1, 1), "cumsum": (1, 1),
    "segment_sum": (2, 2), "segment_max": (2, 2), "segment_min": (2, 2), "rename": (1, 1), "dot": (2, 2), "gather": (2, 2),
    "scatter_add": (2, 2), "one_hot": (1, 1), "range": (0, 1), "slice": (1, 1), "stack": (1, None), "concat": (1, None),
    "sort": (1, 1), "rank": (1, 1),
    "top": (1, 1), "leaf": (1, 1), "pack": (1, None), "scan": (1, None), "item": (1, 1), "draw": (2, None), "linalg": (1, None),
    "model": (1, None), "model_vjp": (2, None), "transfer": (1, 2), "mix": (1, 1),
}  # fmt: skip
for _name, (_rule, _fold) in ELEMENTWISE.items():
    ARITY[_name] = (_fold.__code__.co_argcount,) * 2 if hasattr(_fold, "__code__") else (1, 2)
for _name in ("minimum", "maximum"):
    ARITY[_name] = (2, 2)
for _name in REDUCTIONS:
    ARITY[_name] = (1, 1)


class IllegalGraph(Exception):
    """An invariant of the compiler itself is broken; never the user's mistake."""


def verify(region: Region, stage: str) -> None:
    """Raises IllegalGraph at the first node that is not legal after `stage`."""
    for node in region.nodes():
        problem = _problem(node)
        if problem:
            raise IllegalGraph(f"after {stage}: {problem}: {node!r} (from {node.span})")
        if node.body is not None:
            verify(node.body, stage)


def _problem(node: Node) -> str:
    if node.op not in ARITY:
        return "unknown operation"
    low, high = ARITY[node.op]
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        return f"{len(node.inputs)} inputs"
    if node.op == "hole":
        return "a hole was never filled"
    names = node.type.names
    if len(set(names)) != len(names):
        return "an axis stands twice in the type"
    if node.op in ELEMENTWISE or node.op == "where":
        wanted = {name for below in node.inputs for name in below.type.names}
        if set(names) != wanted:
            return f"axes {sorted(names)} of an elementwise result, {sorted(wanted)} of its operands"
    if node.op == "choose" and node.inputs[0].type.axes:
        return "the condition of a lazy choice has axes"
    if node.op == "table" and (
        math.prod(-1 if axis.size is None else axis.size for axis in node.type.axes) != len(node["values"])
        or any(not isinstance(value, bool | int | float) for value in node["values"])
    ):
        return "a table whose numbers do not fill its axes"
    return ""

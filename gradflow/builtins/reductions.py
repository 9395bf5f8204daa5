"""Built-ins that reduce axes or groups: sums, means, extremes, norms, counts, and the product of two values along axes."""

from __future__ import annotations

import math
from typing import Any

from gradflow.analyses.padding import padding_counts
from gradflow.builtins.arguments import Arguments, is_axis
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.names import axis_length
from gradflow.passes.suggestions import listed


def index_map(a: Arguments) -> Node:
    """The value of `by:`."""
    index = a.e.tensor(a.option("by"))
    if not isinstance(index, Node) or index.type.target is None:
        raise mistake(
            "E0310", a.named["by"].span, f"`by:` needs an index map, this is {v.kind_name(index)}",
            why="a map `[sample -> prompt]` says which group each entry is in",
            fix="pass a map such as `by: group`; to reduce an axis, use `over:`",
        )  # fmt: skip
    return index


def grouped(a: Arguments, op: str, x: Any) -> Node:
    """sum, max or min by group: over the axes named, else those of the index map."""
    e = a.e
    index = index_map(a)
    mask = a.condition()
    empty = {"sum": 0, "max": -math.inf, "min": math.inf}[op]
    if mask is not None:
        x = e.ops.where(mask, x, empty)
    over = a.expanded(axis_names(a.named["over"].value)) if a.has("over") else index.type.names
    return e.ops.segment(op, x, index, over)


def summed(a: Arguments, x: Any, mask: Any, over: tuple[str, ...]) -> Any:
    """The sum over axes, an axis that x lacks counting as repetition."""
    e = a.e
    if mask is not None:
        x = e.ops.where(mask, x, 0 if not isinstance(x, float) else 0.0)
    lacking = [n for n in over if not (isinstance(x, Node) and x.type.has(n)) and (n in a.scope.axes)]
    total = e.ops.reduce("sum", x, over)
    for name in lacking:
        total = e.ops.elementwise("mul", total, length(a, name))
    return total


def length(a: Arguments, name: str) -> Any:
    frame = a.scope.frame
    if name == "param" and frame is not None:
        return frame.coordinates()
    if name in a.scope.axes:
        return axis_length(a.e, name, a.scope, a.call)
    holder = a.scope.holder(name)
    if holder is None:
        raise mistake(
            "E0303", a.call.span, f"the size of axis `{name}` is not known here", why="no value in reach has this axis",
            fix="read it off a value: `size(x, over: axis)`",
        )  # fmt: skip
    return a.e.ops.axis_size(name, holder)


def counted(a: Arguments, x: Any, mask: Any, over: tuple[str, ...]) -> Any:
    """How many entries a reduction covers: a number where sizes are known and nothing is masked."""
    e = a.e
    total: Any = 1
    for name in over:
        if isinstance(mask, Node) and mask.type.has(name):
            continue
        holders = [n for n in (x, mask) if isinstance(n, Node) and n.type.has(name)]
        total = e.ops.elementwise("mul", total, e.ops.axis_size(name, *holders) if holders else length(a, name))
    if mask is not None:
        total = e.ops.elementwise("mul", e.ops.reduce("sum", e.ops.where(mask, 1, 0), over), total)
    return total


def averaged(a: Arguments, x: Any, mask: Any, over: tuple[str, ...], weight: Any = None, less: Any = 0) -> Any:
    """The mean over axes; 0, with zero gradient, over nothing. `less` is ddof."""
    e = a.e
    if isinstance(x, Node) and x.type.base == "bool":
        x = e.ops.where(x, 1.0, 0.0)
    if weight is not None:
        count = summed(a, weight, mask, over)
        total = summed(a, e.ops.elementwise("mul", x, weight), mask, over)
        return e.ops.elementwise("div", total, e.ops.where(e.ops.elementwise("eq", count, 0), 1, count))
    if not a.has("where"):
        padding_counts(e, x, over, a.call.span)
    count = counted(a, x, mask, over)
    total = summed(a, x, mask, over)
    if isinstance(less, Node) or less:
        count = e.ops.elementwise("sub", count, less)
    if isinstance(count, Node) or count < 1:
        count = e.ops.elementwise("maximum", count, 1)
    return e.ops.elementwise("div", total, count)


def mean_by(a: Arguments, x: Any, less: Any = 0) -> Any:
    e = a.e
    if isinstance(x, Node) and x.type.base == "bool":
        x = e.ops.where(x, 1.0, 0.0)
    count: Any = grouped(a, "sum", 1)
    if isinstance(less, Node) or less:
        count = e.ops.elementwise("sub", count, less)
    return e.ops.elementwise("div", grouped(a, "sum", x), e.ops.elementwise("maximum", count, 1))


REDUCE = "over: axes, by: map, where: condition"


@builtin(f"sum(x, {REDUCE})", "The sum.", "reduction")
def sum_(a: Arguments) -> Any:
    x = a.tensor(0)
    if a.has("by"):
        return grouped(a, "sum", x)
    mask = a.condition()
    if mask is not None:
        x, mask = a.aligned(x, mask)
    return summed(a, x, mask, a.over(x, mask))


@builtin(f"mean(x, {REDUCE}, weight: w, else: value)", "The mean; 0 over nothing, or what `else:` says.", "reduction")
def mean(a: Arguments) -> Any:
    x = a.tensor(0)
    if a.has("by"):
        return mean_by(a, x)
    mask = a.condition()
    if mask is not None:
        x, mask = a.aligned(x, mask)
    weight = a.e.tensor(a.option("weight")) if a.has("weight") else None
    over = a.over(x, mask, weight)
    result = averaged(a, x, mask, over, weight)
    if a.has("else"):
        result = a.e.ops.where(a.e.ops.elementwise("gt", counted(a, x, mask, over), 0), result, a.e.tensor(a.option("else")))
    return result


@builtin(f"variance(x, {REDUCE}, ddof: n)", "The mean squared distance from the mean, divided by n - ddof (0 unless said).", "reduction")
def variance(a: Arguments) -> Any:
    x = a.tensor(0)
    less = a.quantity("ddof", 0)
    e = a.e
    if a.has("by"):
        center = mean_by(a, x)
        index = e.tensor(a.option("by"))
        gap = e.ops.elementwise("sub", x, e.ops.gather(center, index, index.type.target.name))
        return mean_by(a, e.ops.elementwise("mul", gap, gap), less)
    mask = a.condition()
    if mask is not None:
        x, mask = a.aligned(x, mask)
    over = a.over(x, mask)
    gap = e.ops.elementwise("sub", x, averaged(a, x, mask, over))
    return averaged(a, e.ops.elementwise("mul", gap, gap), mask, over, less=less)


@builtin(f"std(x, {REDUCE}, ddof: n)", "The square root of the variance.", "reduction")
def std(a: Arguments) -> Any:
    return a.e.ops.elementwise("sqrt", variance(a))


def _extreme(name: str) -> None:
    @builtin(
        f"{name}(x, y, {REDUCE})",
        f"With two values the {name}imum of each pair of entries, with one the {name}imum over axes or by group.",
        "reduction",
        1,
        None,
    )
    def apply(a: Arguments) -> Any:
        if len(a.places) > 1:
            values = a.aligned(*(a.tensor(i) for i in range(len(a.places))))
            result = values[0]
            for value in values[1:]:
                result = a.e.ops.elementwise(f"{name}imum", result, value)
            return result
        x = a.tensor(0)
        if a.has("by"):
            return grouped(a, name, x)
        mask = a.condition()
        if mask is not None:
            x, mask = a.aligned(x, mask)
            x = a.e.ops.where(mask, x, -math.inf if name == "max" else math.inf)
        return a.e.ops.reduce(name, x, a.over(x))


_extreme("max")
_extreme("min")


def _truth(name: str, doc: str) -> None:
    @builtin(f"{name}(x, {REDUCE})", doc, "reduction")
    def apply(a: Arguments) -> Any:
        x = a.tensor(0)
        e = a.e
        if isinstance(x, Node) and x.type.base != "bool":
            x = e.ops.elementwise("ne", x, 0)
        mask = a.condition()
        if mask is not None:
            x, mask = a.aligned(x, mask)
            x = e.ops.where(mask, x, name == "all")
        if a.has("by"):
            number = grouped(a, "max" if name == "any" else "min", e.ops.where(x, 1, 0))
            return e.ops.elementwise("ge", number, 1)
        return e.ops.reduce(name, x, a.over(x))


_truth("any", "Whether some entry is true.")
_truth("all", "Whether every entry is true.")


@builtin(f"norm(x, {REDUCE}, order: p)", "The p-norm over the axes, 2 unless said.", "reduction")
def norm(a: Arguments) -> Any:
    x = a.tensor(0)
    e = a.e
    order = a.number("order", 2)
    over = a.over(x)
    if order == 1:
        return e.ops.reduce("sum", e.ops.elementwise("abs", x), over)
    if order == math.inf:
        return e.ops.reduce("max", e.ops.elementwise("abs", x), over)
    if order == 2:
        return e.ops.elementwise("sqrt", e.ops.reduce("sum", e.ops.elementwise("mul", x, x), over))
    total = e.ops.reduce("sum", e.ops.elementwise("pow", e.ops.elementwise("abs", x), order), over)
    return e.ops.elementwise("pow", total, 1 / order)


@builtin(
    "count(axis_or_x, over: axes, by: map, where: condition)",
    "Entries of an axis, entries that a reduction covers, or members of each group.",
    "reduction",
    0,
    1,
)
def count(a: Arguments) -> Any:
    if a.has("by"):
        return grouped(a, "sum", 1)
    axis = is_axis(a.places[0].value, a.scope) if a.places else None
    if axis is not None and not a.named:
        return length(a, axis)
    x = a.tensor(0) if a.places and axis is None else None
    mask = a.condition()
    over = a.over(x, mask) if axis is None else (axis,)
    return counted(a, x, mask, over)


@builtin("size(axis_or_x, over: axis)", "The length of an axis, of a value or of a record.", "reduction")
def size(a: Arguments) -> Any:
    axis = is_axis(a.places[0].value, a.scope)
    if axis is not None:
        return length(a, axis)
    record = a.e.evaluate(a.places[0].value, a.scope)
    if isinstance(record, v.Record) and record.value is None or record is v.NONE:
        from gradflow.builtins.records import rows_of

        return rows_of(a, record)
    x = a.node(0)
    name = next(iter(a.over(x)), "")
    if not x.type.has(name):
        raise mistake(
            "E0303", a.call.span, f"{v.kind_name(x)} has no axis `{name}`" if name else "a number has no size",
            why=f"its axes are {listed(x.type.names) or 'none'}", fix="name one of them: `size(x, over: axis)`",
        )  # fmt: skip
    return a.e.ops.axis_size(name, x)


def one_of(x: Any) -> str:
    names = x.type.names if isinstance(x, Node) else ()
    return f"name it: `over: {names[-1]}`" if names else "give it a value that has an axis"


def one_axis(a: Arguments, x: Node) -> str:
    names = [n for n in a.over(x) if x.type.has(n)]
    if len(names) != 1:
        raise mistake("E0308", a.call.span, f"`{a.function.name}` works along one axis", why=f"the operand is {v.kind_name(x)}", fix=one_of(x))
    return names[0]


@builtin("dot(x, y, over: axes)", "The sum of products over the axes; other common axes are matched by name.", "linear algebra", 2, 2)
def dot(a: Arguments) -> Any:
    x, y = a.node(0), a.node(1)
    over = a.over(x, y)
    shared = [n for n in over if x.type.has(n) and y.type.has(n)]
    if len(shared) != len(over):
        missing = next(n for n in over if n not in shared)
        raise mistake(
            "E0303", a.call.span, f"axis `{missing}` is not on both sides of the product", why=f"the sides are {v.kind_name(x)} and {v.kind_name(y)}",
            fix="sum over an axis that both have, or `rename` one so that they do",
        )  # fmt: skip
    x, y = (a.e.ops.constant(a.e.ops.where(n, 1.0, 0.0)) if n.type.base == "bool" else n for n in (x, y))
    return a.e.ops.dot(x, y, over)

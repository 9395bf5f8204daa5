"""Built-ins that make, name and lay out axes."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments, is_axis
from gradflow.builtins.reductions import length, one_axis
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.expressions import Elaborator
from gradflow.passes.suggestions import head, listed, suggestion


@builtin("position(axis)", "0, 1, 2, .. along an axis.", "axes")
def position(a: Arguments) -> Any:
    axis = is_axis(a.places[0].value, a.scope)
    if axis is None:
        raise mistake(
            "E0306", a.places[0].span, "an axis name is needed here", why="positions are counted along an axis in scope", fix="`position(token)`",
        )  # fmt: skip
    return a.e.ops.range(a.scope.axes.get(axis, Axis(axis)), a.scope.holder(axis))


@builtin("range(axes)", "0, 1, 2, .. along a new axis: `range([row: n])`, or along one in scope. `n` may be known only when it runs.", "axes")
def range_(a: Arguments) -> Any:
    tree = a.places[0].value
    if isinstance(tree, s.ListOf) and len(tree.items) == 1 and tree.items[0].name:
        count = a.e.tensor(a.e.evaluate(tree.items[0].value, a.scope), tree.items[0].value)
        if isinstance(count, Node):
            return counted_off(a.e, tree.items[0].name, count)
    axes = a.axis_list(a.places[0])
    if len(axes) != 1:
        raise mistake(
            "E0308", a.call.span, "`range` runs along one axis", why=f"{len(axes)} are named here",
            fix="name one, with its size if it is new: `range([row: 4])`",
        )  # fmt: skip
    return a.e.ops.range(axes[0], a.scope.holder(axes[0].name))


def counted_off(e: Elaborator, name: str, count: Node) -> Node:
    """0, 1, .., count - 1 along an axis whose size is a value: an axis that an index map points into is as long as the map reaches."""
    longer = f"{name} and one more"  # so that there may be none
    reach = e.ops.make("rename", (e.ops.stack([count], "single"),), Type("int", (Axis("single", 1),), Axis(longer)))
    entries = e.ops.slice(e.ops.segment("sum", 0, reach, ("single",)), longer, 1, None)
    return e.ops.range(Axis(name), e.ops.rename(entries, {longer: name}))


@builtin("one_hot(index, over: axis)", "1 where the index is, 0 elsewhere, along the axis.", "axes")
def one_hot(a: Arguments) -> Any:
    index = a.tensor(0)
    target = index.type.target if isinstance(index, Node) else None
    if a.has("over"):
        name = axis_names(a.named["over"].value)[0]
        axis = a.axis_of(name)
        if axis.size is None and target is not None and target.name == name:
            axis = target
    elif target is not None:
        axis = target
    else:
        raise mistake(
            "E0308", a.call.span, "which axis is this one-hot along?", why=f"{v.kind_name(index)} does not say what it points into",
            fix="name it with `over:`",
        )  # fmt: skip
    if axis.size is None:
        size_ = length(a, axis.name)
        if isinstance(size_, int):
            axis = Axis(axis.name, size_)
    return a.e.ops.one_hot(index, axis)


@builtin("rename(x, axis: new)", "The same value with an axis called otherwise.", "axes")
def rename(a: Arguments) -> Any:
    x = a.tensor(0)
    if not isinstance(x, Node):
        return x
    names: dict[str, str] = {}
    for old, arg in a.named.items():
        if not isinstance(arg.value, s.Name):
            raise mistake(
                "E0306", arg.value.span, "an axis name is needed here", why="`rename(x, row: other)` calls the axis `row` of x `other`",
                fix="give a plain name",
            )  # fmt: skip
        if not x.type.has(old) and not (x.type.target is not None and x.type.target.name == old):
            place = head(arg.span, old)
            raise mistake(
                "E0303", place, f"{v.kind_name(x)} has no axis `{old}`", why="`rename(x, row: other)` calls the axis `row` of x `other`",
                **suggestion(place, old, x.type.names, f"name one of its axes: {listed(x.type.names)}"),
            )  # fmt: skip
        if x.type.has(arg.value.id) and arg.value.id not in a.named:
            raise mistake(
                "E0313", arg.value.span, f"two axes would be called `{arg.value.id}`", why=f"the value is {v.kind_name(x)}",
                fix="choose a name that it does not have",
            )  # fmt: skip
        names[old] = arg.value.id
        axis = next((ax for ax in (*x.type.axes, *([x.type.target] if x.type.target else [])) if ax.name == old), Axis(old))
        a.scope.axes.setdefault(arg.value.id, Axis(arg.value.id, axis.size))
    return a.e.ops.rename(x, names)


@builtin("arrange(x, axes)", "The same value with its axes in this order: `arrange(x, [r, col])`; axes not named stay in front.", "axes", 2, 2)
def arrange(a: Arguments) -> Any:
    x = a.node(0)
    names = axis_names(a.places[1].value)
    for name in names:
        if not x.type.has(name):
            raise mistake(
                "E0303", a.places[1].span, f"{v.kind_name(x)} has no axis `{name}`", why="`arrange` puts axes of its first value in order",
                **suggestion(a.places[1].span, name, x.type.names, f"name axes that it has: {listed(x.type.names)}"),
            )  # fmt: skip
    return a.e.ops.transpose(x, [*(n for n in x.type.names if n not in names), *names])


@builtin("concat(x, y, along: axis)", "Values one behind the other along an axis; one that lacks the axis is a single entry of it.", "axes", 2, None)
def concat(a: Arguments) -> Any:
    name = axis_names(a.needed("along").value)[0]
    parts = [a.node(place) for place in range(len(a.places))]
    if len({part.type.base == "bool" for part in parts}) > 1:
        raise mistake(
            "E0310", a.call.span, "truth values and numbers do not go into one value", why=f"the parts are {listed(map(v.kind_name, parts))}",
            fix="turn conditions into numbers: `where(condition, 1, 0)`",
        )  # fmt: skip
    return a.e.ops.concat(parts, name)


@builtin(
    "shift(x, over: axis, by: n, fill: value)",
    "The entries moved `by` places towards the end of the axis (towards its start if negative); what becomes free is `fill`, 0 unless said.",
    "axes",
)
def shift(a: Arguments) -> Any:
    x, ops = a.node(0), a.e.ops
    axis = x.type.axis(one_axis(a, x))
    by = a.quantity("by", 1)
    source = ops.elementwise("sub", ops.range(axis, x), by)
    last = ops.elementwise("sub", ops.axis_size(axis.name, x), 1)
    inside = ops.elementwise("and", ops.elementwise("ge", source, 0), ops.elementwise("le", source, last))
    held = ops.elementwise("minimum", ops.elementwise("maximum", source, 0), last)
    moved, filling = ops.gather(x, ops.constant(held), axis.name), a.quantity("fill", False if x.type.base == "bool" else 0)
    return ops.where(*a.aligned(inside, moved, filling))


@builtin("flatten(x, y, keep: axes)", "Values laid side by side along `param`, as a flow's parameters lie.", "axes", 1, None)
def flatten(a: Arguments) -> Any:
    keep = axis_names(a.named["keep"].value) if a.has("keep") else ()
    parts = [a.node(place) for place in range(len(a.places))]
    sized = all(axis.size is not None for part in parts for axis in part.type.without(keep))
    if not sized:  # only in a body that is checked by itself
        return a.e.ops.hole(Type("real", (*(axis for axis in parts[0].type.axes if axis.name in keep), Axis("param"))))
    return a.e.ops.pack(parts, [part.type.without(keep) for part in parts])

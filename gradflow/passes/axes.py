"""Axis lists: what `[sample, r: rank]` says of a state, an input or a parameter, and how a value comes to have the axes that a body names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.scope import Scope

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator


def axis_names(node: s.Expr) -> tuple[str, ...]:
    """The axes that `over: e` names: `token`, `[pair, token]`, or the axes of another value (`inner.param`)."""
    items = [item.value for item in node.items] if isinstance(node, s.ListOf) else [node]
    if not items:
        raise mistake("E0306", node.span, "an axis name is needed here", why="an empty list names no axis", fix="name one: `over: token`")
    names: list[str] = []
    for item in items:
        if isinstance(item, s.Name):
            names.append(item.id)
        elif isinstance(item, s.Field) and item.name == "param":
            names.append("param")
        else:
            raise mistake(
                "E0306", item.span, "an axis name is needed here", why="`over:` names the axes to reduce",
                fix="`over: token`, or several: `over: [sample, token]`",
            )  # fmt: skip
    return tuple(names)


def declared_axes(e: Elaborator, axes: s.Axes, scope: Scope) -> tuple[tuple[Axis, ...], Axis | None]:
    """An axis list with its sizes evaluated; `[grad]` and `[x]` splice the axes of a value, names already in scope keep their size."""
    found: list[Axis] = []
    for item in axes.items:
        size = e.evaluate(item.size, scope) if item.size is not None else None
        if item.size is None:
            spliced = spliced_axes(e, item, scope)
            if spliced is not None:
                found.extend(spliced)
                continue
        known = scope.axes.get(item.name)
        number = size if isinstance(size, int) else known.size if known is not None else None
        found.append(Axis(item.name, number))
    target = None
    if axes.target is not None:
        target = scope.axes.get(axes.target, Axis(axes.target, None))
    return union(tuple(found)), target


def spliced_axes(e: Elaborator, item: s.AxisItem, scope: Scope) -> tuple[Axis, ...] | None:
    """The axes of the value that an axis item names (`[grad]`, `[train.x]`), or None where it names an axis."""
    parts = item.name.split(".")
    if item.name in scope.axes:
        return None
    tree: s.Expr = s.Name(item.span, parts[0])
    for part in parts[1:]:
        tree = s.Field(item.span, tree, part, item.span)
    found, value = scope.local(parts[0])
    if not found and scope.frame is not None:
        special = scope.frame.special(parts[0], item)
        found, value = special is not None, special
    if not found:
        return None
    value = e.tensor(e.evaluate(tree, scope), tree)
    return value.type.axes if isinstance(value, Node) else ()


def axes_of_bound(definition: s.Definition, bound: dict[str, Any]) -> dict[str, Axis]:
    """Axes that the types of parameters name, with the sizes that the bound values give them."""
    axes: dict[str, Axis] = {}
    for param in definition.params:
        value = bound.get(param.name)
        for option in param.type.options if param.type else ():
            for item in option.axes.items if option.axes else ():
                if isinstance(value, Node) and value.type.has(item.name):
                    axes[item.name] = value.type.axis(item.name)
    return axes


def bind_axes(e: Elaborator, value: Any, axes: s.Axes, scope: Scope, renamed: dict[str, str], span: Any) -> Any:
    """Gives a value the axis names that the body uses: by name where they coincide, else by position from the last; others are lifted.

    `renamed`, the caller's names to the body's, is added to. A default is made of the body's own names: none of them is the caller's.
    """
    value = e.tensor(value)
    if not isinstance(value, Node):
        for item in axes.items:
            scope.axes.setdefault(item.name, Axis(item.name, None))
        return value
    wanted = [item for item in axes.items if not item.spliced]
    names = [item.name for item in wanted]
    outer = {inner: o for o, inner in renamed.items()}
    value = e.ops.rename(value, {o: i for o, i in renamed.items() if value.type.has(o) and i in names and not value.type.has(i)})
    missing = [n for n in names if not value.type.has(n) and n not in outer]
    free = [a.name for a in value.type.axes if a.name not in names and a.name not in renamed.values()]
    if missing and len(free) >= len(missing) and len(value.type.axes) >= len(names):
        mapping = dict(zip(free[len(free) - len(missing) :], missing, strict=True))
        renamed.update(mapping)
        value = e.ops.rename(value, mapping)
    for item in wanted:
        if value.type.has(item.name):
            known = scope.axes.get(item.name)
            axis = value.type.axis(item.name)
            scope.axes[item.name] = axis if known is None or known.size is None else union((known,), (axis,))[0]
        else:
            scope.axes.setdefault(item.name, Axis(item.name, None))
    if axes.target is not None:
        value = _as_map(e, value, axes.target, renamed, scope, span)
    return value


def _as_map(e: Elaborator, value: Node, target: str, renamed: dict[str, str], scope: Scope, span: Any) -> Node:
    if value.type.base != "int":
        raise mistake(
            "E0310", span, f"an index map `[.. -> {target}]` is needed, this is {v.kind_name(value)}",
            why="a map says for each entry which group it is in, by number",
            fix="pass the field that says so, such as `samples.group`",
        )  # fmt: skip
    current = value.type.target
    if current is None:
        value = e.ops.make("rename", (value,), Type("int", value.type.axes, scope.axes.get(target, Axis(target, None))))
    elif current.name != target:
        renamed[current.name] = target
        value = e.ops.rename(value, {current.name: target})
    assert value.type.target is not None
    scope.axes[target] = value.type.target
    return value


def placed_on(e: Elaborator, node: Node, axes: tuple[Axis, ...]) -> Node:
    """Axes of a value to those of what it is assigned to: by name where they coincide, else by position."""
    names = [a.name for a in axes]
    missing = [n for n in names if not node.type.has(n)]
    extra = [n for n in node.type.names if n not in names]
    if missing and len(missing) == len(extra) and "param" not in extra and "node" not in extra:
        node = e.ops.rename(node, dict(zip(extra, missing, strict=True)))
    return node


def retargeted(e: Elaborator, value: Node, target: Axis | None) -> Node:
    """The same numbers as a map to `target`, where there is one."""
    if target is None or value.type.target == target:
        return value
    return e.ops.make("rename", (value,), Type("int", value.type.axes, target))

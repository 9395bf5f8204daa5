"""Which leaves a body ranges over: `[row, col]`, `[kept, cut] where kept >= cut`, `"*.attn.proj"`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import permutations
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import unbuilt


def match(
    e: Elaborator, pattern: s.Pattern | None, name: str, axes: tuple[Axis, ...], scope: Scope, bound: Mapping[str, Any]
) -> tuple[Axis, ...] | None:
    """The leaf's axes under the pattern's names, in the leaf's own order, or None where it does not fit.

    Axes bind by name where a pattern before has already given the leaf these names, else by position; with a `where` the other orders are
    tried too.
    """
    if pattern is None:
        return axes
    if isinstance(pattern, s.TextPattern):
        return axes if fnmatchcase(name, pattern.text) and _holds(e, pattern.where, axes, scope, bound) else None
    if isinstance(pattern, s.NamedPattern):
        raise unbuilt(
            pattern.span, f"`on {pattern.name}(..)` cannot run yet", "range over tensors by shape, `on [row, col]`, or by name, `on \"*.weight\"`",
        )  # fmt: skip
    names = [item.name for item in pattern.axes.items]
    twice = next((item for place, item in enumerate(pattern.axes.items) if item.name in names[:place]), None)
    if twice is not None:
        why, fix = "a body knows the axes of its leaf by name", "give each a name of its own"
        raise mistake("E0313", twice.span, f"two axes would be called `{twice.name}`", why=why, fix=fix)
    if len(names) != len(axes):
        return None
    own = tuple(axis.name for axis in axes)
    orders = [own] if set(own) == set(names) else []
    orders += permutations(names) if pattern.where is not None else [tuple(names)] if not orders else []
    for order in orders:
        named = tuple(Axis(new, old.size) for new, old in zip(order, axes, strict=True))
        if _sizes_fit(e, pattern, named, scope, bound) and _holds(e, pattern.where, named, scope, bound):
            return named
    return None


def _inner(axes: tuple[Axis, ...], scope: Scope, bound: Mapping[str, Any]) -> Scope:
    inner = scope.child()
    inner.names.update(bound)
    inner.axes.update({axis.name: axis for axis in axes})
    return inner


def _holds(e: Elaborator, condition: s.Expr | None, axes: tuple[Axis, ...], scope: Scope, bound: Mapping[str, Any]) -> bool:
    if condition is None:
        return True
    value = e.evaluate(condition, _inner(axes, scope, bound))
    if isinstance(value, Node):
        raise mistake(
            "E0311", condition.span, "what a pattern asks must be known when the spec is compiled",
            why="which leaves a stage works on does not change while it runs",
            fix="ask about sizes and parameters; inside the body, `when` asks about values",
        )  # fmt: skip
    return bool(value)


def _sizes_fit(e: Elaborator, pattern: s.ShapePattern, axes: tuple[Axis, ...], scope: Scope, bound: Mapping[str, Any]) -> bool:
    sizes = {axis.name: axis.size for axis in axes}
    return all(item.size is None or e.evaluate(item.size, _inner(axes, scope, bound)) == sizes[item.name] for item in pattern.axes.items)

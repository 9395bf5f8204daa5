"""Random draws: `x ~ e`. A draw is keyed by seed, tick and its place in the text, never by where or in which piece it is computed."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.reductions import length, one_of
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.names import TOPOLOGY
from gradflow.passes.scope import Scope


def drawn(e: Elaborator, statement: s.Bind, scope: Scope) -> Any:
    """The right side of `~`: distributions inside take their place from the name that is bound.

    Where a function is drawn twice, what it draws inside are other numbers: from the second on, the outer place stands before the inner one.
    """
    name = statement.targets[0].name
    place = ".".join(part for part in (e.context.flow, scope.owner, name, *map(str, e.loops)) if part)
    if e.drawn_in.setdefault(place, e.place) != e.place:
        place = f"{e.place}.{place}"
    if place in e.context.draws:
        return e.context.draws[place]
    with e.placed(place):
        return e.evaluate(statement.value, scope)


def draw(a: Arguments, dist: str, type_: Type, *inputs: Any, **options: Any) -> Node:
    e = a.e
    if e.place is None:
        raise mistake(
            "E0510", a.call.span, f"`{dist}` draws, so it is bound with `~`", why="a formula `=` is pure: it could be evaluated any number of times",
            fix=f"write `x ~ {dist}(..)`",
        )  # fmt: skip
    place = e.place + (f"#{e.context.fresh}" if e.context.fresh else "")
    fixed = e.context.flow == TOPOLOGY
    clock: list[Any] = [e.ops.constant(0) if fixed else e.ops.source(Type("int"), "clock", name) for name in ("seed", "tick")]
    for one in () if fixed else e.passes:
        clock[1] = one.tick(clock[1])
    if not inputs and any(axis.size is None for axis in type_.axes):
        inputs = (_origin(a, type_), 1.0)
    return e.ops.make("draw", (*clock, *inputs), type_, dist=dist, place=place, options=tuple(sorted(options.items())))


def _origin(a: Arguments, type_: Type) -> Any:
    """0, along the axes whose size is known only when values are there: a value that the call names, or one in scope, gives them."""
    ops = a.e.ops
    named = [
        a.e.evaluate(part, a.scope)
        for part in s.walk(a.call)
        if isinstance(part, s.Field) or (isinstance(part, s.Name) and a.scope.local(part.id)[0])
    ]
    inside: Any = True
    for axis in (axis for axis in type_.axes if axis.size is None):
        like = next((value for value in named if isinstance(value, Node) and value.type.has(axis.name)), None) or a.scope.holder(axis.name)
        if like is not None:
            inside = ops.elementwise("and", inside, ops.elementwise("ge", ops.range(axis, like), 0))
    return ops.where(inside, ops.constant(0.0), ops.constant(0.0))


def _axes(a: Arguments, place: int) -> tuple[Axis, ...]:
    return a.axis_list(a.places[place]) if len(a.places) > place else ()


@builtin("uniform(low, high, axes)", "Draws from [low, high), one for each entry of the axes.", "draws", 2, 3)
def uniform(a: Arguments) -> Any:
    low, high, unit = a.tensor(0), a.tensor(1), None
    unit = draw(a, "uniform", Type("real", _axes(a, 2)))
    ops = a.e.ops
    return ops.elementwise("add", ops.elementwise("mul", unit, ops.elementwise("sub", high, low)), low)


@builtin("normal(axes)", "Draws from the standard normal law, one for each entry of the axes.", "draws")
def normal(a: Arguments) -> Any:
    return draw(a, "normal", Type("real", _axes(a, 0)))


@builtin("bernoulli(p, axes)", "True with probability p.", "draws", 1, 2)
def bernoulli(a: Arguments) -> Any:
    p = a.tensor(0)
    axes = _axes(a, 1) or (p.type.axes if isinstance(p, Node) else ())
    return a.e.ops.elementwise("lt", draw(a, "uniform", Type("real", axes)), p)


@builtin("categorical(p, over: axis)", "An index into the axis, drawn with probabilities p (they need not sum to 1).", "draws")
def categorical(a: Arguments) -> Any:
    p = a.node(0)
    names = [n for n in a.over(p) if p.type.has(n)]
    if len(names) != 1:
        raise mistake("E0308", a.call.span, "`categorical` draws along one axis", why=f"the probabilities are {v.kind_name(p)}", fix=one_of(p))
    axis = p.type.axis(names[0])
    return draw(a, "categorical", Type("int", p.type.without(names), axis), p, axis=axis.name)


@builtin(
    "subset(axis, count: n, share: p)",
    "True for `count` entries of the axis (or a share of them, at least one), chosen evenly without replacement.",
    "draws",
)
def subset(a: Arguments) -> Any:
    axes = a.axis_list(a.places[0])
    names = tuple(axis.name for axis in axes)
    total: Any = 1
    for axis in axes:
        total = a.e.ops.elementwise("mul", total, axis.size if axis.size is not None else length(a, axis.name))
    if a.has("count"):
        number = a.quantity("count")
    else:
        number = a.e.ops.elementwise("maximum", a.e.ops.elementwise("round", a.e.ops.elementwise("mul", a.quantity("share", 1), total)), 1)
    if number == total:
        return True
    order = a.e.ops.rank(draw(a, "uniform", Type("real", axes)), names, False)
    return a.e.ops.elementwise("lt", order, number)


@builtin("replay(record, over: axes)", "Recorded draws: entry t - 1; a fresh look takes the next one, or moves along the second axis.", "draws")
def replay(a: Arguments) -> Any:
    record = a.node(0)
    tick, *look = a.over(record)
    before: Any = a.e.ops.elementwise("sub", a.e.ops.source(Type("int"), "clock", "t"), 1)
    if not look:
        return a.e.ops.gather(record, a.e.ops.constant(a.e.ops.elementwise("add", before, a.e.context.fresh)), tick)
    return a.e.ops.gather(a.e.ops.gather(record, before, tick), a.e.ops.constant(a.e.context.fresh), look[0])

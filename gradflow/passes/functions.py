"""Functions and objectives at work: inputs are bound to what the call supplies, the body runs, and its results take the caller's axis names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import bind_axes
from gradflow.passes.bodies import Body
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope


def run_function(e: Elaborator, function: v.Function, supplied: dict[str, Any], span: Any) -> Any:
    definition = function.definition
    scope = function.scope.inside(definition, function.bound)
    renamed: dict[str, str] = {}
    for param in definition.params:
        axes = next((option.axes for option in param.type.options if option.axes is not None), None) if param.type is not None else None
        value = function.bound.get(param.name, v.NONE)
        if axes is not None and value is not v.NONE and not isinstance(value, str):
            scope.names[param.name] = bind_axes(e, value, axes, scope, renamed, span)
    objective = definition.kind == "objective"
    body = Body(e, scope, f"the {definition.kind} `{definition.name}`", objective)
    lookup = e.records[-1] if e.records else {}
    record = {**supplied.get("#record", {}), **supplied} if objective else {}  # function values take more than it declares
    record.pop("#record", None)
    e.records.append({**lookup, **record})
    try:
        for statement in function.inputs:
            bind_input(e, definition, statement, scope, supplied, lookup, renamed, span, body)
            if objective:  # what is bound so far is the record of function values in the defaults of further inputs
                outer = {n: e.ops.rename(x, renamed) if isinstance(x, Node) else x for n, x in record.items()}
                bound = {n: scope.names[n] for i in function.inputs for n in i.names if n in scope.names}
                e.records[-1].update({n: x for n, x in (outer | bound).items() if not isinstance(x, v.Missing)})
        scope.axes.update({name: Axis(name, 1) for name in idle_axes(scope)})
        body.run(definition.body or ())
    finally:
        e.records.pop()
    return finish(e, body, definition, renamed)


def idle_axes(scope: Scope) -> list[str]:
    """Axes that inputs declare and no value has: whatever lacks such an axis is a single entry of it."""
    pointed = {m.type.target.name for m in scope.maps}
    return [name for name, axis in scope.axes.items() if axis.size is None and name not in pointed and scope.holder(name) is None]


def finish(e: Elaborator, body: Body, definition: s.Definition, renamed: dict[str, str]) -> Any:
    back = {inner: outer for outer, inner in renamed.items() if inner != outer}
    if body.problem is not None:
        return replace(body.problem, minimum=body.loss)
    if definition.kind == "objective":
        if body.loss is None:
            raise mistake(
                "E0508", definition.name_span, f"`{definition.name}` minimizes nothing", why="an objective says what is made small",
                fix="end it with `minimize ..`",
            )  # fmt: skip
        fields = {name: unrenamed(e, value, back) for name, value in body.reports.items()}
        return v.Record(fields, definition.name, unrenamed(e, body.loss, back))
    if body.returned is None:
        raise mistake(
            "E0509", definition.name_span, f"`{definition.name}` returns nothing", why="a function is what it returns", fix="end it with `return ..`",
        )  # fmt: skip
    if isinstance(body.returned, v.Record):
        fields = {n: unrenamed(e, x, back) for n, x in body.returned.fields.items()}
        return replace(body.returned, fields=fields, name=definition.name, value=unrenamed(e, body.returned.value, back))
    return unrenamed(e, body.returned, back)


def unrenamed(e: Elaborator, value: Any, back: dict[str, str]) -> Any:
    return e.ops.rename(value, back) if back and isinstance(value, Node) else value


def bind_input(
    e: Elaborator,
    definition: s.Definition,
    statement: s.Input,
    scope: Scope,
    supplied: Any,
    lookup: Any,
    renamed: dict[str, str],
    span: Any,
    body: Body,
) -> None:
    option = statement.type.options[0]
    for name in statement.names:
        value = supplied.get(name, lookup.get(name))
        given = value is not None and not isinstance(value, v.Missing)
        if option.axes is not None:
            for item in option.axes.items:
                if item.size is None:
                    scope.axes.setdefault(item.name, Axis(item.name, None))
            if option.axes.target is not None:
                scope.axes.setdefault(option.axes.target, Axis(option.axes.target, None))
        if not given and statement.default is not None:
            value = e.evaluate(statement.default, scope)
            if body.objective:
                e.remember(value)
        elif not given:
            scope.names[name] = value or v.Missing(name, definition.name, span)
            continue
        if isinstance(value, v.Record) and value.value is not None:
            value = value.value
        if option.base == "bool" and isinstance(value, Node) and value.type.base != "bool":
            raise mistake(
                "E0301", span, f"`{name}` of `{definition.name}` takes truth values, this is {v.kind_name(value)}",
                why="what is taken or left out is a matter of yes and no, not of how much", fix=f"compare: `{name}: x > 0`",
            )  # fmt: skip
        if option.axes is not None and isinstance(value, Node | int | float | v.Model):
            value = bind_axes(e, e.tensor(value), option.axes, scope, renamed if given else {}, span)
        scope.names[name] = value
        if isinstance(value, Node) and value.type.target is not None:
            scope.maps.append(value)

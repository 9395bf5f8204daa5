"""Bodies: statements run top to bottom over a scope. Functions and objectives here; stages add state and parameters (`stages.py`).

`when` runs its block on a copy and merges what was assigned, lazily; `repeat` unrolls a loop of known count and makes a scan of a loop
over an axis. Formulas of an objective that involve no live value are remembered: they are taken once per rollout (`passes/place.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node, Region, depends
from gradflow.graph.types import Axis, AxisConflict, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.calls import bind_parameters, declared_axes, unbuilt
from gradflow.passes.expressions import NUMBERS, Elaborator, two_sizes
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, suggestion
from gradflow.procedures.acting import does_act, misplaced_choice

MOST_PASSES = 1000


def is_live(node: Node) -> bool:
    """Depends on parameters that are being trained (or on a model called at them)."""
    return node.op in ("model", "model_vjp") or (node.op == "source" and node["kind"] == "param")


def unpacked(statement: s.Bind, value: Any) -> list[Any]:
    """The values that the names on the left are bound to."""
    count = len(statement.targets)
    if count == 1:
        return [value]
    if isinstance(value, v.Record) and len(value.fields) == count:
        return list(value.fields.values())
    if isinstance(value, tuple | list) and len(value) == count:
        return list(value)
    found = len(value.fields) if isinstance(value, v.Record) else len(value) if isinstance(value, tuple | list) else 1
    raise mistake(
        "E0502", statement.span, f"{count} names on the left, {v.kind_name(value)} on the right",
        why=f"the right side has {found} value{'s' * (found != 1)}",
        fix="give as many names as there are values",
    )  # fmt: skip


class Body:
    """Runs statements. `returned` is the value of `return`, with the condition under which it happens."""

    holds = "holds formulas, draws, `when`, `repeat`, `report` and what it results in (`return` or `minimize`)"

    def __init__(self, e: Elaborator, scope: Scope, name: str, objective: bool = False):
        self.e = e
        self.scope = scope
        self.name = name
        self.objective = objective
        self.loss: Any = None
        self.problem: Any = None  # of an objective that varies something: see gradflow/solvers
        self.returned: Any = None
        self.return_condition: Any = True
        self.reports: dict[str, Any] = {}

    def run(self, statements: tuple[s.Statement, ...], scope: Scope | None = None) -> None:
        for statement in statements:
            self.e.ops.span = statement.span
            method = getattr(self, f"do_{type(statement).__name__.lower()}", None)
            if method is None:
                self.misplaced(statement)
                continue
            try:
                method(statement, scope or self.scope)
            except AxisConflict as conflict:
                raise two_sizes(statement.span, conflict) from None

    def misplaced(self, statement: s.Statement) -> None:
        from gradflow.passes.words import statement_word

        word = statement_word(statement)
        raise mistake(
            "E0501", head(statement.span, word), f"`{word}` has no place in the body of {self.name}",
            why=f"{self.name} {self.holds}, and nothing else that this version can run",
            fix="move it to the definition that it belongs to, or remove it",
        )  # fmt: skip

    # ---- statements

    def do_doc(self, statement: s.Doc, scope: Scope) -> None:
        pass

    def do_input(self, statement: s.Input, scope: Scope) -> None:
        pass

    def do_bind(self, statement: s.Bind, scope: Scope) -> None:
        if statement.op == "<-":
            self.assignable(statement, scope)
        if statement.op == "~":
            value = self.draw(statement, scope)
        else:
            value = self.e.evaluate(statement.value, scope)
        values = unpacked(statement, value)
        for target, one in zip(statement.targets, values, strict=True):
            if statement.op == "<-":
                self.assign(target, one, scope, statement)
            else:
                self.bind(target, one, scope)

    def draw(self, statement: s.Bind, scope: Scope) -> Any:
        from gradflow.builtins.draws import drawn

        return drawn(self.e, statement, scope)

    def bind(self, target: s.Target, value: Any, scope: Scope) -> None:
        name = target.name
        if target.index or "." in name:
            raise mistake(
                "E0503", target.span, "a formula binds a plain name", why="`=` and `~` make a new name; they do not change part of a value",
                fix="choose by position instead: `where(position(axis) == i, new, x)`",
            )  # fmt: skip
        if name in scope.names and not name.startswith("#") and scope.names[name] is not value and self.once(name, scope):
            raise mistake(
                "E0504", head(target.span, name), f"`{name}` is bound twice", why="`=` and `~` bind a fresh name",
                fix=f"use `{name} <- ..` if it is state, or another name",
            )  # fmt: skip
        if isinstance(value, Node) and value.type.target is not None and not any(m is value for m in scope.maps):
            scope.maps.append(value)
        if self.objective:
            self.e.remember(value)
        scope.names[name] = value

    def once(self, name: str, scope: Scope) -> bool:
        return True

    def assignable(self, statement: s.Bind, scope: Scope) -> None:
        for target in statement.targets:
            if not scope.local(target.name)[0]:
                place = head(target.span, target.name)
                raise mistake(
                    "E0506", place, f"nothing called `{target.name}` can be assigned here",
                    why="`<-` assigns to state, `param` or a loop's `with` name",
                    **suggestion(place, target.name, scope.locals(), f"declare it: `state {target.name} = 0`, or bind it with `=`"),
                )  # fmt: skip

    def assign(self, target: s.Target, value: Any, scope: Scope, statement: s.Bind) -> None:
        if target.index:
            raise mistake(
                "E0505", target.span, "only states can be assigned in part", why=f"`{target.name}` is no state",
                fix="assign the whole: `x <- where(position(axis) == i, new, x)`",
            )  # fmt: skip
        scope.assign(target.name, value)

    def do_return(self, statement: s.Return, scope: Scope) -> None:
        self.returned = self.e.evaluate(statement.value, scope)

    def do_minimize(self, statement: s.Minimize, scope: Scope) -> None:
        value = self.e.tensor(self.e.evaluate(statement.value, scope), statement.value)
        self.loss = value if self.loss is None else self.e.ops.elementwise("add", self.loss, value)

    def do_vary(self, statement: s.Vary, scope: Scope) -> None:
        from gradflow.solvers.words import vary

        vary(self, statement, scope)

    def do_subjectto(self, statement: s.SubjectTo, scope: Scope) -> None:
        from gradflow.solvers.words import subject_to

        subject_to(self, statement, scope)

    def do_reportas(self, statement: s.ReportAs, scope: Scope) -> None:
        self.reports[statement.name] = self.e.evaluate(statement.value, scope)

    def do_require(self, statement: s.Require, scope: Scope) -> None:
        from gradflow.passes.properties import check_requirement

        check_requirement(self.e, statement, scope)

    def do_gives(self, statement: s.Gives, scope: Scope) -> None:
        from gradflow.passes.properties import check_given

        check_given(self.e, statement, scope)

    def do_state(self, statement: s.State, scope: Scope) -> None:
        from gradflow.procedures.states import declare

        declare(self, statement, scope)

    # ---- when

    def do_when(self, statement: s.When, scope: Scope) -> None:
        condition = self.e.tensor(self.e.evaluate(statement.condition, scope), statement.condition)
        if not isinstance(condition, Node):
            if condition:
                self.run(statement.body, scope)
            return
        if self.e.keeping is not None and does_act(statement.body, scope):
            raise misplaced_choice(statement)
        before = self.snapshot(scope)
        inner = scope.child()
        self.guarded(condition, statement, inner)
        self.merge(condition, before, scope, statement)

    def guarded(self, condition: Node, statement: s.When, inner: Scope) -> None:
        self.run(statement.body, inner)

    def snapshot(self, scope: Scope) -> dict[int, tuple[Scope, dict[str, Any]]]:
        found = {}
        current: Scope | None = scope
        while current is not None:
            found[id(current)] = (current, dict(current.names))
            current = current.parent
        return found

    def merge(self, condition: Node, before: dict[int, tuple[Scope, dict[str, Any]]], scope: Scope, statement: s.When) -> None:
        """What was assigned inside holds where the condition does, else what it was before."""
        for current, names in before.values():
            for name, old in names.items():
                new = current.names[name]
                if new is not old:
                    current.names[name] = self.either(condition, new, old, statement)

    def either(self, condition: Node, new: Any, old: Any, statement: s.Node) -> Any:
        if isinstance(new, v.Record) and isinstance(old, v.Record) and new.value is None and set(new.fields) == set(old.fields):
            return replace(new, fields={name: self.either(condition, x, old.fields[name], statement) for name, x in new.fields.items()})
        a, b = self.e.tensor(new, statement), self.e.tensor(old, statement)
        self.e.ops.span = statement.span
        if condition.type.axes:
            return self.e.ops.where(condition, a, b)
        return self.e.ops.choose(condition, a, b)

    # ---- repeat

    def do_repeat(self, statement: s.Repeat, scope: Scope) -> None:
        if self.e.keeping is not None and does_act(statement.body, scope):
            from gradflow.procedures.loops import acting_loop

            acting_loop(self, statement, scope)
            return
        if statement.axis is None:
            fix = "say how many there are at most: `repeat pass: 100 with .. until .. { .. }`"
            raise unbuilt(head(statement.span, "repeat"), "a loop without a number of passes cannot run yet", fix)
        inner = scope.child()
        for start in statement.values:
            inner.names[start.name] = self.e.evaluate(start.value, scope)
        name = statement.axis.name
        if statement.axis.size is not None:
            count = self.e.evaluate(statement.axis.size, scope)
            if not isinstance(count, int):
                raise mistake(
                    "E0507", statement.axis.size.span, "the number of passes must be a whole number that is known when the spec is compiled",
                    why=f"this is {v.kind_name(count)}",
                    fix="give a number or an `int` parameter; to run along data, name its axis alone: `repeat token { .. }`",
                )  # fmt: skip
            if count > MOST_PASSES:
                raise mistake(
                    "E0507", statement.axis.size.span, f"a loop has at most {MOST_PASSES} passes, {count} are asked for",
                    why="every pass becomes a piece of the program",
                    fix="give a smaller number; to run along data, name its axis alone: `repeat token { .. }`",
                )  # fmt: skip
            if statement.until is not None:
                self.scan(statement, inner, scope, name, count)
                scope.axes[name] = Axis(name, count)
            else:
                self.unroll(statement, inner, scope, name, count)
        elif name in scope.axes or self.e.holder(name, scope) is not None:
            self.scan(statement, inner, scope, name)
        else:
            raise mistake(
                "E0303", statement.axis.span, f"no value here has an axis `{name}`", why="a loop over an axis runs along values that have it",
                **suggestion(statement.axis.span, name, scope.axes, f"give a number of passes: `repeat {name}: 10 {{ .. }}`"),
            )  # fmt: skip
        for start in statement.values:
            scope.names[start.name] = inner.names[start.name]

    def unroll(self, statement: s.Repeat, inner: Scope, scope: Scope, name: str, count: int) -> None:
        if count == 0 and type(self) is Body:  # others do more than bind
            from gradflow.loops.scan import no_pass

            no_pass(self, statement, scope, name)
        stacked: dict[str, list[Any]] = {}
        order = range(count - 1, -1, -1) if statement.backward else range(count)
        for index in order:
            body = inner.child()
            body.names[name] = index
            with self.e.looping(index):
                self.run(statement.body, body)
            for bound, value in body.names.items():
                if bound != name and not bound.startswith("#"):
                    stacked.setdefault(bound, []).append(value)
        for bound, values in stacked.items():
            if all(isinstance(x, (*NUMBERS, Node)) for x in values):
                scope.names[bound] = self.e.ops.stack(values[::-1] if statement.backward else values, name)
        scope.axes[name] = Axis(name, count)

    def scan(self, statement: s.Repeat, inner: Scope, scope: Scope, name: str, count: int | None = None) -> None:
        from gradflow.loops.scan import scan

        scan(self, statement, inner, scope, name, count)


# ---- functions and objectives


def run_function(e: Elaborator, function: v.Function, supplied: dict[str, Any], span: Any) -> Any:
    definition = function.definition
    scope = function.scope.child(definition.name)
    scope.names.update(function.bound)
    scope.names["#definition"] = definition
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
        scope.axes.update({name: Axis(name, 1) for name in idle_axes(e, scope)})
        body.run(definition.body or ())
    finally:
        e.records.pop()
    return finish(e, body, definition, renamed, span)


def idle_axes(e: Elaborator, scope: Scope) -> list[str]:
    """Axes that inputs declare and no value has: whatever lacks such an axis is a single entry of it."""
    pointed = {m.type.target.name for m in scope.maps}
    return [name for name, axis in scope.axes.items() if axis.size is None and name not in pointed and e.holder(name, scope) is None]


def finish(e: Elaborator, body: Body, definition: s.Definition, renamed: dict[str, str], span: Any) -> Any:
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
        return replace(body.returned, fields={n: unrenamed(e, x, back) for n, x in body.returned.fields.items()}, name=definition.name)
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


__all__ = ["Body", "Region", "bind_axes", "bind_parameters", "declared_axes", "depends", "is_live", "run_function"]

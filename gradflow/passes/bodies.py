"""Bodies: statements run top to bottom over a scope. Those of functions and objectives begin in `functions.py`; stages add state (`stage_bodies.py`).

`when` runs its block on a copy and merges what was assigned, lazily; `repeat` unrolls a loop of known count and makes a scan of a loop
over an axis. Formulas of an objective that involve no live value are remembered: they are taken once per rollout (`passes/place.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, AxisConflict
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import NUMBERS, Elaborator, two_sizes
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, suggestion, unbuilt
from gradflow.passes.words import misplaced
from gradflow.procedures.acting import does_act

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
                why = f"{self.name} {self.holds}, and nothing else that this version can run"
                raise misplaced(statement, f"in the body of {self.name}", why, "move it to the definition that it belongs to, or remove it")
            try:
                method(statement, scope or self.scope)
            except AxisConflict as conflict:
                raise two_sizes(statement.span, conflict) from None

    # ---- statements

    def do_doc(self, statement: s.Doc, scope: Scope) -> None:
        pass

    def do_input(self, statement: s.Input, scope: Scope) -> None:
        pass

    def do_bind(self, statement: s.Bind, scope: Scope) -> None:
        if statement.op == "<-":
            self.assignable(statement, scope)
        value = self.draw(statement, scope) if statement.op == "~" else self.e.evaluate(statement.value, scope)
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
            from gradflow.procedures.loops import acting_choice

            acting_choice(self, statement, scope, condition)
            return
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
            along = "; to run along data, name its axis alone: `repeat token { .. }`"
            if not isinstance(count, int):
                what = "the number of passes must be a whole number that is known when the spec is compiled"
                fix = f"give a number or an `int` parameter{along}"
                raise mistake("E0507", statement.axis.size.span, what, why=f"this is {v.kind_name(count)}", fix=fix)
            if count > MOST_PASSES:
                what, why = f"a loop has at most {MOST_PASSES} passes, {count} are asked for", "every pass becomes a piece of the program"
                raise mistake("E0507", statement.axis.size.span, what, why=why, fix=f"give a smaller number{along}")
            if statement.until is not None:
                self.scan(statement, inner, scope, name, count)
                scope.axes[name] = Axis(name, count)
            else:
                self.unroll(statement, inner, scope, name, count)
        elif name in scope.axes or scope.holder(name) is not None:
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

"""A schedule definition turned into a plan: `cut sample by group`, formulas over the fields of a record, what the attention of a model sees,
and the rows that come of it. Cuts along other axes, `recompute` and other layers are part of the language that cannot run yet.
"""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes import values as v
from gradflow.passes.axes import bind_axes
from gradflow.passes.bodies import Body
from gradflow.passes.calls import call_values
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, listed, suggestion, unbuilt
from gradflow.schedules.exactness import difference
from gradflow.schedules.plan import FIELDS, HOOK, RESULTS, SchedulePlan

PARTS = ("query", "key", "value", "out")
LESS = "leave the line out: a schedule changes how, not what is computed"


def scheduled(e: Elaborator, value: Any, span: Any) -> SchedulePlan | None:
    """What `schedule = value` asks for; None for `none`. Raises Mistake."""
    from gradflow.passes.calls import applied

    value = applied(e, value, span)
    if value is v.NONE:
        return None
    if not isinstance(value, v.Stage) or value.kind != "schedule":
        raise mistake(
            "E0561", span, f"a schedule is needed here, this is {v.kind_name(value)}", why="`schedule = ..` says how the pipeline is computed",
            fix="call one: `schedule = shared_prefix()`",
        )  # fmt: skip
    with e.anchoring(span):
        return plan_of(e, value, span)


def plan_of(e: Elaborator, value: v.Stage, span: Any) -> SchedulePlan:
    """The plan of a schedule, proved to be exact. Raises Mistake."""
    definition = value.definition
    scope = value.scope.inside(definition, value.bound)
    scope.names["dropout"] = 0
    body = ScheduleBody(e, scope, f"the schedule `{definition.name}`")
    with e.at(batch=False):
        body.run(definition.body or ())
    layout, sees = body.regions(definition)
    plan = SchedulePlan(definition.name, body.whole, body.still, layout, sees, (), span)
    found = "it does not say `gives exact`" if not body.exact else difference(layout, sees)
    if found:
        raise mistake(
            "E0562", definition.name_span, f"the schedule `{definition.name}` changes what is computed", label=found,
            why="it may change work and memory alone: every token is to be predicted from its prompt and from what stands before it in its response",
            fix="mend what is seen, the positions or the way back; what changes the estimate is an `estimator`",
        )  # fmt: skip
    return plan


class ScheduleBody(Body):
    """The statements of a schedule. `sees`: which slot attends to which; `whole`: the map whose groups are kept together."""

    holds = "holds inputs, `gives exact`, `require`, `cut`, formulas, `on attention(..)` and the rows that it returns"

    def __init__(self, e: Elaborator, scope: Scope, name: str):
        super().__init__(e, scope, name)
        self.whole = self.still = ""
        self.exact = False
        self.sees: Any = None

    def do_input(self, statement: s.Input, scope: Scope) -> None:
        option = statement.type.options[0]
        for name in statement.names:
            if name not in FIELDS:
                raise mistake(
                    "E0205", statement.span, f"a record of samples has no field `{name}` for a schedule", why=f"it has {listed(FIELDS)}",
                    **suggestion(statement.span, name, FIELDS, "read one of these"),
                )  # fmt: skip
            value: Any = self.e.ops.source(FIELDS[name], "input", name)
            if option.axes is not None:
                value = bind_axes(self.e, value, option.axes, scope, {}, statement.span)
            scope.names[name] = value
            scope.maps += [value] if value.type.target is not None else []

    def do_gives(self, statement: s.Gives, scope: Scope) -> None:
        if not isinstance(statement.value, s.Name) or statement.value.id != "exact":
            raise mistake(
                "E0562", statement.span, "a schedule is exact", why="it changes how something is computed, not what",
                fix="write `gives exact`; what changes the estimate is an `estimator`",
            )  # fmt: skip
        self.exact = True

    def do_require(self, statement: s.Require, scope: Scope) -> None:
        """What must hold of a model: read with dropout and without."""
        inner = scope.child()
        holds = []
        for share in (0, 0.5):
            inner.names["dropout"] = share
            holds.append(self.e.evaluate(statement.value, inner))
        if holds == [True, False]:
            self.still = statement.message or "it drops out at random"
        elif holds != [True, True]:
            raise unbuilt(statement.span, "schedules can require `dropout == 0` and nothing else yet", LESS)

    def do_cut(self, statement: s.Cut, scope: Scope) -> None:
        if statement.axis != "sample" or not isinstance(statement.size, s.Name) or statement.size.id != "group":
            raise unbuilt(statement.span, f"`cut {statement.axis} by ..` cannot run yet", "cut samples by group, or " + LESS)
        self.whole = "group"

    def do_recompute(self, statement: s.Recompute, scope: Scope) -> None:
        raise unbuilt(statement.span, "`recompute` cannot run yet", LESS)

    def do_on(self, statement: s.On, scope: Scope) -> None:
        pattern = statement.pattern
        if not isinstance(pattern, s.NamedPattern) or pattern.name != HOOK:
            raise unbuilt(head(statement.span, "on"), "schedules of other layers than `attention` cannot run yet", LESS)
        given = [param.name for param in pattern.params]
        unknown = next((name for name in given if name not in PARTS), None)
        if unknown is not None:
            raise mistake(
                "E0404", pattern.span, f"`attention` has no part `{unknown}`", why=f"it has {listed(PARTS)}",
                **suggestion(pattern.span, unknown, PARTS, "name one of these"),
            )  # fmt: skip
        call = self.attends(statement)
        values = {arg.name or ("query", "key", "value")[i]: arg.value for i, arg in enumerate(call.args)}
        named = {name for name, value in values.items() if isinstance(value, s.Name) and value.id == name}
        if set(values) != {"query", "key", "value", "sees"} or not named >= {"query", "key", "value"}:
            raise unbuilt(call.span, "attention that is more than another choice of what is seen cannot run yet", LESS)
        self.sees = self.e.evaluate(values["sees"], scope), call.span

    def attends(self, statement: s.On) -> s.Call:
        """`out = attend(..)`, the one thing that a schedule does to attention."""
        one = statement.body[0] if len(statement.body) == 1 else None
        value = one.value if isinstance(one, s.Bind) and one.op == "=" and one.targets[0].name == "out" else None
        if isinstance(value, s.Call) and isinstance(value.callee, s.Name) and value.callee.id == "attend" and len(value.args) <= 4:
            return value
        other = "a block on `attention` that is not `out = attend(query, key, value, sees: ..)` cannot run yet"
        raise unbuilt(head(statement.span, "on"), other, LESS)

    # ---- what comes of it

    def regions(self, definition: s.Definition) -> tuple[Region, Region]:
        """(layout, sees)."""
        found = self.returned.fields if isinstance(self.returned, v.Record) else {}
        missing = [name for name in RESULTS if not isinstance(found.get(name), Node)]
        if missing or self.sees is None:
            what = f"returns no `{missing[0]}`" if missing else "does not say what attention sees"
            raise mistake(
                "E0563", definition.name_span, f"`{definition.name}` {what}", why=f"its rows are told by {listed(RESULTS)}",
                fix="return a record with these fields, and say `on attention(..) { out = attend(query, key, value, sees: ..) }`",
            )  # fmt: skip
        results = tuple((name, self.shaped(name, found[name], type_, definition)) for name, type_ in RESULTS.items())
        visible = self.visible(dict(results)["word"])
        return Region(results, (), f"rows of {definition.name}"), Region((("visible", visible),), (), f"what slots see in {definition.name}")

    def shaped(self, name: str, value: Node, type_: Type, definition: s.Definition) -> Node:
        if value.type.base != type_.base or not set(value.type.names) <= set(type_.names):
            raise mistake(
                "E0563", definition.name_span, f"`{name}` is {v.kind_name(value)}", why=f"the rows of a schedule have `{name}` of type {type_}",
                fix="return it with these axes",
            )  # fmt: skip
        return self.e.ops.expand(value, type_.axes)

    def visible(self, like: Node) -> Node:
        """Whether slot i sees slot j, for all pairs of a row."""
        ops, (function, span) = self.e.ops, self.sees
        slot = Axis("slot", None)
        i = ops.range(slot, like, slot)
        j = ops.make("rename", (i,), Type("int", (Axis("seen", None),), slot))
        value = self.e.tensor(call_values(self.e, function, span, i, j))
        if not isinstance(value, Node) or value.type.base != "bool" or not set(value.type.names) <= {"prompt", "slot", "seen"}:
            raise mistake(
                "E0563", span, f"`sees` gives {v.kind_name(value)}", why="it says for two slots of a row whether the first one sees the second",
                fix="compare something of both: `sees: (i, j) => place[j] <= place[i]`",
            )  # fmt: skip
        return ops.expand(value, (like.type.axis("prompt"), slot, Axis("seen", None)))


def check_schedule(e: Elaborator, value: v.Stage) -> None:
    """The check of a definition by itself. Raises Mistake."""
    plan_of(e, value, value.definition.name_span)


__all__ = ["Mistake", "check_schedule", "plan_of", "scheduled"]

"""Pipelines: declarations, live formulas, flows, training phases and reports, elaborated into a `Program`.

A formula is live and unordered: it is evaluated for whoever reads it, at the parameters and on the batch of the moment. Draws and flows run
in the order of the text, flows of the pipeline before those of a `train` block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gradflow.events.plan import check_unit
from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes import values as v
from gradflow.passes.bodies import unpacked
from gradflow.passes.declarations import Declarations, fresh_name
from gradflow.passes.expressions import Elaborator
from gradflow.passes.flows import ElaboratedFlow, elaborate_flow
from gradflow.passes.formulas import Formula
from gradflow.passes.place import split_rollout
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import suggestion
from gradflow.passes.training import period_of, settings_of, span_of, stored
from gradflow.passes.words import misplaced
from gradflow.plan import program as p
from gradflow.procedures.acting import actions_of
from gradflow.procedures.asked import asked
from gradflow.procedures.states import Keeping
from gradflow.topologies.facts import facts as topology_facts


class PipelineElaborator:
    """Turns one pipeline with bound parameters into a Program."""

    def __init__(self, definition: s.Definition, home: Scope, bound: Mapping[str, Any], e: Elaborator):
        self.e = e
        self.definition = definition
        self.scope = home.inside(definition, bound)
        self.bound = bound
        self.declared = Declarations(self.e, definition, self.scope.module.source, bound)
        self.phases: list[p.Phase] = []
        self.flows: dict[int, str] = {}
        self.pending: list[tuple[s.Statement, Scope]] = []
        self.e.world = []
        self.asked: list[Any] = []  # calls that reports make
        self.e.constants["scheduled"] = any(isinstance(one, s.ScheduleIs) for one in definition.body or ())
        self.schedule: Any = None

    def program(self) -> p.Program:
        body = self.definition.body or ()
        for statement in body:
            if not isinstance(statement, s.Train):
                self.attempt(statement)
        trains = [statement for statement in body if isinstance(statement, s.Train)]
        for statement in trains:
            with self.e.collecting():
                self.train(statement)
        if not trains:
            self.e.warn(
                "W0201", self.definition.name_span, f"`{self.definition.name}` trains nothing", why="flows run on the clock of a `train` line",
                fix="end it with `train 100 steps`",
            )  # fmt: skip
            self.flow_actions([])
        declared, source = self.declared, self.scope.module.source
        program = p.Program(
            self.definition.name, self.definition.text("doc"), declared.laid_out(), declared.data, tuple(self.phases), dict(self.bound),
            declared.inputs, source.name, source.text, self.schedule,
        )  # fmt: skip
        if not self.e.report.errors:
            from gradflow.analyses.knobs import check_knobs
            from gradflow.privacy.check import private_program
            from gradflow.schedules.gain import used_where_it_can

            program = private_program(self.e, program, self.definition)
            if self.schedule is not None:
                program = used_where_it_can(self.e, program)
            check_knobs(self.e, program, self.definition, self.scope)
        return program

    def attempt(self, statement: s.Statement) -> None:
        """One statement; if it has a mistake, the names that it would bind are known as broken, so that nothing is said twice."""
        try:
            self.statement(statement, self.scope)
        except Mistake as error:
            self.e.report.add(error.diagnostic)
            bound = [t.name for t in statement.targets] if isinstance(statement, s.Bind) else getattr(statement, "names", ())
            for name in bound:
                self.scope.names.setdefault(name, v.Broken(error.diagnostic))

    # ---- declarations and formulas

    def statement(self, statement: s.Statement, scope: Scope) -> None:
        self.e.ops.span = statement.span
        handler: Any = {
            s.Declare: self.declared.declare, s.Bind: self.bind, s.Input: self.declared.input, s.Doc: lambda *_: None, s.Require: self.require,
            s.Flow: self.defer, s.ScheduleIs: self.schedule_is,
        }.get(type(statement))  # fmt: skip
        if handler is None:
            why = "a pipeline holds models, data, formulas, draws, flows, requirements and `train` lines"
            hint = "; reports stand in a `train` line" if isinstance(statement, s.ReportAs) else ""
            raise misplaced(statement, "at the level of a pipeline", why, f"move it into the definition that it belongs to{hint}")
        handler(statement, scope)

    def schedule_is(self, statement: s.ScheduleIs, scope: Scope) -> None:
        from gradflow.schedules.elaborate import scheduled

        self.schedule = scheduled(self.e, self.e.evaluate(statement.value, scope), statement.value.span)

    def require(self, statement: s.Require, scope: Scope) -> None:
        from gradflow.passes.properties import check_requirement

        check_requirement(self.e, statement, scope)

    def defer(self, statement: Any, scope: Scope) -> None:
        self.pending.append((statement, scope))

    def bind(self, statement: s.Bind, scope: Scope) -> None:
        if statement.op == "=":
            target = statement.targets[0]
            if len(statement.targets) > 1:
                value = self.e.evaluate(statement.value, scope)
                scope.names.update({t.name: x for t, x in zip(statement.targets, unpacked(statement, value), strict=True)})
                return
            fresh_name(target.name, scope, target.span)
            scope.names[target.name] = Formula(self.e, statement.value, scope, target.name)
        else:
            self.pending.append((statement, scope))
            if statement.op == "~":
                self.draw(statement, scope)

    def draw(self, statement: s.Bind, scope: Scope) -> None:
        """`samples ~ sample(..)`: once a unit, held. Other draws are regions whose value is held."""
        from gradflow.builtins.draws import drawn

        name = statement.targets[0].name
        for target in statement.targets:
            fresh_name(target.name, scope, statement.span)
        before = len(self.e.world or [])
        self.e.keeping = Keeping(self.e, f"~{name}")
        try:
            value = drawn(self.e, statement, scope)
            if len(statement.targets) > 1:  # held together, by the first name
                value = v.Record({t.name: x for t, x in zip(statement.targets, unpacked(statement, value), strict=True)}, name)
            scope.names[name], self.e.constants[f"draw {name}"] = actions_of(self.e, name, value, (self.e.world or [])[before:], self.held)
            if len(statement.targets) > 1:
                scope.names.update(scope.names[name].fields)
        finally:
            self.e.keeping = None

    def held(self, name: str, field_name: str, node: Node) -> Node:
        """What was drawn, as flows read it: how many samples they see is open where a `train` cuts them into minibatches."""
        settings = [arg.name for one in self.definition.body or () if isinstance(one, s.Train) for arg in one.args]
        cut = {"sample"} if "minibatches" in settings else set()
        axes = tuple(Axis(axis.name, None) if axis.name in cut else axis for axis in node.type.axes)
        return self.e.ops.source(Type(node.type.base, axes, node.type.target), "held", name, field_name)

    # ---- training

    def flow_actions(self, inner: list[tuple[s.Statement, Scope]]) -> list[p.Action]:
        actions: list[p.Action] = []
        for statement, where in [*self.pending, *inner]:
            with self.e.collecting():
                actions.extend(self.action(statement, where))
        return actions

    def action(self, statement: s.Statement, scope: Scope) -> list[p.Action]:
        if isinstance(statement, s.Flow):
            name = self.flows.setdefault(id(statement), f"flow{len(self.flows) + 1}")
            return [self.update(elaborate_flow(self.e, statement, scope, name))]
        assert isinstance(statement, s.Bind)
        name = statement.targets[0].name
        if statement.op == "~":
            return list(self.e.constants.get(f"draw {name}", ()))
        found, model = scope.local(name)
        if not found or not isinstance(model, v.Model):
            known = [n for n in scope.locals() if isinstance(scope.local(n)[1], v.Model)]
            raise mistake(
                "E0506", statement.targets[0].span, f"nothing called `{name}` can be assigned here", why="in a pipeline `<-` assigns to a model",
                **suggestion(statement.targets[0].span, name, known, f"declare it: `model {name} = copy(net)`; a formula is bound with `=`"),
            )  # fmt: skip
        with self.e.at(batch=True):
            value = self.e.ops.constant(self.e.tensor(self.e.evaluate(statement.value, scope), statement.value))
        flat = value if value.type.has("param") else self.e.ops.pack([value], [model.free or ()])
        if lifted := flat.type.without(["param"]):
            self.e.model_axes[name] = union(self.e.model_axes.get(name, ()), lifted)
        return [p.Assign(name, Region(((f"param/{name}", flat),)), statement.span)]

    def update(self, flow: ElaboratedFlow) -> p.Update:
        region = Region(flow.results, (), flow.name)
        rollout, region = split_rollout(self.e, region)
        facts: dict[str, Any] = {"stages": flow.notes} | ({"stated": flow.stated} if flow.stated else {})
        if flow.topology is not None:
            facts["topology"] = partial(topology_facts, self.e, flow.topology)  # asked for by `plan`, not by `check`
            data = self.declared.data
            for plan in data.values():
                if plan.spec.divide is not None and flow.topology.nodes is not None:
                    data[plan.name] = replace(plan, nodes=flow.topology.nodes)
        names = tuple(m.name for m in flow.models)
        return p.Update(flow.name, names, region, rollout, flow.states, flow.stages, flow.topology, (), flow.span, facts, flow.events, flow.spread)

    def train(self, statement: s.Train) -> None:
        unit, count = span_of(self.e, statement, self.scope)
        settings = settings_of(self.e, statement, unit, self.scope)
        scope = self.scope.child()
        inner: list[tuple[s.Statement, Scope]] = []
        periodic: list[s.Every] = []
        last: list[s.Statement] = []
        for one in statement.body or ():
            if isinstance(one, s.Every):
                periodic.append(one)
            elif isinstance(one, s.ReportAs):
                last.append(one)
            elif isinstance(one, s.Flow) or (isinstance(one, s.Bind) and one.op != "="):
                if isinstance(one, s.Bind) and one.op == "~":
                    self.draw(one, scope)
                inner.append((one, scope))
            else:
                self.statement(one, scope)
        with self.e.at():
            actions = self.flow_actions(inner)
        for one, _ in inner:  # what was drawn last stays held: later phases may read it
            if isinstance(one, s.Bind) and one.op == "~" and one.targets[0].name in scope.names:
                self.scope.names.setdefault(one.targets[0].name, scope.names[one.targets[0].name])
        check_unit(unit, actions, statement.span)
        reports = tuple(self.reports(one.body, *period_of(self.e, one, unit, scope), scope, one.span) for one in periodic)
        final = self.reports(tuple(last), unit, 0, scope, statement.span) if last else None
        wanted = {"/".join((n["kind"], *n["path"])) for r in (*reports, final) if r is not None for n in r.region.sources()}
        kept = tuple(stored(action, wanted) if isinstance(action, p.Update) else action for action in actions)
        self.phases.append(p.Phase(count, unit, settings, kept, reports, statement.span, final))

    def reports(self, statements: tuple[s.Statement, ...], unit: str, count: int, scope: Scope, span: Any) -> p.Periodic:
        """What an `every` block reports; count 0 is for reports at the end of the training."""
        inner = scope.child()
        results: list[tuple[str, Node]] = []
        checkpoint = False
        before = len(self.e.world or [])
        self.e.reporting = True
        for one in statements:
            with self.e.collecting():
                if isinstance(one, s.ReportAs):
                    value = self.e.tensor(self.e.evaluate(one.value, inner), one.value)
                    results.append((one.name, self.e.ops.constant(value)))
                elif isinstance(one, s.Bare) and one.word == "checkpoint":
                    checkpoint = True
                elif isinstance(one, s.Bind) and one.op == "=":
                    self.bind(one, inner)
                else:
                    why, fix = "it holds `report`, `checkpoint` and formulas", "put it in the `train` block around it, or in the pipeline"
                    raise misplaced(one, "in an `every` block", why, fix)
        self.e.reporting = False
        self.asked += (self.e.world or [])[before:]
        region = Region(tuple(results), (), "report")
        return p.Periodic(count, unit, region, asked(region.sources(), self.asked)[0], checkpoint, span)

"""Pipelines: declarations, live formulas, flows, training phases and reports, elaborated into a `Program`.

A formula is live and unordered: it is evaluated for whoever reads it, at the parameters and on the batch of the moment. Draws and flows run
in the order of the text, flows of the pipeline before those of a `train` block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from gradflow.builtins.heads import is_head, with_head
from gradflow.events.plan import check_unit
from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, Report, mistake
from gradflow.passes import values as v
from gradflow.passes.bodies import unpacked
from gradflow.passes.calls import declared_axes, unbuilt
from gradflow.passes.expressions import Elaborator
from gradflow.passes.flows import ElaboratedFlow, elaborate_flow
from gradflow.passes.models import declare_primitive
from gradflow.passes.place import split_rollout
from gradflow.passes.scope import Scope
from gradflow.passes.standalone import without_idle_states
from gradflow.passes.suggestions import head, listed, suggestion
from gradflow.plan import program as p
from gradflow.procedures.acting import actions_of, called_for, drawn_before
from gradflow.procedures.states import Keeping
from gradflow.topologies.facts import facts as topology_facts

UNITS = {"step": "steps", "epoch": "epochs", "round": "rounds", "rollout": "rollouts", "task": "tasks", "event": "events", "time": "time"}
BUILT_UNITS = ("steps", "epochs", "rounds", "rollouts", "events", "time")
SETTINGS = {"seed", "epochs", "minibatches", "precision", "micro", "whole"}
WORDS = {"precision": ("float32", "float64", "bfloat16"), "whole": ("group",)}  # settings that are one of these


@dataclass(eq=False)
class Formula:
    """A live name of a pipeline. Read again, it is evaluated again unless nothing about the moment has changed."""

    e: Elaborator
    tree: s.Expr
    scope: Scope
    name: str
    memo: dict[Any, Any] = field(default_factory=dict)
    busy: bool = False

    def read(self) -> Any:
        if None in self.memo:
            return self.memo[None]
        c = self.e.context
        axes = tuple(sorted((k, tuple(a.name for a in x)) for k, x in self.e.model_axes.items()))
        key = (tuple(sorted((k, n.id) for k, n in c.parameters.items())), c.nodes, c.fresh, c.batch, axes)
        if key not in self.memo:
            if self.busy:
                raise mistake(
                    "E0210", self.tree.span, f"`{self.name}` is defined by itself", why="formulas cannot go round in a circle",
                    fix="break the circle: what carries over from step to step is `state`, in a stage",
                )  # fmt: skip
            self.busy = True
            try:
                value = self.e.evaluate(self.tree, self.scope)
            finally:
                self.busy = False
            self.e.remember(value)
            if isinstance(value, v.STAGES):
                self.memo[None] = value
            self.memo[key] = value
            return value
        return self.memo[key]


class PipelineElaborator:
    """Turns one pipeline with bound parameters into a Program."""

    def __init__(self, definition: s.Definition, home: Scope, bound: Mapping[str, Any], e: Elaborator | None = None):
        self.e = e or Elaborator(Report())
        self.definition = definition
        self.scope = home.child(definition.name)
        self.scope.names.update(bound)
        self.scope.names["#definition"] = definition
        self.bound = bound
        self.models: dict[str, p.ModelPlan] = {}
        self.data: dict[str, p.DataPlan] = {}
        self.inputs: dict[str, Type] = {}
        self.actions: list[p.Action] = []
        self.phases: list[p.Phase] = []
        self.flows: dict[int, str] = {}
        self.pending: list[tuple[s.Statement, Scope]] = []
        self.e.world = []
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
            self.flow_actions([], self.scope)
        doc = self.definition.text("doc")
        models = {name: self.lifted(plan) for name, plan in self.models.items()}
        source = self.scope.module.source
        bound = dict(self.bound)
        program = p.Program(
            self.definition.name, doc, models, self.data, tuple(self.phases), bound, self.inputs, source.name, source.text, self.schedule
        )
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

    def lifted(self, plan: p.ModelPlan) -> p.ModelPlan:
        axes = self.e.model_axes.get(plan.name, ())
        return replace(plan, lifted=axes)

    # ---- declarations and formulas

    def statement(self, statement: s.Statement, scope: Scope) -> None:
        self.e.ops.span = statement.span
        handler: Any = {
            s.Declare: self.declare, s.Bind: self.bind, s.Input: self.input, s.Doc: lambda *_: None, s.Require: self.require,
            s.Flow: self.defer, s.ScheduleIs: self.schedule_is,
        }.get(type(statement))  # fmt: skip
        if handler is None:
            from gradflow.passes.words import statement_word

            word = statement_word(statement)
            raise mistake(
                "E0501", head(statement.span, word), f"`{word}` has no place at the level of a pipeline",
                why="a pipeline holds models, data, formulas, draws, flows, requirements and `train` lines",
                fix="move it into the definition that it belongs to" + ("; reports stand in a `train` line" if word == "report" else ""),
            )  # fmt: skip
        handler(statement, scope)

    def schedule_is(self, statement: s.ScheduleIs, scope: Scope) -> None:
        from gradflow.schedules.elaborate import scheduled

        self.schedule = scheduled(self.e, self.e.evaluate(statement.value, scope), statement.value.span)

    def named(self, name: str, span: Any, start: int = 0) -> Any:
        """The span of a name inside of a statement, from `start` in the text on."""
        from gradflow.language.source import Source

        source = self.scope.module.source
        place = source.text.find(name, max(span.offset, start), span.end)
        return Source(source.name, source.text, source.starts).span(place, place + len(name)) if place >= 0 else span

    def require(self, statement: s.Require, scope: Scope) -> None:
        from gradflow.passes.properties import check_requirement

        check_requirement(self.e, statement, scope)

    def defer(self, statement: Any, scope: Scope) -> None:
        self.pending.append((statement, scope))

    def fresh_name(self, name: str, scope: Scope, span: Any) -> None:
        if name in scope.names:
            raise mistake("E0504", span, f"`{name}` is bound twice", why="in a pipeline every name is bound once", fix="use another name")

    def input(self, statement: s.Input, scope: Scope) -> None:
        """Inputs of a pipeline are what the caller binds: tensors, when the pipeline is driven from outside."""
        option = statement.type.options[0]
        axes, target = declared_axes(self.e, option.axes, scope) if option.axes is not None else ((), None)
        for axis in axes:
            scope.axes.setdefault(axis.name, axis)
        for name in statement.names:
            known = self.bound.get(f"#{name}")
            if known is None and statement.default is not None:  # nobody gives it
                scope.names[name] = self.e.evaluate(statement.default, scope)
                continue
            type_ = known if isinstance(known, Type) else Type("int" if target else option.base or "real", axes, target)
            if isinstance(known, Type):
                type_ = Type(known.base, tuple(Axis(a.name, b.size) for a, b in zip(axes, known.axes, strict=False)), target)
                scope.axes.update({a.name: a for a in type_.axes})
            self.inputs[name] = type_
            scope.names[name] = self.e.ops.source(type_, "input", name)

    def declare(self, statement: s.Declare, scope: Scope) -> None:
        for name in statement.names:
            self.fresh_name(name, scope, self.named(name, statement.span))
        if statement.kind == "data":
            self.declare_data(statement, scope)
            return
        for name in statement.names:
            model = self.model(name, statement, scope)
            scope.names[name] = model

    def declare_data(self, statement: s.Declare, scope: Scope) -> None:
        from gradflow.privacy.program import unwrapped

        spec, declaration = declare_primitive(self.e, "data", unwrapped(statement.value), scope)
        if len(statement.names) > len(spec.splits):
            raise mistake(
                "E0502", statement.span, f"{len(statement.names)} names for {len(spec.splits)} splits", why=f"it has {listed(spec.splits)}",
                fix="give as many names as there are splits, or one for all of them",
            )  # fmt: skip
        key = statement.names[0]
        self.data[key] = p.DataPlan(key, spec, None, statement.span, declaration)
        splits = spec.splits if len(statement.names) > 1 else ("*",)
        for name, split in zip(statement.names, splits, strict=False):
            scope.names[name] = v.Data(key, split, spec, statement.value.span)

    def model(self, name: str, statement: s.Declare, scope: Scope) -> v.Model:
        tree = statement.value
        head = tree.callee.id if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) else ""
        if head == "free":
            return self.free_model(name, tree, scope, statement)  # type: ignore[arg-type]
        if head == "copy":
            first = tree.args[0].value if tree.args else None  # type: ignore[union-attr]
            found, other = scope.local(first.id) if isinstance(first, s.Name) else (False, None)
            other = self.e.force(other)
            if not found or not isinstance(other, v.Model):
                raise mistake(
                    "E0301", tree.span, "`copy` takes a model", why="the copy starts with its parameters", fix="`model average = copy(net)`",
                )  # fmt: skip
            return self.copied(name, other, statement, scope)
        if isinstance(tree, s.Call) and is_head(head):
            return with_head(self, name, tree, statement, scope)
        spec, declaration = declare_primitive(self.e, "model", tree, scope)
        spec, kept = self.in_storage(spec, statement, scope)
        self.models[name] = p.ModelPlan(name, spec, (), None, None, False, statement.span, declaration, kept)
        return v.Model(name, spec, statement.span)

    def in_storage(self, spec: Any, statement: s.Declare, scope: Scope) -> tuple[Any, tuple[p.LeafStorage, ...]]:
        """`as format`: the model with its leaves kept so."""
        if statement.storage is None:
            return spec, ()
        from gradflow.formats.elaborate import stored

        return stored(self.e, spec, statement.storage, scope)

    def copied(self, name: str, other: v.Model, statement: s.Declare, scope: Scope) -> v.Model:
        """A copy starts with the other's parameters: the first ones, or behind a `train` line those that it has by then."""
        spec, kept = self.in_storage(other.spec, statement, scope)
        born = sum(isinstance(one, s.Train) and one.span.offset < statement.span.offset for one in self.definition.body or ())
        self.models[name] = p.ModelPlan(name, spec, (), other.name, None, other.free is not None, statement.span, None, kept, born)
        return v.Model(name, spec, statement.span, other.free, None, other.name)

    def free_model(self, name: str, tree: s.Call, scope: Scope, statement: s.Declare) -> v.Model:
        """`free(value)`: a trainable tensor with that start; `free([axes])`: zeros."""
        from gradflow.library.catalogue import LeafSpec, ModelSpec

        argument = tree.args[0].value if len(tree.args) == 1 else None
        if argument is None:
            raise mistake(
                "E0401", tree.span, f"`free` takes one value, {len(tree.args)} given", why="a start value, or an axis list for zeros",
                fix="`free(0.5)`, or `free([row: 4, col: 3])`",
            )  # fmt: skip
        if isinstance(argument, s.ListOf):
            items = tuple(s.AxisItem(i.span, i.name or str(getattr(i.value, "id", "")), i.value if i.name else None) for i in argument.items)
            axes, start = declared_axes(self.e, s.Axes(argument.span, items), scope)[0], self.e.ops.constant(0.0)
        else:
            start = self.e.ops.constant(self.e.tensor(self.e.evaluate(argument, scope), argument))
            axes = start.type.without(["node"])
            if start.type.has("node"):
                self.e.model_axes[name] = (start.type.axis("node"),)
        if any(a.size is None for a in axes):
            raise mistake(
                "E0303", tree.span, f"the sizes of `{name}` must be known when the spec is compiled",
                why="the parameters of a model are laid out before anything runs", fix="give sizes: `free([row: 4, col: 3])`",
            )  # fmt: skip
        shape = tuple(a.size or 0 for a in axes)
        spec = ModelSpec("free", (LeafSpec("value", shape),), _no_module)
        lifted = tuple(a for a in start.type.axes if a.name == "node")
        flat = self.e.ops.pack([self.e.ops.expand(start, (*lifted, *axes))], [axes])
        self.models[name] = p.ModelPlan(name, spec, (), None, Region((("start", flat),)), True, statement.span)
        return v.Model(name, spec, statement.span, axes, start)

    def bind(self, statement: s.Bind, scope: Scope) -> None:
        if statement.op == "=":
            target = statement.targets[0]
            if len(statement.targets) > 1:
                value = self.e.evaluate(statement.value, scope)
                scope.names.update({t.name: x for t, x in zip(statement.targets, unpacked(statement, value), strict=True)})
                return
            self.fresh_name(target.name, scope, target.span)
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
            self.fresh_name(target.name, scope, statement.span)
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

    def flow_actions(self, inner: list[tuple[s.Statement, Scope]], scope: Scope) -> list[p.Action]:
        actions: list[p.Action] = []
        for statement, where in [*self.pending, *inner]:
            with self.e.collecting():
                actions.extend(self.action(statement, where))
        return actions

    def action(self, statement: s.Statement, scope: Scope) -> list[p.Action]:
        if isinstance(statement, s.Flow):
            name = self.flows.setdefault(id(statement), f"flow{len(self.flows) + 1}")
            flow = elaborate_flow(self.e, statement, scope, name)
            return [self.update(flow, statement)]
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
        self.own(model, flat)
        drawn_before(self.e, Region(((name, flat),)))
        return [p.Assign(name, Region(((f"param/{name}", flat),)), statement.span)]

    def own(self, model: v.Model, flat: Node) -> None:
        lifted = flat.type.without(["param"])
        if lifted:
            self.e.model_axes[model.name] = union(self.e.model_axes.get(model.name, ()), lifted)

    def update(self, flow: ElaboratedFlow, statement: s.Flow) -> p.Update:
        region = Region(flow.results, (), flow.name)
        drawn_before(self.e, region)
        rollout, region = split_rollout(self.e, region)
        facts: dict[str, Any] = {"stages": flow.notes} | ({"stated": flow.stated} if flow.stated else {})
        if flow.topology is not None:
            facts["topology"] = partial(topology_facts, self.e, flow.topology)  # asked for by `plan`, not by `check`
            for plan in self.data.values():
                if plan.spec.divide is not None and flow.topology.nodes is not None:
                    self.data[plan.name] = replace(plan, nodes=flow.topology.nodes)
        names = tuple(m.name for m in flow.models)
        return p.Update(flow.name, names, region, rollout, flow.states, flow.stages, flow.topology, (), flow.span, facts, flow.events, flow.spread)

    def train(self, statement: s.Train) -> None:
        unit = UNITS.get(statement.unit, statement.unit)
        if unit not in UNITS.values():
            place = self.named(statement.unit, statement.span, statement.count.span.end)
            raise mistake(
                "E0525", place, f"`{statement.unit}` is no unit of training", why=f"units are {listed(UNITS.values())}",
                **suggestion(place, statement.unit, UNITS.values(), "count in one of these"),
            )  # fmt: skip
        if unit not in BUILT_UNITS:
            place = self.named(statement.unit, statement.span, statement.count.span.end)
            raise unbuilt(place, f"training by {unit} cannot run yet", f"count in {listed(BUILT_UNITS)}")
        count = self.e.evaluate(statement.count, self.scope)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise mistake(
                "E0526", statement.count.span, "how long to train must be a whole number that is known when the spec is compiled",
                why=f"this is {v.kind_name(count)}",
                fix="give a number, or an `int` parameter of the pipeline",
            )  # fmt: skip
        settings = self.settings(statement)
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
            actions = self.flow_actions(inner, scope)
        for one, _ in inner:  # what was drawn last stays held: later phases may read it
            if isinstance(one, s.Bind) and one.op == "~" and one.targets[0].name in scope.names:
                self.scope.names.setdefault(one.targets[0].name, scope.names[one.targets[0].name])
        check_unit(unit, actions, statement.span)
        reports = tuple(self.periodic(one, scope) for one in periodic)
        final = self.reports(tuple(last), 0, unit, scope, statement.span) if last else None
        wanted = {"/".join((n["kind"], *n["path"])) for r in (*reports, final) if r is not None for n in r.region.sources()}
        kept = tuple(stored(action, wanted) if isinstance(action, p.Update) else action for action in actions)
        self.phases.append(p.Phase(count, unit, settings, kept, reports, statement.span, final))

    def settings(self, statement: s.Train) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for arg in statement.args:
            if arg.name not in SETTINGS:
                place = head(arg.span, arg.name) if arg.name else arg.span
                raise mistake(
                    "E0404", place, f"`train` has no setting `{arg.name}`" if arg.name else "a setting of `train` needs its name",
                    why=f"settings are {listed(sorted(SETTINGS))}",
                    **suggestion(place, arg.name or "", SETTINGS, "use one of these"),
                )  # fmt: skip
            value = arg.value.id if arg.name in WORDS and isinstance(arg.value, s.Name) else self.e.evaluate(arg.value, self.scope)
            least = {"epochs": 1, "minibatches": 1, "micro": 1, "seed": 0}.get(arg.name)
            if least is not None and (not isinstance(value, int) or value < least):
                raise mistake(
                    "E0402", arg.value.span, f"`{arg.name}` must be a whole number, at least {least}", why=f"this is {v.kind_name(value)}",
                    fix=f"`{arg.name}: {least}`, say",
                )  # fmt: skip
            if arg.name in WORDS and value not in WORDS[arg.name]:
                words = WORDS[arg.name]
                raise mistake(
                    "E0402", arg.value.span, f"`{arg.name}` cannot be `{value}`", why=f"it is one of {listed(words)}",
                    **suggestion(arg.value.span, str(value), words, f"`{arg.name}: {words[0]}`, say"),
                )  # fmt: skip
            found[arg.name] = value
        return found

    def periodic(self, statement: s.Every, scope: Scope) -> p.Periodic:
        count = 1 if statement.count is None else self.e.evaluate(statement.count, scope)
        if not isinstance(count, int) or count < 1:
            place = statement.count.span if statement.count is not None else statement.span
            raise mistake(
                "E0526", place, "a period must be a whole number, at least 1", why=f"this is {v.kind_name(count)}",
                fix=f"`every 10 {UNITS.get(statement.unit, statement.unit)} {{ .. }}`",
            )  # fmt: skip
        return self.reports(statement.body, count, UNITS.get(statement.unit, statement.unit), scope, statement.span)

    def reports(self, statements: tuple[s.Statement, ...], count: int, unit: str, scope: Scope, span: Any) -> p.Periodic:
        """What an `every` block reports; count 0 is for reports at the end of the training."""
        inner = scope.child()
        results: list[tuple[str, Node]] = []
        checkpoint = False
        before = len(self.e.world or [])
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
                    from gradflow.passes.words import statement_word

                    word = statement_word(one)
                    raise mistake(
                        "E0501", head(one.span, word), f"`{word}` has no place in an `every` block",
                        why="it holds `report`, `checkpoint` and formulas",
                        fix="put it in the `train` block around it, or in the pipeline",
                    )  # fmt: skip
        calls = called_for([root for _, root in results], (self.e.world or [])[before:])
        return p.Periodic(count, unit, Region(tuple(results), (), "report"), calls, checkpoint, span)


def stored(update: p.Update, wanted: set[str]) -> p.Update:
    """The update with the states that something depends on, `wanted` by reports included."""
    region = without_idle_states(update.region, wanted)
    kept = {name for name, _ in region.results} | {f"state/{update.flow}/{plan.key}" for plan in update.states if update.events is not None}
    rollout = update.rollout
    if rollout is not None:
        used = {f"rollout/{source['path'][0]}" for source in region.sources() if source["kind"] == "rollout"}
        rollout = replace(rollout, results=tuple(one for one in rollout.results if one[0] in used))
    rollout = rollout if rollout is not None and rollout.results else None
    return replace(update, region=region, rollout=rollout, states=tuple(plan for plan in update.states if f"state/{update.flow}/{plan.key}" in kept))


def _no_module(seed: int) -> Any:
    raise RuntimeError("a free tensor has no module")


__all__ = ["Formula", "PipelineElaborator"]

"""Checks a whole file: every definition is elaborated, with parameters at their defaults or at stand-ins, and every mistake is reported.

A stand-in is something of the declared type: a source with the declared axes for a tensor, a small bundle for a stage, a ring for a topology.
What a definition needs that no stand-in can be (a function value, a model) leaves the rest of that definition to its uses.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, Label, Mistake, Report, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.calls import bind_parameters, with_bound
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.expressions import Elaborator
from gradflow.passes.functions import run_function
from gradflow.passes.parameters import words_of
from gradflow.passes.pipelines import PipelineElaborator
from gradflow.passes.scope import Module, Scope
from gradflow.passes.stages import Bundle, Change, Flow, Leaf, Upstream
from gradflow.passes.suggestions import head
from gradflow.procedures.states import Keeping
from gradflow.topologies.edges import Rule

SIDES = (12, 8, 6, 5)
NODES = 4
GRAPHS = ("node", "from", "to", "link")  # axes of the ring that stands in for a graph, which has as many links as nodes


class _NoStandIn(Exception):
    """The definition can only be checked where it is used."""


def check_module(module: Module, report: Report) -> None:
    """Adds to the report everything that is wrong in the file."""
    _twice(module, report)
    for definition in module.tree.definitions:
        e = Elaborator(report, module.source.name)
        with e.collecting():
            try:
                check_definition(e, definition, module)
            except _NoStandIn:
                continue
    from gradflow.analyses.lint import lint_module

    lint_module(module, report)


def _twice(module: Module, report: Report) -> None:
    seen: dict[str, s.Definition] = {}
    for definition in module.tree.definitions:
        first = seen.setdefault(definition.name, definition)
        if first is not definition:
            report.add(
                Diagnostic(
                    "E0211", f"`{definition.name}` is defined twice", definition.name_span, secondary=(Label(first.name_span, "first here"),),
                    why="a name of a file means one definition; the first one is taken", fix="rename one of the two",
                )
            )  # fmt: skip
        names = [param.name for param in definition.params]
        for param in definition.params:
            if names.count(param.name) > 1:
                again = [one for one in definition.params if one.name == param.name][1]
                report.add(
                    Diagnostic(
                        "E0403", f"parameter `{param.name}` stands twice", head(again.span, again.name), why="arguments are given by name",
                        fix="rename one of the two",
                    )
                )  # fmt: skip
                break


def check_definition(e: Elaborator, definition: s.Definition, module: Module) -> None:
    home = module.scope()
    if definition.kind == "pipeline":
        check_pipeline(e, definition, home)
        return
    if definition.kind == "claim":
        from gradflow.claims.design import check_claim

        check_claim(definition, module, e)
        return
    bound = parameters(e, definition, home)
    if definition.kind in ("function", "objective"):
        check_function(e, definition, home, bound)
    else:
        value = with_bound(e, definition, home, bound, definition.name_span)
        if definition.kind == "format":
            from gradflow.formats.elaborate import check_format

            check_format(e, value)
        elif definition.kind == "schedule":
            from gradflow.schedules.elaborate import check_schedule

            check_schedule(e, value)
        elif definition.kind != "topology":
            check_stage(e, value, definition)


def check_pipeline(e: Elaborator, definition: s.Definition, home: Scope) -> None:
    if definition.value is not None:
        inner = home.inside(definition, parameters(e, definition, home))
        value = e.evaluate(definition.value, inner)
        if not isinstance(value, v.Pipeline):
            raise not_a_pipeline(definition.value.span, value)
        return
    bound = parameters(e, definition, home) | pipeline_inputs(definition)
    PipelineElaborator(definition, home, bound, e).program()


def not_a_pipeline(span: Span, value: Any) -> Mistake:
    return mistake(
        "E0301", span, f"a pipeline is needed here, this is {v.kind_name(value)}", why="an alias of kind pipeline stands for another one",
        fix="call a pipeline of this file: `pipeline long = short(steps: 1000)`",
    )  # fmt: skip


def pipeline_inputs(definition: s.Definition) -> dict[str, Any]:
    """Types of small tensors for what a caller would bind."""
    found: dict[str, Any] = {}
    for statement in definition.body or ():
        option = statement.type.options[0] if isinstance(statement, s.Input) else None
        if isinstance(statement, s.Input) and option is not None and option.axes is not None:
            axes = tuple(Axis(item.name, NODES if item.name in ("node", "from", "to") else 3) for item in option.axes.items)
            found.update({f"#{name}": Type(option.base or "real", axes) for name in statement.names})
    return found


# ---- stand-ins


def parameters(e: Elaborator, definition: s.Definition, home: Scope) -> dict[str, Any]:
    bound = bind_parameters(e, definition, home, {}, {}, definition.name_span, abstract=True)
    scope = home.child(definition.name)
    for param in definition.params:
        if isinstance(bound[param.name], v.Missing):
            bound[param.name] = stand_in(e, param, scope)
        scope.names[param.name] = bound[param.name]
    return bound


def stand_in(e: Elaborator, param: s.Param, scope: Scope) -> Any:
    words = words_of(param.type)
    if words:
        return words[0]
    option = param.type.options[0] if param.type is not None else None
    if option is None or option.base == "real" or option.axes is not None:
        if option is not None and option.axes is not None:
            return e.ops.source(Type("int" if option.axes.target else option.base or "real", *_axes(e, option.axes, scope)), "input", param.name)
        return e.ops.source(Type("real"), "input", param.name)
    if option.base == "bool":
        return False
    if option.base == "int":
        return _whole_number(e, option, scope)
    if option.base in ("projection", "estimator"):
        return v.BuiltinStage("nothing")
    raise _NoStandIn


def _whole_number(e: Elaborator, option: s.TypeOne, scope: Scope) -> int:
    """A small number inside the domain."""
    bound = option.bound
    if bound is None:
        return 4
    low = e.evaluate(bound.low, scope)
    if not isinstance(low, int | float):
        return 4
    return int(max(low + (bound.op == ">"), 4 if bound.high is None else low))


def _axes(e: Elaborator, axes: s.Axes, scope: Scope) -> tuple[tuple[Axis, ...], Axis | None]:
    found = []
    for item in axes.items:
        size = e.evaluate(item.size, scope) if item.size is not None else None
        found.append(Axis(item.name, size if isinstance(size, int) else NODES if item.name in GRAPHS else None))
    return tuple(found), Axis(axes.target) if axes.target is not None else None


def check_function(e: Elaborator, definition: s.Definition, home: Scope, bound: dict[str, Any]) -> None:
    scope = home.child(definition.name)
    scope.names.update(bound)
    supplied: dict[str, Any] = {}
    for statement in definition.body or ():
        if isinstance(statement, s.State):
            raise _NoStandIn  # it is kept by the `~` that calls the function, which also knows its sizes
        if not isinstance(statement, s.Input) or statement.default is not None:
            continue
        option = statement.type.options[0]
        if option.axes is None and option.base not in ("real", "int", "bool"):
            if option.base == "topology":
                supplied.update({name: _ring(e) for name in statement.names})
                continue
            raise _NoStandIn
        for name in statement.names:
            axes, target = _axes(e, option.axes, scope) if option.axes is not None else ((), None)
            supplied[name] = e.ops.source(Type("int" if target else option.base or "real", axes, target), "input", name)
    if definition.value is not None:
        inner = home.inside(definition, bound)
        e.evaluate(definition.value, inner)
        return
    e.world, e.keeping = [], Keeping(e, definition.name)  # as if it were called with `~`
    try:
        run_function(e, v.Function(definition, home, bound), supplied, definition.span)
    finally:
        e.world, e.keeping = None, None


def _ring(e: Elaborator) -> v.Topology:
    """A ring whose numbers nobody may rely on: what a stage requires of its graph is left to the flows that it stands in."""
    size = (Axis("node", NODES), Axis("from", NODES))

    def near(receiver: Any, sender: Any) -> Any:
        gap = e.ops.elementwise("mod", e.ops.elementwise("sub", receiver, sender), NODES)
        return e.ops.elementwise("or", e.ops.elementwise("eq", gap, 1), e.ops.elementwise("eq", gap, NODES - 1))

    some = e.ops.elementwise("and", near(e.ops.range(size[0]), e.ops.range(size[1])), e.ops.source(Type("bool"), "input", "linked"))
    return v.Topology("ring", NODES, e.ops.expand(some, size), None, gives=frozenset(["connected"]), listing=Rule(near))


def _look(value: Node, point: Node | None, fresh: int) -> Node:
    return value


def check_stage(e: Elaborator, value: Any, definition: s.Definition) -> None:
    """Runs a stage over one leaf that its pattern fits, with a gradient from nowhere and an end that takes whatever comes."""
    from gradflow.gradients.joints import with_stand_ins
    from gradflow.privacy.stages import stand_in

    pattern = definition.pattern
    count = len(pattern.axes.items) if isinstance(pattern, s.ShapePattern) else 2
    leaf = Leaf("leaf", tuple(Axis(f"dim{i}", SIDES[i % len(SIDES)]) for i in range(count)))
    flow = Flow("check", _ring(e) if definition.kind == "exchange" else None)
    lifted = (Axis("node", NODES),) if definition.kind == "exchange" else ()
    axis = Axis("param", leaf.size)
    value = with_stand_ins(e, value, axis)

    def at(point: Node | None, fresh: int) -> Node:
        return e.ops.source(Type("real", (*lifted, axis)), "input", "grad", *(["elsewhere"] if point is not None else []))

    def end(up: Upstream, bundle: Bundle) -> Change:
        return Change(up.at(None, 0))

    for _ in range(4):
        flow.dirty = False
        bundle = Bundle((leaf,), e.ops.source(Type("real", (axis,)), "param", "leaf"))
        look = e.ops.source(Type("real"), "input", "value")
        FlowBuilder(e, flow).stage(value, Upstream(at, value=partial(_look, look), per=partial(stand_in, e, at)), bundle, end, "")
        if not flow.dirty:
            break

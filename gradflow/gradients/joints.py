"""Stages that take several gradients: `projection blend { input noisy, quiet : [param]; .. return g }`, called with chains where gradients combine.

Such a stage has state as any other. An input is a gradient [param]; called, `noisy(fresh: 1)` or `noisy(at: x)`, it is that gradient of a fresh
sample or at another point. There is no `grad`: what comes in has names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, Mistake, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.arguments import match_arguments
from gradflow.passes.calls import bind_parameters
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed

if TYPE_CHECKING:
    from gradflow.gradients.flow import Combination


@dataclass(frozen=True)
class Asked:
    """Where gradients are asked for, and on which sample."""

    point: Node | None
    fresh: int


@dataclass(frozen=True)
class GradientInput(v.Record):
    """A gradient that a stage takes: worth its value, and a function of the point and of how fresh the sample is."""

    tree: s.Expr | None = field(default=None, compare=False)
    scope: Scope | None = field(default=None, compare=False)
    of: Any = field(default=None, compare=False)

    def call(self, e: Elaborator, node: s.Call, scope: Scope) -> Any:
        from gradflow.passes.stage_calls import looks, special_arguments

        if self.of is None or self.tree is None or self.scope is None:  # a definition is checked on its own
            return self.value
        named, _ = special_arguments(node, "grad")
        frame, asked = scope.frame, self.of.asked
        point = frame.flat(e.tensor(e.evaluate(named["at"], scope))) if "at" in named else asked.point
        fresh = asked.fresh + (looks(e, named["fresh"], scope) if "fresh" in named else 0)
        with self.of.asking(Asked(point, fresh)):
            return e.tensor(e.evaluate(self.tree, self.scope), node)


def inputs_of(definition: s.Definition) -> tuple[str, ...]:
    """The names of the gradients that a stage takes."""
    return tuple(name for one in definition.body or () if isinstance(one, s.Input) for name in one.names)


def takes_gradients(tree: s.Expr, scope: Scope) -> bool:
    """Whether an expression is a call of a stage with inputs."""
    while isinstance(tree, s.Group) and len(tree.items) == 1:
        tree = tree.items[0].value
    found = scope.find(tree.callee.id) if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) else None
    return found is not None and found[0].kind in ("estimator", "projection") and bool(inputs_of(found[0]))


def with_stand_ins(e: Elaborator, stage: Any, axis: Axis) -> Any:
    """A stage whose definition is checked on its own, with gradients from nowhere."""
    names = inputs_of(stage.definition) if isinstance(stage, v.Stage) else ()
    given = {name: GradientInput({}, name, e.ops.source(Type("real", (axis,)), "input", name)) for name in names}
    return replace(stage, bound={**stage.bound, **given}) if given else stage


def joint(e: Elaborator, definition: s.Definition, home: Scope, args: tuple[s.Arg, ...], scope: Scope, span: Span) -> Any:
    """A stage with inputs called: what it makes of them."""
    names, params = inputs_of(definition), [param.name for param in definition.params]
    own = tuple(arg for arg in args if arg.name in params)
    rest = [arg for arg in args if arg.name not in params]
    bound = bind_parameters(e, definition, home, match_arguments(definition, own, scope), {}, span)
    of = e.gradients
    if of is None:
        raise mistake(
            "E0541", span, f"`{definition.name}` takes gradients, and nothing here has any",
            why=f"its inputs are {listed(names)}: it stands at the head of a flow, where gradients combine",
            fix=f"`flow net: {definition.name}({', '.join(f'{name}: (loss -> backprop)' for name in names)}) -> ..`",
        )  # fmt: skip
    open_ = [name for name in names if name not in {arg.name for arg in rest}]
    given: dict[str, Any] = {}
    for arg in rest:
        name = arg.name or (open_.pop(0) if open_ else None)
        if name is None or name not in names or name in given:
            raise mistake(
                "E0401", arg.span, f"`{definition.name}` takes {len(names)} gradient{'s' * (len(names) != 1)}", why=f"its inputs are {listed(names)}",
                fix="give each of them once",
            )  # fmt: skip
        value = e.evaluate(arg.value, scope)
        if not (isinstance(value, Node) and value.type.has("param")):
            raise no_gradient(arg.value.span, value)
        given[name] = GradientInput({}, name, value, tree=arg.value, scope=scope, of=of)
    missing = [name for name in names if name not in given]
    if missing:
        raise mistake(
            "E0401", span, f"`{definition.name}` needs the gradient `{missing[0]}`", why=f"its inputs are {listed(names)}",
            fix=f"write `{missing[0]}: (loss -> backprop)`",
        )  # fmt: skip
    return of.joint(v.Stage(definition, home, {**bound, **given}, span))


def run_joint(flow: Combination, stage: v.Stage, path: str) -> Node:
    """What a stage with inputs returns, once more and without its states where the gradients are asked for elsewhere."""
    from gradflow.passes.stage_bodies import StageBody
    from gradflow.passes.stages import Bundle, Change, Upstream

    check_part(stage)
    if stage.definition.pattern is not None:
        raise mistake(
            "E0541", stage.definition.name_span, f"`{stage.name}` takes several gradients leaf by leaf", why="gradients come together as vectors",
            fix="leave out its `on`; what works leaf by leaf stands before or behind the join",
        )  # fmt: skip
    e, asked, found = flow.e, flow.asked, list[Node]()

    def no_single(point: Node | None, fresh: int) -> Node:
        what = f"`{stage.name}` reads `grad`, and several gradients come in"
        raise mistake("E0521", stage.span, what, why="they have names", fix="read its inputs")

    def end(up: Upstream, bundle: Bundle) -> Change:
        found.append(up.at(None, 0))
        return Change(e.ops.expand(0.0, (bundle.axis,)))

    quiet = asked != Asked(None, 0)
    bundle = Bundle(flow.leaves, flow.placed(asked.point) if quiet else flow.parameter())
    with e.anchoring(stage.span):
        body = StageBody(flow.builder, stage, Upstream(no_single), bundle, end, path, None, quiet)
        if not quiet:
            body.change()
        else:
            with e.at(flow=flow.flow.name, fresh=asked.fresh):
                body.run(stage.definition.body or ())
            if body.returned is not None:
                found.append(body.handed(body.returned)[0])
    return found[0]


# ---- what may stand before the join


def check_part(stage: Any) -> None:
    """Before gradients come together a stage only makes one gradient of another."""
    if isinstance(stage, v.ChainOf):
        stages: tuple[Any, ...] = stage.stages
    elif isinstance(stage, v.FirstFitting):
        stages = stage.options
    else:
        stages = (stage.stage,) if isinstance(stage, v.OnlyOn) else ()
    for one in stages:
        check_part(one)
    if isinstance(stage, v.Stage):
        body = stage.definition.body or ()
        reason = next(moves(body), None) if stage.kind in ("estimator", "projection") else (stage.span, f"it is an {stage.kind}")
        if reason is not None:
            raise behind(stage, *reason)


def moves(body: Any, inside: bool = False) -> Iterator[tuple[Span, str]]:
    """Where a stage does more than to return a gradient."""
    for statement in body:
        if isinstance(statement, s.Return) and inside:
            yield statement.span, "it returns under a condition, which decides whether anything moves at all"
        for node in s.walk(statement):
            if isinstance(node, s.Call) and isinstance(node.callee, s.Name) and node.callee.id == "step":
                yield node.span, "it asks for the step, which all gradients together make"
            if isinstance(node, s.Bind) and node.op == "<-" and node.targets[0].name == "param":
                yield node.span, "it moves the parameters"
        if isinstance(statement, s.When):
            yield from moves(statement.body, True)


def behind(stage: v.Stage, span: Span, why: str) -> Mistake:
    here = () if span == stage.span else (Label(span, "here"),)
    return mistake(
        "E0542", stage.span, f"`{stage.name}` cannot stand before gradients come together", why=why, secondary=here,
        fix="put it behind them: `a + b -> " + stage.name + "(..)`",
    )  # fmt: skip


def no_gradient(span: Span, value: Any) -> Mistake:
    return mistake(
        "E0541", span, f"a gradient is needed here, this is {v.kind_name(value)}", why="it is combined with gradients of all that the flow trains",
        fix="write how it is taken, in brackets: `(loss -> backprop)`",
    )  # fmt: skip

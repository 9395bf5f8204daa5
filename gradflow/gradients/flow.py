"""Flows whose head combines gradients. Each chain in the head, `loss -> backprop -> stages..`, is one gradient of all that the flow trains, [param];
the head's arithmetic, functions and stages with inputs make one of them, and the rest of the flow goes on from there.

A combination is a function of the point and of how fresh the sample is, as any gradient: a stage behind it may ask for it elsewhere, and then every
part of it is taken there. Of the gradients only values come together; a part that works in other coordinates, moves the parameters or asks for the
step belongs behind the join, and is refused before it. Sums over micro-batches and ranks are made inside of `backprop`, so that what a head does to
its gradients (their norms, their products) it does to those of the whole mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradflow.gradients.joints import Asked, check_part, no_gradient, run_joint, takes_gradients
from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.expressions import Elaborator
from gradflow.passes.flows import FlowElaborator
from gradflow.passes.formulas import Formula
from gradflow.passes.scope import Scope
from gradflow.passes.stages import Bundle, Change, Flow, Upstream, chain_value, flatten, is_stage
from gradflow.passes.words import expression_text

SUMS, PRODUCTS = ("+", "-"), ("*", "/")


def elaborator_of(e: Elaborator, head: Any) -> type[FlowElaborator]:
    """Which elaborator a flow with this head needs."""
    combines = isinstance(head, v.Live) and (is_gradient(e, head.tree, head.scope) or takes_gradients(head.tree, head.scope))
    return Combination if combines else FlowElaborator


def is_gradient(e: Elaborator, tree: s.Node, scope: Scope) -> bool:
    """Whether an expression is made of gradients: a chain that begins with an objective stands in it, or in a formula that it names."""
    return next(parts_of(e, tree, scope), None) is not None


def parts_of(e: Elaborator, tree: s.Node, scope: Scope) -> Iterator[s.Chain]:
    """The chains of an expression, in the order of the text, those of formulas where they are named. Formulas forget what they were worth."""
    if isinstance(tree, s.Chain):
        yield from [tree] if not is_stage(tree.stages[0], scope) or isinstance(tree.stages[0], s.Group) else []
        return
    if isinstance(tree, s.Name):
        found, value = scope.local(tree.id)
        if found and isinstance(value, Formula) and not value.busy:
            value.busy = True  # a formula may name itself: that is said where it is read
            inside = list(parts_of(e, value.tree, value.scope))
            value.busy = False
            if inside:
                value.memo.clear()
            yield from inside
        return
    for child in s.children(tree):
        yield from parts_of(e, child, scope)


class Combination(FlowElaborator):
    """A flow whose head is an expression of gradients."""

    asked: Asked = Asked(None, 0)
    prefix = ""  # of the states of its parts

    def round(self, flow: Flow) -> tuple[Node, dict[str, Any]]:
        self.flow = flow
        self.builder = FlowBuilder(self.e, flow)
        self.parts_here: dict[Any, tuple[FlowElaborator, Upstream]] = {}
        self.joints: dict[Any, int] = {}
        check_sums(self.e, self.chain[0].tree, self.chain[0].scope)
        self.gradient(None, 0)  # in the order of the text, and outside of the conditions and loops of the stages that will ask for it
        return super().round(flow)

    # ---- what the stages behind the head see

    def gradient(self, point: Node | None, fresh: int) -> Node:
        key = (point.id if point is not None else None, fresh, tuple(sorted(self.e.model_axes)))
        if key not in self.memo:
            self.memo[key] = self.combined(Asked(point, fresh))
        return self.memo[key]

    def combined(self, asked: Asked) -> Node:
        head = self.chain[0]
        list(parts_of(self.e, head.tree, head.scope))
        self.outside = self.e.context
        nodes = self.topology.nodes if self.topology is not None else None
        inside = {**self.e.context.parameters, **self.split(self.placed(asked.point))}
        with self.asking(asked), self.e.at(parameters=inside, nodes=nodes, fresh=asked.fresh, flow=self.name, batch=True), self.e.placed(None):
            value = self.e.evaluate(head.tree, head.scope)
        if not (isinstance(value, Node) and value.type.without(["node"]) == self.placed(asked.point).type.without(["node"])):
            raise no_gradient(head.tree.span, value)
        return value

    @contextmanager
    def asking(self, asked: Asked) -> Iterator[None]:
        """Inside, chains and stages with inputs are worth their gradients."""
        before, self.asked, known, self.e.gradients = self.asked, asked, self.e.gradients, self
        try:
            yield
        finally:
            self.asked, self.e.gradients = before, known

    def value(self, point: Node | None, fresh: int) -> Any:
        raise mistake(
            "E0514", self.chain[0].tree.span, "several gradients come together here, so there is no one objective to ask for its value",
            why="a stage behind them reads `value`", fix="put that stage into the chain of the gradient that it is about",
        )  # fmt: skip

    def per(self, point: Node | None, fresh: int, axis: str) -> tuple[Node, Any]:
        raise mistake(
            "E0514", self.chain[0].tree.span, f"several gradients come together here, none of them by `{axis}`",
            why=f"a stage behind them asks for the gradient of every {axis}", fix="put that stage into the chain of the gradient that it is about",
        )  # fmt: skip

    # ---- the parts

    def chain_of(self, tree: s.Chain, scope: Scope) -> Any:
        """`loss -> backprop -> stages..` in the head: its gradient where it is asked for. A chain without an objective stays a stage."""
        with self.plainly():
            stages = flatten(chain_value(self.e, tree, scope))
            if not isinstance(stages[0], v.Live):
                return v.ChainOf(tuple(stages), tree.span)
            key = (tree.span.file, tree.span.offset)
            if key not in self.parts_here:
                self.parts_here[key] = self.part(stages, tree.span)
            return self.parts_here[key][1].at(self.asked.point, self.asked.fresh)

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """As outside of the head."""
        outside = vars(self.outside) | {"flow": ""}
        known, self.e.gradients = self.e.gradients, None
        try:
            with self.e.at(**outside), self.e.placed(None):
                yield
        finally:
            self.e.gradients = known

    def part(self, stages: list[Any], span: Span) -> tuple[FlowElaborator, Upstream]:
        one = elaborator_of(self.e, stages[0])(self.e, self.name, self.parts, stages, self.topology, self.scope, span)
        path = f"{self.prefix}gradient{len(self.parts_here) + 1}."
        if isinstance(one, Combination):
            one.flow, one.builder, one.parts_here, one.joints, one.outside, one.prefix = self.flow, self.builder, {}, {}, self.outside, path
        reached: list[Upstream] = []
        bundle = Bundle(self.leaves, self.parameter())

        def end(up: Upstream, inner: Bundle) -> Change:
            reached.append(up)
            return Change(self.e.ops.expand(0.0, (inner.axis,)))

        for stage in stages[1:]:
            check_part(stage)
        self.builder.chain(stages[1:], Upstream(one.gradient, value=one.value, per=one.per), bundle, end, path)
        return one, reached[0]

    def joint(self, stage: v.Stage) -> Node:
        """A stage with inputs in the head: what it returns."""
        number = self.joints.setdefault((stage.span.file, stage.span.offset), len(self.joints) + 1)
        return run_joint(self, stage, f"{self.prefix}joint{number}.{stage.name}")

    # ---- what a run shows: the loss of the first gradient, what all of them report

    def loss(self, point: Node | None, fresh: int) -> tuple[Any, Node, Any]:
        found = [one.loss(point, fresh) for one, _ in self.parts_here.values()]
        return *found[0][:2], {name: value for _, _, reports in reversed(found) for name, value in reports.items()}

    def shown_loss(self) -> Any:
        return next(iter(self.parts_here.values()))[0].shown_loss()

    def notes(self, flow: Flow) -> tuple[tuple[str, str, str, str], ...]:
        """As of any flow; the head stands for all its gradients, and they are dense where nothing says otherwise."""
        first, *rest = super().notes(flow)
        return ((head_text(self.chain[0].tree, self.chain[0].scope), "gradients", first[2], first[3]), *rest)


def head_text(tree: s.Expr, scope: Scope) -> str:
    """The head as it is written, or as the formula is that it names; a choice goes by its name."""
    found, value = scope.local(tree.id) if isinstance(tree, s.Name) else (False, None)
    chosen = found and isinstance(value, Formula) and isinstance(value.tree, s.Call) and getattr(value.tree.callee, "id", "") == "case"
    return head_text(value.tree, value.scope) if found and isinstance(value, Formula) and not chosen else expression_text(tree)


def check_sums(e: Elaborator, tree: s.Node, scope: Scope) -> None:
    """A loss added to a gradient, or a product of two gradients, is not meant: both would pass as arithmetic."""
    if isinstance(tree, s.Chain):
        return
    if isinstance(tree, s.Binary) and tree.op in (*SUMS, *PRODUCTS):
        sides = [is_gradient(e, side, scope) for side in (tree.left, tree.right)]
        other = tree.right if sides[0] else tree.left
        if tree.op in SUMS and sum(sides) == 1 and (not isinstance(other, s.Name) or scope.local(other.id)[0]):
            raise unlike(other.span, "a gradient and a value that is none are added", "one is a vector of all parameters, the other is not",
                         "take its gradient too: `(loss -> backprop)`, in brackets")  # fmt: skip
        if tree.op in PRODUCTS and (sum(sides) == 2 or (tree.op == "/" and sides[1])):
            raise unlike(tree.span, "gradients are multiplied with each other", "the result is no direction to move in",
                         "weigh a gradient with a number; for more, pass it to a function or a stage with inputs")  # fmt: skip
    if isinstance(tree, s.Name):
        found, value = scope.local(tree.id)
        if found and isinstance(value, Formula):
            check_sums(e, value.tree, value.scope)
    for child in s.children(tree):
        check_sums(e, child, scope)


def unlike(span: Span, text: str, why: str, fix: str) -> Mistake:
    return mistake("E0541", span, text, why=why, fix=fix)

"""Elaboration of expressions: syntax in, numbers and graph nodes out. Names, arithmetic by axis name, indexing, calls.

Calls of definitions are in `calls.py`, built-in functions in `builtins.py`, stages and flows in `stages.py`, pipelines in `pipelines.py`;
they share one `Elaborator`, which holds the graph, the diagnostics and the context of the moment (which flow, at which parameters).
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gradflow.graph.graph import Graph, Node
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, AxisConflict, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, Label, Mistake, Report, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.fields import field_value
from gradflow.passes.names import named
from gradflow.passes.scope import Scope

NUMBERS = (bool, int, float)
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow", "and": "and", "or": "or"}
COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
DEEPEST_CALL = 64
FRAMES = 10_000  # Python's own limit: a call takes a dozen frames, and the expressions in it two for each level


@dataclass
class Context:
    """Where a live formula is evaluated: parameters put in place of the models' own, the nodes of a topology, how fresh the draws are."""

    parameters: dict[str, Node] = field(default_factory=dict)
    nodes: int | None = None
    flow: str = ""
    fresh: int = 0
    batch: bool = False
    objective: bool = False
    draws: dict[str, Any] = field(default_factory=dict)
    passes: int | None = None  # of the loop in which a stage is called: its `t`


def two_sizes(span: Span, conflict: AxisConflict) -> Mistake:
    return mistake(
        "E0302", span, f"{conflict}", why="axes of one name are matched entry by entry",
        fix="if they are not the same axis, `rename` it on one side: `rename(x, row: other)`",
    )  # fmt: skip


class Elaborator:
    """The state of one elaboration: graph, diagnostics, and the context of the moment. `home` is the file that is checked."""

    def __init__(self, report: Report | None = None, home: str = ""):
        sys.setrecursionlimit(max(sys.getrecursionlimit(), FRAMES))
        self.home = home
        self.anchors: list[Span] = []
        self.places: dict[int, Span] = {}  # of the stages of a chain that stands in another file: the place here that names the chain
        self.graph = Graph()
        self.ops = Operations(self.graph)
        self.report = report or Report()
        self.context = Context()
        self.records: list[Any] = []
        self.depth = 0
        self.used: set[str] = set()
        self.constants: dict[str, Any] = {}
        self.place: str | None = None
        self.drawn_in: dict[str, str | None] = {}  # the place of a draw -> that of the draw around it
        self.loops: tuple[int, ...] = ()
        self.passes: list[Any] = []  # of the loops around the place that is being read, the innermost last
        self.formulas: dict[int, Node] = {}
        self.world: list[Any] | None = None  # what acts: calls and loops, in their order (see gradflow/procedures)
        self.calls = 0
        self.keeping: Any = None  # what the `~` that is being read keeps from unit to unit
        self.reporting = False  # whether what is read is reported: calls are then made for it
        self.stage_values: dict[int, dict[str, tuple[str, str, str, Type]]] = {}
        self.model_axes: dict[str, tuple[Axis, ...]] = {}
        self.sealed: set[int] = set()  # ids of values of black boxes
        self.gradients: Any = None  # the head of a flow that is evaluated, where gradients combine: see gradflow/gradients

    # ---- diagnostics and context

    def warn(self, code: str, span: Span, message: str, **rest: Any) -> None:
        self.report.add(self.anchored(Diagnostic(code, message, span, **rest)))

    def anchored(self, diagnostic: Diagnostic) -> Diagnostic:
        """A diagnostic inside a definition of another file, moved to the call in the checked file that led there; the place itself comes second."""
        if not self.anchors or diagnostic.span.file == self.home:
            return diagnostic
        there = () if diagnostic.span.file.startswith("<") else (Label(diagnostic.span, diagnostic.label or "here"),)
        others = tuple(label for label in diagnostic.secondary if label.span != self.anchors[-1])
        edits = tuple(edit for edit in diagnostic.edits if edit.span.file == self.home)
        return replace(diagnostic, span=self.anchors[-1], label="in this call", secondary=(*there, *others), edits=edits)

    @contextmanager
    def anchoring(self, span: Span) -> Any:
        """Inside of a call (or of a stage) that stands at `span`: see `anchored`."""
        if span.file != self.home:
            yield
            return
        self.anchors.append(span)
        try:
            yield
        except Mistake as error:
            moved = self.anchored(error.diagnostic)
            if moved is error.diagnostic:
                raise
            raise Mistake(moved) from None
        finally:
            self.anchors.pop()

    @contextmanager
    def at(self, **changes: Any) -> Any:
        """Evaluates inside in a context with these fields changed."""
        before = self.context
        self.context = Context(**{**vars(before), **changes})
        try:
            yield self.context
        finally:
            self.context = before

    @contextmanager
    def placed(self, place: str | None) -> Any:
        """Draws inside belong to this place in the text."""
        before, self.place = self.place, place
        try:
            yield
        finally:
            self.place = before

    @contextmanager
    def looping(self, index: int) -> Any:
        before, self.loops = self.loops, (*self.loops, index)
        try:
            yield
        finally:
            self.loops = before

    @contextmanager
    def passing(self, one: Any) -> Any:
        """Inside of a pass of a loop: draws belong to it."""
        self.passes.append(one)
        try:
            yield
        finally:
            self.passes.pop()

    def remember(self, value: Any) -> None:
        """A formula of an objective or a pipeline, or the fields of one: taken once per rollout if nothing live is in it."""
        for node in (*value.fields.values(), value.value) if isinstance(value, v.Record) else (value,):
            if isinstance(node, Node):
                self.formulas[node.id] = node

    @contextmanager
    def collecting(self) -> Any:
        """A mistake inside is added to the report and does not stop what comes after."""
        try:
            yield
        except Mistake as error:
            self.report.add(error.diagnostic)

    # ---- expressions

    def evaluate(self, node: s.Expr, scope: Scope) -> Any:
        before, self.ops.span = self.ops.span, node.span
        method = getattr(self, f"_{type(node).__name__.lower()}")
        try:
            return method(node, scope)
        except AxisConflict as conflict:
            raise two_sizes(node.span, conflict) from None
        finally:
            self.ops.span = before

    def _number(self, node: s.Number, scope: Scope) -> Any:
        return node.value

    def _string(self, node: s.String, scope: Scope) -> Any:
        return node.value

    def _name(self, node: s.Name, scope: Scope) -> Any:
        return named(self, node, scope)

    def _group(self, node: s.Group, scope: Scope) -> Any:
        if len(node.items) == 1 and node.items[0].name is None:
            return self.evaluate(node.items[0].value, scope)
        if all(item.name is not None for item in node.items):
            return v.Record({item.name or "": self.evaluate(item.value, scope) for item in node.items})
        return tuple(self.evaluate(item.value, scope) for item in node.items)

    def _listof(self, node: s.ListOf, scope: Scope) -> Any:
        return [self.evaluate(item.value, scope) for item in node.items]

    def _slice(self, node: s.Slice, scope: Scope) -> Any:
        raise mistake(
            "E0304", node.span, "a range `a .. b` has no value of its own", why="it only says which part of an axis an index takes",
            fix="use it inside an index: `x[row: 0 .. 4]`",
        )  # fmt: skip

    def _unary(self, node: s.Unary, scope: Scope) -> Any:
        operand = self.evaluate(node.operand, scope)
        return v.reporting(self.ops.elementwise("not" if node.op == "not" else "neg", self.tensor(operand, node.operand)), operand)

    def _binary(self, node: s.Binary, scope: Scope) -> Any:
        left = self.evaluate(node.left, scope)
        if node.op in ("and", "or") and isinstance(left, bool) and left == (node.op == "or"):
            return left
        right = self.evaluate(node.right, scope)
        if isinstance(left, v.Topology):
            from gradflow.topologies.links import combine

            return combine(self, node, left, right)
        return v.reporting(self.arithmetic(OPERATORS[node.op], node, scope, (left, node.left), (right, node.right)), left, right)

    def _compare(self, node: s.Compare, scope: Scope) -> Any:
        parts = [(self.evaluate(operand, scope), operand) for operand in node.operands]
        result: Any = None
        for side, where in parts:
            if isinstance(side, Node) and side.type.base == "text":
                raise mistake(
                    "E0301", where.span, "texts are not compared", why="only calls of primitives read them", fix='`x ~ matches(samples, "..")`, say',
                )  # fmt: skip
        for op, left, right in zip(node.ops, parts, parts[1:], strict=False):
            if any(isinstance(side[0], str) or side[0] is v.NONE for side in (left, right)):
                one = (left[0] == right[0]) == (op == "==")
            else:
                one = self.arithmetic(COMPARISONS[op], node, scope, left, right)
            result = one if result is None else self.ops.elementwise("and", result, one)
        return result

    def arithmetic(self, op: str, node: s.Node, scope: Scope, *operands: tuple[Any, s.Node]) -> Any:
        """One elementwise operation, after index maps in scope have brought the operands to common axes."""
        tensors = self.aligned([self.tensor(value, where) for value, where in operands], scope, node)
        self.ops.span = node.span
        return self.ops.elementwise(op, *tensors)

    def _lambda(self, node: s.Lambda, scope: Scope) -> Any:
        return v.LambdaValue(node, scope)

    def _chain(self, node: s.Chain, scope: Scope) -> Any:
        from gradflow.passes.stages import chain_value

        return chain_value(self, node, scope) if self.gradients is None else self.gradients.chain_of(node, scope)

    def _guarded(self, node: s.Guarded, scope: Scope) -> Any:
        from gradflow.passes.stages import stage_value

        return v.OnlyOn(stage_value(self, node.stage, scope), node.pattern, scope)

    def _alternatives(self, node: s.Alternatives, scope: Scope) -> Any:
        from gradflow.passes.stages import stage_value

        return v.FirstFitting(tuple(stage_value(self, option, scope) for option in node.options), node.span)

    def _field(self, node: s.Field, scope: Scope) -> Any:
        return field_value(self, node, scope)

    def _index(self, node: s.Index, scope: Scope) -> Any:
        from gradflow.passes.indexing import index_value

        return index_value(self, node, scope)

    def _call(self, node: s.Call, scope: Scope) -> Any:
        from gradflow.passes.calls import call

        self.depth += 1
        if self.depth > DEEPEST_CALL:
            raise mistake(
                "E0207", node.span, "calls are nested too deeply", why="functions cannot call themselves, directly or through others",
                fix="write the repetition as `repeat n { .. }`",
            )  # fmt: skip
        try:
            with self.anchoring(node.span):
                return call(self, node, scope)
        finally:
            self.depth -= 1

    # ---- values as tensors

    def tensor(self, value: Any, node: s.Node | None = None) -> Any:
        """A number or a graph node; objectives stand for their loss, models for their parameters. Raises Mistake for anything else."""
        if isinstance(value, Node | bool | int | float):
            return value
        if isinstance(value, v.Record) and value.value is not None:
            return value.value
        if isinstance(value, v.Model):
            return self.model_tensor(value)
        if isinstance(value, list | tuple) and value and all(isinstance(item, NUMBERS) for item in value):
            return self.ops.stack(list(value), "item")
        span = node.span if node is not None else self.ops.span
        raise mistake(
            "E0301", span, f"a number or a tensor is needed here, this is {v.kind_name(value)}", why=v.kind_hint(value)[0], fix=v.kind_hint(value)[1]
        )

    def model_tensor(self, model: v.Model) -> Node:
        """The parameters of a model: the tensor itself of a `free` one, else flat."""
        flat = self.parameters_of(model)
        if model.free is not None:
            return self.ops.leaf(flat, 0, model.free)
        return flat

    def parameters_of(self, model: v.Model) -> Node:
        if model.name in self.context.parameters:
            return self.context.parameters[model.name]
        axes: tuple[Axis, ...] = (Axis("param", model.spec.size),)
        lifted = self.model_axes.get(model.name, ())
        return self.ops.source(Type("real", (*lifted, *axes)), "param", model.name)

    def aligned(self, tensors: list[Any], scope: Scope, node: s.Node) -> list[Any]:
        """Reads values over an index map's target through the map where the others have the map's own axes."""
        nodes = [t for t in tensors if isinstance(t, Node)]
        if len({t.type.names for t in nodes}) < 2:
            return tensors
        result = list(tensors)
        for i, tensor in enumerate(tensors):
            if not isinstance(tensor, Node):
                continue
            others = {name for j, t in enumerate(tensors) if j != i and isinstance(t, Node) for name in t.type.names}
            for axis in tensor.type.axes:
                if axis.name in others:
                    continue
                maps = [m for m in scope.maps if m.type.target.name == axis.name and set(m.type.names) <= others and m.type.names]
                if len(maps) > 1:
                    raise mistake(
                        "E0305", node.span, f"{len(maps)} index maps lead to axis `{axis.name}` here", label="which one is meant?",
                        why=f"a value over `{axis.name}` is read through the one map in scope; here either fits", fix="say which one: `x[map]`",
                    )  # fmt: skip
                if maps:
                    result[i] = self.ops.gather(result[i], maps[0], axis.name)
        return result

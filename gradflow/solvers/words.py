"""Words of the language for optimization problems: `vary`, `subject to`, `psd`, `solve`, and the solvers' names.

A problem is an objective that varies something. What it minimizes and what it is subject to are ordinary expressions over named axes; what is convex
in them is found out by the solver's library when the problem is solved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.matrices import linalg
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope

SOLVERS = {"clarabel": "CLARABEL", "scs": "SCS"}
COMPARED = {"le": ("le", 0, 1), "lt": ("le", 0, 1), "ge": ("le", 1, 0), "gt": ("le", 1, 0), "eq": ("eq", 0, 1)}


@dataclass(frozen=True)
class Variable:
    name: str
    node: Node
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Semidefinite:
    """That a symmetric matrix has no negative eigenvalue: `blocks` are its upper half, row by row."""

    blocks: tuple[tuple[Node, ...], ...]
    span: Span


@dataclass
class Problem:
    """`minimum` is what is made small; `constraints` by name, (kind, values): "le" and "eq" of two values, "psd" of blocks."""

    name: str
    variables: list[Variable] = field(default_factory=list)
    constraints: list[tuple[str, str, tuple[Any, ...]]] = field(default_factory=list)
    minimum: Any = None


@dataclass(frozen=True)
class Solver:
    name: str


# ---- in the body of an objective


def vary(body: Any, statement: s.Vary, scope: Scope) -> None:
    """`vary x : [axes] in [low, high]`: something that is sought."""
    if not body.objective:
        raise mistake(
            "E0501",
            statement.span,
            "`vary` has no place here",
            why="what is sought belongs to the problem that says what is best",
            fix="move it into an `objective`",
        )
    e, option = body.e, statement.type.options[0]
    problem = body.problem = body.problem or Problem(scope.owner)
    axes: tuple[Axis, ...] = ()
    if option.axes is not None:
        axes, _ = declared_axes(e, option.axes, scope)
        axes = tuple(Axis(axis.name, axis.size if axis.size is not None else _links(e, axis.name, scope)) for axis in axes)
        scope.axes.update({axis.name: axis for axis in axes})
    low, high = _bounds(e, option, scope)
    for name in statement.names:
        node = e.ops.source(Type("real", axes), "vary", f"{problem.name}.{name}")
        problem.variables.append(Variable(name, node, low, high))
        scope.names[name] = node


def _links(e: Elaborator, name: str, scope: Scope) -> int | None:
    """How many links the graph in reach has; of one that only a run knows, how many it can have (those that are none count nothing)."""
    from gradflow.topologies.edges import links_of

    graph = next((scope.local(key)[1] for key in scope.locals() if isinstance(scope.local(key)[1], v.Topology)), None)
    if name != "link" or graph is None or graph.nodes is None:
        return None
    if graph.constant:
        return len(links_of(e, graph)[0])
    return graph.nodes * (graph.nodes - 1) // (1 if graph.directed else 2)


def _bounds(e: Elaborator, option: s.TypeOne, scope: Scope) -> tuple[float | None, float | None]:
    bound = option.bound
    if bound is None:
        return None, None
    low = _edge(e, bound.low, scope)
    if bound.op == "in":
        assert bound.high is not None
        high = _edge(e, bound.high, scope)
    else:
        low, high = (low, float("inf")) if bound.op in (">", ">=") else (float("-inf"), low)
    return (None if low == float("-inf") else low), (None if high == float("inf") else high)


def _edge(e: Elaborator, tree: s.Expr, scope: Scope) -> float:
    value = e.evaluate(tree, scope)
    if not isinstance(value, int | float):
        raise mistake(
            "E0301",
            tree.span,
            f"a number is needed here, this is {v.kind_name(value)}",
            why="the bounds of what is sought are known before it is solved",
            fix="write a number, or a parameter that is one",
        )
    return float(value)


def subject_to(body: Any, statement: s.SubjectTo, scope: Scope) -> None:
    """`subject to name: a <= b`, or psd(..)."""
    e = body.e
    if body.problem is None:
        raise mistake(
            "E0501",
            statement.span,
            "`subject to` has no place here",
            why="nothing is sought that it could hold back",
            fix="say first what is sought: `vary x : real in [0, inf)`",
        )
    value = e.evaluate(statement.value, scope)
    name = statement.name or f"constraint{len(body.problem.constraints) + 1}"
    if isinstance(value, Semidefinite):
        body.problem.constraints.append((name, "psd", value.blocks))
        return
    for node in _parts(value):
        kind, first, second = COMPARED.get(node.op if isinstance(node, Node) else "", ("", 0, 0))
        if not kind:
            raise mistake(
                "E0301",
                statement.value.span,
                f"a condition is needed here, this is {v.kind_name(value)}",
                why="what is sought is held back by conditions",
                fix="`subject to a <= b`, `a == b` or `psd(a)`",
            )
        body.problem.constraints.append((name, kind, (node.inputs[first], node.inputs[second])))


def _parts(value: Any) -> list[Any]:
    """The comparisons of a chain a <= b <= c."""
    if isinstance(value, Node) and value.op == "and":
        return [part for below in value.inputs for part in _parts(below)]
    return [value]


@builtin("psd(x)", "In `subject to`: a symmetric matrix, or one made of blocks [[a, b], [b, c]], has no negative eigenvalue.", "optimization")
def psd(a: Arguments) -> Any:
    value = a.raw(0)
    rows = value if isinstance(value, list) else [[value]]
    if any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
        raise mistake(
            "E0301", a.call.span, "a square matrix of blocks is needed here", why="a semidefinite matrix is symmetric", fix="`psd([[a, b], [b, c]])`"
        )
    blocks = [[a.e.ops.constant(a.e.tensor(entry, a.places[0].value)) for entry in row] for row in rows]
    for place, row in enumerate(blocks):
        for other in range(place):
            if row[other] is not blocks[other][place]:
                raise mistake(
                    "E0301",
                    a.places[0].span,
                    f"the blocks ({place + 1}, {other + 1}) and ({other + 1}, {place + 1}) differ",
                    why="a semidefinite matrix is symmetric: what stands below the diagonal is what stands above it, turned",
                    fix="write the same value in both places",
                )
    if len(blocks) == 1 and len(blocks[0][0].type.axes) < 2:
        raise mistake(
            "E0308",
            a.call.span,
            f"`psd` needs a matrix, this is {v.kind_name(blocks[0][0])}",
            why="its last two axes are rows and columns",
            fix="of a number, say that it is at least 0",
        )
    return Semidefinite(tuple(tuple(row[place:]) for place, row in enumerate(blocks)), a.call.span)


def _solver(name: str, doc: str) -> None:
    @builtin(f"{name}()", doc, "optimization", 0, 0)
    def chosen(a: Arguments) -> Any:
        return Solver(name)


_solver("clarabel", "For `solve(.., by: ..)`: an interior-point method, exact to about eight digits.")
_solver("scs", "For `solve(.., by: ..)`: a first-order method, for large problems and few digits.")


@builtin(
    "solve(problem, by: clarabel())",
    "The solution of a convex problem: its fields are the names that it varies, `.value` what was minimized, and `.status` (0 solved, 1 inaccurate).",
    "optimization",
)
def solve(a: Arguments) -> Any:
    from gradflow.solvers.problem import encoded

    why, fix = "a problem is an objective that varies something", "an `objective` with a line `vary x : ..`"
    problem = a.of_kind(0, Problem, "a problem", why, fix)
    by = a.option("by", Solver("clarabel"))
    if not isinstance(by, Solver):
        raise mistake(
            "E0402", a.named["by"].span, f"`by` cannot be {v.kind_name(by)}", why=f"solvers are {', '.join(SOLVERS)}", fix="`by: clarabel()`"
        )
    code, inputs = encoded(a.e, problem, a.call.span)
    ask: Callable[[str, Type], Node] = lambda part, type_: linalg(a.e, "optimum", inputs, type_, part=part, problem=code, solver=by.name)  # noqa: E731
    fields = {one.name: ask(one.name, one.node.type) for one in problem.variables}
    return v.Record({**fields, "value": ask("#value", Type("real")), "status": ask("#status", Type("real"))}, problem.name)

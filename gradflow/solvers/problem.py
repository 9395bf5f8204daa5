"""A problem's typed graph as plain data: what depends on what is sought, operation by operation; everything else is handed over as values.

The code of a problem is a tuple of tuples, so that a plan can hold it, hash it and write it down:

    (variables, inputs, steps, minimum, constraints)
    variables     (name, low | None, high | None, axes)
    inputs        axes of the value handed over
    steps         ("vary", k), ("input", k), or (operation, places of its inputs among the steps, attributes); each with its base and axes
    minimum       the place of what is made small
    constraints   (name, "le" | "eq", two places) or (name, "psd", rows of places)
"""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.passes.expressions import Elaborator
from gradflow.solvers.words import Problem

Code = tuple[Any, ...]


def encoded(e: Elaborator, problem: Problem, span: Span) -> tuple[Code, list[Node]]:
    """The problem's code and the nodes of the values that are handed over. Raises Mistake."""
    if problem.minimum is None:
        raise mistake(
            "E0508", span, f"`{problem.name}` minimizes nothing", why="an objective says what is made small", fix="end it with `minimize ..`"
        )
    minimum = e.ops.constant(e.tensor(problem.minimum))
    if minimum.type.axes:
        raise mistake(
            "E0523",
            span,
            f"`{problem.name}` minimizes no number",
            why=f"it still has the axis `{minimum.type.names[0]}`",
            fix=f"`sum(.., over: {minimum.type.names[0]})`",
        )
    numbers = {one.node.id: k for k, one in enumerate(problem.variables)}
    roots = [minimum, *(node for _, _, values in problem.constraints for node in _nodes(values))]
    sought: dict[int, bool] = {}
    for node in ordered(roots):
        sought[node.id] = node.id in numbers or any(sought[below.id] for below in node.inputs)
    inputs: list[Node] = []
    steps: list[Any] = []
    places: dict[int, int] = {}

    def place(node: Node) -> int:
        if node.id not in places:
            if node.id in numbers:
                step: Any = ("vary", numbers[node.id])
            elif not sought[node.id]:
                step = ("input", len(inputs))
                inputs.append(node)
            else:
                step = (node.op, tuple(place(below) for below in node.inputs), node.attrs)
            places[node.id] = len(steps)
            steps.append((*step, node.type.base, _axes(node), str(node.span)))
        return places[node.id]

    least = place(minimum)
    constraints = tuple(
        (name, kind, tuple(tuple(place(one) for one in row) for row in values) if kind == "psd" else tuple(place(one) for one in values))
        for name, kind, values in problem.constraints
    )
    variables = tuple((one.name, one.low, one.high, _axes(one.node)) for one in problem.variables)
    if not inputs:  # an operation has something that it works on
        inputs.append(e.ops.constant(0.0))
    return (variables, tuple(_axes(node) for node in inputs), tuple(steps), least, constraints), inputs


def _nodes(values: tuple[Any, ...]) -> list[Node]:
    return [node for value in values for node in (value if isinstance(value, tuple) else (value,))]


def _axes(node: Node) -> tuple[tuple[str, int | None], ...]:
    return tuple((axis.name, axis.size) for axis in node.type.axes)

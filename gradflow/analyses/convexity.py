"""How an objective bends: what is derived of its convexity and smoothness from its graph, for stages that ask for either.

Derived are sums of terms: what is affine in the parameters does not bend, c times the sum of their squares bends by 2 c everywhere, and squares,
absolute values and soft or hard maxima of affine terms bend upwards by an amount that depends on data. What else an objective is made of is taken at
the user's word, and `plan` says so; a number that what is derived contradicts is a mistake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope

MOVING = ("leaf", "pack", "expand", "rename", "gather", "slice", "stack", "concat", "sum", "arrange", "stop")
BENDING = ("abs", "softplus", "exp")


@dataclass(frozen=True)
class Bend:
    """Curvature in every direction between `low` and `high`; `low` None: it may bend downwards, `high` None: nobody knows how far upwards."""

    low: float | None
    high: float | None

    def plus(self, other: Bend) -> Bend:
        low = None if self.low is None or other.low is None else self.low + other.low
        return Bend(low, None if self.high is None or other.high is None else self.high + other.high)

    def times(self, factor: float) -> Bend:
        if factor < 0:
            return FLAT if self == FLAT else UNKNOWN
        return Bend(None if self.low is None else factor * self.low, None if self.high is None else factor * self.high)


FLAT, UPWARDS, UNKNOWN = Bend(0.0, 0.0), Bend(0.0, None), Bend(None, None)


def bend_of(loss: Node, param: Node) -> Bend:
    """How a loss bends in the parameter: a flat vector, copies of it for nodes counting each by itself."""
    moving = {node.id for node in _depending(loss, param)}
    found: dict[int, Bend] = {}
    for node in ordered([loss]):
        found[node.id] = _bend(node, param, moving, found) if node.id in moving else FLAT
    return found[loss.id]


def _depending(loss: Node, param: Node) -> list[Node]:
    reached: set[int] = set()
    kept = []
    for node in ordered([loss]):
        if node is param or any(below.id in reached for below in node.inputs):
            reached.add(node.id)
            kept.append(node)
    return kept


def _bend(node: Node, param: Node, moving: set[int], found: dict[int, Bend]) -> Bend:
    below = [found[one.id] for one in node.inputs]
    if node is param:
        return FLAT
    whole = _squares(node, param)
    if whole is not None:
        return whole
    if node.op in ("add", "sub"):
        return below[0].plus(below[1].times(1 if node.op == "add" else -1))
    if node.op == "neg":
        return below[0].times(-1)
    if node.op in ("mul", "div", "dot"):
        return _product(node, moving, found)
    if node.op in MOVING:
        parts = [found[one.id] for one in node.inputs]
        return FLAT if all(one == FLAT for one in parts) else UPWARDS if all(one.low is not None for one in parts) else UNKNOWN
    if node.op in ("maximum", "max"):
        return UPWARDS if all(one.low is not None for one in below) else UNKNOWN
    if node.op in BENDING or (node.op == "pow" and node.inputs[1].op == "const" and node.inputs[1]["value"] == 2):
        return UPWARDS if below[0] == FLAT else UNKNOWN
    return UNKNOWN


def _product(node: Node, moving: set[int], found: dict[int, Bend]) -> Bend:
    first, second = node.inputs
    if first is second and node.op != "div":
        return UPWARDS if found[first.id] == FLAT else UNKNOWN
    if first.id in moving and second.id in moving or (node.op == "div" and second.id in moving):
        return UNKNOWN
    one, factor = (first, second) if first.id in moving else (second, first)
    if found[one.id] == FLAT:
        return FLAT
    if factor.op != "const" or node.op == "dot":
        return UNKNOWN
    return found[one.id].times(factor["value"] if node.op == "mul" else 1 / factor["value"] if factor["value"] else -1.0)


def _squares(node: Node, param: Node) -> Bend | None:
    """The sum of the squares of all parameters bends by 2."""
    value = node.inputs[0] if node.op == "sum" else node if node.op == "dot" else None
    if value is None:
        return None
    square = value if value.op in ("mul", "dot") and value.inputs[0] is value.inputs[1] else None
    square = value if value.op == "pow" and value.inputs[1].op == "const" and value.inputs[1]["value"] == 2 else square
    if square is None:
        return None
    base = square.inputs[0]
    while base.op in ("leaf", "expand", "rename") and base is not param:
        base = base.inputs[0]
    whole = param.type.axis("param").size if param.type.has("param") else None
    sizes = [axis.size for axis in square.inputs[0].type.axes if axis.name != "node"]
    covered = None if None in sizes else math.prod(size or 0 for size in sizes)
    over = set(node["over"]) == {axis.name for axis in square.inputs[0].type.axes if axis.name != "node"}
    return Bend(2.0, 2.0) if base is param and over and covered == whole else None


def check_objective(e: Elaborator, statement: s.Require, tree: s.Call, scope: Scope) -> None:
    """`require strongly_convex(objective, mu)`, `smooth(objective, L)`, `convex(objective)`: derived, contradicted, or taken as stated."""
    name = tree.callee.id  # type: ignore[union-attr]
    frame = scope.frame
    value = e.evaluate(tree.args[1].value, scope) if len(tree.args) > 1 else 0.0
    if frame is None or not hasattr(frame, "up"):
        return
    bend = UNKNOWN
    param = frame.bundle.param
    if frame.up.value is not None and param is not None and e.world is not None:
        with e.at(flow=""), e.placed(None):
            loss = frame.up.value(None, 0)
        bend = bend_of(e.ops.constant(loss), next((n for n in ordered([loss]) if n.op == "expand" and n.inputs[0] is param), param))
    asked = f"{name}({value:g})" if isinstance(value, int | float) and value else name
    if isinstance(value, int | float):
        _contradicted(statement, tree, name, float(value), bend, scope)
    frame.flow.stated[asked] = "derived from its terms" if _derived(name, value, bend) else "stated, not derived"


def _derived(name: str, value: Any, bend: Bend) -> bool:
    if not isinstance(value, int | float):
        return False
    if name == "smooth":
        return bend.high is not None and bend.high <= value * (1 + 1e-12)
    return bend.low is not None and bend.low >= value * (1 - 1e-12)


def _contradicted(statement: s.Require, tree: s.Call, name: str, value: float, bend: Bend, scope: Scope) -> None:
    wrong = None
    if name == "strongly_convex" and bend.high is not None and bend.high < value * (1 - 1e-9):
        wrong = f"it bends by {bend.high:g} at most" if bend.high else "it does not bend: it is affine in what is trained"
    if name == "smooth" and bend.low is not None and bend.low > value * (1 + 1e-9):
        wrong = f"the squares of the parameters alone bend it by {bend.low:g}"
    if wrong is not None:
        raise mistake(
            "E0602", tree.span, f"the objective is not {name.replace('_', ' ')} by {value:g}", why=wrong,
            fix="give the number that holds" if bend.high else "add a square to it: `+ 0.01 * sum(x^2)`",
        )  # fmt: skip

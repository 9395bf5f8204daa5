"""Words of the language for events: what a clock is (`poisson`, `at_times`), and the exact flow of a linear system between ticks (`linear_ode`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.matrices import linalg
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.calls import call_values

ROW, COLUMN = "ode_row", "ode_column"


@dataclass(frozen=True)
class Clock:
    """When something happens. `values` by name: `rate` of a Poisson clock; `time`, `at` and `mine` of a recorded one."""

    kind: str
    values: dict[str, Any]

    def call(self, e: Any, node: Any, scope: Any) -> Any:
        raise mistake("E0203", node.callee.span, "a clock cannot be called", why="it says when events happen", fix="`on each node(i) ~ poisson(1)`")


@builtin("poisson(rate)", "A clock that ticks at random, `rate` times per unit of time on average: a number, or one for each node or link.", "events")
def poisson(a: Arguments) -> Any:
    rate = a.tensor(0)
    if not isinstance(rate, Node) and not 0 <= rate < float("inf"):
        raise mistake(
            "E0402",
            a.places[0].span,
            f"a clock cannot tick {rate:g} times per unit of time",
            why="a rate is a number, at least 0",
            fix="`poisson(1)`, say",
        )
    return Clock("poisson", {"rate": rate})


@builtin(
    "at_times(time, at: nodes, where: condition)",
    "A clock that ticks as recorded: at the times [event], at a node (or the two ends of a link) [event, end], for the entries where it holds.",
    "events",
)
def at_times(a: Arguments) -> Any:
    time = a.node(0)
    a.needed("at")
    places = a.e.tensor(a.option("at"))
    if len(time.type.axes) != 1 or not isinstance(places, Node) or not places.type.has(time.type.names[0]) or len(places.type.axes) > 2:
        raise mistake(
            "E0303",
            a.call.span,
            "recorded events need a time for each, and their nodes",
            why=f"the times are {v.kind_name(time)}, the nodes {v.kind_name(places)}",
            fix="give `time` over [event] and `at:` over [event, end]",
        )
    axis = time.type.axes[0]
    places = a.e.ops.expand(places, (axis, *places.type.without([axis.name])))
    mask = a.condition()
    mine = a.e.ops.elementwise("ge", time, 0) if mask is None else a.e.ops.expand(mask, (axis,))
    return Clock("recorded", {"time": time, "at": places, "mine": mine})


# ---- the flow of a linear system


@builtin(
    "linear_ode(drift, dt, from: (x, ..))",
    "Where the system dx = drift(x, ..) is after the time dt: exact, by the exponential of its matrix. The drift is linear in its values.",
    "events",
    2,
    2,
)
def linear_ode(a: Arguments) -> Any:
    why, fix = "a function of the system's values, linear in them", "`linear_ode((x, y) => (y, -x), dt, from: (x, y))`"
    drift, dt = a.of_kind(0, v.LambdaValue | v.Function, "a drift", why, fix), a.tensor(1)
    a.needed("from")
    start = a.option("from")
    values = [a.e.ops.constant(a.e.tensor(one)) for one in (start if isinstance(start, tuple | list) else (start,))]
    ops, n = a.e.ops, len(values)
    matrix = ops.expand(drift_matrix(a, drift, n), (Axis(ROW, n), Axis(COLUMN, n)))
    scaled = ops.constant(ops.elementwise("mul", matrix, dt))
    lifted = scaled.type.without([ROW, COLUMN])
    scaled = ops.expand(scaled, (*lifted, Axis(ROW, n), Axis(COLUMN, n)))
    flow = linalg(a.e, "matrix_exponential", [scaled], scaled.type)
    moved = ops.dot(flow, ops.stack(values, COLUMN), (COLUMN,))
    found = tuple(ops.gather(moved, ops.make("const", (), Type("int", (), Axis(ROW, n)), value=i), ROW) for i in range(n))
    return found if isinstance(start, tuple | list) else found[0]


def drift_matrix(a: Arguments, drift: Any, n: int) -> Node:
    """The matrix of a linear function of n values: column k is the function at the k-th unit vector. Numbers are checked to be linear."""
    origin = at_point(a, drift, (0.0,) * n)
    columns = [at_point(a, drift, tuple(float(i == k) for i in range(n))) for k in range(n)]
    probe = [float(2 * k + 3) for k in range(n)]
    there = at_point(a, drift, tuple(probe))
    for row in range(n):
        entries = [origin[row], there[row], *(column[row] for column in columns)]
        if all(isinstance(entry, bool | int | float) for entry in entries):
            expected = sum(x * entry for x, entry in zip(probe, entries[2:], strict=True))
            if origin[row] != 0 or abs(there[row] - expected) > 1e-9 * sum(abs(x * entry) for x, entry in zip(probe, entries[2:], strict=True)):
                raise mistake(
                    "E0402",
                    a.places[0].span,
                    "the drift is not linear",
                    label=f"its value number {row + 1} is not",
                    why="`linear_ode` is exact, by the exponential of the drift's matrix; a constant or a product of two values has no place in it",
                    fix="leave out what is not linear, or step through time with `repeat`",
                )
    return a.e.ops.stack([a.e.ops.stack([column[row] for column in columns], COLUMN) for row in range(n)], ROW)


def at_point(a: Arguments, drift: Any, point: tuple[float, ...]) -> list[Any]:
    """The drift at a point of numbers: one number (or value without axes) for each of the system's values."""
    if isinstance(drift, v.LambdaValue) and len(drift.tree.params) != len(point):
        raise mistake(
            "E0401",
            a.places[0].span,
            f"the drift takes {len(drift.tree.params)} values, the system has {len(point)}",
            why="`from:` lists its values",
            fix="give the drift a name for each value of the system",
        )
    found = call_values(a.e, drift, a.call.span, *point)
    rates = list(found.fields.values()) if isinstance(found, v.Record) else list(found) if isinstance(found, tuple | list) else [found]
    rates = [a.e.tensor(one) for one in rates]
    if len(rates) != len(point) or any(isinstance(one, Node) and one.type.axes for one in rates):
        what = f"{len(rates)} values" if len(rates) != len(point) else "values with axes of their own"
        raise mistake(
            "E0401",
            a.places[0].span,
            f"the drift gives {what}, the system has {len(point)}",
            why="it says how fast each of the system's values moves",
            fix="return one rate for each value, in their order",
        )
    return rates

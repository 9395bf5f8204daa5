"""Mixing weights that take an optimizer: the symmetric ones that shrink disagreement fastest (Xiao and Boyd 2004).

minimize s over one weight a link, subject to -s I <= W - J <= s I, with W = I - sum of w_l b_l b_l' over links l, b_l = e_i - e_j. W 1 = 1 and
W = W' hold by construction; entries may be negative. Solved when the spec is compiled; the plan holds the numbers.
"""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.library.catalogue import MissingExtra
from gradflow.passes import values as v
from gradflow.passes.constants import is_closed
from gradflow.passes.expressions import Elaborator
from gradflow.topologies.edges import links_of

MOST = 400  # nodes: the program has two n x n matrices under its inequality


def fastest(e: Elaborator, topology: v.Topology, span: Span) -> Node:
    n = topology.nodes
    if not topology.constant or topology.directed or n is None or n > MOST:
        state = "directed" if topology.directed else f"of {n} nodes" if topology.constant and n else "not known when the spec is compiled"
        raise mistake(
            "E0603", span, f"`fastest_mixing` cannot weigh `{topology.name}`", why=f"its links are {state}; "
            f"one weight is chosen for each two-way link, for at most {MOST} nodes", fix="use `weights: best_constant()`, or metropolis()",
        )  # fmt: skip
    axes = (Axis("node", n), Axis("from", n))
    if not is_closed(topology.adjacency):  # a stand-in, where a definition is checked by itself
        return e.ops.source(Type("real", axes), "input", "weights")
    first, second = links_of(e, topology)
    known: dict[Any, Any] = e.constants.setdefault("fastest weights", {})
    key = (n, first.tobytes(), second.tobytes())
    if key not in known:
        try:
            known[key] = solved(n, first, second)
        except MissingExtra as error:
            raise mistake(
                "E0209", span, "`fastest_mixing` needs a solver that is not installed", why=str(error), fix="pip install 'gradflow[opt]'",
            ) from None  # fmt: skip
    return e.ops.table(known[key].reshape(-1).tolist(), Type("real", axes))


def solved(n: int, first: Any, second: Any) -> Any:
    """W [n, n] of the links (first, second). Raises MissingExtra without cvxpy."""
    import numpy

    try:
        import cvxpy
    except ImportError:
        raise MissingExtra("fastest_mixing", "opt", "cvxpy") from None
    if not len(first):
        return numpy.eye(n)
    ends = numpy.zeros((len(first), n))
    ends[numpy.arange(len(first)), first], ends[numpy.arange(len(first)), second] = 1, -1
    weight, bound = cvxpy.Variable(len(first)), cvxpy.Variable()
    apart = numpy.eye(n) - 1 / n - ends.T @ cvxpy.diag(weight) @ ends
    problem = cvxpy.Problem(cvxpy.Minimize(bound), [bound * numpy.eye(n) - apart >> 0, bound * numpy.eye(n) + apart >> 0])
    problem.solve(solver=cvxpy.CLARABEL)
    found = numpy.asarray(weight.value)
    return numpy.eye(n) - ends.T @ (found[:, None] * ends)

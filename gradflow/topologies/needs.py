"""What a stage needs of its topology, and the check that it is met: in its head (`over connected`), or in its body (`require ..`)."""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.constants import compute, is_closed
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.topologies.facts import EXACT, SMALL, facts, stated


def check_over(e: Elaborator, stage: v.Stage, topology: v.Topology | None, span: Any) -> None:
    """What an exchange asks of its topology in its head: `over central`, `over connected`."""
    over = stage.definition.over
    if over is None:
        return
    if topology is None:
        raise mistake(
            "E0604", stage.span, f"`{stage.name}` exchanges over a topology, and this flow has none",
            why="an exchange says what crosses the network; the flow says who is there",
            fix="`flow net over star(16): ..`",
        )  # fmt: skip
    missing = [name for name in _names(over) if not stated(topology, name)]
    found = facts(e, topology) if missing else None
    if found is None:
        return
    for name in missing:
        if not found.holds(name):
            raise mistake(
                "E0603", span, f"`{stage.name}` needs a {name} topology; `{topology.name}` is not", why=found.why(name), fix=found.fix(name),
            )  # fmt: skip


def _names(tree: s.Expr) -> list[str]:
    if isinstance(tree, s.Binary) and tree.op == "and":
        return [*_names(tree.left), *_names(tree.right)]
    return [tree.id] if isinstance(tree, s.Name) else []


def check_graph(e: Elaborator, statement: s.Require, tree: s.Expr, scope: Scope, name: str) -> None:
    """`require doubly_stochastic(graph.weights)`, or `require connected`, in the body of a stage."""
    frame = scope.frame
    topology = frame.flow.topology if frame is not None and getattr(frame, "flow", None) is not None else None
    if topology is None or stated(topology, name):
        return
    found = facts(e, topology)
    if found is not None and not found.holds(name):
        raise mistake(
            "E0603", getattr(frame.flow, "span", None) or tree.span,
            f"`{frame.stage.name}` needs a {name.replace('_', ' ')} topology; `{topology.name}` is not",
            why=f"{found.why(name)}{f' ({statement.message})' if statement.message else ''}", fix=found.fix(name),
        )  # fmt: skip


def check_reversible(e: Elaborator, statement: s.Require, tree: s.Call, scope: Scope) -> None:
    """`require reversible(p)`: law_i p_ij = law_j p_ji for the stationary law of a walk that is known when the spec is compiled."""
    import numpy

    from gradflow.builtins.matrices import linalg
    from gradflow.graph.types import Type

    p = e.evaluate(tree.args[0].value, scope) if tree.args else None
    if not isinstance(p, Node) or len(p.type.axes) != 2 or not is_closed(p) or any(axis.size is None or axis.size > SMALL for axis in p.type.axes):
        return
    law, values = compute(linalg(e, "stationary", [p], Type("real", p.type.axes[:1])), p)
    flow = law[:, None] * values
    apart = abs(flow - flow.T)
    if apart.max() < EXACT:
        return
    i, j = numpy.unravel_index(int(apart.argmax()), apart.shape)
    stage = scope.frame.stage.name if scope.frame is not None else scope.owner
    raise mistake(
        "E0603", e.anchors[-1] if e.anchors else tree.span, f"`{stage}` needs a reversible walk; this one is not",
        why=f"it goes from node {i} to node {j} with frequency {flow[i, j]:.3g}, and back with {flow[j, i]:.3g}",
        fix=statement.message or "use a walk in detailed balance, such as `metropolis_hastings()`",
    )  # fmt: skip

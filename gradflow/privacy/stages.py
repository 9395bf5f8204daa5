"""What a stage can ask for record by record: `grad(per: sample)`, `grad(at: x, per: sample)`, and `present(sample)`, which records there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, mistake
from gradflow.passes import values as v
from gradflow.passes.differentiate import NotDifferentiable
from gradflow.passes.scope import Scope
from gradflow.passes.stage_calls import looks
from gradflow.privacy.per_sample import NotPerSample, per_sample

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator
    from gradflow.passes.flows import FlowElaborator
    from gradflow.passes.stage_bodies import StageBody


def asked_per(body: StageBody, axis: s.Expr, named: Mapping[str, s.Expr], node: s.Call, scope: Scope) -> Any:
    """`grad(per: axis)`, or `present(axis)`: a bool with the axis where a mean covers a part of it, else true."""
    if not isinstance(axis, s.Name):
        raise mistake(
            "E0306", axis.span, "an axis name is needed here", why="gradients are asked for by the axis that keeps them apart",
            fix="`grad(per: sample)`",
        )  # fmt: skip
    if body.up.per is None:
        raise mistake(
            "E0514", node.span, f"the gradient for every entry of `{axis.id}` cannot be asked for here",
            why="a stage stands between it and the objective", fix=f"put `{body.stage.name}` first, behind the objective",
        )  # fmt: skip
    point = body.e.tensor(body.e.evaluate(named["at"], scope)) if "at" in named else body.point
    fresh = body.fresh + looks(body.e, named["fresh"], scope) if "fresh" in named else body.fresh
    with body.e.at(flow=""), body.e.placed(None):
        value, present = body.up.per(None if point is None else body.flat(point), fresh, axis.id)
    return body.view(value) if "per" in named else present


def gradients(flow: FlowElaborator, point: Node | None, fresh: int, axis: str) -> tuple[Node, Any]:
    """Of a flow's objective at a point: its gradients by record, taken once for everybody who asks."""
    if not isinstance(flow.chain[0], v.Live):
        from gradflow.passes.flows import no_objective

        raise no_objective(flow.chain[0], flow.span, "grad")
    loss, flat, _ = flow.loss(point, fresh)
    flow.check_loss(loss, flat)
    flow.looked[flat.id, fresh] = loss
    key = (flat.id, fresh, axis)
    if key not in flow.memo:
        span = flow.chain[0].tree.span
        try:
            flow.memo[key] = per_sample(flow.e.ops, loss, flat, axis)
        except NotPerSample as error:
            raise mistake(
                "E0701", span, f"the gradient of this cannot be taken for every entry of `{axis}`",
                secondary=(Label(error.node.span, error.why),), why="it must be a mean of terms that see one entry each, plus terms that see none",
                fix=f"write the objective as `mean(.., over: {axis})`",
            ) from None  # fmt: skip
        except NotDifferentiable as error:
            raise mistake(
                "E0527", span, f"the derivative of this runs through {error.what}, which has none here",
                secondary=(Label(error.span, "this has no derivative"),),
                why="every operation between a loss and its parameters must have a derivative", fix="hold it constant with `stop(..)`",
            ) from None  # fmt: skip
    return flow.memo[key]


def stand_in(e: Elaborator, at: Callable[[Node | None, int], Node], point: Node | None, fresh: int, axis: str) -> tuple[Node, Any]:
    """Where a stage is checked without an objective: a gradient of the right axes from nowhere."""
    grad = at(point, fresh).type
    return e.ops.source(Type("real", (*grad.without(["param"]), Axis(axis, 3), grad.axis("param"))), "input", "grad", f"per {axis}"), True

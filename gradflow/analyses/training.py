"""Training that does not do what it says: decay that the rule's scaling undoes, schedules that the run does not reach the end of, dropout under
micro-batches, and memory that is known to be too little (W0113, W0114, W0116, E0608, W0302).

Like the dead knobs these ask the graph: an L2 term is a multiple of the parameters that is added to what a rule then squares, averages and
divides by the root of; a schedule is a comparison of the clock with a number that the clock does not reach.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradflow.events.plan import drawn_in_batches
from gradflow.graph.graph import Node, depends, ordered
from gradflow.language import syntax as s
from gradflow.language.source import Span
from gradflow.passes.calls import unbuilt
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.plan import program as p

COMPARISONS = ("lt", "le", "gt", "ge", "minimum", "maximum")


def check_training(e: Elaborator, program: p.Program, definition: s.Definition, scope: Scope) -> None:
    """Adds to the report what this program will not do, though its text looks like it."""
    for phase in program.phases:
        for update in (action for action in phase.actions if isinstance(action, p.Update)):
            decay_before_scaling(e, update, definition, scope)
            unreached(e, program, phase, update)
            if update.events is not None and drawn_in_batches(update.events, program):
                with e.collecting():
                    raise unbuilt(
                        update.span,
                        "events on data that is drawn in batches cannot run yet",
                        "take all rows of a node: leave out `batch:`",
                    )
        dropout_in_pieces(e, program, phase)
    memory(e, program, definition)


# ---- decay


def decay_before_scaling(e: Elaborator, update: p.Update, definition: s.Definition, scope: Scope) -> None:
    """W0113: weight decay is added to the gradient, and the rule divides the sum by its own size."""
    for term in _undone(update):
        for call, name in _stage_calls(term.span, definition, scope):
            e.warn(
                "W0113", call.span, f"the rule behind `{name}` divides the decay by the size of the gradient",
                why="it is added to the gradient, so what decays fast and what decays slowly is set by the moments and not by the rate",
                fix=f"`decoupled_decay(lr * rate)` in place of `{name}` shrinks all parameters alike",
            )  # fmt: skip


def _undone(update: p.Update) -> Iterator[Node]:
    """Sums of a gradient and a multiple of the trained parameters of which a root of squares divides the step."""
    roots = [node for name, node in update.region.results if name.startswith("param/")]
    nodes = ordered(roots)
    sums = [node for node in nodes if node.op == "add" and any(_multiple(side, update.models) for side in node.inputs)]
    if not sums:
        return
    for total in sums:
        below = depends(roots, lambda n, total=total: n is total)  # type: ignore[misc]
        squares = {n.id for n in nodes if _square(n) and n.inputs[0].id in below}
        rooted = depends(roots, lambda n, squares=squares: n.id in squares)  # type: ignore[misc]
        roots_of = {n.id for n in nodes if n.id in rooted and (n.op == "sqrt" or n.op == "pow" and _constant(n.inputs[1]) == 0.5)}
        scaled = depends(roots, lambda n, roots_of=roots_of: n.id in roots_of)  # type: ignore[misc]
        if any(n.op == "div" and n.inputs[1].id in scaled and n.inputs[1].type.has("param") for n in nodes):
            yield total


def _multiple(node: Node, models: tuple[str, ...]) -> bool:
    """A number other than 0 times a trained model's parameters."""
    if node.op != "mul":
        return False
    number, other = sorted(node.inputs, key=lambda n: n.op != "const")
    return number.op == "const" and number["value"] != 0 and other.op == "source" and other["kind"] == "param" and other["path"][0] in models


def _square(node: Node) -> bool:
    return node.op == "pow" and _constant(node.inputs[1]) == 2 or node.op == "mul" and node.inputs[0] is node.inputs[1]


def _constant(node: Node) -> float | None:
    return float(node["value"]) if node.op == "const" else None


def _stage_calls(place: Span, pipeline: s.Definition, scope: Scope) -> Iterator[tuple[s.Call, str]]:
    """The calls in the pipeline's flows of the stage whose body a node came from."""
    for flow in (node for node in s.walk(pipeline) if isinstance(node, s.Flow)):
        for call in (node for node in s.walk(flow) if isinstance(node, s.Call) and isinstance(node.callee, s.Name)):
            found = scope.find(call.callee.id)  # type: ignore[union-attr]
            if found is not None and found[0].span.file == place.file and found[0].span.offset <= place.offset < found[0].span.end:
                yield call, call.callee.id  # type: ignore[union-attr]


# ---- schedules


def unreached(e: Elaborator, program: p.Program, phase: p.Phase, update: p.Update) -> None:
    """W0114: the clock is held against a number that it does not reach."""
    said: set[Span] = set()
    for node in ordered([node for name, node in update.region.results if name.startswith(("param/", "state/"))]):
        if node.op not in COMPARISONS or node.span.file != e.home or node.span in said:
            continue
        number, other = sorted(node.inputs, key=lambda n: n.op != "const")
        bound, clock = _bound_of(number, other)
        last = phase.count if clock == ("t",) else planned_updates(program, update.flow) if clock == ("t", update.flow) else None
        if bound is not None and last is not None and bound > last:
            said.add(node.span)
            e.warn(
                "W0114", node.span, f"the training ends before this: it waits for `t` = {bound:,.10g}, and `t` ends at {last:,}",
                why=f"`t` counts the {'updates of the flow' if len(clock) > 1 else phase.unit}",
                fix="write it with `progress` or `t_end`, which follow the length of the training, or train longer",
            )  # fmt: skip


def planned_updates(program: p.Program, flow: str) -> int | None:
    """How many updates a flow makes in all phases; None where rows are not counted before the run."""
    total = 0
    for phase in program.phases:
        if any(isinstance(action, p.Update) and action.flow == flow for action in phase.actions):
            updates = _updates(program, phase)
            if updates is None:
                return None
            total += phase.count * updates
    return total


def _updates(program: p.Program, phase: p.Phase) -> int | None:
    if phase.unit == "rollouts":
        return int(phase.settings.get("epochs", 1)) * int(phase.settings.get("minibatches", 1))
    if phase.unit != "epochs":
        return 1
    batched = [plan for plan in program.data.values() if plan.spec.batch is not None]
    if len(batched) != 1 or batched[0].nodes is not None:
        return None if batched else 1
    spec = batched[0].spec
    rows = next((size for field in spec.fields[spec.splits[0]].values() for _, size in field.axes[:1]), None)
    return max(rows // spec.batch, 1) if rows is not None and spec.batch is not None else None


def _bound_of(number: Node, other: Node) -> tuple[float | None, tuple[str, ...]]:
    """The value of `t` at which `other`, which is `t` or a part of it, passes the number; and which clock that is."""
    if number.op != "const" or isinstance(number["value"], bool):
        return None, ()
    value = float(number["value"])
    if other.op == "div" and (by := _constant(other.inputs[1])) and by > 0:
        return value * by, _clock(other.inputs[0])
    return value, _clock(other)


def _clock(node: Node) -> tuple[str, ...]:
    """Which clock a value is, where it is `t` or a number added to it."""
    if node.op in ("add", "sub") and node.inputs[1].op == "const":
        node = node.inputs[0]
    return tuple(node["path"]) if node.op == "source" and node["kind"] == "clock" and node["path"][0] == "t" else ()


# ---- micro-batches


def dropout_in_pieces(e: Elaborator, program: p.Program, phase: p.Phase) -> None:
    """W0116: pieces of a batch go through a model more than once, and dropout would drop others each time."""
    if int(phase.settings.get("micro", 1)) < 2:
        return
    for plan in program.models.values():
        options = dict(plan.declaration[2]) if plan.declaration is not None else {}
        share = options.get("dropout", 0)
        if isinstance(share, int | float) and share > 0:
            e.warn(
                "W0116", plan.span, f"`{plan.name}` drops at random, and `micro` cuts its batches into pieces",
                why="a piece goes through the model again for its gradient, and would drop others: the run refuses to begin",
                fix="leave out `micro`, or the dropout",
            )  # fmt: skip


# ---- memory


def memory(e: Elaborator, program: p.Program, definition: s.Definition) -> None:
    """E0608, W0302: parameters and states alone are over the limit that the pipeline sets."""
    if any(isinstance(statement, s.Require) for statement in definition.body or ()):
        from gradflow.cost.limits import kept_too_large

        for diagnostic in kept_too_large(program, definition):
            e.report.add(diagnostic)

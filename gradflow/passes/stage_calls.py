"""Calls that mean something only inside a stage: `grad(at: ..)`, `value(at: ..)`, `step(g)`, `mix(x)`, and other stages as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.stages import Bundle, Change, Upstream, constant_upstream, flatten
from gradflow.passes.suggestions import head, listed, suggestion

if TYPE_CHECKING:
    from gradflow.passes.stage_bodies import StageBody

SPECIAL_CALLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "grad": (0, ("at", "per", "fresh")), "value": (0, ("at", "fresh")), "step": (1, ()), "mix": (1, ()), "present": (1, ()),
}  # fmt: skip


def special_arguments(node: s.Call, name: str) -> tuple[dict[str, s.Expr], list[s.Expr]]:
    """Named and other arguments of `grad(..)`, `step(..)` and `mix(..)`."""
    wanted, options = SPECIAL_CALLS[name]
    places = [arg.value for arg in node.args if arg.name is None]
    if len(places) != wanted:
        why, fix = f"it is `{name}(g)`", "give it what flows: `grad`, say"
        if name in ("grad", "value"):
            why, fix = f"`{name}(at: x)` takes options alone", "name it: `at: ..`"
        raise mistake("E0401", node.span, f"`{name}` takes {wanted} value{'s' * (wanted != 1)}, {len(places)} given", why=why, fix=fix)
    for arg in node.args:
        if arg.name and arg.name not in options:
            place = head(arg.span, arg.name)
            why = f"its options are {listed(options)}" if options else "it has no options"
            raise mistake("E0404", place, f"`{name}` has no option `{arg.name}`", why=why, **suggestion(place, arg.name, options, "remove it"))
    return {arg.name: arg.value for arg in node.args if arg.name}, places


def special_call(body: StageBody, node: s.Call, scope: Scope) -> tuple[bool, Any]:
    """Whether a call is one of these, and its value."""
    name = node.callee.id if isinstance(node.callee, s.Name) else ""
    if name not in SPECIAL_CALLS:
        return False, None
    named, places = special_arguments(node, name)
    if "per" in named or name == "present":
        from gradflow.privacy.stages import asked_per

        return True, asked_per(body, named.get("per") or places[0], named, node, scope)
    e = body.e
    if name in ("grad", "value"):
        point = e.tensor(e.evaluate(named["at"], scope)) if "at" in named else None
        fresh = body.fresh + (looks(e, named["fresh"], scope) if "fresh" in named else 0)
        return True, body.gradient(point, fresh) if name == "grad" else body.objective_value(point, fresh, node)
    given = e.tensor(e.evaluate(places[0], scope))
    return True, body.step(given, node) if name == "step" else body.mix(e.ops.constant(given), node)


def looks(e: Elaborator, tree: s.Expr, scope: Scope) -> int:
    """`fresh: true` is the next sample, `fresh: k` the k-th after this tick's own."""
    value = e.evaluate(tree, scope)
    if isinstance(value, int) and value >= 0:
        return int(value)
    raise mistake(
        "E0402", tree.span, "`fresh` is true, or a whole number that is known when the spec is compiled", why=f"this is {v.kind_name(value)}",
        fix="in a loop `repeat k: 5` count with it: `grad(at: y, fresh: k)`",
    )  # fmt: skip


def stage_call(body: StageBody, stage: Any, node: s.Call, scope: Scope) -> Any:
    """A stage as a function: what a projection makes of a value, or the step that an update makes of it."""
    if len(node.args) != 1 or node.args[0].name is not None:
        raise mistake(
            "E0401", node.span, f"a stage used as a function takes one value, {len(node.args)} given",
            why="it is called on the gradient that it is to work on",
            fix="`compress(grad)`; its options are given where it is named",
        )  # fmt: skip
    value = body.flat(body.e.evaluate(node.args[0].value, scope))
    out: list[Node] = []

    def capture(up: Upstream, bundle: Bundle) -> Change:
        out.append(up.at(None, 0))
        return Change(out[0])

    bundle = Bundle(body.bundle.leaves if body.leaf is None else (body.leaf,), body.bundle.param)
    path = f"{body.path}.call{node.span.offset}"  # calls are told apart by their place in the text
    before = set(body.flow.called)
    with body.e.at(passes=body.e.loops[-1] + 1 if body.e.loops else None):
        up = constant_upstream(value, "a stage called as a function sees one gradient")
        change = body.builder.chain(flatten(stage), up, bundle, capture, path + ".")
    fields: dict[str, Any] = {}
    for key in [k for k in body.flow.called if k not in before or k.startswith(path)]:
        fields.update({name: body.own_view(x) for name, x in body.flow.called[key].items()})
    body.flow.called[f"#{id(stage)}"] = fields
    result = out[0] if out else body.builder.difference(change, bundle)
    return body.view(body.e.ops.constant(result))

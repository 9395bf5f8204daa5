"""Knobs of policy optimization that are dead or work against each other: log-probabilities at two temperatures (E0408), an entropy whose weight is 0
(W0117), draws from another distribution than the ratio's (W0118), selections by equal rewards where rewards are graded (W0119), and selections that
drop what the advantage is there for (W0120).

They ask the graph, as the others do. A group whose answers are all equal is evaluated by symmetry: every entry of a value is one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gradflow.analyses.knobs import _behind_weights, _calls, _covers, _reached, updates
from gradflow.analyses.origins import Origins
from gradflow.graph.graph import Node, depends, ordered
from gradflow.graph.operations import ELEMENTWISE
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Span
from gradflow.passes.expressions import NUMBERS, Elaborator
from gradflow.passes.scope import Scope
from gradflow.plan import program as p
from gradflow.procedures import acts

CARRYING = {"stop", "neg", "expand", "rename", "sum", "leaf", "slice", "exp", "minimum", "maximum", "where", "choose", "div", "gather", "transpose"}
SHAPING = ("temperature", "top_p", "top_k")
MEMBERS = 4  # of the group that is evaluated, and tokens of each of its answers


def check_policy(e: Elaborator, program: p.Program, definition: s.Definition, scope: Scope) -> None:
    """Adds to the report what of a policy's options has no effect, or another one than it says."""
    said = list(_reached(definition, scope.module.definitions))
    for phase in program.phases:
        origins = Origins(phase.actions)
        for update in updates(phase):
            temperatures(e, update, origins, said)
            drawn_elsewhere(e, update, origins, said)
            weightless_entropy(e, update, said, scope)
        selections(e, program, phase, origins, said)


def moving(update: p.Update) -> list[Node]:
    """What the parameters move by; what is only reported is left out."""
    return ordered([node for name, node in update.region.results if name.startswith("param/")])


# ---- temperatures


def temperatures(e: Elaborator, update: p.Update, origins: Origins, said: list[s.Definition]) -> None:
    """E0408: a ratio or a difference of log-probabilities that were taken at two temperatures."""
    known: dict[int, tuple[float, str]] = {}
    for node in moving(update):
        own = _scored(node, origins)
        below = {known[one.id] for one in node.inputs if one.id in known}
        if own is not None:
            known[node.id] = own
        elif node.op in ("sub", "div") and len({temperature for temperature, _ in below}) > 1 and all(one.id in known for one in node.inputs):
            (first, one), (second, other) = (known[side.id] for side in node.inputs)
            place = next(_arguments(said, (("score", "temperature"), ("sample", "scored_at"), ("sample", "temperature"))), None)
            right = second if first == 1 else first
            e.report.add(
                Diagnostic(
                    "E0408", f"{one} is at temperature {first:g}, {other} at {second:g}", place or update.span, "they are compared",
                    why="the same model says two things at two temperatures: the ratio is not 1 where nothing has moved",
                    fix=f"score at one: `sample(.., scored_at: {right:g})` and `score(.., temperature: {right:g})`",
                )
            )  # fmt: skip
            return
        elif node.op in CARRYING and len(below) == 1:
            known[node.id] = below.pop()


def _scored(node: Node, origins: Origins) -> tuple[float, str] | None:
    """(temperature, in words) of a node that is a log-probability itself."""
    if node.op == "model" and node.get("method") == "score" and node["output"] == "logp":
        temperature = dict(node["options"]).get("temperature", 1.0)
        return (float(temperature), f"what `{node['model']}` says") if isinstance(temperature, NUMBERS) else None
    if node.op == "source" and node["kind"] == "held" and node["path"][-1] == "logp_old":
        found = {call.options.get("scored_at", 1.0) for call in origins.behind("held", node["path"]) if call.primitive == "sample"}
        one = found.pop() if len(found) == 1 else None
        return (float(one), "`logp_old`") if isinstance(one, NUMBERS) else None
    return None


def _arguments(said: Iterable[s.Definition], wanted: tuple[tuple[str, str], ...]) -> Iterator[Span]:
    """Where the file gives one of these arguments to its callee, in this order."""
    calls = [call for definition in said for call in _calls(definition)]
    for callee, name in wanted:
        yield from (arg.span for call in calls if getattr(call.callee, "id", "") == callee for arg in call.args if arg.name == name)


def drawn_elsewhere(e: Elaborator, update: p.Update, origins: Origins, said: list[s.Definition]) -> None:
    """W0118: samples come from a distribution that is not the one of `logp_old`, and nothing says that this is meant."""
    for node in moving(update):
        if node.op != "source" or node["kind"] != "held" or node["path"][-1] != "logp_old":
            continue
        for call in origins.behind("held", node["path"]):
            scored = call.options.get("scored_at", 1)
            usual = {"temperature": (scored,), "top_p": (1,), "top_k": (0,)}
            shaped = {name: call.options[name] for name in SHAPING if call.options.get(name, usual[name][0]) not in usual[name]}
            numbers = all(isinstance(value, NUMBERS) for value in (scored, *shaped.values()))
            shaping = _shaping(said, call, shaped) if call.primitive == "sample" and shaped and numbers else None
            if shaping is None or any(_says(one, "scored_at") for one in shaping[0]):
                continue
            warmer = shaped.get("temperature")
            fix = f"score where you draw, `scored_at: {warmer:g}` and `score(.., temperature: {warmer:g})`, or " if warmer is not None else ""
            e.warn(
                "W0118", shaping[1], f"samples are drawn with {', '.join(f'{k} {x:g}' for k, x in shaped.items())}, and `logp_old` is not",
                why=f"the ratio is to the full distribution at temperature {scored:g}, which did not draw them: it is off-policy from the start",
                fix=f"{fix}say that it is meant: `scored_at: {scored:g}`",
            )  # fmt: skip


def _says(call: s.Call, name: str) -> bool:
    """Whether a call gives the option itself, not the parameter of the function around it."""
    return any(arg.name == name and not isinstance(arg.value, s.Name) for arg in call.args)


def _shaping(said: list[s.Definition], call: acts.WorldCall, shaped: Mapping[str, Any]) -> tuple[list[s.Call], Span] | None:
    """The draw itself and the call that shapes it, and where the file does so: in the draw, or in the call of the function that draws."""
    calls = [one for definition in said for one in _calls(definition)]
    drawn = [one for one in calls if one.span == call.span]
    for one in drawn + [one for one in calls if one.span != call.span]:
        for arg in one.args:
            if arg.name and isinstance(arg.value, s.Number) and arg.value.value == shaped.get(arg.name):
                return [*drawn, one], arg.span
    return None


# ---- an entropy whose weight is 0


def weightless_entropy(e: Elaborator, update: p.Update, said: list[s.Definition], scope: Scope) -> None:
    """W0117: the entropy of every distribution is computed, and multiplied by 0."""
    read = [node for node in update.region.nodes() if node.op == "model" and node["output"] == "entropy"]
    weighty = {node.id for node in _behind_weights(update.region)}
    for node in read:
        if node.id not in weighty:
            e.warn(
                "W0117", _weight(e, update, node, said, scope), "the entropy of every token is computed, and its weight is 0",
                why="every term that reads it is multiplied by 0",
                fix="give the term a weight, or leave it out",
            )  # fmt: skip


def _weight(e: Elaborator, update: p.Update, node: Node, said: list[s.Definition], scope: Scope) -> Span:
    """Where the file says 0: at the product, or in the call of the definition that holds it."""
    above = depends(update.region.roots, lambda n: n is node)
    products = [n for n in update.region.nodes() if n.op == "mul" and n.id in above]
    products = [n for n in products if any(one.op == "const" and one["value"] == 0 for one in n.inputs)]
    for product in products:
        for call in (call for definition in said for call in _calls(definition)):
            found = scope.find(getattr(call.callee, "id", ""))
            zero = [arg.span for arg in call.args if isinstance(arg.value, s.Number) and arg.value.value == 0]
            if found is not None and zero and _covers(found[0].span, product.span):
                return zero[0]
        if product.span.file == e.home:
            return product.span
    return update.span


# ---- selections


def selections(e: Elaborator, program: p.Program, phase: p.Phase, origins: Origins, said: list[s.Definition]) -> None:
    """W0119, W0120: what drops groups whose answers earn alike."""
    for pick in origins.calls("pick"):
        mask = dict(pick.inputs.results).get("mask") if pick.inputs is not None else None
        if mask is None:
            continue
        read = origins.sources([mask], "reward")
        calls = [call for node in read for call in origins.behind(node["kind"], node["path"]) if call.primitive == "sample"]
        by_reward = any(node["path"][-1].rpartition(".")[2] == "reward" for node in read)
        graded = [name for call in calls for name, _ in call.data.values() if by_reward and program.data[name].spec.facts.get("graded")]
        place = _selection(pick, said)
        if place is None or not calls:
            continue
        if graded and _of_equals(mask, 0.3) is False and _of_equals(mask, 0.7) is False:
            e.warn(
                "W0119", place, f"groups are dropped where all rewards are equal, and those of `{graded[0]}` are graded",
                why="two wrong answers seldom earn exactly the same part of the credit, so hardly any group is dropped",
                fix="select by what is right: `by: correct`, or `instructive(samples.correct, samples.group)`",
            )  # fmt: skip
        if _of_equals(mask, 0.0) is False:
            for credit in _against_all_wrong(phase):
                e.warn(
                    "W0120", place, "groups that are all wrong are dropped, and the advantage is made for them",
                    why=f"it is {credit:.3g} where every answer of a group is wrong, which then never happens",
                    fix="drop what teaches nothing: `drop: all_right`",
                )  # fmt: skip
                break


def _selection(pick: acts.WorldCall, said: list[s.Definition]) -> Span | None:
    """Where the file selects: `x[mask]` itself, or the draw whose function does."""
    if any(_covers(definition.span, pick.span) for definition in said):
        return pick.span
    binds = [node for definition in said for node in s.walk(definition) if isinstance(node, s.Bind) and node.op == "~"]
    named = [node.value for node in binds if isinstance(node.value, s.Call) and isinstance(node.value.callee, s.Name)]
    return next((call.span for call in named if any(arg.name in ("drop", "group", "prompts") for arg in call.args)), None)


def _against_all_wrong(phase: p.Phase) -> Iterator[float]:
    """Advantages below 0 of a group whose answers all earn nothing."""
    for update in updates(phase):
        for node in (node for _, node in update.rollout.results) if update.rollout is not None else ():
            value = _of_equals(node, 0.0) if node.type.base == "real" else None
            if isinstance(value, NUMBERS) and value < -1e-9:
                yield float(value)


def _of_equals(node: Node, reward: float) -> Any:
    """What a node is worth for one group of answers that are alike in everything and earn this reward; None where that does not say it."""
    known: dict[int, Any] = {}
    for one in ordered([node]):
        inputs = [known.get(below.id) for below in one.inputs]
        known[one.id] = _alike(one, inputs, reward)
    rewarded = depends([node], lambda n: n.op == "source" and n["path"][-1].rpartition(".")[2] in ("reward", "correct"))
    return known[node.id] if node.id in rewarded else None


def _alike(node: Node, inputs: list[Any], reward: float) -> Any:
    if node.op == "const":
        return node["value"]
    if node.op == "source":
        field = node["path"][-1].rpartition(".")[2]
        return {"reward": reward, "correct": reward >= 1, "mask": True, "group": 0}.get(field)
    if node.op == "axis_size":
        return MEMBERS
    if node.op in ("where", "choose"):
        return None if inputs[0] is None else inputs[1] if inputs[0] else inputs[2]
    if not inputs or any(not isinstance(one, NUMBERS) for one in inputs):
        return None
    if node.op in ("sum", "segment_sum"):
        count = MEMBERS ** sum(axis.name not in node.type.names for axis in node.inputs[0].type.axes)
        return inputs[0] * count
    if node.op in ELEMENTWISE:
        return ELEMENTWISE[node.op][1](*inputs)
    return inputs[0] if node.op in ("max", "min", "any", "all", "segment_max", "segment_min", "expand", "rename", "gather", "slice") else None

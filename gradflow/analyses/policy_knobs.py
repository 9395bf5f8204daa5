"""Knobs of policy optimization that are dead or work against each other: log-probabilities at two temperatures (E0408), an entropy whose weight is 0
(W0117), draws from another distribution than the ratio's (W0118), selections by equal rewards where rewards are graded (W0119), and selections that
drop what the advantage is there for (W0120).

They ask the graph, as the others do. A group whose answers are all equal is evaluated by symmetry: every entry of a value is one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradflow.analyses.knobs import _calls, _covers, _reached, updates
from gradflow.analyses.origins import Drawn, Origins, draws_responses, option
from gradflow.analyses.places import Places, arguments
from gradflow.analyses.weights import below, program_actions
from gradflow.graph.graph import Node, ordered
from gradflow.graph.operations import ELEMENTWISE
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Span
from gradflow.passes.expressions import NUMBERS, Elaborator
from gradflow.plan import program as p
from gradflow.procedures import acts

CARRYING = {"stop", "neg", "expand", "rename", "sum", "leaf", "slice", "exp", "minimum", "maximum", "where", "choose", "div", "gather", "transpose"}
SHAPING = ("temperature", "top_p", "top_k")
MEMBERS = 4  # of the group that is evaluated, and tokens of each of its answers


def check_policy(e: Elaborator, program: p.Program, places: Places) -> None:
    """Adds to the report what of a policy's options has no effect, or another one than it says."""
    said = list(_reached(places.pipeline, places.scope.module.definitions))
    for phase in program.phases:
        actions = program_actions(program, phase)
        for update in updates(phase):
            origins = Origins(actions, update)
            temperatures(e, update, origins, places, said)
            drawn_elsewhere(e, update, origins, places)
            weightless_entropy(e, update, origins, places, said)
        selections(e, program, phase, Origins(actions), places)


def moving(update: p.Update) -> list[Node]:
    """What the parameters move by; what is only reported is left out."""
    return ordered([node for name, node in update.region.results if name.startswith("param/")])


# ---- temperatures


def temperatures(e: Elaborator, update: p.Update, origins: Origins, places: Places, said: list[s.Definition]) -> None:
    """E0408: a ratio or a difference of log-probabilities that were taken at two temperatures."""
    known: dict[int, tuple[float, str]] = {}
    for node in moving(update):
        own = _scored(node, origins)
        sides = {known[one.id] for one in node.inputs if one.id in known}
        if own is not None:
            known[node.id] = own
        elif node.op in ("sub", "div") and len({temperature for temperature, _ in sides}) > 1 and all(one.id in known for one in node.inputs):
            (first, one), (second, other) = (known[side.id] for side in node.inputs)
            place = next(arguments(said, (("score", "temperature"),)), None) or _drawn_at(node, origins, places)
            right = second if first == 1 else first
            e.report.add(
                Diagnostic(
                    "E0408", f"{one} is at temperature {first:g}, {other} at {second:g}", place or update.span, "they are compared",
                    why="the same model says two things at two temperatures: the ratio is not 1 where nothing has moved",
                    fix=f"score at one: `sample(.., scored_at: {right:g})` and `score(.., temperature: {right:g})`",
                )
            )  # fmt: skip
            return
        elif node.op in CARRYING and len(sides) == 1:
            known[node.id] = sides.pop()


def _scored(node: Node, origins: Origins) -> tuple[float, str] | None:
    """(temperature, in words) of a node that is a log-probability itself, or one that was drawn or computed before."""
    found = {_temperature(end) for end in origins.ends(node)}
    temperature, words = found.pop() if len(found) == 1 else (None, "")
    return (float(temperature), words) if isinstance(temperature, NUMBERS) else None


def _temperature(end: Drawn | Node) -> tuple[Any, str]:
    if isinstance(end, Drawn):
        return (option(end.call, "scored_at"), "`logp_old`") if draws_responses(end.call) and end.field == "logp_old" else (None, "")
    if end.op == "model" and end.get("method") == "score" and end["output"] == "logp":
        return dict(end["options"]).get("temperature", 1.0), f"what `{end['model']}` says"
    return None, ""


def _drawn_at(node: Node, origins: Origins, places: Places) -> Span | None:
    """Where the file says at which temperature the samples behind a node were drawn and scored."""
    calls = [one.call for source in ordered([node]) for one in (origins.drawn(source) if source.op == "source" else None) or ()]
    said = [
        places.of_option(call, name, origins, option(call, name)) for name in ("scored_at", "temperature") for call in calls if draws_responses(call)
    ]
    return next((one[0] for one in said if one is not None), None)


def drawn_elsewhere(e: Elaborator, update: p.Update, origins: Origins, places: Places) -> None:
    """W0118: samples come from a distribution that is not the one of `logp_old`, and nothing says that this is meant."""
    read = (one for node in moving(update) if node.op == "source" for one in origins.drawn(node) or ())
    for call in {one.call.id: one.call for one in read if one.field == "logp_old" and draws_responses(one.call)}.values():
        scored = option(call, "scored_at")
        usual = {"temperature": (scored,), "top_p": (1,), "top_k": (0,)}
        shaped = {name: option(call, name) for name in SHAPING if option(call, name) not in usual[name]}
        said = [places.of_option(call, name, origins, value) for name, value in shaped.items()]
        numbers = all(isinstance(value, NUMBERS) for value in (scored, *shaped.values()))
        place = next((one[0] for one in said if one is not None and isinstance(one[1], s.Number)), None)
        if place is None or not numbers or places.says(call, "scored_at", origins):
            continue
        warmer = shaped.get("temperature")
        fix = f"score where you draw, `scored_at: {warmer:g}` and `score(.., temperature: {warmer:g})`, or " if warmer is not None else ""
        e.warn(
            "W0118", place, f"samples are drawn with {', '.join(f'{k} {x:g}' for k, x in shaped.items())}, and `logp_old` is not",
            why=f"the ratio is to the full distribution at temperature {scored:g}, which did not draw them: it is off-policy from the start",
            fix=f"{fix}say that it is meant: `scored_at: {scored:g}`",
        )  # fmt: skip


# ---- an entropy whose weight is 0


def weightless_entropy(e: Elaborator, update: p.Update, origins: Origins, places: Places, said: list[s.Definition]) -> None:
    """W0117: the entropy of every distribution is computed, and multiplied by 0."""
    read, weighty = (below(update.region.roots, origins, weights) for weights in (False, True))
    for node in read.values():
        if node.op == "model" and node["output"] == "entropy" and node.id not in weighty:
            e.warn(
                "W0117", _weight(e, update, node, origins, places, said), "the entropy of every token is computed, and its weight is 0",
                why="every term that reads it is multiplied by 0",
                fix="give the term a weight, or leave it out",
            )  # fmt: skip


def _weight(e: Elaborator, update: p.Update, node: Node, origins: Origins, places: Places, said: list[s.Definition]) -> Span:
    """Where the file says 0: at the product, or in the call of the definition that holds it."""
    products = [n for n in below(update.region.roots, origins, False).values() if n.op == "mul"]
    products = [n for n in products if any(one.op == "const" and one["value"] == 0 for one in n.inputs) and node.id in below([n], origins, False)]
    for product in products:
        for call in (call for definition in said for call in _calls(definition)):
            found = places.scope.find(getattr(call.callee, "id", ""))
            zero = [arg.span for arg in call.args if isinstance(arg.value, s.Number) and arg.value.value == 0]
            if found is not None and zero and _covers(found[0].span, product.span):
                return zero[0]
        if product.span.file == e.home:
            return product.span
    return update.span


# ---- selections


def selections(e: Elaborator, program: p.Program, phase: p.Phase, origins: Origins, places: Places) -> None:
    """W0119, W0120: what drops groups whose answers earn alike."""
    for pick in (call for call in acts.calls_in(phase.actions) if call.primitive == "pick"):
        mask = dict(pick.inputs.results).get("mask") if pick.inputs is not None else None
        if mask is None:
            continue
        read = [one for node in origins.behind([mask]) if node.op == "source" for one in [origins.of_source(node)[0]] if one is not None]
        drawn = [one for one in read if draws_responses(one.call)]
        graded = [name for one in drawn if one.field == "reward" for name, _ in one.call.data.values() if program.data[name].spec.facts.get("graded")]
        place = places.of_call(pick, origins)
        if place is None or not drawn:
            continue
        if graded and _of_equals(mask, 0.3, origins) is False and _of_equals(mask, 0.7, origins) is False:
            e.warn(
                "W0119", place, f"groups are dropped where all rewards are equal, and those of `{graded[0]}` are graded",
                why="two wrong answers seldom earn exactly the same part of the credit, so hardly any group is dropped",
                fix="select by what is right: `by: correct`, or `instructive(samples.correct, samples.group)`",
            )  # fmt: skip
        if _of_equals(mask, 0.0, origins) is False:
            for credit in _against_all_wrong(phase, origins):
                e.warn(
                    "W0120", place, "groups that are all wrong are dropped, and the advantage is made for them",
                    why=f"it is {credit:.3g} where every answer of a group is wrong, which then never happens",
                    fix="drop what teaches nothing: `drop: all_right`",
                )  # fmt: skip
                break


def _against_all_wrong(phase: p.Phase, origins: Origins) -> Iterator[float]:
    """Advantages below 0 of a group whose answers all earn nothing."""
    for update in updates(phase):
        for node in (node for _, node in update.rollout.results) if update.rollout is not None else ():
            value = _of_equals(node, 0.0, origins) if node.type.base == "real" else None
            if isinstance(value, NUMBERS) and value < -1e-9:
                yield float(value)


def _of_equals(node: Node, reward: float, origins: Origins) -> Any:
    """What a node is worth for one group of answers that are alike in everything and earn this reward; None where that does not say it."""
    known: dict[int, Any] = {}
    rewarded: set[int] = set()
    begun: set[int] = set()
    todo = [node]
    while todo:
        one = todo.pop()
        ends = origins.ends(one) if one.op == "source" else one.inputs
        made = [end for end in ends if isinstance(end, Node) and end is not one]
        waiting = [other for other in made if other.id not in known]
        if one.id in known or (waiting and one.id not in begun):  # what is begun and still waits goes round in a loop, and is not known
            todo += [] if one.id in known else [one, *waiting]
            begun.add(one.id)
            continue
        fields = {end.field for end in ends if isinstance(end, Drawn)}
        values = [*(_field(field, reward) for field in fields), *(known.get(other.id) for other in made)]
        if one.op == "source":
            known[one.id] = values[0] if values and all(value is not None and value == values[0] for value in values) else None
        else:
            known[one.id] = _alike(one, values)
        if fields & {"reward", "correct"} or any(other.id in rewarded for other in made):
            rewarded.add(one.id)
    return known[node.id] if node.id in rewarded else None


def _field(name: str, reward: float) -> Any:
    return {"reward": reward, "correct": reward >= 1, "mask": True, "group": 0}.get(name)


def _alike(node: Node, inputs: list[Any]) -> Any:
    if node.op == "const":
        return node["value"]
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

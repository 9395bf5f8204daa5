"""Dead knobs: options that cannot have an effect where they stand (W0107 to W0112). Each check reads the finished program of a pipeline.

They ask the graph, not the names of methods: a clip range is dead because the ratio under it folds to 1, a reference model because every
way from the loss to it runs through a product with 0. What they say points into the file that is checked, at the option or at the
declaration; what cannot be traced to a place there is not said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gradflow.analyses.origins import Drawn, Origins, draws_responses, option
from gradflow.analyses.places import Places
from gradflow.analyses.weights import counting
from gradflow.graph.graph import Node, Region, depends, ordered
from gradflow.graph.operations import ELEMENTWISE
from gradflow.language import syntax as s
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.expressions import NUMBERS, Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head
from gradflow.plan import program as p
from gradflow.procedures import acts

REDUCING = {"sum", "mean", "max", "min", "any", "all", "prod", "axis_size", "dot"}


def check_knobs(e: Elaborator, program: p.Program, definition: s.Definition, scope: Scope) -> None:
    """Adds to the report what has no effect in this program, and what does not do what it says."""
    from gradflow.analyses.policy_knobs import check_policy
    from gradflow.analyses.training import check_training

    places = Places(definition, scope, e.home)
    check_training(e, program, definition, scope)
    check_policy(e, program, places)
    reference_without_weight(e, program)
    for phase in program.phases:
        periods(e, phase)
        groups_of_one(e, phase, places)
        slower_counts(e, phase)
        if phase.settings.get("epochs", 1) == phase.settings.get("minibatches", 1) == 1:
            dead_clips(e, phase, definition, scope)


def updates(phase: p.Phase) -> list[p.Update]:
    return [action for action in phase.actions if isinstance(action, p.Update)]


# ---- a clip range where the ratio is 1


def dead_clips(e: Elaborator, phase: p.Phase, definition: s.Definition, scope: Scope) -> None:
    """W0107: every rollout is used for one update, so what samples were drawn with is what is trained, and no ratio leaves its range."""
    moved = [model for update in updates(phase) for model in update.models]
    moved += [action.model for action in phase.actions if isinstance(action, p.Assign)]
    for update in updates(phase):
        known = _at_the_sampler(update.region, Origins(phase.actions, update), {model for model in moved if moved.count(model) == 1})
        for node in update.region.nodes():
            if _idle(node, known):
                for span, option in _said_as(node.span, definition, scope):
                    e.warn(
                        "W0107", span, f"`{option}` has no effect here",
                        why="each rollout is used for one update, so the ratio is 1 when the gradient is taken",
                        fix="train with `epochs: 2` or `minibatches: 2`, or drop the clip",
                    )  # fmt: skip


def _sampler(node: Node, origins: Origins, trained: set[str]) -> str | None:
    """The policy, trained at one place only, that says this of samples when they are drawn: their `logp_old`, or `score` in a function."""
    found = {_said_by(end) for end in origins.ends(node)}
    policy = found.pop() if len(found) == 1 else None
    return policy if policy in trained else None


def _said_by(end: Drawn | Node) -> str | None:
    if isinstance(end, Drawn):
        plain = draws_responses(end.call) and end.field == "logp_old" and option(end.call, "scored_at") == 1
        return end.call.models.get("policy") if plain else None
    plain = end.op == "model" and end["output"] == "logp" and not end["options"] and end.inputs[0].op == "source"
    return end["model"] if plain else None


def _at_the_sampler(region: Region, origins: Origins, trained: set[str]) -> dict[int, Any]:
    """What nodes are worth while the policy is still the one that drew the samples: numbers, or a text for its log-probabilities."""
    known: dict[int, Any] = {}
    for node in region.nodes():
        inputs = [known.get(below.id) for below in node.inputs]
        if node.op == "const":
            known[node.id] = node["value"]
        elif node.op in ("model", "source") and node.type.base == "real" and (policy := _sampler(node, origins, trained)) is not None:
            known[node.id] = f"logp of {policy}"
        elif node.op == "sub" and isinstance(inputs[0], str) and inputs[0] == inputs[1]:
            known[node.id] = 0.0
        elif node.op in ("where", "choose"):
            sides = inputs[1:] if inputs[0] is None else [inputs[1] if inputs[0] else inputs[2]]
            if isinstance(sides[0], NUMBERS) and sides[0] == sides[-1]:
                known[node.id] = sides[0]
        elif node.op in ("sum", "expand", "max", "min") and isinstance(inputs[0], NUMBERS) and (inputs[0] == 0 or node.op != "sum"):
            known[node.id] = inputs[0]
        elif node.op == "div" and inputs[0] == 0.0 and isinstance(inputs[0], float):
            known[node.id] = 0.0
        elif node.op in ELEMENTWISE and inputs and all(isinstance(one, NUMBERS) for one in inputs):
            known[node.id] = ELEMENTWISE[node.op][1](*inputs)
    return known


def _idle(node: Node, known: dict[int, Any]) -> bool:
    """A bound that cannot bind: `min(x, b)`, `max(x, b)`, or one side of `clip`, where(x > b, b, x); b is a constant, and x strictly inside."""
    below = node.op == "minimum"
    if node.op == "where" and node.inputs[0].op in ("gt", "lt") and node.inputs[0].inputs == node.inputs[:0:-1]:
        below = node.inputs[0].op == "gt"
    elif node.op not in ("minimum", "maximum"):
        return False
    x, bound = sorted(node.inputs[-2:], key=lambda n: n.op == "const")
    value = known.get(x.id)
    if x.op == "const" or bound.op != "const" or not isinstance(value, NUMBERS):
        return False
    return value < bound["value"] if below else value > bound["value"]


def _said_as(place: Span, pipeline: s.Definition, scope: Scope) -> Iterator[tuple[Span, str]]:
    """Where the file says the bounds of the `clip` that a node came from: as options of the function it stands in, or in the `clip` itself."""
    for definition in _reached(pipeline, scope.module.definitions):
        for call in _calls(definition):
            name = getattr(call.callee, "id", "")
            if name == "clip" and _covers(call.span, place) and not _parameters(definition, call):
                yield call.span, "clip"
            found = scope.find(name)
            if found is None or not _covers(found[0].span, place):
                continue
            clips = [clip for clip in _calls(found[0]) if getattr(clip.callee, "id", "") == "clip" and _covers(clip.span, place)]
            bounds = {name for clip in clips for name in _parameters(found[0], clip)}
            yield from ((arg.span, arg.name) for arg in call.args if arg.name in bounds)


def _reached(pipeline: s.Definition, definitions: Mapping[str, s.Definition]) -> list[s.Definition]:
    """The pipeline and the definitions of its file that it names, directly or through others."""
    found = [pipeline]
    for definition in found:
        names = {node.id for node in s.walk(definition) if isinstance(node, s.Name)}
        found += [other for name, other in definitions.items() if name in names and other not in found]
    return found


def _calls(definition: s.Definition) -> Iterator[s.Call]:
    return (node for node in s.walk(definition) if isinstance(node, s.Call) and isinstance(node.callee, s.Name))


def _covers(span: Span, place: Span) -> bool:
    return span.file == place.file and span.offset <= place.offset and place.end <= span.end


def _parameters(definition: s.Definition, call: s.Call) -> set[str]:
    """Parameters of a definition that the bounds of a `clip` in it mention."""
    names = {param.name for param in definition.params}
    return {node.id for arg in call.args[1:] for node in s.walk(arg.value) if isinstance(node, s.Name) and node.id in names}


# ---- the others


def groups_of_one(e: Elaborator, phase: p.Phase, places: Places) -> None:
    """W0112: statistics of a group of one sample compare it with itself."""
    alone: dict[str, tuple[acts.WorldCall, Origins]] = {}
    for origins, nodes in grouping(phase):
        for node in (n.inputs[1] for n in nodes if n.op.startswith("segment_")):
            drawn = origins.drawn(node) or []
            if drawn and all(one.field == "group" and draws_responses(one.call) and option(one.call, "group") == 1 for one in drawn):
                alone |= {one.call.id: (one.call, origins) for one in drawn}
    for call, origins in alone.values():
        said = places.of_option(call, "group", origins, 1)
        place = said[0] if said is not None else places.of_call(call, origins)
        if place is not None:
            e.warn(
                "W0112", place, "with one sample a prompt there is no group to compare with",
                why="its mean is the sample's own reward, and its spread is 0",
                fix="draw more, `group: 8`, or use an objective that does not compare within groups",
            )  # fmt: skip


def grouping(phase: p.Phase) -> Iterator[tuple[Origins, list[Node]]]:
    """The formulas of a phase that may compare samples: those of its flows with what they read, and so those of the functions that drew for them."""
    for update in updates(phase):
        origins = Origins(phase.actions, update)
        yield origins, origins.behind(update.region.roots)


def reference_without_weight(e: Elaborator, program: p.Program) -> None:
    """W0109: a model that is only read behind a product with 0."""
    busy = {model for phase in program.phases for update in updates(phase) for model in update.models}
    for phase in program.phases:
        reports = (*phase.periodic, *([phase.final] if phase.final is not None else []))
        calls = acts.calls_in(phase.actions) + [call for one in reports for call in one.calls]
        busy |= {model for call in calls for model in call.models.values()}
    read, weighty = (_models(counting(program, weights)) for weights in (False, True))
    for name in sorted((read - weighty - busy) & set(program.models)):
        e.warn(
            "W0109", program.models[name].span, f"the model `{name}` is loaded and scored, and its weight is 0",
            why="every term that reads it is multiplied by 0",
            fix="give the term a weight, or leave it and the model out",
        )  # fmt: skip


def _models(nodes: Iterable[Node]) -> set[str]:
    return {node["path"][0] for node in nodes if node.op == "source" and node["kind"] == "param"}


def periods(e: Elaborator, phase: p.Phase) -> None:
    """W0110: an `every` block whose turn never comes."""
    for one in phase.periodic:
        if one.unit == phase.unit and one.count > phase.count > 0:
            e.warn(
                "W0110", head(one.span, "every"), f"this never happens: every {one.count} {one.unit} in a training of {phase.count}",
                why="the training ends before its turn comes",
                fix=f"`every {phase.count} {one.unit}` happens once, at the end",
            )  # fmt: skip


def slower_counts(e: Elaborator, phase: p.Phase) -> None:
    """W0111: a sum over the mini-batch divided by a count that was taken over the whole rollout."""
    if phase.settings.get("minibatches", 1) == 1:
        return
    for update in updates(phase):
        origins = Origins(phase.actions, update)
        live = depends(update.region.roots, lambda n: n.op == "model")
        for node in update.region.nodes():
            if node.op != "div" or node.inputs[0].id not in live or node.span.file != e.home:
                continue
            ends = [end for end in origins.ends(node.inputs[1]) if end is not node.inputs[1]]
            counts = [end for end in ends if isinstance(end, Node) and _reduced(end, "sample")]
            if counts and len(counts) == len(ends) and _reduced(node.inputs[0], "sample"):
                e.warn(
                    "W0111", node.span, "a sum over the mini-batch is divided by a count over the whole rollout",
                    fix="use `mean(.., where: ..)`, which counts what it sums",
                    why="the count reads no live value, so it is taken once per rollout: all mini-batches together weigh as much as one",
                )  # fmt: skip


def _reduced(node: Node, axis: str) -> bool:
    """Whether the axis was reduced away on the way to this node."""
    gone = (n for n in ordered([node]) if n.op in REDUCING and not n.type.has(axis))
    return not node.type.has(axis) and any(below.type.has(axis) for n in gone for below in n.inputs)


def clamped_rank(e: Elaborator, stage: v.Stage, leaves: list[Any]) -> None:
    """W0108: a rank that reaches the smaller side of a matrix."""
    from gradflow.passes.properties import given

    rank = next((one.values.get("r") for one in given(e, stage, None) if one.name == "lowrank"), None)
    small = [leaf for leaf in leaves if len(leaf.axes) > 1 and rank is not None and rank >= min(axis.size or rank + 1 for axis in leaf.axes)]
    if small:
        first = small[0]
        least = min(axis.size or 0 for axis in first.axes)
        sides = ", ".join(str(axis.size) for axis in first.axes)
        others = f" and {len(small) - 1} more" if len(small) > 1 else ""
        e.warn(
            "W0108", stage.span, f"rank {rank} reaches the smaller side of `{first.name}` [{sides}]{others}",
            why="the rank is clamped to it, and nothing is saved there",
            fix=f"choose a rank below {least}, or leave such leaves out: `(.. on [row, col] where min(row, col) > {rank} | nothing)`",
        )  # fmt: skip

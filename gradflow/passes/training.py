"""What a `train` line says of itself: in which unit and how long, under which settings; the period of an `every` block; which states are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.standalone import without_idle_states
from gradflow.passes.suggestions import head, listed, suggestion, unbuilt
from gradflow.plan import program as p

UNITS = {"step": "steps", "epoch": "epochs", "round": "rounds", "rollout": "rollouts", "task": "tasks", "event": "events", "time": "time"}
BUILT_UNITS = ("steps", "epochs", "rounds", "rollouts", "events", "time")
SETTINGS = {"seed", "epochs", "minibatches", "precision", "micro", "whole"}
OF_ROLLOUTS = {"epochs", "minibatches", "whole"}
WORDS = {"precision": ("float32", "float64", "bfloat16"), "whole": ("group",)}  # settings that are one of these


def span_of(e: Elaborator, statement: s.Train, scope: Scope) -> tuple[str, int]:
    """(the unit, how many of them) of a `train` line."""
    unit = UNITS.get(statement.unit, statement.unit)
    if unit not in UNITS.values():
        place = scope.module.source.find(statement.unit, statement.span, statement.count.span.end)
        raise mistake(
            "E0525", place, f"`{statement.unit}` is no unit of training", why=f"units are {listed(UNITS.values())}",
            **suggestion(place, statement.unit, UNITS.values(), "count in one of these"),
        )  # fmt: skip
    if unit not in BUILT_UNITS:
        place = scope.module.source.find(statement.unit, statement.span, statement.count.span.end)
        raise unbuilt(place, f"training by {unit} cannot run yet", f"count in {listed(BUILT_UNITS)}")
    count = e.evaluate(statement.count, scope)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise mistake(
            "E0526", statement.count.span, "how long to train must be a whole number that is known when the spec is compiled",
            why=f"this is {v.kind_name(count)}",
            fix="give a number, or an `int` parameter of the pipeline",
        )  # fmt: skip
    return unit, count


def settings_of(e: Elaborator, statement: s.Train, unit: str, scope: Scope) -> dict[str, Any]:
    """`(seed: 0, epochs: 2, ..)` of a `train` line, each setting checked."""
    found: dict[str, Any] = {}
    for arg in statement.args:
        if arg.name in OF_ROLLOUTS and unit != "rollouts":
            raise mistake(
                "E0404", head(arg.span, arg.name), f"`{arg.name}` says how rollouts are gone through, this trains by {unit}",
                why=f"one of the {unit} is one update" if unit == "steps" else "what is drawn once and gone through is a rollout",
                fix="count in rollouts, or remove it",
            )  # fmt: skip
        if arg.name not in SETTINGS:
            place = head(arg.span, arg.name) if arg.name else arg.span
            raise mistake(
                "E0404", place, f"`train` has no setting `{arg.name}`" if arg.name else "a setting of `train` needs its name",
                why=f"settings are {listed(sorted(SETTINGS))}",
                **suggestion(place, arg.name or "", SETTINGS, "use one of these"),
            )  # fmt: skip
        value = arg.value.id if arg.name in WORDS and isinstance(arg.value, s.Name) else e.evaluate(arg.value, scope)
        least = {"epochs": 1, "minibatches": 1, "micro": 1, "seed": 0}.get(arg.name)
        if least is not None and (not isinstance(value, int) or value < least):
            raise mistake(
                "E0402", arg.value.span, f"`{arg.name}` must be a whole number, at least {least}", why=f"this is {v.kind_name(value)}",
                fix=f"`{arg.name}: {least}`, say",
            )  # fmt: skip
        if arg.name in WORDS and value not in WORDS[arg.name]:
            words = WORDS[arg.name]
            raise mistake(
                "E0402", arg.value.span, f"`{arg.name}` cannot be `{value}`", why=f"it is one of {listed(words)}",
                **suggestion(arg.value.span, str(value), words, f"`{arg.name}: {words[0]}`, say"),
            )  # fmt: skip
        found[arg.name] = value
    return found


def period_of(e: Elaborator, statement: s.Every, phase: str, scope: Scope) -> tuple[str, int]:
    """(the unit, how many of them lie between two times) of an `every` block in a phase that trains by the unit `phase`."""
    unit = UNITS.get(statement.unit, statement.unit)
    count = 1 if statement.count is None else e.evaluate(statement.count, scope)
    if not isinstance(count, int) or count < 1:
        place = statement.count.span if statement.count is not None else statement.span
        raise mistake(
            "E0526", place, "a period must be a whole number, at least 1", why=f"this is {v.kind_name(count)}",
            fix=f"`every 10 {unit} {{ .. }}`",
        )  # fmt: skip
    if unit != phase and unit not in ("steps", "rounds", "epochs"):  # those are counted in updates
        place = scope.module.source.find(statement.unit, statement.span)
        raise mistake(
            "E0525", place, f"`every {count} {statement.unit}` cannot be counted in a phase of {phase}",
            why="a period counts the unit that is trained by, or the updates in it", fix=f"`every {count} {phase} {{ .. }}`",
        )  # fmt: skip
    return unit, count


def stored(update: p.Update, wanted: set[str]) -> p.Update:
    """The update with the states that something depends on, `wanted` by reports included."""
    region = without_idle_states(update.region, wanted)
    kept = {name for name, _ in region.results} | {f"state/{update.flow}/{plan.key}" for plan in update.states if update.events is not None}
    rollout = update.rollout
    if rollout is not None:
        used = {f"rollout/{source['path'][0]}" for source in region.sources() if source["kind"] == "rollout"}
        rollout = replace(rollout, results=tuple(one for one in rollout.results if one[0] in used))
    rollout = rollout if rollout is not None and rollout.results else None
    return replace(update, region=region, rollout=rollout, states=tuple(plan for plan in update.states if f"state/{update.flow}/{plan.key}" in kept))

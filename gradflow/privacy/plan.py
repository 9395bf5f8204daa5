"""What a program will spend, before it runs: the mechanisms of each flow that touch private data, their course, and the epsilon at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node, Region, ordered
from gradflow.library.catalogue import MissingExtra
from gradflow.plan.program import Phase, Program, Update
from gradflow.privacy.accountant import Course, affordable, course, epsilon, together
from gradflow.privacy.flow import Private
from gradflow.privacy.mechanisms import Mechanism, NotKnown, releases
from gradflow.privacy.program import Budget, Said, said
from gradflow.privacy.sensitivity import Declared, checked


@dataclass(frozen=True)
class Spending:
    """Of a program: what its spec says, and a course for each flow that releases something, where its number of updates is known."""

    said: Said
    courses: tuple[Course, ...]

    def epsilon(self, executed: Mapping[str, int] | None = None, delta: float | None = None) -> float:
        """After so many updates of each flow (None: all), at a delta (None: that of the spec). Raises MissingExtra."""
        made = [(one, one.updates if executed is None else executed.get(one.flow, 0)) for one in self.courses]
        return epsilon(together(made), self.said.delta if delta is None else delta)

    def most(self, one: Course, budget: Budget) -> int:
        """The most updates of a flow within a budget, when the others make all of theirs."""
        others = together((other, other.updates) for other in self.courses if other is not one)
        return affordable(one, others, budget.epsilon, budget.delta)


def private_of(program: Program, found: Said) -> Private:
    """The first split of every data set that is declared private."""
    return Private({name: program.data[name].spec.splits[0] for name in found.data if name in program.data})


def mechanisms(region: Region, private: Private) -> list[Mechanism]:
    """The releases of a region that have something private below them."""
    found = private.below(region)
    return [one for one in releases(region) if one.clean.id in found]


def from_outside(node: Node) -> bool:
    """Whether a number is given by a caller, and so is not known before a run."""
    return any(one.op == "source" and one["kind"] == "input" for one in ordered([node]))


def updates_of(phase: Phase, action: Update, program: Program) -> int | None:
    """How many updates of a flow a phase makes; None where that depends on a number of rows that is not known yet."""
    if phase.unit in ("steps", "rounds"):
        return phase.count
    if phase.unit == "rollouts":
        return phase.count * int(phase.settings.get("epochs", 1)) * int(phase.settings.get("minibatches", 1))
    for source in action.region.sources():
        if source["kind"] == "data" and source["path"][3] in ("batch", "node"):
            plan = program.data[source["path"][0]]
            rows = next(field.axes[0][1] for field in plan.spec.fields[plan.spec.splits[0]].values())
            share = rows // (plan.nodes or 1) if rows is not None and source["path"][3] == "node" else rows
            return None if share is None else phase.count * max(share // (plan.spec.batch or share), 1)
    return phase.count


def spending(program: Program, planned: Mapping[str, int] | None = None, known: Said | None = None) -> Spending:
    """`planned`: updates by flow, where a run has counted them. A flow whose updates or multipliers are not known has no course.

    Raises Mistake for a budget that is none.
    """
    found = said(program) if known is None else known
    if not found.data:
        return Spending(found, ())
    counts: dict[str, int | None] = dict(planned or {})
    first: dict[str, list[Mechanism]] = {}
    for phase in program.phases:
        for action in phase.actions:
            if not isinstance(action, Update):
                continue
            first.setdefault(action.flow, [_checked(one) for one in mechanisms(action.region, private_of(program, found))])
            if planned is None:
                more, so_far = updates_of(phase, action, program), counts.get(action.flow, 0)
                counts[action.flow] = None if more is None or so_far is None else so_far + more
    courses = []
    for flow, ones in first.items():
        updates = counts.get(flow)
        if ones and updates is not None:
            try:
                courses.append(course(flow, ones, updates))
            except NotKnown:
                continue
    return Spending(found, tuple(courses))


def _checked(one: Mechanism) -> Mechanism:
    try:
        return checked(one)
    except Declared:
        return one


# ---- for views


def summary(program: Program) -> dict[str, Any] | None:
    """The privacy of a program as plain data; None where nothing is private."""
    spends = spending(program)
    if not spends.said.data:
        return None
    rows = [_row(one, spends) for one in spends.courses]
    missing = ""
    try:
        whole: float | None = spends.epsilon()
    except MissingExtra as error:
        whole, missing = None, str(error)
    budgets = [{"epsilon": one.epsilon, "delta": one.delta, "kind": one.kind} for one in spends.said.budgets]
    return {
        "data": list(spends.said.data), "unit": "record", "neighbors": _neighbors(spends), "flows": rows, "epsilon": whole,
        "delta": spends.said.delta, "budgets": budgets, "note": missing,
    }  # fmt: skip


def _neighbors(spends: Spending) -> str:
    poisson = any(one.sampling.kind == "poisson" for each in spends.courses for one, _ in each.levels)
    return "added or removed" if poisson else "replaced"


def _row(one: Course, spends: Spending) -> dict[str, Any]:
    found = []
    for mechanism, levels in one.levels:
        try:
            alone: float | None = epsilon(one.alone(mechanism), spends.said.delta)
        except MissingExtra:
            alone = None
        sampling = mechanism.sampling
        found.append({
            "name": mechanism.name, "line": mechanism.span.line, "releases": len(levels), "multipliers": sorted(set(levels))[:4],
            "records": sampling.kind, "share": sampling.rate, "sensitivity": "derived" if mechanism.checked else "declared", "epsilon": alone,
        })  # fmt: skip
    return {"flow": one.flow, "updates": one.updates, "mechanisms": found}


def rows(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The section of `gradflow plan`: what is protected, each mechanism with what it would cost alone, and all together."""
    lines: list[tuple[str, ...]] = [("protects", f"every record of {', '.join(plan['data'])}; neighbors: one record {plan['neighbors']}")]
    for flow in plan["flows"]:
        for one in flow["mechanisms"]:
            levels = ", ".join(f"{level:.4g}" for level in one["multipliers"])
            share = "" if one["records"] == "all" else f", {'by a coin of' if one['records'] == 'poisson' else 'a share of'} {one['share']:.4g}"
            cost = f"; alone epsilon {one['epsilon']:.4g}" if one["epsilon"] is not None else ""
            text = f"{one['releases']:,} releases, multiplier {levels}{share}, sensitivity {one['sensitivity']}{cost}"
            lines.append((f"{one['name']}:{one['line']}", text))
    whole = "not known" if plan["epsilon"] is None else f"epsilon {plan['epsilon']:.4g} at delta {plan['delta']:g}"
    limits = "".join(f"; {'at most' if one['kind'] == 'require' else 'best within'} {one['epsilon']:g}" for one in plan["budgets"])
    lines += [("together", f"{whole}{limits}"), ("note", "the noise is drawn from the run's seed: who knows the seed can take it away again")]
    return [*lines, *([("note", plan["note"])] if plan["note"] else [])]

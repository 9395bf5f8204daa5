"""Passes over a whole program: the list of optimizations, and the walk that applies one to every region.

One more pass is one more line in `PASSES`. After each the graph is verified against the written spec of what is legal (`graph/spec.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from gradflow.events.plan import rewritten_events
from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import Operations
from gradflow.graph.spec import verify
from gradflow.passes.simplify import simplify
from gradflow.plan.program import Assign, ModelPlan, Periodic, Phase, Program, Update
from gradflow.procedures.acts import Act, Draw, Hold, Loop, acts_in, regions_in, with_regions
from gradflow.schedules.plan import rewritten_schedule

Pass = Callable[[Operations, Region, "list[Any] | None"], Region]
Rewrite = Callable[[Region], Region]

WORDS = {Draw: "what goes into a call", Hold: "held values", Loop: "what a loop carries"}
PASSES: tuple[tuple[str, Pass], ...] = (("simplify", simplify),)


def optimized(program: Program, trace: list[Any] | None = None) -> Program:
    """The program after every pass; `trace` receives (rule, node before, node after)."""
    ops = Operations(Graph(count=max((node.id for node in all_nodes(program)), default=0)))

    def rewrite(region: Region) -> Region:
        verify(region, "resolve")
        for name, one in PASSES:
            region = one(ops, region, trace)
            verify(region, name)
        return region

    return rewritten(program, rewrite)


def all_nodes(program: Program) -> Iterator[Node]:
    """Every node of a program, those of loops' bodies included."""
    queue = [region for _, region in regions(program)]
    while queue:
        region = queue.pop()
        yield from region.parameters
        for node in region.nodes():
            yield node
            if node.body is not None:
                queue.append(node.body)


def rewritten(program: Program, rewrite: Rewrite) -> Program:
    """The program with a rewrite applied to each of its regions."""

    def optional(region: Region | None) -> Region | None:
        return rewrite(region) if region is not None else None

    def action(one: Any) -> Any:
        if isinstance(one, Update):
            return replace(one, region=rewrite(one.region), rollout=optional(one.rollout), events=rewritten_events(one.events, rewrite))
        return with_regions(one, rewrite) if isinstance(one, Act) else replace(one, region=rewrite(one.region))

    def periodic(one: Periodic) -> Periodic:
        calls = tuple(with_regions(Draw("", call), rewrite).call for call in one.calls)  # type: ignore[union-attr]
        return replace(one, region=rewrite(one.region), calls=calls)

    def phase(one: Phase) -> Phase:
        final = periodic(one.final) if one.final is not None else None
        return replace(one, actions=tuple(map(action, one.actions)), periodic=tuple(map(periodic, one.periodic)), final=final)

    models: dict[str, ModelPlan] = {name: replace(plan, start=optional(plan.start)) for name, plan in program.models.items()}
    return replace(program, models=models, phases=tuple(map(phase, program.phases)), schedule=rewritten_schedule(program.schedule, rewrite))


def regions(program: Program) -> Iterator[tuple[str, Region]]:
    """Every region with a title, in the order in which a run needs them."""
    for plan in program.models.values():
        if plan.start is not None:
            yield f"start of {plan.name}", plan.start
    if program.schedule is not None:
        yield from ((region.name, region) for region in (program.schedule.layout, program.schedule.sees))
    for number, phase in enumerate(program.phases, 1):
        place = f" of phase {number}" if len(program.phases) > 1 else ""
        for action in phase.actions:
            if isinstance(action, Update):
                if action.rollout is not None:
                    yield f"once a unit for {action.flow}{place}", action.rollout
                yield f"flow {', '.join(action.models)} ({action.flow}){place}", action.region
                yield from action.events.regions() if action.events is not None else ()
            elif isinstance(action, Assign):
                yield f"assignment of {action.model}{place}", action.region
            else:
                yield from ((f"{WORDS[type(act)]}{place}", region) for act in acts_in([action]) for region in regions_in(act))
        for one in phase.periodic:
            yield f"report every {one.count} {one.unit}{place}", one.region
        if phase.final is not None:
            yield f"report at the end{place}", phase.final.region

"""One `train` line made ready: how many units and updates, which actions share a batch, and when each `every` block is due.

Draws and held values split the actions: the flows and assignments between two of them form a group, which goes through the unit's batches
together. Most units have one group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradflow.events.plan import event_flows
from gradflow.graph.graph import Region
from gradflow.language.source import Span
from gradflow.plan.program import Action, Assign, Periodic, Phase, Program, Update
from gradflow.procedures.acts import Act, Draw, Hold, acts_in, regions_in
from gradflow.runtime.batches import Batches
from gradflow.runtime.events import RunFailed
from gradflow.runtime.regions import sources_of

Changes = tuple[Update | Assign, ...]
Group = Act | Changes
ONE_UPDATE = ("steps", "rounds")
MOST_AT_ONCE = 256


@dataclass(frozen=True)
class Every:
    """An `every` block and its period: `units` of the phase, or `updates` where it counts another unit."""

    periodic: Periodic
    units: int = 0
    updates: int = 0


@dataclass(frozen=True)
class PhasePlan:
    """`updates`: those of one unit; `rows`: rows of data that one update sees; `labels`: flows as metrics call them."""

    index: int
    phase: Phase
    count: int
    updates: int
    minibatches: int
    rows: int
    groups: tuple[Group, ...]
    periodic: tuple[Every, ...]
    labels: dict[str, str]
    stride: int = 1  # units that are done in one go: more than one where nodes act at events

    @property
    def flows(self) -> list[Update]:
        return [action for action in self.phase.actions if isinstance(action, Update)]

    @property
    def keepers(self) -> list[Update | Hold]:
        """What keeps states: flows, and functions that act."""
        return [*self.flows, *(act for act in acts_in(self.phase.actions) if isinstance(act, Hold) and act.states)]

    @property
    def drawn(self) -> set[str]:
        """The names that are drawn or held in a unit."""
        acts = list(acts_in(self.phase.actions))
        held = {name.split("/")[1] for act in acts if isinstance(act, Hold) for name, _ in act.region.results if name.startswith("held/")}
        return held | {act.name for act in acts if isinstance(act, Draw)}

    @property
    def last_group(self) -> Changes | None:
        """The last flows of the unit: after them, blocks that count updates are looked at."""
        return next((group for group in reversed(self.groups) if isinstance(group, tuple)), None)

    def due(self, t: int, number: int) -> Iterator[Every]:
        """Blocks that count updates and are due after update `number` of unit `t`, unless that ends the phase."""
        done = (t - 1) * self.updates + number
        last = done == self.count * self.updates
        return (every for every in self.periodic if every.updates and not last and done % every.updates == 0)

    def due_after(self, t: int) -> Iterator[Every]:
        """Blocks that are due after unit `t`; all are at the end."""
        return (every for every in self.periodic if t == self.count or (every.units and t % every.units == 0))

    def fired(self, every: Every, t: int) -> bool:
        """Whether a block was due at any time in unit `t`."""
        if t == self.count or every.units:
            return t == self.count or t % every.units == 0
        return t * self.updates // every.updates > (t - 1) * self.updates // every.updates


def plan_phase(index: int, phase: Phase, steps: int | None, batches: Batches) -> PhasePlan:
    """Raises RunFailed for periods that have no meaning in the phase."""
    changes = [action for action in phase.actions if isinstance(action, Update | Assign)]
    sources = [source for action in changes for source in sources_of(action.region)]
    epoch = batches.updates_per_epoch(sources)
    minibatches = phase.settings.get("minibatches", 1) if phase.unit == "rollouts" else 1
    updates = {"epochs": epoch, "rollouts": phase.settings.get("epochs", 1) * minibatches}.get(phase.unit, 1)
    count = phase.count if steps is None else steps
    periodic = tuple(_every(one, phase, updates, epoch) for one in phase.periodic)
    rows = batches.rows_per_update(sources)
    stride = _stride(phase, count, periodic)
    return PhasePlan(index, phase, count, updates, minibatches, rows, _groups(phase.actions), periodic, _labels(phase), stride)


def _stride(phase: Phase, count: int, periodic: tuple[Every, ...]) -> int:
    """Events are carried out many at a time: the most units, at most MOST_AT_ONCE, that no report or checkpoint falls into."""
    if not event_flows(phase.actions):
        return 1
    together = math.gcd(count, *(every.units for every in periodic))
    return next(size for size in range(min(together, MOST_AT_ONCE), 0, -1) if together % size == 0) if together else 1


def _groups(actions: tuple[Action, ...]) -> tuple[Group, ...]:
    groups: list[Group] = []
    for action in actions:
        if isinstance(action, Act):
            groups.append(action)
        elif groups and isinstance(groups[-1], tuple):
            groups[-1] = (*groups[-1], action)
        else:
            groups.append((action,))
    return tuple(groups)


def _every(periodic: Periodic, phase: Phase, updates: int, epoch: int) -> Every:
    if periodic.unit == phase.unit or {periodic.unit, phase.unit} <= set(ONE_UPDATE):
        return Every(periodic, units=periodic.count)
    if periodic.unit in ONE_UPDATE:
        return Every(periodic, updates=periodic.count)
    if periodic.unit == "epochs":
        return Every(periodic, updates=periodic.count * epoch)
    raise RunFailed(f"`every {periodic.count} {periodic.unit}` cannot be counted in a phase of {phase.unit}", periodic.span)


def _labels(phase: Phase) -> dict[str, str]:
    """Flows by the models that they train, or by their own name where two train the same."""
    flows = [action for action in phase.actions if isinstance(action, Update)]
    names = ["+".join(flow.models) for flow in flows]
    return {flow.flow: name if names.count(name) == 1 else flow.flow for flow, name in zip(flows, names, strict=True)}


def regions_of(program: Program) -> Iterator[tuple[Region, Span]]:
    """Every region of a program with the place in the spec that it belongs to."""
    for plan in program.models.values():
        if plan.start is not None:
            yield plan.start, plan.span
    for phase in program.phases:
        yield from ((region, phase.span) for act in acts_in(phase.actions) for region in regions_in(act))
        for action in phase.actions:
            if not isinstance(action, Act):
                yield action.region, action.span
                if isinstance(action, Update) and action.rollout is not None:
                    yield action.rollout, action.span
                if isinstance(action, Update) and action.events is not None:
                    yield from ((region, action.span) for _, region in action.events.regions())
        for block in (*phase.periodic, *((phase.final,) if phase.final is not None else ())):
            yield block.region, block.span

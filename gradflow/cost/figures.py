"""What a cost consists of: plain records, without torch, that views draw and `diff` compares.

Bytes are bytes, work is counted in floating-point operations: `contractions` (matrix products and convolutions) apart from `elementwise`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One pass over memory: a kernel or a call of torch."""

    contractions: float
    elementwise: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What one action does: the sums over its steps, and the steps, from which a machine's time follows."""

    steps: tuple[Step, ...] = ()

    @property
    def contractions(self) -> float:
        return sum(step.contractions for step in self.steps)

    @property
    def elementwise(self) -> float:
        return sum(step.elementwise for step in self.steps)

    @property
    def bytes(self) -> float:
        return sum(step.bytes for step in self.steps)


@dataclass(frozen=True)
class Message:
    """What crosses the network once in an update. `per_link` is what one node sends over one of its links, `total` all of it together."""

    what: str
    kind: str  # link: to each neighbor; gather: to a center and back; walk: from one node to the next
    messages: int
    per_link: int
    total: int


@dataclass(frozen=True)
class ActionCost:
    """One action of a phase. `times`: how often a unit does it; `gradient` says whether it is a flow."""

    name: str
    kind: str  # draw, hold, flow, assign, report
    times: float
    work: Work
    peak: int = 0
    activations: int = 0
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class PhaseCost:
    """One `train` line: `count` units, each of `updates` updates."""

    count: int
    unit: str
    updates: int
    actions: tuple[ActionCost, ...]

    @property
    def unit_actions(self) -> tuple[ActionCost, ...]:
        return tuple(one for one in self.actions if one.kind != "report")


@dataclass(frozen=True)
class Cost:
    """What a program needs. `at_peak` divides the peak by what holds it, `peak_place` says where it is reached.

    `complete` is false where the program could not be walked through without data: then `peak` is only what is kept, and `notes` say why.
    """

    parameters: int
    parameter_bytes: int
    state_bytes: int
    data_bytes: int
    activation_bytes: int
    peak: int
    at_peak: Mapping[str, int] = field(default_factory=dict)
    peak_place: str = ""
    phases: tuple[PhaseCost, ...] = ()
    fusion: tuple[tuple[str, bool, str, str], ...] = ()  # (where, fused, what, reason)
    notes: tuple[str, ...] = ()
    complete: bool = True
    scheduled: tuple[dict[str, Any], ...] = ()  # what the schedule gains, of each record and model: `schedules/gain.py`

    @property
    def updates(self) -> int:
        return sum(phase.count * phase.updates for phase in self.phases)


def total(works: Iterable[tuple[float, Work]]) -> tuple[float, float, float]:
    """(contractions, elementwise, bytes) of works done some number of times each."""
    found = [0.0, 0.0, 0.0]
    for times, work in works:
        for i, value in enumerate((work.contractions, work.elementwise, work.bytes)):
            found[i] += times * value
    return found[0], found[1], found[2]


def of_unit(phase: PhaseCost) -> tuple[float, float, float]:
    return total((one.times, one.work) for one in phase.unit_actions)


def traffic(phase: PhaseCost) -> tuple[float, float]:
    """(messages, bytes) of one unit over the network."""
    pairs = [(one.times, message) for one in phase.unit_actions for message in one.messages]
    return sum(times * m.messages for times, m in pairs), sum(times * m.total for times, m in pairs)


def as_record(cost: Cost, times: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The cost as dictionaries, lists, numbers and texts, without the single steps."""
    phases = []
    for phase in cost.phases:
        contractions, elementwise, moved = of_unit(phase)
        messages, sent = traffic(phase)
        actions = [
            {
                "name": one.name, "kind": one.kind, "times": one.times, "flops": one.work.contractions, "elementwise": one.work.elementwise,
                "bytes": one.work.bytes, "passes": len(one.work.steps), "peak": one.peak, "activations": one.activations,
                "messages": [asdict(message) for message in one.messages],
            }
            for one in phase.actions
        ]  # fmt: skip
        unit = {"flops": contractions, "elementwise": elementwise, "bytes": moved, "messages": messages, "bytes_sent": sent}
        phases.append({"count": phase.count, "unit": phase.unit, "updates": phase.updates, "a_unit": unit, "actions": actions})
    fusion = [{"where": where, "fused": fused, "what": what, "reason": reason} for where, fused, what, reason in cost.fusion]
    return {
        "parameters": cost.parameters, "parameter_bytes": cost.parameter_bytes, "state_bytes": cost.state_bytes, "data_bytes": cost.data_bytes,
        "activation_bytes": cost.activation_bytes, "peak": cost.peak, "at_peak": dict(cost.at_peak), "peak_place": cost.peak_place,
        "phases": phases, "fusion": fusion, "notes": list(cost.notes), "complete": cost.complete,
        **({"scheduled": list(cost.scheduled)} if cost.scheduled else {}), **({"time": dict(times)} if times else {}),
    }  # fmt: skip

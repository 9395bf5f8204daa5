"""A program: what a pipeline means, ready to be lowered. Frozen; made by `passes/pipelines.py`, carried out by `runtime/`.

Regions are pure functions of their sources; a result named like a source ("param/net", "state/flow0/1.adam.m", "held/samples") is its new
value. Sources: param/MODEL, state/FLOW/KEY, data/NAME/SPLIT/FIELD/MODE (batch | full | node; a fourth part counts fresh batches), held/NAME/
FIELD, rollout/ID, world/ID/FIELD, clock/(t | t_end | progress | seed | tick)[/FLOW], input/NAME. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradflow.graph.graph import Region
from gradflow.graph.types import Axis, Type
from gradflow.language.source import NOWHERE, Span
from gradflow.library.catalogue import DataSpec, LeafSpec, ModelSpec
from gradflow.procedures.acts import Act, WorldCall

PACKED = (1, 2, 4, 8)  # bits that a byte divides into


def bits_of(low: int, high: int) -> int:
    """The smallest width that holds a domain of whole numbers. Raises ValueError beyond a byte."""
    needed = max((high - low).bit_length(), 1)
    width = next((width for width in PACKED if width >= needed), None)
    if width is None:
        raise ValueError(f"whole numbers from {low} to {high} take {needed} bits; a format stores up to {PACKED[-1]}")
    return width


@dataclass(frozen=True)
class LeafStorage:
    """How one leaf is kept. `axes`: the leaf as its format sees it; `states`: axes of what is stored, and the domain of whole numbers (None: reals,
    which are trained). `encode` makes the states (results by name) of input/value, `decode` the result `value` of input/STATE, `pull` of these and
    input/cotangent the gradients of the trained states (results by name).
    """

    leaf: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    states: Mapping[str, tuple[tuple[Axis, ...], tuple[int, int] | None]]
    encode: Region
    decode: Region
    pull: Region

    @property
    def trained(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the states that are leaves of the model."""
        return [(name, tuple(axis.size or 0 for axis in axes)) for name, (axes, bounds) in self.states.items() if bounds is None]

    @property
    def packed_bytes(self) -> int:
        """Of the whole numbers, as they are kept."""
        found = 0
        for axes, bounds in self.states.values():
            found += 0 if bounds is None else -(-math.prod(axis.size or 0 for axis in axes) * bits_of(*bounds) // 8)
        return found


def stored_spec(spec: ModelSpec, stored: Iterable[LeafStorage]) -> ModelSpec:
    """The model whose leaves are kept so: in the place of a stored leaf stand its trained states, NAME.state."""
    kept = {one.leaf: one for one in stored}
    leaves: list[LeafSpec] = []
    for leaf in spec.leaves:
        own = kept.get(leaf.name)
        leaves += [leaf] if own is None else [LeafSpec(f"{leaf.name}.{name}", shape, leaf.trained) for name, shape in own.trained]
    return replace(spec, leaves=tuple(leaves))


@dataclass(frozen=True)
class ModelPlan:
    """A model and how it starts: `copy_of` another, from `start` (a region with one result `start`), or built from its spec and the seed.

    `declaration`: the primitive that made the spec, its positional values, and its options as (name, value) pairs. `stored`: the leaves that are
    kept in a format. `born`: the phase at whose start it is made; a copy then starts where the other model is by that time. `head`: what was put on
    the model, declared likewise.
    """

    name: str
    spec: ModelSpec
    lifted: tuple[Axis, ...] = ()
    copy_of: str | None = None
    start: Region | None = None
    free: bool = False
    span: Span = NOWHERE
    declaration: tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]] | None = None
    stored: tuple[LeafStorage, ...] = ()
    born: int = 0
    head: tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]] | None = None


@dataclass(frozen=True)
class DataPlan:
    name: str
    spec: DataSpec
    nodes: int | None = None
    span: Span = NOWHERE
    declaration: tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]] | None = None


@dataclass(frozen=True)
class StatePlan:
    """One state: how it is stored, and the number it starts at (0 where the region itself sees to the start)."""

    key: str
    type: Type
    init: float
    stage: str


@dataclass(frozen=True)
class Update:
    """One flow. `rollout` is what is taken once per unit, before mini-batches; `region` runs for every mini-batch. `spread`: what `over devices(..)`
    shards (none | parameters); empty where each process does all of it.
    """

    flow: str
    models: tuple[str, ...]
    region: Region
    rollout: Region | None
    states: tuple[StatePlan, ...]
    stages: tuple[str, ...] = ()
    topology: Any = None
    sliced: tuple[str, ...] = ()
    span: Span = NOWHERE
    facts: Mapping[str, Any] = field(default_factory=dict)
    events: Any = None  # gradflow.events.plan.EventPlan: the nodes act at events, and `region` only looks at them
    spread: str = ""


@dataclass(frozen=True)
class Assign:
    """`average <- ..`: a region with the result param/MODEL."""

    model: str
    region: Region
    span: Span = NOWHERE


Action = Act | Update | Assign


def asked_for(fact: Any) -> Any:
    """A fact of an update: some are dear to compute, and are functions until somebody asks."""
    return fact() if callable(fact) else fact


@dataclass(frozen=True)
class Periodic:
    """`every N unit { .. }`: reports by name, world calls that they need first, whether a checkpoint is written."""

    count: int
    unit: str
    region: Region
    calls: tuple[WorldCall, ...]
    checkpoint: bool
    span: Span = NOWHERE


@dataclass(frozen=True)
class Phase:
    """One `train` line. `final` is what is reported once, at its end (count 0)."""

    count: int
    unit: str
    settings: Mapping[str, Any]
    actions: tuple[Action, ...]
    periodic: tuple[Periodic, ...]
    span: Span = NOWHERE
    final: Periodic | None = None


@dataclass(frozen=True)
class Program:
    name: str
    doc: str
    models: Mapping[str, ModelPlan]
    data: Mapping[str, DataPlan]
    phases: tuple[Phase, ...]
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Type] = field(default_factory=dict)
    source: str = ""
    text: str = ""
    schedule: Any = None  # gradflow.schedules.plan.SchedulePlan: how it is computed

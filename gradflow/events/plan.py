"""What a program holds of a flow whose nodes act at events: the clocks, and regions over the rows of the nodes that an event touches.

Every region but `constants` has the axis `event`. Sources besides those of `plan/program.py`:

    row/END/param/MODEL, row/END/state/FLOW/KEY   what the node at this end of the event keeps, as its own last event left it
    event/END                                     which node that is: [event -> node]
    event/wait/END                                the time since its own last event
    const/N                                       a result of `constants`, which depends on data and inputs alone: taken once
    sched/N                                       a result of `schedule`, which depends on times and places alone: taken for many events at once

A result `row/END/..` is the new value of that row. An event is computed from the rows of the nodes that it touches, plus constants (and from the
nodes' own rows of data): so a node may live anywhere. `settle` is what waiting makes of a node, at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradflow.graph.graph import Region
from gradflow.graph.types import Axis, Type
from gradflow.language.source import NOWHERE, Span
from gradflow.procedures.acts import Act

UNITS = ("time", "events")


@dataclass(frozen=True)
class EventKind:
    """One `on each` block. `place`: node or link; `clock`: poisson (`constants` gives rate/K) or recorded (time/K, at/K, mine/K)."""

    place: str
    clock: str
    body: Region
    schedule: Region
    span: Span = NOWHERE

    @property
    def width(self) -> int:
        """How many nodes it touches."""
        return 2 if self.place == "link" else 1


@dataclass(frozen=True)
class EventPlan:
    """`rows`: (name, its type without `node`) of everything that a node keeps, names as in results of regions (param/MODEL, state/FLOW/KEY).

    `constants` gives const/N, what the clocks need, and ends/0 and ends/1 of the links where there are clocks at links. `start` gives the states
    that do not start at a number. `counters`: the keys of the states that tell how many events there were at nodes and at links, and each node's
    last time.
    """

    nodes: int
    rows: tuple[tuple[str, Type], ...]
    kinds: tuple[EventKind, ...]
    constants: Region
    start: Region
    settle: Region
    settle_schedule: Region
    counters: tuple[str, str, str]

    def regions(self) -> Iterator[tuple[str, Region]]:
        yield "what is constant", self.constants
        yield "where states start", self.start
        for kind in self.kinds:
            yield f"times and places at a {kind.place}", kind.schedule
            yield f"an event at a {kind.place}", kind.body
        yield "times of waiting", self.settle_schedule
        yield "waiting", self.settle


def rewritten_events(plan: EventPlan | None, rewrite: Callable[[Region], Region]) -> EventPlan | None:
    """The plan with a rewrite applied to each of its regions."""
    if plan is None:
        return None
    kinds = tuple(replace(kind, body=rewrite(kind.body), schedule=rewrite(kind.schedule)) for kind in plan.kinds)
    return replace(
        plan,
        kinds=kinds,
        constants=rewrite(plan.constants),
        start=rewrite(plan.start),
        settle=rewrite(plan.settle),
        settle_schedule=rewrite(plan.settle_schedule),
    )


def check_unit(unit: str, actions: Any, span: Span) -> None:
    """Flows whose nodes act at events are trained by time or by events, all others by other units. Raises Mistake."""
    from gradflow.language.diagnostics import mistake

    changes = [action for action in actions if not isinstance(action, Act)]  # flows and assignments
    own = event_flows(changes)
    if unit in UNITS and changes and len(own) != len(changes):
        raise mistake(
            "E0532",
            span,
            f"a flow here does not act at events, and cannot be trained by {unit}",
            why="time goes by for nodes and links with clocks of their own",
            fix="count in steps or rounds, or use an exchange with `on each node(i) ~ ..`",
        )
    if own and unit not in UNITS:
        raise mistake(
            "E0532",
            own[0].span,
            f"the nodes of this flow act at events, which are not counted in {unit}",
            why="there are no steps that all of them make together",
            fix="`train 100 time`, in expected ticks of a clock of rate 1, or `train 1000 events`",
        )


def event_flows(actions: Any) -> list[Any]:
    """The flows among actions whose nodes act at events."""
    return [action for action in actions if getattr(action, "events", None) is not None]


# ---- in an artifact


def document(plan: EventPlan | None, writer: Any) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "nodes": plan.nodes,
        "rows": tuple((name, writer.type(type_)) for name, type_ in plan.rows),
        "counters": plan.counters,
        "kinds": tuple(
            {
                "place": kind.place,
                "clock": kind.clock,
                "body": writer.region(kind.body),
                "schedule": writer.region(kind.schedule),
                "span": writer.span(kind.span),
            }
            for kind in plan.kinds
        ),
        "constants": writer.region(plan.constants),
        "start": writer.region(plan.start),
        "settle": writer.region(plan.settle),
        "settle_schedule": writer.region(plan.settle_schedule),
    }


def undocumented(doc: Any, reader: Any, models: Mapping[str, Any]) -> EventPlan | None:
    """The plan that a document describes; `reader` checks what regions refer to. Raises ArtifactError."""
    if doc is None:
        return None
    from gradflow.plan.header import ArtifactError

    if any(index >= len(reader.types) for _, index in doc.rows):
        raise ArtifactError("what a node keeps has a type that is not there")
    rows = tuple((name, reader.types[index]) for name, index in doc.rows)
    names = [name for name, _ in rows]
    if len(set(names)) != len(names) or any(axis.size is None for _, type_ in rows for axis in type_.axes):
        raise ArtifactError("what a node keeps is named twice, or has no size")
    if any(name.partition("/")[2] not in models for name in names if name.startswith("param/")):
        raise ArtifactError("a node keeps a model that is not declared")
    kinds = tuple(
        EventKind(
            kind.place, kind.clock, reader.outer(kind.body, *_row_results(names, kind.place)), reader.outer(kind.schedule), reader.span(kind.span)
        )
        for kind in doc.kinds
    )
    wanted = [name for number, kind in enumerate(kinds) for name in clock_results(number, kind)]
    settle = reader.outer(doc.settle, *_row_results(names, "node"))
    return EventPlan(
        doc.nodes, rows, kinds, reader.outer(doc.constants, *wanted), reader.outer(doc.start), settle, reader.outer(doc.settle_schedule), doc.counters
    )


def _row_results(names: list[str], place: str) -> list[str]:
    return [f"row/{end}/{name}" for end in range(2 if place == "link" else 1) for name in names]


def clock_results(number: int, kind: EventKind) -> list[str]:
    """What `constants` gives for the clock of a kind."""
    ends = ["ends/0", "ends/1"] if kind.place == "link" else []
    return [f"{name}/{number}" for name in (("rate",) if kind.clock == "poisson" else ("time", "at", "mine"))] + ends


def event_axis() -> Axis:
    return Axis("event", None)


def drawn_in_batches(plan: EventPlan, program: Any) -> bool:
    """Whether events read rows that are drawn anew for every update: they have their own clocks."""
    sources = [source for _, region in plan.regions() for source in region.sources() if source["kind"] == "data"]
    return any(source["path"][3] != "full" and program.data[source["path"][0]].spec.batch is not None for source in sources)


__all__ = [
    "EventKind",
    "EventPlan",
    "check_unit",
    "clock_results",
    "document",
    "drawn_in_batches",
    "event_axis",
    "event_flows",
    "rewritten_events",
    "undocumented",
]

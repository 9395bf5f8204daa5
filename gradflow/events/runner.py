"""Carries out the events of one flow: draws them, cuts them into waves that touch different nodes, and runs each wave as one call of a region.

What the nodes keep lies in one table [node, column], read and written a row at a time; it is taken from the run's store at the head of a stretch of
events and given back at its end. The stream and what each node has waited are functions of the seed and of how far the run has come, so that a
run goes on from a checkpoint by drawing again what has been.

Axes: node, event (of a wave), column (all that a node keeps, side by side).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from gradflow.events.plan import EventKind, EventPlan, drawn_in_batches
from gradflow.events.streams import BadStream, EventStream, Record, RecordedStream, Stretch, recorded, waits_and_waves
from gradflow.graph.graph import Node, Region
from gradflow.plan.program import Update
from gradflow.runtime.events import RunFailed
from gradflow.runtime.regions import Key, Regions, failures
from gradflow.runtime.state import Store

Read = Callable[[Node], Any]


@dataclass(frozen=True)
class Column:
    """A piece of the table: what it holds, where it begins, and its shape for one node."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        return math.prod(self.shape)


class EventRunner:
    """The events of a flow in one phase. `read` gives the sources that are no rows and no events: inputs, data, constants of the run."""

    def __init__(self, update: Update, regions: Regions, store: Store, read: Read, seed: int, phase: int, unit: str):
        self.update, self.plan, self.unit = update, update.events, unit
        self.regions, self.store, self.read = regions, store, read
        self.columns: list[Column] = []
        for name, type_ in self.plan.rows:
            start = self.columns[-1].start + self.columns[-1].width if self.columns else 0
            self.columns.append(Column(name, start, tuple(axis.size or 0 for axis in type_.axes)))
        self.widths, self.shapes = [column.width for column in self.columns], [column.shape for column in self.columns]
        self.flat = [len(shape) == 1 for shape in self.shapes]
        self.keys = [[("row", str(end), *column.name.split("/")) for column in self.columns] for end in range(2)]
        self.names = [[f"row/{end}/{column.name}" for column in self.columns] for end in range(2)]
        self.last = numpy.zeros(self.plan.nodes)
        self.now, self.done, self.reached = 0.0, 0, 0
        self.latest = numpy.empty(0, numpy.int64), numpy.empty((0, 2), numpy.int64), 0  # what was carried out last: kinds, ends, units of training
        self.constants = self._call(self.plan.constants, {})
        self.places = [self._places(kind) for kind in self.plan.kinds]
        self.stream = self._stream(seed, phase)

    # ---- what happens

    def _places(self, kind: EventKind) -> numpy.ndarray:
        """The nodes that each clock of a kind touches: int64 [clock, end]."""
        if kind.place == "node":
            return numpy.arange(self.plan.nodes)[:, None]
        return numpy.stack([self.constants[f"ends/{end}"].cpu().numpy() for end in range(2)], -1)

    def _stream(self, seed: int, phase: int) -> EventStream | RecordedStream:
        clocks = {kind.clock for kind in self.plan.kinds}
        try:
            if clocks == {"poisson"}:
                rates = [self.constants[f"rate/{number}"].double().cpu().numpy() for number in range(len(self.plan.kinds))]
                return EventStream(seed, rates, (self.update.flow, phase))
            if clocks != {"recorded"}:
                raise BadStream("some clocks are recorded and some are drawn; what happens is either recorded or drawn")
            found = [
                Record(*(self.constants[f"{name}/{number}"].cpu().numpy() for name in ("time", "at", "mine")))
                for number in range(len(self.plan.kinds))
            ]
            links = {
                tuple(pair): i for kind, places in zip(self.plan.kinds, self.places) if kind.place == "link" for i, pair in enumerate(places.tolist())
            }
            return recorded(found, self.plan.nodes, links, [kind.width for kind in self.plan.kinds])
        except BadStream as error:
            raise RunFailed(str(error), self.plan.kinds[0].span) from None

    def _next(self, end: int) -> Stretch:
        """The events from here to the unit `end` of the phase."""
        if self.unit == "time":
            return self.stream.until(float(end))
        found = self.stream.take(end - self.done)
        if len(found) < end - self.done:
            raise RunFailed(f"{end} events were asked for, and only {self.done + len(found)} are recorded", self.update.span)
        return found

    def rewind(self, end: int, finished: bool) -> None:
        """Goes to where the unit `end` is done (the last one of the phase: `finished`), without carrying anything out."""
        events = self._next(end)
        if len(events):
            waits_and_waves(events.time, self._ends(events), self.last)
        self._went(events, end)
        if finished and self.unit == "time":
            self.last[:] = self.now

    def _went(self, events: Stretch, end: int) -> None:
        self.reached = end
        self.done += len(events)
        self.now = float(end) if self.unit == "time" else float(events.time[-1]) if len(events) else self.now

    def _ends(self, events: Stretch) -> numpy.ndarray:
        ends = numpy.full((len(events), 2), -1)
        for number, (kind, places) in enumerate(zip(self.plan.kinds, self.places)):
            mine = events.kind == number
            ends[mine, : kind.width] = places[events.place[mine]]
        return ends

    # ---- carrying it out

    def begin(self) -> None:
        """States that begin at a value of the graph; done when the flow has done nothing yet."""
        for name, value in self._call(self.plan.start, {}).items():
            self.store.place(name).copy_(value)

    def advance(self, end: int) -> int:
        """Carries out the events up to the unit `end` of the phase; how many there were."""
        events = self._next(end)
        if len(events):
            ends = self._ends(events)
            waits, levels = waits_and_waves(events.time, ends, self.last)
            order = numpy.lexsort((events.kind, levels))
            order = order[self._concerns(ends)[order]]
            if len(order):
                table = self._table()
                self._waves(table, events.kind[order], levels[order], ends[order], waits[order])
                self._give_back(table)
        self.latest = events.kind, self._ends(events), end - self.reached
        self._went(events, end)
        self._count(events)
        return len(events)

    def _concerns(self, ends: numpy.ndarray) -> numpy.ndarray:
        """[event]: whether this process carries it out."""
        return numpy.ones(len(ends), dtype=bool)

    def _waves(self, table: Tensor, kinds: numpy.ndarray, levels: numpy.ndarray, ends: numpy.ndarray, waits: numpy.ndarray) -> None:
        """Events in the order of levels, those of one level and kind in one call."""
        bounds = numpy.concatenate([[0], numpy.flatnonzero((numpy.diff(levels) != 0) | (numpy.diff(kinds) != 0)) + 1, [len(kinds)]])
        sizes, order = numpy.diff(bounds), kinds[bounds[:-1]]
        waiting = []
        for number, kind in enumerate(self.plan.kinds):
            mine = kinds == number
            waiting.append(self._pieces(kind, ends[mine], waits[mine], sizes[order == number].tolist()) if mine.any() else iter(()))
        calls = [self._body(kind) for kind in self.plan.kinds]
        for number in order.tolist():
            self._wave(calls[number], self.plan.kinds[number].width, table, next(waiting[number]))

    def _pieces(self, kind: EventKind, ends: numpy.ndarray, waits: numpy.ndarray, sizes: list[int]) -> Iterator[dict[Key, Tensor]]:
        """What the waves of one kind take from times and places, wave by wave."""
        prepared = self._prepared(kind.schedule, kind.width, ends, waits)
        for pieces in zip(*(value.split(sizes) for value in prepared.values())):
            yield dict(zip(prepared, pieces))

    def _body(self, kind: EventKind) -> Callable[[dict[Key, Any]], Mapping[str, Any]]:
        """An event's region, ready to be called often: what no event changes is read once."""
        lowered = self.regions.lowered(kind.body, span=self.update.span)
        fixed = {
            (source["kind"], *source["path"]): self.held(source) for source in lowered.sources if source["kind"] not in ("row", "event", "sched")
        }
        return lambda given: lowered.call(fixed | given)

    def constant(self, source: Node) -> Any:
        """What no event changes, of all nodes."""
        return self.constants[f"const/{source['path'][0]}"] if source["kind"] == "const" else self.read(source)

    def held(self, source: Node) -> Any:
        """What no event changes, of the nodes of this process."""
        return self.constant(source)

    def _prepared(self, schedule: Region, width: int, ends: numpy.ndarray, waits: numpy.ndarray) -> dict[Key, Tensor]:
        """What events of one kind take from times and places, for all of them at once: [event, ..] each."""
        found: dict[Key, Tensor] = {}
        for end in range(width):
            found["event", str(end)] = torch.as_tensor(numpy.ascontiguousarray(ends[:, end]), device=self.store.device)
            wait = torch.as_tensor(numpy.ascontiguousarray(waits[:, end]), device=self.store.device)
            found["event", "wait", str(end)] = wait.to(self.store.real)
        if schedule.results:
            found |= {tuple(name.split("/")): value for name, value in self._call(schedule, found).items()}
        return found

    def _wave(self, call: Callable[[dict[Key, Any]], Mapping[str, Any]], width: int, table: Tensor, given: dict[Key, Any]) -> None:
        places = [given["event", str(end)] for end in range(width)]
        count = len(places[0])
        for end, place in enumerate(places):
            rows = table.index_select(0, place).split(self.widths, 1)
            given.update(
                zip(self.keys[end], (row if plain else row.reshape(count, *shape) for row, plain, shape in zip(rows, self.flat, self.shapes)))
            )
        with failures(self.update.span, self.update.flow):
            results = call(given)
        for names, place in zip(self.names, places):
            pieces = [self._tensor(results[name]) for name in names]
            whole = pieces if all(self.flat) else [piece.reshape(count, -1) for piece in pieces]
            table.index_copy_(0, place, torch.cat(whole, 1))

    def _tensor(self, value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=self.store.real, device=self.store.device)

    def _call(self, region: Region, given: Mapping[Key, Any]) -> dict[str, Tensor]:
        if not region.results:
            return {}
        lowered = self.regions.lowered(region, span=self.update.span)

        def read(source: Node) -> Any:
            known = given.get((source["kind"], *source["path"]))
            return known if known is not None else self.constant(source)

        return self.regions.run(lowered, read, self.update.span)

    # ---- what the nodes keep

    def _table(self) -> Tensor:
        return torch.cat([self.store.place(column.name).reshape(self._nodes(), column.width) for column in self.columns], 1)

    def _nodes(self) -> int:
        """How many nodes this process holds."""
        return self.plan.nodes

    def _held(self, value: numpy.ndarray) -> numpy.ndarray:
        """Of something that every node has, what the nodes of this process have."""
        return value

    def _give_back(self, table: Tensor) -> None:
        for column in self.columns:
            place = self.store.place(column.name)
            place.copy_(table.narrow(1, column.start, column.width).reshape(place.shape))

    def _count(self, events: Stretch) -> None:
        """How many events there were, and when the last one at each node was, where reports find them."""
        at_nodes, at_links, last = (self.store.states.get((self.update.flow, key)) for key in self.plan.counters)
        for buffer, place in ((at_nodes, "node"), (at_links, "link")):
            if buffer is not None:
                numbers = [number for number, kind in enumerate(self.plan.kinds) if kind.place == place]
                buffer += int(numpy.isin(events.kind, numbers).sum())
        if last is not None:
            last.copy_(torch.as_tensor(self._held(self.last)))

    def settled(self) -> dict[str, Tensor]:
        """What every node would hold if it looked now, by name; nothing is changed by looking."""
        nodes = self._held(numpy.arange(self.plan.nodes))[:, None]
        prepared = self._prepared(self.plan.settle_schedule, 1, nodes, self._held(self.now - self.last)[:, None])
        prepared["event", "0"] = torch.arange(self._nodes(), device=self.store.device)
        prepared |= {(source["kind"], *source["path"]): self.held(source) for source in self.plan.settle.sources() if source["kind"] == "const"}
        prepared |= {("row", "0", *column.name.split("/")): self.store.place(column.name) for column in self.columns}
        return {name.removeprefix("row/0/"): value.clone() for name, value in self._call(self.plan.settle, prepared).items()}

    def settle(self) -> None:
        """Every node looks now: the end of a phase that is counted in time."""
        for name, value in self.settled().items():
            self.store.place(name).copy_(value)
        self.last[:] = self.now


def check_data(update: Update, program: Any) -> None:
    """Raises RunFailed for rows that would be drawn anew for every update: events have their own clocks."""
    if drawn_in_batches(update.events, program):
        raise RunFailed("events on data that is drawn in batches cannot run yet; take all rows of a node: leave out `batch:`", update.span)


__all__ = ["EventPlan", "EventRunner", "check_data"]

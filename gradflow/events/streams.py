"""When what happens: a stream of events at nodes and links, as a pure function of the seed and the rates, or as somebody recorded it.

Independent Poisson clocks of rates r_1 .. r_m tick together like one clock of rate sum r, each tick that of clock i with probability r_i / sum r.
Event k takes its waiting time and its clock from the counter k of one key, so that the stream does not depend on how it is cut, on what carries
it out, or on how many do. `waves` cuts a stretch of events into levels of events that touch different nodes: those of one level can be carried
out together, and in whatever order, with the result of one after another.

Axes: event (in the order of time), clock (nodes or links, of one kind after another), end (nodes that an event touches; -1 where it touches fewer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from gradflow.runtime import random

Array = Any  # numpy.ndarray
BLOCK = 4096


class BadStream(ValueError):
    """Rates or recorded events that cannot be; the message says why."""


@dataclass(frozen=True)
class Stretch:
    """Events in order: `time` float64 [event], `kind` int64 [event] (which `on each` block), `place` int64 [event] (which node or link of it)."""

    time: Array
    kind: Array
    place: Array

    def __len__(self) -> int:
        return len(self.time)

    def cut(self, start: int, stop: int | None = None) -> Stretch:
        return Stretch(self.time[start:stop], self.kind[start:stop], self.place[start:stop])


def joined(parts: Sequence[Stretch]) -> Stretch:
    def of(name: str, kind: Any) -> Array:
        return numpy.concatenate([getattr(part, name) for part in parts]) if parts else numpy.empty(0, kind)

    return Stretch(of("time", numpy.float64), of("kind", numpy.int64), of("place", numpy.int64))


class EventStream:
    """The ticks of independent Poisson clocks. `rates`: for each kind of event the rates of its clocks, float64 [clock].

    `after(k)` is the stream from event k on; to get there the waiting times before it are drawn again. Raises BadStream.
    """

    def __init__(self, seed: int, rates: Sequence[Array], words: Sequence[int | str] = ()):
        self.rates = [numpy.asarray(one, numpy.float64).reshape(-1) for one in rates]
        for one in self.rates:
            if not numpy.isfinite(one).all() or (one < 0).any():
                raise BadStream(f"the rate of a Poisson clock is a number, at least 0; there is {_worst(one):g} among them")
        together = numpy.concatenate([numpy.empty(0), *self.rates])
        self.total = float(together.sum())
        if not self.total > 0:
            raise BadStream("all clocks stand still: their rates are 0, so that nothing ever happens")
        self.edges = numpy.cumsum(together) / self.total
        self.starts = numpy.cumsum([0, *(len(one) for one in self.rates)])
        self.key = random.key(seed, "events", *words)
        self.done, self.now = 0, 0.0
        self._drawn = joined([])

    def take(self, count: int) -> Stretch:
        """The next `count` events."""
        while len(self._drawn) < count:
            self._more()
        return self._hand_out(count)

    def until(self, time: float) -> Stretch:
        """The events up to a time, those at it included."""
        while not len(self._drawn) or self._drawn.time[-1] <= time:
            self._more()
        return self._hand_out(int(numpy.searchsorted(self._drawn.time, time, side="right")))

    def _hand_out(self, count: int) -> Stretch:
        found, self._drawn = self._drawn.cut(0, count), self._drawn.cut(count)
        return found

    def _more(self) -> None:
        number = numpy.arange(self.done, self.done + BLOCK)
        waits = -numpy.log1p(-random.uniform(self.key, number)) / self.total
        times = numpy.cumsum(numpy.concatenate([[self.now], waits]))[1:]  # one after another, so that no cut changes a bit
        which = numpy.searchsorted(self.edges, random.uniform(self.key, number, stream=1), side="right")
        last = int(numpy.flatnonzero(numpy.concatenate([[0.0], *self.rates]))[-1]) - 1  # round-off must not reach a clock that stands still
        which = numpy.minimum(which, last)
        kind = numpy.searchsorted(self.starts, which, side="right") - 1
        self.done, self.now = self.done + BLOCK, float(times[-1])
        self._drawn = joined([self._drawn, Stretch(times, kind, which - self.starts[kind])])


def _worst(rates: Array) -> float:
    return float(rates[~(numpy.isfinite(rates) & (rates >= 0))][0])


class RecordedStream:
    """Events as somebody recorded them, with the methods of an `EventStream`; when they are used up there are no more."""

    total = float("nan")

    def __init__(self, events: Stretch):
        self.rest = events

    def take(self, count: int) -> Stretch:
        found, self.rest = self.rest.cut(0, count), self.rest.cut(count)
        return found

    def until(self, time: float) -> Stretch:
        return self.take(int(numpy.searchsorted(self.rest.time, time, side="right")))


@dataclass(frozen=True)
class Record:
    """Recorded events of one kind: `time` [event], `ends` int [event, end], `mine` bool [event] (which entries of the record are of this kind)."""

    time: Array
    ends: Array
    mine: Array


def recorded(records: Sequence[Record], nodes: int, links: Mapping[tuple[int, int], int], widths: Sequence[int]) -> RecordedStream:
    """One stream out of the records of each kind, which touch `widths` nodes; `links`: the number of each link by its two ends. Raises BadStream."""
    parts, orders = [], []
    for kind, (record, width) in enumerate(zip(records, widths, strict=True)):
        time, mine = numpy.asarray(record.time, numpy.float64), numpy.asarray(record.mine, bool)
        ends = numpy.asarray(record.ends, numpy.int64)
        ends = ends[:, None] if ends.ndim == 1 else ends
        if not numpy.isfinite(time).all() or (time < 0).any() or (numpy.diff(time) < 0).any():
            raise BadStream("the times of recorded events must be numbers, at least 0, that never go back")
        if len(mine) != len(time) or ends.shape[1] < width:
            raise BadStream(f"recorded events need a time, {width} node{'s' * (width > 1)} and whether they are of this kind, for each event")
        chosen = numpy.flatnonzero(mine)
        touched = ends[chosen, :width]
        if (touched < 0).any() or (touched >= nodes).any():
            wrong = touched[(touched < 0) | (touched >= nodes)][0]
            raise BadStream(f"a recorded event is at node {wrong}; nodes are counted from 0 to {nodes - 1}")
        places = touched[:, 0] if width == 1 else _numbers(touched, links)
        parts.append(Stretch(time[chosen], numpy.full(len(chosen), kind), places))
        orders.append(chosen)
    together = joined(parts)
    order = numpy.lexsort((numpy.concatenate([*orders, numpy.empty(0, numpy.int64)]), together.time))
    return RecordedStream(Stretch(together.time[order], together.kind[order], together.place[order]))


def _numbers(pairs: Array, links: Mapping[tuple[int, int], int]) -> Array:
    """The numbers of links by their ends; one that is written the other way round is the same link."""
    found = numpy.empty(len(pairs), numpy.int64)
    for place, (first, second) in enumerate(pairs.tolist()):
        number = links.get((first, second), links.get((second, first)))
        if number is None:
            raise BadStream(f"a recorded event is at a link of the nodes {first} and {second}, which the topology does not have")
        found[place] = number
    return found


def waits_and_waves(time: Array, ends: Array, last: Array) -> tuple[Array, Array]:
    """For events in order: the time that each node has waited since its own last event, [event, end], and the level of each event, [event].

    An event's level is one more than those of the last events before it at its nodes. `last` float64 [node], the times of the nodes' last events,
    is brought up to date.
    """
    latest, level = last.tolist(), [0] * len(last)
    waits, levels = numpy.zeros(ends.shape), numpy.empty(len(time), numpy.int64)
    for event, (now, nodes) in enumerate(zip(time.tolist(), ends.tolist(), strict=True)):
        own = 0
        for place, node in enumerate(nodes):
            if node >= 0:
                waits[event, place] = now - latest[node]
                latest[node] = now
                own = max(own, level[node])
        levels[event] = own
        for node in nodes:
            if node >= 0:
                level[node] = own + 1
    last[:] = latest
    return waits, levels

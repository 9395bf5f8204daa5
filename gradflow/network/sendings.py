"""What is sent in one update, crossing by crossing, counted or predicted, and the clocks that it moves.

Axes: node; [to, from] who hears whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy

from gradflow.network import clock as c
from gradflow.network.counting import Counted, Counter
from gradflow.network.heard import Heard

Bytes = numpy.ndarray[Any, numpy.dtype[numpy.int64]]
Nodes = numpy.ndarray[Any, numpy.dtype[numpy.bool_]]


@dataclass(frozen=True, eq=False)
class Sending:
    """One crossing as it happened. `size`: bytes of each node's message, `back`: of the center's to each. `heard` of a link, `here` of a gather
    (without the center, who sends itself nothing), `part`: who has a share (None: all); `way` of a walk."""

    kind: str
    level: int
    times: int
    size: Bytes
    back: int = 0
    center: int = 0
    heard: Heard | None = None
    here: Nodes | None = None
    part: Nodes | None = None
    way: tuple[int, int] = (0, 0)
    hub: bool = False  # the center is no node; its clock runs at the place of `center`

    @property
    def bytes(self) -> int:
        """All that is sent."""
        outside = self.times * self.back * int(self.here.sum()) if self.hub and self.here is not None else 0
        return int(self.by_node.sum()) + outside

    @property
    def by_node(self) -> Bytes:
        """Bytes that each node sends."""
        if self.heard is not None:
            return self.times * self.size * self.heard.hearers
        found = numpy.zeros_like(self.size)
        if self.here is not None:
            found[self.here] = self.size[self.here]
            if not self.hub:
                found[self.center] = self.back * self.here.sum()
        elif self.way[0] != self.way[1]:
            found[self.way[0]] = self.size[self.way[0]]
        return self.times * found

    @property
    def messages(self) -> int:
        if self.heard is not None:
            return self.times * self.heard.arcs
        return self.times * (2 * int(self.here.sum()) if self.here is not None else int(self.way[0] != self.way[1]))


def counted_sending(counter: Counter, found: Mapping[str, Any], width: int) -> Sending | None:
    """Of the run's own results (`now`, `entries`, ..); None where it did not happen."""
    if not found["now"]:
        return None
    here = found.get("here")
    way = (int(found["before"]), int(found["after"])) if "after" in found else (0, 0)
    links = Heard.of(numpy.asarray(found["links"])) if "links" in found else counter.links
    return _sending(counter, counter.share(width, found.get("entries")), width, links, here, way)


def predicted_sending(counter: Counter, width: int) -> Sending | None:
    """What the plan expects: everybody takes part, and a walk goes on; None where links are not known before the run."""
    if counter.crossing.kind == "link" and counter.links is None:
        return None
    return _sending(counter, counter.share(width), width, counter.links, None, (0, 1 % counter.nodes))


def _sending(counter: Counter, share: Any, width: int, links: Heard | None, here: Any, way: tuple[int, int]) -> Sending:
    crossing = counter.crossing
    size = numpy.broadcast_to(numpy.asarray(share, dtype=numpy.int64), (counter.nodes,))
    if crossing.kind == "link":
        return Sending("link", crossing.level, crossing.times, size, heard=links)
    if crossing.kind == "walk":
        return Sending("walk", crossing.level, crossing.times, size, way=way)
    part = None if here is None else numpy.array(here, dtype=bool)
    others = (numpy.arange(counter.nodes) != counter.center) | counter.hub
    here = others if part is None else others & part
    return Sending("gather", crossing.level, crossing.times, size, crossing.dense(width), counter.center, here=here, part=part, hub=counter.hub)


def rounds_of(sendings: Sequence[Sending]) -> int:
    """How often nodes waited for one another: crossings that do not depend on one another go at once."""
    times: dict[int, int] = {}
    for one in sendings:
        if one.messages:
            times[one.level] = max(times.get(one.level, 0), one.times)
    return sum(times.values())


# ---- time


def advanced(clock: c.Clock, sendings: Sequence[Sending], counted: Counted) -> c.Clock:
    """The clocks after one update: nodes compute, then what crosses does so level by level. A walk's node computes where it has come to."""
    walk = next((one for one in sendings if one.kind == "walk"), None)
    if walk is not None:
        i, j = walk.way
        return c.computed(c.hopped(clock, i, j, float(walk.size[i])), counted.gradients, numpy.arange(counted.nodes) == j)
    clock = c.computed(clock, counted.gradients, _working(sendings))
    for _, level in groupby(sorted(sendings, key=lambda one: one.level), lambda one: one.level):
        for one in _together(list(level)):
            for _ in range(one.times):
                clock = _passed(clock, one)
    return clock


def _working(sendings: Sequence[Sending]) -> Any:
    """[node]: who does an update's work; None: all. Who has no share in any sum over the nodes does none."""
    parts = [one.part for one in sendings if one.part is not None]
    return numpy.logical_or.reduce(parts) if parts and len(parts) == len(sendings) else None


def _together(sendings: list[Sending]) -> list[Sending]:
    """Messages that go the same way at the same time are one message."""
    found: list[Sending] = []
    for one in sendings:
        for place, other in enumerate(found):
            if (one.kind, one.center, one.times) == (other.kind, other.center, other.times) and _same(one, other):
                found[place] = replace(one, size=one.size + other.size, back=one.back + other.back)
                break
        else:
            found.append(one)
    return found


def _same(one: Sending, other: Sending) -> bool:
    if one.heard is not None and other.heard is not None:
        return one.heard.same(other.heard)
    if one.here is None or other.here is None or (one.part is None) != (other.part is None):
        return False
    return one.part is None or other.part is None or bool((one.part == other.part).all())


def _passed(clock: c.Clock, one: Sending) -> c.Clock:
    if one.heard is not None:
        return c.gossiped(clock, one.heard.dense, one.size.astype(float))
    return c.gathered(clock, one.center, one.size.astype(float), float(one.back), one.part)


__all__ = ["Sending", "advanced", "counted_sending", "predicted_sending", "rounds_of"]

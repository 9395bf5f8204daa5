"""Clocks of nodes that compute, send and wait. Pure functions: a clock goes in, a later one comes out.

A message of b bytes from i to j that leaves at time t is there at t + latency(i, j) + b / speed(i, j). Its speed is that of the link, or the part
that it gets of i's upload, which i's messages of the same exchange share alike, or of j's download, whichever is least. Sending takes the
sender no time. All of it is sums, quotients and maxima of floats in a fixed order: the same description gives the same times everywhere, and
more latency, more bytes or less bandwidth never make any clock earlier.

Axes: [to, from] who hears whom; by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy

Times = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
Size = float | Sequence[float] | numpy.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Links:
    """A network of n nodes in seconds, and bytes a second. `latency`, `bandwidth`: [to, from]; the others by node, `compute` in seconds an update
    and `gradient` in seconds for each gradient that the update takes."""

    latency: Times
    bandwidth: Times
    upload: Times
    download: Times
    compute: Times
    gradient: Times

    @property
    def nodes(self) -> int:
        return len(self.upload)


@dataclass(frozen=True, eq=False)
class Clock:
    """`nodes`: how late it is at each node."""

    links: Links
    nodes: Times

    @property
    def seconds(self) -> float:
        """The time of the run: the latest of the nodes' clocks."""
        return float(self.nodes.max(initial=0.0))


def started(links: Links) -> Clock:
    return Clock(links, numpy.zeros(links.nodes))


def computed(clock: Clock, gradients: int = 1, here: Any = None) -> Clock:
    """Every node (`here` [node]: of these) does an update's work."""
    work = clock.links.compute + gradients * clock.links.gradient
    return replace(clock, nodes=clock.nodes + (work if here is None else numpy.where(here, work, 0.0)))


def gossiped(clock: Clock, heard: Any, size: Size) -> Clock:
    """Every node sends a message to each of those that hear it, and goes on when it has all that it hears. `size`: bytes, or those of each sender."""
    heard = _between(heard)
    there = _arrivals(clock, heard, numpy.broadcast_to(numpy.asarray(size, dtype=float), clock.nodes.shape))
    return replace(clock, nodes=numpy.maximum(clock.nodes, there.max(1, initial=0.0)))


def gathered(clock: Clock, center: int, up: Size, down: Size, here: Any = None) -> Clock:
    """Every node (`here` [node]: these) sends to the center, which waits for all of them and then sends to each. The rest wait until the center
    has what it needs: they take part in the next round no earlier."""
    nodes = len(clock.nodes)
    part = numpy.ones(nodes, dtype=bool) if here is None else numpy.array(here, dtype=bool)
    rest, part = ~part, part & (numpy.arange(nodes) != center)
    way = numpy.zeros((nodes, nodes), dtype=bool)
    way[center] = part
    there = _arrivals(clock, way, numpy.broadcast_to(numpy.asarray(up, dtype=float), (nodes,)))
    late = clock.nodes.copy()
    late[center] = max(late[center], there[center].max(initial=0.0))
    sizes = numpy.broadcast_to(numpy.asarray(down, dtype=float), (nodes,))
    back = _arrivals(replace(clock, nodes=late), way.T, sizes, of_receiver=True)[:, center]
    late = numpy.where(part, numpy.maximum(late, back), late)
    return replace(clock, nodes=numpy.where(rest, numpy.maximum(late, late[center]), late))


def hopped(clock: Clock, i: int, j: int, size: float) -> Clock:
    """One message from i to j, which waits for it; none where i is j."""
    late = clock.nodes.copy()
    late[j] = max(late[j], late[i] + _alone(clock.links, i, j, size) if i != j else late[i])
    return replace(clock, nodes=late)


def event(clock: Clock, i: int, j: int, size: float) -> Clock:
    """An event of an asynchronous method on the link of i and j: both wait for the later of them, each sends `size` bytes to the other, and both
    go on when both have what they were sent. No other clock moves. Where i is j nothing is sent: the event is the node's own.

    A method with Poisson clocks calls it once for every event, in the order of the events; what a node computes goes before, by `computed` with
    `here` true at that node alone.
    """
    if i == j:
        return clock
    late = clock.nodes.copy()
    late[[i, j]] = max(late[i], late[j]) + max(_alone(clock.links, i, j, size), _alone(clock.links, j, i, size))
    return replace(clock, nodes=late)


# ---- messages


def _alone(links: Links, i: int, j: int, size: float) -> float:
    """Seconds of the only message from i to j."""
    return float(links.latency[j, i] + size / min(links.bandwidth[j, i], links.upload[i], links.download[j]))


def _arrivals(clock: Clock, way: Any, sizes: Times, of_receiver: bool = False) -> Times:
    """[to, from]: when the messages along `way` are there, 0 where there is none. `sizes`: of each sender's messages, or of each receiver's."""
    links = clock.links
    upload = links.upload / numpy.maximum(way.sum(0), 1)
    download = links.download / numpy.maximum(way.sum(1), 1)
    speed = numpy.minimum(links.bandwidth, numpy.minimum(upload[None, :], download[:, None]))
    bytes_ = sizes[:, None] if of_receiver else sizes[None, :]
    return numpy.where(way, clock.nodes[None, :] + links.latency + bytes_ / speed, 0.0)


def _between(heard: Any) -> Any:
    heard = numpy.asarray(heard, dtype=bool)
    return heard & ~numpy.eye(len(heard), dtype=bool)


__all__ = ["Clock", "Links", "computed", "event", "gathered", "gossiped", "hopped", "started"]

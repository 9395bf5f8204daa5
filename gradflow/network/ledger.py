"""What a run has sent, added up update by update: rounds, messages, bytes, bytes of each node, and on a described network how late it is.

    rounds      how often nodes waited for one another
    messages    from one node to another; a sum over nodes takes one from every node to the center, and one back
    bytes       of all messages
    largest     bytes of the node that sent most
    seconds     of the network's clock, in all

Counts are whole numbers of what was handed over, not estimates; what the plan expected of the same updates stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from gradflow.events.traffic import Talk
from gradflow.network.clock import Clock, Links, computed, event, started
from gradflow.network.counting import Counted
from gradflow.network.description import BadNetwork, Description, network_of
from gradflow.network.sendings import Sending, advanced, counted_sending, predicted_sending, rounds_of

SUMS = ("rounds", "messages", "bytes")


class Ledger:
    """`counted`: of `counting.counted`; `width`: bytes of a real number in this run; `network`: what its clock follows; `talks`: what flows send
    whose nodes act at events. Raises BadNetwork."""

    def __init__(self, counted: Mapping[int, Counted], width: int, network: Description | None = None, talks: Mapping[str, Talk] | None = None):
        self.counted, self.width, self.network, self.talks = counted, width, network, talks or {}
        sizes = {one.nodes for one in counted.values()} | {one.nodes for one in self.talks.values()}
        self.clock: Clock | None = None
        if network is not None:
            self.clock = started(over(network, sizes))
        self.total = dict.fromkeys(SUMS, 0)
        self.by_node = numpy.zeros(max(sizes, default=0), dtype=numpy.int64)
        self.predicted: dict[str, int] | None = {"messages": 0, "bytes": 0}
        self.done: set[int] = set()  # flows that have made their first update
        self._unit = dict.fromkeys(SUMS, 0)
        self._unit_by_node = numpy.zeros_like(self.by_node)

    @property
    def seconds(self) -> float | None:
        return self.clock.seconds if self.clock is not None else None

    def add(self, results: Mapping[str, Any]) -> None:
        """One update's results `sent/K/..`, as tensors or arrays."""
        if not results or not self.counted:
            return
        found: dict[int, dict[str, Any]] = {}
        for name, value in results.items():
            _, key, part = name.split("/")
            found.setdefault(int(key), {})[part] = value.tolist()
        first = min(found)
        own = self.counted[first]
        sendings = [one for counter in own.counters if (one := counted_sending(counter, found[counter.key], self.width)) is not None]
        self._unit["rounds"] += rounds_of(sendings)
        for one in sendings:
            self._unit["messages"] += one.messages
            self._unit["bytes"] += one.bytes
            self._unit_by_node[: own.nodes] += one.by_node
        self._predict(own, first)
        if self.clock is not None:
            self.clock = advanced(self.clock, sendings, own)

    def happened(self, flow: str, kinds: Any, ends: Any, units: int) -> None:
        """Events of a flow in the order of time, `units` of training together: [event] of which kind, [event, end] the nodes (-1: there is none)."""
        talk = self.talks[flow]
        for number, (there, back) in enumerate(talk.sizes):
            mine = ends[kinds == number]
            for end, size in enumerate((there, back)):
                if size and len(mine):
                    self._unit["messages"] += len(mine)
                    self._unit["bytes"] += size * len(mine)
                    self._unit_by_node[: talk.nodes] += size * numpy.bincount(mine[:, end], minlength=talk.nodes)
        if talk.expected is None or self.predicted is None:
            self.predicted = None
        else:
            self.predicted = {name: self.predicted[name] + units * one for name, one in zip(("messages", "bytes"), talk.expected, strict=True)}
        if self.clock is not None:
            for kind, (i, j) in zip(kinds.tolist(), ends.tolist(), strict=True):
                alone = j < 0
                own = numpy.arange(talk.nodes) == i
                self.clock = computed(self.clock, 1, own) if alone else event(self.clock, i, j, float(max(talk.sizes[kind])))

    def _predict(self, own: Counted, first: int) -> None:
        """What the plan says of the same update."""
        expected = [predicted_sending(one, self.width) for one in own.counters if not one.crossing.started or first not in self.done]
        self.done.add(first)
        if self.predicted is None or any(one is None for one in expected):
            self.predicted = None
            return
        known: list[Sending] = [one for one in expected if one is not None]
        self.predicted["messages"] += sum(one.messages for one in known)
        self.predicted["bytes"] += sum(one.bytes for one in known)

    def unit(self) -> dict[str, Any]:
        """What was sent since the last call; nothing where no flow runs over a topology."""
        if not self.counted and not self.talks:
            return {}
        found = {**self._unit, "largest": int(self._unit_by_node.max(initial=0))}
        for name in SUMS:
            self.total[name] += self._unit[name]
        self.by_node += self._unit_by_node
        self._unit, self._unit_by_node = dict.fromkeys(SUMS, 0), numpy.zeros_like(self.by_node)
        return found | ({"seconds": self.clock.seconds} if self.clock is not None else {})

    def totals(self) -> dict[str, Any]:
        """All that the run has sent, in whole units; `predicted` is null where the plan cannot know."""
        if not self.counted and not self.talks:
            return {}
        found: dict[str, Any] = {**self.total, "largest": int(self.by_node.max(initial=0)), "predicted": self.predicted}
        return found | ({"network": self.network.name, "seconds": self.seconds} if self.network is not None else {})

    # ---- checkpoints, which are taken between units

    def state(self) -> dict[str, Any]:
        clock = self.clock.nodes.tolist() if self.clock is not None else None
        return {**self.total, "by_node": self.by_node.tolist(), "predicted": self.predicted, "clock": clock, "done": sorted(self.done)}

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError, TypeError for what is no state of this ledger."""
        self.total = {name: int(state[name]) for name in SUMS}
        by_node = numpy.array(state["by_node"], dtype=numpy.int64)
        if by_node.shape != self.by_node.shape:
            raise ValueError(f"it counts for {len(by_node)} nodes, and there are {len(self.by_node)}")
        self.by_node, self.predicted, self.done = by_node, state["predicted"], set(state["done"])
        if self.clock is not None and state["clock"] is not None:
            nodes = numpy.array(state["clock"], dtype=float)
            if nodes.shape != self.clock.nodes.shape:
                raise ValueError(f"it has {len(nodes)} clocks, and there are {len(self.clock.nodes)} nodes")
            self.clock = Clock(self.clock.links, nodes)


def sending_of(counted: Mapping[int, Counted], width: int, network: str | None, talks: Mapping[str, Talk] | None = None) -> Ledger:
    """`network`: a description's text, a name, or a file. Raises RunFailed where it does not fit the program."""
    from gradflow.runtime.events import RunFailed

    try:
        return Ledger(counted, width, network_of(network) if network is not None else None, talks)
    except BadNetwork as error:
        raise RunFailed(str(error)) from None


def over(network: Description, sizes: set[int]) -> Links:
    """The network's links between the nodes of all topologies. Raises BadNetwork where these are none or of several sizes."""
    if len(sizes) != 1:
        said = f"topologies of {', '.join(map(str, sorted(sizes)))} nodes, and a clock runs for one number" if sizes else "no topology to run over"
        raise BadNetwork(f"the network `{network.name}` cannot be used: the program has {said}")
    return network.over(next(iter(sizes)))


__all__ = ["Ledger", "over", "sending_of"]

"""The events of one rank: those that touch a node that it holds, in the order that all ranks share.

Every rank draws the whole stream and cuts it into the same waves, and carries out what concerns its own nodes. At a link between two ranks both
need both rows as they were: they swap them, in one message each way for all such links of a wave, and each computes its own end. Since all
walk the waves in one order, a message is always met.

Axes: node (own nodes only), event (of a wave, those that touch an own node), column (all that a node keeps, side by side).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from gradflow.events.plan import EventKind
from gradflow.events.runner import EventRunner
from gradflow.graph.graph import Node
from gradflow.runtime.events import RunFailed
from gradflow.runtime.regions import Key, failures

if TYPE_CHECKING:
    from gradflow.backends.distributed import Communicator


class RankedEvents(EventRunner):
    """The runner of one rank."""

    def __init__(self, communicator: Communicator, *given: Any):
        self.communicator = communicator
        placement = communicator.placement
        self.own = numpy.array(placement.own)
        self.owner = numpy.array([placement.owner[node] for node in range(placement.size)])
        self.local = numpy.full(placement.size, -1)
        self.local[self.own] = numpy.arange(len(self.own))
        super().__init__(*given)
        for kind in self.plan.kinds:
            self._check(kind)

    def _check(self, kind: EventKind) -> None:
        if kind.width == 2:
            for source in kind.body.sources():
                if source["kind"] in ("data", "input", "const") and source.type.has(self.communicator.placement.axis):
                    raise RunFailed("an event at a link that reads data of its nodes cannot be placed on several processes", kind.span)

    # ---- what the rank sees

    def _concerns(self, ends: numpy.ndarray) -> numpy.ndarray:
        mine: numpy.ndarray = ((self.local[ends] >= 0) & (ends >= 0)).any(1)
        return mine

    def _nodes(self) -> int:
        return len(self.own)

    def _held(self, value: numpy.ndarray) -> numpy.ndarray:
        return value[self.own]

    def held(self, source: Node) -> Any:
        value = self.constant(source)
        axis = self.communicator.placement.axis
        if source["kind"] != "const" or not source.type.has(axis):
            return value
        return value.index_select(source.type.names.index(axis), torch.as_tensor(self.own, device=value.device))

    def _wave(self, call: Callable[[dict[Key, Any]], Mapping[str, Any]], width: int, table: Tensor, given: dict[Key, Any]) -> None:
        places = [given["event", str(end)].cpu().numpy() for end in range(width)]
        here = [self.local[place] for place in places]
        inside = [torch.as_tensor(numpy.maximum(at, 0), device=table.device) for at in here]
        rows = [table.index_select(0, at) for at in inside]
        if width == 2:
            self._swap(places, here, rows)
        count = len(places[0])
        for end in range(width):
            given["event", str(end)] = inside[end]
            pieces = rows[end].split(self.widths, 1)
            given.update(
                zip(self.keys[end], (row if plain else row.reshape(count, *shape) for row, plain, shape in zip(pieces, self.flat, self.shapes)))
            )
        with failures(self.update.span, self.update.flow):
            results = call(given)
        for names, at in zip(self.names, here):
            kept = torch.as_tensor(numpy.flatnonzero(at >= 0), device=table.device)
            whole = torch.cat([self._tensor(results[name]).reshape(count, -1) for name in names], 1)
            table.index_copy_(0, torch.as_tensor(at[at >= 0], device=table.device), whole.index_select(0, kept))

    def _swap(self, places: list[numpy.ndarray], here: list[numpy.ndarray], rows: list[Tensor]) -> None:
        """Fills in the rows of nodes that others hold, against this rank's own of the same events."""
        mine = [at >= 0 for at in here]
        for peer in sorted({int(self.owner[place]) for place, own in zip(places, mine) for place in place[~own]}):
            leaving, arriving = [], []
            for event in range(len(places[0])):
                for end in range(2):
                    if not mine[end][event] and self.owner[places[end][event]] == peer:
                        leaving.append((1 - end, event))
                        arriving.append((end, event))
            found = self.communicator.swap(torch.stack([rows[end][event] for end, event in leaving]), peer)
            for row, (end, event) in zip(found, arriving):
                rows[end][event] = row


__all__ = ["RankedEvents"]

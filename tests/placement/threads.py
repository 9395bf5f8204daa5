"""Ranks as threads of one process: the same placed programs and the same transfers, handed over in memory, so that any number of ranks can be
tried in a test. What torch.distributed does is tested with real processes, in test_processes.py.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor

from gradflow.backends.distributed import Communicator, use
from gradflow.placement.partition import Placement
from gradflow.placement.programs import placement_of
from gradflow.placement.spread import Route
from gradflow.plan.program import Program
from gradflow.runtime.events import Event, Report
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.ranks import Ranks


class Meeting:
    """Where the threads hand values over."""

    def __init__(self, count: int):
        self.barrier = threading.Barrier(count)
        self.values: list[Any] = [None] * count
        self.boxes = {(one, other): queue.Queue() for one in range(count) for other in range(count)}

    def swap(self, rank: int, peer: int, value: Any) -> Any:
        self.boxes[rank, peer].put(value)
        return self.boxes[peer, rank].get(timeout=60)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait(60)
        found = list(self.values)
        self.barrier.wait(60)
        return found


class ThreadCommunicator(Communicator):
    """A rank that is a thread."""

    def __init__(self, placement: Placement, meeting: Meeting):
        self.placement, self.meeting = placement, meeting
        self.rank, self.ranks = placement.rank, placement.ranks

    def reduce(self, form: str, value: Tensor) -> Tensor:
        values = torch.stack([part.clone() for part in self.meeting.exchange(self.rank, value.clone())])
        if value.dtype == torch.bool:
            return values.any(0) if form == "max" else values.all(0)
        return {"sum": lambda: values.sum(0), "max": lambda: values.amax(0), "min": lambda: values.amin(0)}[form]().to(value.dtype)

    def gather(self, value: Tensor, dim: int) -> Tensor:
        whole = torch.cat(self.meeting.exchange(self.rank, value.clone()), dim)
        order = [node for part in self.placement.parts for node in part]
        return whole.index_select(dim, torch.tensor(order).argsort())

    def fetch(self, value: Tensor, index: Any, dim: int) -> Tensor:
        number = int(index) % self.placement.size
        owner = self.placement.owner[number]
        own = value.select(dim, self.placement.own.index(number)).clone() if owner == self.rank else None
        return self.meeting.exchange(self.rank, own)[owner].clone()

    def halo(self, value: Tensor, route: Route, dim: int) -> Tensor:
        whole = self.gather(value, dim)
        return whole.index_select(dim, torch.tensor(route.wanted[self.rank]))

    def swap(self, rows: Tensor, peer: int) -> Tensor:
        return self.meeting.swap(self.rank, peer, rows.clone())

    def pieces(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        found = self.meeting.exchange(self.rank, rows.clone())
        assert [len(piece) for piece in found] == list(counts)
        return found

    def begin_sum(self, value: Tensor) -> Callable[[], None]:
        def end() -> None:
            value.copy_(self.reduce("sum", value))

        return end

    def agree(self, *asked: bool) -> tuple[bool, ...]:
        return tuple(any(votes) for votes in zip(*self.meeting.exchange(self.rank, asked), strict=True))

    @contextmanager
    def waiting(self) -> Any:
        yield


def at_once(placement: Placement, body: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """What `body` makes on every rank of a placement. Raises what the first rank that failed by itself raised."""
    meeting = Meeting(placement.ranks)
    results: list[Any] = [None] * placement.ranks
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        communicator = ThreadCommunicator(replace(placement, rank=rank), meeting)
        use(communicator)
        try:
            results[rank] = body(communicator)
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(placement.ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results


def on_ranks(
    program: Program, count: int, options: Options, inputs: Mapping[str, Any] | None = None, watch: Callable[[Run], Any] | None = None
) -> list[tuple[list[Event], Any]]:
    """Runs a program on so many ranks: of each, its events, and what `watch` sees in the end."""

    def body(communicator: ThreadCommunicator) -> tuple[list[Event], Any]:
        run = Run(program, options, inputs, ranks=Ranks(communicator))
        return list(run.events()), watch(run) if watch is not None else None

    return at_once(placement_of(program, count), body)


def reports_on_ranks(count: int) -> Callable[[Program, Mapping[str, Any], str], dict[str, numpy.ndarray]]:
    """In place of `embed.run_reports`: what every rank reports must be the same; topologies of fewer nodes take fewer ranks."""

    def reports(program: Program, inputs: Mapping[str, Any], backend: str) -> dict[str, numpy.ndarray]:
        nodes = placement_of(program, 1).size
        results = on_ranks(program, min(count, nodes), Options(backend=backend, precision="float64"), inputs)
        found = [_series(events) for events, _ in results]
        for other in found[1:]:
            for name, value in found[0].items():
                numpy.testing.assert_array_equal(other[name], value, err_msg=f"ranks differ in {name}")
        return found[0]

    return reports


def _series(events: list[Event]) -> dict[str, numpy.ndarray]:
    series: dict[str, list[Any]] = {}
    last: dict[str, Any] = {}
    for event in events:
        if isinstance(event, Report) and event.final:
            last |= event.values
        elif isinstance(event, Report):
            for name, value in event.values.items():
                series.setdefault(name, []).append(value)
    return {name: numpy.asarray(value) for name, value in (series | last).items()}

"""Transfers between the ranks of one run, on torch.distributed.

    sum, max, min    of every rank's own part, the same result on all of them
    gather           every rank's entries of the split axis, in the order of their numbers
    halo             the entries that a rank's own are linked to, from the ranks that hold them, in point-to-point messages
    fetch            the entry of a number that all ranks know, from the rank that holds it

A rank that is gone turns the failure of a transfer into `RankLost`, which names it. The ranks know one
another through torch's own store, where each leaves its host and process.

Axes: the split one (dimension `dim`), its entries of this rank on the way in; others as they come.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradflow.backends.distributed.devices import part, put_together
from gradflow.graph.graph import Node
from gradflow.language.source import NOWHERE, Span
from gradflow.placement.partition import Placement
from gradflow.placement.spread import Route

REDUCED = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
NARROW = {torch.bool: torch.uint8}
SETTLED = 2.0  # seconds after which a process that broke its connection is known to be gone or not


class RankLost(RuntimeError):
    """A transfer that cannot be finished. `lost`: the ranks that are known to be gone; `reason` is a sentence."""

    def __init__(self, reason: str, lost: tuple[int, ...] = ()):
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        self.span = NOWHERE


@dataclass(frozen=True)
class Exchange:
    """A route as one rank walks it: places among its own rows, and where in the result what arrives is put."""

    kept: Tensor
    kept_at: Tensor
    leaving: dict[int, Tensor]
    arriving: dict[int, Tensor]

    @classmethod
    def of(cls, route: Route, rank: int, device: torch.device) -> Exchange:
        parts, wanted = route.placement.parts, route.wanted
        own = {number: place for place, number in enumerate(parts[rank])}
        at = {number: place for place, number in enumerate(wanted[rank])}
        kept = [number for number in wanted[rank] if number in own]

        def places(numbers: list[int], of: dict[int, int]) -> Tensor:
            return torch.tensor([of[number] for number in numbers], dtype=torch.int64, device=device)

        others = [other for other in range(len(parts)) if other != rank]
        leaving = {other: found for other in others if (found := [number for number in wanted[other] if number in own])}
        arriving = {other: found for other in others if (found := [number for number in parts[other] if number in at])}
        return cls(
            places(kept, own), places(kept, at), {r: places(n, own) for r, n in leaving.items()}, {r: places(n, at) for r, n in arriving.items()}
        )


class Communicator:
    """The ranks of this process group. `placement` says whose entries are whose; `device`: where tensors must be to be sent."""

    def __init__(self, placement: Placement, device: torch.device, store: dist.Store):
        self.placement = placement
        self.device = device
        self.store = store
        self.rank, self.ranks = placement.rank, placement.ranks
        order = [node for part in placement.parts for node in part]
        self._back = None if order == sorted(order) else torch.tensor(order, device=device).argsort()
        self._plans: dict[int, tuple[Route, Exchange]] = {}
        self._counts = [len(part) for part in placement.parts]
        store.set(f"process/{self.rank}", f"{socket.gethostname()} {os.getpid()}")

    # ---- the three forms

    def reduce(self, form: str, value: Tensor) -> Tensor:
        narrow = NARROW.get(value.dtype)
        own = value.to(narrow) if narrow is not None else value.clone(memory_format=torch.contiguous_format)
        with self.waiting():
            dist.all_reduce(own, REDUCED[form])
        return own.to(value.dtype)

    def gather(self, value: Tensor, dim: int) -> Tensor:
        """[.., own, ..] to [.., all, ..]. Parts of unequal length are padded on the way."""
        narrow = NARROW.get(value.dtype)
        rows = (value.to(narrow) if narrow is not None else value).movedim(dim, 0)
        most = max(self._counts)
        own = rows.new_zeros((most, *rows.shape[1:]))
        own[: rows.shape[0]] = rows
        pieces = [torch.empty_like(own) for _ in range(self.ranks)]
        with self.waiting():
            dist.all_gather(pieces, own)
        whole = torch.cat([piece[:count] for piece, count in zip(pieces, self._counts, strict=True)])
        if self._back is not None:
            whole = whole[self._back]
        return whole.to(value.dtype).movedim(0, dim)

    def pieces(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Every rank's rows: `counts` says how many each has."""
        narrow = NARROW.get(rows.dtype)
        own = rows.new_zeros((max(counts), *rows.shape[1:]), dtype=narrow or rows.dtype)
        own[: rows.shape[0]] = rows
        found = [torch.empty_like(own) for _ in range(self.ranks)]
        with self.waiting():
            dist.all_gather(found, own)
        return [piece[:count].to(rows.dtype) for piece, count in zip(found, counts, strict=True)]

    def begin_sum(self, value: Tensor) -> Callable[[], None]:
        """Begins to sum a contiguous tensor in place over the ranks; what is returned waits for the end."""
        with self.waiting():
            work = dist.all_reduce(value, async_op=True)

        def end() -> None:
            with self.waiting():
                work.wait()

        return end

    def fetch(self, value: Tensor, index: Any, dim: int) -> Tensor:
        number = int(index)
        size = self.placement.size
        if not -size <= number < size:
            raise IndexError(f"there is no entry {number} among {size}")
        number %= size
        owner = self.placement.owner[number]
        if owner == self.rank:
            found = value.select(dim, self.placement.own.index(number)).clone(memory_format=torch.contiguous_format)
        else:
            shape = list(value.shape)
            del shape[dim]
            found = value.new_empty(shape)
        narrow = NARROW.get(found.dtype)
        sent = found.to(narrow) if narrow is not None else found
        with self.waiting():
            dist.broadcast(sent, owner)
        return sent.to(value.dtype)

    def halo(self, value: Tensor, route: Route, dim: int) -> Tensor:
        """The entries that this rank needs, its own and its neighbors', ascending by number: one message for each pair of ranks that share a link."""
        narrow = NARROW.get(value.dtype)
        rows = (value.to(narrow) if narrow is not None else value).movedim(dim, 0).contiguous()
        plan = self._plan(route)
        result = rows.new_empty((len(route.wanted[self.rank]), *rows.shape[1:]))
        result[plan.kept_at] = rows[plan.kept]
        arriving = {rank: rows.new_empty((len(at), *rows.shape[1:])) for rank, at in plan.arriving.items()}
        operations = [dist.P2POp(dist.isend, rows[places].contiguous(), rank) for rank, places in plan.leaving.items()]
        operations += [dist.P2POp(dist.irecv, buffer, rank) for rank, buffer in arriving.items()]
        if operations:
            with self.waiting():
                for request in dist.batch_isend_irecv(operations):
                    request.wait()
        for rank, at in plan.arriving.items():
            result[at] = arriving[rank]
        return result.to(value.dtype).movedim(0, dim)

    def swap(self, rows: Tensor, peer: int) -> Tensor:
        """Rows for rows of the same shape with one other rank."""
        found, own = torch.empty_like(rows), rows.contiguous()
        with self.waiting():
            for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, own, peer), dist.P2POp(dist.irecv, found, peer)]):
                request.wait()
        return found

    def _plan(self, route: Route) -> Exchange:
        if id(route) not in self._plans:
            self._plans[id(route)] = route, Exchange.of(route, self.rank, self.device)
        return self._plans[id(route)][1]

    # ---- decisions

    def agree(self, *asked: bool) -> tuple[bool, ...]:
        """What any rank asks for is done by all of them, after the same unit."""
        flags = torch.tensor(asked, dtype=torch.uint8, device=self.device)
        with self.waiting():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in flags.tolist())

    def wait(self) -> None:
        with self.waiting():
            dist.barrier()

    # ---- what goes wrong

    @contextmanager
    def waiting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            with suppress(RuntimeError):
                self.store.set(f"left/{self.rank}", "")  # this rank will be gone soon, and is not why
            lost = self.gone()
            named = ", ".join(f"rank {rank} (process {process} on {host})" for rank, host, process in lost)
            cause = " ".join(str(error).split()).partition(" . ")[0]
            reason = f"{named} is gone" if lost else f"another rank does not answer ({cause})"
            raise RankLost(f"{reason}; rank {self.rank} was waiting for it", tuple(rank for rank, _, _ in lost)) from error

    def gone(self) -> list[tuple[int, str, int]]:
        """The ranks of this host whose process has ended: rank, host, process. A connection breaks a little before a process is gone."""
        deadline = time.monotonic() + SETTLED
        while True:
            lost = [(rank, host, process) for rank, host, process in self._others() if host == socket.gethostname() and not alive(process)]
            if lost or time.monotonic() > deadline:
                return lost
            time.sleep(0.05)

    def _others(self) -> Iterator[tuple[int, str, int]]:
        for rank in range(self.ranks):
            try:
                if rank == self.rank or self.store.check([f"left/{rank}"]):
                    continue
                host, process = self.store.get(f"process/{rank}").decode().rsplit(" ", 1)
            except (RuntimeError, ValueError):
                continue  # the store went with the process that kept it
            yield rank, host, int(process)


def alive(process: int) -> bool:
    """Whether a process of this host is there and not only a zombie that nobody has waited for."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not os.path.isdir("/proc/self")


# ---- what lowered regions call

_current: ContextVar[Communicator | None] = ContextVar("communicator", default=None)


def use(communicator: Communicator | None) -> None:
    """The communicator of this thread of control, from now on."""
    _current.set(communicator)


def connected() -> Communicator:
    """Raises RuntimeError where this process is no rank of a run."""
    found = _current.get()
    if found is None:
        raise RuntimeError("a placed region needs the other ranks: run it under torchrun, or with `gradflow run --nproc`")
    return found


def transfer(form: str, dim: int, span: Span, value: Tensor, more: Any = None) -> Tensor:
    """A `transfer` on tensors. `dim`: the split axis of the value; `span`: what asks for it; `more`: the number that is fetched, a halo's route."""
    communicator = connected()
    try:
        if form == "part":
            return part(value, more, dim)
        if form == "gather":
            return communicator.gather(value, dim) if more is None else put_together(communicator, value, more, dim)
        if form == "halo":
            return communicator.halo(value, more, dim)
        return communicator.fetch(value, more, dim) if form == "fetch" else communicator.reduce(form, value)
    except RankLost as error:
        error.span = span
        raise


def array_transfer(node: Node, value: Any, index: Any = None) -> Any:
    """The same on numpy arrays, for the reference backend."""
    import numpy

    names = node.inputs[0].type.names
    dim = names.index(node["axis"]) if node["axis"] in names else 0
    tensor = torch.tensor(numpy.asarray(value))
    return transfer(node["form"], dim, node.span, tensor, node.get("route", index)).numpy()

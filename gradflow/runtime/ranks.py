"""The processes of one run, seen from one of them. Alone is a case like any other: a placement on one rank, nothing to agree on, nothing to send.

Rank 0 writes the run folder and shows the run. Checkpoints hold whole tensors, so that a run goes on with another number of processes than it
began with.

Axes: the one that is spread over the ranks (node), whole or with a rank's own entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, device

from gradflow.graph.types import Axis, Type
from gradflow.placement.devices import DEVICE, Shards, length, shards_of, spread_updates
from gradflow.plan.program import Program, Update
from gradflow.plan.rewriting import regions
from gradflow.runtime.devices import dropout_of
from gradflow.runtime.events import RunFailed

if TYPE_CHECKING:
    from gradflow.backends.distributed import Communicator
    from gradflow.events.runner import EventRunner
    from gradflow.runtime.models import ModelRunner

IN_PARTS = ("param/", "state/")
KEPT = ("param/", "state/", "held/")


@dataclass
class Ranks:
    """`dims`: of what is kept and split, the dimension that is, by the names of `snapshots.tensors_of`."""

    communicator: Communicator | None = None
    dims: dict[str, int] = field(default_factory=dict)
    shards: dict[str, Shards] = field(default_factory=dict)  # models whose parameters are spread over the ranks
    sharded: dict[str, int] = field(default_factory=dict)  # like `dims`, of what has their coordinates

    @property
    def rank(self) -> int:
        return self.communicator.rank if self.communicator is not None else 0

    @property
    def count(self) -> int:
        return self.communicator.ranks if self.communicator is not None else 1

    @property
    def own(self) -> tuple[int, ...] | None:
        """The nodes of this rank; None: all."""
        return self.communicator.placement.own if self.communicator is not None else None

    def place(self, program: Program, exact: bool) -> Program:
        """The program of this rank."""
        if self.communicator is None:
            return program
        from gradflow.placement.programs import placed

        result = placed(program, self.communicator.placement, exact)
        if self.communicator.placement.axis == DEVICE:
            self.shards = shards_of(program, self.communicator.placement)
            self.sharded = _sharded(result, self.shards)
            return result
        self.dims = _split(result, Axis(self.communicator.placement.axis, len(self.communicator.placement.own)))
        return result

    def events(self, *given: Any) -> EventRunner:
        """What carries out the events of a flow."""
        from gradflow.events.ranked import RankedEvents
        from gradflow.events.runner import EventRunner

        return EventRunner(*given) if self.communicator is None else RankedEvents(self.communicator, *given)

    def refuse(self, program: Program, runners: Mapping[str, ModelRunner]) -> None:
        """Raises RunFailed for models over devices whose rows are not independent of one another, or drop others on every rank."""
        if self.communicator is None:
            return
        from torch.nn.modules.batchnorm import _BatchNorm

        for update in spread_updates(program):
            for name in update.models:
                parts = list(runners[name].module.modules()) if name in runners else []
                what = "normalizes by the rows of a batch" if any(isinstance(part, _BatchNorm) for part in parts) else ""
                what = "drops units at random" if any(dropout_of(part) for part in parts) else what
                if what:
                    raise RunFailed(
                        f"`{name}` {what}, which would come out differently on {self.count} processes; run it without --nproc", update.span
                    )

    # ---- values

    def fitted(self, value: Tensor, type_: Type) -> Tensor:
        """A value that comes from outside, whole, as a placed region reads it."""
        if self.communicator is None or not type_.has(self.communicator.placement.axis):
            return value
        dim = type_.names.index(self.communicator.placement.axis)
        return self._local(value, dim) if value.shape[dim] == self.communicator.placement.size else value

    def local(self, name: str, value: Tensor) -> Tensor:
        """What a checkpoint holds under a name, as this rank keeps it."""
        if name in self.sharded:
            from gradflow.backends.distributed.devices import part

            return part(value, self.layout, self.sharded[name]) if self.layout is not None else value
        return self._local(value, self.dims[name]) if name in self.dims else value

    @property
    def layout(self) -> Shards | None:
        """How coordinates are spread over the ranks, where they are."""
        return next(iter(self.shards.values()), None)

    def in_parts(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, int]]:
        """Of what is kept that which every rank writes its part of, with the dimension of the coordinates."""
        return {name: (value, self.sharded[name]) for name, value in tensors.items() if name in self.sharded and name.startswith(IN_PARTS)}

    def write_parts(self, run: Path, tick: int, parts: Mapping[str, tuple[Tensor, int]], device: device) -> Path:
        """Begins a checkpoint with the parts of all ranks: its temporary folder. Raises OSError."""
        from gradflow.runtime.checkpoints import begin_checkpoint, place_of
        from gradflow.runtime.shard_files import FOLDER, write_shards

        assert self.communicator is not None and self.layout is not None
        temporary = place_of(run, tick).with_suffix(".tmp")
        if self.rank == 0:
            begin_checkpoint(run, tick)
            (temporary / FOLDER).mkdir()
        self.communicator.wait()
        write_shards(temporary / FOLDER, parts, self.layout, device)
        return temporary

    def whole(self, name: str, value: Tensor) -> Tensor:
        """What this rank keeps under a name, as a checkpoint holds it. All ranks must ask."""
        if self.communicator is None or (name not in self.dims and name not in self.sharded):
            return value
        if self.layout is not None:
            from gradflow.backends.distributed.devices import put_together

            return put_together(self.communicator, value, self.layout, self.sharded[name])
        return self.communicator.gather(value, self.dims[name])

    def _local(self, value: Tensor, dim: int) -> Tensor:
        import torch

        assert self.communicator is not None
        own = self.communicator.placement.own
        if own[-1] - own[0] + 1 == len(own):
            return value.narrow(dim, own[0], len(own))
        return value.index_select(dim, torch.tensor(own, device=value.device))

    # ---- the run folder, which rank 0 makes

    def tell_folder(self, path: Path) -> None:
        if self.communicator is not None:
            from gradflow.backends.distributed.launch import FOLDER, lasting_store

            self.communicator.store.set(FOLDER, str(path))
            lasting_store().set(FOLDER, str(path))

    def folder(self) -> Path | None:
        """Where rank 0 keeps the run. Waits until it says."""
        if self.communicator is None:
            return None
        from gradflow.backends.distributed.launch import FOLDER

        with self.communicator.waiting():
            return Path(self.communicator.store.get(FOLDER).decode())

    def folder_before(self) -> Path | None:
        """The folder of the run that these processes were at before they were started again."""
        if self.communicator is None:
            return None
        from gradflow.backends.distributed.launch import FOLDER, lasting_store, restarted

        store = lasting_store() if restarted() else None
        return Path(store.get(FOLDER).decode()) if store is not None and store.check([FOLDER]) else None

    # ---- decisions

    def agree(self, *asked: bool) -> tuple[bool, ...]:
        """What any rank asks for is done by all of them."""
        return asked if self.communicator is None else self.communicator.agree(*asked)


def _split(program: Program, axis: Axis) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, region in regions(program):
        for name, node in region.results:
            if name.startswith(KEPT) and axis in node.type.axes:
                found[name] = node.type.axes.index(axis)
    for plan in program.models.values():
        for dim, lifted in enumerate(plan.lifted):
            if lifted == axis:
                found[f"param/{plan.name}"] = dim
    for phase in program.phases:
        for action in phase.actions:
            if not isinstance(action, Update):
                continue
            for state in action.states:
                if axis in state.type.axes:
                    found[f"state/{action.flow}/{state.key}"] = state.type.axes.index(axis)
            for name, node in action.rollout.results if action.rollout is not None else ():
                if axis in node.type.axes:
                    found[f"taken/{action.flow}/{name.split('/')[1]}"] = node.type.axes.index(axis)
    return found


def _sharded(program: Program, shards: Mapping[str, Shards]) -> dict[str, int]:
    """What a run keeps that has the coordinates of sharded models, with the dimension where they stand."""
    if not shards:
        return {}
    layout = next(iter(shards.values()))
    own = length(layout.stretches(layout.rank, layout.size))
    return _split(program, Axis("param", own)) | {f"param/{name}": 0 for name in shards}

"""When a run writes a checkpoint, and how: never twice at one place, and only behind what was told before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradflow.runtime.checkpoints import place_of, write_checkpoint
from gradflow.runtime.events import METRICS, CheckpointWritten, RunFailed
from gradflow.runtime.files import flush, trouble
from gradflow.runtime.snapshots import parts_of, state_of, tensors_of

if TYPE_CHECKING:
    from gradflow.runtime.executor import Run
    from gradflow.runtime.phases import PhasePlan


class Saver:
    """The checkpoints of one run, in its folder (none are written without). `every`: seconds after which one is due."""

    def __init__(self, run: Run, every: float | None):
        self.run, self.every = run, every
        self.at = time.perf_counter()  # when the last one was written
        self.saved: tuple[int, int, bool] | None = None

    @property
    def overdue(self) -> bool:
        return self.every is not None and time.perf_counter() - self.at >= self.every

    def place(self, plans: list[PhasePlan]) -> tuple[int, int, bool]:
        """What tells one checkpoint from another: units done, the phase, and whether its last report was made, where there is one."""
        run = self.run
        return run.clocks.tick, run.phase, run.closed and plans[run.phase].phase.final is not None

    def begin(self, plans: list[PhasePlan]) -> None:
        """The run goes on from a checkpoint: this place has one."""
        self.saved = self.place(plans)

    def write(self, plans: list[PhasePlan]) -> Iterator[CheckpointWritten]:
        """Writes one, unless this place has one. What was told before is flushed first, so that it is on the disk when the checkpoint is."""
        folder = self.run.folder
        if folder is None or not plans or self.saved == self.place(plans):
            return
        run, tick = self.run, self.run.clocks.tick
        try:
            tensors, temporary = tensors_of(run), None
            if parts := parts_of(run):
                temporary = run.ranks.write_parts(folder, tick, parts, run.device)
            if run.ranks.rank == 0:
                metrics = folder / METRICS
                if metrics.exists():
                    flush(metrics)
                write_checkpoint(folder, tick, tensors, state_of(run, plans, run.elapsed()), temporary=temporary)
        except OSError as error:
            after = f"the one before it holds; then go on with `gradflow run --resume {folder}`"
            raise RunFailed(f"no checkpoint after {tick} units: {trouble(error)}; {after}") from error
        self.saved, self.at = self.place(plans), time.perf_counter()
        yield CheckpointWritten(tick, str(place_of(folder, tick)))

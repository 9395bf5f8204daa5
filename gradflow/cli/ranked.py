"""A run on several processes: `--nproc N` starts them through torchrun's launcher; started by torchrun, a process joins the others.

Rank 0 makes the run folder, shows the run and writes checkpoints; the others compute their part in silence. Whichever rank fails says why. A
rank that is gone is named by the others, with the stage and the line that waited for it, and the launcher says what ended it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gradflow.cli.terminal import ERRORS, FAILED, FINE, INTERRUPTED, LAUNCHED, UsageError, say

if TYPE_CHECKING:
    from gradflow.backends.distributed import Communicator, RankLost
    from gradflow.plan.program import Program
    from gradflow.runtime.events import RunFailed
    from gradflow.runtime.options import Options
    from gradflow.runtime.ranks import Ranks

RESTARTS = 3  # that --elastic allows
OWN = {"--nproc": 1, "--elastic": 0}  # the launcher's options, and how many words follow each


def launched(options: argparse.Namespace, program: Program) -> int:
    """Starts the processes of a run and waits for them."""
    from gradflow.placement.devices import spread_updates
    from gradflow.placement.programs import Unplaced, placement_of

    try:
        placement_of(program, options.nproc)
    except Unplaced as error:
        raise UsageError(str(error)) from None
    from gradflow.backends.distributed.launch import launch

    if any(update.spread == "parameters" for update in spread_updates(program)):
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 20))  # what FSDP2 frees, layer by layer, goes back: else it stays, in pieces
    try:
        lost = launch(["run", *handed_on(options.words)], options.nproc, RESTARTS if options.elastic else 0, LAUNCHED)
    except KeyboardInterrupt:
        return INTERRUPTED
    if lost is None:
        return FINE
    if lost.signal:
        say(f"run failed: rank {lost.rank} (process {lost.process} on {lost.host}) was ended by {lost.signal}")
        return FAILED
    return lost.code if lost.code in (ERRORS, FAILED, INTERRUPTED) else FAILED


def handed_on(words: list[str]) -> list[str]:
    """The command line without what is the launcher's own."""
    rest, skip = [], 0
    for word in words:
        if skip:
            skip -= 1
        elif word in OWN:
            skip = OWN[word]
        elif word.partition("=")[0] not in OWN:
            rest.append(word)
    return rest


@contextmanager
def joined(program: Program, settings: Options) -> Iterator[Ranks]:
    """The ranks of this process: itself alone, unless torchrun has started it. Raises RunFailed where the program cannot be spread."""
    from gradflow.runtime.ranks import Ranks

    if not under_torchrun():
        yield Ranks()
        return
    from gradflow.backends.distributed import Communicator, RankLost, use
    from gradflow.backends.distributed.launch import joining
    from gradflow.placement.partition import Placement
    from gradflow.placement.programs import Unplaced, placement_of
    from gradflow.runtime.devices import pick_device
    from gradflow.runtime.events import RunFailed

    device = pick_device(settings.device)
    with joining(device) as (rank, count, store):
        try:
            if rank == 0:
                found = placement_of(program, count)
                store.set("placement", json.dumps([found.axis, found.parts]))
            axis, parts = json.loads(store.get("placement"))
            placement = Placement(tuple(map(tuple, parts)), rank, axis)
        except Unplaced as error:
            raise RunFailed(str(error)) from None
        communicator = Communicator(placement, device, store)
        use(communicator)
        try:
            yield Ranks(communicator)
            communicator.wait()  # nobody leaves while another still waits for an answer
        except (RunFailed, RankLost) as error:
            raise _told_once(error, communicator) from error
        finally:
            use(None)


def _told_once(error: RunFailed | RankLost, communicator: Communicator) -> RunFailed:
    """The failure, quiet where another rank says it: the one that failed itself, else the first of those that are left."""
    from gradflow.backends.distributed import RankLost
    from gradflow.runtime.events import RunFailed

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RankLost):
        cause = cause.__cause__
    failed = error if isinstance(error, RunFailed) else RunFailed(str(error))
    if cause is None:
        communicator.store.set(f"failed/{communicator.rank}", failed.message)
        return failed
    left = [rank for rank in range(communicator.ranks) if rank not in cause.lost]
    failed.quiet = communicator.rank != left[0] or any(communicator.store.check([f"failed/{rank}"]) for rank in cause.lost)
    return failed


def under_torchrun() -> bool:
    """Without importing torch: most runs are alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


__all__ = ["handed_on", "joined", "launched", "under_torchrun"]

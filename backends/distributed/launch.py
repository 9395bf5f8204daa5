"""Processes: started through torchrun's own launcher, and joined into one run by each of them.

`launch` starts a command line `count` times on this host and waits; with `restarts`, torchrun starts all of them again when one is lost, and
the run goes on from its newest checkpoint. `joining` makes this process a rank of the group that torchrun's variables describe.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

FOLDER = "gradflow/folder"
PATIENCE = timedelta(minutes=30)  # for a rank that is there and does not answer; one that is gone is noticed at once


@dataclass(frozen=True)
class Lost:
    """The first process that ended badly. `signal`: the name of what killed it, or nothing."""

    rank: int
    process: int
    host: str
    code: int
    signal: str = ""


def started() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "WORLD_SIZE" in os.environ


def restarted() -> bool:
    """Whether torchrun has started it again, after a rank was lost."""
    return started() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch(words: Sequence[str], count: int, restarts: int = 0, name: str = "gradflow") -> Lost | None:
    """Runs `python -m gradflow WORDS` on `count` ranks of this host, to which torchrun gives this name. None: all ended well.

    Raises KeyboardInterrupt after they have ended on one.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its reports of failures repeat ours
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # so do gloo's of broken connections
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=name, max_restarts=restarts, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", monitor_interval=0.2, start_method="spawn",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "gradflow", *words)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda pair: (not _killed(pair[1].exitcode), pair[1].timestamp))
        rank, failure = failures[0]  # several may have ended when torchrun looks: what was killed is why the others ended
        return Lost(rank, failure.pid, os.uname().nodename, failure.exitcode, _signal(failure.exitcode))
    except SignalException:
        raise KeyboardInterrupt from None
    return None


def _killed(code: int) -> bool:
    """By a signal that is not the one by which torchrun ends the others."""
    return code < 0 and code != -signal.SIGTERM


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else ""
    except ValueError:
        return str(-code)


@contextmanager
def joining(device: torch.device) -> Iterator[tuple[int, int, dist.Store]]:
    """(rank, ranks, store) of this process, whose group is gone afterwards."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, _, _ = next(iter(dist.rendezvous("env://", rank, count)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the addresses of an earlier one are still in the store
    dist.init_process_group(backend, store=dist.PrefixStore(f"group/{attempt}", store), rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield rank, count, dist.PrefixStore(f"gradflow/{attempt}", store)
    finally:
        dist.destroy_process_group()


def lasting_store() -> dist.Store:
    """A store that outlives the ranks: the launcher keeps it over restarts."""
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


__all__ = ["FOLDER", "Lost", "joining", "lasting_store", "launch", "restarted", "started"]

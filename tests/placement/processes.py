"""The command line in processes of its own: started like a user's, or forked from one process that has torch already.

Forked ranks are real processes with gloo between them, as torchrun's are; what they lack are the seconds that an interpreter needs for torch. Tests
of the launcher, of signals and of lost processes start theirs like a user's.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from torch.distributed import TCPStore

from gradflow.__main__ import leave
from gradflow.cli.main import main
from gradflow.runtime.checkpoints import newest_checkpoint

LIMIT = 120
KNOWN = [
    "torch.distributed.fsdp", "sklearn.datasets", "gradflow.cli.run", "gradflow.runtime.executor", "gradflow.backends.torch",
    "gradflow.backends.distributed.launch",
]  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gradflow", *words]


def gradflow(folder: Path, *words: str, module: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """As a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [*(module or command()), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )  # fmt: skip


def forked(folder: Path, count: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The same on `count` ranks; the exit code is the worst of theirs."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "forked"}
    with tempfile.TemporaryDirectory() as said:
        ranks = []
        for rank in range(count):
            own = {"NO_COLOR": "1"}
            if count > 1:
                own |= {**meeting, "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(_server().Process(target=_rank, args=(words, str(folder), own, said)))
            ranks[-1].start()
        for process in ranks:
            process.join(LIMIT)
        for process in ranks:
            process.kill()
        codes = [process.exitcode if process.exitcode is not None else -1 for process in ranks]
        out, err = ((Path(said) / stream).read_text() if (Path(said) / stream).exists() else "" for stream in ("out", "err"))
    return subprocess.CompletedProcess(words, max(codes, key=abs), out, err)


@cache
def _server() -> ForkServerContext:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(KNOWN)
    return context


def _rank(words: tuple[str, ...], folder: str, environment: Mapping[str, str], said: str) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    leave(main(list(words)))


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """What the newest checkpoint of a run holds, less the states of random numbers."""
    checkpoint, refused = newest_checkpoint(run)
    assert checkpoint is not None, refused
    return {name: value for name, value in checkpoint.tensors.items() if not name.startswith("random/")}


def same(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")

"""Runs on real processes: one of them late, and two that talk over a slow line between two network namespaces. The numbers stay what they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gradflow.network.description import network_of
from gradflow.runtime.events import Report, RunFinished
from gradflow.runtime.executor import Options, Run
from tests.network.namespaces import ADDRESSES, Unavailable, joined
from tests.plan.programs import shipped

NAME, STEPS, DELAY = "exchanges:gossip_on_digits", 20, 0.02
ROOT = Path(__file__).parent.parent.parent
WORDS = ["run", NAME, "--steps", str(STEPS), "--deterministic", "--network", "wan", "--json", "--name", "one"]


def alone() -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """(reports, what was sent) of one process."""
    options = Options(steps=STEPS, deterministic=True, network=network_of("wan").text())
    events = list(Run(shipped()[NAME], options).events())
    return [dict(event.values) for event in events if isinstance(event, Report)], dict(events[-1].sent) if isinstance(events[-1], RunFinished) else {}


def of_lines(text: str) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert records and records[-1]["event"] == "run_finished", text[-2000:]
    return [record["values"] for record in records if record["event"] == "report"], records[-1]["sent"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def torchrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *words]


def test_a_rank_that_is_late_changes_nothing(tmp_path: Path) -> None:
    program = [str(ROOT / "tests/network/delayed.py"), "1", "0.01"]
    command = torchrun("--standalone", "--nproc-per-node", "3", *program, *WORDS, "--out", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    held = re.findall(r"held back (\d+) times", done.stderr)
    assert len(held) == 1 and int(held[0]) >= STEPS
    assert of_lines(done.stdout) == alone()


def test_two_namespaces_and_a_slow_line(tmp_path: Path) -> None:
    try:
        with joined(DELAY) as (names, devices, _):
            assert round_trip(names[0]) >= 2 * DELAY
            processes = [in_namespace(rank, names[rank], devices[rank], tmp_path) for rank in range(2)]
            try:
                (first, errors), (silent, other) = (process.communicate(timeout=240) for process in processes)
            finally:
                for process in processes:
                    process.kill()
    except Unavailable as error:
        pytest.skip(f"no network namespaces here: {error}")
    assert [process.returncode for process in processes] == [0, 0], errors[-2000:] + other[-2000:]
    assert of_lines(first) == alone() and not silent.strip()


def in_namespace(rank: int, name: str, device: str, out: Path) -> subprocess.Popen[str]:
    meeting = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", "29531"]
    command = ["ip", "netns", "exec", name, *torchrun(*meeting, "-m", "gradflow", *WORDS, "--out", str(out))]
    own = environment(GLOO_SOCKET_IFNAME=device)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=own)


def round_trip(name: str) -> float:
    """Seconds until the other side has refused a connection: there and back."""
    asking = f"import socket, time; s = socket.socket(); t = time.perf_counter(); s.connect_ex(({ADDRESSES[1]!r}, 9)); print(time.perf_counter() - t)"

    done = subprocess.run(["ip", "netns", "exec", name, sys.executable, "-c", asking], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)

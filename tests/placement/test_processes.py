"""Runs on real processes: torchrun's launcher, gloo, one run folder. What many ranks compute is what one does, and a rank that dies ends the run
with a sentence, or with --elastic does not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gradflow.runtime.checkpoints import newest_checkpoint
from tests.placement.processes import LIMIT, command, forked, gradflow, same, tensors

GOSSIP = ["exchanges:gossip_on_digits"]
WARNED = """pipeline warned() {
  data  train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  flow  net over ring(16): cross_entropy(net(train.x), train.y) -> backprop -> gossip() -> sgd(lr: 0.5)
  train 20 rounds (seed: 0) { every 30 rounds { report distance = sum(variance(net, over: node), over: param) } }
}
"""


def test_four_processes_compute_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "warned.gflow").write_text(WARNED)
    words = ["run", "warned.gflow", "--steps", "20", "--quiet"]
    assert forked(tmp_path, 1, *words, "--name", "one").returncode == 0
    four = gradflow(tmp_path, *words, "--name", "four", "--nproc", "4")
    assert four.returncode == 0, four.stderr
    assert four.stderr.count("warning[W0110]") == 1, "warnings are told once, not by every process"
    same(tmp_path / "runs/one", tmp_path / "runs/four")


METHODS = {
    "03_sa_srrw": (20, 1e-9),
    "06_fzoos": (2, 1e-5),  # weights of least norm through 500 values of a smooth surface: they multiply round-off by a billion
    "13_dadao": (20, 1e-9),
    "14_econtrol": (10, 1e-9),
    "25_diff2": (4, 1e-9),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_talk_do_the_same_on_four_processes(method: str, tmp_path: Path) -> None:
    steps, tolerance = METHODS[method]
    words = ["run", method, "--steps", str(steps), "--quiet", "--precision", "float64"]
    assert forked(tmp_path, 1, *words, "--name", "one").returncode == 0
    four = forked(tmp_path, 4, *words, "--name", "four")
    assert four.returncode == 0, four.stderr
    same(tmp_path / "runs/one", tmp_path / "runs/four", tolerance)
    parameters = {name: value for name, value in tensors(tmp_path / "runs/one").items() if name.startswith("param/")}
    for name, value in parameters.items():
        torch.testing.assert_close(tensors(tmp_path / "runs/four")[name], value, rtol=1e-9, atol=1e-9)


def test_deterministic_runs_have_the_same_bits_and_go_on_with_other_processes(tmp_path: Path) -> None:
    words = ["run", "14_econtrol:compressed_digits", "--quiet", "--deterministic"]
    assert forked(tmp_path, 1, *words, "--steps", "12", "--name", "one").returncode == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "gradflow"]
    three = gradflow(tmp_path, *words, "--steps", "12", "--name", "three", module=torchrun)
    assert three.returncode == 0, three.stderr
    same(tmp_path / "runs/one", tmp_path / "runs/three", tolerance=0)


def test_a_run_is_resumed_with_another_number_of_processes(tmp_path: Path) -> None:
    words = ["run", *GOSSIP, "--steps", "4000", "--quiet", "--checkpoint-every", "0.2"]
    process = subprocess.Popen(command(*words, "--name", "cut", "--nproc", "2"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: bool(list(tmp_path.glob("runs/cut/checkpoints/0*"))))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    assert json.loads((tmp_path / "runs/cut/summary.json").read_text())["status"] == "stopped"
    done = newest_checkpoint(tmp_path / "runs/cut")[0].state["tick"]  # type: ignore[union-attr]
    assert 0 < done < 4000


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.Popen(command(*words), cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came to this"
        time.sleep(0.05)


def process_of(rank: int, name: str) -> int:
    """The process of a rank of the run of this name."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words, environment = (entry / "cmdline").read_bytes().split(b"\0"), (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if name.encode() in words and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process is rank {rank}")


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the process of a rank in /proc")


@needs_proc
def test_a_lost_rank_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    process = started(tmp_path, "run", *GOSSIP, "--steps", "100000", "--name", "lost-rank", "--nproc", "3", "--checkpoint-every", "0.2")
    until(lambda: bool(list(tmp_path.glob("runs/lost-rank/checkpoints/0*"))))
    os.kill(process_of(1, "lost-rank"), signal.SIGKILL)
    killed = time.monotonic()
    _, said = process.communicate(timeout=LIMIT)
    assert time.monotonic() - killed < 30
    assert process.returncode == 3
    assert "rank 1 (process" in said and "is gone" in said and ".gflow:" in said
    assert "was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "runs/lost-rank/summary.json").read_text())["status"] == "failed"


@needs_proc
def test_elastic_runs_go_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    words = ["run", *GOSSIP, "--steps", "150", "--quiet", "--deterministic", "--checkpoint-every", "0.2"]
    process = started(tmp_path, *words, "--name", "elastic-run", "--nproc", "2", "--elastic")
    until(lambda: bool(list(tmp_path.glob("runs/elastic-run/checkpoints/0*"))))
    os.kill(process_of(0, "elastic-run"), signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert "goes on after" in said
    assert forked(tmp_path, 1, *words, "--name", "whole").returncode == 0
    same(tmp_path / "runs/whole", tmp_path / "runs/elastic-run", tolerance=0)


def test_what_cannot_be_spread_is_refused_before_anything_starts(tmp_path: Path) -> None:
    alone = forked(tmp_path, 1, "run", "17_diffgrad", "--nproc", "2")
    assert alone.returncode == 2 and "has no nodes to place on 2 processes" in alone.stderr
    many = forked(tmp_path, 1, "run", *GOSSIP, "--nproc", "17")
    assert many.returncode == 2 and "16 nodes cannot be placed on 17 processes" in many.stderr
    elastic = forked(tmp_path, 1, "run", *GOSSIP, "--elastic")
    assert elastic.returncode == 2 and "--nproc N" in elastic.stderr
    sweep = forked(tmp_path, 1, "run", *GOSSIP, "--nproc", "2", "--seeds", "3")
    assert sweep.returncode == 2 and "leave --nproc out" in sweep.stderr
    assert not (tmp_path / "runs").exists()

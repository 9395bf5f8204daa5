"""Kills real runs with SIGKILL at random moments, goes on with each until it ends, and compares every tensor with the run never killed.

    python benchmarks/kill_test.py --times 100

One kill is one moment, drawn from the seed between the start of a process and its end; a run is killed until it has ended between two kills.
Checkpoints come every few hundredths of a second, so that many kills fall into the writing of one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPEC = """
pipeline killed {
  data  train, test = digits(batch: 64)
  model net = mlp(64, 32, 10, dropout: 0.1)
  flow net: cross_entropy(net(train.x), train.y) -> backprop -> adam(lr: 1e-3)
  train 300 steps (seed: 4) { every 50 steps { report accuracy = accuracy(net(test.x), test.y) } }
}
"""
COMMAND = (sys.executable, "-m", "gradflow.cli.main", "run")
HOW = ("--quiet", "--checkpoint-every", "0.03")


@dataclass(frozen=True)
class Outcome:
    """One run: how often it was killed, and what was wrong in the end ("" for nothing)."""

    kills: int
    wrong: str


def started(spec: Path, out: Path, name: str) -> subprocess.Popen[bytes]:
    """The run's first process, or the one that goes on with it; a run that was killed before it had a folder starts again."""
    folder = out / name
    if (folder / "parameters.json").exists():
        words = ["--resume", str(folder)]
    else:
        words = [str(spec), "--name", name, "--out", str(out)]
        if folder.exists():
            folder.rename(out / f"{name}-unborn-{time.monotonic_ns()}")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # on a busy machine threads that wait for each other take ten times as long
    return subprocess.Popen([*COMMAND, *words, *HOW], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=one_thread)


def killed_until_it_ends(spec: Path, out: Path, name: str, moments: Iterator[float]) -> tuple[int, str]:
    """(kills, what the last process said on stderr if it failed)."""
    kills = 0
    while True:
        process = started(spec, out, name)
        try:
            _, said = process.communicate(timeout=next(moments))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        return kills, "" if process.returncode == 0 else said.decode(errors="replace")


def moments(length: float, generator: random.Random) -> Iterator[float]:
    """Seconds until each kill. They grow a little, so that a run also ends on a machine that has become busier."""
    for number in itertools.count():
        yield generator.uniform(0.3, 1.0) * length * (1 + number / 8)


def attempts(count: int, folder: Path, seed: int = 0) -> Iterator[Outcome]:
    """Runs with at least `count` kills in all, each compared with one that was let be."""
    from tests.runtime.interrupting import assert_same_run

    spec = folder / "killed.gflow"
    spec.write_text(SPEC)
    began = time.monotonic()
    if started(spec, folder, "whole").wait() != 0:
        raise SystemExit("the run that is not killed fails too")
    length = time.monotonic() - began
    generator = random.Random(seed)
    done = number = 0
    while done < count:
        number += 1
        began = time.monotonic()
        kills, wrong = killed_until_it_ends(spec, folder, f"run{number}", moments(length, generator))
        if not kills:
            length = min(length, time.monotonic() - began)  # the machine was busier when it was measured
        if not wrong:
            try:
                assert_same_run(folder / "whole", folder / f"run{number}")
            except AssertionError as error:
                wrong = f"the run differs from the one never killed: {error}"
        done += kills
        yield Outcome(kills, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="kills in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills = bad = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        for outcome in attempts(options.times, Path(folder), options.seed):
            runs, kills, bad = runs + 1, kills + outcome.kills, bad + bool(outcome.wrong)
            if bad > 2:
                break
            print(f"run {runs}: {outcome.kills} kills, {outcome.wrong or 'the same bits'}", flush=True)
    print(f"{kills} kills in {runs} runs, {bad} of them wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())

"""`run --resume`, signals to a real process, and kills: the same bits, the exit codes, one sentence for what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_test import attempts
from tests.cli.conftest import Run
from tests.runtime.interrupting import assert_same_run

LONG = """pipeline long(lr: real > 0 = 1e-3, width: int >= 1 = 16) {
  data  train, test = digits(batch: 64)
  model net = mlp(64, width, 10)
  flow net: cross_entropy(net(train.x), train.y) -> backprop -> adam(lr)
  train 200000 steps (seed: 4) { every 100 steps { report accuracy = accuracy(net(test.x), test.y) } }
}
"""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "long.gflow"
    path.write_text(LONG)
    return path


def interrupted(run: Run, monkeypatch: pytest.MonkeyPatch, spec: Path, *words: str) -> tuple[int, str]:
    """A run that gets SIGINT after a few events: (exit code, stderr)."""
    from gradflow.views import run as view

    follow = view.follow

    def stopped(events, *rest):  # type: ignore[no-untyped-def]
        def interrupting():  # type: ignore[no-untyped-def]
            for number, event in enumerate(events):
                if number == 3:
                    signal.raise_signal(signal.SIGINT)
                yield event

        return follow(interrupting(), *rest)

    with monkeypatch.context() as patch:
        patch.setattr(view, "follow", stopped)
        code, _, err = run("run", spec, "--name", "cut", "--quiet", *words)
    return code, err


def test_a_run_is_interrupted_and_goes_on(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("run", good, "--name", "whole", "--quiet", "-p", "lr=0.2")[0] == 0
    code, err = interrupted(run, monkeypatch, good, "-p", "lr=0.2")
    assert code == 130 and "to go on: gradflow run --resume runs/cut" in err
    assert "interrupted" in run("runs")[1] and json.loads(run("runs", "--format", "json")[1])[-1]["state"] == "interrupted"
    code, out, err = run("run", "--resume", "cut")
    assert code == 0 and "goes on after 1 units" in err and "goes on after 1 of 5 units" in out
    assert_same_run(Path("runs/whole"), Path("runs/cut"))
    code, _, err = run("run", "--resume", "runs/cut")
    assert code == 0 and "finished: there is nothing to go on with" in err


def test_what_does_not_fit_is_refused(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(run, monkeypatch, good)
    before = {path: path.read_bytes() for path in Path("runs/cut").rglob("*") if path.is_file()}
    for words, said in (
        ((good, "-p", "lr=0.3"), "`lr` is 0.3 and was 0.1"),
        (("--steps", "9"), "`steps` is 9 and was left to the spec"),
        (("--device", "cuda"), "`device` is cuda and was cpu"),
        (("--precision", "float64"), "`precision` is float64 and was left to the spec"),
    ):
        code, _, err = run("run", *words, "--resume", "runs/cut")
        assert code == 3 and said in err and err.startswith("run failed: ") and len(err.splitlines()) == 1
    other = good.with_name("other.gflow")
    other.write_text(good.read_text().replace("x^2", "x^4"))
    code, _, err = run("run", other, "--resume", "runs/cut")
    assert code == 3 and "the spec is not what the run at runs/cut began with, runs/cut/spec.gflow" in err
    assert {path: path.read_bytes() for path in Path("runs/cut").rglob("*") if path.is_file()} == before
    assert run("run", good, "--resume", "runs/cut", "--quiet")[0] == 0, "the spec itself is no change"


def test_wrong_usage(run: Run, good: Path) -> None:
    for words, said in (
        ((), "say what to run"),
        (("--resume", "x", "-p", "lr=1"), "leave -p out"),
        (("--resume", "x", "--seeds", "2"), "leave --seeds out"),
        ((good, "--seeds", "0"), "--seeds"),
        ((good, "--checkpoint-every", "-1"), "--checkpoint-every"),
        ((good, "--name", "a/b"), "no name of a folder"),
        ((good, "--log", "slate"), "there is no logger `slate`"),
    ):
        code, _, err = run("run", *words)
        assert code == 2 and said in err, words
    code, _, err = run("run", "--resume", "nowhere")
    assert code == 3 and "there is no run at `nowhere`" in err


def test_a_run_is_logged_and_so_is_the_rest_of_it(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    interrupted(run, monkeypatch, good, "--log", "tensorboard")
    assert run("run", "--resume", "cut", "--quiet")[0] == 0
    assert len(list(Path("runs/cut/tensorboard").iterdir())) == 2
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = run("run", good, "--log", "wandb", "--name", "never")
    assert code == 3 and err == "run failed: --log wandb needs the package wandb, which is not installed: pip install wandb\n"
    assert not Path("runs/never").exists()


def test_a_damaged_plan_is_said(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(run, monkeypatch, good)
    Path("runs/cut/plan.gfp").write_bytes(b"GFLOWPLAN\n")
    code, _, err = run("run", "--resume", "runs/cut")
    assert code == 3 and "ends inside its header" in err and "name the spec too" in err
    Path("runs/cut/plan.gfp").unlink()
    assert run("run", "--resume", "runs/cut", "--quiet")[0] == 0, "compiled again from the file that it came from"


# ---- real processes


def process(spec: Path, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gradflow.cli.main", "run", str(spec), "--name", "cut", "--out", str(tmp_path), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def until_it_trains(path: Path) -> None:
    for _ in range(3000):
        if path.exists() and "unit_done" in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError("it did not begin to train")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_process_with_a_checkpoint(long: Path, tmp_path: Path, number: int, code: int) -> None:
    one = process(long, tmp_path, "--json")
    until_it_trains(tmp_path / "cut" / "metrics.jsonl")
    os.kill(one.pid, number)
    out, err = one.communicate(timeout=60)
    assert one.returncode == code and "Traceback" not in err and "--resume" in err
    records = [json.loads(line) for line in out.splitlines()]
    assert records[0]["event"] == "version" and records[-1]["event"] == "run_stopped" and records[-2]["event"] == "checkpoint_written"
    assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 1


def test_a_process_that_was_killed_has_died(long: Path, tmp_path: Path, run: Run) -> None:
    one = process(long, tmp_path, "--quiet")
    until_it_trains(tmp_path / "cut" / "metrics.jsonl")
    assert json.loads(run("show", tmp_path / "cut", "--format", "json")[1])["state"] == "running"
    code, _, err = run("run", "--resume", tmp_path / "cut")
    assert code == 3 and "another process is running" in err
    one.kill()
    one.communicate()
    code, out, _ = run("show", tmp_path / "cut")
    assert code == 0 and "died after " in out and "to go on: gradflow run --resume" in out


def test_runs_killed_at_random_moments_end_with_the_same_bits(tmp_path: Path) -> None:
    outcomes = list(attempts(3, tmp_path, seed=int(os.environ.get("GRADFLOW_KILL_SEED", "7"))))
    assert [outcome.wrong for outcome in outcomes] == [""] * len(outcomes) and sum(outcome.kills for outcome in outcomes) >= 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("mode", ["--json", "--show=x"])
def test_a_full_disk_behind_stdout_is_said(good: Path, tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-m", "gradflow.cli.main", "run", str(good), "--name", "cut", "--out", str(tmp_path), mode]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3 and "run failed: `standard output` cannot be written: no space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr

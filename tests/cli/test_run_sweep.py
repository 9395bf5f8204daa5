"""`run` with several values and seeds: a run of its own for each, one table, failed cells said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

NOISY = """pipeline noisy(lr: real > 0 = 0.1, power: int = 2) {
  model x = free(3.0)
  loss = log(x - 0.9) * 0 + x^power
  flow x: loss -> backprop -> sgd(lr: lr)
  train 5 steps (seed: 3) { every step { report x = x } }
}
"""


def test_a_grid_is_run_and_told_in_one_table(run: Run, good: Path) -> None:
    code, out, err = run("run", good, "-p", "lr=0.1,0.2", "--seeds", "2", "--jobs", "2", "--name", "grid", "--out", "runs")
    assert code == 0 and "sweep folder: runs/grid, 4 runs" in err and "[4/4]" in err
    lines = [line for line in out.splitlines() if line.startswith("0.")]
    assert len(lines) == 2 and "1.771 ± 0" in lines[0] and f"{3 * 0.8**5:.4g} ± 0" in lines[1]
    folders = sorted(path for path in Path("runs/grid").iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["000-lr=0.1-seed_0", "001-lr=0.1-seed_1", "002-lr=0.2-seed_0", "003-lr=0.2-seed_1"]
    seeds = [json.loads((path / "parameters.json").read_text())["seeds"]["run"] for path in folders]
    assert seeds == [0, 1, 0, 1] and len(json.loads(Path("runs/grid/sweep.json").read_text())["cells"]) == 4
    listed = run("runs")[1]
    assert listed.count("finished") == 4 and "grid/003-lr=0.2-seed_1" in listed
    assert "finished after 5 of 5" in run("show", "grid/003-lr=0.2-seed_1")[1]
    code, _, err = run("run", "--resume", "runs/grid")
    assert code == 3 and "is a sweep: its runs go on one by one" in err


def test_cells_that_fail_are_said_and_the_others_count(run: Run, tmp_path: Path) -> None:
    spec = tmp_path / "noisy.gflow"
    spec.write_text(NOISY)
    code, out, err = run("run", spec, "-p", "lr=0.01,0.5", "--json", "--name", "sweep")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 3 and records[0]["event"] == "version"
    assert [(record["point"], record["finished"]) for record in records[1:]] == [({"lr": "0.01"}, 1), ({"lr": "0.5"}, 0)]
    assert records[1]["metrics"]["x"] == {"mean": pytest.approx(3 * 0.98**5), "deviation": None}
    assert "lr=0.5: failed: run failed: the" in err and "runs/sweep/001-lr=0.5" in err


def test_mistakes_are_found_before_anything_runs(run: Run, good: Path) -> None:
    code, _, err = run("run", good, "-p", "lr=0.1,-1")
    assert code == 1 and "error[E" in err and not Path("runs").exists()
    assert run("run", good, "-p", "lr=0.1,0.2", "--backend", "abacus")[0] == 2


def test_a_signal_stops_every_cell(run: Run, tmp_path: Path) -> None:
    import os
    import signal
    import threading
    import time

    spec = tmp_path / "long.gflow"
    steady = NOISY.replace("log(x - 0.9) * 0 + ", "")
    spec.write_text(steady.replace("train 5 steps", "train 2000000 steps").replace("every step", "every 100000 steps"))

    def interrupt() -> None:
        for _ in range(3000):
            time.sleep(0.02)
            if any("unit_done" in path.read_text() for path in tmp_path.glob("runs/sweep/*/metrics.jsonl")):
                break
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, _, err = run("run", spec, "-p", "lr=0.01,0.02,0.03", "--jobs", "1", "--name", "sweep")
    thread.join()
    assert code == 143 and "interrupted" in err and "not run" in err
    (cell,) = [path for path in (tmp_path / "runs" / "sweep").iterdir() if path.is_dir()]
    assert len(list((cell / "checkpoints").iterdir())) == 1


def test_no_more_runs_at_a_time_than_memory_holds(good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gradflow import compiler
    from gradflow.cli import sweep
    from gradflow.runtime import memory

    program, _ = compiler.build(*compiler.load(str(good)))
    assert program is not None
    for gigabytes, jobs in ((1.3, 3), (0.9, 2), (0.1, 1), (None, 5)):
        monkeypatch.setattr(memory, "free", lambda gigabytes=gigabytes: None if gigabytes is None else int(gigabytes * 1e9))
        assert sweep.fitting(program, 5) == jobs
    assert "note: 1 at a time, not 5: a run takes about 0.4 GB, and 0.1 GB are free" in capsys.readouterr().err

"""`compile` and `run`: artifacts, emitted source, graphs, runs and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run


def last_values(out: str) -> dict[str, float]:
    records = [json.loads(line) for line in out.splitlines()]
    return [r["values"] for r in records if r["event"] == "report"][-1]


def test_an_artifact_runs_like_its_spec(run: Run, good: Path, tmp_path: Path) -> None:
    code, out, err = run("compile", good, "-o", tmp_path / "good.gfp", "-p", "lr=0.2")
    assert code == 0 and out == "" and "good.gfp" in err
    assert run("plan", tmp_path / "good.gfp")[0] == 0
    code, from_artifact, _ = run("run", tmp_path / "good.gfp", "--json", "--out", tmp_path / "runs")
    assert code == 0
    code, from_spec, _ = run("run", good, "-p", "lr=0.2", "--json", "--out", tmp_path / "runs")
    assert last_values(from_artifact) == last_values(from_spec) and last_values(from_spec)["x"] == pytest.approx(3 * 0.8**5, rel=1e-5)
    assert run("run", tmp_path / "good.gfp", "-p", "lr=1")[0] == 2


def test_without_passes_the_numbers_stay(run: Run, good: Path, tmp_path: Path) -> None:
    values = [last_values(run("run", good, "--json", "--passes", which, "--out", tmp_path / "runs")[1]) for which in ("all", "none")]
    assert values[0] == values[1]


def test_a_damaged_artifact_is_refused(run: Run, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "good.gfp"
    run("compile", good, "-o", path)
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    code, out, err = run("run", path)
    assert code == 3 and out == "" and "does not match its hash" in err and str(path) in err


def test_compile_wants_one_thing(run: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    assert run("compile", good)[0] == 2
    assert run("compile", good, "--emit", "python", "-o", "x.gfp")[0] == 2
    code, out, err = run("compile", bad, "-o", tmp_path / "bad.gfp")
    assert code == 1 and "E0201" in err and not (tmp_path / "bad.gfp").exists()
    assert run("compile", good, "-o", tmp_path / "none" / "x.gfp")[0] == 3


def test_stages_print(run: Run, good: Path) -> None:
    assert "Definition kind='update' name='half'" in run("compile", good, "--stop-after", "parse")[1]
    before, after = (run("compile", good, "--stop-after", stage)[1] for stage in ("resolve", "simplify"))
    assert "param/x <- %" in before and "param/x <- %" in after
    unchanged = run("compile", good, "--stop-after", "simplify", "--passes", "none")[1]
    assert unchanged == before
    assert "def run(inputs):" in run("compile", good, "--emit", "python")[1]
    assert run("compile", good, "--stop-after", "lower")[1] == run("compile", good, "--emit", "python")[1]
    code, out, _ = run("compile", "17_diffgrad:digits", "--trace")
    assert code == 0 and "->" not in out.partition("\n")[0] and "%" in out


def test_a_run_leaves_its_folder(run: Run, good: Path, tmp_path: Path) -> None:
    code, out, err = run("run", good, "--out", tmp_path / "runs", "--steps", "2", "--quiet")
    assert (code, out) == (0, "") and "run folder" in err
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "spec.gflow").read_text() == good.read_text()
    assert {"plan.gfp", "metrics.jsonl", "summary.json"} <= {p.name for p in folder.iterdir()}
    assert run("plan", folder / "plan.gfp")[0] == 0


def test_runs_that_cannot_start(run: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    assert run("run", bad)[0] == 1
    code, _, err = run("run", "nope.gflow")
    assert code == 1 and "^^^^^^^^^^" in err
    assert run("run", good, "--backend", "abacus")[0] == 2
    assert run("run", good, "--steps", "-1")[0] == 2
    assert run("run", good, "--json", "--quiet")[0] == 2
    code, _, err = run("run", good, "--device", "nowhere", "--out", tmp_path / "runs")
    assert code == 3 and "run failed" in err and not (tmp_path / "runs").exists()


def test_a_run_that_fails_names_the_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "burst.gflow"
    path.write_text("pipeline burst {\n  model x = free(1.0)\n  loss = log(x - 1)\n  flow x: loss -> backprop -> sgd(lr: 1)\n  train 3 steps\n}\n")
    code, _, err = run("run", path, "--out", tmp_path / "runs", "--quiet")
    assert code == 3 and "run failed" in err and f"{path}:" in err and "Traceback" not in err


def test_an_interrupted_run(run: Run, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradflow.views import run as view

    follow = view.follow

    def stopped(events: Iterator[Any], *rest: Any) -> Any:
        def interrupting() -> Iterator[Any]:
            import signal

            for number, event in enumerate(events):
                if number == 2:
                    signal.raise_signal(signal.SIGINT)
                yield event

        return follow(interrupting(), *rest)

    monkeypatch.setattr(view, "follow", stopped)
    assert run("run", good, "--out", tmp_path / "runs", "--quiet")[0] == 130

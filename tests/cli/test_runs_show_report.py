"""`runs`, `show` and `report`: what a folder tells, whatever state it is in, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

from gradflow.runtime import records
from gradflow.views.page import chart, page, pieces, thinned, ticks
from tests.cli.conftest import Run

HEAD = {"event": "run_started", "name": "p", "units": 100, "backend": "torch", "device": "cpu", "precision": "float32"}


def written(path: Path, *lines: object, summary: object = None, tail: str = "") -> Path:
    """A run folder by hand."""
    path.mkdir(parents=True)
    (path / "parameters.json").write_text(json.dumps({"pipeline": "p", "started": f"2026-01-0{len(list(path.parent.iterdir()))}T10:00:00"}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ({"event": "version", "schema": 1}, *lines)) + tail)
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def unit(tick: int, loss: object = 1.0) -> dict[str, object]:
    return {"event": "unit_done", "tick": tick, "loss": loss, "metrics": {"norm": [1.0, 3.0]}, "seconds": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "runs"
    written(out / "done", HEAD, unit(0), unit(99, 0.5), {"event": "run_finished", "units": 100, "seconds": 9.0}, summary={"status": "finished"})
    written(out / "cut", HEAD, unit(0), unit(1), {"event": "run_stopped", "tick": 2}, summary={"status": "stopped", "units": 2})
    written(
        out / "broke",
        HEAD,
        unit(0, "nan"),
        {"event": "run_failed", "message": "the loss is <nan>"},
        summary={"status": "failed", "message": "the loss is <nan>"},
    )
    written(out / "dead", HEAD, unit(0), unit(1), unit(2), tail='{"event": "unit_')
    written(out / "empty")
    (out / "no run").mkdir()
    return out


def test_runs_are_listed_with_their_states(run: Run, folder: Path) -> None:
    code, out, _ = run("runs", folder)
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert code == 0 and list(rows) == ["done", "cut", "broke", "dead", "empty"]
    for name, state, units in (
        ("done", "finished", "100/100"),
        ("cut", "interrupted", "2/100"),
        ("broke", "failed", "1/100"),
        ("dead", "died", "3/100"),
    ):
        assert state in rows[name] and units in rows[name]
    assert "empty" in rows["empty"] and "loss 0.5" in rows["done"] and "norm 2 values, mean 2" in rows["done"]
    states = {one["name"]: one["state"] for one in json.loads(run("runs", folder, "--format", "json")[1])}
    assert states == {"done": "finished", "cut": "interrupted", "broke": "failed", "dead": "died", "empty": "empty"}


def test_runs_that_are_not_there(run: Run, folder: Path) -> None:
    assert run("runs", folder / "nowhere")[0] == 2
    assert run("runs", folder / "no run")[1].startswith("no runs in")
    code, _, err = run("show", "dune", "--out", folder)
    assert code == 2 and "did you mean `done`?" in err


@pytest.mark.parametrize(
    "name, said",
    [
        ("done", "finished after 100 of 100 units"),
        ("cut", "--resume"),
        ("broke", "the loss is <nan>"),
        ("dead", "died after 3 of 100"),
        ("empty", "nothing yet"),
    ],
)
def test_show_and_report_take_every_state(run: Run, folder: Path, name: str, said: str) -> None:
    code, out, err = run("show", name, "--out", folder)
    assert code == 0 and said in out and "Traceback" not in err
    code, out, err = run("report", folder / name)
    assert code == 0 and "report.html" in err
    text = (folder / name / "report.html").read_text()
    assert said.replace("<", "&lt;").replace(">", "&gt;") in text and "<nan>" not in text


def test_show_draws_what_was_learnt(run: Run, good: Path) -> None:
    run("run", good, "--quiet", "--name", "valley")
    code, out, _ = run("show", "valley")
    assert code == 0 and re.search(r"x +3 +-> +1\.771", out) and "lr: 0.1" in out and "seeds" in out
    curve = next(line for line in out.splitlines() if line.startswith("loss"))
    assert curve.rstrip().endswith("▁") and "█" in curve, "it falls"


def test_the_page_needs_nothing_else(run: Run, good: Path) -> None:
    run("run", good, "--quiet", "--name", "valley")
    code, text, _ = run("report", "valley", "-o", "-")
    assert code == 0 and not re.search(r"<script|<link|src=|href=|@import|url\(|http", text)
    assert good.read_text().splitlines()[1].strip().replace('"', "&quot;") in text, "the spec is in it"
    drawings = re.findall(r"<svg.*?</svg>", text)
    assert len(drawings) == 2
    for drawing in drawings:
        (line,) = (one for one in tree.fromstring(drawing) if one.tag == "polyline")
        heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
        assert heights == sorted(heights) and heights[0] < heights[-1], "what falls goes down the page"


def test_a_report_that_cannot_be_written(run: Run, folder: Path) -> None:
    code, _, err = run("report", folder / "done", "-o", folder / "nowhere" / "x.html")
    assert code == 3 and err.startswith("error: `") and "cannot be written: no such file" in err


def test_plots_of_hard_numbers() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0]) and ticks(3, 3) == [3] and ticks(0, float("inf")) == [0]
    assert chart([]) == chart([(0, float("nan"))]) == "<p>no finite value</p>"
    for values in ([5.0], [1e308, -1e308], [0.0, 0.0], [1e-320, 2e-320], [1.0, float("inf"), 2.0], [1e300, 1e300 * (1 + 1e-15)]):
        drawing = chart(list(enumerate(values)))
        tree.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing
    assert pieces([(0, 1.0), (1, float("nan")), (2, 3.0), (3, 4.0)]) == [[(0, 1.0)], [(2, 3.0), (3, 4.0)]]
    many = [(float(i), 100.0 if i == 7777 else float(i % 2)) for i in range(20000)]
    assert len(thinned(many)) <= 1200 and (7777.0, 100.0) in thinned(many), "no peak goes"


def test_a_glance_knows_the_end_of_a_long_run(tmp_path: Path) -> None:
    path = written(tmp_path / "runs" / "long", HEAD, *(unit(tick) for tick in range(5000)))
    assert records.glance(path).units == records.read(path).units == 5000 and records.glance(path).total == 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\n",
        b"[1]\n\n{}\n" * 3,
        b'{"event": "unit_done"}\n{"event": "report", "values": 3}\n',
        b"[" * 100000,
        b'{"event": "report", "tick": 1, "values": {"a": ["x", {}], "b": {}, "c": null}}\n',
    ],
)
def test_folders_with_nonsense_are_read(run: Run, tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "runs" / "odd", HEAD)
    for name in ("metrics.jsonl", "summary.json", "parameters.json", "versions.json"):
        (path / name).write_bytes(content)
    assert page(records.read(path)).startswith("<!doctype html>")
    assert run("show", path)[0] == run("runs", path.parent)[0] == 0


def test_no_torch_is_imported(good: Path, run: Run, folder: Path) -> None:
    program = (
        "import sys; from gradflow.cli.main import main\n"
        f"for words in (['runs', {str(folder)!r}], ['show', {str(folder / 'done')!r}], ['report', {str(folder / 'done')!r}]):\n"
        "    assert main(words) == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

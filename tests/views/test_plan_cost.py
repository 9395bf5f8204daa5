"""The cost in the plan: what it looks like at two widths, other formats, properties on arrows, and predicted beside measured.

The snapshots are written anew by `python -m tests.views.test_plan_cost`: read the diff before keeping it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gradflow.cli.main import main
from gradflow.cost.figures import ActionCost, Cost, Message, PhaseCost, Step, Work, as_record
from gradflow.cost.machines import Machine, times_of
from gradflow.cost.measured import NoRun, compared, measurements
from gradflow.views.plan import render, summary
from gradflow.views.plan_cost import number, seconds, short, size
from tests.plan.programs import looped, of, shipped

FOLDER = Path(__file__).parent / "snapshots"
SPEC = """pipeline told(rounds: int = 100) {
  doc "Compressed rounds on digits."
  data train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y) + 0.5 * mean(net^2)
  flow net over ring(8): loss -> backprop -> clip_norm(1.0) -> topk(10%) -> gossip() -> adam(lr: 1e-3)
  train rounds rounds (seed: 0) { every 20 rounds { report accuracy = accuracy(mean(net, over: node)(test.x), test.y); checkpoint } }
}
"""
MACHINE = Machine("bench", "a bench of the tests", 1e9, 1e8, 1e9, 1e6, 1e-6)
FLOW = ActionCost(
    "flow net (flow1)", "flow", 1.0, Work((Step(3.6e6, 0, 4e5), Step(0, 2e5, 8e6))), 1_700_000, 57_000, (Message("mix", "link", 16, 2600, 41_600),)
)
COST = Cost(
    650, 20_800, 41_600, 474_000, 57_000, 1_700_000, {"data": 1_000_000, "activations": 690_000, "inputs": 10_000}, "flow net (flow1)",
    (PhaseCost(100, "rounds", 1, (FLOW, ActionCost("report every 20 rounds", "report", 1.0, Work((Step(1e6, 0, 0),))))),),
    (("flow1", True, "update_1", "14 operations on [node, param] in one pass: reads a; writes b"),
     ("flow1", False, "add, sub", "reads `rank` (/some/where/told.gflow:2:65), which needs whole values")),
    ("the length of `x` is not known before",),
)  # fmt: skip


def record() -> dict[str, Any]:
    return as_record(COST, times_of(COST, MACHINE))


def shown(width: int) -> str:
    against = [
        {"what": "peak memory", "unit": "bytes", "predicted": 1.7e6, "measured": 1.6e6},
        {"what": "time of round", "unit": "seconds", "predicted": 1e-3, "measured": 0},
    ]
    return render(of(SPEC), width, cost=record(), against=against) + "\n"


@pytest.mark.parametrize("width", [80, 200])
def test_snapshot(width: int) -> None:
    assert shown(width) == (FOLDER / f"plan_{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_its_width(width: int) -> None:
    assert max(map(len, shown(width).splitlines())) <= width


def test_a_memory_that_is_too_small_is_said() -> None:
    assert "its memory of 1 MB is too small" in " ".join(shown(200).split())


def test_data() -> None:
    found = json.loads(json.dumps(summary(of(SPEC), record())))
    assert found["cost"]["peak"] == 1_700_000 and found["cost"]["time"]["machine"] == "bench"
    assert "cost" not in summary(of(SPEC))


def test_a_cost_that_is_not_complete() -> None:
    kept = Cost(650, 2600, 41_600, 0, 0, 44_200, {"states": 41_600}, "what is kept", notes=("only what is kept",), complete=False)
    text = render(of(SPEC), 100, cost=as_record(kept))
    assert "at least 44.2 kB" in text and "only what is kept" in text and "peak" not in text


# ---- properties on arrows


def leaving(program: Any) -> dict[str, str]:
    (flow,) = (flow for phase in summary(program)["phases"] for flow in phase["flows"])
    return {stage["stage"]: stage["leaves"] for stage in flow["stages"]}


def test_what_is_known_of_a_gradient() -> None:
    found = leaving(of(SPEC))
    assert found["loss"] == "" and found["backprop"] == "exact, dense, local"
    assert found["clip_norm"] == "dense, local"  # it bends, and says nothing of it
    assert found["topk"] == "contractive(delta: 0.1), sparse(k: 65), local"
    assert found["adam"] == ""


def test_a_batch_makes_it_unbiased_and_samples_say_nothing() -> None:
    assert leaving(shipped()["17_diffgrad:digits"])["backprop"] == "unbiased, dense"
    assert leaving(shipped()["18_sapo:arithmetic"])["backprop"] == "dense"


def test_a_compressor_inside_an_exchange_is_not_what_leaves_it() -> None:
    assert leaving(shipped()["14_econtrol:compressed_digits"])["econtrol"] == "dense"


# ---- other formats


def test_html_and_svg() -> None:
    page, picture = (render(of(SPEC), 100, cost=record(), form=form) for form in ("html", "svg"))
    assert page.startswith("<!DOCTYPE html>") and "econtrol" not in page and "sparse(k: 65)" in page
    assert picture.startswith("<svg") and "told" in picture


def test_mermaid_is_a_flowchart_of_the_flows() -> None:
    lines = [line.strip() for line in render(of(SPEC), form="mermaid").splitlines()]
    assert lines[0] == "flowchart LR" and lines.count("end") == sum(line.startswith("subgraph") for line in lines) == 1
    assert 'model_net[("net: 650 parameters")]' in lines and "p0f0s5 --> model_net" in lines
    assert 'p0f0s1 -->|"[node: 8, param: 650]<br>exact, dense, local"| p0f0s2' in lines
    assert re.fullmatch(r'p0f0s0\["loss \(objective\)"\]', lines[3])
    assert render(looped(), form="mermaid").count("subgraph") == 2


# ---- measured


def run_folder(path: Path, **more: Any) -> Path:
    events = [{"event": "unit_done", "phase": 0, "seconds": time} for time in (9.0, 0.002, 0.004, 0.003)]
    lines = [json.dumps({"event": "version", "schema": 1}), *map(json.dumps, events), "{broken", "[1]"]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    (path / "summary.json").write_text(json.dumps({"status": "finished", **more}))
    return path


def test_predicted_beside_measured(tmp_path: Path) -> None:
    found = measurements(run_folder(tmp_path, peak_bytes=1_600_000))
    assert found["unit_seconds"] == {0: 0.003} and found["units"] == {0: 4}
    rows = {row["what"]: row for row in compared(found, record())}
    unit = record()["time"]["phases"][0]["unit"]
    assert rows["peak memory"]["predicted"] == 1_700_000 and rows["peak memory"]["measured"] == 1_600_000
    assert rows["time of round"]["predicted"] == unit and rows["time of all units"]["predicted"] == pytest.approx(4 * unit)


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    assert [row["what"] for row in compared(measurements(run_folder(tmp_path)), record())] == ["time of round", "time of all units"]
    (tmp_path / "summary.json").write_text("no json")
    assert "peak_bytes" not in measurements(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="no metrics.jsonl"):
        measurements(tmp_path)


# ---- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "p.gflow"
    spec.write_text(SPEC)
    assert main(["plan", str(spec), "--machine", "laptop", "--against", str(run_folder(tmp_path))]) == 0
    text = capsys.readouterr().out
    assert "on laptop" in text and "predicted and measured" in text and "16 messages" in text
    assert main(["plan", str(spec), "--no-cost", "--format", "json"]) == 0
    assert "cost" not in json.loads(capsys.readouterr().out)
    assert main(["plan", str(spec), "--format", "mermaid"]) == 0 and capsys.readouterr().out.startswith("flowchart")
    for words, message in ((["--machine", "abacus"], "no machine `abacus`"), (["--against", str(tmp_path / "x")], "no run folder")):
        assert main(["plan", str(spec), *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["plan", str(spec), "--no-cost", "--against", str(tmp_path)]) == 2


# ---- figures as text


def test_figures() -> None:
    assert [size(n) for n in (12, 1500, 2e6, 3.21e9, 5e12)] == ["12 B", "1.5 kB", "2 MB", "3.21 GB", "5 TB"]
    assert [number(n) for n in (12, 1500, 2e15)] == ["12 ", "1.5 k", "2 P"]
    assert [seconds(t) for t in (2e-6, 0.004, 3, 90, 7200)] == ["2 us", "4 ms", "3 s", "1.5 min", "2 h"]
    assert short("reads `x` (/a/b/c.gflow:2:65), which") == "reads `x` (c.gflow:2:65), which"


if __name__ == "__main__":
    for columns in (80, 200):
        (FOLDER / f"plan_{columns}.txt").write_text(shown(columns), encoding="utf-8")

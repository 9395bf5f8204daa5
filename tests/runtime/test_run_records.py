"""A run as its folder tells it: a report and a metric of one name are one series, the report's."""

from __future__ import annotations

import json
from pathlib import Path

from gradflow.runtime.records import read

LINES = [
    {"event": "run_started", "units": 2},
    {"event": "unit_done", "tick": 0, "loss": 1.0, "metrics": {"reward": 0.5, "length": 3.0}, "seconds": 0.1, "rate": 1200.4, "rate_unit": "tokens"},
    {"event": "report", "tick": 0, "t": 1, "values": {"reward": 0.7}},
    {"event": "unit_done", "tick": 1, "loss": 0.5, "metrics": {"reward": 0.6, "length": 2.0}, "seconds": 0.1, "rate": 2400.4, "rate_unit": "tokens"},
    {"event": "report", "tick": 1, "t": 2, "values": {"reward": 0.8}},
]


def test_a_report_takes_the_place_of_a_metric_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    found = read(tmp_path)
    assert found.series == {"loss": [(1, 1.0), (2, 0.5)], "length": [(1, 3.0), (2, 2.0)], "reward": [(1, 0.7), (2, 0.8)]}
    assert found.last["reward"] == 0.8 and found.reports == {"reward"} and found.rate == "2,400 tokens/s"

"""A run folder read back, without running anything and without torch: what ran, how it ended, and every number that it told.

A folder is readable at any moment, also where a process was killed in the middle of a line: what is not there yet is left out, a line that is not
whole is skipped. `read` goes through all of metrics.jsonl, `glance` through its head and its tail.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradflow.runtime.events import METRICS
from gradflow.runtime.files import is_locked

TAIL = 1 << 16
STATES = {"finished": "finished", "stopped": "interrupted", "abandoned": "interrupted", "failed": "failed"}
ENDS = {"run_finished": "finished", "run_stopped": "stopped", "run_failed": "failed"}
LARGEST = 1 << 26


@dataclass
class RunRecord:
    """`state`: finished, interrupted, failed, running, died (its process is gone and said nothing), or empty (it never began).

    `units` of `total` are done; `series`: of each metric and report its (tick, value) pairs, `reports` names those of reports;
    `timed`: of each report its (seconds of a described network, value) pairs; `sent`: all that the run sent over a topology.
    """

    path: Path
    state: str = "empty"
    units: int = 0
    total: int = 0
    seconds: float = 0.0
    message: str = ""
    head: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    learnt: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    reports: set[str] = field(default_factory=set)
    checkpoints: list[int] = field(default_factory=list)
    timed: dict[str, list[tuple[float, Any]]] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)
    rate: str = ""  # how fast the last unit was

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def pipeline(self) -> str:
        return str(self.about.get("pipeline") or self.head.get("name") or "")

    @property
    def started(self) -> str:
        return str(self.about.get("started", ""))


def is_run(path: Path) -> bool:
    """Whether a folder is one of a run, as far as its files tell."""
    return (path / "parameters.json").is_file() or (path / METRICS).is_file()


def read(path: Path) -> RunRecord:
    """Everything. Raises OSError only where the folder cannot be looked into."""
    return _filled(path, lines_of(path / METRICS))


def glance(path: Path) -> RunRecord:
    """What the head and the tail of the metrics tell: no series worth showing, but state, units and last values."""
    return _filled(path, _ends(path / METRICS))


def _filled(path: Path, records: Iterable[Mapping[str, Any]]) -> RunRecord:
    os.listdir(path)
    found = RunRecord(path)
    found.about, found.versions = json_of(path / "parameters.json"), json_of(path / "versions.json")
    end = ""
    for record in records:
        kind = record.get("event")
        if kind == "run_started":
            found.head, found.total = record, _count(record.get("units"))
        elif kind in ("unit_done", "report", "run_resumed", *ENDS):
            end = ENDS.get(str(kind), "")
            _take(found, str(kind), record)
    _ended(found, json_of(path / "summary.json"), end)
    try:
        names = os.listdir(path / "checkpoints")
    except OSError:
        names = []
    found.checkpoints = sorted(int(name) for name in names if re.fullmatch(r"[0-9]{8,18}", name))
    return found


def _take(found: RunRecord, kind: str, record: Mapping[str, Any]) -> None:
    """The numbers of one event."""
    tick = _count(record.get("tick"))
    values: dict[str, Any] = {}
    if kind == "unit_done":
        tick += 1
        found.units, found.seconds = tick, found.seconds + _number(record.get("seconds"))
        values = {} if record.get("loss") is None else {"loss": record["loss"]}
        values = {name: value for name, value in (values | _table(record.get("metrics"))).items() if name not in found.reports}
        if isinstance(record.get("rate"), int | float):
            found.rate = f"{record['rate']:,.0f} {record.get('rate_unit', '')}/s"
    elif kind == "report":
        values = _table(record.get("values"))
        tick += record.get("t") != 0 and not record.get("final")
        for name in values.keys() - found.reports:
            found.series.pop(name, None)  # a metric of the same name gives way
        found.reports |= values.keys()
        if isinstance(record.get("network_seconds"), int | float):
            for name, value in values.items():
                found.timed.setdefault(name, []).append((float(record["network_seconds"]), value))
        for name, value in values.items():
            found.learnt[name] = (found.learnt.get(name, (value, value))[0], value)
    elif kind == "run_failed":
        found.message = str(record.get("message", ""))
    elif kind in ("run_stopped", "run_finished"):
        found.seconds = _number(record.get("seconds")) or found.seconds
        found.sent = _table(record.get("sent"))
    for name, value in values.items():
        found.series.setdefault(name, []).append((tick, value))
    found.last |= values


def _ended(found: RunRecord, summary: Mapping[str, Any], end: str) -> None:
    """How it stands: a living process first, then the summary, then the last line; a run without any of them died."""
    for name, pair in _table(summary.get("learnt")).items():
        if isinstance(pair, dict) and {"first", "last"} <= pair.keys():
            found.learnt[name] = (pair["first"], pair["last"])
            found.reports.add(name)
    status = str(summary.get("status", "")) or end
    if is_locked(found.path / METRICS):
        found.state = "running"
    elif status:
        found.state = STATES.get(status, "interrupted")
        found.message = str(summary.get("message", "")) or found.message
    elif found.head:
        found.state = "died"


# ---- files


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; what is none is skipped."""
    try:
        with path.open("rb") as file:
            for line in file:
                yield from _object(line)
    except OSError:
        return


def _ends(path: Path) -> Iterator[dict[str, Any]]:
    """The first three lines, and those that lie whole in the last bytes."""
    try:
        with path.open("rb") as file:
            for _ in range(3):
                yield from _object(file.readline(LARGEST))
            begun, size = file.tell(), os.fstat(file.fileno()).st_size
            if size - begun > TAIL:
                file.seek(size - TAIL)
                file.readline()
            for line in file:
                yield from _object(line)
    except OSError:
        return


def _object(line: bytes) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        yield found


def json_of(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is none that can be read."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0

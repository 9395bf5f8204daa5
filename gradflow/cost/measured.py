"""What a run measured, read from its folder: time a unit, time in all, peak memory where the run wrote it down. Beside it the prediction.

    metrics.jsonl   events `unit_done` with `phase`, `seconds`; the median of a phase counts, its first unit left out where there are more
    summary.json    `peak_bytes`, if the run measured its memory; `sent`, what it sent over a topology
    parameters.json `options`: the precision and the micro-batches that it ran with

What is missing or broken is left out: a folder may come from another version, or from a run that was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

PEAKS = ("peak_bytes", "peak_memory_bytes")


class NoRun(Exception):
    """A folder that is no run's; `str(error)` is the sentence that a user sees."""


def measurements(folder: Path) -> dict[str, Any]:
    """`unit_seconds` and `units` by number of phase, `seconds` of all units, `options`, and what is there of `peak_bytes` and `bytes_sent`.
    Raises NoRun."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise NoRun(f"`{folder}` is no run folder: it holds no metrics.jsonl")
    by_phase: dict[int, list[float]] = {}
    found: dict[str, Any] = {}
    for record in _records(metrics):
        if record.get("event") == "unit_done" and _is_number(record.get("seconds")):
            by_phase.setdefault(int(record.get("phase") or 0), []).append(float(record["seconds"]))
        found |= _peak(record)
    summary = _document(folder / "summary.json")
    found |= _peak(summary)
    sent = summary.get("sent")
    if isinstance(sent, dict) and _is_number(sent.get("bytes")):
        found["bytes_sent"] = float(sent["bytes"])
    found["unit_seconds"] = {phase: median(times[1:] or times) for phase, times in by_phase.items()}
    found["units"] = {phase: len(times) for phase, times in by_phase.items()}
    found["seconds"] = sum(map(sum, by_phase.values()))
    options = _document(folder / "parameters.json").get("options")
    return found | {"options": options if isinstance(options, dict) else {}}


def compared(found: Mapping[str, Any], cost: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows {what, unit, predicted, measured}, of what both sides know. `cost`: the record of `figures.as_record`."""
    rows = []
    if "peak_bytes" in found:
        rows.append({"what": "peak memory", "unit": "bytes", "predicted": cost["peak"], "measured": found["peak_bytes"]})
    if "bytes_sent" in found:
        sent = sum(found["units"].get(number, 0) * phase["a_unit"]["bytes_sent"] for number, phase in enumerate(cost["phases"]))
        rows.append({"what": "bytes sent", "unit": "bytes", "predicted": sent, "measured": found["bytes_sent"]})
    if "time" in cost:
        for number, (phase, times) in enumerate(zip(cost["phases"], cost["time"]["phases"], strict=True)):
            if number in found["unit_seconds"]:
                what = f"time of {phase['unit'].removesuffix('s')}" + (f", phase {number + 1}" if len(cost["phases"]) > 1 else "")
                rows.append({"what": what, "unit": "seconds", "predicted": times["unit"], "measured": found["unit_seconds"][number]})
        if found["seconds"]:
            whole = sum(found["units"].get(number, 0) * times["unit"] for number, times in enumerate(cost["time"]["phases"]))
            rows.append({"what": "time of all units", "unit": "seconds", "predicted": whole, "measured": found["seconds"]})
    return rows


def _peak(record: Mapping[str, Any]) -> dict[str, float]:
    named = [float(record[key]) for key in PEAKS if _is_number(record.get(key))]
    return {"peak_bytes": named[0]} if named else {}


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was cut off
        if isinstance(record, dict):
            yield record


def _document(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

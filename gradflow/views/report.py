"""A run read back from its folder, for people: in a terminal (`shown_run`), as rows of a list (`runs_table`), as data (`as_json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradflow.runtime.records import RunRecord
from gradflow.runtime.sweep import Row
from gradflow.views.plan_cost import sent_lines
from gradflow.views.run import History, learnt_table, shown

COLORS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "red", "died": "red", "empty": "dim"}


def state_of(record: RunRecord) -> str:
    """How a run stands, in a sentence's words."""
    done = f"{record.units} of {record.total} units" if record.total else ""
    words = {"empty": "nothing yet: it never began", "died": f"died after {done}", "running": f"running, {done} done"}
    return words.get(record.state, f"{record.state} after {done}" if done else record.state)


def advice(record: RunRecord) -> str:
    """What can be done with a run that did not finish."""
    if record.state in ("interrupted", "failed", "died"):
        place = f", from the checkpoint after {record.checkpoints[-1]} units" if record.checkpoints else ", from its beginning"
        return f"gradflow run --resume {record.path}{place}"
    return ""


def as_json(record: RunRecord) -> dict[str, Any]:
    """The record as plain data."""
    return {
        "name": record.name, "path": str(record.path), "pipeline": record.pipeline, "state": record.state, "started": record.started,
        "units": record.units, "total": record.total, "seconds": record.seconds, "message": record.message, "checkpoints": record.checkpoints,
        "parameters": record.about.get("parameters", {}), "options": record.about.get("options", {}), "versions": record.versions,
        "sent": record.sent, "learnt": {name: {"first": first, "last": last} for name, (first, last) in record.learnt.items()}, "last": record.last,
    }  # fmt: skip


def text_of(value: Any) -> str:
    """A parameter or option as it is read: words as they are, tables as `name: value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {text_of(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(text_of(one) for one in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def sent_told(sent: Mapping[str, Any]) -> list[str]:
    """What a run sent, as far as its record can be read."""
    try:
        return list(sent_lines(sent))
    except (KeyError, TypeError, ValueError):
        return []


def facts_of(record: RunRecord) -> list[tuple[str, str]]:
    """What there is to know of a run besides its numbers."""
    head, hardware = record.head, record.versions.get("hardware", {})
    found = [
        ("pipeline", record.pipeline),
        ("source", str(record.about.get("source", ""))),
        ("started", record.started[:19].replace("T", " ")),
        ("took", f"{record.seconds:.1f} s" if record.seconds else ""),
        ("speed", f"{record.rate}, drawn and learnt from, in the last unit" if record.rate.endswith("tokens/s") else record.rate),
        ("parameters", text_of(record.about.get("parameters", {}))),
        ("seeds", text_of(record.about.get("seeds", {}))),
        ("ran on", f"{head['backend']} on {head['device']}, {head['precision']}" if {"backend", "device", "precision"} <= head.keys() else ""),
        ("machine", text_of({name: hardware[name] for name in ("processor", "cores", "accelerators") if name in hardware})),
        ("network", "; ".join(sent_told(record.sent))),
        ("checkpoints", ", ".join(f"after {tick} units" for tick in record.checkpoints)),
        ("failed with", record.message),
    ]
    return [(name, text) for name, text in found if text]


# ---- in a terminal


def shown_run(record: RunRecord) -> RenderableType:
    title = Text.assemble((record.name, "bold"), "  ", (state_of(record), COLORS.get(record.state, "")))
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in facts_of(record):
        facts.add_row(name, Text(text))
    parts: list[RenderableType] = [title, facts]
    if record.learnt:
        parts += ["", learnt_table({name: (numeric(first), numeric(last)) for name, (first, last) in record.learnt.items()})]
    if record.series:
        parts += ["", curves(record)]
    if advice(record):
        parts += ["", Text(f"to go on: {advice(record)}", style="dim")]
    return Group(*parts)


def curves(record: RunRecord) -> RenderableType:
    """Every series with its last value, least and largest, and its course."""
    table = Table(title="the course", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, side in (("number", "left"), ("last", "right"), ("least", "right"), ("largest", "right"), ("", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name, points in record.series.items():
        history = History()
        for _, value in points:
            history.add(numeric(value))
        finite = [value for value in history.seen() if value == value and abs(value) != float("inf")]
        least, largest = (shown(min(finite)), shown(max(finite))) if finite else ("", "")
        table.add_row(name, shown(history.latest), least, largest, Text(history.curve(), style="green"))
    return table


def numeric(value: Any) -> Any:
    """A value of JSON with numbers where it has words for them ("nan", "inf"); what is no number at all is NaN."""
    if isinstance(value, list):
        return [numeric(one) for one in value]
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def runs_table(records: Sequence[RunRecord], folder: Path) -> RenderableType:
    """One run a row, the latest at the end, called by its place in the folder."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, side in (("run", "left"), ("started", "left"), ("state", "left"), ("units", "right"), ("last values", "left")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for one in records:
        units = f"{one.units}/{one.total}" if one.total else ""
        told = [name for name in one.last if name in one.reports] or list(one.last)[-4:]
        last = ", ".join(f"{name} {shown(numeric(one.last[name]))}" for name in told[:4])
        state = Text(one.state, style=COLORS.get(one.state, ""))
        table.add_row(Text(str(one.path.relative_to(folder)), style="bold"), one.started[:19].replace("T", " "), state, units, Text(last))
    return table


def sweep_table(rows: Sequence[Row]) -> RenderableType:
    """One point a row: its values, how many of its runs finished, and of each metric the mean, with seeds also the standard deviation."""
    table = Table(title="the sweep", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in dict.fromkeys(name for row in rows for name, _ in row.point):
        table.add_column(name, justify="right")
    seeded = any(row.runs > 1 for row in rows)
    table.add_column("runs", justify="right")
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    for name in metrics:
        table.add_column(f"{name} (mean ± sd)" if seeded else name, justify="right")
    for row in rows:
        done = f"{row.finished}" if row.finished == row.runs else f"{row.finished} of {row.runs}"
        table.add_row(*(value for _, value in row.point), Text(done, style="" if row.finished == row.runs else "red"), *map(row_text(row), metrics))
    return table


def row_text(row: Row) -> Any:
    def text(name: str) -> str:
        if name not in row.metrics:
            return "-"
        mean, deviation = row.metrics[name]
        return shown(mean) if deviation is None else f"{shown(mean)} ± {deviation:.2g}"

    return text

"""What a run tells: one frozen event after another, and the one error that ends it early.

Views, run folders and callers read events and nothing else. `as_record` turns an event into plain data for JSON; the first record of a
stream is `RunStarted`, whose `version` says which schema the rest follows. Numbers that JSON cannot hold become "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any

import gradflow
from gradflow.language.source import NOWHERE, Span

SCHEMA = 1
METRICS = "metrics.jsonl"  # the events of a run in its folder

Number = float | int | bool
Value = Number | list[Any]  # a report keeps its axes as nested lists


@dataclass(frozen=True)
class RunStarted:
    """The head of a stream: what is going to run, and how. `units`: of all phases together; `gradients`: of each flow, what is known of the
    gradient behind its stages, `backprop: unbiased, dense`."""

    version: int
    gradflow: str
    name: str
    source: str
    backend: str
    device: str
    precision: str
    seed: int
    units: int
    models: Mapping[str, Mapping[str, Any]]
    flows: Mapping[str, tuple[str, ...]]
    phases: tuple[Mapping[str, Any], ...]
    gradients: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitDone:
    """One unit of `train`. `tick` counts units over the run from 0, `t` inside the phase from 1; `loss` and `metrics` are means over the
    unit's updates; `rate` is in `rate_unit` a second. `sent`: what crossed the network in this unit (`network/ledger.py`; nothing without a
    topology), and in `seconds` what the clock of a described network shows after it."""

    tick: int
    phase: int
    t: int
    t_end: int
    unit: str
    loss: float | None
    metrics: Mapping[str, Value]
    seconds: float
    rate: float | None = None
    rate_unit: str = ""
    sent: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The values of one `every` block, `t` being 0 before the first unit; or (`final`) what is reported once at the end of the phase.
    `network_seconds`: what the clock of a described network shows."""

    tick: int
    phase: int
    t: int
    unit: str
    values: Mapping[str, Value]
    final: bool = False
    network_seconds: float | None = None


@dataclass(frozen=True)
class CheckpointWritten:
    tick: int
    path: str


@dataclass(frozen=True)
class RunResumed:
    """The run goes on after `tick` units, from the checkpoint at `path`. What was told after the first `told` events is told again."""

    tick: int
    path: str
    told: int


@dataclass(frozen=True)
class RunStopped:
    """The run was asked to stop, and did after a whole unit, or (`whole` false) in the middle of one. `sent` as in `RunFinished`."""

    tick: int
    whole: bool
    seconds: float
    sent: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFinished:
    """`learnt`: of every report its first and its last value; `privacy`: what private data cost, an epsilon at a delta; `sent`: all that crossed
    the network, beside what the plan said of it."""

    units: int
    seconds: float
    learnt: Mapping[str, tuple[Value, Value]]
    privacy: Mapping[str, float] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)


Event = RunStarted | UnitDone | Report | CheckpointWritten | RunResumed | RunStopped | RunFinished


class RunFailed(Exception):
    """A run that cannot go on: what happened, the place in the spec, and the stage of the flow that it happened in, if it is one's."""

    def __init__(self, message: str, span: Span = NOWHERE, stage: str = ""):
        super().__init__(f"{span}: {message}" if span != NOWHERE else message)
        self.message = message
        self.span = span
        self.stage = stage
        self.quiet = False  # another process says it


@dataclass
class Learnt:
    """The first and the last value of each report, as they come in."""

    values: dict[str, tuple[Value, Value]] = field(default_factory=dict)

    def add(self, values: Mapping[str, Value]) -> None:
        for name, value in values.items():
            first, _ = self.values.get(name, (value, value))
            self.values[name] = (first, value)


def version_record() -> dict[str, Any]:
    """The first object of every stream."""
    return {"event": "version", "schema": SCHEMA, "gradflow": gradflow.__version__}


def line_of(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def kind_of(event: Event) -> str:
    """`UnitDone` -> `unit_done`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def as_record(event: Event) -> dict[str, Any]:
    """An event as plain data: its kind under `event`, then its fields."""
    return {"event": kind_of(event)} | {f.name: plain(getattr(event, f.name)) for f in fields(event)}


def failure_record(error: RunFailed) -> dict[str, Any]:
    """What stands in a stream in place of the end."""
    span = {"file": error.span.file, "line": error.span.line, "column": error.span.column}
    return {"event": "run_failed", "message": error.message, "span": span, "stage": error.stage}


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dictionaries as they are; others by their name if they have one, else by their kind."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, PurePath):
        return str(value)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__

"""What a run leaves on disk: `runs/NAME-YYYYmmdd-HHMMSS[-k]/`.

    spec.gflow        the text that ran
    plan.gfp          the compiled artifact, where there is one
    parameters.json   the pipeline's parameters and the run's options, resolved
    versions.json     of gradflow, python and its packages, and the machine
    metrics.jsonl     events as they came, one JSON object a line; the first line states the schema's version
    checkpoints/      see `checkpoints.py`
    summary.json      how it ended, and the first and last value of each report

Every file but metrics.jsonl is written under a temporary name, flushed and renamed; metrics.jsonl is only appended to, a whole line at a time.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gradflow
from gradflow.plan.program import Program
from gradflow.runtime.checkpoints import write_atomically
from gradflow.runtime.events import SCHEMA, Event, Learnt, Report, RunFailed, RunFinished, RunStarted, RunStopped, as_record, failure_record, plain

PACKAGES = ("torch", "numpy", "msgpack", "safetensors", "scikit-learn", "transformers", "reasoning-gym", "triton")


def version_record() -> dict[str, Any]:
    """The first object of every stream."""
    return {"event": "version", "schema": SCHEMA, "gradflow": gradflow.__version__}


def line_of(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


class RunFolder:
    """The folder of one run; made by `create`."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(
        cls, program: Program, options: Any = None, parent: Path = Path("runs"), artifact: bytes | None = None, now: datetime | None = None
    ) -> RunFolder:
        """A new folder with all that is known before the run. `options`: a dataclass or a mapping. Raises OSError."""
        stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
        folder = cls(_new_folder(parent, f"{program.name}-{stamp}"))
        chosen = asdict(options) if is_dataclass(options) and not isinstance(options, type) else dict(options or {})
        write_atomically(folder.path / "spec.gflow", program.text.encode())
        if artifact is not None:
            write_atomically(folder.path / "plan.gfp", artifact)
        folder.write("parameters.json", {"pipeline": program.name, "source": program.source, "parameters": program.parameters, "options": chosen})
        folder.write("versions.json", versions())
        return folder

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, whole or not at all."""
        write_atomically(self.path / name, (json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def record(self, events: Iterator[Event]) -> Iterator[Event]:
        """Hands events on once they are written, and the summary at the end, however the run ends."""
        learnt = Learnt()
        end: dict[str, Any] = {"status": "abandoned"}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:

            def append(record: Mapping[str, Any]) -> None:
                file.write(line_of(record))
                file.flush()

            append(version_record())
            try:
                for event in events:
                    append(as_record(event))
                    if isinstance(event, Report):
                        learnt.add(event.values)
                    end = ending(event) or end
                    yield event
            except RunFailed as error:
                append(failure_record(error))
                end = {"status": "failed", **failure_record(error)}
                raise
            finally:
                shown = {name: {"first": first, "last": last} for name, (first, last) in learnt.values.items()}
                self.write("summary.json", {"version": SCHEMA, **end, "learnt": shown})


def ending(event: Event) -> dict[str, Any] | None:
    """What the summary says of an event that ends a run."""
    if isinstance(event, RunFinished):
        return {"status": "finished", "units": event.units, "seconds": event.seconds}
    if isinstance(event, RunStopped):
        return {"status": "stopped", "units": event.tick, "seconds": event.seconds}
    return {"status": "abandoned", "name": event.name} if isinstance(event, RunStarted) else None


def versions() -> dict[str, Any]:
    """Of everything that numbers may depend on; None where a package is not installed."""
    found: dict[str, Any] = {"gradflow": gradflow.__version__, "python": sys.version.split()[0], "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _new_folder(parent: Path, name: str) -> Path:
    """A folder of this name, or with the first free number behind it."""
    parent.mkdir(parents=True, exist_ok=True)
    for k in range(1, 10_000):
        path = parent / (name if k == 1 else f"{name}-{k}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise OSError(f"{parent} holds too many runs of the name {name}")

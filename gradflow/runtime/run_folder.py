"""What a run leaves on disk: `runs/NAME-YYYYmmdd-HHMMSS[-k]/`.

    spec.gflow        the text that ran
    plan.gfp          the compiled artifact, where there is one
    parameters.json   the pipeline's parameters, seeds and the run's options, resolved; the command's words
    versions.json     of gradflow, python and its packages, and the machine
    metrics.jsonl     events as they came, one JSON object a line; the first line states the schema's version
    checkpoints/      see `checkpoints.py`
    summary.json      how it ended, the most memory it took, what it sent over a topology, and the first and last value of each report

Every file but metrics.jsonl is written under a temporary name, flushed and renamed; metrics.jsonl is only appended to, a whole line at a time,
and cut back to the checkpoint when a run goes on. Reading without running is `records.py`. No torch here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradflow
from gradflow.plan.program import Program
from gradflow.runtime.events import (
    METRICS,
    SCHEMA,
    Event,
    Learnt,
    Report,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    as_record,
    failure_record,
    line_of,
    plain,
    version_record,
)
from gradflow.runtime.files import Appender, Lock, trouble, write_atomically
from gradflow.runtime.memory import peak, resident

if TYPE_CHECKING:
    from gradflow.runtime.checkpoints import Checkpoint

PACKAGES = ("torch", "numpy", "msgpack", "safetensors", "scikit-learn", "transformers", "reasoning-gym", "triton")
SUMMARY = "summary.json"
LONGEST = 64  # a folder's name takes at most so much of the pipeline's


class RunFolder:
    """The folder of one run: made by `create`, or one that is there already."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = Lock(path / METRICS)  # held by the process that runs
        self._log: Appender | None = None
        self._memory: int | None = None  # bytes of the process before the run

    @classmethod
    def create(
        cls,
        program: Program,
        options: Any = None,
        parent: Path = Path("runs"),
        artifact: bytes | None = None,
        now: datetime | None = None,
        name: str | None = None,
        command: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """A new folder with all that is known before the run. `options`: a dataclass or a mapping; `name`: in place of the pipeline's name and
        the time; `command`: what the command line said, for going on with the run later. Raises OSError."""
        moment = now or datetime.now()
        folder = cls(_new_folder(parent, name or f"{program.name[:LONGEST]}-{moment:%Y%m%d-%H%M%S}"))
        chosen = asdict(options) if is_dataclass(options) and not isinstance(options, type) else dict(options or {})
        write_atomically(folder.path / "spec.gflow", program.text.encode())
        if artifact is not None:
            write_atomically(folder.path / "plan.gfp", artifact)
        about = {"pipeline": program.name, "source": program.source, "started": moment.isoformat(timespec="milliseconds")}
        seeds = seeds_of(program, chosen.get("seed"))
        resolved = {"parameters": program.parameters, "seeds": seeds, "options": chosen, "command": command or {}}
        folder.write("parameters.json", about | resolved)
        folder.write("versions.json", versions())
        return folder

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file, whole or not at all."""
        write_atomically(self.path / name, (json.dumps(plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    # ---- while it runs

    def record(self, events: Iterator[Event], resume: Checkpoint | None = None) -> Iterator[Event]:
        """Hands events on once they are written, and the summary at the end, however the run ends.

        A run that goes on (`resume`) changes nothing in the folder before it has told that it does.
        """
        learnt = Learnt({} if resume is None else {name: (pair[0], pair[1]) for name, pair in resume.state["learnt"].items()})
        end: dict[str, Any] = {"status": "abandoned"}
        begun = written = False
        self.lock()
        try:
            for event in events:
                if isinstance(event, RunResumed) or (isinstance(event, RunStarted) and resume is None):
                    begun = self._begin(event.told if isinstance(event, RunResumed) else 0)
                if begun:
                    self._append(as_record(event))
                if isinstance(event, Report):
                    learnt.add(event.values)
                end = ending(event) or end
                yield event
            written = self._end(end, learnt)
        except Exception as error:
            known = error if isinstance(error, RunFailed) else RunFailed(f"gradflow failed: {type(error).__name__}: {error}")
            end = {"status": "failed", **failure_record(known)}
            with suppress(RunFailed):
                self._append(failure_record(known))
            raise
        finally:
            if not written and (begun or resume is None):
                with suppress(RunFailed):
                    self._end(end, learnt)
            self._close()

    def lock(self) -> None:
        """Raises RunFailed where another process runs this folder."""
        try:
            taken = self._lock.take()
        except OSError as error:
            raise RunFailed(f"the run cannot begin: {trouble(error)}") from error
        if not taken:
            raise RunFailed(f"another process is running {self.path}: wait for it, or stop it")

    def __enter__(self) -> RunFolder:
        self.lock()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.give_back()

    def cut_back(self, told: int) -> None:
        """Keeps the version and the first `told` events in metrics.jsonl (0: nothing); what came after will be told again. Raises OSError."""
        path = self.path / METRICS
        if not path.exists():
            return
        with path.open("rb+") as file:
            for _ in range(told + 1 if told else 0):
                if not file.readline().endswith(b"\n"):
                    break
            file.truncate(file.tell())

    def _begin(self, told: int) -> bool:
        self._memory = resident()
        try:
            self.cut_back(told)
            (self.path / SUMMARY).unlink(missing_ok=True)
            self._log = Appender(self.path / METRICS)
        except OSError as error:
            raise self._unwritable(error) from error
        if not (self.path / METRICS).stat().st_size:
            try:
                self._append(version_record())
            except RunFailed:
                self._log = None  # nothing stands before the version
                raise
        return True

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._log is None:
            return
        try:
            self._log.append(line_of(record).encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def _end(self, end: Mapping[str, Any], learnt: Learnt) -> bool:
        shown = {name: {"first": first, "last": last} for name, (first, last) in learnt.values.items()}
        try:
            self.write(SUMMARY, {"version": SCHEMA, **end, "peak_bytes": peak(self._memory), "learnt": shown})
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        self._lock.give_back()

    def _unwritable(self, error: OSError) -> RunFailed:
        return RunFailed(f"{trouble(error)}; then go on with `gradflow run --resume {self.path}`")


def ending(event: Event) -> dict[str, Any] | None:
    """What the summary says of an event that ends a run."""
    if isinstance(event, RunFinished):
        return {"status": "finished", "units": event.units, "seconds": event.seconds, **sent_by(event)}
    if isinstance(event, RunStopped):
        return {"status": "stopped", "units": event.tick, "seconds": event.seconds, **sent_by(event)}
    return {"status": "abandoned", "name": event.name} if isinstance(event, RunStarted) else None


def sent_by(event: RunFinished | RunStopped) -> dict[str, Any]:
    return {"sent": dict(event.sent)} if event.sent else {}


def seeds_of(program: Program, overruled: int | None) -> dict[str, Any]:
    """The seed of the run (models, data) and that of every phase."""
    own = [phase.settings.get("seed") for phase in program.phases]
    first = own[0] if own and own[0] is not None else 0
    run = first if overruled is None else overruled
    return {"run": run, "phases": [overruled if overruled is not None else run if seed is None else seed for seed in own]}


def versions() -> dict[str, Any]:
    """Of everything that numbers may depend on; None where a package is not installed."""
    found: dict[str, Any] = {"gradflow": gradflow.__version__, "python": sys.version.split()[0], "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | {"hardware": hardware()}


def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory, accelerators (where torch is loaded and sees some)."""
    found: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
        found["processor"] = line.partition(":")[2].strip()
    with suppress(OSError, ValueError, AttributeError):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        with suppress(RuntimeError, AssertionError):
            if torch.cuda.is_available():
                found["accelerators"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
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

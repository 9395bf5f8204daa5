"""Where numbers of a run go besides its folder: TensorBoard, trackio, wandb, all behind one small protocol.

A logger hears the head of the run, then numbers by tick, then the end. `logged` feeds loggers from a stream of events. Each needs its package; a
missing one is a sentence that names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gradflow.runtime.events import Event, Report, RunFailed, RunFinished, RunResumed, RunStarted, UnitDone, Value, as_record
from gradflow.runtime.files import trouble

NAMES = ("tensorboard", "trackio", "wandb")


class Logger(Protocol):
    """Hears a run. `start` comes once; `tick` is where it goes on, 0 at its beginning: numbers from there on are told again."""

    def start(self, run: str, head: Mapping[str, Any], tick: int) -> None: ...

    def log(self, tick: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def logger_of(name: str, folder: Path) -> Logger:
    """A logger by its name, for the run in `folder`. Raises RunFailed where its package is missing, ValueError where there is none."""
    if name == "tensorboard":
        return TensorBoard(folder / "tensorboard")
    if name in NAMES:
        return Tracker(name)
    raise ValueError(f"there is no logger `{name}`; there are: {', '.join(NAMES)}")


def logged(events: Iterator[Event], run: str, loggers: Sequence[Logger]) -> Iterator[Event]:
    """Hands events on and tells loggers their numbers. They begin with the run's head, or where a run goes on. Raises RunFailed."""
    head: Mapping[str, Any] = {}
    try:
        for event in events:
            if isinstance(event, RunStarted):
                head = as_record(event)
            elif isinstance(event, RunResumed):
                _start(loggers, run, head, event.tick)
                head = {}
            else:
                if head:
                    _start(loggers, run, head, 0)
                    head = {}
                tick, values = numbers_of(event)
                for logger in loggers if values else ():
                    logger.log(tick, values)
            yield event
    except OSError as error:
        raise RunFailed(f"a logger fails: {trouble(error)}; leave its --log out, or mend that and resume") from error
    finally:
        for logger in loggers:
            logger.close()


def _start(loggers: Sequence[Logger], run: str, head: Mapping[str, Any], tick: int) -> None:
    for logger in loggers:
        logger.start(run, head, tick)


def numbers_of(event: Event) -> tuple[int, dict[str, float]]:
    """(tick, numbers by name) of an event; of a value with axes its mean. What is not finite is left out."""
    found: dict[str, Value] = {}
    tick = 0
    if isinstance(event, UnitDone):
        tick = event.tick + 1
        found = {f"train/{name}": value for name, value in event.metrics.items()}
        found |= {} if event.loss is None else {"train/loss": event.loss}
        found |= {"speed/seconds": event.seconds} | ({f"speed/{event.rate_unit}": event.rate} if event.rate is not None else {})
        found |= {f"network/{name}": value for name, value in event.sent.items()}
    elif isinstance(event, Report):
        tick, found = event.tick + (0 if event.t == 0 or event.final else 1), {f"report/{name}": value for name, value in event.values.items()}
    elif isinstance(event, RunFinished):
        tick = event.units
    means = {name: mean_of(value) for name, value in found.items()}
    return tick, {name: value for name, value in means.items() if math.isfinite(value)}


def mean_of(value: Any) -> float:
    """A number as it is, the mean of nested lists; NaN where there is none."""
    if isinstance(value, list):
        means = [mean_of(one) for one in value]
        return sum(means) / len(means) if means else math.nan
    return float(value)


# ---- packages of others


class Tracker:
    """trackio or wandb: both have `init`, `log` and `finish` with the same arguments."""

    def __init__(self, name: str):
        import importlib

        try:
            self.package = importlib.import_module(name)
        except ImportError:
            raise RunFailed(f"--log {name} needs the package {name}, which is not installed: pip install {name}") from None

    def start(self, run: str, head: Mapping[str, Any], tick: int) -> None:
        self.package.init(project="gradflow", name=run, config=dict(head), resume="allow")

    def log(self, tick: int, values: Mapping[str, float]) -> None:
        self.package.log(dict(values), step=tick)

    def close(self) -> None:
        self.package.finish()


class TensorBoard:
    """Files of scalars by TensorBoard's own writer. A session that goes on makes it forget what an earlier one wrote from its tick on."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunFailed("--log tensorboard needs the package tensorboard, which is not installed: pip install tensorboard") from None
        self._writer: Any = SummaryWriter
        self._open: Any = None

    def start(self, run: str, head: Mapping[str, Any], tick: int) -> None:
        self._open = self._writer(str(self.folder), purge_step=tick + 1 if tick else None, filename_suffix=f".{tick}")

    def log(self, tick: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._open.add_scalar(name, value, tick)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

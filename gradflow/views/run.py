"""What a person sees of a run: a live board on a terminal, plain lines elsewhere, JSON lines for programs.

`follow` consumes events and returns the last one; a `RunFailed` goes through after the board is closed. The board shows what runs, how far it
is and how fast, the latest metrics each with a small curve, and at the end what was learnt: each report before and after.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gradflow.runtime.events import (
    CheckpointWritten,
    Event,
    Report,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    UnitDone,
    as_record,
    failure_record,
    line_of,
    version_record,
)
from gradflow.runtime.memory import on_device, resident
from gradflow.views.plan_cost import seconds, sent_lines, size

MODES = ("auto", "live", "plain", "json", "quiet")
BLOCKS = "▁▂▃▄▅▆▇█"
POINTS = 24


def follow(
    events: Iterator[Event], mode: str = "auto", console: Console | None = None, out: Any = None, only: Sequence[str] | None = None
) -> Event | None:
    """Shows events as they come. `auto` is live on a terminal and plain elsewhere; JSON lines go to `out` (stdout). `only`: the metrics to show
    (all without; JSON lines always have all). Returns the last event."""
    if mode not in MODES:
        raise ValueError(f"there is no view `{mode}`; there are: {', '.join(MODES)}")
    console = console or Console()
    if mode == "auto":
        mode = "live" if console.is_terminal and not console.is_dumb_terminal else "plain"
    if mode == "json":
        return _json(events, out or sys.stdout)
    if mode == "live":
        return _live(events, console, only)
    return _plain(events, console, mode == "quiet", only)


# ---- numbers and curves


def shown(value: Any) -> str:
    """A value in four digits; of one with axes how many entries it has, and their mean."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        numbers = flattened(value)
        return f"{len(numbers)} values, mean {sum(numbers) / len(numbers):.4g}" if numbers else "no values"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flattened(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for one in value for number in flattened(one)]
    return [float(value)]


@dataclass
class History:
    """The course of a metric in at most 2 * POINTS values: when it is full, every second one goes."""

    values: list[float] = field(default_factory=list)
    latest: Any = None
    stride: int = 1
    count: int = 0

    def add(self, value: Any) -> None:
        self.latest = value
        numbers = flattened(value)
        if self.count % self.stride == 0 and numbers:
            self.values.append(sum(numbers) / len(numbers))
        self.count += 1
        if len(self.values) >= 2 * POINTS:
            self.values = self.values[::2]
            self.stride *= 2

    def seen(self) -> list[float]:
        """The values that are kept, and the latest."""
        return [*self.values, *flattened(self.latest)] if self.values and not isinstance(self.latest, list) else list(self.values)

    def curve(self) -> str:
        """The values as blocks between their least and their largest; the curve is as long as what it was cut down to."""
        values = list(self.values)[-POINTS:] if len(self.values) <= POINTS else list(self.values)[:: len(self.values) // POINTS]
        finite = [v for v in values if v == v and abs(v) != float("inf")]
        if not finite:
            return ""
        low, high = min(finite), max(finite)
        width = (high - low) or 1.0
        return "".join(BLOCKS[int((v - low) / width * (len(BLOCKS) - 1))] if v in finite else "?" for v in values)


# ---- the board


class UnitsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} {task.fields['unit']}/s" if speed else "", style="progress.data.speed")


class Board:
    """The live view as a renderable: it is looked at by the display, and changed by events."""

    def __init__(self, console: Console, only: Sequence[str] | None = None) -> None:
        self.only = only
        self.started: RunStarted | None = None
        self.metrics: dict[str, History] = {}
        self.rate = self.sent = ""
        self.notes: list[str] = []
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), UnitsPerSecond(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, expand=True,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=None, unit="units")

    def tell(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.started = event
            units = {str(phase["unit"]) for phase in event.phases}
            unit = units.pop() if len(units) == 1 else "units"
            self.progress.update(self.task, total=event.units, description=unit, unit=unit)
        elif isinstance(event, UnitDone):
            self.progress.update(self.task, completed=event.tick + 1)
            self.sent = sent_text(event.sent)
            self.rate = f"{event.rate:,.0f} {event.rate_unit}/s" if event.rate is not None else ""
            loss = {} if event.loss is None else {"loss": event.loss}
            for name, value in wanted({**loss, **event.metrics}, self.only).items():
                self.metrics.setdefault(name, History()).add(value)
        elif isinstance(event, RunResumed):
            self.progress.reset(self.task, completed=event.tick)
            self.notes = [f"goes on after {event.tick} units"]
        elif isinstance(event, Report):
            for name, value in wanted(event.values, self.only).items():
                self.metrics.setdefault(f"report {name}", History()).add(value)
        elif isinstance(event, CheckpointWritten):
            self.notes = [f"checkpoint after {event.tick} units: {event.path}"]
        elif isinstance(event, RunStopped):
            self.notes = [*self.notes, f"stopped after {event.tick} units"]

    def __rich__(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column("metric", style="cyan", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("course", style="green", no_wrap=True)
        for name, history in list(self.metrics.items()):
            table.add_row(name, shown(history.latest), history.curve())
        if self.rate:
            table.add_row("throughput", self.rate, "")
        if self.sent:
            table.add_row("network", self.sent, "")
        memory = memory_used()
        if memory:
            table.add_row("memory", memory, "")
        gradients = self.started.gradients if self.started is not None else {}
        for name, known in gradients.items():
            table.add_row("gradient" if len(gradients) == 1 else f"gradient, {name}", "", "; ".join(known), style="dim")
        return Group(head(self.started), self.progress.get_renderable(), table, *(Text(note, style="dim") for note in self.notes))


def wanted(values: Mapping[str, Any], only: Sequence[str] | None) -> Mapping[str, Any]:
    """The values that were asked for; all where none were."""
    return values if not only else {name: value for name, value in values.items() if name in only}


def memory_used() -> str:
    """What this process has in memory now, and on an accelerator (now, and at its most); "" where the system does not say."""
    here, device = resident(), on_device()
    found = [f"{here / 2**30:.2f} GiB"] if here is not None else []
    if device is not None:
        found.append(f"device {device[0] / 2**30:.2f} GiB (at most {device[1] / 2**30:.2f})")
    return ", ".join(found)


def sent_text(sent: Mapping[str, Any]) -> str:
    """What one unit sent, and the network's time so far; "" without a topology."""
    if not sent:
        return ""
    so_far = f", {seconds(sent['seconds'])} so far" if sent.get("seconds") is not None else ""
    return f"{size(sent['bytes'])} a unit{so_far}"


def head(event: RunStarted | None) -> Text:
    if event is None:
        return Text("preparing", style="dim")
    how = f"{event.backend} on {event.device}, {event.precision}, seed {event.seed}"
    return Text.assemble((event.name, "bold"), f"  {event.source}  ", (how, "dim"))


def learnt_table(learnt: Mapping[str, tuple[Any, Any]]) -> RenderableType:
    """Each report before and after."""
    table = Table(title="what was learnt", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, side in (("report", "left"), ("before", "right"), ("", "left"), ("after", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for name, (first, last) in learnt.items():
        table.add_row(name, shown(first), "->", shown(last))
    return table


def _live(events: Iterator[Event], console: Console, only: Sequence[str] | None) -> Event | None:
    board, last = Board(console, only), None
    with Live(board, console=console, refresh_per_second=8):
        for last in events:
            board.tell(last)
    if isinstance(last, RunFinished):
        for line in spent_lines(last):
            console.print(line, markup=False, highlight=False)
    if isinstance(last, RunFinished) and wanted(last.learnt, only):
        console.print(learnt_table(wanted(last.learnt, only)))
    if isinstance(last, RunFinished | RunStopped):
        for line in sent_lines(last.sent):
            console.print(line, markup=False, highlight=False)
    return last


# ---- lines


def _plain(events: Iterator[Event], console: Console, quiet: bool, only: Sequence[str] | None) -> Event | None:
    """One line a report; where nothing is reported, the loss ten times."""
    last: Event | None = None
    total, every, reported = 0, 1, False
    for last in events:
        if quiet:
            continue
        if isinstance(last, RunStarted):
            total, every = last.units, max(last.units // 10, 1)
        elif isinstance(last, Report):
            reported = True
        elif isinstance(last, UnitDone) and (reported or last.loss is None or (last.tick + 1) % every):
            continue
        line = line_for(last, total, only)
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return last


def spent_lines(event: RunFinished) -> list[str]:
    """What private data cost, where there were any."""
    return [f"privacy spent: epsilon {event.privacy['epsilon']:.4g} at delta {event.privacy['delta']:g}"] if event.privacy else []


def line_for(event: Event, total: int, only: Sequence[str] | None) -> str:
    """What a person reads of an event where nothing can be drawn; "" where nothing of it was asked for."""
    if isinstance(event, RunStarted):
        return head(event).plain
    if isinstance(event, Report):
        place = f"end of {event.t} {event.unit}" if event.final else f"{event.unit} {event.t}"
        values = wanted(event.values, only)
        when = f" ({seconds(event.network_seconds)} of network time)" if event.network_seconds is not None else ""
        return f"{place}: " + ", ".join(f"{name} {shown(value)}" for name, value in values.items()) + when if values else ""
    if isinstance(event, UnitDone):
        return f"{event.unit} {event.tick + 1} of {total}: loss {shown(event.loss)}"
    if isinstance(event, CheckpointWritten):
        return f"checkpoint: {event.path}"
    if isinstance(event, RunResumed):
        return f"goes on after {event.tick} of {total} units"
    if isinstance(event, RunStopped):
        return "\n".join([f"stopped after {event.tick} units", *sent_lines(event.sent)])
    lines = [f"finished: {event.units} units in {event.seconds:.1f} s", *spent_lines(event), *sent_lines(event.sent)]
    return "\n".join(lines + [f"learnt: {name} {shown(first)} -> {shown(end)}" for name, (first, end) in wanted(event.learnt, only).items()])


def _json(events: Iterator[Event], out: Any) -> Event | None:
    """One object a line; a failure is the last line, and goes on as the error that it is."""
    last: Event | None = None
    out.write(line_of(version_record()))
    try:
        for last in events:
            out.write(line_of(as_record(last)))
            out.flush()
    except RunFailed as error:
        out.write(line_of(failure_record(error)))
        raise
    finally:
        out.flush()
    return last

"""A run as a value of Python: what `program.run()` gives.

running = run(program, steps=100)
for event in running: ...
running.reports["accuracy"]            # [(0, 0.1), (20, 0.83), ..]
running.parameters("net")["layers.0.weight"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from gradflow.plan.program import Program
from gradflow.runtime.events import Event, Report, RunFinished, Value
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.run_folder import RunFolder

KINDS = {"int": numpy.int64, "bool": numpy.bool_}


class Running:
    """The events of a run, to be gone through once; `reports` and `parameters` show what there is so far."""

    def __init__(self, run: Run, events: Iterator[Event]):
        self.run = run
        self.reports: dict[str, list[tuple[int, Value]]] = {}
        self._events = events

    def __iter__(self) -> Iterator[Event]:
        for event in self._events:
            if isinstance(event, Report):
                for name, value in event.values.items():
                    self.reports.setdefault(name, []).append((event.t, value))
            yield event

    def finish(self) -> Mapping[str, tuple[Value, Value]]:
        """Runs to the end: first and last value of every report. Raises RunFailed."""
        learnt: Mapping[str, tuple[Value, Value]] = {}
        for event in self:
            if isinstance(event, RunFinished):
                learnt = event.learnt
        return learnt

    def parameters(self, model: str) -> dict[str, Tensor]:
        """The model's present tensors by name; they go on changing while the run does."""
        return self.run.parameters(model)

    def stop(self) -> None:
        """Asks the run to end after the unit at hand."""
        self.run.stop()


def run_reports(program: Program, inputs: Mapping[str, Any], backend: str) -> dict[str, numpy.ndarray]:
    """All that a run reports, in float64: what is reported again and again stacked along time, first axis; what is reported at the end as it is."""
    never: dict[str, numpy.ndarray] = {
        name: numpy.zeros((0, *(axis.size or 0 for axis in node.type.axes)), KINDS.get(node.type.base, numpy.float64))
        for phase in program.phases
        for block in phase.periodic
        for name, node in block.region.results
    }
    series: dict[str, list[Any]] = {}
    last: dict[str, Any] = {}
    for event in Run(program, Options(backend=backend, precision="float64"), inputs).events():
        if isinstance(event, Report) and event.final:
            last |= event.values
        elif isinstance(event, Report):
            for name, value in event.values.items():
                series.setdefault(name, []).append(value)
    return never | {name: numpy.asarray(value) for name, value in (series | last).items()}


def run(program: Program, inputs: Mapping[str, Any] | None = None, folder: Path | str | None = None, **options: Any) -> Running:
    """A run that starts when its events are asked for. `folder`: where a run folder is made (none without); `options` as in `Options`."""
    chosen = Options(**options)
    if folder is None:
        one = Run(program, chosen, inputs)
        return Running(one, one.events())
    kept = RunFolder.create(program, chosen, Path(folder))
    one = Run(program, chosen, inputs, kept.path)
    return Running(one, kept.record(one.events()))

"""Carrying out one run for a person: view, folder and loggers around its events, signals, and every failure as one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.cli.terminal import FAILED, FINE, colored, say, width

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.events import RunFailed
    from gradflow.runtime.executor import Run
    from gradflow.runtime.run_folder import RunFolder


MODERATE = 1 << 25  # parameters, of all nodes


@dataclass
class Outcome:
    """How a command ends; `program`: whose text failures point into."""

    code: int = FAILED
    program: Program | None = None


@contextmanager
def told(program: Program | None) -> Iterator[Outcome]:
    """What fails inside is a sentence on stderr, and exit code 3."""
    from gradflow.runtime.events import RunFailed
    from gradflow.runtime.files import trouble

    outcome = Outcome(program=program)
    try:
        yield outcome
    except RunFailed as error:
        if not error.quiet:
            say(failure(error, outcome.program))
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"run failed: {trouble(error, 'used')}")


def carried_out(run: Run, folder: RunFolder, options: argparse.Namespace, loggers: Sequence[str]) -> int:
    """Runs, shows, and leaves the folder. Raises RunFailed."""
    from rich.console import Console

    from gradflow.files import named
    from gradflow.runtime.events import RunFailed, RunStopped
    from gradflow.runtime.files import trouble
    from gradflow.runtime.interrupts import stopping_on_interrupt
    from gradflow.runtime.loggers import logged, logger_of
    from gradflow.views.run import follow

    keep_memory(run)
    with stopping_on_interrupt(run) as interrupts:
        events = run.events()
        if loggers:
            events = logged(events, folder.path.name, [logger_of(name, folder.path) for name in dict.fromkeys(loggers)])
        mode = "json" if options.json else "quiet" if options.quiet else "auto"
        try:
            last = follow(folder.record(events, run.resume), mode, Console(highlight=False), None, options.show)
        except KeyboardInterrupt:
            say("interrupted")
            return interrupts.code
        except BrokenPipeError:
            raise
        except OSError as error:  # the folder's and the loggers' are RunFailed already: only what is shown is left
            raise RunFailed(f"{trouble(named(error, Path('standard output')))}; then go on with `gradflow run --resume {folder.path}`") from error
    if not isinstance(last, RunStopped):
        return FINE
    say(f"to go on: gradflow run --resume {folder.path}")
    return interrupts.code


def keep_memory(run: Run) -> None:
    """On a CPU memory is kept for the next step, unless the models are so large that gaps between tensors would count."""
    from gradflow.runtime.memory import keep_freed

    copies = (plan.spec.size * prod(axis.size or 1 for axis in plan.lifted) for plan in run.program.models.values())
    if run.device.type == "cpu" and sum(copies) <= MODERATE:
        keep_freed()


def followed(run: Run) -> int:
    """Runs the part of a rank that shows nothing and keeps no folder. Raises RunFailed."""
    from gradflow.runtime.events import RunStopped
    from gradflow.runtime.interrupts import stopping_on_interrupt

    keep_memory(run)
    with stopping_on_interrupt(run) as interrupts:
        stopped = False
        try:
            for event in run.events():
                stopped = isinstance(event, RunStopped)
        except KeyboardInterrupt:
            return interrupts.code
    return interrupts.code if stopped else FINE


def artifact_of(program: Program) -> bytes | None:
    """The plan for the run folder; None, and said so, where an artifact cannot hold the program."""
    from gradflow.plan.artifact import ArtifactError, encode

    try:
        return encode(program)
    except ArtifactError as error:
        say(f"no plan.gfp in the run folder: {error}")
        return None


def failure(error: RunFailed, program: Program | None) -> str:
    """What went wrong, with the line of the spec and the stage that it happened in."""
    from gradflow.language.diagnostics import Diagnostic
    from gradflow.language.printer import render
    from gradflow.language.source import NOWHERE, Source

    stage = f" (in `{error.stage}`)" if error.stage else ""
    if error.span == NOWHERE or program is None:
        return f"run failed: {error.message}{stage}"
    sources = {program.source: Source(program.source, program.text)}
    if error.span.file not in sources and Path(error.span.file).is_file():
        sources[error.span.file] = Source.read(Path(error.span.file))
    shown = render([Diagnostic("E", f"{error.message}{stage}", error.span)], sources, "full", colored(sys.stderr), width(sys.stderr))
    return shown.rpartition("\n\n")[0].replace("error[E]", "run failed", 1)

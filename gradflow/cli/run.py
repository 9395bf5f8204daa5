"""Train: run a spec file, a shipped spec by name, or a compiled artifact.

A live view is shown on a terminal, plain lines elsewhere, one JSON object a line with --json. The run folder (spec, plan, metrics, checkpoints)
is made below --out. Ctrl-C ends the run after the unit at hand, a second one at once: exit code 130; a run that fails: 3.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.cli.plan import program_of
from gradflow.cli.terminal import ERRORS, FAILED, FINE, INTERRUPTED, UsageError, colored, say

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.events import RunFailed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE[:PIPELINE]", help="a path, the name of a shipped spec, or a compiled artifact")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    parser.add_argument("--seed", type=int, help="in place of the spec's seed")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the count of every `train` line")
    parser.add_argument("--device", default="cpu", help="a torch device, or auto for the accelerator if there is one (default: cpu)")
    parser.add_argument("--backend", default="torch", help="torch (the default) or reference")
    parser.add_argument("--precision", help="float32, float64 or bfloat16, in place of the spec's")
    parser.add_argument("--micro", type=int, metavar="N", help="pieces that a batch is cut into")
    parser.add_argument("--compile", action="store_true", help="kernels under torch.compile")
    parser.add_argument("--deterministic", action="store_true", help="only algorithms that give the same bits every time")
    parser.add_argument("--passes", choices=("all", "none"), default="all", help="which optimizations to make (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    parser.add_argument("--quiet", action="store_true", help="show nothing while it runs")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where the run folder is made (default: runs)")
    parser.add_argument("--allow-python", action="store_true", help="let the spec call Python code of yours (`python(..)`)")


def run(options: argparse.Namespace) -> int:
    if options.json and options.quiet:
        raise UsageError("--json and --quiet exclude each other")
    from gradflow.library.python_models import python_allowed

    with python_allowed(options.allow_python):
        program = program_of(options.file, options.overrides)
    if program is None:
        return ERRORS
    return carried_out(program, options)


def chosen(options: argparse.Namespace) -> Any:
    """The executor's options. Raises UsageError for values that it does not take."""
    from gradflow.runtime.executor import Options

    try:
        return Options(
            seed=options.seed, device=options.device, backend=options.backend, steps=options.steps, compile=options.compile,
            precision=options.precision, micro=options.micro, deterministic=options.deterministic, optimize=options.passes == "all",
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(str(error)) from None


def artifact_of(program: Program) -> bytes | None:
    """The plan for the run folder; None, and said so, where an artifact cannot hold the program."""
    from gradflow.plan.artifact import ArtifactError, encode

    try:
        return encode(program)
    except ArtifactError as error:
        say(f"no plan.gfp in the run folder: {error}")
        return None


def carried_out(program: Program, options: argparse.Namespace) -> int:
    """Runs the program, shows it, and leaves its folder."""
    from rich.console import Console

    from gradflow.runtime.events import RunFailed, RunStopped
    from gradflow.runtime.executor import Run
    from gradflow.runtime.interrupts import stopping_on_interrupt
    from gradflow.runtime.run_folder import RunFolder
    from gradflow.views.run import follow

    settings = chosen(options)
    try:
        one = Run(program, settings)
        folder = RunFolder.create(program, settings, options.out, artifact_of(program))
        one.folder = folder.path
        say(f"run folder: {folder.path}")
        with stopping_on_interrupt(one):
            last = follow(folder.record(one.events()), "json" if options.json else "quiet" if options.quiet else "auto", Console(highlight=False))
    except RunFailed as error:
        say(failure(error, program))
        return FAILED
    return INTERRUPTED if isinstance(last, RunStopped) else FINE


def failure(error: RunFailed, program: Program) -> str:
    """What went wrong, with the line of the spec and the stage that it happened in."""
    from gradflow.language.diagnostics import Diagnostic
    from gradflow.language.printer import render
    from gradflow.language.source import NOWHERE, Source

    stage = f" (in `{error.stage}`)" if error.stage else ""
    if error.span == NOWHERE:
        return f"run failed: {error.message}{stage}"
    sources = {program.source: Source(program.source, program.text)}
    if error.span.file not in sources and Path(error.span.file).is_file():
        sources[error.span.file] = Source.read(Path(error.span.file))
    shown = render([Diagnostic("E", f"{error.message}{stage}", error.span)], sources, "full", colored(sys.stderr))
    return shown.rpartition("\n\n")[0].replace("error[E]", "run failed", 1)

"""Show what a pipeline will do and need before it runs: models, data, flows with what is on every arrow, states, reports; memory, work, time.

FILE is a path, the name of a shipped spec, or a compiled artifact; `FILE:pipeline` chooses a pipeline, else it is the file's first. The cost is
found by walking through the run without data; --no-cost leaves it out. Exit code 1 where the spec has errors or breaks its `require memory`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.cli.terminal import ERRORS, FINE, UsageError, colored, report, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradflow.cost.machines import Machine
    from gradflow.language.diagnostics import Diagnostic
    from gradflow.plan.program import Program

FORMATS = ("text", "json", "html", "svg", "mermaid")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE[:PIPELINE]")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--machine", default="here", metavar="NAME|FILE", help="where it would run: here (measured), laptop, h100, or a .toml file")
    parser.add_argument("--network", metavar="NAME|FILE", help="how long a round takes on a described network: lan, wan, or a .toml file")
    parser.add_argument("--against", type=Path, metavar="RUN", help="beside what the run in this folder measured")
    parser.add_argument("--no-cost", dest="cost", action="store_false", help="leave out what it needs; torch is then not loaded")


def run(options: argparse.Namespace) -> int:
    if not options.cost and options.against is not None:
        raise UsageError("--against compares the cost, and --no-cost leaves it out")
    if not options.cost and options.network is not None:
        raise UsageError("--network is about the cost, and --no-cost leaves it out")
    program = program_of(options.file, options.overrides, within_limits=False)
    if program is None:
        return ERRORS
    from gradflow.views.plan import render, summary

    found = (
        costed(program, machine_of(options.machine), options.against, options.network)
        if options.cost and options.format != "mermaid"
        else (None, [], [])
    )
    cost, against, broken = found
    if options.format == "json":
        print(json.dumps(summary(program, cost, against), indent=2, ensure_ascii=False))
    else:
        print(render(program, width(sys.stdout, 200), colored(sys.stdout), cost, against, options.format))
    return told(broken, program)


def machine_of(reference: str) -> Machine:
    """The machine asked for. Raises UsageError."""
    from gradflow.cost.machines import UnknownMachine, machine_of

    try:
        return machine_of(reference)
    except UnknownMachine as error:
        raise UsageError(str(error)) from None


def costed(
    program: Program, machine: Machine, run: Path | None = None, network: str | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Diagnostic]]:
    """The record of the cost, what a run measured beside it, and the limits that are broken. Raises UsageError for a folder without a run."""
    from gradflow.cost.estimate import estimate, precision_of
    from gradflow.cost.figures import as_record
    from gradflow.cost.limits import broken
    from gradflow.cost.machines import times_of
    from gradflow.cost.measured import NoRun, compared, measurements

    try:
        found = measurements(run) if run is not None else None
    except NoRun as error:
        raise UsageError(str(error)) from None
    ran = found["options"] if found is not None else {}
    cost = estimate(program, machine.accelerator, ran.get("precision"), ran.get("micro"))
    precision = ran.get("precision") or precision_of(program)
    record = as_record(cost, times_of(cost, machine, precision) if cost.complete else None)
    if network is not None:
        record["network"] = on_network(program, network, precision, [phase.updates for phase in cost.phases] or [1] * len(program.phases))
    return record, compared(found, record) if found is not None else [], broken(program, cost, machine.accelerator)


def on_network(program: Program, network: str, precision: str, updates: list[int]) -> dict[str, Any]:
    """What a round takes on a described network. Raises UsageError."""
    from gradflow.cost.estimate import WIDTHS
    from gradflow.network.description import BadNetwork, network_of
    from gradflow.network.prediction import predicted_times

    try:
        return predicted_times(program, network_of(network), WIDTHS[precision], updates)
    except BadNetwork as error:
        raise UsageError(str(error)) from None


def told(diagnostics: Sequence[Diagnostic], program: Program) -> int:
    """Prints diagnostics of a program; the exit code that they mean."""
    from gradflow.language.source import Source

    report(diagnostics, sys.stderr, "full", [Source(program.source, program.text)])
    return ERRORS if any(one.severity == "error" for one in diagnostics) else FINE


def program_of(reference: str, overrides: list[str], within_limits: bool = True) -> Program | None:
    """The program of a spec or an artifact; None if the spec has errors. Diagnostics go to stderr. Raises UsageError, GradflowError.

    `within_limits`: a pipeline with `require memory` is walked through, and none that breaks it is returned.
    """
    program = _program_of(reference, overrides)
    if program is None or not within_limits:
        return program
    from gradflow.cost.limits import broken, limits_of

    if not limits_of(program):
        return program
    from gradflow.cost.estimate import estimate

    return program if told(broken(program, estimate(program)), program) == FINE else None


def _program_of(reference: str, overrides: list[str]) -> Program | None:
    if reference.endswith(".gfp") or Path(reference).is_file():
        from gradflow.plan.header import is_artifact

        if reference.endswith(".gfp") or is_artifact(Path(reference)):
            if overrides:
                raise UsageError("the parameters of a compiled artifact are fixed; -p is for specs")
            from gradflow.plan.artifact import load

            return load(Path(reference))
    from gradflow import compiler

    module, pipeline = compiler.load(reference)
    program, diagnostics = compiler.build(module, pipeline, overrides)
    report(diagnostics, sys.stderr, "full", [module.source], [*overrides, reference])
    return program

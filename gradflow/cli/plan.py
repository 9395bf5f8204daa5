"""Show what a pipeline will do before it runs: models, data, each flow with what flows on every arrow, states, reports.

FILE is a path, the name of a shipped spec, or a compiled artifact; `FILE:pipeline` chooses a pipeline, else it is the file's first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.cli.terminal import ERRORS, FINE, UsageError, colored, report, width

if TYPE_CHECKING:
    from gradflow.plan.program import Program


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE[:PIPELINE]")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    program = program_of(options.file, options.overrides)
    if program is None:
        return ERRORS
    from gradflow.views.plan import render, summary

    if options.format == "json":
        print(json.dumps(summary(program), indent=2, ensure_ascii=False))
    else:
        print(render(program, width(sys.stdout, 200), colored(sys.stdout)))
    return FINE


def program_of(reference: str, overrides: list[str]) -> Program | None:
    """The program of a spec or an artifact; None if the spec has errors. Diagnostics go to stderr. Raises UsageError, GradflowError."""
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

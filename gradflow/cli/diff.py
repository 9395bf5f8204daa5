"""Compare two pipelines by meaning: parameters, models, data, stages, loss terms, formulas, settings, and what they cost.

A and B are paths, names of shipped specs, compiled artifacts, or run folders. Layout, comments and the names of formulas do not count. Exit code
0: nothing changed; 2: something did; 1: one of the two has errors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.cli.terminal import ERRORS, FINE, UsageError, say

if TYPE_CHECKING:
    from gradflow.plan.program import Program

CHANGED = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help="a path, the name of a shipped spec, a compiled artifact, or a run folder; FILE:PIPELINE too")
    parser.add_argument("after", metavar="B")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of B")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--no-cost", dest="cost", action="store_false", help="leave out what they need; torch is then not loaded")


def run(options: argparse.Namespace) -> int:
    before, after = program_at(options.before, []), program_at(options.after, options.overrides)
    if before is None or after is None:
        return ERRORS
    from gradflow.views.diff import changes, lines, record

    costs = (cost_of(before), cost_of(after)) if options.cost else None
    found = changes(before, after, costs)
    if options.format == "json":
        print(json.dumps(record(found, (options.before, options.after)), indent=2, ensure_ascii=False, default=str))
    else:
        print("\n".join(lines(found)) if found else "nothing changed")
    return CHANGED if found else FINE


def cost_of(program: Program) -> dict[str, object]:
    from gradflow.cost.estimate import estimate
    from gradflow.cost.figures import as_record

    return as_record(estimate(program))


def program_at(reference: str, overrides: list[str]) -> Program | None:
    """The program of a reference, of a run folder that of its artifact. Raises UsageError."""
    from gradflow.cli.plan import program_of

    if not Path(reference).is_dir():
        return program_of(reference, overrides, within_limits=False)
    artifact = Path(reference) / "plan.gfp"
    if not artifact.is_file():
        raise UsageError(f"`{reference}` holds no plan.gfp: compare with its spec.gflow instead")
    if overrides:
        say("-p is for specs: the parameters of a run are fixed")
    return program_of(str(artifact), [], within_limits=False)

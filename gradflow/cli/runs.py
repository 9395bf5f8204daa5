"""List the runs in a folder, those of its sweeps too: when each began, how it stands, how far it is, its last values.

A run is finished, interrupted, failed, running (a living process has it), died (its process is gone without a word), or empty.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradflow.cli.terminal import FINE, UsageError, colored, width

if TYPE_CHECKING:
    from gradflow.runtime.records import RunRecord


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help="where runs are (default: runs)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    from gradflow.views.report import as_json, runs_table

    if not options.folder.is_dir():
        raise UsageError(f"there is no folder `{options.folder}`: `gradflow run` makes one, or name the one that holds runs")
    found = runs_in(options.folder)
    if options.format == "json":
        print(json.dumps([as_json(record) for record in found], indent=2, ensure_ascii=False))
        return FINE
    if not found:
        print(f"no runs in {options.folder}")
        return FINE
    from rich.console import Console

    Console(width=width(sys.stdout), no_color=not colored(sys.stdout), highlight=False).print(runs_table(found, options.folder))
    return FINE


def runs_in(folder: Path) -> list[RunRecord]:
    """The runs in a folder and in the folders of sweeps in it, by when they began."""
    from gradflow.runtime import records

    inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    paths = [path for path in inside if records.is_run(path)]
    for sweep in (path for path in inside if (path / "sweep.json").is_file()):
        paths += [path for path in sorted(sweep.iterdir()) if path.is_dir() and records.is_run(path)]
    return sorted(map(records.glance, paths), key=lambda record: (record.started, str(record.path)))

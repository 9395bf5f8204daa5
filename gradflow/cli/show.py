"""Show a run: how it stands, what was learnt, and the course of every number, read from its folder.

RUN is a run folder, or the name of one below --out. Works at any moment, also while the run goes on or after it was killed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gradflow.cli.terminal import FINE, UsageError, colored, width


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are (default: runs)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    from gradflow.runtime import records
    from gradflow.views.report import as_json, shown_run

    record = records.read(folder_of(options.run, options.out))
    if options.format == "json":
        print(json.dumps(as_json(record), indent=2, ensure_ascii=False))
        return FINE
    from rich.console import Console

    Console(width=width(sys.stdout), no_color=not colored(sys.stdout), highlight=False).print(shown_run(record))
    return FINE


def folder_of(name: str, out: Path) -> Path:
    """The folder of a run. Raises UsageError for what is none."""
    path = Path(name) if Path(name).is_dir() else out / name
    if not path.is_dir():
        from gradflow.language.diagnostics import nearest

        try:
            known = [one.name for one in out.iterdir() if one.is_dir()]
        except OSError:
            known = []
        hint = nearest(name, known) or f"`gradflow runs {out}` lists the runs"
        raise UsageError(f"there is no run `{name}`; {hint}")
    return path

"""Write a run as one HTML page with plots; it needs no other file and no network.

RUN is a run folder, or the name of one below --out. The page goes to RUN/report.html, or to -o FILE (`-` for stdout).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gradflow.cli.terminal import FAILED, FINE, say


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("-o", "--output", metavar="FILE", help="where the page goes (default: RUN/report.html)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are (default: runs)")


def run(options: argparse.Namespace) -> int:
    from gradflow.cli.show import folder_of
    from gradflow.runtime import records
    from gradflow.runtime.files import trouble, write_atomically
    from gradflow.views.page import default_path, page

    record = records.read(folder_of(options.run, options.out))
    text = page(record)
    if options.output == "-":
        sys.stdout.write(text)
        return FINE
    path = Path(options.output) if options.output else default_path(record)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        say(f"error: {trouble(error)}")
        return FAILED
    say(f"wrote {path}")
    return FINE

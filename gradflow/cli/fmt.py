"""Bring spec files into the canonical layout.

FILE is a path, a folder (all .gflow files below it), or `-`: then stdin is formatted to stdout. Files are rewritten in place, unless
--check or --diff asks only what would change; these exit with code 1 if anything would.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gradflow.cli.terminal import ERRORS, FINE, STDIN, read_source, report, say, spec_files
from gradflow.files import write_text
from gradflow.language.diagnostics import Diagnostic, GradflowError
from gradflow.language.source import Source


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a path, a folder, or - for stdin")
    parser.add_argument("--check", action="store_true", help="write nothing; name the files that would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; print what would change")


def run(options: argparse.Namespace) -> int:
    wrong: list[Diagnostic] = []
    texts: list[Source] = []
    changed = total = 0
    for reference in spec_files(options.files):
        total += 1
        try:
            source = read_source(reference)
            texts.append(source)
            text = formatted(source)
        except GradflowError as error:
            wrong += error.diagnostics
            continue
        changed += text != source.text
        hand_over(source, text, options)
    report(wrong, sys.stderr, "full", texts, options.files)
    if options.files != ["-"]:
        verb = "would change" if options.check or options.diff else "changed"
        say(f"{changed} of {total} file{'s' * (total > 1)} {verb}")
    return ERRORS if wrong or (changed and (options.check or options.diff)) else FINE


def hand_over(source: Source, text: str, options: argparse.Namespace) -> None:
    """Writes, prints or names one formatted text."""
    if options.diff and text != source.text:
        from difflib import unified_diff

        sys.stdout.writelines(unified_diff(source.text.splitlines(True), text.splitlines(True), source.name, f"{source.name} (formatted)"))
    elif options.check:
        if text != source.text:
            print(source.name)
    elif source.name == STDIN and not options.diff:
        sys.stdout.write(text)
    elif text != source.text and not options.diff:
        write_text(Path(source.name), text)


def formatted(source: Source) -> str:
    """The canonical text, proved to parse to the same tree. Raises GradflowError for text that does not parse."""
    from gradflow.language.format import format_source
    from gradflow.language.parser import parse
    from gradflow.language.syntax import shape

    text = format_source(source)
    if text != source.text and shape(parse(Source(source.name, text))) != shape(parse(source)):
        raise RuntimeError(f"formatting {source.name} would change its meaning; it was left as it is")
    return text

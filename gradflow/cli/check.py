"""Find every mistake in spec files, and mend those that can be mended.

FILE is a path, a folder (all .gflow files below it), the name of a shipped spec, or `-` for stdin; `FILE:pipeline` names the pipeline that
`-p name=value` is for. Diagnostics go to stdout. Exit code 1 if there is an error; warnings do not count.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from gradflow.cli.terminal import ERRORS, FINE, STDIN, UsageError, read_source, report, say, spec_files
from gradflow.files import write_text
from gradflow.language.diagnostics import Diagnostic, GradflowError, Report
from gradflow.language.printer import FORMATS, summary
from gradflow.language.source import Source

MOST_ROUNDS = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a path, a folder, the name of a shipped spec, or - for stdin")
    parser.add_argument("--format", choices=FORMATS, default="full", help="how to print the diagnostics (default: full)")
    parser.add_argument("--fix", action="store_true", help="make the changes that diagnostics offer, then report what is left")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")


def run(options: argparse.Namespace) -> int:
    gc.disable()  # what a check makes lives to its end
    found: list[Diagnostic] = []
    texts: list[Source] = []
    for reference in spec_files(options.files):
        try:
            source = read_source(reference)
            if options.fix:
                source = fixed(source, reference)
            texts.append(source)
            found += diagnose(source, reference, options.overrides)
        except GradflowError as error:
            found += error.diagnostics
    report(found, sys.stdout, options.format, texts, [*options.overrides, *options.files])
    if options.format == "full" and not found:
        say(f"{len(texts)} files, no errors" if len(texts) > 1 else f"{texts[0].name}: no errors")
    elif options.format != "full":
        say(summary(found))
    return ERRORS if any(d.severity == "error" for d in found) else FINE


def diagnose(source: Source, reference: str, overrides: list[str]) -> list[Diagnostic]:
    """Everything wrong in a text; with overrides also what is wrong with its pipeline under them."""
    from gradflow.compiler import build, check_source

    collected = Report(list(check_source(source)))
    if overrides and not collected.errors:
        from gradflow.passes.scope import Module

        head, _, pipeline = reference.rpartition(":")
        for diagnostic in build(Module.of(source), pipeline if head and not Path(reference).exists() else None, overrides)[1]:
            collected.add(diagnostic)
    return collected.sorted()


def fixed(source: Source, reference: str) -> Source:
    """The text with all offered edits made, written back; rounds go on until nothing more is offered or a round makes things worse."""
    from gradflow.compiler import check_source
    from gradflow.language.fixes import apply_edits

    if source.name == STDIN or not Path(reference).exists():
        raise UsageError(f"--fix changes files in place: give a path instead of `{reference}`")
    current, wrong, changes = source, check_source(source), 0
    for _ in range(MOST_ROUNDS):
        edits = [edit for d in wrong for edit in d.edits if edit.span.file == current.name]
        following = Source(current.name, apply_edits(current.text, edits))
        if following.text == current.text:
            break
        left = check_source(following)
        if len(left) > len(wrong):
            break
        current, wrong, changes = following, left, changes + len(set(edits))
    if changes:
        write_text(Path(source.name), current.text)
        say(f"{source.name}: {changes} change{'s' * (changes > 1)} made")
    return current

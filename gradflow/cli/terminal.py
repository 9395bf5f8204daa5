"""What every command says to whom: diagnostics, talk on stderr, colors and widths, and the files that a command line names.

Colors need a terminal and no NO_COLOR. The sources of diagnostics are found here, since a mistake may lie in a file that the command line
does not name (the standard library, an import) or in the command line itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Source

LAUNCHED = "gradflow"  # the name that torchrun's launcher gives to the processes of `--nproc`
COMMAND_LINE = "<command line>"
STDIN = "<stdin>"
FINE, ERRORS, USAGE, FAILED, INTERRUPTED, CLOSED = 0, 1, 2, 3, 130, 141


class UsageError(Exception):
    """The command line does not say something that can be done; `str(error)` is the sentence that a user sees."""


def say(text: str) -> None:
    """Talk: to stderr."""
    print(text, file=sys.stderr)


def colored(stream: IO[str]) -> bool:
    """Whether a stream shows colors: a terminal, and nobody asked for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream: IO[str], widest: int = 120) -> int:
    """Columns to fill: those of COLUMNS or the terminal, at most `widest`; 100 where there is no terminal."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return min(int(asked), widest)
    try:
        return min(os.get_terminal_size(stream.fileno()).columns or 100, widest)
    except (OSError, ValueError, AttributeError):
        return 100


def report(diagnostics: Sequence[Diagnostic], stream: IO[str], format: str = "full", texts: Iterable[Source] = (), words: Sequence[str] = ()) -> None:
    """Prints diagnostics. `texts` are sources at hand, `words` the arguments that spans in `<command line>` may point into."""
    from gradflow.language.printer import render

    if told_elsewhere():
        diagnostics = [one for one in diagnostics if one.severity == "error"]
    sources = {source.name: source for source in texts}
    for diagnostic in diagnostics:
        for file in (diagnostic.span.file, *(label.span.file for label in diagnostic.secondary)):
            if file not in sources:
                found = _source(file, diagnostic, words)
                if found is not None:
                    sources[file] = found
    text = render(diagnostics, sources, format, colored(stream), width(stream))
    if text:
        print(text, file=stream)


def told_elsewhere() -> bool:
    """Whether this is one of several processes of a run, and warnings are told by the launcher or by the first of them."""
    started = os.environ.get("TORCHELASTIC_RUN_ID")
    return started is not None and (started == LAUNCHED or os.environ.get("RANK", "0") != "0")


def _source(file: str, diagnostic: Diagnostic, words: Sequence[str]) -> Source | None:
    """The text behind a span: a file, or of several arguments the one that the message is about."""
    if file == COMMAND_LINE:
        span = diagnostic.span
        fitting = [word for word in words if span.end <= len(word)]
        said = diagnostic.message
        named = [word for word in fitting if f"`{word.partition('=')[0]}`" in said or f"`{word[span.offset : span.end]}`" in said]
        chosen = (named or (fitting if len(fitting) == 1 else []))[:1]
        return Source(file, chosen[0]) if chosen else None
    try:
        return Source.read(Path(file))
    except (OSError, UnicodeDecodeError):
        return None


def spec_files(references: Sequence[str]) -> list[str]:
    """References to check or format: a folder stands for all specs below it. Raises UsageError for a folder without any."""
    found: list[str] = []
    for reference in references:
        if os.path.isdir(reference):
            inside = [str(path) for path in sorted(Path(reference).rglob("*.gflow"))]
            if not inside:
                raise UsageError(f"no .gflow file in `{reference}`")
            found += inside
        else:
            found.append(reference)
    return list(dict.fromkeys(found))


def read_source(reference: str) -> Source:
    """The text of a reference: a path, the name of a shipped spec, or `-` for stdin. Raises GradflowError."""
    if reference == "-":
        return Source(STDIN, sys.stdin.read())
    from gradflow.compiler import find_file
    from gradflow.language.diagnostics import GradflowError

    path, _ = find_file(reference)
    try:
        return Source.read(path)
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        place = Source(COMMAND_LINE, reference).span(0, len(reference))
        raise GradflowError([Diagnostic("E0213", f"cannot read `{path}`", place, why=why)]) from None

"""What the error tests run: one spec with a mistake to the text that a person sees. Shared by the tests and by `record.py`.

A place inside the shipped library that a diagnostic also shows is recorded by its file alone, below the rest: its line changes whenever the
library does. How such a place looks is tested with files of the test's own (`test_compiler.py`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from gradflow.compiler import check_source
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.printer import render
from gradflow.language.source import Source

FOLDER = Path(__file__).parent


def specs() -> list[Path]:
    return sorted(FOLDER.glob("*/**/*.gflow"))


@cache
def diagnose(text: str, name: str) -> tuple[Diagnostic, ...]:
    """All diagnostics for one text."""
    return tuple(check_source(Source(name, text)))


def rendered(path: Path) -> str:
    """What `gradflow check` prints for a file, its name relative to this folder."""
    name = path.relative_to(FOLDER).as_posix()
    text = path.read_text(encoding="utf-8")
    found = diagnose(text, name)
    shown = [replace(d, secondary=tuple(label for label in d.secondary if label.span.file == name)) for d in found]
    places = [f"{Path(label.span.file).name}: {label.text}" for d in found for label in d.secondary if label.span.file != name]
    return "\n".join([render(shown, {name: Source(name, text)}), *(f"in the library, {place}" for place in dict.fromkeys(places))]) + "\n"

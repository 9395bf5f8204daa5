"""What the error tests run: one spec with a mistake to the text that a person sees. Shared by the test and by `record.py`."""

from __future__ import annotations

from pathlib import Path

from gradflow.language.diagnostics import Diagnostic, GradflowError
from gradflow.language.parser import parse
from gradflow.language.printer import render
from gradflow.language.source import Source

FOLDER = Path(__file__).parent


def specs() -> list[Path]:
    return sorted(FOLDER.glob("*/**/*.gflow"))


def diagnose(text: str, name: str) -> tuple[Diagnostic, ...]:
    """All diagnostics for one text."""
    try:
        parse(Source(name, text))
    except GradflowError as error:
        return error.diagnostics
    return ()


def rendered(path: Path) -> str:
    """What `gradflow check` prints for a file, its name relative to this folder."""
    name = path.relative_to(FOLDER).as_posix()
    text = path.read_text(encoding="utf-8")
    return render(diagnose(text, name), {name: Source(name, text)}) + "\n"

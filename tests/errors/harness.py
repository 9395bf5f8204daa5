"""What the error tests run: one spec with a mistake to the text that a person sees. Shared by the tests and by `record.py`.

A mistake inside a library definition shows that place too; its path is written from the library's folder on, so that the expected texts
are the same wherever the library is installed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from gradflow.compiler import check_source
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.printer import render
from gradflow.language.source import Source
from gradflow.passes.scope import standard_files, standard_folder

FOLDER = Path(__file__).parent


def specs() -> list[Path]:
    return sorted(FOLDER.glob("*/**/*.gflow"))


@cache
def diagnose(text: str, name: str) -> tuple[Diagnostic, ...]:
    """All diagnostics for one text."""
    return tuple(check_source(Source(name, text)))


@cache
def library() -> dict[str, Source]:
    """The files of the standard library by the name that spans have."""
    return {str(path): Source.read(path) for path in standard_files()}


def rendered(path: Path) -> str:
    """What `gradflow check` prints for a file, its name relative to this folder."""
    name = path.relative_to(FOLDER).as_posix()
    text = path.read_text(encoding="utf-8")
    shown = render(diagnose(text, name), {**library(), name: Source(name, text)}) + "\n"
    return shown.replace(f"{standard_folder()}/", "")

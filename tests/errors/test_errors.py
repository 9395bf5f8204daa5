"""Every spec in this folder holds a mistake, and the text beside it is exactly what a person is told about it; every code has such a spec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gradflow
from gradflow.language.codes import PAGES
from gradflow.language.fixes import apply_edits
from tests.errors.harness import FOLDER, diagnose, rendered, specs


@pytest.mark.parametrize("path", specs(), ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_message(path: Path) -> None:
    expected = path.with_suffix(".txt")
    assert expected.exists(), "no expected output: run python -m tests.errors.record"
    assert rendered(path) == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", specs(), ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_diagnostic_is_complete(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = diagnose(text, path.name)
    assert found, "this spec should have a mistake"
    for diagnostic in found:
        assert diagnostic.code in PAGES
        assert diagnostic.why and diagnostic.fix and diagnostic.message
        assert diagnostic.span.file == path.name and 0 <= diagnostic.span.offset <= diagnostic.span.end <= len(text)
        assert all(edit.span.file == path.name for edit in diagnostic.edits)


def test_no_orphans() -> None:
    """No expected output without its spec."""
    assert {path.with_suffix(".gflow") for path in FOLDER.glob("*/**/*.txt")} <= set(specs())


LITERAL = re.compile(r'"([EW]\d{4})"')
ELSEWHERE = {"E0209", "E0212", "E0213", "E0214", "E0215"}  # what no text alone can give: test_compiler.py
COMMANDS = {"E0216", "E0217"}  # `gradflow verify`: tests of the verification


def raised(*folders: str) -> set[str]:
    """Every code that occurs in the sources as a literal."""
    root = Path(gradflow.__file__).parent
    files = [path for folder in folders for path in (root / folder).rglob("*.py")] + [root / "compiler.py"]
    return {code for path in files for code in LITERAL.findall(path.read_text(encoding="utf-8"))}


def test_every_code_has_a_page() -> None:
    assert raised(".") == set(PAGES)


def test_every_code_has_a_spec() -> None:
    codes = {diagnostic.code for path in specs() for diagnostic in diagnose(path.read_text(encoding="utf-8"), path.name)}
    assert (raised("language", "passes", "builtins", "analyses") | set(PAGES)) - ELSEWHERE - COMMANDS == codes


@pytest.mark.parametrize("code", sorted(code for code in PAGES if not PAGES[code].command))
def test_pages(code: str) -> None:
    """The bad example of a page gives its code and no other, the good one nothing."""
    page = PAGES[code]
    assert {diagnostic.code for diagnostic in diagnose(page.wrong, "wrong.gflow")} == {code}
    assert not diagnose(page.right, "right.gflow")


def test_pages_of_commands() -> None:
    assert {code for code in PAGES if PAGES[code].command} == ELSEWHERE | COMMANDS


EDITED = [path for path in specs() if any(diagnostic.edits for diagnostic in diagnose(path.read_text(encoding="utf-8"), path.name))]


@pytest.mark.parametrize("path", EDITED, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_edits_mend(path: Path) -> None:
    """Every edit removes the mistake that it belongs to: round after round, the text ends without a diagnostic that has an edit."""
    text = path.read_text(encoding="utf-8")
    for _ in range(10):
        edits = [edit for diagnostic in diagnose(text, path.name) for edit in diagnostic.edits]
        if not edits:
            return
        before = {(d.code, d.span.line, d.message) for d in diagnose(text, path.name) if d.edits}
        text = apply_edits(text, edits)
        after = {(d.code, d.span.line, d.message) for d in diagnose(text, path.name) if d.edits}
        assert not before & after
    raise AssertionError("the edits do not come to an end")

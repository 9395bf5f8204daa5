"""Every spec in this folder holds a mistake, and the text beside it is exactly what a person is told about it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        for label in diagnostic.secondary:
            assert label.span.file == path.name


def test_no_orphans() -> None:
    """No expected output without its spec."""
    assert {path.with_suffix(".gflow") for path in FOLDER.glob("*/**/*.txt")} <= set(specs())


def test_syntax_codes_have_specs() -> None:
    codes = {diagnostic.code for path in specs() for diagnostic in diagnose(path.read_text(encoding="utf-8"), path.name)}
    assert {code for code in PAGES if code.startswith("E01")} <= codes


@pytest.mark.parametrize("code", sorted(code for code in PAGES if code.startswith("E01")))
def test_pages(code: str) -> None:
    """The bad example of a page gives its code, the good one parses."""
    page = PAGES[code]
    assert diagnose(page.wrong, "wrong.gflow")[0].code == code
    assert not diagnose(page.right, "right.gflow")


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

"""Diagnostics as data: what is wrong, where, why, and how to mend it.

Wording is made where the mistake is found; how it looks on a screen, as JSON or as SARIF is `printer.py`'s business. Every code has
a page in `gradflow/language/codes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from gradflow.language.source import Span


@dataclass(frozen=True)
class Edit:
    """Replace the text of `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True)
class Label:
    """A secondary place and what to say about it."""

    span: Span
    text: str


@dataclass(frozen=True)
class Diagnostic:
    """One mistake (or warning): `code` starts with E or W; `label` stands beside the carets; `edits` are machine-applicable."""

    code: str
    message: str
    span: Span
    label: str = ""
    secondary: tuple[Label, ...] = ()
    why: str = ""
    fix: str = ""
    edits: tuple[Edit, ...] = ()

    @property
    def severity(self) -> str:
        return "error" if self.code.startswith("E") else "warning"


class GradflowError(Exception):
    """The one public error of the language and its compiler: carries the diagnostics that made it fail."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(sentence, self.diagnostics)))


def sentence(diagnostic: Diagnostic) -> str:
    """A diagnostic on one line, for where there is no room to show the text."""
    rest = "; ".join(part for part in (diagnostic.why, diagnostic.fix) if part)
    return f"{diagnostic.span}: {diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}{f' ({rest})' if rest else ''}"


class Mistake(Exception):
    """One diagnostic on its way up to the place that collects them. Never leaves the compiler."""

    def __init__(self, diagnostic: Diagnostic, more: Callable[[], dict[str, Any]] | None = None):
        self._diagnostic, self._more = diagnostic, more
        super().__init__(diagnostic.message)

    @property
    def diagnostic(self) -> Diagnostic:
        if self._more is not None:
            self._diagnostic, self._more = replace(self._diagnostic, **self._more()), None
        return self._diagnostic


def mistake(code: str, span: Span, message: str, more: Callable[[], dict[str, Any]] | None = None, **rest: object) -> Mistake:
    """`more` gives fields that take time to find (a near name); it is asked only where the mistake is reported, not where it is tried around."""
    return Mistake(Diagnostic(code, message, span, **rest), more)  # type: ignore[arg-type]


@dataclass
class Report:
    """Collects diagnostics; the checker goes on after an error and reports all of them, each once."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def add(self, diagnostic: Diagnostic) -> None:
        key = (diagnostic.code, diagnostic.span, diagnostic.message)
        if all((d.code, d.span, d.message) != key for d in self.diagnostics):
            self.diagnostics.append(diagnostic)

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.severity == "error"]

    def sorted(self) -> list[Diagnostic]:
        return sorted(self.diagnostics, key=lambda d: (d.span.file, d.span.offset, d.code))

    def raise_errors(self) -> None:
        if self.errors:
            raise GradflowError(self.sorted())


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean `x`?`, or nothing: the suggestion that follows an unknown name. Letters that changed places are the likeliest slip."""
    close = get_close_matches(name, list(known), n=5, cutoff=0.6)
    close.sort(key=lambda one: sorted(one) != sorted(name))
    return f"did you mean `{close[0]}`?" if close else ""

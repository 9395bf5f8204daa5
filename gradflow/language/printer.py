"""Diagnostics as text: for people (`full`, `concise`), for programs (`json`, `sarif`) and for a forge's annotations (`github`).

What is said was decided where the mistake was found; here it is only laid out. `full` shows the source line with carets under the
place, tabs expanded and wide characters counted as two columns; the other formats live in `reports.py`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Source, Span

FORMATS = ("full", "concise", "json", "sarif", "github")
TAB = 4
NARROWEST = 40
COLORS = {"error": "1;31", "warning": "1;33", "gutter": "34", "label": "36", "bold": "1"}


def render(diagnostics: Sequence[Diagnostic], sources: Mapping[str, Source], format: str = "full", color: bool = False, width: int = 100) -> str:
    """All diagnostics in one of `FORMATS`, without a line end at the end. `sources` are the files that spans name."""
    if format == "full":
        page = _Page(sources, _Paint(color), max(width, NARROWEST))
        return "\n\n".join([*(page.diagnostic(d) for d in diagnostics), *([summary(diagnostics)] if diagnostics else [])])
    if format == "concise":
        return "\n".join(f"{d.span}: {d.severity}[{d.code}]: {d.message}" for d in diagnostics)
    from gradflow.language import reports

    if format == "json":
        return reports.as_json(diagnostics, sources)
    if format == "sarif":
        return reports.as_sarif(diagnostics, sources)
    if format == "github":
        return reports.as_github(diagnostics, sources)
    raise ValueError(f"unknown format {format!r}: one of {', '.join(FORMATS)}")


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """`2 errors, 1 warning`."""
    counts = [(sum(d.severity == kind for d in diagnostics), kind) for kind in ("error", "warning")]
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in counts if count) or "no errors"


@dataclass(frozen=True)
class _Paint:
    color: bool

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{COLORS[style]}m{text}\x1b[0m" if self.color and text else text


@dataclass(frozen=True)
class _Mark:
    """One underlined place of one source line."""

    span: Span
    text: str
    primary: bool


@dataclass(frozen=True)
class _Page:
    sources: Mapping[str, Source]
    paint: _Paint
    width: int

    def diagnostic(self, d: Diagnostic) -> str:
        marks = [_Mark(d.span, d.label, True), *(_Mark(label.span, label.text, False) for label in d.secondary)]
        shown = [mark for mark in marks if self._line(mark.span) is not None]
        digits = max((len(str(mark.span.line)) for mark in shown), default=1)
        empty = " " * (digits + 1) + self.paint("gutter", " |")
        lines = [self.paint(d.severity, f"{d.severity}[{d.code}]") + self.paint("bold", f": {d.message}")]
        if d.span.file:
            lines.append(" " * (digits + 1) + self.paint("gutter", "--> ") + str(d.span))
        for file in dict.fromkeys(mark.span.file for mark in shown):
            here = [mark for mark in shown if mark.span.file == file]
            if file != d.span.file:
                lines.append(" " * (digits + 1) + self.paint("gutter", "::: ") + str(here[0].span))
            lines += [empty, *self._excerpt(here, digits)]
        if shown and (d.why or d.fix):
            lines.append(empty)
        lines += self._note("why", d.why, digits) + self._note("fix", d.fix, digits)
        return "\n".join(line.rstrip() for line in lines)

    def _line(self, span: Span) -> str | None:
        source = self.sources.get(span.file)
        return source.line(span.line) if source is not None and 1 <= span.line <= len(source.starts) else None

    def _excerpt(self, marks: list[_Mark], digits: int) -> list[str]:
        """The source lines of one file that carry marks, each followed by its underlines."""
        lines: list[str] = []
        before = 0
        for number in sorted({mark.span.line for mark in marks}):
            if before and number == before + 2:
                lines += self._source_line(marks[0].span.file, before + 1, [], digits)
            elif before and number > before + 2:
                lines.append(" " * digits + self.paint("gutter", "..."))
            lines += self._source_line(marks[0].span.file, number, [m for m in marks if m.span.line == number], digits)
            before = number
        return lines

    def _source_line(self, file: str, number: int, marks: list[_Mark], digits: int) -> list[str]:
        text = self.sources[file].line(number)
        room = self.width - digits - 4
        columns = display_columns(text)
        places = [(mark, *_place(mark.span, columns)) for mark in sorted(marks, key=lambda m: (not m.primary, m.span.column))]
        start = _window(columns[-1], [(left, right) for _, left, right in places], room)
        gutter = self.paint("gutter", f" {number:>{digits}} |")
        lines = [f"{gutter} {_crop(text, start, room)}"]
        empty = " " * (digits + 1) + self.paint("gutter", " |")
        for mark, left, right in places:
            left, right = min(max(left - start, 0), room - 1), min(max(right - start, 1), room)
            lines += [f"{empty} {line}" for line in self._underline(mark, left, max(right, left + 1), room)]
        return lines

    def _underline(self, mark: _Mark, left: int, right: int, room: int) -> list[str]:
        style = "error" if mark.primary else "label"
        carets = " " * left + self.paint(style, ("^" if mark.primary else "-") * (right - left))
        if not mark.text:
            return [carets]
        if right + 1 + len(mark.text) <= room:
            return [f"{carets} {self.paint(style, mark.text)}"]
        indent = max(min(left, room - len(mark.text)), min(left, room // 3))
        return [carets, *(" " * indent + self.paint(style, line) for line in wrap(mark.text, room - indent, break_on_hyphens=False))]

    def _note(self, word: str, text: str, digits: int) -> list[str]:
        if not text:
            return []
        opening = " " * (digits + 2) + "= "
        lines: list[str] = []
        for part in text.split("\n"):
            lines += wrap(part, self.width - len(opening) - 5, break_on_hyphens=False, break_long_words=False) or [""]
        first = f"{' ' * (digits + 2)}{self.paint('gutter', '=')} {self.paint('bold', word + ':')} {lines[0]}"
        return [first, *(" " * (len(opening) + 5) + line for line in lines[1:])]


# ---- columns on a screen


def display_columns(text: str) -> list[int]:
    """The screen column (from 0) at which each character of a line begins, and where the line ends."""
    columns = [0]
    for character in text:
        columns.append(columns[-1] + _character_width(character, columns[-1]))
    return columns


def _character_width(character: str, column: int) -> int:
    if character == "\t":
        return TAB - column % TAB
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _shown(character: str, column: int) -> str:
    if character == "\t":
        return " " * _character_width(character, column)
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _place(span: Span, columns: list[int]) -> tuple[int, int]:
    """The screen columns of a span; one that goes on in the next line ends where its first line does."""
    first = min(span.column - 1, len(columns) - 1)
    last = min(first + span.length, len(columns) - 1)
    return columns[first], max(columns[last], columns[first] + 1)


def _window(length: int, places: list[tuple[int, int]], room: int) -> int:
    """The first screen column to show of a line too long for the screen: such that the first place (the primary one) is seen."""
    if length <= room or not places:
        return 0
    left, right = min(p[0] for p in places), max(p[1] for p in places)
    if right - left > room - 8:
        left, right = places[0]
    if right <= room - 4:
        return 0
    return max(min(left - 4, max(right - room + room // 4, left - room // 2), length - room + 4), 0)


def _crop(text: str, start: int, room: int) -> str:
    """The part of a line from screen column `start`, `room` columns wide, with `...` where something is cut off."""
    columns = display_columns(text)
    whole = "".join(_shown(character, column) if start <= column else "" for character, column in zip(text, columns))
    if start:
        whole = "..." + whole[3:]
    if columns[-1] - start > room:
        kept = "".join(_shown(c, at) for c, at, end in zip(text, columns, columns[1:]) if start <= at and end - start <= room - 3)
        whole = ("..." + kept[3:] if start else kept) + "..."
    return whole

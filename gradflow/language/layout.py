"""A small algebra of layouts, after Wadler's "A prettier printer": text, places where a line may break, groups that break together.

`pretty` lays a document out in a given width: a group stands on one line if it fits, else its own `Line`s break (an inner group may
still fit). The formatter builds these documents; nothing here knows of the language.
"""

from __future__ import annotations

from dataclasses import dataclass

INDENT = 2
WIDTH = 120


@dataclass(frozen=True)
class Line:
    """A place to break: `flat` when its group stands on one line, else a new line. `hard` always breaks, and its group with it."""

    flat: str = " "
    hard: bool = False


@dataclass(frozen=True)
class Indent:
    body: Doc


@dataclass(frozen=True)
class Group:
    body: Doc


@dataclass(frozen=True)
class Fill:
    """Entries with a breakable space behind each: as many on a line as fit."""

    entries: tuple[Doc, ...]


@dataclass(frozen=True)
class Remark:
    """A comment: takes no width, and the line must end behind it."""

    text: str


Doc = str | tuple["Doc", ...] | Line | Indent | Group | Fill | Remark

SOFT = Line("")
SPACE = Line(" ")
HARD = Line("", hard=True)


def flat(doc: Doc) -> str | None:
    """The document on one line; None if something in it must break."""
    if isinstance(doc, str):
        return doc
    if isinstance(doc, Line):
        return None if doc.hard else doc.flat
    if isinstance(doc, Remark):
        return None
    if isinstance(doc, Indent | Group):
        return flat(doc.body)
    parts: list[str] = []
    for part in doc.entries if isinstance(doc, Fill) else doc:
        text = flat(part)
        if text is None:
            return None
        parts.append(text)
    return (" " if isinstance(doc, Fill) else "").join(parts)


def pretty(doc: Doc, width: int, indent: int = 0, column: int = 0) -> str:
    """The laid out text; its first line begins at `column`, its further lines are indented by `indent`."""
    writer = _Writer(width, column)
    writer.write(doc, indent, False)
    return "".join(writer.parts)


class _Writer:
    def __init__(self, width: int, column: int):
        self.width = width
        self.column = column
        self.parts: list[str] = []

    def write(self, doc: Doc, indent: int, is_flat: bool, after: int = 0) -> None:
        """`after` is the width of what must follow on the same line: a group leaves room for it."""
        if isinstance(doc, str):
            self.parts.append(doc)
            self.column += len(doc)
        elif isinstance(doc, Remark):
            self.parts.append(doc.text)
        elif isinstance(doc, Line):
            if is_flat and not doc.hard:
                self.write(doc.flat, indent, True)
            else:
                self.parts.append("\n" + " " * indent)
                self.column = indent
        elif isinstance(doc, Indent):
            self.write(doc.body, indent + INDENT, is_flat, after)
        elif isinstance(doc, Group):
            text = flat(doc.body)
            fits = text is not None and self.column + len(text) + after <= self.width
            self.write(doc.body, indent, is_flat or fits, after)
        elif isinstance(doc, Fill):
            self._fill(doc, indent, after)
        else:
            for position, part in enumerate(doc):
                self.write(part, indent, is_flat, _leading(doc[position + 1 :], after))

    def _fill(self, doc: Fill, indent: int, after: int) -> None:
        for position, entry in enumerate(doc.entries):
            text = flat(entry) or ""
            room = after if position == len(doc.entries) - 1 else 0
            if position and self.column + 1 + len(text) + room > self.width:
                self.write(HARD, indent, False)
            elif position:
                self.write(" ", indent, False)
            self.write(entry, indent, True)


def _leading(rest: tuple[Doc, ...], after: int) -> int:
    """The width of the text that follows before the next place to break."""
    width = 0
    for part in rest:
        text, ends = _before_line(part)
        width += text
        if ends:
            return width
    return width + after


def _before_line(doc: Doc) -> tuple[int, bool]:
    """The width of a document's text up to its first `Line`, and whether it has one."""
    if isinstance(doc, str):
        return len(doc), False
    if isinstance(doc, Line | Remark):
        return 0, True
    if isinstance(doc, Indent | Group):
        return _before_line(doc.body)
    width = 0
    for part in doc.entries if isinstance(doc, Fill) else doc:
        text, ends = _before_line(part)
        width += text
        if ends:
            return width, True
    return width, False

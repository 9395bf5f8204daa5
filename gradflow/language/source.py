"""Source text and the spans that point into it.

A span is what every syntax node, graph node and diagnostic carries: file, line, column, length. Columns count from 1, offsets
from 0, both in characters. This module knows nothing of the grammar.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text: `length` characters from `offset`, which is `line`:`column` of `file`."""

    file: str
    offset: int
    length: int
    line: int
    column: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.file, self.offset, max(other.end - self.offset, 0), self.line, self.column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


NOWHERE = Span("<built-in>", 0, 0, 1, 1)


@dataclass(frozen=True)
class Source:
    """The text of one file (or of a `-p` override), with its line starts."""

    name: str
    text: str
    starts: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        starts = [0]
        position = self.text.find("\n")
        while position >= 0:
            starts.append(position + 1)
            position = self.text.find("\n", position + 1)
        object.__setattr__(self, "starts", tuple(starts))

    @staticmethod
    def read(path: Path) -> Source:
        """Reads a file. Raises OSError or UnicodeDecodeError; the caller turns them into diagnostics."""
        return Source(str(path), path.read_text(encoding="utf-8"))

    def span(self, offset: int, end: int) -> Span:
        offset = min(max(offset, 0), len(self.text))
        line = bisect_right(self.starts, offset)
        return Span(self.name, offset, max(min(end, len(self.text)) - offset, 0), line, offset - self.starts[line - 1] + 1)

    def find(self, word: str, span: Span, start: int = 0) -> Span:
        """The span of a word inside of another one, from `start` in the text on; the whole where it is not there."""
        place = self.text.find(word, max(span.offset, start), span.end)
        return self.span(place, place + len(word)) if place >= 0 else span

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its line end."""
        start = self.starts[number - 1]
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[start:end].rstrip("\r")

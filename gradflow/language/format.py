"""The canonical layout of a file: `gradflow format`.

Two spaces a level, lines up to 120 columns where they can be broken, at most one blank line, a block on one line only where its
author wrote it so and it fits. What the author aligned in a column (`<-` under `=`, comments under comments) stays aligned.
Formatting keeps the meaning (`syntax.shape`) and every comment, and formatting twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gradflow.language import syntax as s
from gradflow.language.format_expressions import Comments
from gradflow.language.format_statements import Row, Rows
from gradflow.language.layout import INDENT, WIDTH, flat, pretty
from gradflow.language.parser import parse
from gradflow.language.source import Source


def format_source(source: Source) -> str:
    """The text in canonical layout. Raises GradflowError where the source does not parse."""
    tree = parse(source)
    formatter = _Formatter(source, tree)
    formatter.body(tree.items, 0, len(source.text), 0)
    return formatter.text()


@dataclass(frozen=True)
class _Written:
    """A line of the result; the trailing comment with its column in the source, and the definition it belongs to."""

    text: str
    remark: str = ""
    column: int = 0
    definition: int = 0


class _Formatter:
    def __init__(self, source: Source, tree: s.File):
        self.source = source
        self.comments = Comments(tree.comments)
        self.rows = Rows(source, self.comments)
        self.lines: list[_Written] = []
        self.definition = 0
        self.last_line = 0

    def text(self) -> str:
        """All lines with their trailing comments: two spaces behind the text, or in the column they share with others."""
        groups: dict[tuple[int, int], list[_Written]] = {}
        for line in self.lines:
            if line.remark:
                groups.setdefault((line.definition, line.column), []).append(line)
        widest = {key: max(len(line.text) for line in group) + 2 for key, group in groups.items()}
        kept: dict[int, int] = {}
        for (definition, column), group in groups.items():
            if widest[definition, column] < column:
                kept[column] = kept.get(column, 0) + len(group)
        shown: list[str] = []
        for line in self.lines:
            place = widest.get((line.definition, line.column), 0)
            if place < line.column and kept.get(line.column, 0) > 1:
                place = line.column - 1
            shown.append(f"{line.text:<{place}}{line.remark}" if line.remark else line.text)
        return "\n".join(shown).strip("\n") + "\n" if any(shown) else ""

    def _line_of(self, offset: int) -> int:
        return self.source.span(offset, offset).line

    # ---- lines of the result

    def _write(self, text: str, remark: s.Comment | None = None) -> None:
        lines = text.split("\n")
        self.lines += [_Written(line.rstrip(), definition=self.definition) for line in lines[:-1]]
        if remark is None:
            self.lines.append(_Written(lines[-1].rstrip(), definition=self.definition))
        else:
            self.lines.append(_Written(lines[-1].rstrip(), remark.text, remark.span.column, self.definition))

    def _blank_before(self, offset: int, first: bool) -> None:
        if not first and self._line_of(offset) > self.last_line + 1:
            self.lines.append(_Written(""))

    def _alone(self, comments: Sequence[s.Comment], indent: int, first: bool) -> bool:
        """Comments on lines of their own; whether what follows is still the first thing of its block."""
        for comment in comments:
            self._blank_before(comment.span.offset, first)
            self._write(" " * indent + comment.text)
            self.last_line = comment.span.line
            first = False
        return first

    def _remark(self, start: int, end: int) -> s.Comment | None:
        """The trailing comment on the line of `start`, if there is one before `end`."""
        line = self._line_of(start)
        for comment in self.comments.left:
            if start <= comment.span.offset < end and comment.span.line == line and not comment.alone:
                self.comments.take(comment.span.offset, comment.span.end)
                return comment
        return None

    # ---- bodies

    def body(self, nodes: Sequence[s.Node], start: int, end: int, indent: int) -> None:
        """The statements (or definitions) between two offsets, each on its own line, with the comments between them."""
        leading: list[list[s.Comment]] = []
        remarks: list[s.Comment | None] = []
        rows: list[Row] = []
        position = start
        for number, node in enumerate(nodes):
            following = nodes[number + 1].span.offset if number + 1 < len(nodes) else end
            leading.append(self.comments.take(position, node.span.offset))
            rows.append(self.rows.of(node))
            remarks.append(self._remark(node.span.end, following))
            position = node.span.end
        first = True
        for row, above, remark in zip(self._aligned(rows), leading, remarks):
            first = self._alone(above, indent, first)
            self._blank_before(row.node.span.offset, first)
            self._statement(row, indent, remark)
            self.last_line = self._line_of(row.node.span.end)
            first = False
            self.definition += isinstance(row.node, s.Definition)
        self._alone(self.comments.take(position, end), indent, first)

    def _statement(self, row: Row, indent: int, remark: s.Comment | None) -> None:
        for comment in row.hoisted:
            self._write(" " * indent + comment.text)
        margin = " " * indent
        if row.body is None:
            self._write(margin + pretty(row.doc, WIDTH, indent, indent), remark)
            return
        one_line = self._one_line(row)
        if one_line is not None and indent + len(one_line) <= WIDTH:
            self._write(margin + one_line, remark)
            return
        closing = row.node.span.end - 1
        opening = self.rows.braces[closing]
        head_remark = self._remark(opening, row.body[0].span.offset if row.body else closing)
        self._write(margin + pretty((row.doc, " {"), WIDTH, indent, indent), head_remark)
        self.last_line = self._line_of(opening)
        self.body(row.body, opening + 1, closing, indent + INDENT)
        self._write(margin + "}", remark)

    def _one_line(self, row: Row) -> str | None:
        """`head { a; b }` where the source has the block on one line."""
        head = flat(row.doc)
        if row.body is None or head is None:
            return head
        closing = row.node.span.end - 1
        if "\n" in self.source.text[self.rows.braces[closing] : closing]:
            return None if row.body or any(self.rows.braces[closing] < c.span.offset < closing for c in self.comments.left) else f"{head} {{}}"
        statements = [self._one_line(self.rows.of(node)) for node in row.body]
        if any(statement is None for statement in statements):
            return None
        return f"{head} {{ {'; '.join(statement or '' for statement in statements)} }}" if statements else f"{head} {{}}"

    # ---- alignment

    def _aligned(self, rows: Sequence[Row]) -> list[Row]:
        """Pads keywords and operators of neighboring lines that stand in one column in the source."""
        result = list(rows)
        for run in self._runs(result, lambda row: row.keyword_end, lambda row: isinstance(row.node, s.Bind)):
            width = max(len(result[number].keyword) for number in run)
            for number in run:
                result[number] = replace(result[number], keyword=result[number].keyword.ljust(width))
        for run in self._runs(result, lambda row: row.op_end, lambda row: False):
            width = max(len(result[number].prefix) + 1 + len(result[number].op) for number in run)
            for number in run:
                row = result[number]
                result[number] = replace(row, op=row.op.rjust(width - len(row.prefix) - 1))
        return result

    def _runs(self, rows: Sequence[Row], column: Callable[[Row], int], passes: Callable[[Row], bool]) -> list[list[int]]:
        """Runs of rows on lines that follow each other, with the same `column`. Rows that `passes` do not end a run."""
        runs: list[list[int]] = []
        run: list[int] = []
        for number, row in enumerate(rows):
            if number:
                before = rows[number - 1].node.span
                if row.hoisted or row.node.span.line != self._line_of(before.end) + 1:
                    run = []
            if column(row) < 0:
                run = run if passes(row) else []
            elif run and column(rows[run[0]]) == column(row):
                run.append(number)
            else:
                run = [number]
                runs.append(run)
        return [run for run in runs if len(run) > 1]

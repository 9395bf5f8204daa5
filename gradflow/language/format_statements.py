"""Statements and definitions as rows: what can be aligned apart from what can be broken. `format.py` makes lines of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gradflow.language import syntax as s
from gradflow.language.format_expressions import Comments, Expressions
from gradflow.language.layout import SPACE, WIDTH, Doc, Group, Indent, flat
from gradflow.language.source import Source

BRACES = re.compile(r'"[^"\n]*"|#[^\n]*|[{}]')
NAMES = re.compile(r"\w+(?:\s*,\s*\w+)*")
TO_CLOSING = re.compile(r"(?:[\s,]|#[^\n]*)*\)")
SPACES = re.compile(r"[ \t]*")


@dataclass(frozen=True)
class Row:
    """One statement: `keyword left op rest`. Only `rest` (or the head of a block) may break; the first three can be aligned.

    `keyword_end` and `op_end` are the columns in the source behind the gap after the keyword and behind the operator.
    """

    node: s.Node
    rest: Doc
    keyword: str = ""
    left: str = ""
    op: str = ""
    keyword_end: int = -1
    op_end: int = -1
    hoisted: tuple[s.Comment, ...] = ()
    body: tuple[s.Node, ...] | None = None

    @property
    def prefix(self) -> str:
        return " ".join(part for part in (self.keyword, self.left) if part)

    @property
    def doc(self) -> Doc:
        parts = [part for part in (self.prefix, self.op) if part]
        return (" ".join(parts), " " if parts else "", self.rest)


class Rows:
    """Makes the row of a statement or a definition; the comments in its head are placed, or hoisted above it."""

    def __init__(self, source: Source, comments: Comments):
        self.source = source
        self.comments = comments
        self.expressions = Expressions(comments)
        self.braces: dict[int, int] = {}
        opened: list[int] = []
        for match in BRACES.finditer(source.text):
            if match.group() == "{":
                opened.append(match.start())
            elif match.group() == "}" and opened:
                self.braces[match.start()] = opened.pop()

    def of(self, node: s.Node) -> Row:
        body = getattr(node, "body", None)
        row = replace(self._row(node), body=body)
        end = node.span.end if body is None else self.braces[node.span.end - 1]
        return replace(row, hoisted=tuple(self.comments.take(node.span.offset, end)))

    def _row(self, node: s.Node) -> Row:
        expr, type_ = self.expressions.expr, self.expressions.type
        match node:
            case s.Doc():
                return self._keyword(node, node.kind, f'"{node.text}"')
            case s.Input():
                default: Doc = (" = ", expr(node.default)) if node.default is not None else ""
                return self._named(node, "input", node.names, ":", (type_(node.type), default))
            case s.Vary():
                return self._named(node, "vary", node.names, ":", type_(node.type))
            case s.State():
                sign = "~" if node.drawn else "="
                value: Doc = (expr(node.init), self._storage(node.storage))
                if node.type is None:
                    return self._named(node, "state", node.names, sign, value)
                return self._named(node, "state", node.names, ":", (type_(node.type), f" {sign} ", value))
            case s.Declare():
                return self._named(node, node.kind, node.names, "=", (expr(node.value), self._storage(node.storage)))
            case s.ReportAs():
                return self._named(node, "report", (node.name,), "=", expr(node.value))
            case s.Bind():
                left = ", ".join(self.expressions.inline(target) for target in node.targets)
                return Row(node, expr(node.value), "", left, node.op, -1, self._sign_end(node, node.targets[-1].span.end, node.op))
            case s.ScheduleIs():
                return Row(node, expr(node.value), "", "schedule", "=", -1, self._sign_end(node, node.span.offset + len("schedule"), "="))
            case s.Flow():
                targets = ", ".join(self.expressions.inline(target) for target in node.targets)
                over: Doc = (" over ", expr(node.over)) if node.over is not None else ""
                return self._keyword(node, "flow", (targets, over, f" per {node.per}" if node.per else "", ": ", expr(node.value)))
            case s.Definition():
                return self._definition(node)
        return Row(node, self._plain(node))

    # ---- what is aligned

    def _column(self, node: s.Node, offset: int) -> int:
        """The column of an offset on the first line of a statement, else -1."""
        span = self.source.span(offset, offset)
        return span.column if span.line == node.span.line else -1

    def _after_keyword(self, node: s.Node, keyword: str) -> int:
        match = SPACES.match(self.source.text, node.span.offset + len(keyword))
        return match.end() if match else node.span.offset

    def _keyword(self, node: s.Node, keyword: str, rest: Doc) -> Row:
        return Row(node, rest, keyword, keyword_end=self._column(node, self._after_keyword(node, keyword)))

    def _named(self, node: s.Node, keyword: str, names: tuple[str, ...], op: str, rest: Doc) -> Row:
        start = self._after_keyword(node, keyword)
        match = NAMES.match(self.source.text, start)
        op_end = self._sign_end(node, match.end() if match else start, op)
        return Row(node, rest, keyword, ", ".join(names), op, self._column(node, start), op_end)

    def _sign_end(self, node: s.Node, left_end: int, op: str) -> int:
        match = SPACES.match(self.source.text, left_end)
        return self._column(node, (match.end() if match else left_end) + len(op))

    # ---- what is not

    def _storage(self, storage: s.Expr | None) -> Doc:
        return (" as ", self.expressions.expr(storage)) if storage is not None else ""

    def _definition(self, node: s.Definition) -> Row:
        after = SPACES.match(self.source.text, node.name_span.end)
        parentheses = after is not None and self.source.text[after.end() : after.end() + 1] == "("
        end = self._closing(node.params[-1].span.end) if node.params else node.name_span.end
        params: Doc = self.expressions.params(node.params, node.name_span.end, end) if parentheses else ""
        pattern: Doc = (" on ", self.expressions.pattern(node.pattern)) if node.pattern is not None else ""
        over: Doc = (" over ", self.expressions.expr(node.over)) if node.over is not None else ""
        head: Doc = (f"{node.kind} {node.name}", params, pattern, over)
        if node.value is None:
            return Row(node, head)
        value = self.expressions.expr(node.value)
        whole: Doc = (head, " =", Group(Indent((SPACE, value))))
        line = flat(whole)
        if line is None or len(line) > WIDTH:
            return Row(node, whole)
        before = self.source.text[: node.value.span.offset].rstrip()
        return Row(node, value, "", flat(head) or "", "=", -1, self._column(node, len(before)) if before.endswith("=") else -1)

    def _settings(self, node: s.Train) -> Doc:
        if not node.args:
            return ""
        return (" ", self.expressions.bracketed("(", node.args, ")", node.count.span.end, self._closing(node.args[-1].span.end)))

    def _closing(self, last: int) -> int:
        """Where the parenthesis is closed whose last entry ends at `last`."""
        match = TO_CLOSING.match(self.source.text, last)
        return match.end() if match else last

    def _plain(self, node: s.Node) -> Doc:
        expr = self.expressions.expr
        match node:
            case s.Import():
                return f'import "{node.path}"' + (f" as {node.alias}" if node.alias else "")
            case s.Minimize():
                return ("minimize ", expr(node.value))
            case s.SubjectTo():
                return ("subject to ", f"{node.name}: " if node.name else "", expr(node.value))
            case s.Return():
                return ("return ", expr(node.value))
            case s.Require():
                return (f"{node.kind} ", expr(node.value), "" if node.message is None else f', "{node.message}"')
            case s.Gives():
                return ("gives ", expr(node.value))
            case s.Cut():
                return (f"cut {node.axis} by ", expr(node.size))
            case s.Recompute():
                return f"recompute {node.name}"
            case s.Carry():
                return (f"carry {node.name} = ", expr(node.value))
            case s.Link():
                condition: Doc = (" if ", expr(node.condition)) if node.condition is not None else ""
                return (f"link {node.first} {'->' if node.directed else '<->'} {node.second}", condition)
            case s.Bare():
                return node.word
        return self._head(node)

    def _head(self, node: s.Node) -> Doc:
        """What stands before the block of a statement."""
        expr = self.expressions.expr
        match node:
            case s.When():
                return ("when ", expr(node.condition))
            case s.Repeat():
                axis: Doc = (" ", self.expressions.axis(node.axis)) if node.axis is not None else ""
                values = tuple((" with " if not i else ", ", f"{v.name} = ", expr(v.value)) for i, v in enumerate(node.values))
                until: Doc = (" until ", expr(node.until)) if node.until is not None else ""
                return ("repeat", axis, " backward" if node.backward else "", values, until)
            case s.On():
                rate: Doc = (" ~ ", expr(node.rate)) if node.rate is not None else ""
                return ("on ", "each " if node.each else "", self.expressions.pattern(node.pattern), rate)
            case s.Backward():
                return "backward"
            case s.Every():
                return ("every ", (expr(node.count), " ") if node.count is not None else "", node.unit)
            case s.Train():
                return ("train ", expr(node.count), f" {node.unit}", self._settings(node))
        raise TypeError(f"no layout for {type(node).__name__}")

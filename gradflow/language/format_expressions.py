"""Expressions, types and patterns as layouts, with the comments that stand inside them.

Parentheses are nodes of the tree, so nothing is added or dropped. A comment behind an argument, a parameter, a stage of a flow or a
term stays behind it; `format.py` puts those that find no such place above their statement.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradflow.language import syntax as s
from gradflow.language.layout import HARD, SOFT, SPACE, Doc, Fill, Group, Indent, Remark, flat

WIDEST_PARAM = 80
MOST_ATOMS = 8
LEVELS = {"or": 0, "and": 1, "+": 2, "-": 2, "*": 3, "/": 3, "^": 4}


class Comments:
    """The comments that are not yet placed, in the order of the text."""

    def __init__(self, comments: Sequence[s.Comment]):
        self.left = sorted(comments, key=lambda comment: comment.span.offset)

    def take(self, start: int, end: int) -> list[s.Comment]:
        """Those between two offsets; they count as placed."""
        if not self.left:
            return []
        taken = [c for c in self.left if start <= c.span.offset < end]
        if taken:
            self.left = [c for c in self.left if not start <= c.span.offset < end]
        return taken


def _remarks(comments: Sequence[s.Comment]) -> Doc:
    """Comments on lines of their own, before what follows."""
    return tuple(part for c in comments for part in (Remark(c.text), HARD))


class Expressions:
    def __init__(self, comments: Comments):
        self.comments = comments

    def inline(self, node: s.Node) -> str:
        """On one line, whatever its length; comments inside stay unplaced."""
        return flat(Expressions(Comments(())).expr(node)) or ""

    # ---- expressions

    def expr(self, node: s.Node) -> Doc:
        match node:
            case s.Number():
                return node.text
            case s.String():
                return f'"{node.value}"'
            case s.Name():
                return node.id
            case s.Slice():
                start: Doc = self.expr(node.start) if node.start is not None else ""
                stop: Doc = self.expr(node.stop) if node.stop is not None else ""
                return (start, " .. " if node.start is not None and node.stop is not None else "..", stop)
            case s.Group():
                return self.bracketed("(", node.items, ")", node.span.offset, node.span.end)
            case s.ListOf():
                return self.bracketed("[", node.items, "]", node.span.offset, node.span.end)
            case s.Call():
                return (self.expr(node.callee), self.bracketed("(", node.args, ")", node.callee.span.end, node.span.end))
            case s.Index():
                return (self.expr(node.value), self.bracketed("[", node.args, "]", node.value.span.end, node.span.end))
            case s.Field():
                return (self.expr(node.value), f".{node.name}")
            case s.Unary():
                return ("not " if node.op == "not" else node.op, self.expr(node.operand))
            case s.Binary():
                return self._binary(node)
            case s.Compare():
                rest = [part for op, operand in zip(node.ops, node.operands[1:]) for part in (f" {op} ", self.expr(operand))]
                return (self.expr(node.operands[0]), *rest)
            case s.Lambda():
                head = node.params[0] if len(node.params) == 1 else f"({', '.join(node.params)})"
                return (f"{head} => ", self.expr(node.body))
            case s.Chain():
                return self._joined(node.stages, ["->"] * (len(node.stages) - 1))
            case s.Guarded():
                return (self.expr(node.stage), " on ", self.pattern(node.pattern))
            case s.Alternatives():
                return self._joined(node.options, ["|"] * (len(node.options) - 1))
            case s.Arg():
                return (f"{node.name}: " if node.name else "", self.expr(node.value))
            case s.Param():
                return self.param(node)
            case s.Target():
                return (node.name, self.bracketed("[", node.index, "]", node.span.offset, node.span.end)) if node.index else node.name
        raise TypeError(f"no layout for {type(node).__name__}")

    def _binary(self, node: s.Binary) -> Doc:
        if node.op == "^":
            return (self.expr(node.left), "^", self.expr(node.right))
        terms: list[s.Node] = [node.right]
        ops = [node.op]
        left = node.left
        while isinstance(left, s.Binary) and LEVELS[left.op] == LEVELS[node.op]:
            terms.append(left.right)
            ops.append(left.op)
            left = left.left
        factors = [left, *reversed(terms)]
        if LEVELS[node.op] == LEVELS["*"] and any(isinstance(factor, s.Call | s.Group | s.Index) for factor in factors):
            rest = [part for op, factor in zip(reversed(ops), factors[1:]) for part in (f" {op} ", self.expr(factor))]
            return (self.expr(left), *rest)
        return self._joined(factors, list(reversed(ops)))

    def _joined(self, nodes: Sequence[s.Node], operators: Sequence[str]) -> Doc:
        """`a -> b -> c`: all on one line, or a line for each from the second on, the operator in front."""
        parts: list[Doc] = [self.expr(nodes[0])]
        for before, node, operator in zip(nodes, nodes[1:], operators):
            between = self.comments.take(before.span.end, node.span.offset)
            lines: list[Doc] = [("  ", Remark(c.text)) if not c.alone and i == 0 else (HARD, Remark(c.text)) for i, c in enumerate(between)]
            parts.append(Indent((*lines, SPACE, f"{operator} ", self.expr(node))))
        return Group(tuple(parts))

    def bracketed(self, opening: str, items: Sequence[s.Node], closing: str, start: int, end: int) -> Doc:
        """All on one line; else the entries on one indented line; else each on its own. Parameters, and long lists of numbers or names,
        fill the lines."""
        if not items:
            return opening + closing
        entries: list[Doc] = []
        remarked = False
        before = self.comments.take(start, items[0].span.offset)
        for position, item in enumerate(items):
            last = position == len(items) - 1
            doc = self.expr(item)
            own = self.comments.take(item.span.offset, item.span.end)
            after = self.comments.take(item.span.end, end if last else items[position + 1].span.offset)
            behind = after[:1] if after and not after[0].alone else []
            rest = after[len(behind) :]
            entry: Doc = (_remarks([*before, *own]), doc, "" if last else ",", *(("  ", Remark(c.text)) for c in behind))
            if last and rest:
                entry = (entry, *((HARD, Remark(c.text)) for c in rest))
            remarked = remarked or bool(before or own or after)
            entries.append(entry)
            before = rest
        if remarked:
            return (opening, Indent((HARD, _separated(entries, HARD))), HARD, closing)
        if len(items) == 1 and _holds_brackets(items[0]):
            return (opening, entries[0], closing)
        if isinstance(items[0], s.Param) and all(len(flat(entry) or "") <= WIDEST_PARAM for entry in entries):
            return Group((opening, Indent((SOFT, Fill(tuple(entries)))), SOFT, closing))
        if len(items) > MOST_ATOMS and all(_is_atom(item) for item in items):
            return Group((opening, Indent((SOFT, Fill(tuple(entries)))), SOFT, closing))
        return Group((opening, Indent((SOFT, Group(_separated(entries, SPACE)))), SOFT, closing))

    # ---- types and patterns

    def param(self, node: s.Param) -> Doc:
        type_: Doc = (": ", self.type(node.type)) if node.type else ""
        return (node.name, type_, (" = ", self.expr(node.default)) if node.default is not None else "")

    def params(self, nodes: Sequence[s.Param], start: int, end: int) -> Doc:
        return self.bracketed("(", nodes, ")", start, end)

    def type(self, node: s.TypeExpr) -> Doc:
        first, *rest = [self._type_one(option) for option in node.options]
        return Indent((Fill((first, *(("| ", option) for option in rest))),)) if rest else first

    def _type_one(self, node: s.TypeOne) -> Doc:
        name: Doc = (node.base or "", self.axes(node.axes) if node.axes else "")
        return (name, " ", self._bound(node.bound)) if node.bound else name

    def _bound(self, node: s.Bound) -> Doc:
        if node.op != "in":
            return (f"{node.op} ", self.expr(node.low))
        high: Doc = self.expr(node.high) if node.high is not None else ""
        return ("in ", "[" if node.low_closed else "(", self.expr(node.low), ", ", high, "]" if node.high_closed else ")")

    def axes(self, node: s.Axes) -> Doc:
        items = [self.axis(item) for item in node.items]
        parts = tuple(part for position, item in enumerate(items) for part in ((", ", item) if position else (item,)))
        target = "" if node.target is None else f" -> {node.target}" if items else f"-> {node.target}"
        return ("[", parts, target, "]")

    def axis(self, node: s.AxisItem) -> Doc:
        name = ("*" if node.spliced else "") + node.name
        return (name, ": ", self.expr(node.size)) if node.size is not None else name

    def pattern(self, node: s.Pattern) -> Doc:
        where: Doc = (" where ", self.expr(node.where)) if node.where is not None else ""
        match node:
            case s.ShapePattern():
                return (self.axes(node.axes), where)
            case s.NamedPattern():
                end = node.span.end if node.where is None else node.where.span.offset
                return (node.name, self.params(node.params, node.span.offset, end), where)
            case s.TextPattern():
                return (f'"{node.text}"', where)


def _separated(entries: Sequence[Doc], line: Doc) -> Doc:
    return tuple(part for position, entry in enumerate(entries) for part in ((line, entry) if position else (entry,)))


def _holds_brackets(item: s.Node) -> bool:
    return isinstance(item, s.Arg) and isinstance(item.value, s.Call | s.Group | s.ListOf)


def _is_atom(item: s.Node) -> bool:
    value = item.value if isinstance(item, s.Arg) and item.name is None else None
    value = value.operand if isinstance(value, s.Unary) else value
    return isinstance(value, s.Number | s.Name | s.String)

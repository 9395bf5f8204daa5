"""Lark's tree to the syntax tree: each grammar rule a frozen node of `syntax.py` with the span of its text, by a row of a table or a method.

What a rule cannot say of its parts (a period without a unit, an expression left of `=>`) is a `Mistake` here.
"""

from __future__ import annotations

from typing import Any

from lark import Token, Transformer, v_args

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Source, Span

PLAIN: dict[str, Any] = {  # rules whose parts are the fields of the node
    "shape_pattern": s.ShapePattern, "param": s.Param, "input": s.Input, "vary": s.Vary, "declare": s.Declare, "bind": s.Bind,
    "minimize": s.Minimize, "subject": s.SubjectTo, "report": s.ReportAs, "return_": s.Return, "gives": s.Gives, "when": s.When,
    "start_value": s.StartValue, "schedule_": s.ScheduleIs, "cut": s.Cut, "recompute": s.Recompute, "carry": s.Carry, "bare": s.Bare,
    "guarded": s.Guarded, "arg": s.Arg, "name": s.Name,
}  # fmt: skip
LISTS: dict[str, Any] = {"type": s.TypeExpr, "alternatives": s.Alternatives, "chain": s.Chain, "group": s.Group, "list": s.ListOf}  # of one list
HEADED: dict[str, Any] = {"call": s.Call, "index": s.Index, "target": s.Target}  # rules of one part, and a list of the others
SIZE_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _kept(children: list[Any]) -> tuple[Any, ...]:
    return tuple(child for child in children if child is not None)


@v_args(meta=True)
class Builder(Transformer):
    """One method a grammar rule that does more than the tables above say; builds the frozen nodes of `syntax.py`."""

    def __init__(self, source: Source):
        super().__init__(visit_tokens=False)
        self.source = source

    def _span(self, meta: Any) -> Span:
        if meta.empty:
            return self.source.span(0, 0)
        return self.source.span(meta.start_pos, meta.end_pos)

    def _of(self, token: Token) -> Span:
        return self.source.span(token.start_pos or 0, token.end_pos or 0)

    def __default__(self, data: str, children: list[Any], meta: Any) -> s.Node:
        span = self._span(meta)
        if data in PLAIN:
            return PLAIN[data](span, *(str(child) if isinstance(child, Token) else child for child in children))
        if data in LISTS:
            return LISTS[data](span, _kept(children))
        return HEADED[data](span, children[0], _kept(children[1:]))

    # ---- file and definitions

    def start(self, meta: Any, children: list[Any]) -> s.File:
        return s.File(self.source.span(0, len(self.source.text)), tuple(c for c in children if isinstance(c, s.Import | s.Definition)))

    def import_(self, meta: Any, children: list[Any]) -> s.Import:
        path, alias = children
        return s.Import(self._span(meta), path[1:-1], str(alias) if alias else "")

    def definition(self, meta: Any, children: list[Any]) -> s.Definition:
        kind, name, params, pattern, over, last = children
        body, value = (last, None) if isinstance(last, tuple) else (None, last)
        return s.Definition(self._span(meta), str(kind), str(name), self._of(name), params or (), pattern, over, body, value)

    def params(self, meta: Any, children: list[Any]) -> tuple[s.Param, ...]:
        return _kept(children)

    # ---- patterns and types

    def named_pattern(self, meta: Any, children: list[Any]) -> s.NamedPattern:
        return s.NamedPattern(self._span(meta), str(children[0]), children[1] or (), children[2])

    def name_pattern(self, meta: Any, children: list[Any]) -> s.TextPattern:
        return s.TextPattern(self._span(meta), children[0][1:-1], children[1])

    def axes(self, meta: Any, children: list[Any]) -> s.Axes:
        target = next((str(c) for c in children if isinstance(c, Token)), None)
        return s.Axes(self._span(meta), tuple(c for c in children if isinstance(c, s.AxisItem)), target)

    def axis(self, meta: Any, children: list[Any]) -> s.AxisItem:
        path = next(c for c in children if isinstance(c, str) and not isinstance(c, Token))
        size: Any = next((c for c in children if isinstance(c, s.Node)), None)
        span = self._span(meta)
        return s.AxisItem(span, path, size, self.source.text[span.offset : span.offset + 1] == "*")

    def path(self, meta: Any, children: list[Any]) -> str:
        return str(".".join(children))

    def type_one(self, meta: Any, children: list[Any]) -> s.TypeOne:
        base = next((str(c) for c in children if isinstance(c, str)), None)
        axes = next((c for c in children if isinstance(c, s.Axes)), None)
        bound = next((c for c in children if isinstance(c, s.Bound)), None)
        return s.TypeOne(self._span(meta), base, axes, bound)

    def base(self, meta: Any, children: list[Any]) -> str:
        return str(children[0])

    def bound(self, meta: Any, children: list[Any]) -> s.Bound:
        if len(children) == 1:
            return children[0]
        return s.Bound(self._span(meta), str(children[0]), children[1])

    def interval(self, meta: Any, children: list[Any]) -> s.Bound:
        left, low, high, right = children
        return s.Bound(self._span(meta), "in", low, high, left == "[", right == "]")

    # ---- statements

    def block(self, meta: Any, children: list[Any]) -> tuple[s.Statement, ...]:
        return _kept(children)

    def doc(self, meta: Any, children: list[Any]) -> s.Doc:
        return s.Doc(self._span(meta), self._first_word(meta), children[0][1:-1])

    def _first_word(self, meta: Any) -> str:
        text = self.source.text[meta.start_pos : meta.start_pos + 12]
        return "".join(c if c.isalpha() else " " for c in text).split()[0]

    def names(self, meta: Any, children: list[Any]) -> tuple[str, ...]:
        return tuple(str(c) for c in children)

    def state(self, meta: Any, children: list[Any]) -> s.State:
        names, type_, op, init, storage = children
        return s.State(self._span(meta), names, type_, op == "~", init, storage)

    def binds(self, meta: Any, children: list[Any]) -> str:
        return str(children[0])

    def assign(self, meta: Any, children: list[Any]) -> s.Bind:
        return s.Bind(self._span(meta), children[0], "<-", children[1])

    def targets(self, meta: Any, children: list[Any]) -> tuple[s.Target, ...]:
        return tuple(children)

    def require(self, meta: Any, children: list[Any]) -> s.Require:
        message = children[1][1:-1] if children[1] else None
        return s.Require(self._span(meta), self._first_word(meta), children[0], message)

    def repeat(self, meta: Any, children: list[Any]) -> s.Repeat:
        axis = children[0] if isinstance(children[0], s.AxisItem) else None
        backward = any(isinstance(c, Token) for c in children)
        values = tuple(c for c in children if isinstance(c, s.StartValue))
        until: Any = children[-2] if isinstance(children[-2], s.Node) and not isinstance(children[-2], s.StartValue | s.AxisItem) else None
        return s.Repeat(self._span(meta), axis, backward, values, until, children[-1])

    def on(self, meta: Any, children: list[Any]) -> s.On:
        each, pattern, rate, body = children
        return s.On(self._span(meta), each is not None, pattern, rate, body)

    def backward(self, meta: Any, children: list[Any]) -> s.Backward:
        return s.Backward(self._span(meta), children[-1])

    def every(self, meta: Any, children: list[Any]) -> s.Every:
        count, unit, body = children
        if unit is None:
            if not isinstance(count, s.Name):
                why, fix = "a period is counted in steps, epochs, rounds, ...", "write `every 20 steps { .. }`"
                raise mistake("E0108", count.span, "`every` needs a unit", why=why, fix=fix)
            return s.Every(self._span(meta), None, count.id, body)
        return s.Every(self._span(meta), count, str(unit), body)

    def flow(self, meta: Any, children: list[Any]) -> s.Flow:
        *targets, over, per, value = children
        return s.Flow(self._span(meta), tuple(targets), over, str(per) if per else None, value)

    def train(self, meta: Any, children: list[Any]) -> s.Train:
        count, unit, *args = children
        body = args.pop() if args and (isinstance(args[-1], tuple) or args[-1] is None) else None
        return s.Train(self._span(meta), count, str(unit), _kept(args), body)

    def link(self, meta: Any, children: list[Any]) -> s.Link:
        names = [str(c) for c in children if isinstance(c, Token) and c.type == "NAME"]
        directed = not any(isinstance(c, Token) and c.type == "LINK" for c in children)
        condition: Any = next((c for c in children if isinstance(c, s.Node)), None)
        return s.Link(self._span(meta), names[0], names[1], directed, condition)

    # ---- expressions

    def function_value(self, meta: Any, children: list[Any]) -> s.Lambda:
        head, body = children
        items = head.items if isinstance(head, s.Group) else (s.Arg(head.span, None, head),)
        names = []
        for item in items:
            if item.name is not None or not isinstance(item.value, s.Name):
                why = "a function value is written `x => e` or `(x, y) => e`"
                raise mistake("E0109", item.span, "the left of `=>` must be names", why=why, fix="write names before `=>`")
            names.append(item.value.id)
        return s.Lambda(self._span(meta), tuple(names), body)

    def either(self, meta: Any, children: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "or", *children)

    def both(self, meta: Any, children: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "and", *children)

    def negate(self, meta: Any, children: list[Any]) -> s.Unary:
        return s.Unary(self._span(meta), "not", children[0])

    def compare(self, meta: Any, children: list[Any]) -> s.Compare:
        return s.Compare(self._span(meta), tuple(children[::2]), tuple(str(op) for op in children[1::2]))

    def sum(self, meta: Any, children: list[Any]) -> s.Binary:
        left, op, right = children
        return s.Binary(self._span(meta), str(op), left, right)

    product = sum

    def minus(self, meta: Any, children: list[Any]) -> s.Unary:
        return s.Unary(self._span(meta), "-", children[0])

    def power(self, meta: Any, children: list[Any]) -> s.Binary:
        return s.Binary(self._span(meta), "^", *children)

    def field(self, meta: Any, children: list[Any]) -> s.Field:
        return s.Field(self._span(meta), children[0], str(children[1]), self._of(children[1]))

    def span(self, meta: Any, children: list[Any]) -> s.Slice:
        span = self._span(meta)
        start, stop = (None, children[0]) if len(children) == 1 else children
        return s.Slice(span, start, stop)

    def number(self, meta: Any, children: list[Any]) -> s.Number:
        text = str(children[0])
        plain = text.replace("_", "")
        value = float(plain) if any(c in plain for c in ".eE") else int(plain)
        return s.Number(self._span(meta), value, text)

    def percent(self, meta: Any, children: list[Any]) -> s.Number:
        text = str(children[0])
        return s.Number(self._span(meta), float(text[:-1]) / 100, text, "percent")

    def size(self, meta: Any, children: list[Any]) -> s.Number:
        text = str(children[0])
        return s.Number(self._span(meta), int(float(text[:-2]) * SIZE_UNITS[text[-2:]]), text, "size")

    def string(self, meta: Any, children: list[Any]) -> s.String:
        return s.String(self._span(meta), children[0][1:-1])

"""Text to syntax tree: Lark's LALR parser over `grammar/gflow.lark`, and the messages for text that does not parse.

The tables are built from the grammar once and kept beside it as JSON (`python -m gradflow.grammar.build`; a test compares them with
the grammar), because building them takes longer than checking a spec. No message of Lark's ever leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, Tree, v_args
from lark.exceptions import UnexpectedInput

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, GradflowError, Mistake, mistake
from gradflow.language.source import Source, Span

SIZE_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Newlines:
    """Post-lexer: drops newlines inside ( and [."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = 0
        for token in stream:
            depth += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
            if token.type != "_NL" or depth <= 0:
                yield token


def _kept(children: list[Any]) -> tuple[Any, ...]:
    return tuple(child for child in children if child is not None)


@v_args(meta=True)
class _Builder(Transformer):
    """One method a grammar rule; builds the frozen nodes of `syntax.py`."""

    def __init__(self, source: Source):
        super().__init__(visit_tokens=False)
        self.source = source

    def _span(self, meta: Any) -> Span:
        if meta.empty:
            return self.source.span(0, 0)
        return self.source.span(meta.start_pos, meta.end_pos)

    def _of(self, token: Token) -> Span:
        return self.source.span(token.start_pos or 0, token.end_pos or 0)

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

    def param(self, meta: Any, children: list[Any]) -> s.Param:
        name, type_, default = children
        return s.Param(self._span(meta), str(name), type_, default)

    # ---- patterns and types

    def shape_pattern(self, meta: Any, children: list[Any]) -> s.ShapePattern:
        return s.ShapePattern(self._span(meta), children[0], children[1])

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

    def type(self, meta: Any, children: list[Any]) -> s.TypeExpr:
        return s.TypeExpr(self._span(meta), _kept(children))

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

    def input(self, meta: Any, children: list[Any]) -> s.Input:
        return s.Input(self._span(meta), *children)

    def vary(self, meta: Any, children: list[Any]) -> s.Vary:
        return s.Vary(self._span(meta), *children)

    def state(self, meta: Any, children: list[Any]) -> s.State:
        names, type_, op, init, storage = children
        return s.State(self._span(meta), names, type_, op == "~", init, storage)

    def declare(self, meta: Any, children: list[Any]) -> s.Declare:
        kind, names, value, storage = children
        return s.Declare(self._span(meta), str(kind), names, value, storage)

    def binds(self, meta: Any, children: list[Any]) -> str:
        return str(children[0])

    def bind(self, meta: Any, children: list[Any]) -> s.Bind:
        return s.Bind(self._span(meta), *children)

    def assign(self, meta: Any, children: list[Any]) -> s.Bind:
        return s.Bind(self._span(meta), children[0], "<-", children[1])

    def targets(self, meta: Any, children: list[Any]) -> tuple[s.Target, ...]:
        return tuple(children)

    def target(self, meta: Any, children: list[Any]) -> s.Target:
        return s.Target(self._span(meta), children[0], _kept(children[1:]))

    def minimize(self, meta: Any, children: list[Any]) -> s.Minimize:
        return s.Minimize(self._span(meta), children[0])

    def subject(self, meta: Any, children: list[Any]) -> s.SubjectTo:
        return s.SubjectTo(self._span(meta), str(children[0]) if children[0] else None, children[1])

    def report(self, meta: Any, children: list[Any]) -> s.ReportAs:
        return s.ReportAs(self._span(meta), str(children[0]), children[1])

    def return_(self, meta: Any, children: list[Any]) -> s.Return:
        return s.Return(self._span(meta), children[0])

    def require(self, meta: Any, children: list[Any]) -> s.Require:
        message = children[1][1:-1] if children[1] else None
        return s.Require(self._span(meta), self._first_word(meta), children[0], message)

    def gives(self, meta: Any, children: list[Any]) -> s.Gives:
        return s.Gives(self._span(meta), children[0])

    def when(self, meta: Any, children: list[Any]) -> s.When:
        return s.When(self._span(meta), *children)

    def start_value(self, meta: Any, children: list[Any]) -> s.StartValue:
        return s.StartValue(self._span(meta), str(children[0]), children[1])

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
                raise mistake(
                    "E0108",
                    count.span,
                    "`every` needs a unit",
                    why="a period is counted in steps, epochs, rounds, ...",
                    fix="write `every 20 steps { .. }`",
                )
            return s.Every(self._span(meta), None, count.id, body)
        return s.Every(self._span(meta), count, str(unit), body)

    def flow(self, meta: Any, children: list[Any]) -> s.Flow:
        *targets, over, per, value = children
        return s.Flow(self._span(meta), tuple(targets), over, str(per) if per else None, value)

    def train(self, meta: Any, children: list[Any]) -> s.Train:
        count, unit, *args = children
        body = args.pop() if args and (isinstance(args[-1], tuple) or args[-1] is None) else None
        return s.Train(self._span(meta), count, str(unit), _kept(args), body)

    def schedule_(self, meta: Any, children: list[Any]) -> s.ScheduleIs:
        return s.ScheduleIs(self._span(meta), children[0])

    def cut(self, meta: Any, children: list[Any]) -> s.Cut:
        return s.Cut(self._span(meta), str(children[0]), children[1])

    def recompute(self, meta: Any, children: list[Any]) -> s.Recompute:
        return s.Recompute(self._span(meta), str(children[0]))

    def carry(self, meta: Any, children: list[Any]) -> s.Carry:
        return s.Carry(self._span(meta), str(children[0]), children[1])

    def link(self, meta: Any, children: list[Any]) -> s.Link:
        names = [str(c) for c in children if isinstance(c, Token) and c.type == "NAME"]
        directed = not any(isinstance(c, Token) and c.type == "LINK" for c in children)
        condition: Any = next((c for c in children if isinstance(c, s.Node)), None)
        return s.Link(self._span(meta), names[0], names[1], directed, condition)

    def bare(self, meta: Any, children: list[Any]) -> s.Bare:
        return s.Bare(self._span(meta), str(children[0]))

    # ---- expressions

    def alternatives(self, meta: Any, children: list[Any]) -> s.Alternatives:
        return s.Alternatives(self._span(meta), tuple(children))

    def guarded(self, meta: Any, children: list[Any]) -> s.Guarded:
        return s.Guarded(self._span(meta), *children)

    def chain(self, meta: Any, children: list[Any]) -> s.Chain:
        return s.Chain(self._span(meta), tuple(children))

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

    def call(self, meta: Any, children: list[Any]) -> s.Call:
        return s.Call(self._span(meta), children[0], _kept(children[1:]))

    def index(self, meta: Any, children: list[Any]) -> s.Index:
        return s.Index(self._span(meta), children[0], _kept(children[1:]))

    def field(self, meta: Any, children: list[Any]) -> s.Field:
        return s.Field(self._span(meta), children[0], str(children[1]), self._of(children[1]))

    def arg(self, meta: Any, children: list[Any]) -> s.Arg:
        name, value = children
        return s.Arg(self._span(meta), str(name) if name else None, value)

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

    def name(self, meta: Any, children: list[Any]) -> s.Name:
        return s.Name(self._span(meta), str(children[0]))

    def group(self, meta: Any, children: list[Any]) -> s.Group:
        return s.Group(self._span(meta), _kept(children))

    def list(self, meta: Any, children: list[Any]) -> s.ListOf:
        return s.ListOf(self._span(meta), _kept(children))


# ---- tables


@cache
def _parser() -> Lark:
    from gradflow.grammar import tables

    return tables.load(Newlines())


def parse(source: Source) -> s.File:
    """The tree of a whole file, comments kept. Raises GradflowError with every syntax error found."""
    try:
        return _attach_comments(source, _build(source, source.text))
    except (UnexpectedInput, Mistake):
        raise GradflowError(_all_errors(source)) from None


def parse_expression(source: Source) -> s.Expr:
    """One expression, as in `-p name=EXPRESSION`. Raises GradflowError."""
    opening = "function x = "
    shifted = Source(source.name, source.text)
    try:
        tree = _parser().parse(opening + source.text)
        _check_depth(shifted, tree)
        moved = _Builder(_Shifted(shifted.name, shifted.text, len(opening))).transform(tree)
        definition = moved.definitions[0]
        if len(moved.items) == 1 and definition.value is not None:
            return definition.value
    except (UnexpectedInput, Mistake):
        pass
    whole = source.span(0, max(len(source.text), 1))
    raise GradflowError(
        [Diagnostic("E0101", f"`{source.text}` is not an expression", whole, fix="write a number, a name, `true`, a call such as `topk(10%)`, ...")]
    )


class _Shifted(Source):
    """A source whose text was parsed behind an opening of `shift` characters."""

    def __init__(self, name: str, text: str, shift: int):
        super().__init__(name, text)
        object.__setattr__(self, "shift", shift)

    def span(self, offset: int, end: int) -> Span:
        shift: int = self.shift  # type: ignore[attr-defined]
        return super().span(offset - shift, end - shift)


def _build(source: Source, text: str) -> s.File:
    from lark.exceptions import VisitError

    tree = _parser().parse(text)
    _check_depth(source, tree)
    try:
        return _Builder(source).transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, Mistake):
            raise error.orig_exc from None
        raise


DEEPEST = 100


def _check_depth(source: Source, tree: Tree[Token]) -> None:
    """Every later stage walks the tree recursively; what is nested more deeply than Python's stack allows is refused here."""
    level = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.children if isinstance(child, Tree)]
        if not level:
            return
    span = source.span(level[0].meta.start_pos, level[0].meta.end_pos) if not level[0].meta.empty else source.span(0, 1)
    why = f"a text may be nested {DEEPEST} levels deep; every bracket, block and operator is a level or two"
    raise mistake("E0118", span, "this is nested too deeply", why=why, fix="give inner parts names of their own: `part = ..`")


def _attach_comments(source: Source, file: s.File) -> s.File:
    comments = tuple(comments_of(source))
    return s.File(file.span, file.items, comments)


def comments_of(source: Source) -> Iterator[s.Comment]:
    """Every `# ..` outside of strings, in order."""
    for number, start in enumerate(source.starts, 1):
        line = source.line(number)
        inside = False
        for column, character in enumerate(line):
            if character == '"':
                inside = not inside
            elif character == "#" and not inside:
                text = line[column:].rstrip()
                yield s.Comment(source.span(start + column, start + column + len(text)), text, not line[:column].strip())
                break


# ---- errors

MOST_SYNTAX_ERRORS = 20


def _all_errors(source: Source) -> list[Diagnostic]:
    """Goes on after an error at the next definition, the text before it blanked, and so reports several."""
    from gradflow.language.syntax_errors import describe

    found: list[Diagnostic] = []
    text = source.text
    blank = 0
    while len(found) < MOST_SYNTAX_ERRORS:
        try:
            _build(source, text)
            break
        except Mistake as error:
            found.append(error.diagnostic)
            offset = error.diagnostic.span.offset
        except UnexpectedInput as error:
            found.append(describe(source, error))
            offset = found[-1].span.offset
        following = _next_definition(text, max(offset, blank))
        if following is None:
            break
        blank = following
        text = "".join(c if c == "\n" else " " for c in text[:following]) + text[following:]
    return found


def _next_definition(text: str, offset: int) -> int | None:
    import re

    match = re.compile(r"^(function|objective|estimator|projection|update|exchange|topology|format|schedule|pipeline|claim|import)\b", re.M).search(
        text, offset + 1
    )
    return match.start() if match else None

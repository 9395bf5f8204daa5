"""Text to syntax tree: Lark's LALR parser over `grammar/gflow.lark`; nodes are built in `building.py`, messages in `syntax_errors.py`.

The tables are built from the grammar once and kept beside it as JSON (`python -m gradflow.grammar.build`; a test compares them with
the grammar), because building them takes longer than checking a spec. No message of Lark's ever leaves this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from gradflow.language import syntax as s
from gradflow.language.building import Builder
from gradflow.language.diagnostics import Diagnostic, GradflowError, Mistake, mistake
from gradflow.language.source import Source, Span
from gradflow.language.syntax_words import KINDS


class Newlines:
    """Post-lexer: drops newlines inside ( and [."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = 0
        for token in stream:
            depth += (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB"))
            if token.type != "_NL" or depth <= 0:
                yield token


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
    try:
        tree = _parser().parse(opening + source.text)
        _check_depth(source, tree)
        moved = Builder(_Shifted(source.name, source.text, len(opening))).transform(tree)
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
        return Builder(source).transform(tree)
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
    return s.File(file.span, file.items, tuple(comments_of(source)))


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
            found.append(describe(source, error, _parser()))
            offset = found[-1].span.offset
        following = _next_definition(text, max(offset, blank))
        if following is None:
            break
        blank = following
        text = "".join(c if c == "\n" else " " for c in text[:following]) + text[following:]
    return found


def _next_definition(text: str, offset: int) -> int | None:
    match = re.compile(rf"^({'|'.join((*KINDS, 'import'))})\b", re.M).search(text, offset + 1)
    return match.start() if match else None

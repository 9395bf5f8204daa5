"""Where reading stopped: what was found, what was being read, what would fit. Made from the parser's own state, in words.

The parser may have closed constructs on the strength of the very token that did not fit; `Place` therefore reads the definition
again up to that token, so that what fits is complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput
from lark.lexer import PatternStr

from gradflow.language.source import Source, Span
from gradflow.language.syntax_words import KINDS, STATEMENT_WORDS, said

OPENING = {"LPAR": "(", "LSQB": "[", "LBRACE": "{"}
CLOSING = {"RPAR": ")", "RSQB": "]", "RBRACE": "}"}
PARTNER = {"(": ")", "[": "]", "{": "}"}
DEFINITION = re.compile(rf"^({'|'.join(KINDS)})[ \t]+[a-zA-Z_]\w*|^import[ \t]*\"", re.M)
SHORT = 40


@dataclass(frozen=True)
class Place:
    """`kind` is the terminal that was found, "" for a character that begins none, "$END" at the end of the text."""

    source: Source
    kind: str
    offset: int
    end: int
    stack: tuple[Any, ...]
    accepts: frozenset[str]
    openers: tuple[Token, ...]
    previous: Token | None
    literals: dict[str, str]

    @staticmethod
    def of(source: Source, error: UnexpectedInput, parser: Lark) -> Place:
        token = getattr(error, "token", None)
        kind = token.type if token is not None else ""
        offset = len(source.text) if kind == "$END" else error.pos_in_stream or 0
        end = offset if kind == "$END" else token.end_pos if token is not None else offset + 1
        if kind == "COMPARE" and source.text.startswith("<-", offset):
            kind, end = next(t.name for t in parser.terminals if t.pattern.value == "<-"), offset + 2
        state: Any = error.interactive_parser
        values = list(state.parser_state.value_stack)
        openers = tuple(v for v in values if isinstance(v, Token) and v.type in OPENING)
        start = next((v.start_pos for v in reversed(values) if isinstance(v, Token) and v.type == "KIND"), None)
        previous = None
        if start is not None:
            state, previous = _read_again(parser, source.text, start, offset)
        literals = {t.name: t.pattern.value for t in parser.terminals if isinstance(t.pattern, PatternStr)}
        stack = tuple(state.parser_state.value_stack)
        return Place(source, kind, offset, end, stack, frozenset(state.accepts()), openers, previous, literals)

    @property
    def text(self) -> str:
        return self.source.text[self.offset : self.end]

    @property
    def span(self) -> Span:
        return self.source.span(self.offset, self.end)

    @cached_property
    def before(self) -> int:
        """Where the last token before this place ends."""
        if self.previous is not None and self.previous.type != "_NL":
            return self.previous.end_pos or 0
        return len(self.source.text[: self.offset].rstrip())

    @property
    def last_word(self) -> str:
        """The text of the token before this place; empty at the beginning."""
        last = self.previous if self.previous is not None else next((v for v in reversed(self.stack[-1:]) if isinstance(v, Token)), None)
        return "" if last is None or last.type == "_NL" else shortened(str(last))

    @property
    def opener(self) -> Token | None:
        return self.openers[-1] if self.openers else None

    @property
    def literal(self) -> str:
        """The found token, where it is one of the grammar's fixed texts; otherwise its kind."""
        return self.literals.get(self.kind, self.kind)

    @property
    def first_on_line(self) -> bool:
        return not self.source.text[self.source.text.rfind("\n", 0, self.offset) + 1 : self.offset].strip()

    @property
    def statement(self) -> tuple[Any, ...]:
        """What has been read of the statement in which this place lies."""
        for position in range(len(self.stack) - 1, -1, -1):
            value = self.stack[position]
            if isinstance(value, Token) and value.type in ("_NL", "LBRACE"):
                return self.stack[position + 1 :]
        return self.stack

    @property
    def first_name(self) -> Token | None:
        """The name with which a statement begins, if nothing else has been read of it."""
        statement = self.statement
        first = statement[0] if len(statement) == 1 else None
        return first if isinstance(first, Token) and first.type == "NAME" else None

    @property
    def found(self) -> str:
        if self.kind == "$END":
            return "the end of the file"
        if self.kind == "_NL":
            return "`;`" if self.text.startswith(";") else "the end of the line"
        return f"`{shortened(self.text)}`"

    def fitting(self) -> list[str]:
        return said(self.accepts, self.literals)

    def fits(self, *texts: str) -> bool:
        """Whether one of these terminals, or fixed texts, would be accepted here."""
        return any(name in texts or self.literals.get(name) in texts for name in self.accepts)

    def text_of(self, value: Any) -> str:
        """The source text of something on the stack."""
        if isinstance(value, Token):
            return str(value)
        if isinstance(value, Tree) and not value.meta.empty:
            return self.source.text[value.meta.start_pos : value.meta.end_pos]
        return ""

    def reading(self) -> str:
        """What was being read, in words: `the formula of `x``, `the arguments of `clip``, ..."""
        for position in range(len(self.stack) - 1, -1, -1):
            value = self.stack[position]
            if isinstance(value, Tree) and value.data == "binds":
                return f"the value of `{shortened(self.text_of(self.stack[position - 1]))}`"
            if isinstance(value, Token) and (words := self._construct(position, value)):
                return words
        return "a file of definitions"

    def _construct(self, position: int, token: Token) -> str:
        below = self.stack[position - 1] if position else None
        under = self.stack[position - 2] if position > 1 else None
        name = shortened(self.text_of(below))
        if token.type == "LPAR":
            return self._parentheses(below, under, name)
        if token.type == "LSQB":
            return f"the index of `{name}`" if isinstance(below, Tree) and below.data in VALUES else "a list in brackets"
        if token.type == "EQUAL":
            return self._equal(below, name)
        if token.type == "TILDE":
            return f"the draw of `{name}`" if name else "a draw"
        if self.literals.get(token.type) == "<-":
            return f"what is assigned to `{name}`"
        if token.type == "COLON":
            inside = self.stack[:position]
            in_flow = next((v.type for v in reversed(inside) if isinstance(v, Token) and v.type in {"FLOW", "LPAR", "LSQB", "_NL"}), "")
            return "the flow" if in_flow == "FLOW" else f"what `{name}` is" if name else ""
        if token.type == "LBRACE":
            return "a block"
        if token.type == "KIND":
            after = self.stack[position + 1] if position + 1 < len(self.stack) else None
            return f"the head of `{token} {after}`" if isinstance(after, Token) else f"the head of a definition (`{token}`)"
        if token.type in ("NAME", "_NL", "COMMA", "NUMBER", "STRING", "PERCENT", "SIZE", "RPAR", "RSQB", "DOT"):
            return ""
        if token.type in WORDED or self.literals.get(token.type) == "link":
            return f"{article(token)} `{token}` line"
        return ""

    def _parentheses(self, below: Any, under: Any, name: str) -> str:
        if isinstance(below, Token) and below.type == "IN":
            return "an interval"
        if isinstance(below, Token) and below.type == "NAME":
            is_head = isinstance(under, Token) and under.type == "KIND"
            is_train = any(isinstance(v, Token) and v.type == "TRAIN" for v in self.statement)
            return f"the parameters of `{name}`" if is_head else "the settings of `train`" if is_train else f"what `{name}` binds"
        return f"the arguments of `{name}`" if isinstance(below, Tree) and below.data in VALUES else "parentheses"

    def _equal(self, below: Any, name: str) -> str:
        if isinstance(below, Tree) and below.data in ("targets", "names"):
            return f"the value of `{name}`"
        if isinstance(below, Token) and below.type == "NAME":
            return f"the value of `{name}`"
        return "a default" if isinstance(below, Tree) and str(below.data).startswith("type") else "a value"


VALUES = ("name", "call", "index", "field", "group", "path")
WORDED = frozenset(word.upper() for word in STATEMENT_WORDS) | {"IMPORT", "DECLARE"}


def _read_again(parser: Lark, text: str, start: int, offset: int) -> tuple[Any, Token | None]:
    """The parser's state just before `offset`, and the token before it."""
    blank = "".join(c if c == "\n" else " " for c in text[:start])
    state = parser.parse_interactive(blank + text[start:])
    previous = None
    try:
        for token in state.lexer_thread.lex(state.parser_state):
            if (token.start_pos or 0) >= offset:
                break
            state.feed_token(token)
            previous = token
    except UnexpectedInput:
        pass
    return state, previous


def article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"


def shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def closing_of(text: str, opener: int) -> int | None:
    """Where the bracket at `opener` is closed, if it is before the block or the definition around it ends."""
    open_brackets: list[str] = []
    position = opener
    limit = next((m.start() for m in DEFINITION.finditer(text, opener + 1)), len(text))
    while position < limit:
        character = text[position]
        if character == "#" or character == '"' and '"' not in text[position + 1 : _line_end(text, position)]:
            position = _line_end(text, position)
            continue
        if character == '"':
            position = text.index('"', position + 1)
        elif character in PARTNER:
            open_brackets.append(character)
        elif character in PARTNER.values():
            if (character == "}") != (open_brackets[-1] == "{"):
                return None
            open_brackets.pop()
            if not open_brackets:
                return position
        position += 1
    return None


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end

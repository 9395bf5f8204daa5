"""Messages for text that does not parse: what was being read, what was found, what would fit, and what was probably meant.

Each detector knows one mistake and returns its diagnostic or nothing; the first that recognizes the place wins. Brackets and
definitions out of place are here, what is left out in `syntax_missing.py`, words and signs carried over from other languages in
`syntax_habits.py`.
"""

from __future__ import annotations

from lark import Lark, Token
from lark.exceptions import UnexpectedInput

from gradflow.language.diagnostics import Diagnostic, Edit, Label
from gradflow.language.source import Source
from gradflow.language.syntax_habits import HABITS
from gradflow.language.syntax_missing import MISSING
from gradflow.language.syntax_place import CLOSING, DEFINITION, PARTNER, Place, article, closing_of
from gradflow.language.syntax_words import KINDS, RESERVED, STATEMENT_WORDS, listed

BINDING = ("=", "~", "<-")


def describe(source: Source, error: UnexpectedInput, parser: Lark) -> Diagnostic:
    """The diagnostic for an error of the parser."""
    place = Place.of(source, error, parser)
    for detector in (_unclosed, *HABITS, _no_opener, _outside, _nested, _reserved, *MISSING):
        diagnostic = detector(place)
        if diagnostic is not None:
            return diagnostic
    return _unexpected(place)


def _unexpected(place: Place) -> Diagnostic:
    reading = place.reading()
    before, fitting = place.last_word, place.fitting()
    return Diagnostic(
        "E0101",
        f"unexpected {place.found.removeprefix('the ')} in {reading}",
        place.span,
        "does not fit here",
        why=f"`{before}` is followed by {listed(fitting)}" if before else f"what can stand here: {listed(fitting)}",
        fix=f"write {'one of these' if len(fitting) > 1 else fitting[0] if fitting else 'something else'}"
        + ("" if place.kind in ("$END", "_NL") else f", or remove {place.found}"),
    )


# ---- brackets


def _unclosed(place: Place) -> Diagnostic | None:
    opener = place.opener
    if opener is None or place.kind == "":
        return None
    following = DEFINITION.search(place.source.text, opener.end_pos or 0, place.end)
    if place.kind == "$END" or following is not None:
        end = following.start() if following else place.offset
        return _never_closed(place, _end_of_text(place, end))
    if place.kind in CLOSING and CLOSING[place.kind] != PARTNER[str(opener)]:
        return _wrong_closer(place, opener)
    if str(opener) == "{" or place.fits(place.literal) or closing_of(place.source.text, opener.start_pos or 0) is not None:
        return None
    if place.first_on_line or place.previous is None or not _first_on_line(place, place.previous):
        return _never_closed(place, _end_of_text(place, place.offset))
    return _never_closed(place, _end_of_text(place, place.previous.start_pos or 0))


def _first_on_line(place: Place, token: Token) -> bool:
    text = place.source.text
    start = token.start_pos or 0
    return not text[text.rfind("\n", 0, start) + 1 : start].strip()


def _end_of_text(place: Place, limit: int) -> int:
    """The end of the last line before `limit` that holds more than a comment."""
    source = place.source
    line = source.span(limit, limit).line
    while line > 0:
        start = source.starts[line - 1]
        text = source.text[start : min(limit, start + len(source.line(line)))]
        code = _without_comment(text).rstrip()
        if code:
            return start + len(code)
        line -= 1
    return limit


def _without_comment(line: str) -> str:
    inside = False
    for column, character in enumerate(line):
        if character == '"':
            inside = not inside
        elif character == "#" and not inside:
            return line[:column]
    return line


def _never_closed(place: Place, at: int) -> Diagnostic:
    opener = _suspect(place, at)
    start = opener.start_pos or 0
    text = place.source.text
    edits = (Edit(place.source.span(at, at), "\n}"),) if str(opener) == "{" and len(place.openers) == 1 else ()
    line = place.source.span(start, start).line
    return Diagnostic(
        "E0102",
        f"`{opener}` is never closed",
        place.source.span(at, min(at + 1, len(text))),
        f"`{PARTNER[str(opener)]}` is missing, at the latest here",
        (Label(place.source.span(start, start + 1), "opened here"),),
        why="a block ends with its own `}`, also where the file ends or the next definition begins"
        if str(opener) == "{"
        else "a new line, a `}` or the end of the file does not end what stands in brackets",
        fix=f"write `{PARTNER[str(opener)]}` where what was opened in line {line} ends",
        edits=edits,
    )


def _suspect(place: Place, at: int) -> Token:
    """The bracket that was probably left open. Of blocks it is the one whose `}` stands further left than the line that opened it."""
    if place.openers[-1].type != "LBRACE":
        return place.openers[-1]
    source = place.source
    stack: list[int] = []
    first = place.openers[0].start_pos or 0
    for number in range(source.span(first, first).line, source.span(at, at).line + 1):
        line = _without_comment(source.line(number))
        start = source.starts[number - 1]
        for column, character in enumerate(line):
            if character == "{" and start + column >= first:
                stack.append(start + column)
            elif character == "}" and stack:
                opened = stack.pop()
                opening_line = source.line(source.span(opened, opened).line)
                here = len(line) - len(line.lstrip())
                if not line[:column].strip() and here < len(opening_line) - len(opening_line.lstrip()):
                    return Token("LBRACE", "{", start_pos=opened, end_pos=opened + 1)
    return place.openers[-1]


def _wrong_closer(place: Place, opener: Token) -> Diagnostic:
    wanted = PARTNER[str(opener)]
    outer = any(PARTNER[str(o)] == CLOSING[place.kind] for o in place.openers[:-1])
    edit = Edit(place.source.span(place.before, place.before), wanted) if outer else Edit(place.span, wanted)
    if str(opener) == "{" or place.kind == "RBRACE":
        edit = Edit(place.source.span(place.before, place.before), wanted)
    return Diagnostic(
        "E0102",
        f"`{opener}` is not closed before `{place.text}`" if outer else f"`{opener}` is closed by `{place.text}`",
        place.span,
        f"`{wanted}` is missing before this" if outer else f"should be `{wanted}`",
        (Label(place.source.span(opener.start_pos or 0, opener.end_pos or 0), "opened here"),),
        why="brackets close in the reverse of the order in which they open; only an interval, as in `real in [0, 1)`, mixes them",
        fix=f"write `{wanted}` {'before' if outer else 'instead of'} `{place.text}`",
        edits=() if str(opener) == "{" else (edit,),
    )


def _no_opener(place: Place) -> Diagnostic | None:
    if place.kind not in CLOSING:
        return None
    partner = next(opening for opening, closing in PARTNER.items() if closing == CLOSING[place.kind])
    if any(str(opener) == partner for opener in place.openers):
        return None
    return Diagnostic(
        "E0107",
        f"`{place.text}` closes nothing",
        place.span,
        f"no `{partner}` is open here",
        why=f"every `{partner}` before it has been closed already",
        fix=f"remove this `{place.text}`, or open with `{partner}` where the part begins",
        edits=(Edit(place.span, ""),) if place.fits("_NL", "$END") else (),
    )


# ---- definitions out of place


def _outside(place: Place) -> Diagnostic | None:
    """A statement that stands in no definition."""
    if place.openers or not place.fits("KIND") or not place.first_on_line or place.kind == "$END":
        return None
    word = place.text
    rest = place.source.line(place.span.line)[place.span.column - 1 + len(word) :].strip()
    if word not in STATEMENT_WORDS and not rest.startswith(("=", "~", "<-", ",", ".")):
        return None
    return Diagnostic(
        "E0114",
        f"{place.found} stands outside of any definition",
        place.span,
        "a statement, but in no body",
        why="a file holds `import` lines and definitions; statements live in their bodies",
        fix="move it into the body of a definition, or make it one: `function name(..) = ..`, `pipeline name { .. }`",
    )


def _nested(place: Place) -> Diagnostic | None:
    """A definition inside another one, or behind it on the same line."""
    text = place.source.text
    previous = place.previous
    heads = previous is not None and str(previous) in KINDS and place.statement == (previous,)
    if previous is not None and heads and place.kind == "NAME" and place.opener is not None:
        start, name = previous.start_pos or 0, place.text
        return Diagnostic(
            "E0115",
            f"`{previous} {name}` is defined inside another definition",
            place.source.span(start, place.end),
            "a definition cannot stand in a body",
            (Label(place.source.span(place.openers[0].start_pos or 0, place.openers[0].end_pos or 0), "this body is still open"),),
            why="definitions stand side by side at the top of a file, so that each can be used and explained alone",
            fix=f"move `{name}` out of the body; for a short function of its own write `{name} = x => ..`",
        )
    if DEFINITION.match(text[place.offset :]) and not place.openers and not place.first_on_line and place.fits("_NL", "$END"):
        return Diagnostic(
            "E0115",
            "a definition begins in the middle of a line",
            place.span,
            "begins here",
            why="what stands before it on this line is a definition of its own",
            fix=f"begin a new line before `{text[place.offset : place.end]}`",
            edits=(Edit(place.source.span(place.before, place.offset), "\n"),),
        )
    return None


def _reserved(place: Place) -> Diagnostic | None:
    """A keyword at the beginning of a statement, used as if it were a name."""
    statement = place.statement
    if len(statement) != 1 or not isinstance(statement[0], Token) or str(statement[0]) not in RESERVED or statement[0].type == "NAME":
        return None
    if place.literal not in (*BINDING, ",", ".") or place.fits(place.literal):
        return None
    word = statement[0]
    return Diagnostic(
        "E0104",
        f"`{word}` is a keyword and cannot be a name here",
        place.source.span(word.start_pos or 0, word.end_pos or 0),
        "a keyword at the beginning of a statement",
        why=f"a statement that begins with `{word}` is {article(word)} `{word}` line; so no name that is bound or assigned to can be called that",
        fix=f"choose another name, for example `{word}_value`, here and wherever it is used",
    )

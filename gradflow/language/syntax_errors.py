"""Messages for text that does not parse: what was being read, what was found, what would fit, and what was probably meant.

Each `_detector` knows one mistake and returns its diagnostic or nothing; the first that recognizes the place wins. Brackets, missing
pieces and definitions out of place are here; words and signs carried over from other languages are in `syntax_habits.py`.
"""

from __future__ import annotations

from lark import Token
from lark.exceptions import UnexpectedInput

from gradflow.language.diagnostics import Diagnostic, Edit, Label
from gradflow.language.source import Source
from gradflow.language.syntax_habits import HABITS
from gradflow.language.syntax_place import CLOSING, DEFINITION, OPENING, PARTNER, Place, article, closing_of
from gradflow.language.syntax_words import EXPRESSION, KINDS, OPERATION, RESERVED, STATEMENT_WORDS, listed

KEYWORDS = RESERVED | frozenset(KINDS)
BINDING = ("=", "~", "<-")


def describe(source: Source, error: UnexpectedInput) -> Diagnostic:
    """The diagnostic for an error of the parser."""
    from gradflow.language.parser import _parser

    place = Place.of(source, error, _parser())
    detectors = (_unclosed, *HABITS, _no_opener, _outside, _nested, _reserved)
    missing = (_missing_sign, _missing_word, _no_unit, _no_block, _missing_comma, _idle, _unfinished)
    for detector in (*detectors, *missing):
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
        fix=f"write {'one of these' if len(fitting) > 1 else fitting[0] if fitting else 'something else'}" + ("" if place.kind in ("$END", "_NL") else f", or remove {place.found}"),
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
    if previous is not None and str(previous) in KINDS and place.kind == "NAME" and place.statement == (previous,) and place.opener is not None:
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


# ---- something is missing


def _starts_expression(place: Place) -> bool:
    return place.kind in EXPRESSION or (place.kind == "ADD" and place.text == "-")


def _missing_sign(place: Place) -> Diagnostic | None:
    """`:` or `=` left out, or `=` where an argument wants `:`."""
    if place.kind == "EQUAL" and place.opener is not None and place.opener.type in ("LPAR", "LSQB") and place.previous is not None:
        if place.previous.type != "NAME":
            return None
        name = str(place.previous)
        return Diagnostic(
            "E0110",
            "a named argument takes `:`, not `=`",
            place.span,
            "should be `:`",
            why="`=` binds a name in a body and gives a parameter its default; in a call, names are followed by `:`",
            fix=f"write `{name}: ..`",
            edits=(Edit(place.source.span(place.before, _after_spaces(place, place.end)), ": "),),
        )
    if place.kind == "COLON" and place.fits("="):
        return _replaced_sign(place)
    wanted = [sign for sign in (":", "=", "~", "<-") if place.fits(sign)]
    if not wanted or place.accepts >= OPERATION or not (_starts_expression(place) or place.kind in ("_NL", "RBRACE", "$END", "EQUAL", "IN")):
        return None
    if place.kind in ("_NL", "RBRACE", "$END") and place.fits("_NL", "$END", "LBRACE", "}", ")"):
        return None
    if place.opener is not None and place.opener.type != "LBRACE":
        return _missing_type(place) if place.opener.type == "LPAR" and ":" in wanted and place.kind in ("NAME", "LSQB", "IN") else None
    return _sign(place, wanted)


def _replaced_sign(place: Place) -> Diagnostic:
    return Diagnostic(
        "E0110",
        "`:` does not bind a name",
        place.span,
        "should be `=`",
        why="`:` says what a name is, `=` what its value is; only `input`, `vary` and `state` lines and parameters say what a name is",
        fix="write `=`",
        edits=(Edit(place.source.span(place.before, _after_spaces(place, place.end)), " = "),),
    )


def _missing_type(place: Place) -> Diagnostic:
    """A parameter and its type without the `:` between them."""
    return Diagnostic(
        "E0110",
        f"`:` is missing before {place.found}",
        place.span,
        "`:` should stand before this",
        why="a parameter is written `name: type = default`",
        fix=f"write `{place.last_word}: {place.text}`" if place.kind == "NAME" else f"write `{place.last_word}: type`",
        edits=(Edit(place.source.span(place.before, place.offset), ": "),) if place.kind != "IN" else (),
    )


def _sign(place: Place, wanted: list[str]) -> Diagnostic | None:
    statement = place.statement
    first = str(statement[0]) if statement and isinstance(statement[0], Token) else ""
    template = TEMPLATES.get(first)
    if template is None:
        if first in KINDS:
            template = f"{first} name(..) = ..` or `{first} name(..) {{ .. }}"
        elif place.kind in ("_NL", "RBRACE", "$END") or (len(statement) == 1 and place.kind == "LPAR"):
            return None
        else:
            name = place.text_of(statement[0]) if statement else "x"
            template = f"{name} = ..` (a formula), `{name} ~ ..` (a draw) or `{name} <- ..` (an assignment)".removesuffix("`")
    sign = ":" if ":" in wanted and (first in ("input", "vary", "flow") or place.kind == "LSQB") else "="
    sure = _starts_expression(place) and first in TEMPLATES and first != "report"
    shown = f"`{sign}` is missing" if first in TEMPLATES or first in KINDS else "`=`, `~` or `<-` is missing"
    gap = place.source.span(place.before, place.offset if _starts_expression(place) else place.before)
    return Diagnostic(
        "E0110",
        f"{shown} before {place.found}",
        place.span,
        f"{shown.split(' is ')[0]} should stand before this",
        why=f"this was read as {place.reading()}" if first else "a statement that begins with a name binds it",
        fix=f"write `{template}`" if not template.endswith(")") else f"write `{template}",
        edits=(Edit(gap, ": " if first == "flow" else f" {sign} "),) if sure else (),
    )


TEMPLATES = {
    "input": "input name : type",
    "vary": "vary name : type",
    "state": "state name = start` or `state name : type = start",
    "data": "data name = ..",
    "model": "model name = ..",
    "flow": "flow what: loss -> backprop -> ..",
    "report": "report name = ..",
    "carry": "carry state = ..",
    "schedule": "schedule = ..",
}


def _after_spaces(place: Place, offset: int) -> int:
    text = place.source.text
    while offset < len(text) and text[offset] in " \t":
        offset += 1
    return offset


def _missing_word(place: Place) -> Diagnostic | None:
    """`to`, `by`, the arrow of a link: the one thing that can stand here was left out."""
    fitting = place.fitting()
    if not fitting or any(not part.startswith("`") for part in fitting) or not (_starts_expression(place) or place.kind in ("_NL", "RBRACE", "$END")):
        return None
    if place.fits(",", ")", "]", "}", "{", ".", ":", "="):
        return None
    reading = place.reading()
    return Diagnostic(
        "E0110",
        f"{listed(fitting)} is missing after `{place.last_word}`",
        place.span,
        f"{listed(fitting)} should stand before this",
        why=f"this was read as {reading}",
        fix=f"write {listed(fitting)} after `{place.last_word}`",
        edits=(Edit(place.source.span(place.before, place.offset), f" {fitting[0][1:-1]} "),) if len(fitting) == 1 and _starts_expression(place) else (),
    )


def _no_unit(place: Place) -> Diagnostic | None:
    """`train 100` without steps, epochs, rollouts."""
    if not place.fits("NAME") or place.accepts >= EXPRESSION - {"NOT"} or place.kind not in ("_NL", "RBRACE", "$END", "LBRACE"):
        return None
    statement = place.statement
    if len(statement) < 2 or str(statement[0]) != "train" or place.last_word == "train":
        return None
    count = place.text_of(statement[1]).split("(")[0].strip()
    return Diagnostic(
        "E0113",
        f"`train {count}` has no unit",
        place.source.span(place.before, min(place.before + 1, len(place.source.text))) if place.kind in ("_NL", "$END") else place.span,
        "the unit is missing before this",
        why="how long to train is a number and what is counted: steps, epochs, rounds, rollouts, tasks, events or time",
        fix=f"write `train {count} steps`, settings in parentheses behind it: `train {count} steps (seed: 0)`",
    )


def _no_block(place: Place) -> Diagnostic | None:
    """The `{` of a block is missing, or stands on the next line."""
    if not place.fits("{") or place.kind not in ("_NL", "RBRACE", "$END"):
        return None
    head = next((str(v) for v in reversed(place.stack) if isinstance(v, Token) and (v.type == "KIND" or str(v) in STATEMENT_WORDS)), "")
    brace_follows = place.kind == "_NL" and place.source.text[place.end : place.end + 1] == "{"
    gap = place.source.span(place.before, place.end + 1)
    only_spaces = not place.source.text[place.before : place.end].strip()
    return Diagnostic(
        "E0113",
        f"`{head}` has no body" if not brace_follows else "the `{` of a body stands on the line of its head",
        place.source.span(place.before, min(place.before + 1, len(place.source.text))),
        "`{` is missing here",
        why="the end of a line ends a statement, so the body must begin before it",
        fix=f"write `{{` at the end of this line, and `}}` where the body of `{head}` ends"
        + (", or `= ..` for a definition of one line" if place.fits("=") else ""),
        edits=(Edit(gap, " {"),) if brace_follows and only_spaces else (),
    )


def _missing_comma(place: Place) -> Diagnostic | None:
    opener = place.opener
    if opener is None or opener.type == "LBRACE" or not place.fits(",") or not _starts_expression(place):
        return None
    text = place.source.text
    sure = place.kind == "NAME" and text[_after_spaces(place, place.end) :][:1] == ":"
    return Diagnostic(
        "E0116",
        f"`,` is missing before {place.found}",
        place.span,
        "this begins another entry",
        why=f"this was read as {place.reading()}, whose entries are separated by `,`",
        fix=f"write `, {place.text}`, or put an operator between the two",
        edits=(Edit(place.source.span(place.before, place.before), ","),) if sure else (),
    )


def _idle(place: Place) -> Diagnostic | None:
    """A name or a call as a statement of its own."""
    statement = place.statement
    if len(statement) != 1 or not isinstance(statement[0], Token) or statement[0].type != "NAME" or place.kind not in ("_NL", "RBRACE", "LPAR", "$END"):
        return None
    name = str(statement[0])
    start = statement[0].start_pos or 0
    return Diagnostic(
        "E0117",
        f"`{name}` alone does nothing",
        place.source.span(start, statement[0].end_pos or start),
        "its value is not used",
        why="a statement binds a name, changes a state or says something about the definition; calls have no other effect",
        fix=f"bind it (`x = {name}`), draw it (`x ~ {name}`), return it or report it" if place.kind != "LPAR" else _call_bound(place, name),
    )


def _call_bound(place: Place, name: str) -> str:
    closing = closing_of(place.source.text, place.offset)
    after = place.source.text[closing + 1 :].lstrip(" \t") if closing is not None else ""
    if closing is not None and after.startswith("=") and not after.startswith("=="):
        inside = place.source.text[place.offset + 1 : closing].strip()
        return f"a function of its own is a value: `{name} = {inside if inside.isidentifier() else f'({inside})'} => ..`"
    return f"bind it: `x = {name}(..)`"


def _unfinished(place: Place) -> Diagnostic | None:
    """The text ends, or a bracket closes, where an expression, a name or a type should follow."""
    ends = place.kind in ("_NL", "$END", "COMMA") or place.kind in CLOSING or place.kind in OPENING
    if not ends and not (place.kind in OPERATION or place.literal in ("->", "=>", "=", ":", "<-")):
        return None
    wanted = place.fitting()
    if not wanted or place.fits("_NL", "$END", ",", ")", "]") or place.accepts >= OPERATION or place.previous is None:
        return None
    what = listed(wanted)
    before = place.last_word
    at_line_end = place.kind in ("_NL", "$END")
    return Diagnostic(
        "E0113",
        f"{what} is missing after `{before}`",
        place.source.span(place.before, min(place.before + 1, len(place.source.text))) if at_line_end else place.span,
        "the line ends too early" if at_line_end else f"found {place.found} instead",
        why="the end of a line ends a statement, except inside ( ) and [ ] and before a line that begins with an operator"
        if place.kind == "_NL" and not place.text.startswith(";")
        else f"this was read as {place.reading()}",
        fix=f"write {what} after `{before}`" + (" on the same line" if place.kind == "_NL" else "" if before in KEYWORDS else f", or remove `{before}`"),
    )

"""Messages for what is missing: a `:` or `=`, a word, a unit, a block, a comma, an expression; and for statements that do nothing."""

from __future__ import annotations

from collections.abc import Callable

from lark import Token

from gradflow.language.diagnostics import Diagnostic, Edit
from gradflow.language.syntax_place import CLOSING, OPENING, Place, closing_of
from gradflow.language.syntax_words import EXPRESSION, KEYWORDS, KINDS, OPERATION, STATEMENT_WORDS, listed


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
        in_params = place.opener.type == "LPAR" and ":" in wanted and place.kind in ("NAME", "LSQB", "IN")
        return _missing_type(place) if in_params else None
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
    if len(statement) > 1:
        template = template.replace("name", place.text_of(statement[1]))
    sign = ":" if ":" in wanted and (first in ("input", "vary", "flow") or place.kind == "LSQB") else "="
    sure = _starts_expression(place) and first in TEMPLATES and first != "report"
    shown = f"`{sign}` is missing" if first in TEMPLATES or first in KINDS else "`=`, `~` or `<-` is missing"
    gap = place.source.span(place.before, place.offset if _starts_expression(place) else place.before)
    return Diagnostic(
        "E0110",
        f"{shown} {'at' if place.kind in ('_NL', '$END') else 'before'} {place.found}",
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
        edits=(Edit(place.source.span(place.before, place.offset), f" {fitting[0][1:-1]} "),)
        if len(fitting) == 1 and _starts_expression(place)
        else (),
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
    if opener is None or opener.type == "LBRACE" or not place.fits(","):
        return None
    text = place.source.text
    sure = place.text.isidentifier() and text[_after_spaces(place, place.end) :][:1] == ":"
    if not sure and not _starts_expression(place):
        return None
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
    word = place.first_name
    if word is None or place.kind not in ("_NL", "RBRACE", "LPAR", "$END"):
        return None
    name, start = str(word), word.start_pos or 0
    return Diagnostic(
        "E0117",
        f"`{name}` alone does nothing",
        place.source.span(start, word.end_pos or start),
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
        fix=f"write {what} after `{before}`"
        + (" on the same line" if place.kind == "_NL" else "" if before in KEYWORDS else f", or remove `{before}`"),
    )


MISSING: tuple[Callable[[Place], Diagnostic | None], ...] = (_missing_sign, _missing_word, _no_unit, _no_block, _missing_comma, _idle, _unfinished)

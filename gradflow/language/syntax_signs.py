"""Messages for texts, numbers and signs that cannot be read: a missing quote, `3px`, `**` and `&&`, typographic quotes, Greek letters."""

from __future__ import annotations

import re

from lark import Token

from gradflow.language.diagnostics import Diagnostic, Edit
from gradflow.language.syntax_place import Place
from gradflow.language.syntax_words import ADVICE, GREEK, OPERATORS

SIZES = {"kb": "kB", "mb": "MB", "gb": "GB", "tb": "TB"}
BINARY_SIZES = {"kib": "kB", "mib": "MB", "gib": "GB", "tib": "TB"}


def check_string(place: Place) -> Diagnostic | None:
    if place.kind or place.text != '"':
        return None
    line_end = place.source.starts[place.span.line - 1] + len(place.source.line(place.span.line))
    return Diagnostic(
        "E0103",
        "this text has no closing quote",
        place.source.span(place.offset, line_end),
        'no `"` before the end of the line',
        why='text begins and ends with `"` on one line, and cannot hold a `"` itself',
        fix='write `"` where the text ends; a long `doc` can be several `doc` lines',
    )


def check_number(place: Place) -> Diagnostic | None:
    """Numbers that cannot be read: `1e`, `3px`, `4 GB`, `10 %`, `.5`."""
    text = place.source.text
    if not place.kind and place.text in "0123456789":
        written = re.match(r"[\w.]+(?:(?<=[eE])[+-]\d*)?", text[place.offset :])
        return _malformed(place, place.offset, place.offset + (written.end() if written else 1))
    previous = place.previous
    if previous is None:
        return None
    start = previous.start_pos or 0
    if previous.type == "NUMBER" and place.kind == "" and place.text == "%":
        return _number_error(place, start, place.end, "a `%` stands directly behind its number", f"{previous}%")
    if previous.type == "NUMBER" and place.kind == "NAME" and place.text.lower() in SIZES | BINARY_SIZES:
        return _malformed(place, start, place.end)
    if place.kind in ("DOT", "..") and text[place.end : place.end + 1].isdigit() and not place.fits("."):
        digits = re.match(r"[\d_]+", text[place.end :])
        end = place.end + (digits.end() if digits else 0)
        return _number_error(place, place.offset, end, "a number begins with a digit", f"0{text[place.offset : end]}")
    before = text[: place.before]
    if previous.type == "DOT" and (written := re.search(r"(?<![\w.])\d[\d_.]*\.$", before)):
        point = written.group()
        more = re.match(r"[\d_.]+", text[place.before :])
        if more:
            end = place.before + more.end()
            return _number_error(place, written.start(), end, "a number has one decimal point", "")
        return _number_error(place, written.start(), place.before, "a decimal point is followed by a digit", f"{point}0")
    return None


def _malformed(place: Place, start: int, end: int) -> Diagnostic:
    written = place.source.text[start:end]
    unit = re.fullmatch(r"([\d_.]+)\s*([a-zA-Z]+)", written)
    lower = unit.group(2).lower() if unit else ""
    if unit and lower in SIZES:
        return _number_error(place, start, end, "a size is a number with kB, MB, GB or TB directly behind it", f"{unit.group(1)}{SIZES[lower]}")
    if unit and lower in BINARY_SIZES:
        return _number_error(place, start, end, "sizes are counted in powers of 1000: kB, MB, GB or TB", "")
    if re.fullmatch(r"[\d_.]+[eE][+-]?", written):
        return _number_error(place, start, end, "an exponent needs its digits, as in `1e-3`", "")
    if re.match(r"0[xXbBoO]", written):
        return _number_error(place, start, end, "numbers are decimal", "")
    if unit:
        advice = f"letters cannot follow a number; a product is written out: `{unit.group(1)} * {unit.group(2)}`"
        return _number_error(place, start, end, advice, "")
    return _number_error(place, start, end, "a number is written `3`, `0.5`, `1e-3`, `1_000`, `10%` or `4GB`", "")


def _number_error(place: Place, start: int, end: int, advice: str, mended: str) -> Diagnostic:
    span = place.source.span(start, end)
    return Diagnostic(
        "E0111",
        f"`{place.source.text[start:end]}` is not a number",
        span,
        "cannot be read as a number",
        why=advice,
        fix=f"write `{mended}`" if mended else "write a number such as `3`, `0.5`, `1e-3`, `1_000`, `10%` or `4GB`",
        edits=(Edit(span, mended),) if mended else (),
    )


def check_sign(place: Place) -> Diagnostic | None:
    """Characters and operators that do not belong."""
    text = place.source.text
    for start in (place.offset, place.before - 1):
        for written, meant in OPERATORS.items():
            touches = place.offset < start + len(written) and (place.kind == "" or len(written) > 1 or not written.isascii())
            if start >= 0 and touches and text.startswith(written, start):
                return _instead(place, start, start + len(written), meant)
    doubled = place.kind == "EQUAL" and text[place.offset - 1 : place.offset] == "=" and place.previous is not None and place.previous.type == "EQUAL"
    if doubled or (place.kind == "COMPARE" and place.text == "==" and place.fits("=")):
        return _binding(place, place.offset - doubled)
    if place.kind == "EQUAL" and place.fits("COMPARE"):
        return _comparing(place)
    return _character(place) if place.kind == "" else None


def _instead(place: Place, start: int, end: int, meant: str) -> Diagnostic:
    text = place.source.text
    written = text[start:end]
    span = place.source.span(start, end)
    name = written if written.isprintable() and not written.isspace() else f"U+{ord(written[0]):04X}"
    new = f"{meant} " if meant == "not" else f" {meant} " if meant.isalpha() and not text[end : end + 1].isspace() else meant
    if meant == "and" and text[start - 1 : start].isspace():
        new = new.lstrip()
    invisible = "it has no meaning; a line goes on inside brackets, or where the next line begins with an operator"
    why = {
        "": invisible if written == "\\" else "it cannot be seen",
        "#": "a comment begins with `#` and ends with the line",
        '"': "text stands in plain double quotes",
        " ": "it looks like a space but is not one",
    }.get(meant, "it is not a sign of the language")
    return Diagnostic(
        "E0106",
        f"`{name}` does not belong here",
        span,
        f"write `{meant}`" if meant.strip() else "remove it" if not meant else "write a plain space",
        why=why,
        fix=f"`{meant}` says it" if meant.strip() else "remove it" if not meant else "replace it by a plain space",
        edits=_quotes(place, start) if meant == '"' else (Edit(span, new),),
    )


def _quotes(place: Place, start: int) -> tuple[Edit, ...]:
    """Both quotes of a text in typographic quotes."""
    line_end = place.source.starts[place.span.line - 1] + len(place.source.line(place.span.line))
    places = [at for at in range(start, line_end) if OPERATORS.get(place.source.text[at]) == '"'][:2]
    return tuple(Edit(place.source.span(at, at + 1), '"') for at in places) if len(places) == 2 else ()


def _binding(place: Place, start: int) -> Diagnostic:
    span = place.source.span(start, place.end)
    return Diagnostic(
        "E0106",
        "`==` compares; it does not bind a name",
        span,
        "write `=`",
        why="`x = e` makes `x` a formula, `x ~ e` draws it, `x <- e` assigns to a state",
        fix="write `=` here",
        edits=(Edit(span, "="),),
    )


def _comparing(place: Place) -> Diagnostic | None:
    if place.opener is not None and place.opener.type in ("LPAR", "LSQB") and place.previous is not None and place.previous.type == "NAME":
        return None
    first = place.statement[0] if place.statement else None
    condition = isinstance(first, Token) and first.type in ("WHEN", "REQUIRE", "PREFER", "EXPECT", "SUBJECT", "LINK")
    return Diagnostic(
        "E0106",
        "`=` does not compare",
        place.span,
        "write `==`",
        why="inside an expression two values are compared with `==`; `=` binds a name, one to a statement",
        fix="write `==`, or begin a new statement",
        edits=(Edit(place.span, "=="),) if condition else (),
    )


def _character(place: Place) -> Diagnostic:
    text = place.source.text
    character = place.text
    if character in GREEK or character.lower() in GREEK:
        end = place.end
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        name = "".join(GREEK.get(c.lower(), c) for c in text[place.offset : end])
        edits = (Edit(place.source.span(place.offset, end), name),) if name.isascii() else ()
        why = "names are made of the letters a to z, digits and `_`, so that every keyboard can type them"
        return _foreign(place, f"write `{name}`", why, edits)
    if character == "'" and (quoted := re.match(r"'([^'\"\n]*)'", text[place.offset :])):
        span = place.source.span(place.offset, place.offset + quoted.end())
        return _foreign(place, f'write `"{quoted.group(1)}"`', "text stands in double quotes", (Edit(span, f'"{quoted.group(1)}"'),))
    if character in ADVICE:
        why, fix = ADVICE[character]
        return _foreign(place, fix, why, ())
    if character.isalpha():
        return _foreign(place, "write the name without it", "names are made of the letters a to z, digits and `_`", ())
    return _foreign(place, "remove it", "no part of the language uses this character outside of texts and comments", ())


def _foreign(place: Place, fix: str, why: str, edits: tuple[Edit, ...]) -> Diagnostic:
    shown = place.text if place.text.isprintable() else f"U+{ord(place.text[0]):04X}"
    return Diagnostic("E0106", f"`{shown}` does not belong here", place.span, "not a character of the language", why=why, fix=fix, edits=edits)

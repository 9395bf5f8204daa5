"""Messages for what other languages, and other keyboards, taught: stray characters, `**` and `&&`, `def` and `+=`, `3px`, and
keywords misspelt. Most carry an edit that `gradflow check --fix` can make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

from lark import Token

from gradflow.language.diagnostics import Diagnostic, Edit
from gradflow.language.syntax_place import Place
from gradflow.language.syntax_words import ADVICE, DROPPED_WORDS, GREEK, KIND_SYNONYMS, KINDS, OPERATORS, STATEMENT_SYNONYMS, STATEMENT_WORDS

SIZES = {"kb": "kB", "mb": "MB", "gb": "GB", "tb": "TB"}
BINARY_SIZES = {"kib": "kB", "mib": "MB", "gib": "GB", "tib": "TB"}


# ---- characters


def _string(place: Place) -> Diagnostic | None:
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


def _number(place: Place) -> Diagnostic | None:
    """Numbers that cannot be read: `1e`, `3px`, `4 GB`, `10 %`, `.5`."""
    text = place.source.text
    if not place.kind and place.text.isdigit():
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
        return _number_error(place, place.offset, end, "a number begins with a digit", f"0{text[place.offset:end]}")
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
        return _number_error(place, start, end, f"sizes are written in kB, MB, GB or TB (powers of 1000); for `{written}` write the nearest of these", "")
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


def _sign(place: Place) -> Diagnostic | None:
    """Characters and operators that do not belong."""
    text = place.source.text
    for start in (place.offset, place.before - 1):
        for written, meant in OPERATORS.items():
            touches = start <= place.offset < start + len(written) and (start == place.offset or len(written) > 1)
            if start >= 0 and touches and text.startswith(written, start) and (place.kind == "" or len(written) > 1 or not written.isascii()):
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
    why = {
        "": "it has no meaning here; a line goes on inside brackets, or where the next line begins with an operator" if written == "\\" else "it cannot be seen",
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
        return _foreign(place, f"write `{name}`", "names are made of the letters a to z, digits and `_`, so that every keyboard can type them", edits)
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


# ---- words


def _misspelt(place: Place) -> Diagnostic | None:
    """A word at the beginning of a statement or of a definition that is nearly, or elsewhere, a keyword."""
    if place.kind == "NAME" and not place.openers and place.first_on_line and place.fits("KIND"):
        return _misspelt_kind(place)
    statement = place.statement
    if len(statement) != 1 or not isinstance(statement[0], Token) or statement[0].type != "NAME" or place.opener is None or place.opener.type != "LBRACE":
        return None
    word = statement[0]
    if place.kind in ("_NL", "RBRACE"):
        close = get_close_matches(str(word).lower(), ("checkpoint", "reset"), n=1, cutoff=0.8)
    elif place.kind in ("NUMBER", "STRING", "LPAR", "LSQB", "ADD", "LBRACE", "PERCENT", "SIZE") or place.text[:1].isalpha():
        close = [STATEMENT_SYNONYMS[word.lower()]] if word.lower() in STATEMENT_SYNONYMS else []
        close = close or get_close_matches(str(word).lower(), STATEMENT_WORDS, n=1, cutoff=0.75)
    else:
        close = []
    if str(word) == "maximize" or str(word) == "maximise":
        return _maximize(place, word)
    if not close or (place.kind == "LPAR" and str(word) not in STATEMENT_SYNONYMS and len(word) < 5):
        return None
    return _word(place, word.start_pos or 0, word.end_pos or 0, close[0], "no statement begins with this word", str(word).lower() not in UNLIKE)


UNLIKE = frozenset({"min", "log", "print", "metric", "for", "while", "loop", "if", "unless", "arg", "args", "save", "buffer", "assert", "needs", "ensure"})


def _misspelt_kind(place: Place) -> Diagnostic | None:
    following = re.match(r"[ \t]+([a-zA-Z_]\w*)?[ \t]*(.?)", place.source.text[place.end :])
    word = place.text
    close = [KIND_SYNONYMS[word.lower()]] if word.lower() in KIND_SYNONYMS else get_close_matches(word.lower(), (*KINDS, "import"), n=1, cutoff=0.7)
    if following is None or (following.group(1) is None and following.group(2) != '"'):
        return None
    if following.group(1) and following.group(2) not in ("(", "{", "=", "o", ""):
        return None
    if close:
        return _word(place, place.offset, place.end, close[0], "no definition begins with this word", word.lower() not in KIND_SYNONYMS)
    if word in STATEMENT_WORDS:
        return None
    return Diagnostic(
        "E0105",
        f"`{word}` is not a kind of definition",
        place.span,
        "unknown kind",
        why="a definition begins with what it defines",
        fix=f"begin with one of {', '.join(f'`{kind}`' for kind in KINDS)}",
    )


def _word(place: Place, start: int, end: int, meant: str, why: str, same_word: bool) -> Diagnostic:
    span = place.source.span(start, end)
    return Diagnostic(
        "E0105",
        f"unknown word `{place.source.text[start:end]}`: did you mean `{meant}`?",
        span,
        "not a keyword",
        why=why,
        fix=f"write `{meant}`",
        edits=(Edit(span, meant),) if same_word else (),
    )


def _maximize(place: Place, word: Token) -> Diagnostic:
    return Diagnostic(
        "E0105",
        f"unknown word `{word}`: objectives are minimized",
        place.source.span(word.start_pos or 0, word.end_pos or 0),
        "not a keyword",
        why="one direction everywhere keeps signs readable: every objective says what is to become small",
        fix="write `minimize -(..)`",
    )


# ---- Python


def _python(place: Place) -> Diagnostic | None:
    text = place.source.text
    previous = place.previous
    if place.kind == "NAME" and not place.openers and place.text in ("def", "class", "from", "lambda") and place.fits("KIND"):
        return _not_python(place, place.offset, place.end, f"`{place.text}` begins nothing here", "definitions begin with their kind", "write `function name(..) { .. }`")
    if place.kind == "COLON" and text[place.end : place.end + 1] == "=":
        return _walrus(place)
    if place.text in ("+", "-", "*", "/", "^") and text[place.end : place.end + 1] == "=" and place.fits("<-"):
        return _augmented(place)
    if place.kind == "COLON" and place.fits("{"):
        rest = place.source.line(place.span.line)[place.span.column :].strip()
        if not rest or rest.startswith("#"):
            why = "a block stands in braces; indentation has no meaning"
            return _not_python(place, place.offset, place.end, "`:` does not begin a block", why, "write `{` here, and `}` where the block ends")
    if place.literal == "->" and place.fits("{") and place.stack and any(isinstance(v, Token) and v.type == "KIND" for v in place.stack[:1] + place.stack[-3:]):
        why = "what a function returns follows from its body; `->` joins the stages of a flow"
        return _not_python(place, place.offset, place.end, "a head has no return type", why, "remove the `->` and the type after it")
    if place.kind == "LBRACE" and place.fits("NUMBER") and previous is not None and (str(previous) in "=:,([~" or str(previous) in ("<-", "->")):
        why = "braces hold statements"
        return _not_python(place, place.offset, place.end, "`{` does not begin a value", why, "write a record as `(a: 1, b: 2)`, a list as `[1, 2]`")
    if place.kind == "IN" and not place.fits(":"):
        why = "`in` bounds a type, as in `lr: real in [0, 1)`"
        return _not_python(place, place.offset, place.end, "`in` cannot stand in an expression", why, "compare: `low <= x and x < high`")
    if place.text == "if" and not place.fits("if"):
        return _not_python(place, place.offset, place.end, "`if` cannot stand in an expression", "a choice between values is a function", "write `where(condition, a, b)`")
    if previous is not None and str(previous) == "lambda" and previous.type == "NAME":
        start = previous.start_pos or 0
        return _not_python(place, start, start + 6, "`lambda` is not a keyword", "a function value is written with `=>`", "write `x => ..` or `(x, y) => ..`")
    return _python_statement(place)


def _python_statement(place: Place) -> Diagnostic | None:
    statement = place.statement
    if len(statement) != 1 or not isinstance(statement[0], Token) or statement[0].type != "NAME":
        return None
    word = statement[0]
    start, end = word.start_pos or 0, word.end_pos or 0
    if str(word) in DROPPED_WORDS and place.kind == "NAME":
        diagnostic = _not_python(place, start, end, f"`{word}` is not needed", "`=` alone binds a name", f"remove `{word}`")
        return Diagnostic(**{**vars(diagnostic), "edits": (Edit(place.source.span(start, place.offset), ""),)})
    if place.kind not in ("NAME", "LPAR", "LBRACE", "NOT", "COLON"):
        return None
    for words, message, why, fix in STATEMENTS:
        if str(word) in words:
            return _not_python(place, start, end, message.replace("*", str(word)), why, fix)
    return None


STATEMENTS = (
    (("for", "while"), "`*` is not a keyword: the one loop is `repeat`", "a loop runs over an axis, for a number of passes, or until a condition holds",
     "write `repeat token { .. }`, `repeat n: 10 { .. }` or `repeat with x = start until condition { .. }`"),
    (("if",), "`if` is not a keyword: state changes under `when`", "what changes state under a condition stands in a `when` block; a choice between values is `where`",
     "write `when condition { .. }`, or `x = where(condition, a, b)`"),
    (("else", "elif"), "there is no `*`", "a choice between values is a function, and each `when` stands alone", "write `x = where(condition, a, b)`, or a second `when`"),
    (("def",), "`def` is not a keyword", "definitions stand at the top of a file and begin with their kind", "write `name = x => ..` here, or a `function` beside this definition"),
)  # fmt: skip


def _not_python(place: Place, start: int, end: int, message: str, why: str, fix: str) -> Diagnostic:
    return Diagnostic("E0112", message, place.source.span(start, end), "not written this way", why=why, fix=fix)


def _walrus(place: Place) -> Diagnostic:
    span = place.source.span(place.offset, place.end + 1)
    return Diagnostic(
        "E0112",
        "`:=` is not an operator",
        span,
        "write `=`",
        why="`x = e` makes `x` a formula, `x ~ e` draws it, `x <- e` assigns to a state",
        fix="write `=` to bind a name, `<-` to change a state",
        edits=(Edit(span, "="),) if place.fits("=") else (),
    )


def _augmented(place: Place) -> Diagnostic:
    """`x += e` is `x <- x + e`."""
    source = place.source
    name = place.text_of(place.statement[0]) if place.statement else "x"
    tail = re.match(r"[^\n#;{}]*", source.text[place.end + 1 :])
    value = tail.group().strip() if tail else ""
    simple = re.fullmatch(r"[\w.]+(\([^()]*\))?", value) or (place.text == "+" and not re.search(r"->|[<>=|]|\b(and|or|on)\b", value))
    mended = f"{name} <- {name} {place.text} {value if simple else f'({value})'}"
    end = place.end + 1 + (len(tail.group().rstrip()) if tail else 0)
    balanced = bool(value) and all(value.count(a) == value.count(b) for a, b in ("()", "[]"))
    whole = len(place.statement) == 1
    return Diagnostic(
        "E0112",
        f"`{place.text}=` is not an operator",
        source.span(place.offset, place.end + 1),
        "write `<-`",
        why="a change of state says in full what the new value is",
        fix=f"write `{mended}`",
        edits=(Edit(source.span(place.before, end), mended[len(name) :]),) if balanced and whole else (),
    )


HABITS: tuple[Callable[[Place], Diagnostic | None], ...] = (_string, _number, _python, _sign, _misspelt)

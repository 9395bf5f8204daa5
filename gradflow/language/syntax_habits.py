"""Messages for words that are nearly keywords, and for what other languages taught: `optimizer`, `def`, `+=`, `if c else`.

Most carry an edit that `gradflow check --fix` can make.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

from lark import Token

from gradflow.language.diagnostics import Diagnostic, Edit
from gradflow.language.syntax_place import Place
from gradflow.language.syntax_signs import check_number, check_sign, check_string
from gradflow.language.syntax_words import DROPPED_WORDS, KIND_SYNONYMS, KINDS, OPERATION, STATEMENT_SYNONYMS, STATEMENT_WORDS


def _misspelt(place: Place) -> Diagnostic | None:
    """A word at the beginning of a statement or of a definition that is nearly, or elsewhere, a keyword."""
    if place.kind == "NAME" and not place.openers and place.first_on_line and place.fits("KIND"):
        return _misspelt_kind(place)
    word = place.first_name
    if word is None or place.opener is None or place.opener.type != "LBRACE":
        return None
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
    start, end = word.start_pos or 0, word.end_pos or 0
    return _word(place, start, end, close[0], "no statement begins with this word", str(word).lower() not in UNLIKE)


UNLIKE = frozenset(STATEMENT_SYNONYMS) - {"minimise", "inputs", "states"}


def _misspelt_kind(place: Place) -> Diagnostic | None:
    following = re.match(r"[ \t]+([a-zA-Z_]\w*)?[ \t]*(.?)", place.source.text[place.end :])
    word = place.text
    synonym = KIND_SYNONYMS.get(word.lower())
    close = [synonym] if synonym else get_close_matches(word.lower(), (*KINDS, "import"), n=1, cutoff=0.7)
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
    if place.kind == "NAME" and not place.openers and place.text in ("def", "class", "from", "lambda") and place.fits("KIND"):
        message, why = f"`{place.text}` begins nothing here", "definitions begin with their kind"
        return _not_python(place, place.offset, place.end, message, why, "write `function name(..) { .. }`")
    if place.kind == "COLON" and text[place.end : place.end + 1] == "=":
        return _walrus(place)
    if place.text in ("+", "-", "*", "/", "^") and text[place.end : place.end + 1] == "=" and place.fits("<-"):
        return _augmented(place)
    return _python_head(place) or _python_expression(place) or _python_statement(place)


def _python_head(place: Place) -> Diagnostic | None:
    """`:` for a block, `->` for a return type."""
    if place.kind == "COLON" and place.fits("{"):
        rest = place.source.line(place.span.line)[place.span.column :].strip()
        if not rest or rest.startswith("#"):
            why = "a block stands in braces; indentation has no meaning"
            return _not_python(place, place.offset, place.end, "`:` does not begin a block", why, "write `{` here, and `}` where the block ends")
    in_head = any(isinstance(value, Token) and value.type == "KIND" for value in place.stack[:1] + place.stack[-3:])
    if place.literal == "->" and place.fits("{") and in_head:
        why = "what a function returns follows from its body; `->` joins the stages of a flow"
        return _not_python(place, place.offset, place.end, "a head has no return type", why, "remove the `->` and the type after it")
    return None


def _python_expression(place: Place) -> Diagnostic | None:
    """`{a: 1}`, `x in y`, `a if c else b`, `lambda x: x`."""
    previous = place.previous
    opens_value = previous is not None and str(previous) in ("=", ":", ",", "(", "[", "~", "<-", "->")
    if place.kind == "LBRACE" and place.fits("NUMBER") and opens_value:
        fix = "write a record as `(a: 1, b: 2)`, a list as `[1, 2]`"
        return _not_python(place, place.offset, place.end, "`{` does not begin a value", "braces hold statements", fix)
    if place.text == "in" and place.accepts >= OPERATION and not place.fits("in"):
        why = "`in` bounds a type, as in `lr: real in [0, 1)`"
        return _not_python(place, place.offset, place.end, "`in` cannot stand in an expression", why, "compare: `low <= x and x < high`")
    if place.text == "if" and not place.fits("if"):
        why = "a choice between values is a function"
        return _not_python(place, place.offset, place.end, "`if` cannot stand in an expression", why, "write `where(condition, a, b)`")
    if previous is not None and str(previous) == "lambda" and previous.type == "NAME":
        start = previous.start_pos or 0
        why = "a function value is written with `=>`"
        return _not_python(place, start, start + 6, "`lambda` is not a keyword", why, "write `x => ..` or `(x, y) => ..`")
    return None


def _python_statement(place: Place) -> Diagnostic | None:
    word = place.first_name
    if word is None:
        return None
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
    (
        ("for", "while"),
        "`*` is not a keyword: the one loop is `repeat`",
        "a loop runs over an axis, for a number of passes, or until a condition holds",
        "write `repeat token { .. }`, `repeat n: 10 { .. }` or `repeat with x = start until condition { .. }`",
    ),
    (
        ("if",),
        "`if` is not a keyword: state changes under `when`",
        "what changes state under a condition stands in a `when` block; a choice between values is `where`",
        "write `when condition { .. }`, or `x = where(condition, a, b)`",
    ),
    (
        ("else", "elif"),
        "there is no `*`",
        "a choice between values is a function, and each `when` stands alone",
        "write `x = where(condition, a, b)`, or a second `when`",
    ),
    (
        ("def",),
        "`def` is not a keyword",
        "definitions stand at the top of a file and begin with their kind",
        "write `name = x => ..` here, or a `function` beside this definition",
    ),
)


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


HABITS: tuple[Callable[[Place], Diagnostic | None], ...] = (check_string, check_number, _python, check_sign, _misspelt)

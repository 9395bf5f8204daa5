"""Random and mutated texts: the parser raises nothing but diagnostics with spans inside the file, and what still parses can be formatted."""

from __future__ import annotations

import re
from functools import cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradflow.language import syntax as s
from gradflow.language.diagnostics import GradflowError
from gradflow.language.fixes import apply_edits
from gradflow.language.format import format_source
from gradflow.language.parser import comments_of, parse, parse_expression
from gradflow.language.printer import FORMATS, render
from gradflow.language.source import Source
from tests.language.corpus import sources

TOKENS = re.compile(r'"[^"\n]*"|#[^\n]*|\w+|<-|->|=>|\.\.|[ \t]+|\n|.')
WORDS = [
    *("function", "update", "pipeline", "state", "input", "minimize", "when", "repeat", "train", "every", "on", "over", "as", "=", "~"),
    *("<-", "->", "=>", "(", ")", "[", "]", "{", "}", ":", ",", ";", ".", "..", "|", "+", "-", "*", "/", "^", "1", "2.5", "10%", "4GB"),
    *("x", '"t"', "#c \n", "\n"),
]
TERMINALS = re.compile(r"__ANON|_NL|\$END|LPAR|RSQB|LBRACE|RULE|Token")
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@cache
def definitions() -> list[str]:
    return [source.text[item.span.offset : item.span.end] for source in sources() for item in parse(source).items if item.span.length < 1500]


def check_text(text: str) -> None:
    """Parses, and judges whatever comes of it."""
    source = Source("fuzz.gflow", text)
    try:
        tree = parse(source)
    except GradflowError as error:
        check_diagnostics(source, error)
        return
    result = format_source(source)
    again = Source("fuzz.gflow", result)
    assert s.shape(parse(again)) == s.shape(tree)
    assert sorted(c.text for c in comments_of(again)) == sorted(c.text for c in tree.comments)
    assert format_source(again) == result


def check_diagnostics(source: Source, error: GradflowError) -> None:
    assert error.diagnostics
    for diagnostic in error.diagnostics:
        spans = [diagnostic.span, *(label.span for label in diagnostic.secondary), *(edit.span for edit in diagnostic.edits)]
        for span in spans:
            assert 0 <= span.offset <= span.end <= len(source.text)
            assert source.span(span.offset, span.end) == span
        assert diagnostic.why and diagnostic.fix
        words = " ".join((diagnostic.message, diagnostic.label, diagnostic.why, diagnostic.fix))
        assert all(name in source.text for name in TERMINALS.findall(words))
    for format in FORMATS:
        assert render(error.diagnostics, {source.name: source}, format)
    apply_edits(source.text, [edit for diagnostic in error.diagnostics for edit in diagnostic.edits])


@quick
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check_text(text)


@quick
@given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_any_words(words: list[str]) -> None:
    check_text("function f {\n" + " ".join(words) + "\n}\n")


@quick
@given(st.text(alphabet='ab1.%(),:[]=<->+*^| \n#"', max_size=40))
def test_any_expression(text: str) -> None:
    try:
        parse_expression(Source("<command line>", text))
    except GradflowError as error:
        assert all(0 <= d.span.offset <= d.span.end <= max(len(text), 1) for d in error.diagnostics)


@quick
@given(st.data())
def test_mutated_tokens(data: st.DataObject) -> None:
    """Tokens of a good definition deleted, doubled, swapped, or replaced by others."""
    tokens = TOKENS.findall(data.draw(st.sampled_from(definitions())))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(tokens) - 1))
        kind = data.draw(st.sampled_from(["delete", "double", "swap", "replace", "remark"]))
        if kind == "delete" and len(tokens) > 1:
            del tokens[place]
        elif kind == "double":
            tokens.insert(place, tokens[place])
        elif kind == "swap":
            other = data.draw(st.integers(0, len(tokens) - 1))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        elif kind == "remark":
            tokens.insert(place, " # remark\n")
        else:
            tokens[place] = data.draw(st.sampled_from(WORDS))
    check_text("".join(tokens))


@quick
@given(st.data())
def test_mutated_characters(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(definitions()))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.sampled_from(["", text[place] * 2, "\n", "(", "}", "#", '"', " ", "é", "\t"])) + text[place + 1 :]
        text = text or " "
    check_text(text)

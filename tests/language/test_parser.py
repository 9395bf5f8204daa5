"""The parser on the whole corpus: everything parses, spans lie inside the file, the stored tables are the grammar's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lark.lexer import PatternStr

from gradflow.grammar import tables
from gradflow.language import syntax as s
from gradflow.language.diagnostics import GradflowError
from gradflow.language.parser import DEEPEST, Newlines, parse, parse_expression
from gradflow.language.source import Source
from gradflow.language.syntax_words import KINDS, RESERVED
from tests.language.corpus import SPECS, name_of


@pytest.mark.parametrize("path", SPECS, ids=name_of)
def test_corpus_parses(path: Path) -> None:
    source = Source.read(path)
    tree = parse(source)
    assert tree.definitions
    for node in s.walk(tree):
        span = node.span
        assert 0 <= span.offset <= span.end <= len(source.text)
        assert source.span(span.offset, span.end) == span


@pytest.mark.parametrize("path", SPECS, ids=name_of)
def test_children_lie_inside_their_parents(path: Path) -> None:
    for node in s.walk(parse(Source.read(path))):
        for child in s.children(node):
            assert node.span.offset <= child.span.offset <= child.span.end <= node.span.end


def test_spans_cover_the_text_of_their_nodes() -> None:
    source = Source("a.gflow", "update f(lr: real > 0) {\n  param <- param - lr * grad  # plain\n}\n")
    texts = {type(node).__name__: source.text[node.span.offset : node.span.end] for node in s.walk(parse(source))}
    assert texts["Bind"] == "param <- param - lr * grad"
    assert texts["Param"] == "lr: real > 0"
    assert texts["Comment"] == "# plain"


def test_stored_tables_are_those_of_the_grammar() -> None:
    assert json.loads(tables.TABLES.read_text())["grammar"] == tables.digest()


def test_stored_tables_parse_like_the_grammar() -> None:
    text = SPECS[0].read_text(encoding="utf-8")
    assert tables.load(Newlines()).parse(text) == tables.build(Newlines()).parse(text)


def test_no_terminals_collide() -> None:
    pytest.importorskip("interegular")
    tables.build(Newlines(), strict=True)


def test_keywords_are_those_of_the_grammar() -> None:
    """`syntax_words.py` names every word of the grammar, and no other."""
    words: set[str] = set()
    for terminal in tables.build(Newlines()).terminals:
        if isinstance(terminal.pattern, PatternStr):
            words |= {terminal.pattern.value} if terminal.pattern.value.isalpha() else set()
        elif terminal.name != "CONTINUED":
            groups = re.match(r"\(?([a-z|]+)\)?\\b", terminal.pattern.value)
            words |= set(groups.group(1).split("|")) if groups else set()
    assert words == set(RESERVED) | set(KINDS)


def test_an_expression_alone() -> None:
    value = parse_expression(Source("<command line>", "1e-3 * warmup(10%)"))
    assert isinstance(value, s.Binary) and value.span.offset == 0
    with pytest.raises(GradflowError, match="E0101"):
        parse_expression(Source("<command line>", "1 +"))


@pytest.mark.parametrize(
    "text",
    [
        "function f = " + "(" * 2000 + "1" + ")" * 2000,
        "function f = 1" + " + 1" * 2000,
        "function f = " + "-" * 2000 + "1",
        "function f {" + "when a {" * 2000 + "}" * 2001,
    ],
    ids=["parentheses", "sum", "minus", "blocks"],
)
def test_depth_is_limited(text: str) -> None:
    with pytest.raises(GradflowError) as caught:
        parse(Source("deep.gflow", text))
    assert caught.value.diagnostics[0].code == "E0118"


def test_the_deepest_text_can_be_walked() -> None:
    deep = (DEEPEST - 10) // 2
    tree = parse(Source("deep.gflow", "function f = " + "g(" * deep + "1" + ")" * deep))
    assert sum(isinstance(node, s.Call) for node in s.walk(tree)) == deep


def test_goes_on_after_an_error() -> None:
    text = "function f = 1 +\n\nfunction g = 2\n\nfunction h = (3\n\nfunction i = 4 5\n"
    with pytest.raises(GradflowError) as caught:
        parse(Source("several.gflow", text))
    assert [d.span.line for d in caught.value.diagnostics] == [1, 5, 7]

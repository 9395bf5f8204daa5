"""Mutated specs: whatever still parses is checked in bounded time, raises nothing, and gets diagnostics that point into files.

A text is one definition of a shipped spec with a few edits: a name swapped for another, a number, an operator or a sign changed, an argument
or a statement dropped or doubled. What the definition names besides is found in the library.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from functools import cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradflow.compiler import check_source
from gradflow.language import syntax as s
from gradflow.language.codes import PAGES
from gradflow.language.diagnostics import Diagnostic, Edit, GradflowError
from gradflow.language.fixes import apply_edits
from gradflow.language.parser import parse
from gradflow.language.source import Source, Span
from gradflow.passes.expressions import FRAMES
from gradflow.passes.scope import standard_files

sys.setrecursionlimit(max(sys.getrecursionlimit(), FRAMES))  # as the checker does; hypothesis warns of a change in the middle of a test
SLOWEST = 5.0  # seconds of processor time that a check may take; a mutated spec may well describe something large
HUGE = "1e9"
NUMBERS = ["0", "-1", "1", "2", "3", "0.5", "7", "64", "1e-3", HUGE, "10%"]
OPERATORS = {
    "+": "-*/^", "-": "+*", "*": "+/^", "/": "*-", "^": "*+", "<": [">", "=="], ">": ["<=", "!="], "<=": [">"], ">=": ["<"], "==": ["!=", "<"],
    "!=": ["=="], "and": ["or", "+"], "or": ["and"], "=": ["~", "<-"], "~": ["=", "<-"], "<-": ["=", "~"],
}  # fmt: skip
WORDS = [
    "grad", "param", "t", "progress", "node", "token", "sample", "mean", "sum", "max", "svd", "rank", "uniform", "none", "inf", "backprop", "adam",
    "ring", "step",
]  # fmt: skip
STATEMENTS = (s.Bind, s.State, s.Input, s.Return, s.Minimize, s.Flow, s.Train, s.Declare, s.Require, s.Gives, s.When, s.Repeat)
OPERATOR = re.compile(r"<-|<=|>=|==|!=|[-+*/^<>=~]|\band\b|\bor\b")


@cache
def definitions() -> list[str]:
    """The text of every shipped definition that can be checked."""
    sources = [Source.read(path) for path in standard_files()]
    found = [(source, d) for source in sources for d in parse(source).definitions if d.kind != "claim"]
    return [source.text[d.span.offset : d.span.end] + "\n" for source, d in found]


@cache
def edits(text: str) -> list[tuple[Edit, ...]]:
    """Ways to change a text, a list for each place."""
    source = Source("fuzz.gflow", text)
    tree = parse(source).definitions[0]
    names = sorted({node.id for node in s.walk(tree) if isinstance(node, s.Name)} | {param.name for param in tree.params}) + WORDS
    declared = [node.span for node in s.walk(tree) if isinstance(node, s.Declare)]
    found = [(node, ways) for node in s.walk(tree) for ways in _of_node(source, node, names) if ways]
    return [tuple(way for way in ways if way.text != HUGE or not _inside(node.span, declared)) for node, ways in found]


def _inside(span: Span, others: list[Span]) -> bool:
    """Models and data may be as large as one likes; a check of a model with 1e9 layers is not bounded."""
    return any(other.offset <= span.offset < other.end for other in others)


def _of_node(source: Source, node: s.Node, names: list[str]) -> Iterator[tuple[Edit, ...]]:
    span = node.span
    text = source.text[span.offset : span.end]
    if isinstance(node, s.Name | s.AxisItem | s.Target):
        yield tuple(Edit(span, name) for name in names if name != text)
    elif isinstance(node, s.Number):
        yield tuple(Edit(span, number) for number in NUMBERS)
    elif isinstance(node, s.Arg):
        yield (Edit(span, "1"), Edit(span, ""), Edit(span, f"{text}, {text}"), *((Edit(span, text.partition(":")[2]),) if node.name else ()))
    elif isinstance(node, STATEMENTS):
        yield (Edit(span, ""), Edit(span, f"{text}\n{text}"))
    if isinstance(node, s.Binary | s.Compare | s.Bind):
        inner = list(s.children(node))
        between = source.span(inner[0].span.end, inner[1].span.offset) if len(inner) > 1 else span
        for found in OPERATOR.finditer(source.text, between.offset, between.end):
            yield tuple(Edit(source.span(*found.span()), other) for other in OPERATORS.get(found.group(), ()))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(definitions()))
    places = edits(text)
    chosen = draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=3, unique=True)) if places else []
    return apply_edits(text, [draw(st.sampled_from(places[place])) for place in chosen])


def check(text: str) -> list[Diagnostic]:
    """What the checker says of a text that parses."""
    source = Source("fuzz.gflow", text)
    try:
        parse(source)
    except GradflowError:
        return []
    began = time.process_time()
    found = check_source(source)
    assert time.process_time() - began < SLOWEST
    return found


def check_diagnostic(diagnostic: Diagnostic, text: str) -> None:
    assert diagnostic.code in PAGES
    assert diagnostic.message and diagnostic.why and diagnostic.fix
    for span in (diagnostic.span, *(label.span for label in diagnostic.secondary), *(edit.span for edit in diagnostic.edits)):
        source = Source(span.file, text if span.file == "fuzz.gflow" else files()[span.file])
        assert 0 <= span.offset <= span.end <= len(source.text)
        assert source.span(span.offset, span.end) == span
    assert diagnostic.span.file == "fuzz.gflow"


@cache
def files() -> dict[str, str]:
    return {str(path): path.read_text(encoding="utf-8") for path in standard_files()}


@given(mutated())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_mutated_definitions(text: str) -> None:
    for diagnostic in check(text):
        check_diagnostic(diagnostic, text)

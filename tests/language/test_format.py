"""The formatter keeps the meaning and every comment, and formatting twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradflow.language import syntax as s
from gradflow.language.format import format_source
from gradflow.language.layout import WIDTH
from gradflow.language.parser import DEEPEST, comments_of, parse
from gradflow.language.source import Source
from tests.language.corpus import SPECS, name_of


def formatted(text: str) -> str:
    return format_source(Source("a.gflow", text))


def assert_faithful(text: str) -> str:
    """The formatted text, checked against the text it came from."""
    source = Source("a.gflow", text)
    result = format_source(source)
    again = Source("a.gflow", result)
    assert s.shape(parse(again)) == s.shape(parse(source))
    assert [c.text for c in comments_of(again)] == [c.text for c in comments_of(source)]
    assert format_source(again) == result
    return result


SET_BY_HAND = ("06_fzoos", "17_diffgrad", "25_diff2")  # wider than the formatter sets them: their definitions count as lines of a budget


@pytest.mark.parametrize("path", SPECS, ids=name_of)
def test_corpus(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    result = assert_faithful(text)
    if "pipelines" in path.parts and path.stem not in SET_BY_HAND:
        assert text == result, "run `gradflow fmt pipelines`"
    before, after = comments_of(Source("a", text)), comments_of(Source("a", result))
    assert [c.alone for c in before] == [c.alone for c in after]
    for line in result.splitlines():
        code = line.split("  #")[0]
        assert len(code) <= WIDTH or line.lstrip().startswith("#") or '"' in line
        assert line == line.rstrip() and "\t" not in line


@pytest.mark.parametrize("path", SPECS, ids=name_of)
def test_comments_stay_with_their_statement(path: Path) -> None:
    """Each trailing comment follows the same last token as before."""

    def anchors(source: Source) -> list[tuple[str, str]]:
        found = []
        for comment in comments_of(source):
            if not comment.alone:
                start = source.starts[comment.span.line - 1]
                found.append((comment.text, source.text[start : comment.span.offset].rstrip()[-1]))
        return found

    source = Source.read(path)
    result = Source("a", format_source(source))
    assert anchors(result) == anchors(source)


def test_spaces_and_indentation() -> None:
    text = "update   f( lr:real>0=1e-3 ){\n      state m=0\n  m<-m+grad^ 2\n\n\n\n  when t>1{param<-param-lr*m}\n}\n"
    assert formatted(text) == ("update f(lr: real > 0 = 1e-3) {\n  state m = 0\n  m <- m + grad^2\n\n  when t > 1 { param <- param - lr * m }\n}\n")


def test_blocks_on_one_line_stay_if_they_fit() -> None:
    short = "projection f { a = grad; return a }\n"
    assert formatted(short) == short
    long = f"projection f {{ a = grad; return a * {'b' * 100} }}\n"
    assert formatted(long) == f"projection f {{\n  a = grad\n  return a * {'b' * 100}\n}}\n"


def test_statements_on_one_line_of_a_block_are_separated() -> None:
    assert formatted("projection f {\n  a = grad; b = a\n  return b\n}") == "projection f {\n  a = grad\n  b = a\n  return b\n}\n"


def test_blank_lines() -> None:
    text = "\n\n# head\n\n\nfunction f = 1\nfunction g = 2\n\n\n\nfunction h = 3\n\n\n"
    assert formatted(text) == "# head\n\nfunction f = 1\nfunction g = 2\n\nfunction h = 3\n"
    assert formatted("") == ""
    assert formatted("\n \n") == ""
    assert formatted("# only a comment") == "# only a comment\n"


def test_line_ends_of_other_systems() -> None:
    assert formatted("function f {\r\n  a = 1  # one\r\n  return a\r\n}\r\n") == "function f {\n  a = 1  # one\n  return a\n}\n"


def test_numbers_and_parentheses_keep_their_text() -> None:
    text = "function f(x: real) = (1_000 * x + 1.50e-03) * (x) - 10% * 4GB^-x\n"
    assert formatted(text) == text


def test_alignment_is_kept_and_repaired() -> None:
    text = "update f {\n  state m = 0\n  momentum   <- m\n  gate        = m\n  other = 1\n}\n"
    assert formatted(text) == "update f {\n  state m = 0\n  momentum <- m\n  gate      = m\n  other = 1\n}\n"
    keywords = 'update f {\n  doc   "a"\n  cite  "b"\n  state  x = 0\n}\n'
    assert formatted(keywords) == 'update f {\n  doc  "a"\n  cite "b"\n  state x = 0\n}\n'


def test_comments_in_one_column_stay_in_it() -> None:
    text = "function f {\n  a = 1         # one\n  long = a + 2  # two\n  return long\n}\n"
    assert formatted(text) == text
    assert formatted("function f {\n  a = 1         # one\n  return a   # two\n}\n") == "function f {\n  a = 1  # one\n  return a  # two\n}\n"


def test_long_lines_break_in_brackets_and_before_operators() -> None:
    names = [f"a_rather_long_name_{i}" for i in range(8)]
    call = formatted(f"function f {{\n  return g({', '.join(names)})\n}}\n").splitlines()
    assert call[1:4] == ["  return g(", f"    {names[0]},", f"    {names[1]},"]
    total = formatted(f"function f {{\n  return {' + '.join(names)}\n}}\n").splitlines()
    assert total[1:3] == [f"  return {names[0]}", f"    + {names[1]}"]
    flow = formatted(f"pipeline p {{\n  flow net: {' -> '.join(names)}\n}}\n").splitlines()
    assert flow[1:3] == [f"  flow net: {names[0]}", f"    -> {names[1]}"]


COMMENTED = """# head
import "x" as y  # imported

function f(  # before the first
  a: real,  # the first
  # between
  b: real  # the second
  # after the last
) {  # behind the head
  # alone at the beginning
  c = g(  # opened
    a,  # first
    b)  # last
  d = (a  # a term
    + b  # another
  )
  e = a
    # in the middle of a sum
    + b
  z[a,  # in an index
    b] = 1; w = 2  # behind two
  # alone at the end
}  # behind the body
# last
"""


def test_comments_inside_expressions() -> None:
    result = assert_faithful(COMMENTED)
    for line in ("  a: real,  # the first", "    a,  # first", "}  # behind the body", "# last", ") {  # behind the head"):
        assert line in result.splitlines()


def test_comments_in_an_empty_body() -> None:
    assert_faithful("function f {  # head\n  # body\n}\n")
    assert formatted("function f {\n\n}\n") == "function f {}\n"


def test_deep_text() -> None:
    deep = (DEEPEST - 10) // 2
    assert_faithful("function f = " + "g(1, " * deep + "1" + ")" * deep)

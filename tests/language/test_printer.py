"""Diagnostics in all formats, carets under the right characters, and edits made."""

from __future__ import annotations

import json

import pytest

from gradflow.language.diagnostics import Diagnostic, Edit, Label
from gradflow.language.fixes import apply_edits
from gradflow.language.printer import FORMATS, render
from gradflow.language.source import Source, Span

TEXT = 'pipeline p {\n  flow net: loss -> econtrol(compress: dither(4)) -> sgd(lr: 0.1)\n\ty = "日本" + stray\n}\n'
SOURCE = Source("specs/a b.gflow", TEXT)
SOURCES = {SOURCE.name: SOURCE}


def span(text: str, source: Source = SOURCE) -> Span:
    start = source.text.index(text)
    return source.span(start, start + len(text))


ERROR = Diagnostic(
    "E0312",
    "`econtrol` needs a contractive compressor",
    span("dither(4)"),
    "gives unbiased(omega: 2.1)",
    (Label(span("econtrol"), "asked for here"),),
    why="the error feedback loop is only stable when |C(x) - x|^2 <= (1 - delta) |x|^2",
    fix="`compress: scaled(dither(4))` is contractive(delta: 0.32)",
    edits=(Edit(span("dither(4)"), "scaled(dither(4))"),),
)
WARNING = Diagnostic("W0107", "`stray` has no effect here", span("stray"))


def test_full() -> None:
    assert render([ERROR], SOURCES) == (
        "error[E0312]: `econtrol` needs a contractive compressor\n"
        "  --> specs/a b.gflow:2:40\n"
        "   |\n"
        " 2 |   flow net: loss -> econtrol(compress: dither(4)) -> sgd(lr: 0.1)\n"
        "   |                                        ^^^^^^^^^ gives unbiased(omega: 2.1)\n"
        "   |                     -------- asked for here\n"
        "   |\n"
        "   = why: the error feedback loop is only stable when |C(x) - x|^2 <= (1 - delta) |x|^2\n"
        "   = fix: `compress: scaled(dither(4))` is contractive(delta: 0.32)\n"
        "\n"
        "1 error"
    )


def test_full_of_several() -> None:
    text = render([ERROR, WARNING, WARNING], SOURCES)
    assert text.endswith("\n\n1 error, 2 warnings")
    assert render([], SOURCES) == ""


def test_carets_line_up_under_tabs_and_wide_characters() -> None:
    lines = render([WARNING], SOURCES).splitlines()
    assert lines[3] == ' 3 |     y = "日本" + stray'
    assert lines[4] == "   |                  ^^^^^"  # two of the characters before it are two columns wide


def test_far_secondary_labels_and_other_files() -> None:
    other = Source("lib.gflow", "function f = 1\n")
    far = Diagnostic("E0102", "m", span("pipeline"), "", (Label(span("}"), "ends"), Label(span("f = 1", other), "there")))
    lines = render([far], {**SOURCES, other.name: other}).splitlines()
    assert " ..." in lines
    assert "  ::: lib.gflow:1:10" in lines
    assert "   | - ends" in lines


def test_without_the_source() -> None:
    text = render([ERROR], {})
    assert text.splitlines()[1:3] == [
        "  --> specs/a b.gflow:2:40",
        "   = why: the error feedback loop is only stable when |C(x) - x|^2 <= (1 - delta) |x|^2",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_width(width: int) -> None:
    long = Source("long.gflow", "function f = " + " + ".join(f"name_{i}" for i in range(100)) + "\n")
    for word in ("name_0", "name_50", "name_99"):
        diagnostic = Diagnostic("E0101", "m", span(word, long), "a label of some words that may need a line of its own", why="because " * 30)
        lines = render([diagnostic], {long.name: long}, width=width).splitlines()
        assert all(len(line) <= width for line in lines)
        shown, carets = lines[3], lines[4]
        assert shown[carets.index("^") : carets.rindex("^") + 1] == word


def test_spans_over_lines_and_behind_the_end() -> None:
    source = Source("a.gflow", "ab\ncd\n")
    lines = render([Diagnostic("E0101", "m", source.span(1, 5))], {"a.gflow": source}).splitlines()
    assert lines[4] == "   |  ^"
    lines = render([Diagnostic("E0101", "m", source.span(6, 6))], {"a.gflow": source}).splitlines()
    assert lines[3:5] == [" 3 |", "   | ^"]


def test_control_characters_are_not_sent_to_the_terminal() -> None:
    source = Source("a.gflow", "x \x1b[31m y")
    assert "\x1b" not in render([Diagnostic("E0106", "m", source.span(2, 3))], {"a.gflow": source})


def test_color_adds_nothing_else() -> None:
    import re

    plain, colored = render([ERROR, WARNING], SOURCES), render([ERROR, WARNING], SOURCES, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain


def test_concise() -> None:
    assert render([ERROR, WARNING], SOURCES, "concise").splitlines() == [
        "specs/a b.gflow:2:40: error[E0312]: `econtrol` needs a contractive compressor",
        "specs/a b.gflow:3:13: warning[W0107]: `stray` has no effect here",
    ]


def test_json() -> None:
    first, second = json.loads(render([ERROR, WARNING], SOURCES, "json"))
    assert list(first) == [
        *("code", "severity", "message", "file", "line", "column", "end_line", "end_column", "label", "secondary", "why", "fix", "edits")
    ]
    assert (first["line"], first["column"], first["end_line"], first["end_column"]) == (2, 40, 2, 49)
    assert first["secondary"][0]["text"] == "asked for here"
    edit = first["edits"][0]
    assert TEXT[edit["offset"] : edit["offset"] + edit["length"]] == "dither(4)"
    assert second["severity"] == "warning"
    assert json.loads(render([], SOURCES, "json")) == []


def test_sarif() -> None:
    log = json.loads(render([ERROR, WARNING], SOURCES, "sarif"))
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "gradflow"
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning") and result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "specs/a%20b.gflow"
        assert set(place["region"]) == {"startLine", "startColumn", "endLine", "endColumn"}
    change = run["results"][0]["fixes"][0]["artifactChanges"][0]
    assert change["replacements"][0]["insertedContent"]["text"] == "scaled(dither(4))"
    assert json.loads(render([], SOURCES, "sarif"))["runs"][0]["results"] == []


def test_github() -> None:
    odd = Diagnostic("E0101", "100% odd\nmessage", span("stray"))
    assert render([odd], SOURCES, "github") == ("::error file=specs/a b.gflow,line=3,endLine=3,col=13,endColumn=18,title=E0101::100%25 odd%0Amessage")


def test_unknown_format() -> None:
    assert "xml" not in FORMATS
    with pytest.raises(ValueError, match="xml"):
        render([], {}, "xml")


def test_edits() -> None:
    source = Source("a", "abcdef")
    edits = [Edit(source.span(4, 5), "E"), Edit(source.span(0, 1), "A"), Edit(source.span(2, 2), "-"), Edit(source.span(0, 1), "A")]
    assert apply_edits(source.text, edits) == "Ab-cdEf"
    assert apply_edits(source.text, [Edit(source.span(0, 3), "x"), Edit(source.span(2, 4), "y")]) == "xdef"
    assert apply_edits(source.text, []) == "abcdef"

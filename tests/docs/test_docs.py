"""The documentation is true: generated pages are fresh, every construct of the grammar is explained, every spec checks, every command exists."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from docs import generate
from gradflow.cli.main import COMMANDS, Parser
from gradflow.compiler import check_source
from gradflow.grammar import tables
from gradflow.language.parser import Newlines
from gradflow.language.source import Source

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(`{3,})(.*)\n(?:(.*\n)*?)\1$", re.MULTILINE)
ENTRIES = [entry for section in generate.constructs() for entry in section["construct"]]
REFUSED = {"E0501", "E0901"}  # how the compiler says that a family is not built
WRONG = {"wrong.gflow"}  # specs that pages show for their mistakes


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(info, body) of the fenced blocks of a page."""
    for found in FENCE.finditer(path.read_text(encoding="utf-8")):
        yield found[2].strip(), found[0].split("\n", 1)[1].rpartition("\n")[0] + "\n"


@cache
def parser() -> Lark:
    return tables.build(Newlines())


@cache
def rules() -> dict[str, bool]:
    """Every name of the grammar that can stand in a tree, and whether it always does (`?rule` gives way to its only child)."""
    found: dict[str, bool] = {}
    for rule in parser().rules:
        for name in (rule.alias, None if rule.alias else str(rule.origin.name), str(rule.origin.name)):
            if name and not name.startswith("_"):
                found[str(name)] = found.get(str(name), True) and (name == rule.alias or not rule.options.expand1)
    return found


# ---- constructs


def test_every_rule_of_the_grammar_is_explained() -> None:
    explained = {rule for entry in ENTRIES for rule in entry["rules"]}
    assert explained == set(rules())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["title"])
def test_examples_use_what_they_explain(entry: dict[str, Any]) -> None:
    tree = parser().parse(entry["example"])
    used = {str(part.data) for part in tree.iter_subtrees()}
    assert {rule for rule in entry["rules"] if rules()[rule]} <= used
    assert entry["form"].strip() and entry["text"].strip()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["title"])
def test_examples_check_or_are_refused(entry: dict[str, Any]) -> None:
    found = check_source(Source("example.gflow", entry["example"]))
    if entry.get("built", True):
        assert not found, [str(d) for d in found]
    else:
        assert found and {d.code for d in found} <= REFUSED, "built by now? then say so in constructs.toml"


# ---- pages


@cache
def made() -> dict[str, str]:
    return generate.pages()


def test_generated_pages_are_fresh() -> None:
    stale = [name for name, text in made().items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert not stale, "run python -m docs.generate"


def test_recording_runs_commands() -> None:
    page = "```gflow a.gflow\nfunction f(x: real) = x 2\n```\n\n```console\n$ gradflow check a.gflow\nold\n```\n\n```text\nkept\n```\n"
    found = generate.recorded(page)
    assert "error[E0101]" in found and "old" not in found and "kept" in found
    assert generate.recorded(found) == found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_specs_check(path: Path) -> None:
    if path.name == "language.md":
        return  # made of the constructs
    for info, body in blocks(path):
        kind, _, name = info.partition(" ")
        if kind == "gflow":
            found = check_source(Source(name or path.name, body))
            assert bool(found) == (name in WRONG), [str(d) for d in found]


def commands(path: Path) -> Iterator[list[str]]:
    """The gradflow commands in a page's blocks of commands, as words."""
    for info, body in blocks(path):
        if info not in ("sh", "console"):
            continue
        for line in body.splitlines():
            if info == "console" and not line.startswith("$ "):
                continue
            for part in re.split(r"&&|\|", line.removeprefix("$ ")) if '"' not in line else [line.removeprefix("$ ")]:
                words = shlex.split(part, comments=True)
                if words and words[0].rpartition("/")[2] == "gradflow":
                    yield words[1:]


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "diagnostics.md"], ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    for words in commands(path):
        assert words[0] in COMMANDS, words
        command = importlib.import_module(f"gradflow.cli.{words[0]}")
        reader = Parser(prog=words[0], allow_abbrev=False)
        command.arguments(reader)
        reader.parse_args(words[1:])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_paths_of_a_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|work|tmp|Users|opt)/", path.read_text(encoding="utf-8"))

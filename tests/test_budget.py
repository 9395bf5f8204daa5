"""The budget: how many lines of code the compiler's core, a primitive and a method may take. When it is hit, simplify first.

A line of code holds something else than a comment, a docstring or white space. In specs `doc` and `cite` do not count either.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import token
import tokenize
from pathlib import Path

import pytest

from gradflow.language import syntax as s
from gradflow.language.parser import parse
from gradflow.language.source import Source
from gradflow.library.catalogue import catalogue

ROOT = Path(__file__).parent.parent
CORE = ("language", "graph", "passes", "plan")
CORE_LINES = 9000
PRIMITIVE_LINES = 80
DEFINITION_LINES = 40
FILE_LINES = {"18_sapo": 30, "17_diffgrad": 20}
CODE = (token.OP, token.NAME, token.NUMBER, token.STRING)
METHODS = sorted((ROOT / "pipelines" / "methods").glob("*.gflow"))


def docstring_lines(tree: ast.AST) -> set[int]:
    """Lines that hold a docstring, of the module or of anything in it."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            found.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return found


def python_lines(text: str) -> int:
    lines: set[int] = set()
    for one in tokenize.generate_tokens(io.StringIO(text).readline):
        if one.type in CODE or token.tok_name[one.type].startswith("FSTRING"):
            lines.update(range(one.start[0], one.end[0] + 1))
    return len(lines - docstring_lines(ast.parse(text)))


def spec_lines(definition: s.Definition, source: Source) -> int:
    """Lines of a definition without those that are blank, a comment, `doc` or `cite`."""
    text = source.text[definition.span.offset : definition.span.end]
    lines = [line.strip() for line in text.splitlines()]
    return sum(bool(line) and not line.startswith(("#", "doc ", "cite ")) for line in lines)


def counted(path: Path) -> dict[str, int]:
    """The lines of each definition of a spec that is part of the method: pipelines and claims are not."""
    source = Source.read(path)
    return {d.name: spec_lines(d, source) for d in parse(source).definitions if d.kind not in ("pipeline", "claim")}


def test_what_counts_as_a_line() -> None:
    text = '"""Doc\n\nof two."""\n\n# comment\nx = (\n    1,  # one\n)\n\n\n'
    text += 'def f():\n    """Doc."""\n    y = """a\n\n    b"""\n    return f"""{y}\n    """\n'
    assert python_lines(text) == 3 + 1 + 3 + 2
    source = Source("a", 'update f() {\n  doc "what"\n  # why\n\n  param <- param - grad   # because\n}\n')
    assert spec_lines(parse(source).definitions[0], source) == 3


def test_core() -> None:
    sizes = {name: sum(python_lines(path.read_text(encoding="utf-8")) for path in (ROOT / "gradflow" / name).glob("**/*.py")) for name in CORE}
    assert all(sizes.values())
    assert sum(sizes.values()) < CORE_LINES, sizes


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_primitive(name: str) -> None:
    lines = python_lines(textwrap.dedent(inspect.getsource(catalogue()[name].function)))
    assert 0 < lines < PRIMITIVE_LINES


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_method(path: Path) -> None:
    sizes = counted(path)
    assert max(sizes.values()) < DEFINITION_LINES, sizes
    assert sum(sizes.values()) <= FILE_LINES.get(path.stem, 10**6), sizes

"""Tools that a policy calls while it writes: a piece of text between two marks is handed to a function, and what it says is put behind it.

A tool in a spec is a value, `tools: calculator()`: its name and its options, which `made` turns into a `Tool` where it is used. A call is recognized
in the text, so any tokenizer will do. With the marks `(` and `)`, a policy that writes `(12+5)` reads `=17` and a new line, and goes on from there.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gradflow.library.catalogue import catalogue, primitive
from gradflow.library.python_models import NotAllowed, imported, python_is_allowed

LONGEST = 200  # characters of a call that are looked at, and digits of a number that is told
_granted: set[str] = set()  # functions of the user's that a spec was allowed to name


@dataclass(frozen=True)
class Tool:
    """A call is what stands between `opens` and `closes`; the answer is read between `before` and `after`."""

    name: str
    answer: Callable[[str], str]
    opens: str
    closes: str
    before: str
    after: str

    def call_in(self, text: str) -> str | None:
        """The first call in a text, or None where none is closed."""
        start = text.find(self.opens)
        end = text.find(self.closes, start + len(self.opens)) if start >= 0 else -1
        return text[start + len(self.opens) : end] if end >= 0 else None

    def observation(self, call: str) -> str:
        return f"{self.before}{self.answer(call[:LONGEST])}{self.after}"


def made(value: Any) -> Tool:
    """The tool that a spec's value stands for. Raises ValueError."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)):
        raise ValueError("a tool is needed here: `calculator()`, say")
    found = catalogue().get(value[0])
    if found is None or found.kind != "tool":
        raise ValueError(f"there is no tool `{value[0]}`")
    return found.function(**dict(value[1]))


@primitive("tool", opens="text", closes="text", before="text", after="text")
def calculator(opens: str = "(", closes: str = ")", before: str = "=", after: str = "\n") -> Tool:
    """Works out sums, differences, products and quotients of numbers: `(12+5)` is followed by `=17`. What it cannot read has an empty answer.

    `opens`, `closes`: the marks of a call; `before`, `after`: what the answer stands between. Quotients are exact fractions: `7/2`.
    Raises ValueError for an empty mark.
    """
    return _marked("calculator", calculated, opens, closes, before, after)


@primitive("tool", where="text", opens="text", closes="text", before="text", after="text")
def python_tool(where: str, opens: str = "(", closes: str = ")", before: str = "=", after: str = "\n") -> Tool:
    """A tool of the user's own: the function `name` of `package.module`, from the text of a call to the text of its answer.

    `where`: "package.module:name"; as a tool, `python("package.module:name")` is this. The marks are those of `calculator`. What the function raises
    as ValueError is an empty answer. Raises ValueError where Python code is not allowed, or where the name cannot be imported.
    """
    if python_is_allowed():
        _granted.add(where)
    if where not in _granted:
        raise NotAllowed
    function = imported(where)

    def answer(call: str) -> str:
        try:
            return str(function(call))
        except ValueError:
            return ""

    return _marked(where, answer, opens, closes, before, after)


def _marked(name: str, answer: Callable[[str], str], opens: str, closes: str, before: str, after: str) -> Tool:
    if not opens or not closes:
        raise ValueError("the marks of a call, `opens` and `closes`, cannot be empty")
    return Tool(name, answer, opens, closes, before, after)


# ---- arithmetic

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculated(text: str) -> str:
    """The value of an expression of numbers, signs, + - * / and brackets; empty where it is none, or divides by zero."""
    if not re.fullmatch(r"[0-9+\-*/() ]{1,200}", text):
        return ""
    try:
        value = str(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError, MemoryError):
        return ""
    return value if len(value) <= LONGEST else ""


def _value(tree: ast.expr) -> Fraction:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return Fraction(tree.value)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
        return -_value(tree.operand) if isinstance(tree.op, ast.USub) else _value(tree.operand)
    if isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
        return OPERATORS[type(tree.op)](_value(tree.left), _value(tree.right))
    raise ValueError("no number")

"""Scripts of actors that are not models: what they answer to a question, given notes (the newest last). No code of anybody's is ever run here:
the calculator reads numbers, the four operations and brackets, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

PRECEDENCE = re.compile(r"preceden|order|bracket|parenthes|multipl|divid|divis|product|times", re.IGNORECASE)
EXPRESSION = re.compile(r"[-+*/().\d\s]*\d[-+*/().\d\s]*")
TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/()]")
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


def follow(question: str, notes: Sequence[str]) -> str:
    """The first number in the newest note, 0 without one."""
    found = re.search(r"\d+", notes[-1]) if notes else None
    return found.group() if found else "0"


def calculator(question: str, notes: Sequence[str]) -> str:
    """The value of the longest expression in the question: from left to right, or as it is meant where a note speaks of precedence."""
    found = max(EXPRESSION.findall(question), key=len, default="")
    meant = any(PRECEDENCE.search(note) for note in notes)
    try:
        value = evaluated(TOKEN.findall(found), meant)
    except (ValueError, ZeroDivisionError, IndexError):
        return "?"
    return str(value.numerator if value.denominator == 1 else float(value))


def evaluated(tokens: Sequence[str], meant: bool) -> Fraction:
    """`meant`: products before sums; else each operation as it comes. Raises ValueError where the tokens are no expression."""
    left = list(tokens)

    def operand() -> Fraction:
        token = left.pop(0)
        if token == "-":
            return -operand()
        if token == "(":
            value = run(0)
            if left.pop(0) != ")":
                raise ValueError("a bracket is not closed")
            return value
        return Fraction(token)

    def run(least: int) -> Fraction:
        value = operand()
        while left and left[0] in RANK and (not meant or RANK[left[0]] > least):
            sign = left.pop(0)
            other = run(RANK[sign]) if meant else operand()
            value = {"+": value.__add__, "-": value.__sub__, "*": value.__mul__, "/": value.__truediv__}[sign](other)
        return value

    value = run(0)
    if left:
        raise ValueError("more than an expression")
    return value


SCRIPTS: Mapping[str, Callable[[str, Sequence[str]], str]] = {"follow": follow, "calculator": calculator}

"""Questions that take several steps, each of which a tool can do: what multi-turn agents are trained on here.

`tool_arithmetic` asks for the value of a chain of operations. A policy may work it out step by step, `(3+4)`, reading each value from a calculator,
and then says the result; the field `worked` holds such steps, one a line, for demonstrations. Only what is said in the last turn counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.text_tasks import OPERATIONS, Verifier, cut_splits, exact_match, task_spec

SAYING = (
    "What is {expression}? You have a calculator. Write one step in brackets, such as (12+5), and its value follows. "
    "When you know the result, write the number alone."
)


@primitive(
    "data", steps="int in [1, 8]", digits="int in [1, 4]", size="int >= 1", operations="text", test="int >= 0", seed="int >= 0", batch="int >= 1",
    words="bool",
)  # fmt: skip
def tool_arithmetic(
    steps: int = 2,
    digits: int = 1,
    size: int = 2000,
    operations: str = "+-",
    test: int = 200,
    seed: int = 0,
    batch: int | None = None,
    words: bool = False,
) -> DataSpec:
    """`3+4-2=` -> `5`, in steps: a calculator's call for each operation, from the left, and then the result.

    `steps`: operations in a question; `digits`: its numbers lie below 10^digits; `operations`: characters of `+-*`, of equal rank (with `*` the
    question has brackets); `words`: the question as a sentence that says how to use the calculator, for language models; the last whole number of the
    last turn then counts, else the turn has to be the result alone. No question appears twice. Raises ValueError for another operation, or where
    there are fewer than size + test questions.
    """
    if not operations or set(operations) - set(OPERATIONS):
        raise ValueError(f"operations are characters of `{''.join(OPERATIONS)}`, found `{operations}`")
    below, sizes = 10**digits, {"train": size, "test": test}
    space = below ** (steps + 1) * len(operations) ** steps
    if size + test > space:
        raise ValueError(f"{size} + {test} different questions were asked for, there are {space}")

    @cache
    def rows() -> tuple[list[str], list[str], list[str]]:
        numbers = drawn_numbers(random.key(seed, "tool_arithmetic"), space, size + test)
        return tuple(map(list, zip(*(question(number, steps, below, operations, words) for number in numbers))))  # type: ignore[return-value]

    def load() -> dict[str, dict[str, Any]]:
        questions, answers, worked = rows()
        found, start = cut_splits(questions, answers, sizes), 0
        for split in found.values():
            split["worked"], start = worked[start : start + len(split["question"])], start + len(split["question"])
        return found

    verify = last_number(lambda: rows()[1]) if words else exact_match(lambda: rows()[1])
    spec = task_spec("tool_arithmetic", sizes, load, verify, batch, steps=steps, digits=digits)
    fields: Mapping[str, Mapping[str, FieldSpec]] = {split: {**own, "worked": own["answer"]} for split, own in spec.fields.items()}
    return replace(spec, fields=fields)


def drawn_numbers(key: random.Key, space: int, count: int) -> list[int]:
    """Different numbers below `space`, which may be too many to put into an order."""
    if space <= 4 * count or space <= 1 << 16:
        return [int(n) for n in random.subset(key, space, count)]
    found: dict[int, None] = {}
    for start in range(0, 64 * count, count):
        high, low = (random.uniform(key, numpy.arange(start, start + count), stream=part) for part in (0, 1))
        for one, other in zip(high.tolist(), low.tolist()):
            found.setdefault(((int(one * 2**53) << 53) + int(other * 2**53)) * space >> 106)
        if len(found) >= count:
            break
    return list(found)[:count]


def question(number: int, steps: int, below: int, operations: str, words: bool) -> tuple[str, str, str]:
    """Question, answer and steps of the task with this number."""
    value = number % below
    number //= below
    text, calls = str(value), []
    for step in range(steps):
        number, sign = number // len(operations), operations[number % len(operations)]
        number, other = number // below, number % below
        text = f"({text}){sign}{other}" if "*" in operations and step else f"{text}{sign}{other}"
        calls.append(f"{value}{sign}{other}")
        value = OPERATIONS[sign](value, other)
    return SAYING.format(expression=text) if words else f"{text}=", str(value), "\n".join(calls)


def last_number(answers: Any) -> Verifier:
    """1 where the last whole number of the response is the answer and it ends no call, else 0."""

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        known = answers()
        said = [re.findall(r"-?\d+", re.sub(r"\([^)]*\)?", "", response)) for response in responses]
        return numpy.array([float(bool(numbers) and numbers[-1] == known[int(row)]) for row, numbers in zip(ids, said)])

    return verify

"""Tasks that come with a reference trace: how to reach the answer, word by word, and not only the answer.

Beside the fields of every task set (`text_tasks.py`) there are the words, as `CharacterTokenizer` numbers them, on canvases of fixed width:
`asked` the question, `trace` the reference trace, with the end word behind it, and `steps`, how long the trace is.

Axes: prompt (a task), ask (a place in the question), step (a place in the trace).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import CharacterTokenizer
from gradflow.library.text_tasks import Verifier, cut_splits, task_spec


@primitive("data", terms="int >= 2", size="int >= 1", least="int >= 2", vocabulary="int >= 21", test="int >= 0", seed="int >= 0", batch="int >= 1")
def chain_sums(
    terms: int = 4, size: int = 2000, least: int | None = None, vocabulary: int = 21, test: int = 200, seed: int = 0, batch: int | None = None
) -> DataSpec:
    """`3+4+8=` -> `3+4=7 7+8=5`: sums of digits modulo 10, carried out step by step; the answer is the last digit, and only it is verified.

    `terms`: how many digits are added, at most; `least`: and at least (left out: always as many); questions are drawn evenly and may repeat in
    small sets. `vocabulary`: words of the tokenizer that the fields are numbered by. Fields `asked` int [prompt, ask -> word] (spaces in front),
    `trace` int [prompt, step -> word] (the end word behind it), `steps` int [prompt], `final` int [prompt -> word]. Reward 1 where the last
    digit of a response is the answer.
    """
    if least is not None and least > terms:
        raise ValueError(f"chains of at least {least} digits were asked for, and of at most {terms}")
    sizes = {"train": size, "test": test}
    tokenizer = CharacterTokenizer(vocabulary)
    wide, long = 2 * terms, 6 * (terms - 1) - 1

    @cache
    def chains() -> tuple[list[str], list[str], list[str]]:
        key = random.key(seed, "chain_sums")
        draws = random.uniform(key, numpy.arange((size + test) * (terms + 1)).reshape(size + test, terms + 1))
        shortest = terms if least is None else least
        counts = shortest + (draws[:, -1] * (terms - shortest + 1)).astype(numpy.int64)
        rows = [row[:count].tolist() for row, count in zip((draws[:, :-1] * 10).astype(numpy.int64), counts)]
        return [f"{'+'.join(map(str, row))}=" for row in rows], [str(sum(row) % 10) for row in rows], [trace_of(row) for row in rows]

    def load() -> dict[str, dict[str, Any]]:
        questions, answers, traces = chains()
        loaded = cut_splits(questions, answers, sizes)
        blank = tokenizer.encode(" ")
        asked = numpy.array([blank * (wide - len(text)) + tokenizer.encode(text) for text in questions])
        trace = numpy.array([tokenizer.encode(text) + [tokenizer.eos_id] * (long - len(text)) for text in traces])
        start = 0
        for split, fields in loaded.items():
            stretch = slice(start, start + sizes[split])
            start += sizes[split]
            fields |= {"asked": asked[stretch], "trace": trace[stretch], "steps": numpy.array([len(text) for text in traces[stretch]])}
            fields["final"] = numpy.array([tokenizer.encode(text)[0] for text in answers[stretch]])
        return loaded

    spec = task_spec("chain_sums", sizes, load, last_digit(lambda: chains()[1]), batch, terms=terms, asked=wide, steps=long)
    word = ("word", vocabulary + 1)

    def fields(count: int) -> dict[str, FieldSpec]:
        rows = ("prompt", count)
        return {
            "asked": FieldSpec("int", (rows, ("ask", wide)), target=word), "trace": FieldSpec("int", (rows, ("step", long)), target=word),
            "steps": FieldSpec("int", (rows,)), "final": FieldSpec("int", (rows,), target=word),
        }  # fmt: skip

    return replace(spec, fields={split: {**own, **fields(sizes[split])} for split, own in spec.fields.items()})


def trace_of(digits: list[int]) -> str:
    """`3+4=7 7+8=5`: each step adds one more digit to what came out before."""
    total, parts = digits[0], []
    for digit in digits[1:]:
        parts.append(f"{total}+{digit}={(total + digit) % 10}")
        total = (total + digit) % 10
    return " ".join(parts)


def last_digit(answers: Any) -> Verifier:
    """1 where the last digit of the response is the answer; `answers()`: of the whole set, by id."""

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        known = answers()
        said = [next((c for c in reversed(response) if c.isdigit()), "") for response in responses]
        return numpy.array([float(one == known[int(row)]) for row, one in zip(ids, said)])

    return verify

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


@primitive(
    "data", terms="int >= 2", size="int >= 1", least="int >= 2", modulus="int >= 2", largest="int >= 1", vocabulary="int >= 21",
    test="int >= 0", seed="int >= 0", batch="int >= 1",
)  # fmt: skip
def chain_sums(
    terms: int = 4,
    size: int = 2000,
    least: int | None = None,
    modulus: int = 10,
    largest: int | None = None,
    vocabulary: int = 21,
    test: int = 200,
    seed: int = 0,
    batch: int | None = None,
) -> DataSpec:
    """`3+4+8=` -> `3+4=7 7+8=5`: sums modulo a number, carried out step by step; the answer is the last result, and only it is verified.

    `terms`: how many numbers are added, at most; `least`: and at least (left out: always as many); questions are drawn evenly and may repeat.
    `largest`: of what is added (left out: all that are below the modulus); small steps are learned from far fewer examples. All numbers are
    written with as many digits as the largest needs. `vocabulary`: words of the tokenizer that the fields are numbered by.
    Fields `asked` int [prompt, ask -> word] (spaces in front), `trace` int [prompt, step -> word] (the end word behind it), `steps` int
    [prompt], `final` int [prompt, digit -> word]. Reward 1 where what follows the last `=` of a response is the answer.
    """
    if least is not None and least > terms:
        raise ValueError(f"chains of at least {least} terms were asked for, and of at most {terms}")
    sizes = {"train": size, "test": test}
    tokenizer = CharacterTokenizer(vocabulary)
    digits = len(str(modulus - 1))
    wide, long = (digits + 1) * terms, (3 * digits + 3) * (terms - 1) - 1

    @cache
    def chains() -> tuple[list[str], list[str], list[str]]:
        below = [modulus] + [modulus if largest is None else largest + 1] * (terms - 1)  # the first may be any number
        rows = drawn_terms(seed, size + test, terms if least is None else least, below)
        written = [[f"{term:0{digits}}" for term in row] for row in rows]
        answers = [f"{sum(row) % modulus:0{digits}}" for row in rows]
        return [f"{'+'.join(row)}=" for row in written], answers, [trace_of(row, modulus, digits) for row in rows]

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
            fields["final"] = numpy.array([tokenizer.encode(text) for text in answers[stretch]])
        return loaded

    facts = {"terms": terms, "wide": wide, "long": long, "equals": tokenizer.encode("=")[0]}
    spec = task_spec("chain_sums", sizes, load, last_result(lambda: chains()[1]), batch, **facts)
    word = ("word", vocabulary + 1)

    def fields(count: int) -> dict[str, FieldSpec]:
        rows = ("prompt", count)
        return {
            "asked": FieldSpec("int", (rows, ("ask", wide)), target=word), "trace": FieldSpec("int", (rows, ("step", long)), target=word),
            "steps": FieldSpec("int", (rows,)), "final": FieldSpec("int", (rows, ("digit", digits)), target=word),
        }  # fmt: skip

    return replace(spec, fields={split: {**own, **fields(sizes[split])} for split, own in spec.fields.items()})


def drawn_terms(seed: int, count: int, shortest: int, below: list[int]) -> list[list[int]]:
    """The numbers of so many chains: at least `shortest`, at most as many as there are bounds, each below its own."""
    draws = random.uniform(random.key(seed, "chain_sums"), numpy.arange(count * (len(below) + 1)).reshape(count, len(below) + 1))
    counts = shortest + (draws[:, -1] * (len(below) - shortest + 1)).astype(numpy.int64)
    rows = (draws[:, :-1] * numpy.array(below)).astype(numpy.int64)
    return [row[:length].tolist() for row, length in zip(rows, counts)]


def trace_of(terms: list[int], modulus: int, digits: int) -> str:
    """`3+4=7 7+8=5`: each step adds one more term to what came out before."""
    total, parts = terms[0], []
    for term in terms[1:]:
        following = (total + term) % modulus
        parts.append(f"{total:0{digits}}+{term:0{digits}}={following:0{digits}}")
        total = following
    return " ".join(parts)


def last_result(answers: Any) -> Verifier:
    """1 where what stands behind the last `=` of the response is the answer; `answers()`: of the whole set, by id."""

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        known = answers()
        return numpy.array([float(response.rpartition("=")[2].strip() == known[int(row)]) for row, response in zip(ids, responses)])

    return verify

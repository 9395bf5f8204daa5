"""Tasks with verifiers: questions as text, and a function that says what a response is worth.

A task set is a `DataSpec` whose fields are `question` and `answer` (text), `id` (int), and whose `verify(ids, responses)` gives the rewards.
Ids number the whole data set, the training prompts first; they key the draws of `sample` and any state that a method keeps by prompt.
`Tasks` is one loaded split as the rollouts use it: it also says which prompts a tick uses. Tokens are the model's business, not this file's.

Axes: prompt (a task), sample (a response), token (a place in a response; here only in the code of a lock).
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, MissingExtra, primitive
from gradflow.library.deferred import numpy, random

Verifier = Callable[[Any, list[str]], "numpy.ndarray"]


@dataclass(frozen=True)
class Tasks:
    """One split of a task set at run time.

    `questions`, `answers`: one text a prompt; `ids`: int64 [prompt]; `rows`: int64, the prompts that this tick uses, or None where `sample`
    shall draw them; `batch`: how many it then draws (None: all); `fields`: all columns of the split by name; `feedback(ids, responses)`: what the
    world says to them, if anything.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    ids: numpy.ndarray
    verify: Verifier
    batch: int | None = None
    rows: numpy.ndarray | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    feedback: Callable[[Any, list[str]], list[str]] | None = None

    @classmethod
    def of(cls, spec: DataSpec, split: str = "train") -> Tasks:
        """Loads a split of a data set that has a verifier."""
        if spec.verify is None:
            raise ValueError(f"`{spec.name}` has no verifier: its rows are no tasks")
        loaded = spec.load()[split]
        questions, answers = tuple(loaded["question"]), tuple(loaded["answer"])
        return cls(questions, answers, numpy.asarray(loaded["id"]), spec.verify, spec.batch, None, loaded, spec.feedback)

    def __len__(self) -> int:
        return len(self.questions)

    def columns(self, rows: Any) -> dict[str, Any]:
        """The fields of some rows: texts as lists."""
        found = {n: x for n, x in self.fields.items() if n != "id"}
        return {n: numpy.asarray(x)[rows] if not isinstance(x[0], str) else [x[row] for row in rows] for n, x in found.items() if len(x)}

    def of_tick(self, seed: int, visit: int, prompts: int | None = None) -> Tasks:
        """Those whose rows were chosen before as they are, else `draw`."""
        return self if self.rows is not None else self.draw(seed, visit, prompts)

    def draw(self, seed: int, visit: int, prompts: int | None = None) -> Tasks:
        """The prompts of a tick: a stretch of a random order of all, a new order each epoch, none twice in an epoch.

        `visit` counts the batches from 0. An epoch has floor(all / prompts) batches; the few prompts beyond them wait for another epoch's order.
        """
        count = prompts or self.batch or len(self)
        if count > len(self):
            raise ValueError(f"{count} prompts a tick were asked for, the split has {len(self)}")
        epoch, place = divmod(visit, len(self) // count)
        order = random.permutation(random.key(seed, "prompts", epoch), len(self))
        return replace(self, rows=order[place * count : (place + 1) * count])


def task_spec(name: str, sizes: Mapping[str, int], load: Callable[[], Any], verify: Verifier, batch: int | None = None, **facts: int) -> DataSpec:
    """The DataSpec that all task sets share. `sizes`: prompts by split; `load()`: {split: {question, answer, id, ...}}."""

    def fields(size: int) -> dict[str, FieldSpec]:
        axes = (("prompt", size),)
        return {"question": FieldSpec("text", axes), "answer": FieldSpec("text", axes), "id": FieldSpec("int", axes)}

    splits = tuple(split for split, size in sizes.items() if size)
    return DataSpec(name, splits, {split: fields(sizes[split]) for split in splits}, load, batch=batch, facts=facts, verify=verify)


def cut_splits(questions: Sequence[str], answers: Sequence[str], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Questions and answers of the whole set, cut in the order of `sizes`; ids number them through."""
    loaded: dict[str, dict[str, Any]] = {}
    start = 0
    for split, size in sizes.items():
        stretch = slice(start, start + size)
        if size:
            loaded[split] = {"question": list(questions[stretch]), "answer": list(answers[stretch]), "id": numpy.arange(start, start + size)}
        start += size
    return loaded


def exact_match(answers: Callable[[], Sequence[str]]) -> Verifier:
    """1 where the response, without the blanks around it, is the answer; else 0. `answers()`: of the whole set, by id."""

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        known = answers()
        return numpy.array([float(response.strip() == known[int(row)]) for row, response in zip(ids, responses)])

    return verify


@primitive("data", name="text", size="int >= 1", test="int >= 0", seed="int >= 0", batch="int >= 1", options="text")
def reasoning_gym(name: str, size: int, test: int = 200, seed: int = 0, batch: int | None = None, options: str = "") -> DataSpec:
    """Procedural reasoning tasks of the package reasoning-gym, scored by its own verifiers (which may give part of the credit).

    `name`: a task family, `"basic_arithmetic"`; `size`, `test`: prompts to train on and held out; `batch`: prompts drawn a tick (default: all);
    `options`: settings of the family as `"max_terms=2, max_digits=1"`. When loaded, raises MissingExtra without the package, and
    ValueError for a family or a setting that the package does not know. Source: https://github.com/open-thought/reasoning-gym.
    """
    sizes = {"train": size, "test": test}
    settings = parse_options(options)

    @cache
    def dataset() -> Any:
        return create_family(name, {**settings, "size": size + test, "seed": seed})

    @cache
    def entries() -> list[dict[str, Any]]:
        return [dataset()[row] for row in range(size + test)]

    def load() -> dict[str, dict[str, Any]]:
        return cut_splits([entry["question"] for entry in entries()], [str(entry["answer"]) for entry in entries()], sizes)

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        worth = [dataset().score_answer(response.strip(), entries()[int(row)]) for row, response in zip(ids, responses)]
        return numpy.array(worth, dtype=numpy.float64)

    return task_spec(name, sizes, load, verify, batch, graded=1)


def create_family(name: str, settings: Mapping[str, Any]) -> Any:
    """A data set of reasoning-gym; unknown names become a ValueError that says which ones there are."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtra("`reasoning_gym(..)`", "llm", "reasoning-gym")
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise ValueError(f"reasoning-gym has no task family `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    known = DATASETS[name][1].__dataclass_fields__
    for setting in settings:
        if setting not in known:
            raise ValueError(f"`{name}` has no setting `{setting}`; it has: {', '.join(sorted(set(known) - {'size', 'seed'}))}")
    return create_dataset(name, **settings)


def parse_options(text: str) -> dict[str, int | float | bool | str]:
    """`"max_terms=2, whitespace=single"` as a dictionary; numbers and true, false are recognized."""
    found: dict[str, int | float | bool | str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"a setting is written name=value, found `{part}`")
        found[name] = _value(value)
    return found


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


OPERATIONS: Mapping[str, Callable[[int, int], int]] = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@primitive("data", digits="int in [1, 6]", size="int >= 1", operations="text", test="int >= 0", seed="int >= 0", batch="int >= 1")
def arithmetic(digits: int = 1, size: int = 80, operations: str = "+", test: int = 20, seed: int = 0, batch: int | None = None) -> DataSpec:
    """`3+4=` -> `7`: sums, differences, products of two numbers, as plain characters; no question appears twice, so the test split is unseen.

    `digits`: both numbers lie below 10^digits; `operations`: characters of `+-*`. Reward 1 for exactly the answer, else 0.
    Raises ValueError for another operation, or where there are fewer than size + test questions.
    """
    unknown = [sign for sign in operations if sign not in OPERATIONS]
    if unknown or not operations:
        raise ValueError(f"operations are characters of `{''.join(OPERATIONS)}`, found `{operations}`")
    below = 10**digits
    space = below * below * len(operations)
    if size + test > space:
        raise ValueError(f"{size} + {test} different questions were asked for, there are {space}")
    sizes = {"train": size, "test": test}

    @cache
    def pairs() -> tuple[list[str], list[str]]:
        questions, answers = [], []
        for number in random.subset(random.key(seed, "arithmetic"), space, size + test).tolist():
            sign, rest = operations[number % len(operations)], number // len(operations)
            questions.append(f"{rest % below}{sign}{rest // below}=")
            answers.append(str(OPERATIONS[sign](rest % below, rest // below)))
        return questions, answers

    facts = {"digits": digits, "characters": 2 * digits + 2}
    return task_spec("arithmetic", sizes, lambda: cut_splits(*pairs(), sizes), exact_match(lambda: pairs()[1]), batch, **facts)


FILLER = (
    "the old boat lay by the grey wall and nobody knew why a small bird came down from the hill each day to sit on it while rain fell over "
    "town people went home late with bread wood or cloth under an arm some sang others kept still as if they had all time left in that year"
)
NAMES = "amber birch cedar delta ember fable grove haven ivory jewel koala lemon maple north ocean pearl"


@primitive("data", task="needle", length="int >= 80", size="int >= 1", test="int >= 0", digits="int in [1, 6]", seed="int >= 0", batch="int >= 1")
def long_prompts(
    task: str = "needle", length: int = 400, size: int = 200, test: int = 50, digits: int = 2, seed: int = 0, batch: int | None = None
) -> DataSpec:
    """One sentence to find in a long text: `.. the code of maple is 47 .. the code of maple = ` -> `47`. For what long prompts cost.

    `length`: characters of every prompt, all lower-case letters, digits, blanks and `=`; around the sentence stand words drawn from a fixed list,
    in no order, and its place and the code are drawn too. Reward 1 where the first number of the response is the code, 0.1 where it is
    another one, 0 where there is none.
    """
    sizes = {"train": size, "test": test}

    @cache
    def texts() -> tuple[list[str], list[str]]:
        draws = random.uniform(random.key(seed, "long_prompts"), numpy.arange((size + test) * (length + 3)).reshape(size + test, -1))
        pairs = [needle(row, length, digits) for row in draws]
        return [question for question, _ in pairs], [answer for _, answer in pairs]

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        answers, said = texts()[1], [re.search(r"[0-9]+", response) for response in responses]
        return numpy.array([0.0 if found is None else 1.0 if found[0] == answers[int(row)] else 0.1 for row, found in zip(ids, said)])

    return task_spec("long_prompts", sizes, lambda: cut_splits(*texts(), sizes), verify, batch, characters=length, digits=digits)


def needle(draws: numpy.ndarray, length: int, digits: int) -> tuple[str, str]:
    """A text of exactly `length` characters and the code in it, made of uniform numbers [length + 3]."""
    names, filler = NAMES.split(), FILLER.split()
    name, code = names[int(draws[0] * len(names))], str(10 ** (digits - 1) + int(draws[1] * 9 * 10 ** (digits - 1)))
    sentence, question = f"the code of {name} is {code} ", f"the code of {name} = "
    words = [filler[int(draw * len(filler))] for draw in draws[3:]]
    room = length - len(sentence) - len(question)
    while sum(map(len, words)) + len(words) > room:
        words.pop()
    place = int(draws[2] * (len(words) + 1))
    text = "".join(f"{word} " for word in words[:place]) + sentence + "".join(f"{word} " for word in words[place:])
    return text + " " * (length - len(text) - len(question)) + question, code


DIGITS = (lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b, lambda a, b: a + 2 * b, lambda a, b: a * a + b, lambda a, b: a + b * b)


@primitive("data", length="int in [1, 6]", scored="int in [1, 6]", seed="int >= 0", batch="int >= 1")
def last_digits(length: int = 4, scored: int | None = None, seed: int = 0, batch: int | None = None) -> DataSpec:
    """`37` -> `0164`: the last digits of a + b, a * b, a - b, a + 2 b, a a + b, a + b b, as many as `length`, for all 100 pairs of digits.

    `scored`: only so many first digits of a response are looked at (default: all, and then nothing may follow), so that right answers can
    differ; reward 1 where these are right, else 0. Questions stand in an order keyed by `seed`. Nothing is held out.
    Raises ValueError where more digits are scored than there are.
    """
    counted = length if scored is None else scored
    if counted > length:
        raise ValueError(f"{counted} digits are to be scored of answers that have {length}")
    pairs = [divmod(int(pair), 10) for pair in random.permutation(random.key(seed, "last_digits"), 100)]
    questions = [f"{a}{b}" for a, b in pairs]
    answers = ["".join(str(rule(a, b) % 10) for rule in DIGITS[:length]) for a, b in pairs]

    def verify(ids: Any, responses: list[str]) -> numpy.ndarray:
        seen = [response.strip() if counted == length else response[:counted] for response in responses]
        return numpy.array([float(text == answers[int(row)][:counted]) for row, text in zip(ids, seen)])

    sizes = {"train": 100}
    return task_spec("last_digits", sizes, lambda: cut_splits(questions, answers, sizes), verify, batch, length=length, scored=counted)


@primitive("data", prompts="int >= 1", length="int >= 1", vocabulary="int >= 2", seed="int >= 0", batch="int >= 1")
def combination_lock(prompts: int = 64, length: int = 3, vocabulary: int = 8, seed: int = 0, batch: int | None = None) -> DataSpec:
    """Guess a code word by word; only the whole code pays. The smallest task on which policy objectives differ; its policy is `table_policy`.

    Question: the number of the lock; answer: its words, `"3 1 7"`; reward 1 for exactly these. No code holds word 0, so a table that starts
    in favor of word 0 (`decoy`) starts wrong everywhere. The field `code`: int [prompt, token] holds the answers as words. Nothing is held out:
    the splits are equal.
    """

    @cache
    def codes() -> Any:
        drawn = random.uniform(random.key(seed, "combination_lock"), numpy.arange(prompts * length).reshape(prompts, length))
        return 1 + (drawn * (vocabulary - 1)).astype(numpy.int64)

    @cache
    def answers() -> list[str]:
        return [" ".join(str(word) for word in row) for row in codes().tolist()]

    def load() -> dict[str, dict[str, Any]]:
        split = {"question": [str(lock) for lock in range(prompts)], "answer": answers(), "id": numpy.arange(prompts), "code": codes()}
        return {"train": split, "test": split}

    sizes = {"train": prompts, "test": prompts}
    spec = task_spec("combination_lock", sizes, load, exact_match(answers), batch, prompts=prompts, length=length, vocabulary=vocabulary)
    code = FieldSpec("int", (("prompt", prompts), ("token", length)), target=("word", vocabulary))
    return replace(spec, fields={name: {**fields, "code": code} for name, fields in spec.fields.items()})

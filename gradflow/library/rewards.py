"""Rewards beside the verifier's: each is one number for every response of a record, `form ~ matches(samples, "..")`, and a formula weighs them.

What can be computed from lengths, groups and other fields needs no primitive. A function of the user's own is called only where Python code is
allowed (`python_models.py`); it is asked when the spec is compiled, so that a run never begins without it.

Axes: sample (a response).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.python_models import known_object, python_object
from gradflow.library.text_tasks import Tasks

if TYPE_CHECKING:
    from torch import Tensor


@primitive("call", samples="record", pattern="text")
def matches(samples: Mapping[str, Any], pattern: str) -> Tensor:
    """1 where the whole response, without the blanks around it, matches a regular expression (of Python's `re`, `.` also for line ends), else 0."""
    import torch

    form = re.compile(pattern, re.DOTALL)
    return torch.tensor([float(form.fullmatch(text.strip()) is not None) for text in samples["text"]], dtype=torch.float64)


def matches_fields(samples: Mapping[str, FieldSpec], pattern: Any = "", **options: Any) -> FieldSpec:
    """A number for each sample. Raises ValueError for what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`{pattern}` is no regular expression: {error}") from None
    return per_sample(samples)


def per_sample(samples: Mapping[str, FieldSpec]) -> FieldSpec:
    if "text" not in samples:
        raise ValueError("the record has no `text` to be judged")
    return FieldSpec("real", samples["text"].axes)


@primitive("call", samples="record", tasks="data", where="text")
def python_reward(samples: Mapping[str, Any], tasks: Tasks, where: str) -> Tensor:
    """What the function `name` of `package.module` makes of the responses: `where` is "package.module:name".

    It is called as TRL calls reward functions, with lists of equal length by name: `prompts` (the questions), `completions` (the responses) and every
    column of the data set (`answer`, `id`, ..), as far as it takes them, and returns a number for each; None counts as 0. Raises ValueError where
    Python code is not allowed, where there is no such function, or where it returns something else.
    """
    import torch

    judge = known_object(where)
    place = {int(id_): row for row, id_ in enumerate(tasks.ids)}
    rows = [place[int(task)] for task in samples["task"]]
    lists = {name: [column[row] for row in rows] for name, column in tasks.fields.items()}
    given = {**lists, "prompts": [tasks.questions[row] for row in rows], "completions": list(samples["text"])}
    takes = inspect.signature(judge).parameters.values()
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes):
        given = {one.name: given[one.name] for one in takes if one.name in given}
    worth = list(judge(**given))
    if len(worth) != len(rows) or not all(one is None or isinstance(one, int | float) for one in worth):
        raise ValueError(f"`{where}` must return a number for each of the {len(rows)} responses, it returned {worth!r:.80}")
    return torch.tensor([0.0 if one is None else float(one) for one in worth], dtype=torch.float64)


def python_reward_fields(samples: Mapping[str, FieldSpec], tasks: DataSpec, where: Any = "", **options: Any) -> FieldSpec:
    """A number for each sample. Raises ValueError where the function cannot be had."""
    judge = python_object(where)
    if not callable(judge):
        raise ValueError(f"`{where}` must be a function, it is a {type(judge).__name__}")
    if "task" not in samples:
        raise ValueError("the record does not say which task a response belongs to")
    return per_sample(samples)


RESULT_TYPES: Mapping[str, Callable[..., FieldSpec]] = {"matches": matches_fields, "python_reward": python_reward_fields}

"""Given answers instead of drawn ones: a right and a wrong answer to each question of a task set, as tokens in the form that `score` reads.

The record has the fields of `sample` that scoring needs. Its rows are the preferred answers in the order of the prompts, then the rejected ones.
A wrong answer is the right one to another question of the split, if the verifier agrees that it is worse here.

Axes: prompt, sample (an answer, two a prompt), token (a place in the answer, padded on the right), place (a place in prompt and answer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import pad_left
from gradflow.library.text_tasks import Tasks

Record = dict[str, Any]
TRIES = 20  # other questions that are looked at for a wrong answer


@primitive("call", policy="model", tasks="data", prompts="int >= 1", max_tokens="int >= 1")
def answer_pairs(
    policy: Any,
    tasks: Tasks,
    prompts: int | None = None,
    max_tokens: int = 24,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
    visit: int | None = None,
) -> Record:
    """A preferred and a rejected answer to each of `prompts` tasks: the right one, and the right one to another question.

    `prompts`: how many tasks (default: the data set's `batch`, else all), drawn as `sample` draws them; `max_tokens`: answers are cut there.
    Returns what `score` reads, first the rows of all preferred answers, then those of the rejected: ids, prompt_mask, mask, action, length; good
    bool[sample]; reward real[sample], by the verifier; group [sample -> prompt]; prompt_id; and, for measures that need answers to other
    questions, ids_other, mask_other, action_other, length_other, where each answer has moved on to the next row (the last to the first).
    Raises ValueError where the first questions tried for a wrong answer have none.
    """
    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    rows = numpy.asarray(tasks.rows)
    right = [tasks.answers[row] for row in rows]
    wrong = worse_answers(tasks, rows, random.key(seed, "answer_pairs", tick, *site))
    asked = [policy.tokenizer.encode(policy.tokenizer.chat(tasks.questions[row])) for row in rows] * 2
    record = as_tokens(policy, asked, right + wrong, max_tokens)
    device = record["mask"].device
    import torch

    place = torch.arange(2 * len(rows), device=device)
    reward = tasks.verify(numpy.tile(tasks.ids[rows], 2), right + wrong)
    return record | {
        "good": place < len(rows),
        "reward": torch.as_tensor(reward, dtype=torch.float64, device=device),
        "group": place % len(rows),
        "prompt_id": torch.as_tensor(tasks.ids[rows], device=device),
    }


def worse_answers(tasks: Tasks, rows: Any, key: tuple[int, int]) -> list[str]:
    """For each of `rows` the answer to another question that the verifier finds worse than its own, the first of some tried in random order."""
    ids = tasks.ids[rows]
    best = tasks.verify(ids, [tasks.answers[row] for row in rows])
    found: list[str | None] = [None] * len(rows)
    for attempt in range(TRIES):
        open_ = [i for i, answer in enumerate(found) if answer is None]
        if not open_:
            break
        drawn = random.uniform(key, ids[open_], stream=numpy.int64(attempt))
        tried = [tasks.answers[int(place)] for place in drawn * len(tasks)]
        worth = tasks.verify(ids[open_], tried)
        for i, answer, value in zip(open_, tried, worth):
            found[i] = answer if value < best[i] else None
    if None in found:
        raise ValueError(f"no wrong answer to `{tasks.questions[rows[found.index(None)]]}` among the answers to {TRIES} other questions")
    return [answer for answer in found if answer is not None]


def as_tokens(policy: Any, asked: list[list[int]], answers: list[str], max_tokens: int) -> Record:
    """Prompts (ids) and answers (text) as the tensors that `score` reads, an answer ended where the policy has an end token; and with each
    answer moved on by a row, the fields `.._other`."""
    import torch

    tokenizer = policy.tokenizer
    end = [tokenizer.eos_id] if tokenizer.eos_id >= 0 else []
    written = [(tokenizer.encode(answer) + end)[:max_tokens] for answer in answers]
    longest = max(map(len, written))
    device = policy.head.device
    action = torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in written], device=device)
    length = torch.tensor([len(row) for row in written], device=device)
    mask = torch.arange(longest, device=device) < length[:, None]
    prompt, prompt_mask = (torch.tensor(rows, device=device) for rows in pad_left(asked, tokenizer.pad_id))
    record = {"prompt_mask": torch.cat([prompt_mask, torch.zeros_like(mask)], dim=1)}
    for suffix, move in (("", 0), ("_other", 1)):
        moved = {name: value.roll(move, 0) for name, value in (("action", action), ("mask", mask), ("length", length))}
        record |= {name + suffix: value for name, value in moved.items()}
        record["ids" + suffix] = torch.cat([prompt, moved["action"]], dim=1)
    return record


def answer_pairs_fields(
    policy: ModelSpec, tasks: DataSpec, prompts: int | None = None, max_tokens: int = 24, **options: Any
) -> Mapping[str, FieldSpec]:
    """The record of `answer_pairs`; how long the answers are is known only when they are read."""
    whole = tasks.fields[tasks.splits[0]]["question"].axes[0][1]
    asked = prompts if isinstance(prompts, int) else tasks.batch or whole
    sample, prompt = ("sample", 2 * asked if asked is not None else None), ("prompt", asked)
    vocabulary = policy.facts.get("vocabulary")
    word = ("word", vocabulary if isinstance(vocabulary, int) else None)
    fields = {"prompt_mask": FieldSpec("bool", (sample, ("place", None)))}
    for suffix in ("", "_other"):
        fields["ids" + suffix] = FieldSpec("int", (sample, ("place", None)), target=word, padded=True)
        fields["mask" + suffix] = FieldSpec("bool", (sample, ("token", None)))
        fields["action" + suffix] = FieldSpec("int", (sample, ("token", None)), target=word, padded=True)
        fields["length" + suffix] = FieldSpec("int", (sample,))
    fields |= {"good": FieldSpec("bool", (sample,)), "reward": FieldSpec("real", (sample,))}
    return fields | {"group": FieldSpec("int", (sample,), target=prompt), "prompt_id": FieldSpec("int", (prompt,))}

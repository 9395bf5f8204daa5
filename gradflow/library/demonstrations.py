"""Answers to learn from before there is anything to reward: the right ones of a task set, some of them spoiled, as a record like that of `sample`.

What is scored, masked, grouped or imitated of drawn responses can be so of given ones. Nobody drew them: their `logp_old` and `entropy_old` are 0.

Axes: prompt (the tick's tasks), sample (an answer; those to one prompt stand together), token (a place in the answer, padded on the right).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradflow.library.asking import ask, copies_of
from gradflow.library.catalogue import primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import pad_left
from gradflow.library.rollouts import Record, record_of
from gradflow.library.sampling import draws_of, texts
from gradflow.library.text_tasks import Tasks


@primitive("call", policy="model", tasks="data", group="int >= 1", prompts="int >= 1", max_tokens="int >= 1", wrong="real in [0, 1]")
def demonstrations(
    policy: Any,
    tasks: Tasks,
    group: int | Sequence[int] = 1,
    prompts: int | None = None,
    max_tokens: int = 24,
    wrong: float = 0.0,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
    visit: int | None = None,
) -> Record:
    """The right answer to each of `prompts` tasks, `group` times, as the policy would have written it, end token included; some spoiled.

    `prompts`: how many tasks (default: the data set's `batch`, else all), drawn as `sample` draws them; `max_tokens`: answers are cut there.
    `wrong`: how likely an answer is spoiled: one word of it, anywhere before the end token, becomes another word that answers of the data
    set hold. Which answer, which word and what it becomes are keyed by `seed`, `tick`, `site`, the prompt's id and the copy alone.
    Returns the fields of `sample` but for its speed; `reward` and `correct` are the verifier's word on what stands there, `logp_old` is 0.
    Raises ValueError where there are fewer tasks than `prompts`, or where no answer holds another word.
    """
    import torch

    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    asked, ids = ask(policy, tasks)
    owner, copies = copies_of(group, len(asked))
    tokenizer, rows = policy.tokenizer, numpy.arange(len(tasks)) if tasks.rows is None else tasks.rows
    answers = [tokenizer.encode(tasks.answers[row]) for row in rows]
    written = [answers[place] for place in owner]
    if wrong > 0:
        draws = draws_of(random.key(seed, "demonstrations", tick, *site), ids[owner], copies, 3)
        words = sorted({word for answer in tasks.answers for word in tokenizer.encode(answer)})
        written = [spoiled(answer, words, *draw[1:]) if draw[0] < wrong else answer for answer, draw in zip(written, draws.tolist())]
    drawn = as_drawn(policy, written, max_tokens)
    said = texts(drawn["action"], drawn["mask"], tokenizer)
    record = record_of(drawn, pad_left(asked, tokenizer.pad_id), ids, owner, copies, tasks.verify(ids[owner], said))
    return record | {"prompt_id": torch.as_tensor(ids, device=record["mask"].device), "text": said}


def spoiled(answer: list[int], words: list[int], place: float, choice: float) -> list[int]:
    """An answer with one word exchanged for another of `words`; `place` and `choice` in [0, 1) say which. An empty one stays."""
    if not answer:
        return answer
    at = int(place * len(answer))
    others = [word for word in words if word != answer[at]]
    if not others:
        raise ValueError("an answer cannot be spoiled: the answers of the data set hold no second word")
    return [*answer[:at], others[int(choice * len(others))], *answer[at + 1 :]]


def as_drawn(policy: Any, answers: list[list[int]], max_tokens: int) -> dict[str, Any]:
    """Answers (ids) as `generate` gives responses: ended where the policy has an end token, padded on the right to `max_tokens`, certain."""
    import torch

    tokenizer, head = policy.tokenizer, policy.head
    end = [tokenizer.eos_id] if tokenizer.eos_id >= 0 else []
    written = [[*answer, *end][:max_tokens] for answer in answers]
    action = torch.tensor([row + [tokenizer.pad_id] * (max_tokens - len(row)) for row in written], device=head.device)
    length = torch.tensor([len(row) for row in written], device=head.device)
    mask = torch.arange(max_tokens, device=head.device) < length[:, None]
    sure = torch.zeros(mask.shape, dtype=torch.float64 if head.dtype == torch.float64 else torch.float32, device=head.device)
    finished = torch.tensor([len(row) == len(answer) + len(end) for row, answer in zip(written, answers)], device=head.device)
    return {"action": action, "mask": mask, "logp": sure, "entropy": sure, "finished": finished}

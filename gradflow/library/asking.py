"""What a call that draws responses begins with: the prompts as the policy reads them, and which response answers which."""

from __future__ import annotations

from typing import Any

from gradflow.library.deferred import numpy
from gradflow.library.text_tasks import Tasks


def ask(policy: Any, tasks: Tasks) -> tuple[list[list[int]], numpy.ndarray]:
    """The prompts of `tasks.rows` (all, if None) as the policy reads them, and their ids."""
    rows = numpy.arange(len(tasks)) if tasks.rows is None else tasks.rows
    return [policy.tokenizer.encode(policy.tokenizer.chat(tasks.questions[row])) for row in rows], tasks.ids[rows]


def copies_of(group: Any, prompts: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """For every response its prompt's place, and the how-manieth of its prompt it is; `group`: one number, or one for each prompt.

    Raises ValueError where no response is asked for.
    """
    if numpy.ndim(group) and len(group) != prompts:
        raise ValueError(f"`group` says how many responses there are to each of {prompts} prompts, and has {len(group)} entries")
    counts = numpy.broadcast_to(numpy.asarray(group, numpy.int64), (prompts,))
    owner = numpy.repeat(numpy.arange(prompts), counts)
    if not len(owner):
        why = "every prompt is to have 0" if prompts else "there are no tasks; where that can happen, `when size(..) > 0 { .. }` leaves the draw out"
        raise ValueError(f"no response at all is asked for: {why}")
    return owner, numpy.arange(len(owner)) - numpy.repeat(counts.cumsum() - counts, counts)

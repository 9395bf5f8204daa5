"""Agents: responses of several turns, between which tools answer. Records have the fields of `sample`, so whatever trains on those trains on these.

`agent` draws whole responses; its pieces, for rollouts that decide something between turns, are in `paths.py`, demonstrations and accuracy in
`agent_tests.py`, the loop over tokens in `turns.py`.

Axes: as in `rollouts.py`; turn (what the policy writes between two answers: 0 .. max_calls, and one more that means none).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradflow.library.asking import ask, copies_of
from gradflow.library.catalogue import DataSpec, FieldSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import pad_left
from gradflow.library.responses import Record, final_texts, whole_texts
from gradflow.library.sampling import Decoding
from gradflow.library.text_tasks import Tasks
from gradflow.library.tools import made
from gradflow.library.turns import Rules, Turns, numbers_of, play

if TYPE_CHECKING:
    from torch import Tensor

CALCULATOR = ("calculator", ())


@primitive(
    "call", policy="model", tasks="data", tools="tools", group="int >= 0", prompts="int >= 1", max_calls="int >= 0", max_tokens="int >= 1",
    temperature="real > 0", top_p="real in (0, 1]", top_k="int >= 0", stop="text", scored_at="real > 0", keep_top="int >= 0",
)  # fmt: skip
def agent(
    policy: Any,
    tasks: Tasks,
    tools: Any = CALCULATOR,
    group: int | Sequence[int] = 8,
    prompts: int | None = None,
    max_calls: int = 4,
    max_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str = "",
    scored_at: float = 1.0,
    keep_top: int = 0,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
    visit: int | None = None,
) -> Record:
    """Draws `group` responses to each of `prompts` tasks, in which the policy calls tools and reads what they say, and has their last turns verified.

    `tools`: `calculator()`, or `python("module:name")`; `max_calls`: answered calls a response (one more ends it); `max_tokens`: of a response, with
    what tools say; the others as of `sample`. Of the tokens, `mask` has those that the policy wrote; the model reads all of them.
    Adds to the fields of `sample`: turn [sample, token -> turn], calls int[sample]; with `keep_top` also likely [sample, token, top], the largest
    log-probabilities where the policy wrote, else 0. `length` counts all tokens. Raises ValueError as `sample` does.
    """
    began = time.perf_counter()
    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    asked, ids = ask(policy, tasks)
    owner, copies = copies_of(group, len(asked))
    how = Decoding(max_tokens, float(temperature), float(top_p), top_k, tuple(filter(None, [stop])), float(scored_at), keep_top)
    draws = numbers_of(random.key(seed, "agent", tick, *site), ids[owner], copies, numpy.zeros_like(copies), max_tokens)
    turns = [Turns() for _ in owner]
    drawn = play(policy, asked, owner, turns, draws, how, Rules(made(tools), max_calls))
    record = record_of(policy, drawn, asked, ids, owner, copies, turns, max_calls)
    record = verified(policy, tasks, record)
    record["tokens_per_second"] = int(record["mask"].sum()) / (time.perf_counter() - began)
    return record


def record_of(
    policy: Any, drawn: dict[str, Tensor], asked: list[list[int]], ids: numpy.ndarray, owner: numpy.ndarray, copies: numpy.ndarray,
    turns: Sequence[Turns], max_calls: int,
) -> Record:  # fmt: skip
    """The record of responses that nobody has verified yet."""
    import torch

    device = drawn["mask"].device
    group = torch.as_tensor(owner, device=device)
    prompt, prompt_mask = (torch.tensor(rows, device=device)[group] for rows in pad_left(asked, policy.tokenizer.pad_id))
    counts = torch.tensor([one.calls for one in turns], dtype=torch.int64, device=device)
    record = {
        "ids": torch.cat([prompt, drawn["action"]], dim=1),
        "prompt_mask": torch.cat([prompt_mask, torch.zeros_like(drawn["mask"])], dim=1),
        "mask": drawn["mask"],
        "action": drawn["action"],
        "turn": torch.where(drawn["mask"], drawn["turn"], max_calls + 1),
        "logp_old": drawn["logp"],
        "entropy_old": drawn["entropy"],
        "length": drawn["here"].sum(-1),
        "finished": drawn["finished"],
        "calls": counts,
        "group": group,
        "task": torch.as_tensor(ids, device=device)[group],
        "copy": torch.as_tensor(copies, device=device),
        "prompt_id": torch.as_tensor(ids, device=device),
    }
    return record | ({"likely": drawn["likely"]} if "likely" in drawn else {})


def verified(policy: Any, tasks: Tasks, record: Record) -> Record:
    """With the rewards of the last turns, and the texts."""
    import torch

    ids = record["prompt_id"][record["group"]].cpu().numpy()
    reward = torch.as_tensor(tasks.verify(ids, final_texts(policy, record)), dtype=record["logp_old"].dtype, device=record["mask"].device)
    return record | {"reward": reward, "correct": reward >= 1, "text": whole_texts(policy, record)}


def agent_fields(
    policy: ModelSpec, tasks: DataSpec, tools: Any = None, group: Any = 8, prompts: Any = None, max_calls: Any = 4, max_tokens: Any = 48,
    keep_top: Any = 0, **options: Any,
) -> Mapping[str, FieldSpec]:  # fmt: skip
    """The record of `agent`."""
    from gradflow.library.rollouts import sample_fields

    fields = dict(sample_fields(policy, tasks, group=group, prompts=prompts, max_tokens=max_tokens))
    axes = fields["mask"].axes
    turns = max_calls + 2 if isinstance(max_calls, int) else None
    fields["turn"] = FieldSpec("int", axes, target=("turn", turns), padded=True)
    fields["calls"] = FieldSpec("int", axes[:1])
    if keep_top != 0:
        fields["likely"] = FieldSpec("real", (*axes, ("top", keep_top if isinstance(keep_top, int) else None)), padded=True)
    return fields

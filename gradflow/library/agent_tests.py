"""Given responses with tool calls, for a policy to begin with, and how often an agent is right: what stands around the training of one.

Axes: as in `agents.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradflow.library.agents import CALCULATOR, agent_fields, record_of, verified
from gradflow.library.asking import ask
from gradflow.library.catalogue import DataSpec, FieldSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.responses import Record, written
from gradflow.library.sampling import Decoding
from gradflow.library.text_tasks import Tasks
from gradflow.library.tools import made
from gradflow.library.turns import Rules, Turns, numbers_of, play

if TYPE_CHECKING:
    from torch import Tensor


@primitive(
    "call", policy="model", tasks="data", tools="tools", prompts="int >= 1", max_calls="int >= 0", max_tokens="int >= 1", wrong="real in [0, 1]",
)  # fmt: skip
def tool_demonstrations(
    policy: Any,
    tasks: Tasks,
    tools: Any = CALCULATOR,
    prompts: int | None = None,
    max_calls: int = 4,
    max_tokens: int = 48,
    wrong: float = 0.0,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
    visit: int | None = None,
) -> Record:
    """Responses of a right solution to each of `prompts` tasks: its calls, what the tool says to them, and the answer; what a policy is warmed up on.

    `wrong`: the share of them that end in the answer to another task. The record is that of `agent`, one response a prompt; logp_old and entropy_old
    are 0. Raises ValueError where the tasks come without solutions.
    """
    if "worked" not in tasks.fields:
        raise ValueError("these tasks come without worked solutions: `tool_arithmetic(..)` has them")
    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    asked, ids = ask(policy, tasks)
    key = random.key(seed, "tool_demonstrations", tick, *site)
    spoiled = random.uniform(key, ids) < wrong
    others = (random.uniform(key, ids, stream=1) * len(tasks)).astype(numpy.int64)
    tool, turns, rows = made(tools), [Turns() for _ in asked], []
    for row, bad, other, state in zip(tasks.rows.tolist(), spoiled.tolist(), others.tolist(), turns, strict=True):  # type: ignore[union-attr]
        calls = tasks.fields["worked"][row].split("\n")[:max_calls]
        state.calls = len(calls)
        rows.append((calls, tasks.answers[other if bad else row]))
    drawn = written(policy, tool, rows, max_tokens)
    owner = numpy.arange(len(asked))
    record = record_of(policy, drawn, asked, ids, owner, 0 * owner, turns, max_calls)
    return verified(policy, tasks, record) | {"tokens_per_second": 0.0}


def tool_demonstrations_fields(policy: ModelSpec, tasks: DataSpec, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `agent`, a response a prompt."""
    return agent_fields(policy, tasks, **{name: options[name] for name in ("prompts", "max_calls", "max_tokens") if name in options}, group=1)


@primitive("call", policy="model", tasks="data", tools="tools", max_calls="int >= 0", max_tokens="int >= 1", greedy="bool")
def agent_pass_at_1(
    policy: Any, tasks: Tasks, tools: Any = CALCULATOR, max_calls: int = 4, max_tokens: int = 48, greedy: bool = True, seed: int = 0
) -> Tensor:
    """The share of a split's tasks (or of `tasks.rows`) whose one response with tools earns the full reward, 1.

    `greedy`: always the likeliest word; else one draw at temperature 1, the same for every call with this seed. Returns a float64 scalar.
    """
    import torch

    asked, ids = ask(policy, tasks)
    owner, turns = numpy.arange(len(asked)), [Turns() for _ in asked]
    draws = None if greedy else numbers_of(random.key(seed, "agent_pass_at_1"), ids, 0 * owner, 0 * owner, max_tokens)
    drawn = play(policy, asked, owner, turns, draws, Decoding(max_tokens), Rules(made(tools), max_calls))
    record = verified(policy, tasks, record_of(policy, drawn, asked, ids, owner, 0 * owner, turns, max_calls))
    return torch.tensor(float(record["correct"].double().mean()), dtype=torch.float64)


def agent_pass_at_1_fields(policy: ModelSpec, tasks: DataSpec, **options: Any) -> FieldSpec:
    """A number."""
    return FieldSpec("real", ())


RESULT_TYPES: Mapping[str, Callable[..., Mapping[str, FieldSpec] | FieldSpec]] = {
    "agent": agent_fields,
    "tool_demonstrations": tool_demonstrations_fields,
    "agent_pass_at_1": agent_pass_at_1_fields,
}

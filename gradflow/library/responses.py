"""Responses of several turns as texts, and texts as responses: what no model is needed for. Behind the calls of `agents.py` and `paths.py`.

Axes: B responses, T tokens of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradflow.library.tools import Tool

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]


def whole_texts(policy: Any, record: Record) -> list[str]:
    """The responses with what tools said, without the end token."""
    tokenizer = policy.tokenizer
    rows = zip(record["action"].tolist(), record["length"].tolist(), strict=True)
    return [tokenizer.decode(word for word in row[:length] if word != tokenizer.eos_id) for row, length in rows]


def final_texts(policy: Any, record: Record) -> list[str]:
    """What the policy wrote in the last turn of each response: nothing where it stopped short of one."""
    tokenizer = policy.tokenizer
    last = record["mask"] & (record["turn"] == record["calls"][:, None])
    return [tokenizer.decode(word for word in row[own].tolist() if word != tokenizer.eos_id) for row, own in zip(record["action"], last, strict=True)]


def written(policy: Any, tool: Tool, rows: Sequence[tuple[Sequence[str], str]], max_tokens: int) -> dict[str, Tensor]:
    """Given responses, (calls, answer) each, in the form of `turns.play`, cut at max_tokens."""
    import torch

    tokenizer, device = policy.tokenizer, policy.head.device
    shape = (len(rows), max_tokens)
    action = torch.full(shape, tokenizer.pad_id, device=device)
    turn, here, mask = torch.full(shape, -1, device=device), *(torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2))
    end = [tokenizer.eos_id] if tokenizer.eos_id >= 0 else []
    finished = []
    for row, (calls, answer) in enumerate(rows):
        pieces: list[tuple[list[int], int]] = []
        for number, call in enumerate(calls):
            pieces += [(tokenizer.encode(f"{tool.opens}{call}{tool.closes}"), number), (tokenizer.encode(tool.observation(call)), -1)]
        pieces.append((tokenizer.encode(answer) + end, len(calls)))
        words = [(word, number) for piece, number in pieces for word in piece]
        finished.append(len(words) <= max_tokens)
        words = words[:max_tokens]
        action[row, : len(words)] = torch.tensor([word for word, _ in words], device=device)
        turn[row, : len(words)] = torch.tensor([number for _, number in words], device=device)
        here[row, : len(words)] = True
    mask = turn >= 0
    zeros = torch.zeros(shape, dtype=policy.head.dtype, device=device)
    return {
        "action": action, "here": here, "mask": mask, "turn": turn, "logp": zeros, "entropy": zeros,
        "finished": torch.tensor(finished, device=device),
    }  # fmt: skip


def turn_tokens(record: Any, row: int) -> list[int]:
    """What the policy wrote so far in the present turn of a response."""
    own = record["mask"][row] & (record["turn"][row] == record["calls"][row])
    found: list[int] = record["action"][row][own].tolist()
    return found

"""What people look at in a rollout: rewards, how many groups teach something, lengths, entropy. Of every record of graded samples that the policy
drew in a unit: answers that were shown to it, whose log-probability is 0, are not its own.

They are told beside the metrics that the spec's objectives report (ratios, what clipping stops, KL); a report of the same name takes their place.
Axes: sample, prompt and token as in `library/rollouts.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

Held = Mapping[tuple[str, ...], Tensor]


def rollout_figures(held: Held, drawn: Collection[str] | None = None) -> dict[str, float]:
    """Metrics by name; where a unit draws several such records, NAME.metric. `drawn`: the names that the unit drew; what is held else is older."""
    records: dict[str, dict[str, Tensor]] = {}
    for path, value in held.items():
        if len(path) == 2 and (drawn is None or path[0] in drawn):
            records.setdefault(path[0], {})[path[1]] = value
    graded = {name: figures(record) for name, record in records.items() if _is_rollout(record)}
    if len(graded) == 1:
        return next(iter(graded.values()))
    return {f"{name}.{key}": value for name, found in graded.items() for key, value in found.items()}


def _is_rollout(record: Mapping[str, Tensor]) -> bool:
    if not {"reward", "group", "mask"} <= record.keys():
        return False
    return not len(record["reward"]) or "logp_old" not in record or bool(record["logp_old"].any())


def figures(record: Mapping[str, Tensor]) -> dict[str, float]:
    """Of one record: how many samples there are, reward and its spread, the share of prompts with a right answer among their k (pass@k) and with
    rewards that differ, how long responses are, and where it is known how many ended by themselves and the entropy of the policy that drew, in nats
    a token. Where a selection left no sample, that is all there is to say.
    """
    reward, group, mask = record["reward"].double(), record["group"], record["mask"]
    if reward.ndim != 1:
        return {}
    if not len(reward):
        return {"samples": 0.0}
    size = int(group.max()) + 1
    count = torch.bincount(group, minlength=size)
    most = reward.new_full((size,), -torch.inf).scatter_reduce(0, group, reward, "amax")
    least = reward.new_full((size,), torch.inf).scatter_reduce(0, group, reward, "amin")
    right = record.get("correct", reward >= 1)
    solved = torch.bincount(group[right.bool()], minlength=size)
    asked = count > 0
    found = {
        "samples": torch.tensor(len(reward)),
        "reward": reward.mean(),
        "reward_std": reward.std() if len(reward) > 1 else reward.new_zeros(()),
        f"pass_at_{int(count.max())}": (solved > 0)[asked].double().mean(),
        "mixed_groups": (most > least)[asked].double().mean(),
        "length": mask.sum(-1).double().mean(),
    }
    if "finished" in record:
        found["finished"] = record["finished"].double().mean()
    if "entropy_old" in record and bool(mask.any()):
        found["entropy"] = record["entropy_old"][mask].double().mean()
    return {name: float(value) for name, value in found.items()}

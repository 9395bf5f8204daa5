"""How a rollout is cut into mini-batches: at random by samples, or by whole groups where an update sums over the samples of a group, or where the
`train` line asks for it.

What a formula of the record alone sums by group is taken before the cut. A sum by group that is left in an update is live: there the samples of a
group belong together, and a mini-batch takes whole groups, as many as any other or one more.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradflow.graph.graph import Region
from gradflow.runtime import random
from gradflow.runtime.events import RunFailed

if TYPE_CHECKING:
    from gradflow.runtime.clocks import Clocks
    from gradflow.runtime.phases import PhasePlan


def grouping(regions: Iterable[Region], whole: str = "", held: Container[tuple[str, ...]] = ()) -> tuple[str, ...] | None:
    """Where the map [sample -> group] is held along which one of these regions reduces; else the field `whole`, if it is `held`."""
    nodes = [node for region in regions for node in region.nodes()]
    for node in nodes:
        index = node.inputs[1] if node.op.startswith("segment_") else None
        if index is not None and index.op == "source" and index["kind"] == "held" and index.type.names == ("sample",):
            return index["path"]
    drawn = [(node["path"][0], whole) for node in nodes if node.op == "source" and node["kind"] == "held" and node.type.has("sample")]
    return next((path for path in drawn if path in held), None)


def pieces(key: random.Key, samples: int, count: int, owner: Tensor | None, device: torch.device) -> Iterator[Tensor]:
    """The samples of each of `count` mini-batches, in random order. `owner`: the group of each sample, where groups stay whole."""
    groups = samples if owner is None else int(owner.max()) + 1
    order = random.permutation(key, groups, torch).to(device)
    for i in range(count):
        taken = order[i * groups // count : (i + 1) * groups // count]
        yield taken if owner is None else torch.isin(owner, taken).nonzero()[:, 0]


def minibatches(plan: PhasePlan, samples: int, owner: Tensor | None, clocks: Clocks, device: torch.device) -> Iterator[Tensor]:
    """The samples of each update of a unit: pass after pass over what was drawn, each cut anew. Raises RunFailed where there are too few."""
    found = samples if owner is None else int(owner.max()) + 1
    if found < plan.minibatches:
        what = "samples" if owner is None else "groups, which an update needs whole,"
        raise RunFailed(f"{found} {what} cannot be cut into {plan.minibatches} minibatches", plan.phase.span)
    for epoch in range(plan.updates // plan.minibatches):
        key = random.key(clocks.seed, "minibatches", clocks.tick, epoch)
        yield from pieces(key, samples, plan.minibatches, owner, device)

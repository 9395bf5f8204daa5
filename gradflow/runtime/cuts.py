"""How a rollout is cut into mini-batches: at random by samples, or by whole groups where an update sums over the samples of a group, or where the
`train` line asks for it.

What a formula of the record alone sums by group is taken before the cut. A sum by group that is left in an update is live: there the samples of a
group belong together, and a mini-batch takes whole groups, as many as any other or one more.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradflow.graph.graph import Region
from gradflow.plan.program import Assign, Update
from gradflow.runtime import random
from gradflow.runtime.events import RunFailed

if TYPE_CHECKING:
    from gradflow.runtime.clocks import Clocks
    from gradflow.runtime.phases import PhasePlan

Cut = Mapping[int, Tensor]  # of a mini-batch: by how many samples there are, those that it sees


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


def minibatches(plan: PhasePlan, owners: Mapping[int, Tensor | None], clocks: Clocks, device: torch.device) -> Iterator[Cut]:
    """What each update of a unit sees: pass after pass over what was drawn, each cut anew. `owners`: by how many samples there are, whose they are.

    Raises RunFailed where there are too few.
    """
    for samples, owner in owners.items():
        found = samples if owner is None else int(owner.max()) + 1
        if found < plan.minibatches:
            what = "samples" if owner is None else "groups, which an update needs whole,"
            raise RunFailed(f"{found} {what} cannot be cut into {plan.minibatches} minibatches", plan.phase.span)
    for epoch in range(plan.updates // plan.minibatches):
        key = random.key(clocks.seed, "minibatches", clocks.tick, epoch)
        parts = [pieces(key, samples, plan.minibatches, owner, device) for samples, owner in owners.items()]
        yield from (dict(zip(owners, some, strict=True)) for some in zip(*parts, strict=True))


@contextmanager
def cut_together(count: int, action: Update | Assign, held: Mapping[tuple[str, ...], Tensor]) -> Iterator[None]:
    """Where records are cut into `count` mini-batches, one flow has one axis `sample`: what fails because there are two is told as that."""
    try:
        yield
    except RunFailed:
        regions = [action.region, *([action.rollout] if isinstance(action, Update) and action.rollout is not None else [])]
        drawn = [one for region in regions for one in region.sources() if one["kind"] == "held" and one.type.names[:1] == ("sample",)]
        sizes = {one["path"][0]: held[one["path"]].shape[0] for one in drawn}
        if count == 1 or len(set(sizes.values())) < 2:
            raise
        shown = ", ".join(f"`{name}` has {size}" for name, size in sizes.items())
        raise RunFailed(
            f"the records of one flow are cut into minibatches together, and {shown} samples: train by each in a flow of its own", action.span
        ) from None

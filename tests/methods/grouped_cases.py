"""Draws of the tests of objectives with groups: ragged groups in any order, under any ids, rewards with ties, and the rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """reward, group, answer [B]; logp, logp_old [B, T], mask bool [B, T]."""

    reward: Tensor
    group: Tensor
    answer: Tensor
    logp: Tensor
    logp_old: Tensor
    mask: Tensor

    def inputs(self, *names: str, garbage: float | None = None, **changes: Tensor) -> dict[str, Tensor]:
        """As in a vector file; `garbage` stands where there is no token."""
        values = {**vars(self), **changes}
        if garbage is not None:
            values |= {name: values[name].masked_fill(~self.mask, garbage) for name in ("logp", "logp_old")}
        values["mask"] = values["mask"].double()
        return {name: values[name] for name in names}

    @property
    def members(self) -> list[Tensor]:
        """The rows of each group."""
        return [(self.group == one).nonzero()[:, 0] for one in self.group.unique()]


@st.composite
def groups(
    draw: Any, rewards: tuple[float, ...] = (0.0, 1.0), full: bool = False, scale: float | None = None, sizes: tuple[int, ...] = (1, 2, 3, 8)
) -> Groups:
    """`rewards`: what may be earned; `full`: no response is empty; `scale`: of the log ratio; `sizes`: of groups."""
    r = numpy.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 5))
    members = r.choice(sizes, size=count)
    ids = r.permutation(40)[:count] - 3
    group = numpy.repeat(ids, members)
    luck = numpy.repeat(r.choice([0.0, 0.5, 1.0], size=count), members)  # some groups are all alike
    reward = numpy.where(r.uniform(size=len(group)) < luck, r.choice(rewards, size=len(group)), rewards[0])
    order = r.permutation(len(group))
    shape = (len(group), draw(st.integers(1, 5)))
    mask = r.uniform(size=shape) < draw(st.sampled_from((1.0, 0.7) if full else (1.0, 0.7, 0.3, 0.0)))
    if full:
        mask[:, r.integers(shape[1])] = True
    old = -3 * r.uniform(size=shape)
    logp = old + (draw(st.sampled_from((0.0, 0.1, 1.0))) if scale is None else scale) * r.normal(size=shape)
    answer = r.integers(0, draw(st.sampled_from((1, 3, 50))), size=len(group)) * 7 - 5
    return Groups(*(torch.tensor(x) for x in (reward[order], group[order], answer, logp, old, mask)))

"""What mechanisms spend together: an epsilon for a delta, by Renyi divergences of the library dp-accounting (the extra `privacy`).

Without sampling, and with subsets of fixed size, neighbors differ in one record that is replaced; with Poisson samples in one that is added or
removed. A release of noise with multiplier z (its standard deviation over the sensitivity) is an event of the library; equal events are counted.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradflow.library.catalogue import MissingExtra
from gradflow.privacy.mechanisms import Mechanism, Sampling, multipliers

Spend = tuple[float, Sampling]  # a multiplier, and how the records of that release were chosen


def needs_library() -> None:
    """Raises MissingExtra where dp-accounting is not installed."""
    if importlib.util.find_spec("dp_accounting") is None:
        raise MissingExtra("the accounting of privacy", "privacy", "dp-accounting")


def epsilon(spent: Mapping[Spend, int], delta: float) -> float:
    """The epsilon of so many releases of each kind; 0 for none, infinite where one has no noise. Raises MissingExtra."""
    if not any(spent.values()):
        return 0.0
    if any(level <= 0 for (level, _), count in spent.items() if count):
        return float("inf")
    needs_library()
    import dp_accounting as dp
    from dp_accounting import rdp

    poisson = any(sampling.kind == "poisson" for _, sampling in spent)
    relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE if poisson else dp.NeighboringRelation.REPLACE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    for (level, sampling), count in spent.items():
        if count:
            accountant.compose(event(dp, level, sampling), count)
    return float(accountant.get_epsilon(delta))


def event(dp: Any, level: float, sampling: Sampling) -> Any:
    noise = dp.GaussianDpEvent(level)
    if sampling.kind == "poisson":
        return dp.PoissonSampledDpEvent(sampling.rate, noise)
    if sampling.kind == "subset" and sampling.taken < sampling.rows:
        return dp.SampledWithoutReplacementDpEvent(sampling.rows, sampling.taken, noise)
    return noise


@dataclass(frozen=True)
class Course:
    """What one flow releases, update by update: for each mechanism its multipliers in updates 1, 2, .., and how its records are chosen."""

    flow: str
    levels: tuple[tuple[Mechanism, tuple[float, ...]], ...]
    updates: int

    def spent(self, updates: int) -> Counter[Spend]:
        """What has been spent after so many updates."""
        found: Counter[Spend] = Counter()
        for mechanism, levels in self.levels:
            found.update((level, mechanism.sampling) for level in levels[:updates])
        return found

    def alone(self, mechanism: Mechanism) -> Counter[Spend]:
        """What one mechanism spends in all."""
        return Counter((level, mechanism.sampling) for one, levels in self.levels if one is mechanism for level in levels)


def course(flow: str, mechanisms: Sequence[Mechanism], updates: int) -> Course:
    """Raises NotKnown where a multiplier depends on more than the clock."""
    return Course(flow, tuple((one, tuple(multipliers(one.multiplier, updates))) for one in mechanisms), updates)


def together(courses: Iterable[tuple[Course, int]]) -> Counter[Spend]:
    """Flows with the updates each has made."""
    found: Counter[Spend] = Counter()
    for one, updates in courses:
        found += one.spent(updates)
    return found


def affordable(one: Course, others: Counter[Spend], limit: float, delta: float) -> int:
    """The most updates of a flow whose releases, with what others spend, stay within epsilon `limit` at delta."""
    low, high = 0, one.updates
    while low < high:
        middle = (low + high + 1) // 2
        if epsilon(one.spent(middle) + others, delta) <= limit:
            low = middle
        else:
            high = middle - 1
    return low

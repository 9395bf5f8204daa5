"""The books of a run: what its releases have spent so far, and the hard stop before the one that would go over the budget.

What was spent is a function of the updates that each flow has made, which checkpoints keep: a run that goes on has it without more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradflow.plan.program import Program
from gradflow.privacy.plan import Spending, spending
from gradflow.privacy.program import Budget
from gradflow.runtime.events import RunFailed

POINTS = 100  # how often epsilon is worked out in a run, beside its end


@dataclass(frozen=True)
class Guard:
    """`most`: of each flow the most updates within every budget; `which`: the budget that says so."""

    spends: Spending
    most: Mapping[str, tuple[int, Budget]]

    def stop(self, executed: Mapping[str, int], flows: Mapping[str, int]) -> RunFailed | None:
        """Why the next unit, in which each flow makes so many updates, may not begin; None where it may."""
        for flow, more in flows.items():
            made = executed.get(flow, 0)
            if flow in self.most and made + more > self.most[flow][0]:
                budget = self.most[flow][1]
                spent = self.spends.epsilon(executed, budget.delta)
                rest = "the next" if more == 1 else f"the next {more:,} together"
                text = f"the budget of privacy is spent: {made:,} updates cost epsilon {spent:.4g}, and {rest} would go over {budget.epsilon:g}"
                return RunFailed(f"{text} at delta {budget.delta:g}", budget.span)
        return None

    def spent(self, executed: Mapping[str, int]) -> dict[str, float]:
        """Epsilon so far, and the delta that it belongs to."""
        return {"epsilon": self.spends.epsilon(executed), "delta": self.spends.said.delta}

    def metrics(self, executed: Mapping[str, int], tick: int, units: int) -> dict[str, float]:
        """`privacy.epsilon`, at some units of a run."""
        every = max(units // POINTS, 1)
        return {"privacy.epsilon": self.spends.epsilon(executed)} if (tick + 1) % every == 0 or tick + 1 == units else {}


def guard_of(program: Program, planned: Mapping[str, int]) -> Guard | None:
    """None where nothing private is released. Raises MissingExtra where the library of the accounting is needed and not there."""
    spends = spending(program, planned)
    if not spends.courses:
        return None
    most: dict[str, tuple[int, Budget]] = {}
    for budget in spends.said.budgets:
        for one in spends.courses:
            found = spends.most(one, budget) if spends.epsilon(delta=budget.delta) > budget.epsilon else one.updates
            if one.flow not in most or found < most[one.flow][0]:
                most[one.flow] = (found, budget)
    return Guard(spends, most)

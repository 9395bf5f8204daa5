"""What time it is: units and updates over the whole run, units inside a phase, and for every flow the updates that it has executed.

`tick` counts units over the run from 0. Inside a flow, where draws are made once an update, the tick that keys them counts updates instead;
the two agree where a unit is one update. `t` counts from 1: in a flow its executed updates, elsewhere the units of the innermost `train`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gradflow.plan.program import Phase, Update


@dataclass
class Clocks:
    """`visit`: updates begun so far (a minibatch counts one, whichever flows share it); `executed`, `planned`: updates by flow."""

    seed: int = 0
    tick: int = 0
    visit: int = 0
    t: int = 0
    t_end: int = 0
    executed: dict[str, int] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)

    def plan(self, phases: Iterable[tuple[Phase, int]]) -> None:
        """Adds up what every flow is going to do: phases with the number of updates that each of their flows makes."""
        for phase, updates in phases:
            for action in phase.actions:
                if isinstance(action, Update):
                    self.planned[action.flow] = self.planned.get(action.flow, 0) + updates

    def begin(self, seed: int, t_end: int) -> None:
        """A phase begins."""
        self.seed, self.t, self.t_end = seed, 0, t_end

    def read(self, path: tuple[str, ...], updating: bool) -> int | float:
        """The value of a source clock/NAME[/FLOW]."""
        name, *flow = path
        if name == "seed":
            return self.seed
        if name == "tick":
            return self.visit if updating else self.tick
        t = self.executed.get(flow[0], 0) + 1 if flow else self.t
        t_end = self.planned.get(flow[0], 0) if flow else self.t_end
        if name == "progress":
            return t / t_end if t_end else 0.0
        return t if name == "t" else t_end

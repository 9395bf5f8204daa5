"""Stops a run when a value is no longer finite, and says where it began: in the objective, in a stage of the chain, or before it.

The loss is looked at after every update. Parameters are looked at after every update while they are few, else every `SELDOM` updates and
whenever the loss is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gradflow.plan.program import Update
from gradflow.runtime.events import RunFailed

FEW = 1 << 20
SELDOM = 50


class FiniteWatch:
    """Remembers when the parameters of each flow were last seen to be finite."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def check(self, update: Update, count: int, loss: float | None, results: Mapping[str, Tensor]) -> None:
        """`count`: this flow's updates so far, this one included; `results`: new parameters and states. Raises RunFailed."""
        params = {name: value for name, value in results.items() if name.startswith("param/")}
        bad_loss = loss is not None and not math.isfinite(loss)
        if not bad_loss and count % SELDOM and sum(value.numel() for value in params.values()) > FEW:
            return
        broken = [name.split("/", 1)[1] for name, value in params.items() if not bool(torch.isfinite(value).all())]
        if bad_loss:
            raise self._objective(update, count, float(loss or 0), broken)
        if broken:
            raise self._stage(update, count, loss, broken, results)
        self.seen[update.flow] = count

    def _objective(self, update: Update, count: int, loss: float, broken: list[str]) -> RunFailed:
        head = update.stages[0] if update.stages else "objective"
        message = f"the loss is {loss} at update {count}"
        if not broken or self.seen.get(update.flow, 0) == count - 1:
            return RunFailed(f"{message}, though the parameters that it was taken at are finite: the objective `{head}` gives it", update.span, head)
        names = ", ".join(f"`{name}`" for name in broken)
        since = self.seen.get(update.flow, 0)
        return RunFailed(f"{message}, and {names} may have stopped being finite before, at any update after {since}", update.span, head)

    def _stage(self, update: Update, count: int, loss: float | None, broken: list[str], results: Mapping[str, Tensor]) -> RunFailed:
        names = ", ".join(f"`{name}`" for name in broken)
        stage = self._first_broken_state(update, results)
        known = f", the loss is {loss:.4g}" if loss is not None else ""
        if stage:
            reason = f"a state of `{stage}` is not finite either, so the gradient that reached it was not, or it became so there"
        else:
            stage = update.stages[-1] if update.stages else ""
            reason = f"no state before is broken, so the step of `{stage}` is too large for the number format, or its gradient was"
        return RunFailed(f"the parameters of {names} are not finite after update {count}{known}: {reason}", update.span, stage)

    def _first_broken_state(self, update: Update, results: Mapping[str, Tensor]) -> str:
        """The stage nearest to the gradient that keeps a value that is not finite."""
        for plan in update.states:
            value = results.get(f"state/{update.flow}/{plan.key}")
            if value is not None and value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return next((part for part in plan.stage.split(".") if part.isidentifier()), plan.stage)
        return ""

"""Sums up what the updates of one unit told: the loss and the reports of flows, as means over the unit's updates.

The first flow's loss is the unit's; those of others are metrics `MODEL.loss`. A report that several flows make carries its model's name too.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gradflow.runtime.events import Value


class Tally:
    """`labels`: how each flow is called in metrics. Tensors stay on the device until `totals`."""

    def __init__(self, labels: Mapping[str, str]):
        self.labels = labels
        self._losses: dict[str, tuple[float, int]] = {}
        self._sums: dict[tuple[str, str], tuple[Tensor, int]] = {}

    def add(self, flow: str, loss: float | None, reports: Mapping[str, Tensor]) -> None:
        if loss is not None:
            total, count = self._losses.get(flow, (0.0, 0))
            self._losses[flow] = (total + loss, count + 1)
        for name, value in reports.items():
            key = (flow, name.split("/", 1)[1])
            value = value if value.is_floating_point() else value.double()
            known = self._sums.get(key)
            if known is not None and known[0].shape != value.shape:  # of the samples of mini-batches that are not equally large
                known, value = (known[0].mean(), known[1]), value.mean()
            self._sums[key] = (value.clone(), 1) if known is None else (known[0] + value, known[1] + 1)

    def totals(self) -> tuple[float | None, dict[str, Value]]:
        """(loss, metrics)."""
        names = [name for _, name in self._sums]
        metrics: dict[str, Value] = {}
        for (flow, name), (total, count) in self._sums.items():
            shown = name if names.count(name) == 1 else f"{self.labels[flow]}.{name}"
            metrics[shown] = (total / count).tolist()
        loss: float | None = None
        for place, (flow, (total_loss, count)) in enumerate(self._losses.items()):
            if place == 0:
                loss = total_loss / count
            else:
                metrics[f"{self.labels[flow]}.loss"] = total_loss / count
        return loss, metrics

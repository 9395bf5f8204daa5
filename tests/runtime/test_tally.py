"""What the updates of a unit told: means over them, also where mini-batches are not equally large."""

from __future__ import annotations

import pytest
import torch

from gradflow.runtime.tally import Tally


def test_reports_are_means_over_updates() -> None:
    tally = Tally({"flow1": "net"})
    for loss, values in ((1.0, [1.0, 2.0]), (3.0, [3.0, 6.0])):
        tally.add("flow1", loss, {"report/each": torch.tensor(values), "report/all": torch.tensor(sum(values))})
    assert tally.totals() == (2.0, {"each": [2.0, 4.0], "all": 6.0})


def test_values_of_samples_are_told_by_their_mean_where_their_number_differs() -> None:
    tally = Tally({"flow1": "net"})
    for values in ([1.0, 2.0, 3.0], [4.0, 6.0], [9.0]):
        tally.add("flow1", None, {"report/each": torch.tensor(values)})
    assert tally.totals()[1] == pytest.approx({"each": (2 + 5 + 9) / 3})

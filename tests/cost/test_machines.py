"""Machines: described, read, measured; and the time that work takes on one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gradflow.cost.figures import ActionCost, Message, PhaseCost, Step, Work
from gradflow.cost.machines import Machine, UnknownMachine, machine_of, measured, named, seconds_of, unit_seconds

PLAIN = Machine("plain", "", contractions=1e9, elementwise=1e8, bandwidth=1e9, memory=1e9, launch=1e-6, link_bandwidth=1e6, link_latency=1e-3)


def test_named_machines() -> None:
    assert {"laptop", "h100"} <= set(named())
    assert machine_of("h100").accelerator and not machine_of("laptop").accelerator
    with pytest.raises(UnknownMachine, match="there are here, laptop, h100"):
        machine_of("abacus")


def test_this_machine() -> None:
    found = measured(1 << 16, 64)
    assert found.name == "here" and min(found.contractions, found.elementwise, found.bandwidth, found.launch) > 0 and found.memory > 1e8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contractions = 1e12", "lacks `elementwise`"),
        ("speed = 1", "has no figure `speed`"),
        ("bandwidth = -1", "above 0, not -1"),
        ("bandwidth = ", "cannot be read"),
    ],
)
def test_a_file_that_describes_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UnknownMachine, match=message):
        machine_of(str(tmp_path / "own.toml"))


def test_a_file_that_describes_one(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("contractions = 1e12\nelementwise = 1e11\nbandwidth = 1e10\nmemory = 8e9\nlaunch = 1e-6\n")
    assert machine_of(str(tmp_path / "own.toml")) == Machine("own", "own", 1e12, 1e11, 1e10, 8e9, 1e-6)


def test_a_step_takes_the_longer_of_arithmetic_and_memory() -> None:
    assert seconds_of(Work((Step(1e9, 0, 1e6),)), PLAIN) == 1.0
    assert seconds_of(Work((Step(1e6, 0, 1e9), Step(0, 1e8, 0))), PLAIN) == 2.0
    assert seconds_of(Work((Step(0, 1, 4),) * 10), PLAIN) == pytest.approx(1e-5)
    assert seconds_of(Work((Step(1e9, 0, 0),)), replace(PLAIN, half=2.0), "bfloat16") == 0.5


def test_messages_take_latency_and_bandwidth() -> None:
    flow = ActionCost("flow", "flow", 2.0, Work((Step(1e9, 0, 0),)), messages=(Message("mix", "link", 32, 1000, 32_000),))
    found = unit_seconds(PhaseCost(10, "rounds", 2, (flow, replace(flow, kind="report"))), PLAIN)
    assert found["computing"] == 2.0 and found["sending"] == pytest.approx(2 * (1e-3 + 1e-3)) and found["unit"] == pytest.approx(2.004)

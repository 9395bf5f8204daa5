"""Machines that a plan is timed on: described by a table of figures, by name (`machines.toml`), by a file, or measured (`here`).

A step takes as long as its arithmetic or its memory traffic, whichever is longer, and never less than a launch. That is a floor for what
memory and arithmetic allow and not what a run takes: Python between the calls, caches and clock rates are not in it.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gradflow.cost.figures import Cost, PhaseCost, Work


class UnknownMachine(Exception):
    """A machine that is not described; `str(error)` is the sentence that a user sees."""


@dataclass(frozen=True)
class Machine:
    """Rates a second and sizes in bytes, as `machines.toml` explains them."""

    name: str
    title: str
    contractions: float
    elementwise: float
    bandwidth: float
    memory: float
    launch: float
    half: float = 1.0
    link_bandwidth: float = 1.25e8
    link_latency: float = 5e-4
    accelerator: bool = False


def named() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("machines.toml").read_text(encoding="utf-8"))


def machine_of(reference: str) -> Machine:
    """A machine by name, `here`, or the path of a file that describes one. Raises UnknownMachine."""
    if reference == "here":
        return measured()
    if reference.endswith(".toml") or Path(reference).is_file():
        try:
            table = tomllib.loads(Path(reference).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UnknownMachine(f"the machine `{reference}` cannot be read: {error}") from None
        return _machine(Path(reference).stem, table)
    tables = named()
    if reference not in tables:
        names = ", ".join(["here", *tables])
        raise UnknownMachine(f"there is no machine `{reference}`; there are {names}, and any .toml file that describes one")
    return _machine(reference, tables[reference])


def _machine(name: str, table: Mapping[str, Any]) -> Machine:
    known = {field.name: field for field in fields(Machine)}
    table = {"title": name, **table, "name": name}
    for key, value in table.items():
        if key not in known:
            raise UnknownMachine(f"the machine `{name}` has no figure `{key}`; figures are {', '.join(k for k in known if k != 'name')}")
        if key not in ("name", "title", "accelerator") and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise UnknownMachine(f"`{key}` of the machine `{name}` must be a number above 0, not {value!r}")
    missing = [key for key in ("contractions", "elementwise", "bandwidth", "memory", "launch") if key not in table]
    if missing:
        raise UnknownMachine(f"the machine `{name}` lacks {', '.join(f'`{key}`' for key in missing)}")
    return Machine(**table)


# ---- time


def seconds_of(work: Work, machine: Machine, precision: str = "float32") -> float:
    """How long the steps take, one after the other."""
    rate = machine.contractions * {"bfloat16": machine.half, "float64": 0.5}.get(precision, 1.0)
    return sum(
        max(step.contractions / rate + step.elementwise / machine.elementwise, step.bytes / machine.bandwidth, machine.launch) for step in work.steps
    )


def unit_seconds(phase: PhaseCost, machine: Machine, precision: str = "float32") -> dict[str, float]:
    """Seconds of one unit: of computing, of sending, and both. Messages of one action leave at once over all links."""
    computing = sum(one.times * seconds_of(one.work, machine, precision) for one in phase.unit_actions)
    sending = sum(
        one.times * (machine.link_latency + message.per_link / machine.link_bandwidth) for one in phase.unit_actions for message in one.messages
    )
    return {"computing": computing, "sending": sending, "unit": computing + sending}


def times_of(cost: Cost, machine: Machine, precision: str = "float32") -> dict[str, Any]:
    """What the view and the JSON form say of time."""
    phases = [unit_seconds(phase, machine, precision) for phase in cost.phases]
    whole = sum(phase.count * times["unit"] for phase, times in zip(cost.phases, phases, strict=True))
    return {"machine": machine.name, "title": machine.title, "memory": machine.memory, "phases": phases, "whole": whole}


# ---- this machine


def measured(size: int = 1 << 24, side: int = 1024) -> Machine:
    """This machine: a triad over 3 x 64 MB and a product of two matrices, the best of a few repetitions each. Under a second."""
    import torch

    a, b, c = (torch.ones(size) for _ in range(3))
    triad = _best(lambda: torch.add(a, b, alpha=2.0, out=c))
    x, y = torch.ones(side, side), torch.ones(side, side)
    product = _best(lambda: torch.mm(x, y))
    near = torch.ones(1 << 14)
    near_time = _best(lambda: [torch.add(near, near, out=near) for _ in range(64)]) / 64
    tiny = torch.ones(4)
    launch = _best(lambda: [torch.add(tiny, tiny, out=tiny) for _ in range(256)]) / 256
    return Machine(
        "here", "this machine, measured", contractions=2.0 * side**3 / product, elementwise=near.numel() / max(near_time - launch, 1e-9),
        bandwidth=3.0 * 4 * size / triad, memory=float(_memory()), launch=launch,
    )  # fmt: skip


def _best(action: Callable[[], Any], times: int = 5) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return min(found)


def _memory() -> int:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 10**9

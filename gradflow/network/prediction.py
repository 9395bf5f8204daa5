"""How long a program's rounds will take on a described network: the run's own clock, moved by what is predicted to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradflow.network.clock import Links, started
from gradflow.network.counting import Counted, counters_of
from gradflow.network.crossings import gradients_of
from gradflow.network.description import Description
from gradflow.network.ledger import over
from gradflow.network.sendings import advanced, predicted_sending
from gradflow.plan.program import Phase, Program, Update

TRIED = 200  # updates after which the rest is taken to go on at the same pace


def links_of(program: Program, network: Description) -> Links:
    """Raises BadNetwork where it does not fit the program's nodes."""
    return over(network, {update.topology.nodes for phase in program.phases for update in _updates(phase)})


def predicted_times(program: Program, network: Description, width: int, updates: list[int]) -> dict[str, Any]:
    """Seconds of a unit of each phase (null where its links are not known before the run) and of all. `updates`: of a unit, by phase."""
    links = links_of(program, network)
    phases = [_unit_seconds(program, phase, links, width, one) for phase, one in zip(program.phases, updates, strict=True)]
    known = [(phase.count, seconds) for phase, seconds in zip(program.phases, phases, strict=True) if seconds is not None]
    whole = sum(count * seconds for count, seconds in known) if len(known) == len(phases) else None
    return {"network": network.name, "title": network.title, "phases": phases, "whole": whole}


def _unit_seconds(program: Program, phase: Phase, links: Links, width: int, updates: int) -> float | None:
    flows = []
    for update in _updates(phase):
        counters = counters_of(update, program)
        if any(predicted_sending(one, width) is None for one in counters):
            return None
        flows.append(Counted(counters, gradients_of(update.region), update.topology.nodes))
    clock, times = started(links), max(1, min(TRIED, phase.count * updates))
    for number in range(times):
        for flow in flows:
            known = [one for one in flow.counters if number == 0 or not one.crossing.started]
            sendings = [one for counter in known if (one := predicted_sending(counter, width)) is not None]
            clock = advanced(clock, sendings, flow)
    return clock.seconds / times * updates


def _updates(phase: Phase) -> Iterator[Update]:
    return (action for action in phase.actions if isinstance(action, Update) and action.topology is not None and action.topology.nodes)


__all__ = ["links_of", "predicted_times"]

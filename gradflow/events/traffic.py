"""What a plan shows of events: how often each clock ticks, and what crosses a link when one does.

A value crosses when it is made of what the node at one end holds and is needed for what the other end keeps; of values made of each other only the
last one is sent. Waits and places are known everywhere, since both ends draw them from the seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.events.plan import EventKind, EventPlan
from gradflow.graph.graph import Node, ordered

if TYPE_CHECKING:
    from gradflow.plan.program import Program


def clock_facts(plan: EventPlan, width: int) -> list[dict[str, Any]]:
    """Of each kind of event: its place and clock, how often it happens per unit of time (None where only a run knows), and the bytes each way."""
    found = dict(plan.constants.results)
    return [
        {
            "place": kind.place, "clock": kind.clock, "rate": _rate(found.get(f"rate/{number}")),
            "bytes": crossing(kind, 0, width) if kind.place == "link" else 0, "bytes_back": crossing(kind, 1, width) if kind.place == "link" else 0,
        }
        for number, kind in enumerate(plan.kinds)
    ]  # fmt: skip


def _rate(rates: Node | None) -> float | None:
    from gradflow.library.catalogue import MissingExtra
    from gradflow.passes.constants import compute, is_closed

    if rates is None or not is_closed(rates):
        return None
    try:
        return float(compute(rates)[0].sum())
    except (MissingExtra, ValueError):
        return None
    except Exception as error:  # the reference backend's own error, which names the place
        if hasattr(error, "reason"):
            return None
        raise


def crossing(kind: EventKind, end: int, width: int) -> int:
    """Bytes that the node at an end sends to the other one."""
    held: dict[int, frozenset[int]] = {}
    for node in ordered(kind.body.roots):
        below = frozenset[int]().union(*(held[one.id] for one in node.inputs))
        held[node.id] = below | _own(node)
    sent: dict[int, Node] = {}
    stack = [node for name, node in kind.body.results if name.startswith(f"row/{1 - end}/")]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if node.id in seen or end not in held[node.id]:
            continue
        seen.add(node.id)
        if held[node.id] == {end}:
            sent[node.id] = node
        else:
            stack.extend(node.inputs)
    return sum(math.prod(axis.size or 1 for axis in node.type.without(["event"])) * width for node in sent.values())


def _own(node: Node) -> frozenset[int]:
    """The end whose node holds what a node of the graph reads itself."""
    if node.op == "source" and node["kind"] == "row":
        return frozenset([int(node["path"][0])])
    if node.op == "gather" and node["axis"] == "node" and node.inputs[1].op == "source" and node.inputs[1]["kind"] == "event":
        return frozenset([int(node.inputs[1]["path"][0])])
    return frozenset()


@dataclass(frozen=True)
class Talk:
    """What the events of a flow send. `sizes`: of each kind of event, the bytes that its first end sends to the second, and back; `expected`:
    messages and bytes of a unit of training, None where rates are known only when it runs."""

    nodes: int
    sizes: tuple[tuple[int, int], ...]
    expected: tuple[int, int] | None


def talks_of(program: Program, width: int) -> dict[str, Talk]:
    """Of every flow whose nodes act at events; `width`: bytes of a real number."""
    from gradflow.plan.program import Update

    found = {}
    for phase in program.phases:
        for action in phase.actions:
            if isinstance(action, Update) and action.events is not None:
                plan = action.events
                sizes = tuple((crossing(kind, 0, width), crossing(kind, 1, width)) if kind.place == "link" else (0, 0) for kind in plan.kinds)
                sent = sent_in_a_unit(plan, width, phase.unit)
                found[action.flow] = Talk(plan.nodes, sizes, None if sent is None else (sent[0], sent[2]))
    return found


def told(facts: list[dict[str, Any]]) -> list[str]:
    """The same in words, a line for each clock."""
    lines = []
    for one in facts:
        often = "as recorded" if one["clock"] == "recorded" else "rates are known when it runs"
        often = often if one["rate"] is None else f"{one['rate']:.4g} a unit of time"
        there, back = one["bytes"], one["bytes_back"]
        each = f", {there:,} B " + ("each way" if there == back else f"one way and {back:,} B back")
        whole = f", {(there + back) * one['rate']:,.0f} B a unit of time" if one["rate"] is not None else ""
        lines.append(f"events at {one['place']}s: {often}{f'{each}{whole}' if there + back else ''}")
    return lines


def sent_in_a_unit(plan: EventPlan, width: int, unit: str) -> tuple[int, int, int] | None:
    """(messages, bytes of one, bytes of all) that a unit of training is expected to send; None where rates are known only when it runs."""
    facts = clock_facts(plan, width)
    if any(one["rate"] is None for one in facts):
        return None
    share = 1.0 if unit == "time" else 1 / sum(one["rate"] for one in facts)
    links = [one for one in facts if one["bytes"] + one["bytes_back"]]
    if not links:
        return None
    total = sum(one["rate"] * (one["bytes"] + one["bytes_back"]) for one in links) * share
    return round(sum(2 * one["rate"] for one in links) * share), max(one["bytes"] for one in links), round(total)


__all__ = ["Talk", "clock_facts", "crossing", "sent_in_a_unit", "talks_of", "told"]

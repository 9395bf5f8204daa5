"""How many values of a black box a flow asks for: known where nothing decides about it at run time, counted in a state either way.

A value is asked for once at each point and sample, by every node, and only if something that is kept depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.graph.types import REAL
from gradflow.passes.expressions import Elaborator
from gradflow.passes.stages import Flow
from gradflow.plan.program import StatePlan

NAME = "queries"


def count_queries(e: Elaborator, flow: Flow, chain: Iterable[Any], results: list[tuple[str, Node]]) -> list[StatePlan]:
    """The state that counts what each node has asked for since the start, which every stage of the chain shows as `queries`; adds its next value."""
    needed = {node.id for node in ordered([node for _, node in results])} & e.sealed
    flow.asked = {key: how for key, how in flow.asked.items() if key in needed}
    if not flow.asked:
        return []
    total = e.ops.source(REAL, "state", flow.name, NAME)
    for count, guards in flow.asked.values():
        asked: Any = count
        for guard in guards:
            asked = e.ops.where(guard, asked, 0)
        total = e.ops.constant(e.ops.elementwise("add", total, asked))
    results.append((f"state/{flow.name}/{NAME}", total))
    for stage in chain:
        e.stage_values.setdefault(id(stage), {})[NAME] = ("state", flow.name, NAME, REAL)
    return [StatePlan(NAME, REAL, 0.0, NAME)]


def shown(flow: Flow) -> str:
    """What a plan says of it."""
    always, sometimes = (sum(n for n, guards in flow.asked.values() if bool(guards) == guarded) for guarded in (False, True))
    return f"{always} values a step{f', {sometimes} more under conditions' if sometimes else ''}" if flow.asked else ""

"""One step of an update (or a chain of stages) on leaves whose gradient comes from outside: what verification and the optimizer drive.

Also here: states that nothing needs are dropped from a region, because only what is used is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node, Region, substitute
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import mistake
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.expressions import Elaborator
from gradflow.passes.stages import Bundle, Change, Flow, Leaf, Upstream, flatten

FLOW = "step"
ROUNDS = 6


def step_region(e: Elaborator, stage: Any, leaves: tuple[Leaf, ...]) -> tuple[Region, Flow]:
    """Results param/leaf (flat), state/step/KEY and report/NAME; sources param/leaf, input/grad (flat), the states and the clocks of `step`."""
    axis = Axis("param", sum(leaf.size for leaf in leaves))
    param = e.ops.source(Type("real", (axis,)), "param", "leaf")
    grad = e.ops.source(Type("real", (axis,)), "input", "grad")

    def end(up: Upstream, bundle: Bundle) -> Change:
        raise mistake("E0513", e.ops.span, "nothing updates the parameter at the end of this chain", fix="end it with an update: `-> sgd(lr: 0.1)`")

    types: dict[str, Type] = {}
    for _ in range(ROUNDS):
        flow = Flow(FLOW)
        flow.types = types
        change = FlowBuilder(e, flow).chain(flatten(stage), Upstream(lambda point, fresh: grad), Bundle(leaves, param), end, "")
        types = flow.types
        if not flow.dirty:
            break
    whole = change.value if change.absolute else e.ops.constant(e.ops.elementwise("add", param, change.value))
    results: list[tuple[str, Node]] = [("param/leaf", e.ops.expand(whole, (axis,)))]
    results += [(f"state/{FLOW}/{slot.key}", slot.write) for slot in flow.states.values() if slot.write is not None]
    results += [(f"report/{name}", e.ops.constant(e.tensor(node))) for name, node in flow.reports.items()]
    mapping = substitute(e.graph, [node for _, node in results], flow.holes)
    region = without_idle_states(Region(tuple((name, mapping[node.id]) for name, node in results)), ())
    kept = {name for name, _ in region.results}
    for slot in flow.states.values():
        if f"state/{FLOW}/{slot.key}" not in kept:
            slot.write = None
    return region, flow


def without_idle_states(region: Region, wanted: Iterable[str]) -> Region:
    """Only states that something depends on stay: parameters, losses, reports, the `wanted` ones, or another state that stays. Of the values
    held for reports only the `wanted` ones stay."""
    region = replace(region, results=tuple((name, node) for name, node in region.results if not name.startswith("held/") or name in wanted))
    keys = {name for name, _ in region.results if name.startswith("state/")}
    reads = {name: {"/".join((n["kind"], *n["path"])) for n in Region(((name, node),)).sources()} & keys for name, node in region.results}
    needed = {key for name, states in reads.items() if name not in keys for key in states} | (set(wanted) & keys)
    queue = list(needed)
    while queue:
        for key in reads.get(queue.pop(), set()) - needed:
            needed.add(key)
            queue.append(key)
    return replace(region, results=tuple((name, node) for name, node in region.results if name not in keys or name in needed))

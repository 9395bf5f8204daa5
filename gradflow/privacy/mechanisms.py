"""The mechanisms of a flow: what each `release` of its region hides with how much noise, and what its multiplier is in every update.

The parts are read off the graph that `release(..)` leaves (`builtins/release.py`). A multiplier may depend on the clock of its flow and on
nothing else, so that what a run will have spent is known before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradflow.graph.graph import Node, Region, ordered
from gradflow.graph.operations import ELEMENTWISE
from gradflow.language.source import Span

Number = float | int | bool


class NotKnown(Exception):
    """A number that is not made of constants and the clock; `node` is what it depends on."""

    def __init__(self, node: Node):
        super().__init__(f"{node.op}")
        self.node = node


@dataclass(frozen=True)
class Sampling:
    """How the records of one release are chosen. `poisson`: each with probability `rate`; `subset`: `taken` of `rows`, none twice."""

    kind: str
    rate: float = 1.0
    taken: int = 0
    rows: int = 0


EVERY = Sampling("all")


@dataclass(frozen=True)
class Mechanism:
    """One `release`. `checked`: the sensitivity was found to be enough; else it is as the spec declares it."""

    name: str
    span: Span
    node: Node
    clean: Node
    multiplier: Node
    sensitivity: Node
    noise: Node
    share: float
    sampling: Sampling = EVERY
    checked: bool = False


def releases(region: Region) -> list[Mechanism]:
    """All of a region, in the order of the graph."""
    return [mechanism_of(node) for node in region.nodes() if is_release(node)]


def is_release(node: Node) -> bool:
    return node.op == "stop" and node.get("release") is not None


def mechanism_of(node: Node) -> Mechanism:
    clean, scaled = node.inputs[0].inputs
    product, noise = scaled.inputs
    multiplier, sensitivity = product.inputs
    return Mechanism(node["release"], node.span, node, clean, multiplier, sensitivity, noise, node["sampled"])


def multipliers(node: Node, updates: int) -> list[float]:
    """The value of a multiplier in updates 1, 2, .., `updates` of its flow. Raises NotKnown."""
    nodes = ordered([node])
    moving = any(one.op == "source" and one["path"][0] in ("t", "progress") for one in nodes)
    found = [value_of(nodes, t, updates) for t in range(1, updates + 1 if moving else min(updates, 1) + 1)]
    return found if moving else found * updates


def value_of(nodes: Iterable[Node], t: int, t_end: int) -> float:
    """The last of some nodes, inputs before users, at one time."""
    clocks: Mapping[str, Number] = {"t": t, "t_end": t_end, "progress": t / t_end if t_end else 0.0}
    values: dict[int, Number] = {}
    last: Number = 0.0
    for node in nodes:
        inputs = [values[below.id] for below in node.inputs]
        if node.op == "const":
            last = node["value"]
        elif node.op == "source" and node["kind"] == "clock" and node["path"][0] in clocks:
            last = clocks[node["path"][0]]
        elif node.op in ELEMENTWISE:
            last = ELEMENTWISE[node.op][1](*inputs)
        elif node.op in ("where", "choose"):
            last = inputs[1] if inputs[0] else inputs[2]
        elif node.op == "expand" and not node.type.axes:
            last = inputs[0]
        else:
            raise NotKnown(node)
        values[node.id] = last
    return float(last)

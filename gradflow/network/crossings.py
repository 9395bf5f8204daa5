"""What crosses the network in one update of a flow over a topology, found in its graph: one place knows, prediction and count read it.

Three forms cross. A product with weights [node, from] sends a value from every node over each of its links. A sum over `node` that parameters or
states depend on is an all-reduce: every node but the center sends its share there, and the result comes back. A choice of one node by an index
that moves is a walk: the parameters go to the next node. What only one side of a lazy choice needs (`when mod(t, 5) == 0 { .. }`) crosses when
that side is taken.

Axes: node (who holds a value), from (who is heard), param.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gradflow.graph.graph import Node, Region, ordered
from gradflow.passes.constants import is_closed
from gradflow.plan.program import Program, Update

INDEX_BYTES = 4
Guard = tuple[tuple[Node, bool], ...]


@dataclass(frozen=True)
class Crossing:
    """One value that crosses. `operand`: what a node sends, with its axis of nodes; `dense`: the axes of one node's share.

    `weights` [node, from] say who hears whom (link), `here` [node] who takes part (gather; None: all), `before` and `after` where a walk is.
    `guard`: conditions under which it happens; `times`: how often in an update; `level`: it waits for those of lower levels.
    """

    what: str
    kind: str  # link, gather, walk
    operand: Node
    weights: Node | None = None
    here: Node | None = None
    before: Node | None = None
    after: Node | None = None
    guard: Guard = ()
    times: int = 1
    level: int = 1
    inside: bool = False  # in the body of a loop: it cannot be watched while it runs
    numbers: int | None = None  # of one share, where they are not the operand's entries

    @property
    def started(self) -> bool:
        """Whether it is only there for the first update."""
        return any(outcome and at_the_start(condition) for condition, outcome in self.guard)

    @property
    def entries(self) -> int:
        if self.numbers is not None:
            return self.numbers
        return math.prod(axis.size or 1 for axis in self.operand.type.axes if axis.name not in ("node", "from"))

    def dense(self, width: int) -> int:
        """Bytes of one node's share; `width`: bytes of a real number."""
        return self.entries * {"bool": 1, "int": 8}.get(self.operand.type.base, width)

    @property
    def compressible(self) -> bool:
        """Whether it is a value of the kind that a compressor is for; what starts a state is sent as it is."""
        return self.operand.type.has("param") and not self.started and self.kind != "walk"


def crossings_of(update: Update, program: Program) -> tuple[Crossing, ...]:
    """In the order in which they are computed."""
    topology = update.topology
    if topology is None or not topology.nodes or getattr(update, "events", None) is not None:
        return ()
    roots = [node for name, node in update.region.results if name.startswith(("param/", "state/"))]
    found = tuple(_found(roots))
    return found or tuple(_walks(update, program))


# ---- sums over nodes and over what they hear


def _found(roots: list[Node], times: int = 1, base: int = 0, inside: bool = False) -> Iterator[Crossing]:
    nodes = ordered(roots)
    guards = _guards(nodes, roots)
    levels: dict[int, int] = {}
    for node in nodes:
        level = max((levels[below.id] for below in node.inputs), default=base)
        levels[node.id] = level
        guard = guards.get(node.id)
        if guard is None:
            continue
        if node.op == "scan" and node.body is not None:
            inner = [_outside(one, node) for one in _found(list(node.body.roots), times * _passes(node), level, True)]
            levels[node.id] = max((one.level for one in inner), default=level)
            yield from inner
            continue
        crossing = _crossing(node, guard, times, level + 1, inside)
        if crossing is not None:
            levels[node.id] = level + 1
            yield crossing


def _crossing(node: Node, guard: Guard, times: int, level: int, inside: bool) -> Crossing | None:
    if node.op == "dot" and "from" in node["over"]:
        value = next((one for one in node.inputs if not (one.type.has("node") and one.type.has("from"))), None)
        weights = next((one for one in node.inputs if one.type.has("node") and one.type.has("from")), None)
        if value is None or not value.type.has("from"):
            return None
        value = value.inputs[0] if value.op == "rename" and value.inputs[0].type.has("node") else value
        return Crossing("mix", "link", value, weights=weights, guard=guard, times=times, level=level, inside=inside)
    if node.op == "sum" and node["over"] == ("node",) and node.type.axes and not node.type.has("from"):
        value = node.inputs[0]
        found = Crossing("all-reduce", "gather", value, here=participants(value), guard=guard, times=times, level=level, inside=inside)
        taken = _taken(value, guard)
        begun = found.started and taken.op == "source" and taken["kind"] == "state"  # still the number that the state begins with
        return None if begun or is_closed(taken) else found  # what every node knows is not sent
    return None


def _taken(value: Node, guard: Guard) -> Node:
    """The side of lazy choices that the value comes from under these conditions."""
    outcomes = {condition.id: outcome for condition, outcome in guard}
    while value.op in ("choose", "expand"):
        if value.op == "expand":
            (value,) = value.inputs
        elif value.inputs[0].id in outcomes:
            value = value.inputs[1 if outcomes[value.inputs[0].id] else 2]
        else:
            break
    return value


def _outside(crossing: Crossing, scan: Node) -> Crossing:
    """A crossing in a loop, whose weights and participants are values that the loop takes in."""
    assert scan.body is not None
    given = {parameter.id: value for parameter, value in zip(scan.body.parameters, scan.inputs, strict=True)}
    carried = {parameter.id for parameter in scan.body.parameters[: scan["carries"] + scan["sequences"]]}
    found: dict[str, Any] = {}
    for name in ("weights", "here"):
        value = getattr(crossing, name)
        if value is not None and value.id in given and value.id not in carried:
            found[name] = given[value.id]
        elif value is not None and not is_closed(value):
            found[name] = None  # it changes with the loop: every link, every node
    return replace(crossing, guard=(), **found)


def participants(value: Node) -> Node | None:
    """[node]: who has a share in a sum over nodes, where the sum says so: `mean(x, over: node, where: here)`."""
    while True:
        if value.op == "where" and value.inputs[0].type.names == ("node",) and value.inputs[2].op == "const" and value.inputs[2]["value"] == 0:
            return value.inputs[0]
        if value.op in ("expand", "rename", "neg", "stop"):
            (value,) = value.inputs
        elif value.op in ("mul", "div") and any(not below.type.has("param") for below in value.inputs):
            value = next((below for below in value.inputs if below.type.has("param")), value.inputs[0])
            if not value.type.has("node"):
                return None
        else:
            return None


def _passes(scan: Node) -> int:
    """How often a loop goes round, as far as its types tell."""
    sizes = [axis.size for below in scan.inputs for axis in below.type.axes if axis.name == scan["axis"]]
    return next((size for size in sizes if size), 1)


def _guards(nodes: list[Node], roots: Iterable[Node]) -> dict[int, Guard]:
    """For each node that anything needs the conditions under which it does; `nodes`: operands before users."""
    wanted: dict[int, dict[tuple[int, bool], Node]] = {root.id: {} for root in roots}

    def need(node: Node, guard: dict[tuple[int, bool], Node]) -> None:
        known = wanted.get(node.id)
        wanted[node.id] = guard if known is None else {key: one for key, one in known.items() if key in guard}

    for node in reversed(nodes):
        guard = wanted.get(node.id)
        if guard is None:
            continue
        if node.op != "choose":
            for below in node.inputs:
                need(below, guard)
            continue
        condition, *branches = node.inputs
        need(condition, guard)
        for outcome, branch in zip((True, False), branches, strict=True):
            impossible = condition.op == "const" and bool(condition["value"]) != outcome
            if not impossible and (condition.id, not outcome) not in guard:
                need(branch, guard if condition.op == "const" else {**guard, (condition.id, outcome): condition})
    return {key: tuple((node, outcome) for (_, outcome), node in guard.items()) for key, guard in wanted.items()}


def at_the_start(condition: Node) -> bool:
    return condition.op in ("eq", "le", "lt") and any(below.op == "source" and below["kind"] == "clock" for below in condition.inputs)


# ---- walks


def _walks(update: Update, program: Program) -> Iterator[Crossing]:
    """The parameters, which live where an index says that moves."""
    results = dict(update.region.results)
    for plan in update.states:
        if plan.type.target is None or plan.type.target.name != "node" or plan.type.axes:
            continue
        after = results.get(f"state/{update.flow}/{plan.key}")
        if after is not None:
            before = _before(update.region, update.flow, plan.key, after)
            size = sum(program.models[name].spec.size for name in update.models)
            yield Crossing("the parameters to the next node", "walk", results[f"param/{update.models[0]}"], before=before, after=after, numbers=size)
            return


def _before(region: Region, flow: str, key: str, after: Node) -> Node:
    """Where the walk was: the state as the update found it, or as the first update makes it."""
    nodes = region.nodes()
    source = next((node for node in nodes if node.op == "source" and node["kind"] == "state" and node["path"] == (flow, key)), after)
    return next((node for node in nodes if node.op == "choose" and node.inputs[2] is source and at_the_start(node.inputs[0])), source)


# ---- how a share is written


@dataclass(frozen=True)
class Wire:
    """What the exchange says of its compressor: entries kept, bits an entry, rank, or how many numbers there are at all."""

    kept: int | None = None
    bits: float | None = None
    rank: int | None = None
    numbers: int | None = None

    def size(self, dense: int, width: int, entries: int | None = None, shapes: tuple[tuple[int, ...], ...] = ()) -> int:
        """Bytes of a share whose dense form takes `dense`. `entries`: how many are not zero, where that was counted; `shapes`: of the leaves."""
        sizes = [dense]
        if self.kept is not None:
            sizes.append((self.kept if entries is None else entries) * (width + INDEX_BYTES))
        if self.bits is not None:
            sizes.append(math.ceil(dense / width * self.bits / 8) + width)
        if self.numbers is not None:
            sizes.append(self.numbers * width)
        if self.rank is not None and shapes:
            sizes.append(sum(_factors(shape, self.rank) for shape in shapes) * width)
        return min(sizes)


def _factors(shape: tuple[int, ...], rank: int) -> int:
    """Numbers of a leaf as r columns and r rows; of one that is no matrix, or smaller, its entries."""
    whole = math.prod(shape)
    return min(whole, rank * sum(shape)) if len(shape) == 2 else whole


def wire_of(gives: str) -> Wire:
    """Out of what a stage gives: `sparse(k: 65)`, `bits(b: 4)`, `lowrank(r: 2)`, `scalar(n: 1)`."""

    def number(pattern: str) -> float | None:
        found = re.search(pattern, gives)
        return float(found[1]) if found else None

    def whole(pattern: str) -> int | None:
        found = number(pattern)
        return None if found is None else int(found)

    return Wire(whole(r"sparse\(k: (\d+)"), number(r"(?<!_)\bbits\(b: ([\d.]+)"), whole(r"lowrank\((?:\w+: )?(\d+)"), whole(r"scalar\(n: (\d+)"))


def wire_for(update: Update) -> Wire:
    return wire_of(" ".join(gives for _, kind, _, gives in update.facts.get("stages", ()) if kind == "exchange"))


def shapes_of(update: Update, program: Program) -> tuple[tuple[int, ...], ...]:
    """The leaves that flow, as long as all of their models do."""
    return tuple(tuple(leaf.shape) for name in update.models for leaf in program.models[name].spec.leaves)


# ---- how much is computed


def gradients_of(region: Region) -> int:
    """How many gradients of its objective a node takes in one update; an objective without a model counts as one."""
    return max(1, _gradients(region))


def _gradients(region: Region) -> int:
    calls = {tuple(below.id for below in node.inputs[:-1]) for node in region.nodes() if node.op == "model_vjp" and node["wrt"] == "params"}
    loops = [node for node in region.nodes() if node.op == "scan" and node.body is not None]
    return len(calls) + sum(_passes(node) * _gradients(node.body) for node in loops if node.body is not None)


__all__ = ["Crossing", "Wire", "at_the_start", "crossings_of", "gradients_of", "participants", "shapes_of", "wire_for", "wire_of"]

"""Where private values go: from the rows of private data through the graph to whatever leaves it.

A value is private that is computed from a private one, unless a `release` stands between. What leaves: parameters, states (checkpoints keep
them), reports, and messages between nodes. A sum over nodes is no message by itself: it is what a trusted server, or secure aggregation, sees
before it is released, and what becomes of it is followed like everything else. Sizes are public, since neighbors replace a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gradflow.graph.graph import Node, Region
from gradflow.language.source import NOWHERE, Span
from gradflow.plan.program import Assign, Periodic, Program, Update
from gradflow.privacy.mechanisms import is_release, mechanism_of
from gradflow.procedures.acts import Act, Draw, acts_in, regions_in

SIZES = ("axis_size", "range")  # what is read of their operands is a size
SHOWN = 6  # places of a path that are shown


@dataclass(frozen=True)
class Leak:
    """A private value that leaves, and how it came there, the data first."""

    what: str
    span: Span
    path: tuple[Node, ...]


@dataclass
class Private:
    """What is private beside data: values held for a unit, taken once a rollout, or returned by a call, by source."""

    data: Mapping[str, str]
    sources: set[tuple[str, ...]] = field(default_factory=set)

    def holds(self, node: Node) -> bool:
        if node.op != "source":
            return False
        kind, path = node["kind"], node["path"]
        if kind == "data":
            return path[0] in self.data and path[1] == self.data[path[0]]
        return (kind, *path) in self.sources or (kind, path[0]) in self.sources

    def below(self, region: Region, counted: bool = True) -> dict[int, Node | None]:
        """Ids of the private nodes of a region, each with the input that makes it so (None: it is a source). `counted`: the accountant sees its
        releases, as it does those of a flow's updates; elsewhere a release makes nothing public."""
        found: dict[int, Node | None] = {}
        for node in region.nodes():
            if self.holds(node):
                found[node.id] = None
            elif node.op not in SIZES and not (counted and is_release(node) and self.released(node, found)):
                origin = next((below for below in node.inputs if below.id in found), None)
                if origin is not None:
                    found[node.id] = origin
        return found

    def released(self, node: Node, found: Mapping[int, Node | None]) -> bool:
        """A release lets through what is to be released; its sensitivity, its multiplier and its noise must be public themselves."""
        one = mechanism_of(node)
        return not any(part.id in found for part in (one.multiplier, one.sensitivity, one.noise))


def path_to(node: Node, found: Mapping[int, Node | None]) -> tuple[Node, ...]:
    """The way that a private value took, the data first, at most one step a line of text."""
    steps: list[Node] = []
    at: Node | None = node
    while at is not None:
        here = at.span != NOWHERE and bool(steps) and (steps[-1].span.file, steps[-1].span.line) == (at.span.file, at.span.line)
        if found[at.id] is None and here:
            steps[-1] = at  # the data themselves stand for their line
        elif at.span != NOWHERE and not here:
            steps.append(at)
        at = found[at.id]
    steps.reverse()
    return tuple(steps if len(steps) <= SHOWN else [*steps[: SHOWN - 2], *steps[-2:]])


def leaks(program: Program, private: Private) -> Iterator[Leak]:
    """Every way out without a release, in the order in which a run would come to it."""
    for model in program.models.values():
        if model.start is not None:
            yield from out_of(model.start, private, f"the start of `{model.name}`", model.span)
    for phase in program.phases:
        for action in phase.actions:
            if isinstance(action, Act):
                for act in acts_in([action]):
                    of_act(act, private)
            elif isinstance(action, Assign):
                yield from out_of(action.region, private, f"`{action.model}`", action.span)
            else:
                yield from of_update(action, private)
        for block in (*phase.periodic, *((phase.final,) if phase.final is not None else ())):
            yield from of_report(block, private)


def of_act(act: Act, private: Private) -> None:
    """What a call or a loop gives is as private as what goes into it; what a function keeps is what checkpoints keep of it."""
    found = [(region, private.below(region, False)) for region in regions_in(act)]
    private.sources |= {tuple(name.split("/")) for region, below in found for name, node in region.results if node.id in below}
    if isinstance(act, Draw):
        given = any(below for _, below in found)
        if given or any(private.data.get(name) == split for name, split in act.call.data.values()):
            private.sources |= {("held", act.name), ("world", act.call.id)}


def of_update(action: Update, private: Private) -> Iterator[Leak]:
    if action.rollout is not None:
        taken = private.below(action.rollout, False)
        private.sources |= {tuple(name.split("/")) for name, node in action.rollout.results if node.id in taken}
    found = private.below(action.region)
    for node in messages(action.region, found):
        yield Leak("a message between nodes", node.span, path_to(node, found))
    for name, node in action.region.results:
        kind, _, rest = name.partition("/")
        if node.id not in found or kind == "loss":
            continue
        if kind == "held":
            private.sources.add(tuple(name.split("/")))
            continue
        what = {"param": f"the parameters of `{rest}`", "report": f"the report `{rest}`"}.get(kind, "")
        what = what or (f"the state `{rest.rpartition('.')[2]}`, which checkpoints keep" if kind == "state" else "whether an update is made")
        yield Leak(what, node.span if kind == "report" else action.span, path_to(node, found))


def messages(region: Region, found: Mapping[int, Node | None]) -> Iterator[Node]:
    """Private values that one node gets of another: an entry of the axis `node`, a mean over neighbors."""
    for node in region.nodes():
        operand = node.inputs[0] if node.inputs else None
        crossing = node.op == "gather" and node["axis"] == "node"
        mixed = node.op == "dot" and {"from", "node"} & set(node["over"])
        if operand is not None and ((crossing and operand.id in found) or (mixed and any(one.id in found for one in node.inputs))):
            yield node


def of_report(block: Periodic, private: Private) -> Iterator[Leak]:
    for call in block.calls:
        of_act(Draw("", call), private)
    found = private.below(block.region, False)
    for name, node in block.region.results:
        if node.id in found:
            yield Leak(f"the report `{name}`", node.span if node.span != NOWHERE else block.span, path_to(node, found))


def out_of(region: Region, private: Private, what: str, span: Span) -> Iterator[Leak]:
    found = private.below(region, False)
    for _, node in region.results:
        if node.id in found:
            yield Leak(what, span, path_to(node, found))

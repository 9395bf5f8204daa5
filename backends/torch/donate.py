"""Which results overwrite the memory of the input that they replace, and when that is safe.

With `donate`, the result `state/m` ends in the buffer that was given for the source (state, m). A kernel may write there itself if everything
that reads the old value comes first or is part of the kernel; through a lazy choice if the kernel runs in the branch that replaces the value.
Otherwise the result is made anew and copied at the end. Values that share memory with a source (views) count as readers of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gradflow.backends.torch import templates
from gradflow.backends.torch.fuse import FusionNote, Group, form
from gradflow.backends.torch.schedule import Unit, reaches, settled, successors
from gradflow.graph.graph import Node, Region

SHARING = {"rename", "stop", "leaf", "slice", "expand", "choose", "gather", "scan", "item"} | templates.TO_WHOLE


def shares(node: Node) -> bool:
    """Whether the result may lie in the memory of an operand."""
    return node.op in SHARING and (node.op != "gather" or not node.inputs[1].type.axes)


@dataclass
class Donation:
    """`written`: node of a kernel -> source whose buffer takes it; `copied`: (source, value that the kernel reads) by kernel; `placed`: results
    that kernels put in place; `final`: copies at the end, result name -> source; `cloned`: results that would show the new value of memory they
    share; `same`: values that may be the very memory of a source, entry for entry (a lazy choice that left it as it is), by the source's id."""

    written: dict[int, Node] = field(default_factory=dict)
    copied: dict[int, list[tuple[Node, Node]]] = field(default_factory=dict)
    placed: dict[str, Node] = field(default_factory=dict)
    final: dict[str, Node] = field(default_factory=dict)
    cloned: set[str] = field(default_factory=set)
    same: dict[int, set[int]] = field(default_factory=dict)
    notes: list[FusionNote] = field(default_factory=list)

    @property
    def sources(self) -> dict[int, Node]:
        own = [*self.written.values(), *self.final.values(), *(source for pairs in self.copied.values() for source, _ in pairs)]
        return {source.id: source for source in own}


def name_of(source: Node) -> str:
    return "/".join((source["kind"], *source["path"]))


class Donating:
    """Plans the donation of one region whose kernels are known."""

    def __init__(self, region: Region, nodes: list[Node], units: list[Unit], groups: dict[int, Group], below: Callable[[Node], tuple[Node, ...]]):
        self.region, self.nodes, self.units, self.below = region, nodes, units, below
        self.kernels = [unit for unit in units if unit.kind == "kernel"]
        self.groups = groups
        self.owner = {node.id: unit for unit in units for node in unit.nodes}
        self.plan = Donation()

    def run(self) -> Donation:
        replaced = {name_of(node): node for node in self.nodes if node.op == "source" and node["kind"] != "clock" and node.type.base}
        pairs = [(name, node, replaced[name]) for name, node in self.region.results if name in replaced and node is not replaced[name]]
        for name, node, source in pairs:
            reason = self._in_kernel(name, node, source)
            if reason is None:
                self.plan.placed[name] = source
            else:
                self.plan.final[name] = source
                if source.type.axes:
                    self.plan.notes.append(FusionNote(False, name, f"made anew and copied into place: {reason}", node.span))
        overwritten = self.plan.sources
        for name, node in self.region.results:
            if name in self.plan.placed:
                continue
            own = next((source for n, _, source in pairs if n == name), None)  # sharing with that one is seen when it is copied
            if any(source is not own and node.id in self.sharing(source) for source in overwritten.values()):
                self.plan.cloned.add(name)
        return self.plan

    def sharing(self, source: Node, through: frozenset[int] = frozenset()) -> set[int]:
        """Ids of the values that may lie in the memory of a source; not followed through the choices in `through`."""
        found = {source.id}
        for node in self.nodes:
            if shares(node) and node.id not in through and any(below.id in found for below in self.below(node)):
                found.add(node.id)
        return found

    def same(self, source: Node) -> set[int]:
        """Ids of the values that are the memory of a source, whole and in its order, if they share it at all."""
        found = {source.id}
        for node in self.nodes:
            if node.op in ("choose", "stop", "rename") and any(
                b.id in found and (node.op == "rename" or b.type.names == node.type.names) for b in node.inputs
            ):
                found.add(node.id)
        self.plan.same[source.id] = found
        return found

    def _in_kernel(self, name: str, node: Node, source: Node) -> str | None:
        """Has a kernel write the result in place; the reason why not, if not."""
        if node.type.names != source.type.names or node.type.base != source.type.base:
            return "the result has other axes or another type"
        if node.op == "mix":
            return self._mixed(name, node, source)
        writers: list[tuple[Unit, Node]] = []
        choices: set[int] = set()
        if not self._writers(node, source, writers, choices):
            copier = next((k for k in self.kernels if not k.guard and any(o is node for o in self.groups[id(k)].operands)), None)
            if copier is None or self.groups[id(copier)].names != node.type.names:
                return "no fused kernel computes it"
            writers, choices = [(copier, node)], set()
        if not writers:
            return "no fused kernel computes it"
        reason = self._conflict(name, source, [unit for unit, _ in writers], frozenset(choices))
        if reason:
            return reason
        for unit, value in writers:
            if self.owner.get(value.id) is unit and value.id not in self.plan.written:
                self.plan.written[value.id] = source
            else:
                self.plan.copied.setdefault(id(unit), []).append((source, value))
        return None

    def _mixed(self, name: str, node: Node, source: Node) -> str | None:
        """Has a product with known weights, which is made row by row, write its rows in place."""
        unit = self.owner[node.id]
        if unit.guard or node.inputs[0].id in self.sharing(source):
            return "its rows are made of the old ones"
        reason = self._conflict(name, source, [unit], frozenset())
        if reason is None:
            self.plan.written[node.id] = source
        return reason

    def _writers(self, node: Node, source: Node, writers: list[tuple[Unit, Node]], choices: set[int]) -> bool:
        """The kernels that compute a result, followed through lazy choices whose other side leaves the source as it is."""
        if node is source:
            return True
        unit = self.owner.get(node.id)
        if unit is not None and unit.kind == "kernel":
            writers.append((unit, node))
            return True
        if node.op != "choose":
            return False
        choices.add(node.id)
        taken = settled(node)
        if taken is not None:
            return self._writers(taken, source, writers, choices)
        condition, *branches = node.inputs
        for outcome, branch in zip((True, False), branches, strict=True):
            count = len(writers)
            if not self._writers(branch, source, writers, choices):
                return False
            if any((condition.id, outcome) not in unit.guard for unit, _ in writers[count:]):
                return False
        return True

    def _conflict(self, name: str, source: Node, writers: list[Unit], choices: frozenset[int]) -> str | None:
        """Orders every reader of the old value before the writers, or says which one stands in the way."""
        shared = self.sharing(source, choices)
        for result, node in self.region.results:
            if result != name and node.id in shared:
                return f"`{result}` still shows the old value"
        readers = []
        for unit in self.units:
            reading = [n for n in unit.nodes if n.id not in choices and any(b.id in shared for b in self.below(n))]
            group = self.groups.get(id(unit))
            if unit in writers and group is not None:
                same = {o.id for o in group.operands if form(o, group.names) == "full"} & self.same(source)
                if any(o.id in shared - same for o in group.operands):
                    return "the kernel also reads a view of the old value"
            elif reading:
                readers.append((unit, reading[0]))
        added: list[tuple[Unit, Unit]] = []
        for writer in writers:
            users = successors(self.units, self.below)
            for unit, reader in readers:
                if reaches(writer, unit, users):
                    for w, r in added:
                        w.after.remove(r)
                    return f"`{reader.op}` ({reader.span}) reads the old value afterwards"
                writer.after.append(unit)
                added.append((writer, unit))
        return None

"""One region as the text of one Python function `run(inputs)`, with the kernels it calls before it.

Sources are loaded first, then every unit in the order of `schedule.py`: the work of a lazy choice inside an `if`, host numbers as Python
arithmetic, loops as `for`, memory given back with `del` where a value dies. A comment names the line of the spec that the next statements
come from.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gradflow.backends.torch import emit, indexing
from gradflow.backends.torch.calls import ModelCalls, call_key
from gradflow.backends.torch.donate import Donating, Donation, name_of
from gradflow.backends.torch.emit import DTYPES, Writer, absorbed
from gradflow.backends.torch.fuse import FusionNote, Group, Grouping
from gradflow.backends.torch.kernels import Kernel, KernelWriter
from gradflow.backends.torch.linalg import emit_linalg, emit_part, factorization
from gradflow.backends.torch.schedule import ALWAYS, Guard, Operands, Unit, arrange, guards, shared_guard, walk
from gradflow.backends.torch.sizes import witnesses
from gradflow.graph.graph import Node, Region, users
from gradflow.graph.operations import ELEMENTWISE
from gradflow.language.source import NOWHERE, Span

EXPRESSIONS: dict[str, Callable[[Writer, Node], str]] = {**emit.OPERATIONS, **indexing.OPERATIONS, "linalg": emit_linalg}
INDENT = "    "


@dataclass
class Line:
    text: str
    guard: Guard = ALWAYS
    span: Span = NOWHERE


@dataclass
class Options:
    mode: str = "blocked"  # of kernels: blocked, whole or compiled
    optimize: bool = True
    donate: bool = False
    itemsize: int = 4


@dataclass
class Program:
    """The text of a region and everything that was decided on the way."""

    region: Region
    options: Options
    calls: ModelCalls
    below: Operands = field(default_factory=Operands)
    kernels: list[Kernel] = field(default_factory=list)
    notes: list[FusionNote] = field(default_factory=list)
    plan: Donation = field(default_factory=Donation)
    groups: dict[int, Group] = field(default_factory=dict)
    constants: dict[str, object] = field(default_factory=dict)
    bodies: int = 0

    def write(self) -> str:
        nodes = walk(self.region.roots, self.below)
        self.calls.collect(inner_nodes(nodes))
        w = self._writer(nodes, self.region, None)
        self._mark_hosts(w, nodes)
        nodes, found = self._fused(w, nodes) if self.options.optimize else (nodes, [])
        units = self._units(nodes, found, guards(nodes, self.region.roots, self.below))
        if self.options.donate:
            self.plan = Donating(self.region, nodes, units, self.groups, self.below).run()
        lines = self._sources(w, nodes)
        lines += self._block(w, arrange(units, self.below), nodes, self.region.roots)
        lines += self._results(w)
        self.notes += self.plan.notes
        body = render(lines, self._paths(nodes))
        return "\n\n\n".join([*(k.text for k in self.kernels), "def run(inputs):\n" + "\n".join(INDENT + line for line in body)]) + "\n"

    # ---- what there is

    def _writer(self, nodes: list[Node], region: Region, outer: Writer | None) -> Writer:
        found = witnesses(nodes, self.below, outer)
        for (node, _), witness in found.items():
            self.below.added[node] = (*self.below.added.get(node, ()), witness)
        w = Writer(users(nodes), {root.id for root in region.roots}, found, outer)
        w.constants = self.constants
        w.plain = not self.options.optimize
        return w

    def _mark_hosts(self, w: Writer, nodes: list[Node]) -> None:
        """Values without axes that are Python numbers when the source runs: of constants, clocks and sizes."""
        for node in nodes:
            if node.type.axes:
                continue
            clock = node.op == "source" and node["kind"] == "clock"
            arithmetic = (node.op in ELEMENTWISE or node.op in ("where", "choose")) and all(w.is_host(b) for b in node.inputs)
            if clock or arithmetic or node.op == "axis_size":
                w.hosts.add(node.id)

    def _fused(self, w: Writer, nodes: list[Node]) -> tuple[list[Node], list[Group]]:
        """The kernels' groups, and the nodes that are still computed once groups and sums read through what they absorb."""
        for node in nodes:
            inner = absorbed(w, node)
            if inner is not None:
                self.below.replaced[node.id] = inner.inputs
        nodes = walk(self.region.roots, self.below)
        readers: dict[int, list[Node]] = {}
        for node in nodes:
            for below in self.below(node):
                readers.setdefault(below.id, []).append(node)
        grouping = Grouping(nodes, readers, guards(nodes, self.region.roots, self.below), w.is_host, w.kept, set())
        found = grouping.groups(self.below)
        self.notes += grouping.notes
        for group in found:
            own = group.ids
            outside = {o.id: o for o in group.operands}
            for node in group.nodes:
                inside = [b for b in node.inputs if b.id in own]
                self.below.replaced[node.id] = (*inside, *(outside.values() if node is group.nodes[0] else ()))
        return walk(self.region.roots, self.below), found

    def _units(self, nodes: list[Node], found: list[Group], guard_of: dict[int, Guard]) -> list[Unit]:
        """One unit a node, but one for a kernel, for the outputs of one call and for the factors of one decomposition."""
        shared: dict[object, Unit] = {}
        units: list[Unit] = []
        member = {node.id: group for group in found for node in group.nodes if self._is_kernel(group)}
        for node in nodes:
            if node.op in ("const", "source", "element"):
                continue
            group = member.get(node.id)
            key: object = ("kernel", id(group)) if group is not None else None
            key = ("call", call_key(node)) if node.op == "model" else key
            key = factorization(node) or key
            unit = shared.get(key) if key is not None else None
            if unit is None:
                kind = "kernel" if group is not None else "call" if node.op == "model" else "factors" if factorization(node) else "node"
                unit = Unit([], kind)
                units.append(unit)
                if key is not None:
                    shared[key] = unit
                if group is not None:
                    self.groups[id(unit)] = group
            unit.nodes.append(node)
        for unit in units:
            unit.guard = shared_guard(unit.nodes, guard_of)
        return units

    def _is_kernel(self, group: Group) -> bool:
        if self.options.donate and {name_of(o) for o in group.operands if o.op == "source"} & {name for name, _ in self.region.results}:
            return True
        return sum(node.op != "stop" for node in group.nodes) > 1

    # ---- statements

    def _sources(self, w: Writer, nodes: list[Node]) -> list[Line]:
        taken: set[str] = set()
        lines = []
        for node in nodes:
            if node.op != "source":
                continue
            name = variable("_".join((node["kind"], *node["path"])))
            while name in taken:
                name += "_"
            taken.add(name)
            w.names[node.id] = name
            key = f"inputs[{(node['kind'], *node['path'])!r}]"
            if w.is_host(node):
                lines.append(Line(f"{name} = number({key})"))
            elif node.id in self.plan.sources:
                lines.append(Line(f"{name} = buffer({key}, {DTYPES[node.type.base]}, device, {name_of(node)!r})"))
            else:
                lines.append(Line(f"{name} = load({key}, {DTYPES[node.type.base]}, device)"))
        return lines

    def _block(self, w: Writer, units: list[Unit], nodes: list[Node], roots: Iterable[Node]) -> list[Line]:
        """The statements of one function or loop body."""
        conditions = {c for unit in units for c, _ in unit.guard}
        by_id = {node.id: node for node in nodes}
        lines = [self._truth(w, by_id[c]) for c in conditions if c in by_id and by_id[c].op in ("source", "element") and not w.is_host(by_id[c])]
        writer = UnitWriter(self, w, conditions, vjp_lasts(units))
        deaths = Deaths(w, units, self.below, {root.id for root in roots})
        for i, unit in enumerate(units):
            lines += writer.write(unit)
            for node in unit.nodes:
                if node.id in conditions and not w.is_host(node):
                    lines.append(self._truth(w, node))
            lines += deaths.after(i)
        return lines

    def _truth(self, w: Writer, node: Node) -> Line:
        return Line(f"if_{node.id} = bool({w.ref(node)})", ALWAYS if node.op in ("source", "element") else self._guard(node))

    def _guard(self, node: Node) -> Guard:
        return self.guard_of.get(node.id, ALWAYS)

    guard_of: dict[int, Guard] = field(default_factory=dict)

"""The statements of one block: the body of `run` or of a loop. One method a kind of unit, one a node that is more than an expression."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gradflow.backends.torch import emit, indexing
from gradflow.backends.torch.calls import ModelCalls
from gradflow.backends.torch.donate import Donation
from gradflow.backends.torch.emit import DTYPES, Writer, permuted, shape
from gradflow.backends.torch.fuse import FusionNote, Group
from gradflow.backends.torch.kernels import Kernel, KernelWriter
from gradflow.backends.torch.linalg import emit_linalg, emit_part, factorization
from gradflow.backends.torch.schedule import Guard, Operands, Unit, arrange, needed, settled, walk
from gradflow.backends.torch.sizes import witnesses
from gradflow.backends.torch.statements import INDENT, Conditions, Line, append, deaths, last_pulls, name_of, render
from gradflow.graph.graph import Node, Region, users
from gradflow.graph.operations import ELEMENTWISE

EXPRESSIONS: dict[str, Callable[[Writer, Node], str]] = {**emit.OPERATIONS, **indexing.OPERATIONS, "linalg": emit_linalg}
LITERALS = {"True", "False"}


@dataclass
class Context:
    """What all blocks of one program share."""

    calls: ModelCalls
    mode: str = "blocked"
    itemsize: int = 4
    below: Operands = field(default_factory=Operands)
    plan: Donation = field(default_factory=Donation)
    groups: dict[int, Group] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    notes: list[FusionNote] = field(default_factory=list)
    static: set[int] = field(default_factory=set)  # values that are there before the run


def writer_of(context: Context, nodes: list[Node], region: Region, outer: Writer | None, reach: list[Node]) -> Writer:
    """A writer for the nodes of a block that knows which of them are Python numbers and where unknown sizes are read."""
    found = witnesses(nodes, context.below, reach)
    w = Writer(users(nodes), {root.id for root in region.roots}, found, outer)
    for node in nodes:
        if node.type.axes:
            continue
        clock = node.op == "source" and node["kind"] == "clock"
        arithmetic = (node.op in ELEMENTWISE or node.op in ("where", "choose")) and all(w.is_host(b) for b in node.inputs)
        if clock or arithmetic or node.op == "axis_size":
            w.hosts.add(node.id)
    return w


def single_units(nodes: Iterable[Node], key: Callable[[Node], object], kind: Callable[[Node], str]) -> list[Unit]:
    """One unit a node; nodes with the same key (not None) share one."""
    shared: dict[object, Unit] = {}
    units: list[Unit] = []
    for node in nodes:
        if node.op in ("const", "source", "element"):
            continue
        own = key(node)
        unit = shared.get(own) if own is not None else None
        if unit is None:
            unit = Unit([], kind(node))
            units.append(unit)
            if own is not None:
                shared[own] = unit
        unit.nodes.append(node)
    return units


def shared_key(context: Context, node: Node) -> object:
    """What nodes have in common that come out of one call or one decomposition."""
    return ("call", context.calls.key(node)) if node.op == "model" else factorization(node)


def shared_kind(node: Node) -> str:
    return "call" if node.op == "model" else "factors" if factorization(node) is not None else "node"


class Block:
    """Writes the units of one block, in order. `reach`: values of outer scopes that tell sizes."""

    def __init__(
        self, context: Context, w: Writer, units: list[Unit], nodes: list[Node], kept: Iterable[Node], depth: dict[int, Guard], reach: list[Node]
    ):
        self.context, self.w, self.units, self.reach = context, w, units, reach
        self.kept = list(kept)
        self.by_id = {node.id: node for node in nodes}
        asked = {c for unit in units for c, _ in unit.guard}
        self.conditions = Conditions({c: f"if_{c}" for c in asked}, {c: len(depth.get(c, ())) for c in asked})
        self.last = last_pulls(units)
        self.items: dict[tuple[int, int], str] = {}

    def write(self) -> list[Line]:
        lines = [
            self.truth(node, frozenset()) for i in sorted(self.conditions.text) if (node := self.by_id.get(i)) and node.op in ("source", "element")
        ]
        pieces = []
        for unit in self.units:
            piece = getattr(self, unit.kind)(unit)
            piece += [self.truth(node, unit.guard) for node in unit.nodes if node.id in self.conditions.text]
            pieces.append(piece)
        kept = {self.w.names[node.id] for node in self.kept if node.id in self.w.names}
        dead = deaths(self.w, self.units, self.context.below, kept)
        for i, (unit, piece) in enumerate(zip(self.units, pieces, strict=True)):
            for line in piece:
                append(lines, line)
            if i in dead:
                lines.append(Line(f"del {', '.join(dead[i])}", unit.guard))
        return lines

    def truth(self, node: Node, guard: Guard) -> Line:
        """A condition as a Python bool, read once."""
        text = self.w.ref(node)
        return Line(f"if_{node.id} = {text if self.w.is_host(node) else f'bool({text})'}", guard)

    # ---- units

    def node(self, unit: Unit) -> list[Line]:
        (node,) = unit.nodes
        special = SPECIAL.get(node.op)
        if special is not None:
            return special(self, node, unit.guard)
        return [self.assign(node, EXPRESSIONS[node.op](self.w, node), unit.guard)]

    def assign(self, node: Node, text: str, guard: Guard) -> Line:
        self.w.names[node.id] = name_of(node)
        return Line(f"{name_of(node)} = {text}", guard, node.span)

    def kernel(self, unit: Unit) -> list[Line]:
        context, group = self.context, self.context.groups[id(unit)]
        own = group.ids
        outside = {b.id for other in self.units if other is not unit for n in other.nodes for b in context.below(n)} | {n.id for n in self.kept}
        written = {i: source for i, source in context.plan.written.items() if i in own}
        results = [node for node in group.nodes if node.id in outside and node.id not in written]
        kernel = Kernel(f"update_{len(context.kernels) + 1}", group, results, written, context.plan.copied.get(id(unit), []), context.plan.same)
        context.kernels.append(kernel)
        writer = KernelWriter(kernel, self.w, context.mode, context.itemsize)
        writer.write()
        line = Line(writer.call(), unit.guard, unit.nodes[0].span)
        context.notes.append(FusionNote(True, kernel.name, writer.summary(), unit.nodes[0].span))
        self.w.names.update({node.id: name_of(node) for node in results})
        self.w.names.update({i: self.w.names[source.id] for i, source in written.items()})
        return [line]

    def call(self, unit: Unit) -> list[Line]:
        """One forward call and the outputs that are read."""
        first, calls = unit.nodes[0], self.context.calls
        called = f"m{first.id}"
        lines = [Line(f"{called} = {calls.forward(self.w, first)}", unit.guard, first.span)]
        return [*lines, *(self.assign(node, calls.output(node, called), unit.guard) for node in unit.nodes)]

    def factors(self, unit: Unit) -> list[Line]:
        first = unit.nodes[0]
        u, s, v = (f"{part}{first.id}" for part in "usv")
        top = dict(first.get("options", ())).get("top")
        lines = [Line(f"{u}, {s}, {v} = decompose({self.w.tensor(first.inputs[0], 'real')}, {top})", unit.guard, first.span)]
        return [*lines, *(self.assign(node, emit_part(node, (u, s, v)), unit.guard) for node in unit.nodes)]

    # ---- nodes that are more than an expression

    def renamed(self, node: Node, guard: Guard) -> list[Line]:
        """The same value under another type."""
        below = node.inputs[0]
        if self.w.is_host(below):
            return [self.assign(node, self.w.ref(below), guard)]
        self.w.names[node.id] = self.w.ref(below)
        return []

    def choose(self, node: Node, guard: Guard) -> list[Line]:
        """Both outcomes assign one name, each under its own condition; nothing where both are the same value."""
        condition, *branches = node.inputs
        known = dict(guard)
        if settled(node) is not None:
            known[condition.id] = bool(condition["value"])
        texts = {}
        for outcome, branch in zip((True, False), branches, strict=True):
            if known.get(condition.id, outcome) == outcome:
                texts[outcome] = self.branch(node, branch)
        if len(set(texts.values())) == 1:
            self.w.names[node.id] = next(iter(texts.values()))
            return []
        if condition.id not in self.conditions.text:
            test = self.w.ref(condition)
            return [self.assign(node, f"{texts[True]} if {test} else {texts[False]}", guard)]
        lines = [self.assign(node, text, guard | {(condition.id, outcome)}) for outcome, text in texts.items()]
        for line, text in zip(lines, texts.values(), strict=True):
            line.needs = text if text.isidentifier() else "" if text in LITERALS or text.replace(".", "").isdigit() else None
        return lines

    def branch(self, node: Node, branch: Node) -> str:
        if self.w.is_host(branch):
            return self.w.ref(branch) if self.w.is_host(node) else self.w.tensor(branch, node.type.base)
        return self.w.align(branch, node.type.names, node.type.base)

    def vjp(self, node: Node, guard: Guard) -> list[Line]:
        return [self.assign(node, self.context.calls.vjp(self.w, node, node.id in self.last), guard)]

    def mixed(self, node: Node, guard: Guard) -> list[Line]:
        source = self.context.plan.written.get(node.id)
        if source is None:
            return [self.assign(node, EXPRESSIONS["mix"](self.w, node), guard)]
        self.w.names[node.id] = self.w.names[source.id]
        return [Line(f"{EXPRESSIONS['mix'](self.w, node)[:-1]}, out={self.w.names[source.id]})", guard, node.span)]

    def item(self, node: Node, guard: Guard) -> list[Line]:
        self.w.names[node.id] = self.items[node.inputs[0].id, node["index"]]
        return []

    def scan(self, node: Node, guard: Guard) -> list[Line]:
        """A loop: carries assigned together at the end of a pass, stacked values collected in lists."""
        return Loop(self, node).write(guard)


class Loop:
    """The statements of one scan."""

    def __init__(self, block: Block, node: Node):
        assert node.body is not None
        self.block, self.outer, self.node, self.body = block, block.w, node, node.body
        count, sequences = node["carries"], node["sequences"]
        pairs = list(zip(node.inputs, node.body.parameters, strict=True))
        self.carries, self.sequences, self.captured = pairs[:count], pairs[count : count + sequences], pairs[count + sequences :]
        asked = {item["index"] for item in self.outer.users.get(node.id, []) if item.op == "item"}
        self.stacked = [(i, root) for i, root in enumerate(node.body.roots) if i >= count and i in asked]
        self.following = list(node.body.roots[:count])

    def write(self, guard: Guard) -> list[Line]:
        node, w = self.node, self.outer
        inner_lines, w_in = self.inside()
        lines = [Line(f"c{p.id} = {self.given(w, value, p)}", guard, node.span) for value, p in self.carries]
        lines += [Line(f"stack{node.id}_{i} = []", guard) for i, _ in self.stacked]
        steps = f"range({self.steps()})"
        lines.append(Line(f"for i{node.id} in {f'reversed({steps})' if node.get('backward') else steps}:", guard, node.span))
        body = [f"e{p.id} = {self.element(value, p)}" for value, p in self.sequences] + inner_lines
        body += [f"stack{node.id}_{i}.append({w_in.tensor(root)})" for i, root in self.stacked]
        if self.carries:
            names = ", ".join(f"c{p.id}" for _, p in self.carries)
            values = ", ".join(self.given(w_in, root, p) for root, (_, p) in zip(self.following, self.carries, strict=True))
            body.append(f"{names} = {values}")
        lines += [Line(INDENT + text, guard) for text in body or ["pass"]]
        for i, root in self.stacked:
            if node.get("backward"):
                lines.append(Line(f"stack{node.id}_{i}.reverse()", guard))
            sizes = shape(str(axis.size or 0) for axis in root.type.axes)
            lines.append(Line(f"t{node.id}_{i} = stacked(stack{node.id}_{i}, {sizes}, {DTYPES[root.type.base]}, device)", guard))
            self.block.items[node.id, i] = f"t{node.id}_{i}"
        self.block.items.update({(node.id, i): f"c{p.id}" for i, (_, p) in enumerate(self.carries)})
        w.names[node.id] = name_of(node)
        return lines

    def inside(self) -> tuple[list[str], Writer]:
        """The statements of one pass, and the writer that knows their names."""
        context = self.block.context
        wanted = Region(tuple((str(i), root) for i, root in enumerate([*self.following, *(r for _, r in self.stacked)])), self.body.parameters)
        known = {*self.outer.names, *(f.id for f in context.below.free(self.body))}
        nodes = self.within(wanted, known)
        reach = [*(p for _, p in self.carries), *(p for _, p in self.sequences), *(p for _, p in self.captured), *self.block.reach]
        w = writer_of(context, nodes, wanted, self.outer, reach)
        w.plain = True
        w.names.update({p.id: f"c{p.id}" for _, p in self.carries} | {p.id: f"e{p.id}" for _, p in self.sequences})
        for value, p in self.captured:
            w.names[p.id] = self.outer.ref(value) if self.outer.is_host(value) else self.outer.align(value, p.type.names, p.type.base)
            if self.outer.is_host(value):
                w.hosts.add(p.id)
        nodes = self.within(wanted, known)  # with what tells sizes
        w = self.rehosted(w, nodes)
        nodes, guard_of = needed(nodes, [r for r in wanted.roots if r.id not in known and r.op != "const"], context.below)
        units = single_units(nodes, lambda n: shared_key(context, n), shared_kind)
        for unit in units:
            unit.guard = frozenset.intersection(*(guard_of[n.id] for n in unit.nodes))
        block = Block(context, w, arrange(units, context.below), nodes, wanted.roots, guard_of, reach)
        return render(block.write(), block.conditions), w

    def within(self, body: Region, known: set[int]) -> list[Node]:
        """The nodes that are computed in every pass; `known` has its value outside."""
        below = self.block.context.below
        return [n for n in walk(body.roots, lambda n: () if n.id in known else below(n)) if n.id not in known]

    def rehosted(self, w: Writer, nodes: list[Node]) -> Writer:
        """Values that are numbers because what they capture is one."""
        for node in nodes:
            if not node.type.axes and (node.op in ELEMENTWISE or node.op in ("where", "choose")) and all(w.is_host(b) for b in node.inputs):
                w.hosts.add(node.id)
        return w

    def given(self, w: Writer, value: Node, parameter: Node) -> str:
        """A value as the loop's parameter holds it."""
        base = parameter.type.base
        return w.tensor(value, base) if w.is_host(value) else w.align(value, parameter.type.names, base)

    def element(self, value: Node, parameter: Node) -> str:
        axis, names = self.node["axis"], value.type.names
        rest = tuple(n for n in names if n != axis)
        text = permuted(f"{self.outer.ref(value)}.select({names.index(axis)}, i{self.node.id})", rest, parameter.type.names)
        return self.outer.cast(value, text, parameter.type.base)

    def steps(self) -> str:
        """How many passes there are."""
        if self.sequences:
            return self.outer.size_of(self.sequences[0][0], self.node["axis"])
        stacked = [item for item in self.outer.users.get(self.node.id, []) if item["index"] >= len(self.carries)]
        size = next((item.type.axes[0].size for item in stacked if item.type.axes[0].size is not None), None)
        if size is None:
            raise emit.UnknownSize(f"the length of the loop over `{self.node['axis']}` is not known (from {self.node.span})")
        return str(size)


SPECIAL: dict[str, Callable[[Block, Node, Guard], list[Line]]] = {
    "rename": Block.renamed, "choose": Block.choose, "model_vjp": Block.vjp, "item": Block.item, "scan": Block.scan,
    "mix": Block.mixed,
}  # fmt: skip

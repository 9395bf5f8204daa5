"""One region as the text of one Python function `run(inputs)`, with the kernels that it calls before it.

Here it is decided what is computed together and in which order; how the statements look is in `blocks.py`. Sources are loaded first, then
every unit in the order of `schedule.py`, then results are put into the buffers they replace and handed back by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from gradflow.backends.torch.blocks import Block, Context, shared_key, shared_kind, single_units, writer_of
from gradflow.backends.torch.donate import Donating
from gradflow.backends.torch.donate import name_of as label
from gradflow.backends.torch.emit import DTYPES, Writer, absorbed
from gradflow.backends.torch.fuse import Group, Grouping
from gradflow.backends.torch.schedule import Guard, Unit, arrange, guards, shared_guard, walk
from gradflow.backends.torch.sizes import pointers
from gradflow.backends.torch.statements import INDENT, Line, render, variable
from gradflow.graph.graph import Node, Region


def write_program(region: Region, context: Context, optimize: bool, donate: bool) -> tuple[str, dict[str, object]]:
    """The source, and the objects that it refers to by name because they have no literal."""
    below = context.below
    nodes = walk(region.roots, below)
    context.calls.collect(every(nodes))
    sources = [node for node in nodes if node.op == "source"]
    w = writer_of(context, nodes, region, None, sources)
    w.plain, w.pointers = not optimize, pointers(sources)
    found = fused(context, region, w, donate) if optimize else []
    nodes = walk(region.roots, below)
    guard_of = guards(nodes, region.roots, below)
    units = units_of(context, nodes, found, guard_of)
    if donate:
        context.plan = Donating(region, nodes, units, context.groups, below).run()
    lines = loaded(context, w, nodes)
    block = Block(context, w, arrange(units, below), nodes, region.roots, guard_of, sources)
    written = block.write()
    lines += [Line(f"{name} = {text}") for text, name in w.lengths.items()] + written
    lines += returned(context, region, w)
    context.notes += context.plan.notes
    body = "\n".join(INDENT + line for line in render(lines, block.conditions))
    return "\n\n\n".join([*(kernel.text for kernel in context.kernels), f"def run(inputs):\n{body}"]) + "\n", w.constants


def every(nodes: Iterable[Node]) -> list[Node]:
    """The nodes with those of all loop bodies."""
    found: list[Node] = []
    for node in nodes:
        found.append(node)
        if node.body is not None:
            found += every(node.body.nodes())
    return found


def fused(context: Context, region: Region, w: Writer, donate: bool) -> list[Group]:
    """The kernels' groups. Afterwards `below` reads through what groups and sums absorb."""
    below = context.below
    for node in walk(region.roots, below):
        inner = absorbed(w, node)
        if inner is not None:
            below.replaced[node.id] = inner.inputs
    nodes = walk(region.roots, below)
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for operand in below(node):
            readers.setdefault(operand.id, []).append(node)
    grouping = Grouping(nodes, readers, guards(nodes, region.roots, below), w.is_host)
    names = {name for name, _ in region.results} if donate else set()
    found = [group for group in grouping.groups(below) if is_kernel(group, names)]
    context.notes += grouping.notes
    for group in found:
        own, first = group.ids, group.nodes[0]
        for node in group.nodes:
            below.replaced[node.id] = (*(b for b in node.inputs if b.id in own), *(group.operands if node is first else ()))
    return found


def is_kernel(group: Group, replaced: set[str]) -> bool:
    """A single operation is a kernel only where it may write in place."""
    work = sum(node.op != "stop" for node in group.nodes)
    return work > 1 or (work == 1 and any(o.op == "source" and label(o) in replaced for o in group.operands))


def units_of(context: Context, nodes: list[Node], found: list[Group], guard_of: dict[int, Guard]) -> list[Unit]:
    member = {node.id: group for group in found for node in group.nodes}

    def key(node: Node) -> object:
        group = member.get(node.id)
        return ("kernel", id(group)) if group is not None else shared_key(context, node)

    units = single_units(nodes, key, lambda node: "kernel" if node.id in member else shared_kind(node))
    for unit in units:
        unit.guard = shared_guard(unit.nodes, guard_of)
        if unit.kind == "kernel":
            context.groups[id(unit)] = member[unit.nodes[0].id]
    return units


def loaded(context: Context, w: Writer, nodes: list[Node]) -> list[Line]:
    """Every source under a name of its own."""
    taken: set[str] = set()
    lines = []
    overwritten = context.plan.sources
    for node in nodes:
        if node.op != "source":
            continue
        name = variable("_".join((node["kind"], *map(str, node["path"]))))
        while name in taken:
            name += "_"
        taken.add(name)
        w.names[node.id] = name
        key, base = f"inputs[{(node['kind'], *node['path'])!r}]", DTYPES[node.type.base]
        if w.is_host(node):
            lines.append(Line(f"{name} = number({key})"))
        elif node.id in overwritten:
            lines.append(Line(f"{name} = buffer({key}, {base}, device, {label(node)!r})"))
        else:
            lines.append(Line(f"{name} = load({key}, {base}, device)"))
    return lines


def returned(context: Context, region: Region, w: Writer) -> list[Line]:
    """Results by name. Those that share memory with a buffer that is replaced only now are copied before."""
    plan, lines, texts = context.plan, [], {}
    copied = {label(source): w.names[source.id] for pairs in plan.copied.values() for source, _ in pairs}
    for i, (name, node) in enumerate(region.results):
        texts[name] = copied.get(name) or w.tensor(node)
        if name in plan.cloned:
            lines.append(Line(f"r{i} = {texts[name]}.clone()"))
            texts[name] = f"r{i}"
    for name, source in plan.final.items():
        texts[name] = f"replace({w.names[source.id]}, {texts[name]})"
    entries = "".join(f"\n{INDENT * 2}{name!r}: {text}," for name, text in texts.items())
    return [*lines, Line(f"return {{{entries}\n{INDENT}}}" if entries else "return {}")]

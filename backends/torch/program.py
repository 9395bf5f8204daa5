"""One region as the text of one Python function `run(inputs)`, with the kernels that it calls before it.

Here it is decided what is computed together and in which order; how the statements look is in `blocks.py`. Sources are loaded first, then
every unit in the order of `schedule.py`, then results are put into the buffers they replace and handed back by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from gradflow.backends.torch.blocks import Block, Context, shared_key, shared_kind, single_units, writer_of
from gradflow.backends.torch.donate import Donating, shares
from gradflow.backends.torch.donate import name_of as label
from gradflow.backends.torch.emit import DTYPES, Writer, absorbed
from gradflow.backends.torch.fuse import LARGE, Group, Grouping
from gradflow.backends.torch.schedule import Guard, Unit, arrange, guards, needed, shared_guard, walk
from gradflow.backends.torch.sizes import pointers
from gradflow.backends.torch.statements import INDENT, Line, name_of, render, variable
from gradflow.graph.graph import Node, Region

MOVING = {"source", "element", "draw", "model", "model_vjp", "scan", "item", "choose", "hole"}  # what a value kept from run to run does not read
LARGEST = 1 << 22  # entries that are worth keeping


def write_program(region: Region, context: Context, optimize: bool, donate: bool) -> tuple[str, dict[str, object]]:
    """The source, and the objects that it refers to by name because they have no literal."""
    below = context.below
    nodes = walk(region.roots, below)
    context.calls.collect(every(nodes))
    sources = [node for node in nodes if node.op == "source"]
    w = writer_of(context, nodes, region, None, sources)
    w.plain, w.pointers = not optimize, pointers(sources)
    hoisted = static(context, region, w) if optimize else []
    found = fused(context, region, w, donate) if optimize else []
    nodes = walk(region.roots, below)
    nodes, guard_of = needed(nodes, region.roots, below)
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
    parts = [*(kernel.text for kernel in context.kernels), *once(context, hoisted), f"def run(inputs):\n{body}"]
    return "\n\n\n".join(parts) + "\n", w.constants


def every(nodes: Iterable[Node]) -> list[Node]:
    """The nodes with those of all loop bodies."""
    found: list[Node] = []
    for node in nodes:
        found.append(node)
        if node.body is not None:
            found += every(node.body.nodes())
    return found


def static(context: Context, region: Region, w: Writer) -> list[Node]:
    """Tensors made of constants alone (a cosine basis, say) that are worked out once and kept. Not those that a result may share memory with,
    nor long repetitions of one number."""
    below = context.below
    nodes = walk(region.roots, below)
    moving: set[int] = set()
    for node in nodes:
        unknown = any(axis.size is None for axis in node.type.axes)
        if node.op in MOVING or unknown or any(b.id in moving for b in below(node)):
            moving.add(node.id)
    barred = {root.id for root in region.roots}
    for node in nodes:
        if node.id in moving and shares(node):
            barred |= {b.id for b in below(node)}
    asked = {b.id: b for node in nodes if node.id in moving for b in below(node) if b.id not in moving}
    found = [
        node for node in asked.values() if node.id not in barred and node.op not in ("const", "axis_size") and not w.is_host(node) and kept(node)
    ]
    for node in found:
        below.replaced[node.id] = ()
        context.static.add(node.id)
        w.names[node.id] = name_of(node)
    return found


def kept(node: Node) -> bool:
    count = 1
    for axis in node.type.axes:
        count *= axis.size or 0
    return count <= (LARGE if node.op == "expand" else LARGEST)


def once(context: Context, hoisted: list[Node]) -> list[str]:
    """The function that works out what is kept, and its call."""
    if not hoisted:
        return []
    region = Region(tuple((str(i), node) for i, node in enumerate(hoisted)))
    own = Context(context.calls, context.mode, context.itemsize)
    nodes = walk(region.roots, own.below)
    w = writer_of(own, nodes, region, None, [])
    w.plain = True
    block = Block(own, w, arrange(units_of(own, nodes, [], guards(nodes, region.roots, own.below)), own.below), nodes, region.roots, {}, [])
    names = ", ".join(name_of(node) for node in hoisted)
    lines = render([*block.write(), Line(f"return {', '.join(w.ref(node) for node in hoisted)},")], block.conditions)
    return ["def once():\n" + "\n".join(INDENT + line for line in lines), f"{names}, = once()"]


def fused(context: Context, region: Region, w: Writer, donate: bool) -> list[Group]:
    """The kernels' groups. Afterwards `below` reads through what groups and sums absorb."""
    below = context.below
    for node in walk(region.roots, below):
        inner = absorbed(w, node)
        if inner is not None:
            below.replaced[node.id] = inner.inputs
    nodes, guard_of = needed(walk(region.roots, below), region.roots, below)
    readers: dict[int, list[Node]] = {}
    for node in nodes:
        for operand in below(node):
            readers.setdefault(operand.id, []).append(node)
    grouping = Grouping(nodes, readers, guard_of, w.is_host, context.static)
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

    units = single_units([n for n in nodes if n.id not in context.static], key, lambda node: "kernel" if node.id in member else shared_kind(node))
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
    for i, (name, node) in enumerate(region.results):
        texts[name] = w.names[plan.placed[name].id] if name in plan.placed else w.tensor(node)
        if name in plan.cloned:
            lines.append(Line(f"r{i} = {texts[name]}.clone()"))
            texts[name] = f"r{i}"
    for name, source in plan.final.items():
        texts[name] = f"replace({w.names[source.id]}, {texts[name]})"
    entries = "".join(f"\n{INDENT * 2}{name!r}: {text}," for name, text in texts.items())
    return [*lines, Line(f"return {{{entries}\n{INDENT}}}" if entries else "return {}")]

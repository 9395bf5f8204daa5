"""The source of one fused kernel: a function that goes over its operands once.

Three forms of the same steps. *Blocked*, on a CPU: flat memory in blocks that stay in the cache from the first call to the last, so that main
memory sees every operand once; numbers (also those that differ by row) are Python numbers. *Whole*, on other devices without compilation: the
same calls on whole tensors. *Compiled*: plain expressions under torch.compile, host numbers passed as 0-d tensors so that a new value does
not compile anew. Each returns the results that were given no buffer; the others overwrite theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradflow.backends.torch import emit
from gradflow.backends.torch.emit import DTYPES, Writer, aligned
from gradflow.backends.torch.fuse import Group, form, source_of
from gradflow.backends.torch.instructions import Selector, Step
from gradflow.backends.torch.memory import Layout, plan
from gradflow.graph.graph import Node

SMALLEST, GREATEST = 1 << 15, 1 << 20  # entries of a block: enough work for one call, few enough for any cache
NEAR = 8 << 20  # bytes that lie near the cores while a block is worked on: a part of the last cache


def block_entries(arrays: int, itemsize: int) -> int:
    """How many entries a block has: as many as let `arrays` blocks lie near the cores."""
    entries = max(NEAR // max(arrays * itemsize, 1), 1)
    return min(max(1 << (entries.bit_length() - 1), SMALLEST), GREATEST)


@dataclass
class Kernel:
    """One group as source. `results` are the values that it returns, in order; `written` maps its values to the inputs whose buffers take them;
    `copied` are (input to overwrite, value to take) pairs, `same` the values that may be the memory of an input, by its id."""

    name: str
    group: Group
    results: list[Node]
    written: dict[int, Node] = field(default_factory=dict)
    copied: list[tuple[Node, Node]] = field(default_factory=list)
    same: dict[int, set[int]] = field(default_factory=dict)
    text: str = ""
    arguments: list[Node] = field(default_factory=list)

    @property
    def reads(self) -> list[Node]:
        targets = [*self.written.values(), *(target for target, _ in self.copied)]
        return list({n.id: n for n in (*self.group.operands, *targets)}.values())


class KernelWriter:
    """Writes one kernel. `w` is the caller's writer: it knows which operands are Python numbers there."""

    def __init__(self, kernel: Kernel, w: Writer, mode: str, itemsize: int):
        self.kernel, self.group, self.w, self.mode, self.itemsize = kernel, kernel.group, w, mode, itemsize
        self.names = {node.id: w.ref(node) for node in kernel.reads}
        self.form = {node.id: "host" if w.is_host(node) else form(node, self.group.names) for node in kernel.reads}
        kernel.arguments = list({self.names[node.id]: node for node in kernel.reads}.values())  # two values may be one by now
        forms = {f for f in self.form.values()}
        self.rows = len(self.group.names) > 1 and bool(forms & {"rows", "last"})

    def write(self) -> str:
        body = self.compiled() if self.mode == "compiled" else self.whole() if self.mode == "whole" else self.blocked()
        arguments = ", ".join(self.names[node.id] for node in self.kernel.arguments)
        lines = [f"def {self.kernel.name}({arguments}):", f'    """{self.summary()}"""', *(f"    {line}" for line in body)]
        self.kernel.text = "\n".join(lines)
        return self.kernel.text

    def summary(self) -> str:
        axes = ", ".join(self.group.names)
        big = [self.names[n.id] for n in self.kernel.arguments if self.form[n.id] in ("full", "last")]
        made = [f"{self.names[target.id]}" for target in [*self.kernel.written.values(), *(t for t, _ in self.kernel.copied)]]
        made += [f"new {node.op}" for node in self.kernel.results]
        return f"{len(self.group.nodes)} operations on [{axes}] in one pass: reads {_listed(big)}; writes {_listed(made)}"

    # ---- the calls with out=

    def layout(self, numbers: set[str], view: dict[int, str]) -> tuple[Layout, list[tuple[str, str]]]:
        """Steps with their memory, and what has to be worked out before them. `numbers`: forms that are Python numbers here."""
        outputs = {node.id for node in self.kernel.results} | set(self.kernel.written)
        selector = Selector(self.group, outputs, lambda n: n.op == "const" or self.form.get(n.id) in numbers, lambda n: view[n.id])
        steps = selector.select(self.group.nodes)
        places = {
            node.id: self.buffer(self.names[target.id]) for node in self.group.nodes if (target := self.kernel.written.get(node.id)) is not None
        }
        buffers = {i: self.memory(target) for i, target in self.kernel.written.items()}
        places |= {node.id: self.buffer(f"new{i}") for i, node in enumerate(self.kernel.results)}
        for i, (target, value) in enumerate(self.kernel.copied):
            fresh = -(1 << 30) - i
            steps.append(Step("{out}.copy_({0})", (value.id,), fresh, target.type.base))
            places[fresh], buffers[fresh] = self.buffer(self.names[target.id]), self.memory(target)
        found = plan(steps, view, places, buffers)
        return found, [(name, text) for text, name in selector.prologue.items()]

    def memory(self, target: Node) -> frozenset[int]:
        """The operands that may lie in the memory of one that is overwritten."""
        same = {i for i, name in self.names.items() if name == self.names[target.id]}
        return frozenset(same | (self.kernel.same.get(target.id, set()) & set(self.names)))

    def buffer(self, name: str) -> str:
        return f"{name}_b" if self.mode == "blocked" else name

    def fresh(self, like: str) -> list[str]:
        return [f"new{i} = fresh({like}, {DTYPES[node.type.base]})" for i, node in enumerate(self.kernel.results)]

    def first_full(self) -> str:
        return next(self.names[n.id] for n in self.kernel.arguments if self.form[n.id] == "full")

    def blocked(self) -> list[str]:
        """Blocks of flat memory; where operands differ by row or are shared by rows, row by row."""
        view = {
            i: f"{name}_b" if self.form[i] in ("full", "last") else f"{name}_r" if self.form[i] == "rows" else name for i, name in self.names.items()
        }
        found, before = self.layout({"host", "scalar", "rows"}, view)
        streams = [node for node in self.kernel.arguments if self.form[node.id] in ("full", "last")]
        size = block_entries(len(streams) + len(self.kernel.results) + len(found.scratch), self.itemsize)
        lines = [*self.fresh(self.first_full())]
        lines += [f"{self.names[n.id]} = {self.names[n.id]}.item()" for n in self.kernel.arguments if self.form[n.id] == "scalar"]
        by_row = {f"{self.names[n.id]}_r" for n in self.kernel.arguments if self.form[n.id] == "rows"}
        early = [(name, text) for name, text in before if not by_row & set(re.findall(r"\w+", text))]
        lines += [f"{name} = {text}" for name, text in early]
        outer, sliced = self.row_loop(streams)
        lines += outer
        inner = [f"{name} = {text}" for name, text in before if (name, text) not in early]
        wide = [f"{name}_b" for name in (*(self.names[n.id] for n in streams), *(f"new{i}" for i in range(len(self.kernel.results))))]
        inner.append(f"for {', '.join(wide)}{',' if len(wide) == 1 else ''} in blocks({size}, {', '.join(sliced)}):")
        if found.scratch:
            parts = ", ".join(f"scratch({i}, {DTYPES[base]}, {wide[0]}, {size})" for i, base in enumerate(found.scratch.values()))
            inner.append(f"    {', '.join(found.scratch)} = {parts}")
        inner += [f"    {line}" for line in found.lines()]
        lines += [f"    {line}" for line in inner] if self.rows else inner
        return [*lines, *self.returned()]

    def row_loop(self, streams: list[Node]) -> tuple[list[str], list[str]]:
        """The head of the loop over rows, and the flat memory that each row's blocks are cut from."""
        new = [f"new{i}" for i in range(len(self.kernel.results))]
        names = [self.names[n.id] for n in streams]
        if not self.rows:
            return [], [f"{name}.reshape(-1)" for name in (*names, *new)]
        first, last = self.first_full(), len(self.group.names) - 1
        lines = []
        for node in self.kernel.arguments:
            if self.form[node.id] == "rows":
                text = aligned(self.names[node.id], node.type.names, self.group.names[:-1])
                lines.append(f"{self.names[node.id]}_rows = {text}.expand({first}.shape[:{last}]).reshape(-1).tolist()")
        wide = [name for name, node in zip(names, streams, strict=True) if self.form[node.id] == "full"] + new
        lines += [f"{name}_rows = {name}.reshape(-1, {name}.shape[-1])" for name in wide]
        lines.append(f"for row in range({wide[0]}_rows.shape[0]):")
        lines += [f"    {self.names[n.id]}_r = {self.names[n.id]}_rows[row]" for n in self.kernel.arguments if self.form[n.id] == "rows"]
        return lines, [f"{name}_rows[row]" if name in wide else name for name in (*names, *new)]

    def whole(self) -> list[str]:
        """The same calls on whole tensors; smaller operands are repeated without being copied."""
        view = {i: name if self.form[i] in ("full", "host") else f"{name}_w" for i, name in self.names.items()}
        found, before = self.layout({"host"}, view)
        first = self.first_full()
        lines = self.fresh(first)
        for node in self.kernel.arguments:
            if self.form[node.id] not in ("full", "host"):
                text = aligned(self.names[node.id], node.type.names, self.group.names)
                lines.append(f"{view[node.id]} = {text}.expand({first}.shape)")
        lines += [f"{name} = {text}" for name, text in before]
        lines += [f"{name} = fresh({first}, {DTYPES[base]})" for name, base in found.scratch.items()]
        return [*lines, *found.lines(), *self.returned()]

    def returned(self) -> list[str]:
        if not self.kernel.results:
            return []
        return [f"return {', '.join(f'new{i}' for i in range(len(self.kernel.results)))}"]

    # ---- expressions under torch.compile

    def compiled(self) -> list[str]:
        w = Writer({}, (), {})
        w.names.update(self.names)
        lines = []
        through = _Through(w, self.group)
        for node in self.group.nodes:
            text = (emit.where if node.op == "where" else emit.elementwise)(through, node)
            w.names[node.id] = f"v{node.id}"
            lines.append(f"v{node.id} = {text}")
        lines += [f"{self.names[target.id]}_next = {w.names[value.id]}.clone()" for target, value in self.kernel.copied]
        lines += [f"{self.names[target.id]}.copy_({w.names[i]})" for i, target in self.kernel.written.items()]
        lines += [f"{self.names[target.id]}.copy_({self.names[target.id]}_next)" for target, _ in self.kernel.copied]
        if self.kernel.results:
            lines.append(f"return {', '.join(w.names[node.id] for node in self.kernel.results)}")
        return lines

    def call(self) -> str:
        """The call's text in the caller."""
        given = []
        for node in self.kernel.arguments:
            scalar = self.mode == "compiled" and self.form[node.id] == "host"
            given.append(self.w.tensor(node) if scalar else self.w.ref(node))
        results = ", ".join(f"v{node.id}_{node.op}" for node in self.kernel.results)
        return f"{results}{' = ' if results else ''}{self.kernel.name}({', '.join(given)})"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


class _Through(Writer):
    """A writer that reads an operand which merely repeats a smaller value as that smaller value."""

    def __init__(self, inner: Writer, group: Group):
        super().__init__({}, (), {})
        self.names, self.group, self.own = inner.names, group, group.ids

    def _origin(self, node: Node) -> Node:
        return node if node.id in self.own else source_of(node, self.group.names)

    def is_host(self, node: Node) -> bool:
        return self._origin(node).op == "const"

    def ref(self, node: Node) -> str:
        return super().ref(self._origin(node))

    def align(self, node: Node, names: Sequence[str], base: str | None = None) -> str:
        return super().align(self._origin(node), names, base)

"""Where each value of a kernel lies: in an input, in an output, or in scratch that is used again as soon as it can be.

Steps are first put in an order in which the old value of a buffer is read before the new one is written, as far as they allow it; a new
value whose old one is needed later is made in scratch and moved at the end. Scratch is handed out by one scan over the steps, a value may
take the place of an operand that nothing reads afterwards (elementwise calls allow it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradflow.backends.torch.instructions import Step


@dataclass
class Layout:
    """`place`: value -> name of its memory; `scratch`: name -> type; `steps` in the order in which they run."""

    steps: list[Step]
    place: dict[int, str] = field(default_factory=dict)
    scratch: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        return [step.template.format(*(self.place[v] for v in step.operands), out=self.place[step.out]) for step in self.steps]


Buffers = Mapping[int, frozenset[int]]


def plan(steps: list[Step], inputs: Mapping[int, str], outputs: Mapping[int, str], buffers: Buffers) -> Layout:
    """`inputs`: names of the values from outside; `outputs`: value -> memory that it must end in; `buffers`: output -> the inputs that lie, or
    may lie, in that memory."""
    steps = _ordered(steps, buffers)
    last = _last_reads(steps)
    moved: list[Step] = []
    early: dict[int, int] = {}
    for i, step in enumerate(steps):
        if any(last.get(old, -1) > i for old in buffers.get(step.out, ())):  # the old value is read after the new one is there
            moved.append(Step("{out}.copy_({0})", (step.out,), -(1 << 20) - step.out, step.base))
            early[step.out] = moved[-1].out
    outputs = {early.get(value, value): name for value, name in outputs.items()}
    buffers = {early.get(value, value): old for value, old in buffers.items()}
    layout = Layout([*steps, *moved])
    layout.place.update(inputs)
    layout.place.update(outputs)
    _assign(layout, outputs, buffers)
    return layout


def _last_reads(steps: list[Step]) -> dict[int, int]:
    return {value: i for i, step in enumerate(steps) for value in step.operands}


def _ordered(steps: list[Step], buffers: Buffers) -> list[Step]:
    """The steps with readers of an old value before the writer of the new one, wherever that is no contradiction."""
    maker = {step.out: i for i, step in enumerate(steps)}
    before: list[set[int]] = [{maker[v] for v in step.operands if v in maker} for step in steps]
    for new, olds in buffers.items():
        if new not in maker:
            continue
        writer = maker[new]
        readers = {i for i, step in enumerate(steps) if olds & set(step.operands) and i != writer}
        if not any(_leads(writer, reader, before) for reader in readers):
            before[writer] |= readers
    done: list[int] = []
    ready: set[int] = set()
    waiting = list(range(len(steps)))
    while waiting:
        i = next(i for i in waiting if before[i] <= ready)
        waiting.remove(i)
        done.append(i)
        ready.add(i)
    return [steps[i] for i in done]


def _leads(start: int, goal: int, before: list[set[int]]) -> bool:
    """Whether step `goal` has to come after step `start`."""
    seen: set[int] = set()
    stack = [goal]
    while stack:
        i = stack.pop()
        if i == start:
            return True
        stack.extend(before[i] - seen)
        seen |= before[i]
    return False


def _assign(layout: Layout, outputs: Mapping[int, str], buffers: Buffers) -> None:
    last = _last_reads(layout.steps)
    wished = _wishes(layout.steps, outputs, buffers, last)
    free: dict[str, list[str]] = {}
    count = 0
    for i, step in enumerate(layout.steps):
        for value in set(step.operands):
            name = layout.place[value]
            if last[value] == i and name in layout.scratch:
                free.setdefault(layout.scratch[name], []).append(name)
        if step.out in layout.place:
            continue
        if step.out in wished:
            layout.place[step.out] = wished[step.out]
        elif free.get(step.base):
            layout.place[step.out] = free[step.base].pop()
        else:
            count += 1
            layout.place[step.out] = f"s{count}"
            layout.scratch[f"s{count}"] = step.base


def _wishes(steps: list[Step], outputs: Mapping[int, str], buffers: Buffers, last: Mapping[int, int]) -> dict[int, str]:
    """Intermediate results that may be made in the memory of the output they go into: its old value must be dead by then."""
    made = {step.out: i for i, step in enumerate(steps)}
    found: dict[int, str] = {}
    for out, name in outputs.items():
        at = made.get(out)
        while at is not None:
            step = steps[at]
            at = None
            for value in step.operands:
                start = made.get(value)
                if start is None or value in outputs or value in found or last[value] != made[step.out] or steps[start].base != step.base:
                    continue
                if all(last.get(old, -1) <= start for old in buffers.get(out, ())):
                    found[value] = name
                    at = start
                    break
    return found

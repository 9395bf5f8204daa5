"""In which order nodes are computed, and under which conditions.

A *unit* is what one statement of the generated source computes: a node, a group that is fused into one kernel, or the nodes that share one
call (the outputs of a model's method, the factors of one decomposition). A *guard* is the set of (condition, outcome) under which a unit is
needed: what only one branch of a lazy choice reads is computed only there. Guards are sets and not places in a tree, so several choices on
one condition share one `if`.

Loop bodies: a node of a body that does not depend on the loop's parameters is computed once, outside (`below` counts it as an operand of
the loop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gradflow.graph.graph import Node, Region

Guard = frozenset[tuple[int, bool]]
ALWAYS: Guard = frozenset()


@dataclass(eq=False)
class Unit:
    """`after`: units that must come first although they hand nothing over (readers of memory that this one overwrites)."""

    nodes: list[Node]
    kind: str = "node"
    after: list[Unit] = field(default_factory=list)
    guard: Guard = ALWAYS

    @property
    def place(self) -> int:
        return self.nodes[-1].id

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(f'%{n.id}' for n in self.nodes)})"


class Operands:
    """What a node reads, loop-invariant parts of its body included. `replaced` says it anew for some nodes, `added` adds to it."""

    def __init__(self) -> None:
        self._free: dict[int, tuple[Node, ...]] = {}
        self.replaced: dict[int, tuple[Node, ...]] = {}
        self.added: dict[int, tuple[Node, ...]] = {}

    def __call__(self, node: Node) -> tuple[Node, ...]:
        taken = settled(node)
        if taken is not None:
            return (taken,)
        read = (*self.replaced.get(node.id, node.inputs), *self.added.get(node.id, ()))
        return read if node.body is None else (*read, *self.free(node.body))

    def free(self, body: Region) -> tuple[Node, ...]:
        """The nodes of a body that its own computation reads but that do not depend on its parameters."""
        known = self._free.get(id(body))
        if known is None:
            own = {p.id for p in body.parameters}
            inside: set[int] = set()
            found: dict[int, Node] = {}
            for node in walk(body.roots, self):
                if node.id in own or any(below.id in inside for below in self(node)):
                    inside.add(node.id)
                    found.update({below.id: below for below in self(node) if below.id not in inside and below.op != "const"})
            found.update({root.id: root for root in body.roots if root.id not in inside and root.op != "const"})
            known = self._free[id(body)] = tuple(found.values())
        return known


def settled(node: Node) -> Node | None:
    """The branch of a lazy choice whose condition is a constant; None for all else."""
    if node.op != "choose" or node.inputs[0].op != "const":
        return None
    return node.inputs[1 if node.inputs[0]["value"] else 2]


def walk(roots: Iterable[Node], below: Callable[[Node], tuple[Node, ...]]) -> list[Node]:
    """All nodes under the roots, operands before users."""
    done: dict[int, Node] = {}
    for root in roots:
        stack: list[tuple[Node, Iterator[Node]]] = [] if root.id in done else [(root, iter(below(root)))]
        while stack:
            node, rest = stack[-1]
            for operand in rest:
                if operand.id not in done:
                    stack.append((operand, iter(below(operand))))
                    break
            else:
                done[node.id] = node
                stack.pop()
    return list(done.values())


def guards(nodes: list[Node], roots: Iterable[Node], below: Callable[[Node], tuple[Node, ...]]) -> dict[int, Guard]:
    """For each node the conditions under which something needs it; nodes in the order operands before users.

    A node that only an impossible branch reads (a choice inside the other side of the same choice) is left out.
    """
    wanted: dict[int, Guard | None] = {node.id: None for node in nodes}

    def need(node: Node, guard: Guard) -> None:
        known = wanted.get(node.id)
        wanted[node.id] = guard if known is None else known & guard

    for root in roots:
        need(root, ALWAYS)
    for node in reversed(nodes):
        guard = wanted[node.id]
        if guard is None:
            continue
        if node.op != "choose" or len(below(node)) == 1:
            for operand in below(node):
                need(operand, guard)
            continue
        condition, *branches = node.inputs
        need(condition, guard)
        for outcome, branch in zip((True, False), branches, strict=True):
            if (condition.id, not outcome) not in guard:
                need(branch, guard | {(condition.id, outcome)})
    return {i: guard for i, guard in wanted.items() if guard is not None}


def needed(nodes: list[Node], roots: Iterable[Node], below: Operands) -> tuple[list[Node], dict[int, Guard]]:
    """The nodes that something needs, with their guards. A choice that a guard has decided reads only its one branch from then on."""
    roots = list(roots)
    while True:
        guard_of = guards(nodes, roots, below)
        decided = False
        for node in nodes:
            if node.op == "choose" and node.id in guard_of and len(below.replaced.get(node.id, node.inputs)) == 3:
                outcome = next((o for c, o in guard_of[node.id] if c == node.inputs[0].id), None)
                if outcome is not None:
                    below.replaced[node.id] = (node.inputs[1 if outcome else 2],)
                    decided = True
        nodes = [node for node in nodes if node.id in guard_of]
        if not decided:
            return nodes, guard_of


def shared_guard(nodes: Iterable[Node], guard_of: Mapping[int, Guard]) -> Guard:
    """The guard of nodes that are computed together."""
    found: Guard | None = None
    for node in nodes:
        found = guard_of[node.id] if found is None else found & guard_of[node.id]
    return found or ALWAYS


def arrange(units: list[Unit], below: Callable[[Node], tuple[Node, ...]]) -> list[Unit]:
    """The units in an order that hands everything over in time and keeps what stands under one guard together.

    Units without a guard go as early as they can, in their own order; a guarded run is opened when nothing else is ready, and stays open
    until nothing of its kind is.
    """
    waiting, users = _dependencies(units, below)
    ready = [unit for unit in units if not waiting[id(unit)]]
    order = {id(unit): i for i, unit in enumerate(units)}
    done: list[Unit] = []
    current = ALWAYS
    while ready:
        unit = min(ready, key=lambda u: (_urgency(u, current), order[id(u)]))
        ready.remove(unit)
        done.append(unit)
        current = unit.guard
        for user in users[id(unit)]:
            waiting[id(user)].discard(id(unit))
            if not waiting[id(user)]:
                ready.append(user)
    if len(done) != len(units):
        raise AssertionError("units depend on one another in a circle")
    return done


def _urgency(unit: Unit, current: Guard) -> int:
    """Smaller is sooner: work without a guard, then the run that is open, then its nearest neighbors; choices when their branches are complete."""
    if unit.nodes[-1].op == "choose":
        return 1 << 16
    return 1 + len(unit.guard ^ current) if unit.guard else 0


def _dependencies(units: list[Unit], below: Callable[[Node], tuple[Node, ...]]) -> tuple[dict[int, set[int]], dict[int, list[Unit]]]:
    owner = {node.id: unit for unit in units for node in unit.nodes}
    waiting: dict[int, set[int]] = {id(unit): set() for unit in units}
    users: dict[int, list[Unit]] = {id(unit): [] for unit in units}
    for unit in units:
        sources = [owner[o.id] for node in unit.nodes for o in below(node) if o.id in owner]
        sources += [owner[condition] for condition, _ in unit.guard if condition in owner]
        for source in (*sources, *unit.after):
            if source is not unit and id(source) not in waiting[id(unit)]:
                waiting[id(unit)].add(id(source))
                users[id(source)].append(unit)
    return waiting, users


def successors(units: list[Unit], below: Callable[[Node], tuple[Node, ...]]) -> dict[int, list[Unit]]:
    """Which units come directly after each, by identity."""
    return _dependencies(units, below)[1]


def reaches(start: Unit, goal: Unit, users: Mapping[int, list[Unit]]) -> bool:
    """Whether `goal` comes after `start` in any order."""
    seen: set[int] = set()
    stack = [start]
    while stack:
        unit = stack.pop()
        if unit is goal:
            return True
        for user in users[id(unit)]:
            if id(user) not in seen:
                seen.add(id(user))
                stack.append(user)
    return False

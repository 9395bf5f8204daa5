"""Which elementwise operations become one kernel: maximal groups over the same large axes, and the reasons where a group ends.

A group has one key (axes in order, guard) and one level. The level of a node counts how often the way to it has left a group, so a group is
never entered a second time and no two groups wait for each other. What only later groups read moves down to them: its result then need not be
kept in memory. An operand that merely repeats a smaller value (`expand`) is read as that smaller value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gradflow.backends.torch import templates
from gradflow.backends.torch.schedule import Guard
from gradflow.graph.graph import Node
from gradflow.graph.operations import ELEMENTWISE
from gradflow.graph.types import Axis
from gradflow.language.source import NOWHERE, Span

LARGE = 1 << 16  # entries from which a pass over memory is worth saving, where the size is known
SHORT = 1 << 12  # rows shorter than this are not worth a loop of their own

VIEWS = {"rename", "expand", "leaf", "slice", "item"}  # do not themselves need a whole value
Key = tuple[tuple[Axis, ...], Guard]


@dataclass(frozen=True)
class FusionNote:
    """One fusion that happened, or did not, and why. `what` names the kernel or the operation."""

    fused: bool
    what: str
    reason: str
    span: Span = NOWHERE

    def __str__(self) -> str:
        return f"{self.span}: {self.what}: {self.reason}"


@dataclass(eq=False)
class Group:
    """Nodes of one kernel, operands before users. `operands` are the values that it reads from outside."""

    nodes: list[Node]
    names: tuple[str, ...]
    guard: Guard
    operands: list[Node] = field(default_factory=list)

    @property
    def ids(self) -> set[int]:
        return {node.id for node in self.nodes}


# ---- what may be part of a kernel


def large(node: Node) -> bool:
    count = 1
    for axis in node.type.axes:
        count *= axis.size or 1
    return bool(node.type.axes) and (node.type.has("param") or count >= LARGE)


def source_of(node: Node, names: tuple[str, ...]) -> Node:
    """The value that an operand repeats, where the kernel can repeat it itself."""
    while node.op == "expand" and (form(node.inputs[0], names) not in ("", "full") or node.inputs[0].type.names == node.type.names):
        node = node.inputs[0]
    return node


def form(node: Node, names: tuple[str, ...]) -> str:
    """How an operand lies to the kernel's axes: full, last (only the last axis), rows (some of the others), scalar; "" for none of these."""
    own = node.type.names
    if own == names:
        return "full"
    if not own:
        return "scalar"
    if own == names[-1:]:
        return "last"
    lead = tuple(n for n in names[:-1] if n in own)
    return "rows" if lead == own else ""


def refusal(node: Node, host: Callable[[Node], bool]) -> str | None:
    """Why an elementwise node on large axes cannot be part of a kernel; None if it can."""
    if templates.CALLS.get(node.op, ()) is None:
        return f"`{node.op}` has no form that writes into given memory"
    for below in node.inputs:
        if form(source_of(below, node.type.names), node.type.names) == "":
            return f"an operand has the axes [{', '.join(below.type.names)}] in an order that does not fit [{', '.join(node.type.names)}]"
    bases = [below.type.base for below in node.inputs if not host(below)]
    if node.op == "where" and node.inputs[0].type.base != "bool" or node.op in templates.LOGIC and set(bases) - {"bool"}:
        return "a number stands for a truth value"
    rest = bases[1:] if node.op == "where" and not host(node.inputs[0]) else bases
    plain = node.op not in templates.COMPARISONS and node.op not in templates.TO_WHOLE
    if plain and node.type.base != "real" and set(rest) - {node.type.base}:
        return f"{node.type.base} arithmetic on other types"
    if node.op in templates.TO_WHOLE and node.inputs[0].type.base != "real":
        return "it is whole already"
    return None


# ---- groups


class Grouping:
    """Finds the groups among the nodes of a region; `skip` are there already."""

    def __init__(
        self, nodes: list[Node], users: Mapping[int, list[Node]], guard_of: Mapping[int, Guard], host: Callable[[Node], bool], skip: set[int]
    ):
        self.nodes, self.users, self.host = nodes, users, host
        self.notes: list[FusionNote] = []
        self.key: dict[int, Key] = {}
        self.level: dict[int, int] = {}
        self.cause: dict[int, Node] = {}
        for node in nodes:
            if node.id not in skip and (node.op in ELEMENTWISE or node.op == "where") and not host(node) and large(node):
                reason = refusal(node, host)
                if reason is None:
                    self.key[node.id] = node.type.axes, guard_of[node.id]
                else:
                    self.notes.append(FusionNote(False, node.op, reason, node.span))

    def groups(self, below: Callable[[Node], tuple[Node, ...]]) -> list[Group]:
        self._levels(below)
        self._sink()
        found: dict[tuple[Key, int], Group] = {}
        for node in self.nodes:
            if node.id in self.key:
                group = Group([], node.type.names, self.key[node.id][1])
                found.setdefault((self.key[node.id], self.level[node.id]), group).nodes.append(node)
        seen: set[Key] = set()
        for (key, _), group in sorted(found.items(), key=lambda item: item[0][1]):
            group.operands = operands(group, self.host)
            if key in seen:
                self._explain(group)
            seen.add(key)
        return [group for group in found.values() if self._worth(group)]

    def _levels(self, below: Callable[[Node], tuple[Node, ...]]) -> None:
        """`level` of a node in no group: that of the first group that may read it. `cause`: the operation that ended a group on the way."""
        by_id = {node.id: node for node in self.nodes}
        for node in self.nodes:
            own = self.key.get(node.id)
            conditions = [by_id[c] for c, _ in own[1] if c in by_id] if own else []
            highest, cause = 0, None
            for operand in (*below(node), *conditions):
                if operand.id not in self.level:
                    continue
                level, why = self.level[operand.id], self.cause.get(operand.id)
                if operand.id in self.key and self.key[operand.id] != own:
                    level, why = level + 1, operand if own else node
                elif own is None and why is not None and (why.op in VIEWS or why.op in ELEMENTWISE):
                    why = node  # the first on the way that needs a whole value
                if level > highest:
                    highest, cause = level, why
            self.level[node.id] = highest
            if cause is not None:
                self.cause[node.id] = cause

    def _sink(self) -> None:
        """Moves a node to the first group that reads it, or to the last of its key where none does, so that its value need not wait in memory."""
        last: dict[Key, int] = {}
        for i, own in self.key.items():
            last[own] = max(last.get(own, 0), self.level[i])
        for node in reversed(self.nodes):
            key = self.key.get(node.id)
            if key is None:
                continue
            readers = self.users.get(node.id, [])
            if all(self.key.get(reader.id) == key for reader in readers):
                self.level[node.id] = min((self.level[reader.id] for reader in readers), default=last[key])

    def _worth(self, group: Group) -> bool:
        work = [node for node in group.nodes if node.op != "stop"]
        forms = {form(operand, group.names) for operand in group.operands}
        if "full" not in forms:
            self.notes.append(FusionNote(False, _listed(group), "no operand has all axes; the size is not at hand", group.nodes[0].span))
            return False
        size = group.nodes[0].type.axes[-1].size
        if forms & {"rows", "last"} and len(group.names) > 1 and size is not None and size < SHORT:
            reason = f"its operands have different axes and rows of [{group.names[-1]}] have only {size} entries"
            self.notes.append(FusionNote(False, _listed(group), reason, group.nodes[0].span))
            return False
        return bool(work)

    def _explain(self, group: Group) -> None:
        """Says what stands between this group and an earlier one on the same axes."""
        first = next((node for node in group.nodes if node.id in self.cause), None)
        if first is None:
            return
        cause = self.cause[first.id]
        why = "needs whole values"
        if cause.id in self.key:
            same = cause.type.names == group.names
            why = "is computed under another condition" if same else f"has the axes [{', '.join(cause.type.names)}]"
        reason = f"reads `{cause.op}` ({cause.span}), which {why}, so what comes before on [{', '.join(group.names)}] is a pass of its own"
        self.notes.append(FusionNote(False, _listed(group), reason, first.span))


def operands(group: Group, host: Callable[[Node], bool]) -> list[Node]:
    """What a group reads from outside, constants left out."""
    own = group.ids
    found: dict[int, Node] = {}
    for node in group.nodes:
        for below in node.inputs:
            origin = source_of(below, group.names) if below.id not in own else below
            if origin.id not in own and origin.op != "const":
                found[origin.id] = origin
    return list(found.values())


def _listed(group: Group) -> str:
    ops = list(dict.fromkeys(node.op for node in group.nodes))
    return ", ".join(ops[:6]) + (", .." if len(ops) > 6 else "")

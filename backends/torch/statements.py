"""Lines of source: what each unit becomes, which lines stand under which condition, and where memory is given back."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gradflow.backends.torch.calls import call_key
from gradflow.backends.torch.emit import Writer
from gradflow.backends.torch.fuse import LARGE
from gradflow.backends.torch.schedule import ALWAYS, Guard, Unit
from gradflow.graph.graph import Node
from gradflow.language.source import NOWHERE, Span

INDENT = "    "


@dataclass
class Line:
    """One statement under a guard. `needs`: the one name that it reads, if it may stand anywhere after that is there."""

    text: str
    guard: Guard = ALWAYS
    span: Span = NOWHERE
    needs: str | None = None


def append(lines: list[Line], line: Line) -> None:
    """Adds a line; one that may stand earlier joins the last run of lines under its guard."""
    place = len(lines)
    if line.needs is not None:
        for i in range(len(lines) - 1, -1, -1):
            if lines[i].guard == line.guard:
                place = i + 1
                break
            if line.needs and re.search(rf"\b{line.needs}\b", lines[i].text.split(" = ")[0]):
                break
    lines.insert(place, line)


# ---- names


def variable(text: str) -> str:
    """A Python name that reads like the text."""
    name = re.sub(r"\W+", "_", text).strip("_") or "value"
    return f"{name}_" if keyword.iskeyword(name) or name[0].isdigit() or name in RESERVED else name


RESERVED = {"inputs", "models", "real", "device", "torch", "math", "run", "row"}


def name_of(node: Node) -> str:
    return f"v{node.id}_{node.op}"


# ---- conditions


@dataclass
class Conditions:
    """What the conditions of a block are called, and in which order they nest: one that is computed under another stands inside it."""

    text: dict[int, str] = field(default_factory=dict)
    depth: dict[int, int] = field(default_factory=dict)

    def path(self, guard: Guard) -> list[tuple[int, bool]]:
        return sorted(guard, key=lambda item: (self.depth.get(item[0], 0), item[0]))


def render(lines: Iterable[Line], conditions: Conditions) -> list[str]:
    """Indented source; neighbors under the same condition share one `if`, an `else` follows where it fits."""
    found: list[str] = []
    open_: list[tuple[int, bool]] = []
    others: set[int] = set()  # depths at which an `else` is open
    span = NOWHERE
    for line in lines:
        path = conditions.path(line.guard)
        same = next((i for i, (a, b) in enumerate(zip(open_, path)) if a != b), min(len(open_), len(path)))
        for i in range(same, len(path)):
            condition, outcome = path[i]
            turned = i == same and i < len(open_) and open_[i] == (condition, not outcome) and i not in others
            others = {depth for depth in others if depth < i} | ({i} if turned else set())
            text = conditions.text[condition]
            head = "else:" if turned else f"if {text}:" if outcome else f"if not {text}:"
            found.append(INDENT * i + head)
        open_, others = path, {depth for depth in others if depth < len(path)}
        if line.span is not NOWHERE and (line.span.file, line.span.line) != (span.file, span.line):
            found.append(f"{INDENT * len(path)}# {line.span.file}:{line.span.line}".replace("\n", " "))
            span = line.span
        found.append(INDENT * len(path) + line.text)
    return found


# ---- memory


def weighs(node: Node) -> bool:
    """Whether a value may be large: of unknown size, or known to be."""
    count = 1
    for axis in node.type.axes:
        if axis.size is None:
            return True
        count *= axis.size
    return count >= LARGE


def deaths(w: Writer, units: list[Unit], below: Callable[[Node], tuple[Node, ...]], kept: set[str]) -> dict[int, list[str]]:
    """After which unit (by place in the list) which names are no longer needed; only values of this block that may be large."""
    made: dict[str, Unit] = {}
    last: dict[str, int] = {}
    for i, unit in enumerate(units):
        for node in unit.nodes:
            for operand in below(node):
                if operand.id in w.names:
                    last[w.names[operand.id]] = i
            if w.names.get(node.id) == name_of(node) and node.op != "scan" and weighs(node):
                made[name_of(node)] = unit
    found: dict[int, list[str]] = {}
    for name, unit in made.items():
        if name in kept or name not in last:
            continue
        place = next((j for j in range(last[name], len(units)) if units[j].guard == unit.guard), None)
        if place is not None:
            found.setdefault(place, []).append(name)
    return found


def last_pulls(units: Iterable[Unit]) -> set[int]:
    """The backward calls after which nothing is asked of their tape."""
    found: Mapping[object, int] = {call_key(node): node.id for unit in units for node in unit.nodes if node.op == "model_vjp"}
    return set(found.values())

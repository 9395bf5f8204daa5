"""What changed between two programs, by meaning: what they train and on what, what each result is computed from, settings, and cost.

Layout, comments, `doc` lines, places in the text and the names of formulas and draws mean nothing here. Regions are compared result by result,
as trees of operations. Where two trees differ in numbers alone the numbers are named; else it is said that the formula changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

from gradflow.graph.graph import Node, Region
from gradflow.plan.program import Program, StatePlan, Update
from gradflow.plan.rewriting import optimized
from gradflow.procedures.acts import Act, Draw, Hold, acts_in
from gradflow.views.plan import summary

VERSION = 1
MOST_NUMBERS = 4
FIGURES = {
    "parameters": "parameters",
    "parameter_bytes": "bytes of parameters",
    "state_bytes": "bytes of states",
    "activation_bytes": "bytes of activations",
    "peak": "bytes of memory at the peak",
}
A_UNIT = {
    "flops": "FLOP in contractions", "elementwise": "FLOP elementwise", "bytes": "bytes moved", "messages": "messages", "bytes_sent": "bytes sent",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """`section`: parameters, models, data, inputs, stages, loss, states, topology, formulas, settings, reports, cost. None: not there."""

    section: str
    what: str
    before: Any
    after: Any


def changes(before: Program, after: Program, costs: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None) -> list[Change]:
    """Every change, in the order of a plan. `costs`: the records of both. Formulas are compared as they are simplified."""
    first, second = summary(before), summary(after)
    found = [*_named("parameters", first["parameters"], second["parameters"], "parameter")]
    for section in ("models", "data"):
        one_side, other_side = ({one["name"]: _without(one, "name", "bytes") for one in plan[section]} for plan in (first, second))
        found += _named(section, one_side, other_side, section.removesuffix("s"))
    found += _named("inputs", first["inputs"], second["inputs"], "input")
    one, other = optimized(before), optimized(after)
    for number in range(max(len(first["phases"]), len(second["phases"]))):
        found += _phase(number, first["phases"], second["phases"], one, other)
    return found + (list(_costs(*costs)) if costs is not None else [])


def record(found: list[Change], names: tuple[str, str]) -> dict[str, Any]:
    """The changes as data."""
    return {"version": VERSION, "before": names[0], "after": names[1], "changed": bool(found), "changes": [asdict(one) for one in found]}


def lines(found: list[Change]) -> Iterator[str]:
    """The changes as text, section by section."""
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            yield section
        if one.before is None:
            yield f"  + {one.what}: {_shown(one.after)}"
        elif one.after is None:
            yield f"  - {one.what}: {_shown(one.before)}"
        else:
            yield f"  ~ {one.what}: {_shown(one.before)} -> {_shown(one.after)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(x)}" for key, x in value.items() if x not in (None, [], {}, ""))
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---- named things


def _without(one: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in names}


def _named(section: str, before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> Iterator[Change]:
    """Changes of a mapping by name; of an entry that is itself a mapping only the fields that changed."""
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            for key in dict.fromkeys([*one, *other]):
                if one.get(key) != other.get(key):
                    yield Change(section, f"{key} of the {kind} `{name}`", _known(one.get(key)), _known(other.get(key)))
        else:
            yield Change(section, f"the {kind} `{name}`", one, other)


def _known(value: Any) -> Any:
    return "none" if value is None else value


# ---- phases and flows


def _phase(number: int, before: list[Any], after: list[Any], one: Program, other: Program) -> Iterator[Change]:
    place = f"phase {number + 1}"
    if number >= len(before) or number >= len(after):
        there = (before if number < len(before) else after)[number]
        text = f"train {there['count']} {there['unit']}"
        yield Change("settings", place, text if number < len(before) else None, text if number < len(after) else None)
        return
    first, second = before[number], after[number]
    for key in ("count", "unit"):
        if first[key] != second[key]:
            yield Change("settings", f"{key} of {place}", first[key], second[key])
    yield from _named("settings", first["settings"], second["settings"], f"setting of {place},")
    yield from _draws(place, first["draws"], second["draws"])
    yield from _acts(place, number, one, other)
    for i in range(max(len(first["flows"]), len(second["flows"]))):
        yield from _flow(place, i, first["flows"], second["flows"], _updates(one, number), _updates(other, number), (_held(one), _held(other)))
    if [_without(r) for r in first["reports"]] != [_without(r) for r in second["reports"]] or first["final"] != second["final"]:
        yield Change("reports", place, _report_texts(first), _report_texts(second))
    yield from _reports_compared(number, one, other)


def _draws(place: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
    first, second = ([_without(draw, "name", "fields") for draw in draws] for draws in (before, after))
    for i in range(max(len(first), len(second))):
        one, other = (first[i] if i < len(first) else None), (second[i] if i < len(second) else None)
        if one != other:
            yield Change("data", f"draw {i + 1} of {place}", one, other)


def _acts(place: str, number: int, one: Program, other: Program) -> Iterator[Change]:
    """What functions that act compute between their calls: options, conditions, what loops carry, what is kept and returned."""
    trees, kinds = [], []
    for program in (one, other):
        found = list(acts_in(program.phases[number].actions))
        kinds.append([act.call.primitive if isinstance(act, Draw) else type(act).__name__.lower() for act in found])
        names = _held(program)
        results = [(f"{i} {what}", node) for i, act in enumerate(found) for what, node in _results(act)]
        trees.append({what: Tree(node, names, {}) for what, node in results})
    if kinds[0] != kinds[1]:
        yield Change("formulas", f"what acts in {place}", kinds[0], kinds[1])
        return
    kept = [{f"{name}: {plan.key}": f"{plan.type} from {plan.init:g}" for name, plan in _kept(program, number)} for program in (one, other)]
    yield from _named("states", kept[0], kept[1], "state")
    said: set[str] = set()
    alone = [(what, "there", None) for what in trees[0].keys() - trees[1].keys()] + [
        (what, None, "there") for what in trees[1].keys() - trees[0].keys()
    ]
    for change in (*(Change("formulas", *found) for found in sorted(alone, key=str)), *_compared(place, *trees)):
        what = _of_a_whole(change.what)
        if what not in said:  # of a record's fields one speaks for all
            yield replace(change, what=what)
        said.add(what)


def _kept(program: Program, number: int) -> Iterator[tuple[str, StatePlan]]:
    names = _held(program)
    holds = (act for act in acts_in(program.phases[number].actions) if isinstance(act, Hold))
    return ((names.get(act.flow.removeprefix("~"), ""), plan) for act in holds for plan in act.states)


def _of_a_whole(what: str) -> str:
    """A result's name without the number of its act, which only tells one from another, and without the field of a record."""
    return re.sub(r"`(\w+)[./][^`]*`", r"`\1`", re.sub(r"(^|in )\d+ ", r"\1", what))


def _results(act: Act) -> Iterator[tuple[str, Node]]:
    if isinstance(act, Draw):
        yield from (
            (f"`{name.replace('/', '.')}` of `{act.call.primitive}`", node)
            for name, node in (act.call.inputs.results if act.call.inputs is not None else ())
        )
    elif isinstance(act, Hold):
        states = {f"state/{act.flow}/{state.key}": f"the state `{state.key}`" for state in act.states}
        yield from ((states.get(name, f"the field `{name.rpartition('/')[2]}`"), node) for name, node in act.region.results)
    else:
        yield from (("the end of the loop", node) for node in (act.until.roots if act.until is not None else ()))
        for what, region in (("the start of", act.start), ("the next", act.next)):
            yield from ((f"{what} `{name.rpartition('/')[2]}`", node) for name, node in region.results)


def _report_texts(phase: Mapping[str, Any]) -> list[str]:
    blocks = [*phase["reports"], *([phase["final"]] if phase["final"] else [])]
    return [f"every {one['count']} {one['unit']}: {', '.join([*one['values'], *(['checkpoint'] if one['checkpoint'] else [])])}" for one in blocks]


def _updates(program: Program, number: int) -> list[Update]:
    return [action for action in program.phases[number].actions if isinstance(action, Update)]


def _held(program: Program) -> dict[str, str]:
    """Draws by their place in the program: their names mean nothing."""
    found = [action for phase in program.phases for action in acts_in(phase.actions)]
    names = [name for action in found for name in _fills(action)]
    return {name: f"draw {i}" for i, name in enumerate(dict.fromkeys(filter(None, names)))}


def _fills(act: Act) -> list[str]:
    if isinstance(act, Hold):
        return [name.split("/")[1] for name, _ in act.region.results if name.startswith("held/")] or [act.flow.removeprefix("~")]
    return [act.name] if isinstance(act, Draw) else []


def _flow(
    place: str, i: int, before: list[Any], after: list[Any], first: list[Update], second: list[Update], held: tuple[dict[str, str], dict[str, str]]
) -> Iterator[Change]:  # fmt: skip
    if i >= len(before) or i >= len(after):
        there = (before if i < len(before) else after)[i]
        text = " -> ".join(stage["stage"] for stage in there["stages"])
        yield Change("stages", f"flow {', '.join(there['trains'])}", text if i < len(before) else None, text if i < len(after) else None)
        return
    one, other = before[i], after[i]
    name = f"flow {', '.join(other['trains'])}"
    chains = [[stage["stage"] for stage in flow["stages"] if stage["kind"] != "objective"] for flow in (one, other)]
    if one["trains"] != other["trains"]:
        yield Change("stages", f"what flow {i + 1} of {place} trains", one["trains"], other["trains"])
    if chains[0] != chains[1]:
        yield Change("stages", name, " -> ".join(chains[0]), " -> ".join(chains[1]))
    given = [{stage["stage"]: stage["gives"] for stage in flow["stages"] if stage["gives"]} for flow in (one, other)]
    yield from _named("properties", given[0], given[1], "stage")
    if one["loss"] != other["loss"]:
        yield Change("loss", f"terms of {name}", one["loss"], other["loss"])
    states = [{state["name"]: state["type"] for state in flow["states"]} for flow in (one, other)]
    yield from _named("states", states[0], states[1], "state")
    if one["topology"] != other["topology"]:
        yield from _named("topology", {name: one["topology"] or {}}, {name: other["topology"] or {}}, "graph of")
    yield from _formulas(name, first[i], second[i], held)


# ---- formulas


def _formulas(name: str, one: Update, other: Update, held: tuple[dict[str, str], dict[str, str]]) -> Iterator[Change]:
    taken = [{f"rollout/{key.partition('/')[2]}": node for key, node in (u.rollout.results if u.rollout is not None else ())} for u in (one, other)]
    trees = [{key: Tree(node, names, rolled) for key, node in u.region.results} for u, names, rolled in zip((one, other), held, taken, strict=True)]
    yield from _compared(name, trees[0], trees[1])


def _compared(name: str, before: Mapping[str, Tree], after: Mapping[str, Tree]) -> Iterator[Change]:
    said: set[tuple[Any, ...]] = set()
    for key in before:
        if key not in after or before[key].whole == after[key].whole:
            continue
        what = said_as(key)
        if before[key].shape == after[key].shape:
            pairs = list(dict.fromkeys(changed_numbers(before[key].numbers, after[key].numbers)))[:MOST_NUMBERS]
            if tuple(pairs) not in said:
                said.add(tuple(pairs))
                yield Change("formulas", f"numbers in {what} of {name}", [a for a, _ in pairs], [b for _, b in pairs])
        else:
            yield Change("formulas", f"{what} of {name}", f"{before[key].count} operations", f"{after[key].count} operations, computed otherwise")


def changed_numbers(before: list[Any], after: list[Any]) -> list[tuple[Any, Any]]:
    """Pairs of numbers that stand in the same places; where equal parts were shared in one of the two only, what each has alone."""
    if len(before) == len(after):
        return [pair for pair in zip(before, after) if pair[0] != pair[1]]
    gone, come = [x for x in before if x not in after], [x for x in after if x not in before]
    return list(zip_longest(gone, come, fillvalue="(there already)"))


def said_as(result: str) -> str:
    """A region's result as people call it: `param/net` is the new value of `net`."""
    kind, _, rest = result.partition("/")
    return {"param": f"the step of `{rest}`", "state": f"the state `{rest.rpartition('/')[2]}`", "loss": "the loss"}.get(
        kind, result.replace("/", " ")
    )


def _reports_compared(number: int, one: Program, other: Program) -> Iterator[Change]:
    trees = []
    for program in (one, other):
        phase, names = program.phases[number], _held(program)
        blocks = [*phase.periodic, *([phase.final] if phase.final is not None else [])]
        trees.append({f"report {name}": Tree(node, names, {}) for block in blocks for name, node in block.region.results})
    yield from _compared(f"phase {number + 1}", trees[0], trees[1])


class Tree:
    """One result as a tree: `whole` names it with its numbers, `shape` without; `numbers` are those, in order; `count` operations."""

    def __init__(self, root: Node, held: Mapping[str, str], rollouts: Mapping[str, Node]):
        self.held, self.rollouts = held, rollouts
        self.numbers: list[Any] = []
        self.count = 0
        self.places: dict[Any, int] = {}
        self.shape = self._region(Region((("", root),)), {})
        self.numbers += [root["value"]] if root.op == "const" else []
        self.whole = (self.shape, tuple(map(repr, self.numbers)))

    def _region(self, region: Region, known: dict[int, str]) -> str:
        names = dict(known) | {node.id: f"element {i}" for i, node in enumerate(region.parameters)}
        for node in region.nodes():
            if node.id not in names:
                names[node.id] = self._node(node, names)
        return _digest(" ".join(names[root.id] for root in region.roots))

    def _node(self, node: Node, names: dict[int, str]) -> str:
        if node.op == "const":
            return f"number {node.type.base}"
        self.numbers += [below["value"] for below in node.inputs if below.op == "const"]  # each use: equal numbers are one node
        self.count += 1
        if node.op == "source":
            return self._source(node)
        attrs = [f"{key}={self._place(value) if key == 'place' else value!r}" for key, value in node.attrs]
        body = self._region(node.body, names) if node.body is not None else ""
        return _digest(" ".join([node.op, str(node.type), *attrs, body, *(names[below.id] for below in node.inputs)]))

    def _source(self, node: Node) -> str:
        kind, path = node["kind"], tuple(node["path"])
        below = self.rollouts.get(f"rollout/{path[0]}") if kind == "rollout" else None
        if below is not None:
            return self._region(Region((("", below),)), {})
        if kind == "held" or kind == "state" and path[0][:1] == "~":
            path = (self.held.get(path[0].removeprefix("~"), "held"), *path[1:])
        if kind == "world":
            path = (f"call {self._place(path[0])}", *path[1:])
        return _digest(f"{kind} {path} {node.type}")

    def _place(self, place: Any) -> int:
        return self.places.setdefault(place, len(self.places))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


# ---- cost


def _costs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for key, what in FIGURES.items():
        if before[key] != after[key]:
            yield Change("cost", what, before[key], after[key])
    for number, (one, other) in enumerate(zip(before["phases"], after["phases"]), 1):
        place = f", phase {number}" if max(len(before["phases"]), len(after["phases"])) > 1 else ""
        for key, what in A_UNIT.items():
            if one["a_unit"][key] != other["a_unit"][key]:
                yield Change("cost", f"{what} a {other['unit'].removesuffix('s')}{place}", one["a_unit"][key], other["a_unit"][key])

"""Where held values come from: the calls that drew them, through rows that are chosen and joined, functions that act, loops, and `extend`.

A value has origins: fields of calls, where all that happened to it is that rows were moved, and formulas, where something computed it. Every knob
that depends on how samples were drawn asks here, so it does not matter whether they come straight from `sample(..)` or out of a function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.library.catalogue import catalogue
from gradflow.library.records import MOVERS
from gradflow.procedures import acts

Path = tuple[str, ...]  # of a source: (kind, owner, field)
WORLDLY = ("held", "world", "rollout")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A field that a call gave back."""

    call: acts.WorldCall
    field: str


class Origins:
    """What stands behind the sources of a phase: the calls by the source that they fill, and what formulas and loops put in others."""

    def __init__(self, actions: Iterable[Any], update: Any = None):
        """`update`: the flow whose formulas over the whole rollout are read through."""
        actions = list(actions)  # those of later phases behind those of earlier ones, whose names they take
        self.calls: dict[str, acts.WorldCall] = {}
        self.made: dict[Path, list[Node]] = {}
        self.held: dict[str, str] = {}  # calls whose record is held as it comes, by the held name
        self.filled = {call.id: name for name, call in names_filled(actions)}  # the name whose `~` makes a call
        for act in acts.acts_in(actions):
            if isinstance(act, acts.Draw):
                self.calls[act.call.id] = act.call
                self.held |= {act.name: act.call.id} if act.name else {}
                self.made = {path: nodes for path, nodes in self.made.items() if not act.name or path[:2] != ("held", act.name)}
                continue
            for name, node in (result for region in acts.regions_in(act) for result in region.results):
                path = tuple(name.split("/", 2))
                self.made[path] = [node] if path[0] == "held" else [*self.made.get(path, []), node]
        rollout = update.rollout.results if update is not None and update.rollout is not None else ()
        self.made |= {tuple(name.split("/", 2)): [node] for name, node in rollout}

    def of_source(self, node: Node) -> tuple[Drawn | None, list[Node]]:
        """What a source is one step earlier: a call's field, or the nodes that make it; neither where it is not of this phase."""
        path: Path = (node["kind"], *node["path"])
        if path in self.made or path[0] not in ("held", "world"):
            return None, self.made.get(path, []) if path[0] in WORLDLY else []
        call = self.calls.get(self.held.get(path[1], "") if path[0] == "held" else path[1])
        if call is None:
            return None, []
        moved = moved_by(call, path[2]) if call.primitive in MOVERS else []
        return (None, moved) if moved else (Drawn(call, path[2]), [])

    def ends(self, node: Node) -> list[Drawn | Node]:
        """What a value is before its rows were moved: fields of calls, and nodes that are more than a source."""
        found: dict[Any, Drawn | Node] = {}
        seen: set[int] = set()
        stack = [node]
        while stack:
            one = stack.pop()
            if one.id in seen:
                continue
            seen.add(one.id)
            if one.op in ("expand", "rename", "stop"):
                stack.append(one.inputs[0])
                continue
            drawn, below = self.of_source(one) if one.op == "source" else (None, [])
            if drawn is not None:
                found[drawn.call.id, drawn.field] = drawn
            elif below:
                stack += below
            else:
                found[one.id] = one
        return list(found.values())

    def drawn(self, node: Node) -> list[Drawn] | None:
        """The fields of calls that a value is made of; None where anything else is in it."""
        ends = self.ends(node)
        return [one for one in ends if isinstance(one, Drawn)] if all(isinstance(one, Drawn) for one in ends) else None

    def behind(self, nodes: Iterable[Node]) -> list[Node]:
        """All nodes that these depend on, those in the regions of functions and loops included."""
        done: dict[int, Node] = {}
        todo = list(nodes)
        while todo:
            fresh = [one for one in ordered(todo) if one.id not in done]
            done |= {one.id: one for one in fresh}
            todo = [below for one in fresh if one.op == "source" for below in self.of_source(one)[1]]
        return list(done.values())


def moved_by(call: acts.WorldCall, field: str) -> list[Node]:
    """What went into a call as this field of a record."""
    return [node for name, node in (call.inputs.results if call.inputs is not None else ()) if name.partition("/")[2] == field]


def names_filled(actions: Iterable[Any]) -> Iterator[tuple[str, acts.WorldCall]]:
    """Every call with the name whose `~` makes it."""
    waiting: list[acts.WorldCall] = []
    for action in actions:
        waiting += acts.calls_in([action])
        if isinstance(action, acts.Draw) and action.name or isinstance(action, acts.Hold):
            name = action.name if isinstance(action, acts.Draw) else action.flow.removeprefix("~")
            yield from ((name, call) for call in waiting)
            waiting = []


# ---- draws of responses


def draws_responses(call: acts.WorldCall) -> bool:
    """Whether a call draws from a policy and says what the policy thought of it: `logp_old`, at `scored_at`."""
    return "logp_old" in call.fields and "scored_at" in catalogue()[call.primitive].signature.parameters


def option(call: acts.WorldCall, name: str) -> Any:
    """The value of an option, its default where nobody gave it; None where it is computed in the run."""
    if call.inputs is not None and any(known == name for known, _ in call.inputs.results):
        return None
    return call.options.get(name, catalogue()[call.primitive].signature.parameters[name].default)

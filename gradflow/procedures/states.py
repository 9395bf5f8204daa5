"""What a function that is called with `~` keeps from unit to unit: `state seen : bool[task] = false`.

It is read as it was when the unit began; what it is worth at the end of the function is kept. Every `~` of a pipeline has states of its own, by
the place of the function in the text; they are checkpointed with the rest. In a loop that acts, a pass reads what the pass before it left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node, ordered
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes
from gradflow.passes.expressions import NUMBERS
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import unbuilt
from gradflow.passes.words import misplaced
from gradflow.plan.program import StatePlan

if TYPE_CHECKING:
    from gradflow.passes.bodies import Body
    from gradflow.passes.expressions import Elaborator


Results = tuple[tuple[str, Node], ...]


@dataclass
class Keeping:
    """The states of one `~`: plans by key, and where each one's last value is found."""

    e: Elaborator
    flow: str
    plans: dict[str, StatePlan] = field(default_factory=dict)
    slots: dict[str, tuple[Scope, str]] = field(default_factory=dict)
    more: list[tuple[str, Node]] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)
    starts: dict[tuple[str, str], Node] = field(default_factory=dict)  # by loop and key: what the first pass reads
    loops: list[str] = field(default_factory=list)  # that act, around the place that is being read

    def copied(self) -> Keeping:
        """As it is now: a loop looks at its body more than once, and each time the states of the body are declared."""
        parts = (dict(self.plans), dict(self.slots), list(self.more), dict(self.spans), dict(self.starts), list(self.loops))
        return Keeping(self.e, self.flow, *parts)

    def results(self) -> tuple[tuple[StatePlan, ...], list[tuple[str, Node]]]:
        found = [*self.more, *((f"state/{self.flow}/{key}", self.last(key)) for key in self.slots)]
        return tuple(self.plans.values()), found

    def last(self, key: str) -> Node:
        """What a state is worth at the end of what is being read."""
        scope, name = self.slots[key]
        node, type_ = self.e.ops.constant(self.e.tensor(scope.names[name])), self.plans[key].type
        if node.type.base == "text":
            raise mistake(
                "E0301", self.spans[key], f"the state `{name}` becomes a text, and only numbers and truth values are kept",
                why="what is kept from unit to unit has one shape, and texts have not", fix="pass texts on within the unit, and keep numbers of them",
            )  # fmt: skip
        for axis in node.type.names:
            if not type_.has(axis):
                raise mistake(
                    "E0303", self.spans[key], f"the state `{name}` begins without the axis `{axis}`, and becomes {v.kind_name(node)}",
                    why="what is kept from unit to unit has one shape",
                    fix=f"declare the axis: `state {name} : [{axis}: ..] = 0`, or reduce it: `mean(x, over: {axis})`",
                )  # fmt: skip
        return self.e.ops.expand(node, type_.axes)

    def entering(self, key: str, begun: Node) -> Node:
        """What a state is in a pass of the loops around it: the first pass reads what there was before, each other what the one before left."""
        for id_ in self.loops:
            self.starts[id_, key] = begun
            begun = self.e.ops.source(begun.type, "world", id_, f"state {key}")
        return begun

    def looped(self, id_: str) -> tuple[Results, Results]:
        """How the states inside of a loop begin there, and how they go on; behind the loop they are what it left."""
        first: list[tuple[str, Node]] = []
        then: list[tuple[str, Node]] = []
        for key, start in [(key, start) for (loop, key), start in self.starts.items() if loop == id_]:
            name, type_ = f"world/{id_}/state {key}", self.plans[key].type
            first.append((name, self.e.ops.expand(start, type_.axes)))
            then.append((name, self.last(key)))
            _, own = self.slots[key]
            self.slots[key] = (Scope({own: self.e.ops.source(type_, "world", id_, f"state {key}")}, None, self.slots[key][0].module), own)
        return tuple(first), tuple(then)


def declare(body: Body, statement: s.State, scope: Scope) -> None:
    """The names of a `state` line, as what they were when the unit began."""
    e = body.e
    keeping = e.keeping
    if keeping is None or e.loops:
        where = "this loop" if keeping is not None else f"{body.name}, which is called in a formula"
        why, fix = "a function keeps state when it is called with `~`, once a unit", "bind it: `x ~ f(..)`"
        raise misplaced(statement, f"in {where}", why, fix)
    if statement.storage is not None:
        raise unbuilt(statement.storage.span, "storage formats of states cannot run yet", "leave out `as ..`")
    option = statement.type.options[0] if statement.type is not None else None
    axes: tuple[Axis, ...] = ()
    if option is not None and option.axes is not None:
        axes = tuple(_sized(axis, scope) for axis in declared_axes(e, option.axes, scope)[0])
    for name in statement.names:
        init = e.tensor(e.evaluate(statement.init, scope), statement.init)
        own = axes if option is not None and option.axes is not None else init.type.axes if isinstance(init, Node) else ()
        if any(axis.size is None for axis in own):
            open_ = next(axis.name for axis in own if axis.size is None)
            raise mistake(
                "E0303", statement.span, f"the size of axis `{open_}` of the state `{name}` is not known when the spec is compiled",
                why="what is kept from unit to unit has one shape", fix=f"give it: `[{open_}: 100]`, or an axis whose size is known",
            )  # fmt: skip
        given = init.type.base if isinstance(init, Node) else "bool" if isinstance(init, bool) else "real"
        scope.names[name] = _begun(keeping, name, scope, Type(option.base if option is not None and option.base else given, own), init)
        for axis in own:
            scope.axes.setdefault(axis.name, axis)


def _sized(axis: Axis, scope: Scope) -> Axis:
    """The axis with its size, where what is at hand tells it: `task` has as many entries as the data set that the function works on."""
    if axis.size is not None or axis.name != "task":
        return axis
    for name in scope.locals():
        value = scope.local(name)[1]
        data = value if isinstance(value, v.Data) else getattr(value, "data", None)
        if isinstance(data, v.Data) and data.spec.verify is not None:
            return Axis(axis.name, data.spec.tasks)
    return axis


def _begun(keeping: Keeping, name: str, scope: Scope, type_: Type, init: Any) -> Node:
    e = keeping.e
    key = f"{scope.owner}.{name}"
    if keeping.loops and isinstance(init, Node) and any(node.op == "source" and node["kind"] == "world" for node in ordered([init])):
        raise mistake(
            "E0501", e.ops.span, f"the state `{name}` begins with something that is drawn in the loop around it",
            why="it begins once, before the first pass", fix=f"begin it with a number, and assign it: `{name} <- ..`",
        )  # fmt: skip
    count = sum(known.split("'")[0] == key for known in keeping.plans)
    key = f"{key}'{count + 1}" if count else key
    constant = float(init) if isinstance(init, NUMBERS) else None
    keeping.plans[key] = StatePlan(key, type_, constant or 0.0, scope.owner)
    keeping.slots[key], keeping.spans[key] = (scope, name), e.ops.span
    read: Node = e.ops.source(type_, "state", keeping.flow, key)
    if constant is not None:
        return keeping.entering(key, read)
    flag = f"{key}.begun"
    keeping.plans[flag] = StatePlan(flag, Type("bool"), 0.0, scope.owner)
    keeping.more.append((f"state/{keeping.flow}/{flag}", e.ops.constant(True)))
    begun = e.ops.choose(e.ops.source(Type("bool"), "state", keeping.flow, flag), read, e.ops.expand(init, type_.axes))
    return keeping.entering(key, e.ops.constant(begun))

"""The body of one `on each ..` block, run with what the nodes of an event hold.

In a block at nodes, and in waiting, a state's name means this node's. In a block at links it means what all nodes hold, and a mark stands for that:
what is read of it at the two ends of the event is made out of their rows (`rowwise.py`), anything else is a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.events.rowwise import INSTEAD, Rowwise
from gradflow.graph.graph import Node
from gradflow.graph.types import Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes import values as v
from gradflow.passes.bodies import Body
from gradflow.passes.scope import Scope
from gradflow.passes.stage_bodies import StageBody
from gradflow.passes.stage_states import States
from gradflow.passes.suggestions import unbuilt

if TYPE_CHECKING:
    from gradflow.events.elaborate import EventBuilder


def misplaced(statement: s.On, why: str, fix: str, message: str = "this cannot be the place of an event") -> Mistake:
    return mistake("E0531", statement.pattern.span, message, why=why, fix=fix)


class Block(StageBody):
    """The body of one block. `rows`: what the node holds (a block at nodes, or waiting); `ends_of`: what each end holds (a block at links)."""

    def __init__(self, builder: EventBuilder, ends: tuple[Node, ...]):
        self.__dict__.update(builder.body.__dict__)
        self.built, self.ends = builder, ends
        self.rows: dict[str, Node] = {}
        self.ends_of: dict[str, dict[int, Node]] = {}
        self.marks: dict[int, dict[int, Node]] = {}
        self.states = States(self)

    def carried_out(self, statement: s.On, names: dict[str, Node]) -> dict[str, Node]:
        """Runs the block; the rows as they are afterwards."""
        scope = self.scope.child(frame=self)
        scope.names.update(names)
        scope.maps = [*scope.maps, *(end for end in self.ends)] if len(self.ends) == 1 else list(scope.maps)
        for name, row in self.rows.items():
            scope.names[name] = row
        for name in self.ends_of:
            scope.names[name] = self.mark(name)
        self.inside = scope
        with self.e.at(flow=self.flow.name):
            self.run(statement.body, scope)
        self.rows = {name: self.settled(scope.names[name]) for name in self.rows}
        return self.rows

    def mark(self, name: str) -> Node:
        """What stands for a state of all nodes, as it is at this point of the block."""
        row = self.ends_of[name][0]
        axes = (self.built.node, *row.type.without(["event"]))
        hole = self.e.graph.fresh("hole", Type("real", axes), row.span)
        self.marks[hole.id] = dict(self.ends_of[name])
        return hole

    def settled(self, value: Any) -> Node:
        return Rowwise(self.e.ops, self.ends, self.marks).resolve(self.e.ops.constant(self.e.tensor(value)))

    # ---- statements

    def do_bind(self, statement: s.Bind, scope: Scope) -> None:
        Body.do_bind(self, statement, scope)

    def do_state(self, statement: s.State, scope: Scope) -> None:
        raise mistake(
            "E0501",
            statement.span,
            "`state` has no place in a block of events",
            why="what a node keeps is declared once, before the blocks",
            fix="move it out of the block",
        )

    do_return = do_carry = do_on = do_reportas = do_state  # type: ignore[assignment]

    def draw(self, statement: s.Bind, scope: Scope) -> Any:
        raise unbuilt(statement.span, "draws inside of an event cannot run yet", INSTEAD)

    def assign(self, target: s.Target, value: Any, scope: Scope, statement: s.Bind) -> None:
        place = self.end_meant(target, scope)
        if place is None:
            Body.assign(self, target, value, scope, statement)
            return
        name = target.name
        row = self.settled(value)
        kept = self.rows.get(name) or self.ends_of[name][0]
        extra = [axis for axis in row.type.names if not kept.type.has(axis)]
        if extra:
            raise mistake(
                "E0302",
                statement.span,
                f"`{name}` of one node has no axis `{extra[0]}`",
                why=f"it is {v.kind_name(kept)}",
                fix="take the value of one node: `x[node: i]`" if extra[0] == "node" else "reduce the axis, or keep a state that has it",
            )
        row = self.e.ops.expand(row, kept.type.axes)
        if self.ends_of:
            self.ends_of[name][place] = row
            scope.assign(name, self.mark(name))
        else:
            scope.assign(name, row)

    def end_meant(self, target: s.Target, scope: Scope) -> int | None:
        """The end of the event whose entry of a state is assigned; None for a name that is no state."""
        name = target.name
        if name not in self.rows and name not in self.ends_of:
            return None
        if not target.index:
            if self.ends_of:
                raise mistake(
                    "E0505",
                    target.span,
                    f"which end's `{name}`?",
                    why="a block at links changes the two nodes that it touches, each by itself",
                    fix=f"`{name}[i] <- ..`",
                )
            return 0
        index = self.e.evaluate(target.index[0].value, scope) if len(target.index) == 1 else None
        place = next((number for number, end in enumerate(self.ends) if index is end), None)
        if place is None or target.index[0].name not in (None, "node"):
            raise mistake(
                "E0505",
                target.span,
                "an event changes the nodes that it touches",
                why="nobody waits for anybody, so that others cannot be changed",
                fix=f"`{name}[i] <- ..`, with the name that the block gives its node",
            )
        return place

    # ---- what comes from upstream

    def everywhere(self, point: Node | None) -> tuple[Node, dict[int, dict[int, Node]]]:
        """A point for all nodes that stands for one at the node of the event."""
        row = self.settled(point if point is not None else self.inside.names["param"])
        hole = self.e.graph.fresh("hole", Type("real", (self.built.node, self.bundle.axis)), row.span)
        return hole, {hole.id: {0: self.e.ops.expand(row, (self.built.axis, self.bundle.axis))}}

    def gradient(self, point: Node | None = None, fresh: int = 0) -> Node:
        if len(self.ends) == 2:
            return StageBody.gradient(self, point if point is not None else self.inside.names["param"], fresh)
        hole, marks = self.everywhere(point)
        return Rowwise(self.e.ops, self.ends, marks).row(StageBody.gradient(self, hole, fresh), 0)

    def objective_value(self, point: Node | None, fresh: int, node: s.Call) -> Any:
        if len(self.ends) == 2:
            return StageBody.objective_value(self, point if point is not None else self.inside.names["param"], fresh, node)
        hole, marks = self.everywhere(point)
        return Rowwise(self.e.ops, self.ends, marks).row(self.e.ops.constant(StageBody.objective_value(self, hole, fresh, node)), 0)

    def step(self, value: Any, node: s.Node) -> Node:
        raise misplaced(
            self.ticks[0], "an exchange with events stands last in its flow: nothing below it could make a step", "write the update in the block"
        )

    def mix(self, value: Node, node: s.Node) -> Node:
        raise mistake(
            "E0530",
            node.span,
            "an event reads more than the nodes that it touches",
            why="`mix` averages over all neighbors of all nodes",
            fix="talk over one link: `on each link(i, j) ~ poisson(1)`",
        )

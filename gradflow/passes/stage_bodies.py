"""The body of one stage: `grad`, `param`, `state`, `step`, and what an exchange adds (`mix`, `graph`).

A stage ends in one of three ways: it hands a gradient on (`return g`), it asks the rest of the flow for a step (`step(g)`), or it is the
last and moves `param` itself. A leading `param` in `param <- param + e` is not a read: the change is `e`, and nothing is lost to rounding.
"""

from __future__ import annotations

import math
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, mistake
from gradflow.passes import values as v
from gradflow.passes.axes import placed_on
from gradflow.passes.bodies import Body
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.scope import Scope
from gradflow.passes.stage_calls import special_call, stage_call
from gradflow.passes.stage_states import States
from gradflow.passes.stages import Below, Bundle, Change, Leaf, Upstream, constant_upstream


class StageBody(Body):
    """Runs the statements of a stage for one bundle, or for one leaf of it. `quiet` bodies (another point) write no state."""

    def __init__(
        self, builder: FlowBuilder, stage: v.Stage, up: Upstream, bundle: Bundle, below: Below, path: str, leaf: Leaf | None, quiet: bool = False
    ):
        e = builder.e
        scope = stage.scope.inside(stage.definition, stage.bound, self)
        scope.axes = {}
        super().__init__(e, scope, f"the {stage.kind} `{stage.name}`")
        self.builder, self.flow, self.stage = builder, builder.flow, stage
        self.up, self.bundle, self.below_ = up, bundle, below
        self.path, self.leaf, self.quiet = path, leaf, quiet
        self.leaf_axes = leaf.axes if leaf is not None else None
        self.point: Node | None = None
        self.fresh = 0
        self.delta: Any = 0.0
        self.absolute = False
        self.stepped: tuple[Node, Node] | None = None
        self.guards: list[Node] = []
        self.carries: list[tuple[tuple[Node, ...], s.Carry, Scope]] = []
        self.states = States(self)
        self.ticks: list[s.On] = []
        scope.axes.update({axis.name: axis for axis in (leaf.axes if leaf is not None else (bundle.axis,))})
        if builder.flow.topology is not None:
            scope.axes.setdefault("node", Axis("node", builder.flow.topology.nodes))
        if bundle.param is not None:
            scope.names["param"] = self.view(bundle.param)

    # ---- what flows, as this body sees it

    def view(self, flat: Node) -> Node:
        return flat if self.leaf is None else self.e.ops.leaf(flat, 0, self.leaf.axes)

    def flat(self, value: Any, layout: tuple[Axis, ...] | None = None) -> Node:
        """A value of this body, flat along `param` again."""
        node = self.e.ops.constant(self.e.tensor(value))
        if self.leaf is None and node.type.has("param"):
            return node
        if self.leaf is None and len(self.bundle.leaves) == 1:
            return self.e.ops.pack([node], [self.bundle.leaves[0].axes])
        if self.leaf is None:
            return self.e.ops.expand(node, union(node.type.axes, (self.bundle.axis,)))
        return self.e.ops.pack([node], [layout if layout is not None else self.leaf.axes])

    def coordinates(self) -> int:
        return self.bundle.size

    def gradient(self, point: Node | None = None, fresh: int = 0) -> Node:
        point = point if point is not None else self.point
        flat = None if point is None else self.flat(point)
        with self.e.at(flow=""), self.e.placed(None):
            return self.view(self.up.at(flat, max(fresh, self.fresh)))

    def objective_value(self, point: Node | None, fresh: int, node: s.Call) -> Any:
        """`value(at: point)`: what is minimized, there; on the same batch and draws unless asked for fresh ones."""
        if self.up.value is None:
            raise mistake(
                "E0514", node.span, "the objective cannot be asked for its value here", why="a stage stands between it and the objective",
                fix=f"put `{self.stage.name}` first, behind the objective",
            )  # fmt: skip
        point = point if point is not None else self.point
        with self.e.at(flow=""), self.e.placed(None):
            value = self.up.value(None if point is None else self.flat(point), max(fresh, self.fresh))
        if isinstance(value, Node):
            size = math.prod(axis.size or 1 for axis in value.type.without(["node"]))
            self.flow.asked.setdefault(value.id, (size, tuple(self.guards)))
        return value

    def special(self, name: str, node: s.Node) -> Any:
        if name == "grad":
            return self.gradient()
        if name == "param":
            raise mistake(
                "E0512", self.stage.span, f"`{self.stage.name}` reads `param`, and a stage before it has changed the coordinates",
                secondary=(Label(node.span, "read here"),),
                why="what flows here is not shaped like the parameters any more; the leading `param` of `param <- param + ..` is no read",
                fix=f"put `{self.stage.name}` before the projection",
            )  # fmt: skip
        if name == "graph" and self.flow.topology is not None:
            return self.flow.topology
        if name == "objective":
            return v.NONE
        return None

    def call_special(self, node: s.Call, scope: Scope) -> tuple[bool, Any]:
        return special_call(self, node, scope)

    def call_stage(self, stage: Any, node: s.Call, scope: Scope) -> Any:
        return stage_call(self, stage, node, scope)

    # ---- the rest of the flow

    def step(self, value: Any, node: s.Node) -> Node:
        flat, axes = self.handed(value)
        if self.stepped is not None:
            if self.stepped[0] is flat:
                return self.stepped[1]
            raise mistake("E0516", node.span, "`step` is asked for twice", why="a step moves the states below once", fix="keep it: `delta = step(g)`")
        bundle = self.lower_bundle(axes)
        change = self.below_(constant_upstream(flat, f"`{self.stage.name}` hands on one gradient by `step`"), bundle)
        delta = self.builder.difference(change, bundle)
        result = delta if self.leaf is None else self.e.ops.leaf(delta, 0, axes)
        self.stepped = (flat, result)
        return result

    def handed(self, value: Any) -> tuple[Node, tuple[Axis, ...]]:
        """What goes down: flat, and the axes of the leaf it now is (lifted ones aside)."""
        node = self.e.ops.constant(self.e.tensor(value))
        if self.leaf is None:
            return self.flat(node), ()
        own = self.laid_out(node.type.without(["node"]))
        return self.flat(node, own), own

    def laid_out(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """The axes in the leaf's order, new ones in the places of those they replace: [cut, kept] cut to {kept, r} is [r, kept]."""
        assert self.leaf is not None
        own = {axis.name for axis in self.leaf.axes}
        found = {axis.name: axis for axis in axes}
        new = [axis for axis in axes if axis.name not in own]
        placed = [found.get(axis.name) or (new.pop(0) if new else None) for axis in self.leaf.axes]
        return (*(axis for axis in placed if axis is not None), *new)

    def lower_bundle(self, axes: tuple[Axis, ...]) -> Bundle:
        if self.leaf is None:
            return Bundle(self.bundle.leaves, self.bundle.param)
        same = axes == self.leaf.axes
        leaf = Leaf(self.leaf.name, axes, self.carry(axes))
        return Bundle((leaf,), self.bundle.param if same else None)

    def carry(self, axes: tuple[Axis, ...]) -> Any:
        if not self.carries:
            return None

        def move(state: Node) -> Node:
            for guards, statement, scope in self.carries:
                inner = scope.child()
                inner.names[statement.name] = state
                moved = self.e.ops.constant(self.e.tensor(self.e.evaluate(statement.value, inner)))
                moved = placed_on(self.e, moved, state.type.axes)
                for guard in guards:
                    moved = self.e.ops.constant(self.e.ops.choose(guard, moved, state))
                state = moved
            return state

        return move

    def change(self) -> Change:
        with self.e.at(flow=self.flow.name):
            self.run(self.stage.definition.body or ())
            if self.ticks:
                from gradflow.events.elaborate import event_change

                return event_change(self)
        self.states.write()
        if self.returned is not None:
            return self.hand_on()
        if self.absolute:
            return Change(self.flat(self.scope.names["param"]), True)
        if not isinstance(self.delta, Node) and self.delta == 0.0 and self.stepped is None and self.stage.kind == "update":
            raise mistake(
                "E0517", self.stage.definition.name_span, f"`{self.stage.name}` does nothing", why="an update moves the parameters",
                fix="end it with `param <- ..`, `return ..` or `step(..)`",
            )  # fmt: skip
        return Change(self.flat(self.delta))

    def hand_on(self) -> Change:
        """`return g`: the rest of the flow works on g; with a condition, nothing below moves where it does not hold."""
        value, axes = self.handed(self.returned)

        def at(point: Node | None, fresh: int) -> Node:
            if point is None and fresh == 0:
                return value
            again = StageBody(self.builder, self.stage, self.up, self.bundle, self.below_, self.path, self.leaf, True)
            again.point, again.fresh = point, fresh
            if point is not None:
                again.scope.names["param"] = again.view(point)
            with self.e.at(flow=self.flow.name, fresh=fresh):
                again.run(self.stage.definition.body or ())
            return again.handed(again.returned)[0]

        condition = self.return_condition
        before = set(self.flow.states)
        value_of = self.up.value if self.stage.kind == "estimator" else None  # an estimator leaves the objective what it was
        change = self.below_(Upstream(at, lambda: self.reports, value_of), self.lower_bundle(axes))
        if isinstance(condition, Node):
            ops = self.e.ops
            for key, slot in self.flow.states.items():
                if key not in before and slot.write is not None:
                    slot.write = ops.constant(self.either(condition, slot.write, slot.read, self.stage.definition))
            zero = self.bundle.param if change.absolute and self.bundle.param is not None else ops.constant(0.0)
            change = Change(ops.constant(self.either(condition, change.value, zero, self.stage.definition)), change.absolute)
            executed = ops.constant(ops.reduce("any", condition, condition.type.names))
            self.flow.executed = executed if self.flow.executed is None else ops.constant(ops.elementwise("and", self.flow.executed, executed))
        return change

    # ---- statements

    def do_return(self, statement: s.Return, scope: Scope) -> None:
        self.returned = self.e.evaluate(statement.value, scope)
        condition: Any = True
        for guard in self.guards:
            condition = self.e.ops.elementwise("and", condition, guard)
        self.return_condition = condition

    def guarded(self, condition: Node, statement: s.When, inner: Scope) -> None:
        self.guards.append(condition)
        delta, absolute = self.delta, self.absolute
        super().guarded(condition, statement, inner)
        if self.delta is not delta:
            self.delta = self.either(condition, self.delta, delta, statement)
        self.absolute = self.absolute or absolute
        self.guards.pop()

    def do_carry(self, statement: s.Carry, scope: Scope) -> None:
        now = scope.child()  # names as they are here: what the statements below assign is the new coordinates, not the old ones
        now.names.update({name: scope.local(name)[1] for name in set(scope.locals())})
        self.carries.append((tuple(self.guards), statement, now))

    def do_bind(self, statement: s.Bind, scope: Scope) -> None:
        if statement.op == "<-" and len(statement.targets) == 1 and statement.targets[0].name == "param" and not statement.targets[0].index:
            self.move(statement, scope)
        else:
            super().do_bind(statement, scope)

    def move(self, statement: s.Bind, scope: Scope) -> None:
        """`param <- e`: a difference where e begins with `param`, else the new value."""
        terms = leading_param(statement.value)
        ops = self.e.ops
        if terms is None or self.absolute:
            value = ops.constant(self.e.tensor(self.e.evaluate(statement.value, scope)))
            if self.bundle.param is None:
                self.special("param", statement)
            scope.assign("param", value)
            self.absolute = True
            return
        total: Any = None
        for sign, tree in terms:
            value = self.e.tensor(self.e.evaluate(tree, scope), tree)
            ops.span = statement.span
            if total is None:
                total = ops.elementwise("neg", value) if sign < 0 else value
            else:
                total = ops.elementwise("sub" if sign < 0 else "add", total, value)
        self.delta = total if not isinstance(self.delta, Node) and self.delta == 0.0 else ops.elementwise("add", self.delta, total)
        found, now = scope.local("param")
        if found:
            scope.assign("param", ops.constant(ops.elementwise("add", now, total)))

    def do_reportas(self, statement: s.ReportAs, scope: Scope) -> None:
        super().do_reportas(statement, scope)
        if not self.quiet:
            self.flow.reports[f"{self.stage.name}.{statement.name}"] = self.reports[statement.name]
            self.flow.called.setdefault(self.path, {})[statement.name] = self.reports[statement.name]

    def do_on(self, statement: s.On, scope: Scope) -> None:
        from gradflow.events.elaborate import check_block

        check_block(self, statement)
        self.ticks.append(statement)

    # ---- states

    def do_state(self, statement: s.State, scope: Scope) -> None:
        self.states.declare(statement, scope)

    def assign(self, target: s.Target, value: Any, scope: Scope, statement: s.Bind) -> None:
        if not self.states.assigned(target, value, scope, statement):
            super().assign(target, value, scope, statement)

    def shaped(self, value: Node) -> Node:
        """A state as others see it: a flat one in the shape of the leaf where there is but one."""
        if len(self.bundle.leaves) == 1 and value.type.has("param") and value.type.axis("param").size == self.bundle.size:
            return self.e.ops.leaf(value, 0, self.bundle.leaves[0].axes)
        return value

    def own_view(self, value: Any) -> Any:
        """A field of a called stage as this body sees what flows: flat again where it has the shape of the one leaf here."""
        single = self.leaf is None and len(self.bundle.leaves) == 1 and isinstance(value, Node)
        return self.flat(value) if single and value.op == "leaf" and value.type.without(["node"]) == self.bundle.leaves[0].axes else value

    # ---- exchanges, and stages as functions

    def mix(self, value: Node, node: s.Node) -> Node:
        topology = self.flow.topology
        if topology is None:
            raise mistake(
                "E0518", node.span, "`mix` needs a topology", why="it averages over neighbors",
                fix="say who talks to whom: `flow net over ring(16): ..`",
            )  # fmt: skip
        from gradflow.topologies.links import weights_of

        weights = weights_of(self.e, topology, node.span)
        self.e.ops.span = node.span
        moved = self.e.ops.rename(value, {"node": "from"}) if value.type.has("node") else value
        if not moved.type.has("from"):
            return value
        return self.e.ops.dot(weights, moved, ["from"])


def leading_param(tree: s.Expr) -> list[tuple[int, s.Expr]] | None:
    """The terms after a leading `param`: `param + a - b` gives [(1, a), (-1, b)]; None where it does not begin so."""
    terms: list[tuple[int, s.Expr]] = []
    while True:
        while isinstance(tree, s.Group) and len(tree.items) == 1 and tree.items[0].name is None:
            tree = tree.items[0].value
        if isinstance(tree, s.Name):
            return terms[::-1] if tree.id == "param" and terms else None
        if not isinstance(tree, s.Binary) or tree.op not in "+-":
            return None
        terms.append((1 if tree.op == "+" else -1, tree.right))
        tree = tree.left

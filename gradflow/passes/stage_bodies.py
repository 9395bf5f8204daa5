"""The body of one stage: `grad`, `param`, `state`, `step`, and what an exchange adds (`mix`, `graph`).

A stage ends in one of three ways: it hands a gradient on (`return g`), it asks the rest of the flow for a step (`step(g)`), or it is the
last and moves `param` itself. A leading `param` in `param <- param + e` is not a read: the change is `e`, and nothing is lost to rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, mistake
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes
from gradflow.passes.bodies import Body
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.expressions import NUMBERS
from gradflow.passes.names import clock_node
from gradflow.passes.scope import Scope
from gradflow.passes.stages import Below, Bundle, Change, Leaf, StateSlot, Upstream, constant_upstream, flatten
from gradflow.passes.suggestions import head, listed, suggestion, unbuilt


class StageBody(Body):
    """Runs the statements of a stage for one bundle, or for one leaf of it. `quiet` bodies (another point) write no state."""

    def __init__(self, builder: FlowBuilder, stage: v.Stage, up: Upstream, bundle: Bundle, below: Below, path: str, leaf: Leaf | None, quiet: bool):
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
        self.slots: dict[str, StateSlot] = {}
        self.calls = 0
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
        before = self.e.context
        with self.e.at(flow=""), self.e.placed(None):
            value = self.up.at(flat, max(fresh, self.fresh))
        assert self.e.context is before
        return self.view(value)

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
        """Calls that mean something only inside a stage: `grad(at: ..)`, `step(g)`, `mix(x)`."""
        name = node.callee.id if isinstance(node.callee, s.Name) else ""
        if name not in SPECIAL_CALLS:
            return False, None
        named, places = special_arguments(node, name)
        if "per" in named or name == "present":
            from gradflow.privacy.stages import asked_per

            return True, asked_per(self, named.get("per") or places[0], named, node, scope)
        if name == "grad":
            point = self.e.tensor(self.e.evaluate(named["at"], scope)) if "at" in named else None
            return True, self.gradient(point, self.fresh + self.looks(named["fresh"], scope) if "fresh" in named else self.fresh)
        if name == "value":
            point = self.e.tensor(self.e.evaluate(named["at"], scope)) if "at" in named else None
            return True, self.objective_value(point, self.fresh + self.looks(named["fresh"], scope) if "fresh" in named else self.fresh, node)
        if name == "step":
            return True, self.step(self.e.tensor(self.e.evaluate(places[0], scope)), node)
        if name == "mix":
            return True, self.mix(self.e.ops.constant(self.e.tensor(self.e.evaluate(places[0], scope))), node)
        return False, None

    def looks(self, tree: s.Expr, scope: Scope) -> int:
        """`fresh: true` is the next sample, `fresh: k` the k-th after this tick's own."""
        value = self.e.evaluate(tree, scope)
        if isinstance(value, int) and value >= 0:
            return int(value)
        raise mistake(
            "E0402", tree.span, "`fresh` is true, or a whole number that is known when the spec is compiled", why=f"this is {v.kind_name(value)}",
            fix="in a loop `repeat k: 5` count with it: `grad(at: y, fresh: k)`",
        )  # fmt: skip

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
                moved = self.placed_on(moved, state.type.axes, statement)
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
        self.write_states()
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
        total: Any = 0.0
        for sign, tree in terms:
            value = self.e.tensor(self.e.evaluate(tree, scope), tree)
            ops.span = statement.span
            total = (
                (ops.elementwise("neg", value) if sign < 0 else value)
                if total == 0.0 and not isinstance(total, Node)
                else ops.elementwise("sub" if sign < 0 else "add", total, value)
            )
        self.delta = total if not isinstance(self.delta, Node) and self.delta == 0.0 else ops.elementwise("add", self.delta, total)
        found, now = scope.local("param")
        if found:
            scope.assign("param", ops.constant(ops.elementwise("add", now, total)))

    def do_reportas(self, statement: s.ReportAs, scope: Scope) -> None:
        super().do_reportas(statement, scope)
        if not self.quiet:
            self.flow.reports[f"{self.stage.name}.{statement.name}"] = self.reports[statement.name]
            self.flow.called.setdefault(self.path, {})[statement.name] = self.reports[statement.name]

    # ---- states

    def do_on(self, statement: s.On, scope: Scope) -> None:
        from gradflow.events.elaborate import check_block

        check_block(self, statement)
        self.ticks.append(statement)

    def do_state(self, statement: s.State, scope: Scope) -> None:
        if statement.storage is not None:
            raise unbuilt(statement.storage.span, "storage formats cannot run yet", "leave out `as ..`")
        axes: tuple[Axis, ...] = ()
        target: Axis | None = None
        option = statement.type.options[0] if statement.type is not None else None
        if option is not None and option.axes is not None:
            axes, target = declared_axes(self.e, option.axes, scope)
            for item in option.axes.items:
                axis = next((a for a in axes if a.name == item.name), None)
                if axis is not None:
                    scope.axes.setdefault(item.name, axis)
            if target is not None:
                scope.axes.setdefault(target.name, target)
        for name in statement.names:
            self.declare(name, statement, axes if option is not None and option.axes is not None else None, target, scope)

    def declare(self, name: str, statement: s.State, axes: tuple[Axis, ...] | None, target: Axis | None, scope: Scope) -> None:
        with self.e.placed(f"{self.flow.name}.{self.path}.{name}") if statement.drawn else self.e.placed(self.e.place):
            init = self.e.evaluate(statement.init, scope)
        if isinstance(init, v.Record) and init.value is None:  # a state for each field; a buffer's fields say which axes they have
            own = getattr(init, "axes", {})
            parts = {part: self.born(f"{name}.{part}", statement, x, own.get(part), None, scope) for part, x in init.fields.items()}
            scope.names[name] = replace(init, fields=parts)
            return
        scope.names[name] = read = self.born(name, statement, self.e.tensor(init, statement.init), axes, target, scope)
        if target is not None:
            scope.maps.append(read)

    def born(self, name: str, statement: s.State, init: Any, axes: tuple[Axis, ...] | None, target: Axis | None, scope: Scope) -> Node:
        """One state, and what it is at the start of the step."""
        key = f"{self.path}.{name}"
        base = "int" if target is not None else "real"
        found = Type(base, axes if axes is not None else (init.type.axes if isinstance(init, Node) else ()), target)
        if isinstance(init, Node) and axes is not None:
            init = self.placed_on(init, axes, statement)
        type_ = self.flow.settle(key, found)
        read: Node = self.e.ops.source(type_, "state", self.flow.name, key)
        constant = float(init) if isinstance(init, NUMBERS) else None
        if self.e.loops:  # a stage called inside a loop is born with it: its states live from pass to pass and start anew the next time
            known = self.flow.loop_values.get(key) if self.e.loops[-1] > 0 else None
            read = known if known is not None else self.e.ops.expand(init, type_.axes)
            self.slots[name] = StateSlot(key, type_, None, read)
            return read
        if constant is None:
            start = self.e.ops.expand(self.retarget(init, target), type_.axes)
            first = self.e.ops.elementwise("eq", clock_node(self.e, "t", self.flow.name), 1)
            read = self.e.ops.constant(self.e.ops.choose(first, start, read))
        read = self.carried(read)
        slot = StateSlot(key, type_, constant, read)
        if not self.quiet:
            self.flow.states[key] = slot
        self.slots[name] = slot
        return read

    def retarget(self, value: Node, target: Axis | None) -> Node:
        if target is None or value.type.target == target:
            return value
        return self.e.ops.make("rename", (value,), Type("int", value.type.axes, target))

    def carried(self, read: Node) -> Node:
        """The state after a change of coordinates above, leaf by leaf."""
        if not any(leaf.carry is not None for leaf in self.bundle.leaves):
            return read
        if self.leaf is not None:
            own = set(self.leaf.axes) <= set(read.type.axes)
            return self.leaf.carry(read) if own and self.leaf.carry is not None else read
        if not read.type.has("param") or read.type.axis("param").size != self.bundle.size:
            return read
        pieces = []
        for place, leaf in enumerate(self.bundle.leaves):
            piece = self.e.ops.leaf(read, self.bundle.offset(place), leaf.axes)
            pieces.append(leaf.carry(piece) if leaf.carry is not None else piece)
        return self.e.ops.pack(pieces, [leaf.axes for leaf in self.bundle.leaves])

    def assign(self, target: s.Target, value: Any, scope: Scope, statement: s.Bind) -> None:
        slot = self.slots.get(target.name)
        parts = value.fields if isinstance(value, v.Record) else {}
        if slot is None and (not parts or f"{target.name}.{next(iter(parts))}" not in self.slots):
            super().assign(target, value, scope, statement)
            return
        if target.index:
            raise unbuilt(
                target.span, "a state cannot be assigned in part yet",
                f"assign the whole: `{target.name} <- where(position(axis) == i, new, {target.name})`",
            )  # fmt: skip
        if slot is None:
            scope.assign(
                target.name, replace(value, fields={p: self.next_value(self.slots[f"{target.name}.{p}"], x, statement) for p, x in parts.items()})
            )
            return None
        scope.assign(target.name, self.next_value(slot, value, statement))
        return None

    def next_value(self, slot: StateSlot, value: Any, statement: s.Bind) -> Node:
        """What is assigned to a state, with the state's axes."""
        node = self.e.ops.constant(self.e.tensor(value, statement.value))
        node = self.placed_on(node, slot.type.axes, statement)
        wide = self.flow.settle(slot.key, Type(slot.type.base, node.type.axes, slot.type.target))
        return self.e.ops.expand(self.retarget(node, slot.type.target), wide.axes)

    def placed_on(self, node: Node, axes: tuple[Axis, ...], statement: s.Node) -> Node:
        """Axes of a value to those of what it is assigned to: by name where they coincide, else by position."""
        names = [a.name for a in axes]
        missing = [n for n in names if not node.type.has(n)]
        extra = [n for n in node.type.names if n not in names]
        if missing and len(missing) == len(extra) and "param" not in extra and "node" not in extra:
            node = self.e.ops.rename(node, dict(zip(extra, missing, strict=True)))
        return node

    def write_states(self) -> None:
        fields = self.flow.called.setdefault(self.path, {})
        outside = self.e.stage_values.setdefault(id(self.stage), {})
        for name, slot in self.slots.items():
            whole, _, part = name.partition(".")
            value = self.scope.names[whole].fields[part] if part else self.scope.names[whole]
            fields[name] = self.shaped(value)
            outside[name] = ("state", self.flow.name, slot.key, slot.type)
            if self.e.loops:
                self.flow.loop_values[slot.key] = value
            elif value is not slot.read or slot.init is None or slot.read.op != "source":
                slot.write = self.e.ops.expand(value, self.flow.types[slot.key].axes)
        if not self.e.loops and self.e.world is not None:
            self.show(outside)

    def show(self, outside: dict[str, tuple[str, str, str, Type]]) -> None:
        """What the body bound can be read from outside, as it was at the last step; what nobody reads is dropped again."""
        for name, value in self.scope.names.items():
            if isinstance(value, Node) and name not in self.slots and name not in self.stage.bound and name != "param":
                key = f"{self.path}.{name}"
                self.flow.shown[key] = value
                outside[name] = ("held", self.flow.name, key, value.type)

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

    def call_stage(self, stage: Any, node: s.Call, scope: Scope) -> Any:
        """A stage as a function: what a projection makes of a value, or the step that an update makes of it."""
        if len(node.args) != 1 or node.args[0].name is not None:
            raise mistake(
                "E0401", node.span, f"a stage used as a function takes one value, {len(node.args)} given",
                why="it is called on the gradient that it is to work on",
                fix="`compress(grad)`; its options are given where it is named",
            )  # fmt: skip
        value = self.flat(self.e.evaluate(node.args[0].value, scope))
        self.calls += 1
        index = self.call_index(node)
        out: list[Node] = []

        def capture(up: Upstream, bundle: Bundle) -> Change:
            out.append(up.at(None, 0))
            return Change(out[0])

        bundle = Bundle(self.bundle.leaves if self.leaf is None else (self.leaf,), self.bundle.param)
        path = f"{self.path}.call{index}"
        before = set(self.flow.called)
        with self.e.at(passes=self.e.loops[-1] + 1 if self.e.loops else None):
            change = self.builder.chain(
                flatten(stage), constant_upstream(value, "a stage called as a function sees one gradient"), bundle, capture, path + "."
            )
        fields: dict[str, Any] = {}
        for key in [k for k in self.flow.called if k not in before or k.startswith(path)]:
            fields.update({name: self.own_view(x) for name, x in self.flow.called[key].items()})
        self.flow.called[f"#{id(stage)}"] = fields
        result = out[0] if out else self.builder.difference(change, bundle)
        return self.view(self.e.ops.constant(result)) if not self.quiet or result is not None else result

    def call_index(self, node: s.Call) -> int:
        """Calls are told apart by their place in the text."""
        return node.span.offset


SPECIAL_CALLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "grad": (0, ("at", "per", "fresh")), "value": (0, ("at", "fresh")), "step": (1, ()), "mix": (1, ()), "present": (1, ()),
}  # fmt: skip


def special_arguments(node: s.Call, name: str) -> tuple[dict[str, s.Expr], list[s.Expr]]:
    """Named and other arguments of `grad(..)`, `step(..)` and `mix(..)`."""
    wanted, options = SPECIAL_CALLS[name]
    places = [arg.value for arg in node.args if arg.name is None]
    if len(places) != wanted:
        why, fix = f"it is `{name}(g)`", "give it what flows: `grad`, say"
        if name in ("grad", "value"):
            why, fix = f"`{name}(at: x)` takes options alone", "name it: `at: ..`"
        raise mistake("E0401", node.span, f"`{name}` takes {wanted} value{'s' * (wanted != 1)}, {len(places)} given", why=why, fix=fix)
    for arg in node.args:
        if arg.name and arg.name not in options:
            place = head(arg.span, arg.name)
            why = f"its options are {listed(options)}" if options else "it has no options"
            raise mistake("E0404", place, f"`{name}` has no option `{arg.name}`", why=why, **suggestion(place, arg.name, options, "remove it"))
    return {arg.name: arg.value for arg in node.args if arg.name}, places


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

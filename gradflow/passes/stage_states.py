"""The states of one stage: what they are at the start of a step, what is assigned to them, and how others see them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.passes import values as v
from gradflow.passes.axes import declared_axes, placed_on, retargeted
from gradflow.passes.expressions import NUMBERS
from gradflow.passes.names import clock_node
from gradflow.passes.scope import Scope
from gradflow.passes.stages import StateSlot
from gradflow.passes.suggestions import unbuilt

if TYPE_CHECKING:
    from gradflow.passes.stage_bodies import StageBody


class States:
    """The states of one body by name; of a record of states each field by itself (`moments.mean`)."""

    def __init__(self, body: StageBody):
        self.body, self.e, self.flow, self.path = body, body.e, body.flow, body.path
        self.slots: dict[str, StateSlot] = {}

    def declare(self, statement: s.State, scope: Scope) -> None:
        """`state a, b : [axes] = init`."""
        if statement.storage is not None:
            raise unbuilt(statement.storage.span, "storage formats cannot run yet", "leave out `as ..`")
        axes: tuple[Axis, ...] | None = None
        target: Axis | None = None
        written = statement.type.options[0].axes if statement.type is not None else None
        if written is not None:
            axes, target = declared_axes(self.e, written, scope)
            own = {item.name for item in written.items}
            for axis in (*(axis for axis in axes if axis.name in own), *([target] if target is not None else [])):
                scope.axes.setdefault(axis.name, axis)
        for name in statement.names:
            self.named(name, statement, axes, target, scope)

    def named(self, name: str, statement: s.State, axes: tuple[Axis, ...] | None, target: Axis | None, scope: Scope) -> None:
        with self.e.placed(f"{self.flow.name}.{self.path}.{name}" if statement.drawn else self.e.place):
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
            init = placed_on(self.e, init, axes)
        type_ = self.flow.settle(key, found)
        read: Node = self.e.ops.source(type_, "state", self.flow.name, key)
        constant = float(init) if isinstance(init, NUMBERS) else None
        if self.e.loops:  # a stage called inside a loop is born with it: its states live from pass to pass and start anew the next time
            known = self.flow.loop_values.get(key) if self.e.loops[-1] > 0 else None
            read = known if known is not None else self.e.ops.expand(init, type_.axes)
            self.slots[name] = StateSlot(key, type_, None, read)
            return read
        if constant is None:
            start = self.e.ops.expand(retargeted(self.e, init, target), type_.axes)
            first = self.e.ops.elementwise("eq", clock_node(self.e, "t", self.flow.name), 1)
            read = self.e.ops.constant(self.e.ops.choose(first, start, read))
        read = self.carried(read)
        slot = StateSlot(key, type_, constant, read)
        if not self.body.quiet:
            self.flow.states[key] = slot
        self.slots[name] = slot
        return read

    def carried(self, read: Node) -> Node:
        """The state after a change of coordinates above, leaf by leaf."""
        if all(leaf.carry is None for leaf in self.body.bundle.leaves):
            return read
        if self.body.leaf is not None:
            own = set(self.body.leaf.axes) <= set(read.type.axes)
            return self.body.leaf.carried(read) if own else read
        bundle = self.body.bundle
        if not read.type.has("param") or read.type.axis("param").size != bundle.size:
            return read
        pieces = [leaf.carried(self.e.ops.leaf(read, bundle.offset(place), leaf.axes)) for place, leaf in enumerate(bundle.leaves)]
        return self.e.ops.pack(pieces, [leaf.axes for leaf in bundle.leaves])

    def next_value(self, slot: StateSlot, value: Any, statement: s.Bind) -> Node:
        """What is assigned to a state, with the state's axes."""
        node = self.e.ops.constant(self.e.tensor(value, statement.value))
        node = placed_on(self.e, node, slot.type.axes)
        wide = self.flow.settle(slot.key, Type(slot.type.base, node.type.axes, slot.type.target))
        return self.e.ops.expand(retargeted(self.e, node, slot.type.target), wide.axes)

    def write(self) -> None:
        """What the states are after the step, for the flow and for whoever reads the stage's fields."""
        fields = self.flow.called.setdefault(self.path, {})
        outside = self.e.stage_values.setdefault(id(self.body.stage), {})
        for name, slot in self.slots.items():
            whole, _, part = name.partition(".")
            value = self.body.scope.names[whole].fields[part] if part else self.body.scope.names[whole]
            fields[name] = self.body.shaped(value)
            outside[name] = ("state", self.flow.name, slot.key, slot.type)
            if self.e.loops:
                self.flow.loop_values[slot.key] = value
            elif value is not slot.read or slot.init is None or slot.read.op != "source":
                slot.write = self.e.ops.expand(value, self.flow.types[slot.key].axes)
        if not self.e.loops and self.e.world is not None:
            self.show(outside)

    def show(self, outside: dict[str, tuple[str, str, str, Type]]) -> None:
        """What the body bound can be read from outside, as it was at the last step; what nobody reads is dropped again."""
        for name, value in self.body.scope.names.items():
            if isinstance(value, Node) and name not in self.slots and name not in self.body.stage.bound and name != "param":
                key = f"{self.path}.{name}"
                self.flow.shown[key] = value
                outside[name] = ("held", self.flow.name, key, value.type)

    def assigned(self, target: s.Target, value: Any, scope: Scope, statement: s.Bind) -> bool:
        """Assigns to a state, or to all fields of one; False for a name that is none."""
        slot = self.slots.get(target.name)
        parts = value.fields if isinstance(value, v.Record) else {}
        if slot is None and (not parts or f"{target.name}.{next(iter(parts))}" not in self.slots):
            return False
        if target.index:
            raise unbuilt(
                target.span, "a state cannot be assigned in part yet",
                f"assign the whole: `{target.name} <- where(position(axis) == i, new, {target.name})`",
            )  # fmt: skip
        if slot is None:
            new: Any = replace(value, fields={p: self.next_value(self.slots[f"{target.name}.{p}"], x, statement) for p, x in parts.items()})
        else:
            new = self.next_value(slot, value, statement)
        scope.assign(target.name, new)
        return True

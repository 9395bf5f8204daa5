"""The `on each ..` blocks of an exchange, as regions over the rows of the nodes that an event touches (`plan.py` says what these read and give).

What stands outside of the blocks is taken once and is constant. A block is elaborated with the states of the touched nodes as they are after the
time since each node's own last event (`on each wait(dt)`). In a block at nodes a state's name means this node's; in a block at links it means what
all nodes hold, of which only the two ends can be looked at: `x[node: i]`, and changed: `x[i] <- ..`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradflow.events.clocks import Clock
from gradflow.events.hoist import Hoisting
from gradflow.events.plan import EventKind, EventPlan, event_axis
from gradflow.events.rowwise import Rowwise
from gradflow.graph.graph import Node, Region, substitute
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes import values as v
from gradflow.passes.bodies import Body
from gradflow.passes.calls import unbuilt
from gradflow.passes.scope import Scope
from gradflow.passes.stage_bodies import StageBody
from gradflow.passes.stages import Change
from gradflow.passes.suggestions import listed, suggestion

PLACES = {"node": ("i",), "link": ("i", "j"), "wait": ("dt",)}
COUNTERS = ("node_events", "link_events", "last_event")


@dataclass
class Built:
    """What the blocks of one exchange became, on the `Flow`."""

    stage: v.Stage
    plan: EventPlan
    states: list[tuple[str, Type, float]] = field(default_factory=list)

    def last_of(self, chain: list[Any]) -> Built:
        """The same, if the exchange stands last in its flow. Raises Mistake."""
        if chain[-1] is not self.stage:
            raise mistake(
                "E0531", self.stage.span, f"`{self.stage.name}` must stand last in its flow", why="its nodes move `param` at events, and no step comes after",
                fix="put the stages behind it before it, or leave them out",
            )  # fmt: skip
        return self


def misplaced(statement: s.On, why: str, fix: str) -> Mistake:
    return mistake("E0531", statement.pattern.span, "this cannot be the place of an event", why=why, fix=fix)


def check_block(body: StageBody, statement: s.On) -> None:
    """Whether `on each PLACE(..) ~ clock` is one that can run."""
    pattern = statement.pattern
    if not statement.each or not isinstance(pattern, s.NamedPattern):
        raise unbuilt(pattern.span, "layer patterns inside of a body cannot run yet", "say what happens to the gradient of each leaf: `on [row, col]` in the head")
    if pattern.name not in PLACES:
        fix = suggestion(pattern.span, pattern.name, PLACES, "`on each node(i) ~ poisson(1) { .. }`")["fix"]
        raise misplaced(statement, f"events happen at {listed(PLACES)}", fix)
    if body.stage.kind != "exchange" or body.leaf is not None:
        raise misplaced(statement, "nodes and links are those of a topology, which only an exchange knows", "make it an `exchange`")
    wanted = PLACES[pattern.name]
    if len(pattern.params) != len(wanted) or pattern.where is not None:
        raise misplaced(statement, f"it is `{pattern.name}({', '.join(wanted)})`", f"`on each {pattern.name}({', '.join(wanted)})`")
    if (statement.rate is None) != (pattern.name == "wait"):
        why = "waiting has no clock: it is the time between events" if pattern.name == "wait" else "an event happens when a clock ticks"
        raise misplaced(statement, why, "`on each wait(dt) { .. }`" if pattern.name == "wait" else f"`on each {pattern.name}({', '.join(wanted)}) ~ poisson(1)`")


def event_change(body: StageBody) -> Change:
    """What an exchange with events makes of the parameters: nothing by itself; its blocks are left on the flow."""
    e, flow = body.e, body.flow
    if flow.topology is None or flow.topology.nodes is None:
        raise mistake("E0518", body.ticks[0].pattern.span, "events happen at the nodes of a topology", why="how many nodes there are must be known",
                      fix="say who talks to whom: `flow net over ring(16): ..`")  # fmt: skip
    if body.returned is not None or body.stepped is not None or body.absolute or body.delta != 0.0 or body.bundle.param is None:
        raise misplaced(body.ticks[0], "an exchange with events moves `param` at events alone, and stands last in its flow",
                        "put what moves `param` into a block `on each node(i) ~ poisson(1)`")  # fmt: skip
    node = Axis("node", flow.topology.nodes)
    for slot in body.slots.values():
        found = flow.settle(slot.key, Type(slot.type.base, (node, *slot.type.without(["node"])), slot.type.target))
        if found.base != "real" or found.target is not None:
            raise unbuilt(body.stage.span, "states of events that are no real numbers cannot run yet", "keep real numbers")
        slot.type = found
    param = e.ops.expand(body.bundle.param, (node, body.bundle.axis))
    ready = all(node.name in source.type.names for source in _sources(body.bundle.param)) and not flow.dirty
    if ready and not body.quiet:
        flow.events = EventBuilder(body, node).built()
        show(body, flow.events.plan)
    elif e.world is None and not body.quiet:
        flow.dirty = flow.dirty or not body.bundle.param.type.has("node")
        body.bundle = type(body.bundle)(body.bundle.leaves, param)
        if not flow.dirty:
            EventBuilder(body, node).built()
    return Change(param, True)


def show(body: StageBody, plan: EventPlan) -> None:
    """What reports can read of the exchange: its states, what it bound outside of the blocks, and how many events there were where and when."""
    outside = body.e.stage_values.setdefault(id(body.stage), {})
    outside |= {name: ("state", body.flow.name, slot.key, slot.type) for name, slot in body.slots.items()}
    types = (Type("int"), Type("int"), Type("real", (Axis("node", plan.nodes),)))
    outside |= {name: ("state", body.flow.name, key, type_) for name, key, type_ in zip(COUNTERS, plan.counters, types, strict=True)}
    body.show(outside)


def _sources(param: Node) -> list[Node]:
    return [source for source in Region((("", param),)).sources() if source["kind"] == "param"]


class EventBuilder:
    """Elaborates the blocks of one exchange."""

    def __init__(self, body: StageBody, node: Axis):
        self.body, self.e, self.node = body, body.e, node
        self.ops = body.e.ops
        self.axis = event_axis()
        self.params = _sources(body.bundle.param)  # type: ignore[arg-type]
        self.reads = {name: _read(slot.read) for name, slot in body.slots.items()}
        self.waits = [one for one in body.ticks if one.pattern.name == "wait"]  # type: ignore[union-attr]
        self.blocks = [one for one in body.ticks if one.pattern.name != "wait"]  # type: ignore[union-attr]
        if len(self.waits) > 1 or not self.blocks:
            raise misplaced(body.ticks[-1], "there is one block for the time between events, and at least one for events", "join the blocks")
        self.hoisting = Hoisting(self.ops)

    # ---- what a node keeps

    def rows(self) -> list[tuple[str, Type]]:
        found = [(f"param/{one['path'][0]}", one.type) for one in self.params]
        found += [(f"state/{self.body.flow.name}/{slot.key}", slot.type) for slot in self.body.slots.values()]
        return [(name, Type(type_.base, type_.without(["node"]))) for name, type_ in found]

    def row_source(self, name: str, type_: Type, end: int) -> Node:
        return self.ops.source(Type("real", (self.axis, *type_.axes)), "row", str(end), *name.split("/"))

    def kept(self, end: int) -> dict[str, Node]:
        """What the node at an end kept at its own last event, by the names of the body."""
        rows = {name: self.row_source(name, type_, end) for name, type_ in self.rows()}
        param = self.body.bundle.param
        assert param is not None
        moved = Rowwise(self.ops, (self.end(0),), {one.id: {end: rows[f"param/{one['path'][0]}"]} for one in self.params})
        found = {"param": moved.row(param, end)}
        return found | {name: rows[f"state/{self.body.flow.name}/{slot.key}"] for name, slot in self.body.slots.items()}

    def end(self, place: int) -> Node:
        return self.ops.source(Type("int", (self.axis,), self.node), "event", str(place))

    def waited(self, end: int) -> dict[str, Node]:
        """The same, after the time that the node has waited since."""
        found = self.kept(end)
        for statement in self.waits:
            block = Block(self, ())
            block.rows = found
            dt = self.ops.source(Type("real", (self.axis,)), "event", "wait", str(end))
            found = block.carried_out(statement, {statement.pattern.params[0].name: dt})  # type: ignore[union-attr]
        return found

    # ---- all of it

    def built(self) -> Built:
        flow, path = self.body.flow, self.body.path
        rows = self.rows()
        kinds, clocks = [], []
        for number, statement in enumerate(self.blocks):
            place = statement.pattern.name  # type: ignore[union-attr]
            clock = self.clock(statement)
            clocks += self.clock_values(number, statement, clock)
            region = self.region(self.block_results(statement), f"an event at a {place}")
            kinds.append((place, clock.kind, region, statement.span))
        settle = self.region(self.named(self.waited(0), 0), "waiting")
        others = [key for key in flow.states if key not in {slot.key for slot in self.body.slots.values()}]
        if others:
            raise unbuilt(self.body.stage.span, "stages with a memory of their own cannot stand around events yet", f"leave out what keeps `{others[0]}`")
        constants = Region(tuple([*clocks, *self.hoisting.results("const")]), (), "constants")
        start = Region(tuple(self.starts()), (), "start")
        counters = tuple(f"{path}.{name}" for name in COUNTERS)
        hoisted = self.hoisting.schedule
        made = tuple(EventKind(place, clock, body, hoisted(body), span) for place, clock, body, span in kinds)
        plan = EventPlan(self.node.size or 0, tuple(rows), made, constants, start, settle, hoisted(settle), counters)  # type: ignore[arg-type]
        states = [(slot.key, slot.type, slot.init if slot.init is not None else 0.0) for slot in self.body.slots.values()]
        states += [(counters[0], Type("int"), 0.0), (counters[1], Type("int"), 0.0), (counters[2], Type("real", (self.node,)), 0.0)]
        return Built(self.body.stage, plan, states)

    def starts(self) -> list[tuple[str, Node]]:
        """States that begin at a value of the graph."""
        found = []
        for slot in self.body.slots.values():
            if slot.init is None:
                found.append((f"state/{self.body.flow.name}/{slot.key}", self.ops.expand(slot.read.inputs[1], slot.type.axes)))
        return found

    def region(self, results: list[tuple[str, Node]], name: str) -> Region:
        return self.hoisting.lifted(Region(tuple(results), (), name))

    def named(self, values: dict[str, Node], end: int) -> list[tuple[str, Node]]:
        """Rows by the names of results, each with the axes that it is kept with."""
        found = []
        flat = values["param"]
        offset = 0
        for one in self.params:
            size = one.type.axis("param").size or 0
            piece = flat if len(self.params) == 1 else self.ops.leaf(flat, offset, (Axis("param", size),))
            offset += size
            found.append((f"param/{one['path'][0]}", piece))
        found += [(f"state/{self.body.flow.name}/{slot.key}", values[name]) for name, slot in self.body.slots.items()]
        types = dict(self.rows())
        return [(f"row/{end}/{name}", self.ops.expand(value, (self.axis, *types[name].axes))) for name, value in found]

    def block_results(self, statement: s.On) -> list[tuple[str, Node]]:
        names = [param.name for param in statement.pattern.params]  # type: ignore[union-attr]
        block = Block(self, tuple(self.end(place) for place in range(len(names))))
        if len(names) == 1:
            block.rows = self.waited(0)
            return self.named(block.carried_out(statement, {names[0]: block.ends[0]}), 0)
        for place in range(2):
            for name, row in self.waited(place).items():
                block.ends_of.setdefault(name, {})[place] = row
        block.carried_out(statement, dict(zip(names, block.ends, strict=True)))
        return [one for place in range(2) for one in self.named({name: rows[place] for name, rows in block.ends_of.items()}, place)]

    # ---- clocks

    def clock(self, statement: s.On) -> Clock:
        assert statement.rate is not None
        value = self.e.evaluate(statement.rate, self.body.scope)
        if isinstance(value, Clock):
            return value
        raise mistake(
            "E0531", statement.rate.span, f"a clock is needed here, this is {v.kind_name(value)}", why="it says when events happen",
            fix="`~ poisson(1)`, or with a rate for each link: `~ poisson(rate)`",
        )  # fmt: skip

    def clock_values(self, number: int, statement: s.On, clock: Clock) -> list[tuple[str, Node]]:
        place = statement.pattern.name  # type: ignore[union-attr]
        where = self.node
        found: list[tuple[str, Node]] = []
        if place == "link":
            from gradflow.topologies.edges import ends

            assert self.body.flow.topology is not None
            first, second = ends(self.e, self.body.flow.topology, self.body.scope)
            where = first.type.axes[0]
            found = [("ends/0", first), ("ends/1", second)] if not any(one.pattern.name == "link" for one in self.blocks[:number]) else []  # type: ignore[union-attr]
        if clock.kind == "poisson":
            rate = self.ops.constant(clock.values["rate"])
            if rate.type.without([where.name]):
                raise mistake("E0531", statement.rate.span, f"the rate of a clock at each {place} is a number or has the axis `{where.name}`",  # type: ignore[union-attr]
                              why=f"this is {v.kind_name(rate)}", fix=f"give one rate for each {place}")  # fmt: skip
            return [*found, (f"rate/{number}", self.ops.expand(rate, (where,)))]
        return [*found, *((f"{name}/{number}", self.ops.constant(clock.values[name])) for name in ("time", "at", "mine"))]


def _read(read: Node) -> Node:
    """The state itself, behind the choice of its start."""
    return read.inputs[2] if read.op == "choose" else read


class Block(StageBody):
    """The body of one block. `rows`: what the node holds (a block at nodes, or waiting); `ends_of`: what each end holds (a block at links)."""

    def __init__(self, builder: EventBuilder, ends: tuple[Node, ...]):
        self.__dict__.update(builder.body.__dict__)
        self.built, self.ends = builder, ends
        self.rows: dict[str, Node] = {}
        self.ends_of: dict[str, dict[int, Node]] = {}
        self.marks: dict[int, dict[int, Node]] = {}
        self.slots = {}

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
        raise mistake("E0501", statement.span, "`state` has no place in a block of events", why="what a node keeps is declared once, before the blocks",
                      fix="move it out of the block")  # fmt: skip

    do_return = do_carry = do_on = do_reportas = do_state  # type: ignore[assignment]

    def draw(self, statement: s.Bind, scope: Scope) -> Any:
        raise unbuilt(statement.span, "draws inside of an event cannot run yet", "leave them out")

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
            raise mistake("E0302", statement.span, f"`{name}` of one node has no axis `{extra[0]}`", why=f"it is {v.kind_name(kept)}",
                          fix="take the value of one node: `x[node: i]`" if extra[0] == "node" else "reduce the axis, or keep a state that has it")  # fmt: skip
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
                raise mistake("E0505", target.span, f"which end's `{name}`?", why="a block at links changes the two nodes that it touches, each by itself",
                              fix=f"`{name}[i] <- ..`")  # fmt: skip
            return 0
        index = self.e.evaluate(target.index[0].value, scope) if len(target.index) == 1 else None
        place = next((number for number, end in enumerate(self.ends) if index is end), None)
        if place is None or target.index[0].name not in (None, "node"):
            raise mistake("E0505", target.span, "an event changes the nodes that it touches", why="nobody waits for anybody, so that others cannot be changed",
                          fix=f"`{name}[i] <- ..`, with the name that the block gives its node")  # fmt: skip
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
        raise misplaced(self.ticks[0], "an exchange with events stands last in its flow: nothing below it could make a step", "write the update in the block")

    def mix(self, value: Node, node: s.Node) -> Node:
        raise mistake("E0530", node.span, "an event reads more than the nodes that it touches", why="`mix` averages over all neighbors of all nodes",
                      fix="talk over one link: `on each link(i, j) ~ poisson(1)`")  # fmt: skip


__all__ = ["Built", "EventBuilder", "check_block", "event_change", "substitute"]

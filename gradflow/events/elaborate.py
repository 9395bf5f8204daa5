"""The `on each ..` blocks of an exchange, as regions over the rows of the nodes that an event touches (`plan.py` says what these read and give).

What stands outside of the blocks is taken once and is constant. A block is elaborated with the states of the touched nodes as they are after the
time since each node's own last event (`on each wait(dt)`). In a block at nodes a state's name means this node's; in a block at links it means what
all nodes hold, of which only the two ends can be looked at: `x[node: i]`, and changed: `x[i] <- ..`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradflow.events.block import Block, misplaced
from gradflow.events.clocks import Clock
from gradflow.events.hoist import Hoisting
from gradflow.events.plan import EventKind, EventPlan, event_axis
from gradflow.events.rowwise import Rowwise
from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.stage_bodies import StageBody
from gradflow.passes.stages import Change
from gradflow.passes.suggestions import listed, suggestion, unbuilt

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
                "E0531",
                self.stage.span,
                f"`{self.stage.name}` must stand last in its flow",
                why="its nodes move `param` at events, and no step comes after",
                fix="put the stages behind it before it, or leave them out",
            )
        return self


def check_block(body: StageBody, statement: s.On) -> None:
    """Whether `on each PLACE(..) ~ clock` is one that can run."""
    pattern = statement.pattern
    if not statement.each or not isinstance(pattern, s.NamedPattern):
        raise unbuilt(
            pattern.span,
            "layer patterns inside of a body cannot run yet",
            "say what happens to the gradient of each leaf: `on [row, col]` in the head",
        )
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
        raise misplaced(
            statement, why, "`on each wait(dt) { .. }`" if pattern.name == "wait" else f"`on each {pattern.name}({', '.join(wanted)}) ~ poisson(1)`"
        )


def event_change(body: StageBody) -> Change:
    """What an exchange with events makes of the parameters: nothing by itself; its blocks are left on the flow."""
    e, flow = body.e, body.flow
    if flow.topology is None or flow.topology.nodes is None:
        raise mistake(
            "E0518",
            body.ticks[0].pattern.span,
            "events happen at the nodes of a topology",
            why="how many nodes there are must be known",
            fix="say who talks to whom: `flow net over ring(16): ..`",
        )
    if body.returned is not None or body.stepped is not None or body.absolute or body.delta != 0.0 or body.bundle.param is None:
        raise misplaced(
            body.ticks[0],
            "the gradient ends here, and there is no step after events",
            "put what moves `param` into a block `on each node(i) ~ poisson(1)`",
            f"the events of `{body.stage.name}` must be all that moves `param`",
        )
    node = Axis("node", flow.topology.nodes)
    for slot in body.states.slots.values():
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
    outside |= {name: ("state", body.flow.name, slot.key, slot.type) for name, slot in body.states.slots.items()}
    types = (Type("int"), Type("int"), Type("real", (Axis("node", plan.nodes),)))
    outside |= {name: ("state", body.flow.name, key, type_) for name, key, type_ in zip(COUNTERS, plan.counters, types, strict=True)}
    body.states.show(outside)


def _sources(param: Node) -> list[Node]:
    return [source for source in Region((("", param),)).sources() if source["kind"] == "param"]


class EventBuilder:
    """Elaborates the blocks of one exchange."""

    def __init__(self, body: StageBody, node: Axis):
        self.body, self.e, self.node = body, body.e, node
        self.ops = body.e.ops
        self.axis = event_axis()
        self.params = _sources(body.bundle.param)  # type: ignore[arg-type]
        self.reads = {name: _read(slot.read) for name, slot in body.states.slots.items()}
        self.waits = [one for one in body.ticks if one.pattern.name == "wait"]  # type: ignore[union-attr]
        self.blocks = [one for one in body.ticks if one.pattern.name != "wait"]  # type: ignore[union-attr]
        if len(self.waits) > 1 or not self.blocks:
            message = "waiting is described twice" if len(self.waits) > 1 else "a node waits here, and nothing ever happens to it"
            why = "there is one block for the time between events, and at least one for events"
            raise misplaced(body.ticks[-1], why, "join the blocks" if len(self.waits) > 1 else "add `on each node(i) ~ poisson(1) { .. }`", message)
        self.hoisting = Hoisting(self.ops)

    # ---- what a node keeps

    def rows(self) -> list[tuple[str, Type]]:
        found = [(f"param/{one['path'][0]}", one.type) for one in self.params]
        found += [(f"state/{self.body.flow.name}/{slot.key}", slot.type) for slot in self.body.states.slots.values()]
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
        return found | {name: rows[f"state/{self.body.flow.name}/{slot.key}"] for name, slot in self.body.states.slots.items()}

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
        others = [key for key in flow.states if key not in {slot.key for slot in self.body.states.slots.values()}]
        if others:
            raise unbuilt(
                self.body.stage.span, "stages with a memory of their own cannot stand around events yet", f"leave out what keeps `{others[0]}`"
            )
        constants = Region(tuple([*clocks, *self.hoisting.results("const")]), (), "constants")
        start = Region(tuple(self.starts()), (), "start")
        counters = tuple(f"{path}.{name}" for name in COUNTERS)
        hoisted = self.hoisting.schedule
        made = tuple(EventKind(place, clock, body, hoisted(body), span) for place, clock, body, span in kinds)
        plan = EventPlan(self.node.size or 0, tuple(rows), made, constants, start, settle, hoisted(settle), counters)  # type: ignore[arg-type]
        states = [(slot.key, slot.type, slot.init if slot.init is not None else 0.0) for slot in self.body.states.slots.values()]
        states += [(counters[0], Type("int"), 0.0), (counters[1], Type("int"), 0.0), (counters[2], Type("real", (self.node,)), 0.0)]
        return Built(self.body.stage, plan, states)

    def starts(self) -> list[tuple[str, Node]]:
        """States that begin at a value of the graph."""
        found = []
        for slot in self.body.states.slots.values():
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
        found += [(f"state/{self.body.flow.name}/{slot.key}", values[name]) for name, slot in self.body.states.slots.items()]
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
            "E0531",
            statement.rate.span,
            f"a clock is needed here, this is {v.kind_name(value)}",
            why="it says when events happen",
            fix="`~ poisson(1)`, or with a rate for each link: `~ poisson(rate)`",
        )

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
                raise mistake(
                    "E0531",
                    statement.pattern.span,
                    f"the rate of a clock at each {place} is a number or has the axis `{where.name}`",
                    why=f"this is {v.kind_name(rate)}",
                    fix=f"give one rate for each {place}",
                )
            return [*found, (f"rate/{number}", self.ops.expand(rate, (where,)))]
        return [*found, *((f"{name}/{number}", self.ops.constant(clock.values[name])) for name in ("time", "at", "mine"))]


def _read(read: Node) -> Node:
    """The state itself, behind the choice of its start."""
    return read.inputs[2] if read.op == "choose" else read


__all__ = ["Built", "EventBuilder", "check_block", "event_change"]

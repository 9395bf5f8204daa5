"""Loops around calls that act on the world: `repeat round: 10 with kept = none until size(kept, over: prompt) >= 32 { .. }`.

Such a loop is no node of a graph: its calls are made pass after pass. What its `with` names carry, numbers and records, is held between passes under
the loop's own id; the formulas of a pass read it from there. The axes of what is carried settle as in a scan; where sizes differ they are open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node, Region
from gradflow.graph.operations import Operations, Value
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.loops.scan import assigned, merged
from gradflow.passes import values as v
from gradflow.passes.suggestions import head
from gradflow.procedures.acting import text_of
from gradflow.procedures.acts import Draw, Loop, Text, WorldCall

if TYPE_CHECKING:
    from gradflow.passes.bodies import Body
    from gradflow.passes.scope import Scope

ROUNDS = 4
MOST_PASSES = 4096
TICK = 1 << 32  # draws of a pass are those of no tick


def acting_loop(body: Body, statement: s.Repeat, scope: Scope) -> None:
    """Appends the loop to what acts, and gives the `with` names the values that they have behind it."""
    e = body.e
    assert e.world is not None
    count = _count(body, statement, scope)
    id_ = f"loop{e.calls}"
    e.calls += 1
    starts = {start.name: e.evaluate(start.value, scope) for start in statement.values}
    outer_names = [n for n in dict.fromkeys(assigned(statement.body, set(starts))) if isinstance(scope.local(n)[1], Node | int | float | v.Record)]
    starts |= {n: scope.local(n)[1] for n in outer_names}
    shapes = dict(starts)
    outer = e.world, e.calls
    for _ in range(ROUNDS):
        e.world, e.calls = [], outer[1]
        slots = {name: _slot(body, id_, name, shape) for name, shape in shapes.items()}
        until, following = _pass(body, statement, scope, id_, slots)
        wider = {name: _wider(body, statement, shape, following[name]) for name, shape in shapes.items()}
        if all(_same(wider[name], shapes[name]) for name in shapes):
            break
        shapes = wider
    else:
        raise mistake(
            "E0511", head(statement.span, "repeat"), "the loop's variables do not settle on their axes",
            why=f"after {ROUNDS} looks at the body, one of them still gets another axis", fix="start them with all their fields and axes",
        )  # fmt: skip
    acts = tuple(Draw("", one) if isinstance(one, WorldCall) else one for one in e.world)
    e.world = outer[0]
    first, texts_before = _written(body, id_, starts, shapes)
    then, texts_after = _written(body, id_, following, shapes)
    empty = {f"{name}.{n}": x.type for name, shape in shapes.items() if starts[name] is v.NONE for n, x in shape.fields.items()}
    texts = {name: (texts_before.get(name), text) for name, text in texts_after.items()}
    stop = Region((("until", until),)) if until is not None else None
    e.world.append(Loop(id_, count, acts, Region(first), Region(then), stop, texts, empty, statement.span))
    for name, shape in shapes.items():
        if name not in outer_names:
            scope.names[name] = v.NONE
        scope.assign(name, _slot(body, id_, name, shape))


def _count(body: Body, statement: s.Repeat, scope: Scope) -> int:
    axis = statement.axis
    count = body.e.evaluate(axis.size, scope) if axis is not None and axis.size is not None else None
    if not isinstance(count, int) or not 0 < count <= MOST_PASSES:
        where = axis.size.span if axis is not None and axis.size is not None else head(statement.span, "repeat")
        raise mistake(
            "E0507", where, f"a loop that acts on the world has a number of passes, at most {MOST_PASSES}",
            why="it must end even where its `until` never comes true", fix="give the most that you want: `repeat round: 10 with .. until .. { .. }`",
        )  # fmt: skip
    return count


def _slot(body: Body, id_: str, name: str, shape: Any) -> Any:
    """What a carried name is worth in a pass."""
    ops = body.e.ops
    if shape is v.NONE:
        return v.NONE
    if isinstance(shape, v.Record) and shape.value is None:
        fields = {n: ops.source(x.type, "world", id_, f"{name}.{n}") for n, x in shape.fields.items()}
        return replace(shape, fields=fields, texts={n: ops.source(x.type, "world", id_, f"{name}.{n}") for n, x in shape.texts.items()})
    return ops.source(ops.constant(body.e.tensor(shape)).type, "world", id_, name)


def _pass(body: Body, statement: s.Repeat, scope: Scope, id_: str, slots: dict[str, Any]) -> tuple[Node | None, dict[str, Any]]:
    e = body.e
    within = scope.child()
    within.names.update(slots)
    within.names[statement.axis.name if statement.axis else ""] = number = e.ops.source(Type("int"), "world", id_, "pass")
    until = e.ops.constant(e.tensor(e.evaluate(statement.until, within), statement.until)) if statement.until is not None else None
    e.keeping.loops += 1
    try:
        with e.passing(ActingPass(e.ops, number, e.keeping.loops - 1)):
            body.run(statement.body, within.child())
    finally:
        e.keeping.loops -= 1
    return until, {name: within.names[name] for name in slots}


@dataclass(frozen=True)
class ActingPass:
    """A pass of a loop that acts, by the number that it has when the run comes to it; `level`: how many such loops are around."""

    ops: Operations
    number: Node
    level: int

    def tick(self, before: Value) -> Value:
        """The tick of a draw that happens in this pass: another for every pass of every loop around it."""
        step = self.ops.elementwise("mul", self.ops.elementwise("add", self.number, 1), TICK * MOST_PASSES**self.level)
        return self.ops.elementwise("add", before, step)


# ---- what is carried


def _wider(body: Body, statement: s.Repeat, shape: Any, following: Any) -> Any:
    """A value of the type that holds both."""
    e = body.e
    if shape is v.NONE:
        return _open(body, following) if isinstance(following, v.Record) else following
    if isinstance(shape, v.Record) and shape.value is None:
        if following is v.NONE:
            return shape
        if not isinstance(following, v.Record) or set(shape.fields) != set(following.fields) or set(shape.texts) != set(following.texts):
            raise mistake(
                "E0511", head(statement.span, "repeat"), "what the loop carries changes its fields",
                why=f"it begins as {v.kind_name(shape)} and is then {v.kind_name(following)}", fix="give it the same fields in every pass",
            )  # fmt: skip
        fields = {n: _wider(body, statement, x, following.fields[n]) for n, x in shape.fields.items()}
        return replace(shape, fields=fields, texts={n: _wider(body, statement, x, following.texts[n]) for n, x in shape.texts.items()})
    one, other = (e.ops.constant(e.tensor(x)).type for x in (shape, following))
    open_ = replace(one, axes=tuple(Axis(a.name, None) if other.has(a.name) and other.axis(a.name).size != a.size else a for a in one.axes))
    return e.graph.fresh("element", merged(open_, replace(other, axes=other.without(one.names))), statement.span)


def _open(body: Body, record: v.Record) -> v.Record:
    """A record that began as `none`: how many samples and prompts it has is not known."""

    def opened(node: Any) -> Node:
        type_ = body.e.ops.constant(node).type
        axes = tuple(Axis(a.name, None) if a.name in ("sample", "prompt") else a for a in type_.axes)
        target = type_.target
        if target is not None and target.name in ("sample", "prompt"):
            target = Axis(target.name, None)
        return body.e.graph.fresh("element", Type(type_.base, axes, target))

    return replace(record, fields={n: opened(x) for n, x in record.fields.items()}, texts={n: opened(x) for n, x in record.texts.items()})


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, v.Record) and isinstance(other, v.Record) and one.value is None:
        pairs = ((one.fields, other.fields), (one.texts, other.texts))
        return all(a.keys() == b.keys() and all(_same(a[n], b[n]) for n in a) for a, b in pairs)
    if isinstance(one, Node) and isinstance(other, Node):
        return one.type == other.type
    return one is other or (not isinstance(one, Node | v.Record) and one == other)


def _written(body: Body, id_: str, values: dict[str, Any], shapes: dict[str, Any]) -> tuple[tuple[tuple[str, Node], ...], dict[str, Text]]:
    ops = body.e.ops
    results: list[tuple[str, Node]] = []
    texts: dict[str, Text] = {}
    for name, value in values.items():
        if value is v.NONE:
            continue
        if isinstance(value, v.Record) and value.value is None:
            for n, x in value.fields.items():
                results.append((f"world/{id_}/{name}.{n}", ops.expand(ops.constant(x), shapes[name].fields[n].type.axes)))
            texts |= {f"{name}.{n}": text_of(x) for n, x in value.texts.items()}
        else:
            node = ops.constant(body.e.tensor(value))
            axes = shapes[name].type.axes if isinstance(shapes[name], Node) else node.type.axes
            results.append((f"world/{id_}/{name}", ops.expand(node, axes)))
    return tuple(results), texts

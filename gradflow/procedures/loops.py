"""Loops around calls that act on the world: `repeat round: 10 with kept = none until size(kept, over: prompt) >= 32 { .. }`.

Such a loop is no node of a graph: its calls are made pass after pass. What its `with` names carry, numbers and records, is held between passes under
the loop's own id; the formulas of a pass read it from there. The axes of what is carried settle as in a scan; where sizes differ they are open.
Values that are bound inside are stacked along the loop's axis where something behind it reads them. A `when` around calls is such a loop, of one pass
or none.
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
from gradflow.procedures.stacks import stacked

if TYPE_CHECKING:
    from gradflow.passes.bodies import Body
    from gradflow.passes.scope import Scope

ROUNDS = 4
MOST_PASSES = 4096
TICK = 1 << 32  # draws of a pass are those of no tick
CARRIED = (Node, int, float, v.Record)


def acting_loop(body: Body, statement: s.Repeat, scope: Scope) -> None:
    """Appends the loop to what acts, and gives the `with` names the values that they have behind it."""
    e = body.e
    assert e.world is not None
    count = _count(body, statement, scope)
    id_ = f"loop{e.calls}"
    e.calls += 1
    starts = {start.name: e.evaluate(start.value, scope) for start in statement.values}
    assigns = dict.fromkeys(assigned(statement.body, set(starts)))
    outer_names = [n for n in assigns if isinstance(scope.local(n)[1], CARRIED) or scope.local(n) == (True, v.NONE)]
    starts |= {n: scope.local(n)[1] for n in outer_names}
    shapes = dict(starts)
    outer, kept = (e.world, e.calls), e.keeping.copied()
    for _ in range(ROUNDS):
        e.world, e.calls, e.keeping = [], outer[1], kept.copied()
        slots = {name: _slot(body, id_, name, shape) for name, shape in shapes.items()}
        pass_ = _pass(body, statement, scope, id_, slots, count)
        wider = {name: _wider(body, statement, name, shape, pass_.following[name]) for name, shape in shapes.items()}
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
    then, texts_after = _written(body, id_, pass_.following, shapes)
    stacks = stacked(body, statement, scope, id_, pass_.bound, pass_.number, count)
    states = e.keeping.looped(id_)
    first, then = ((*own, *stacks.results[i], *states[i]) for i, own in enumerate((first, then)))
    begun = {name: shape for name, shape in shapes.items() if starts[name] is v.NONE and isinstance(shape, v.Record)}
    empty = {f"{name}.{n}": x.type for name, shape in begun.items() for n, x in shape.fields.items()}
    texts = {name: (texts_before.get(name), text) for name, text in texts_after.items()}
    stop = Region((("until", pass_.until),)) if pass_.until is not None else None
    e.world.append(Loop(id_, count, acts, Region(first), Region(then), stop, texts, empty, statement.span))
    for name, shape in shapes.items():
        if name not in outer_names:
            scope.names[name] = v.NONE
        scope.assign(name, _slot(body, id_, name, shape))
    scope.names.update(stacks.names)
    if statement.axis is not None and statement.axis.name:
        scope.axes[statement.axis.name] = Axis(statement.axis.name, count)


def acting_choice(body: Body, statement: s.When, scope: Scope, condition: Node) -> None:
    """`when` around what acts: a loop that ends before its only pass where the condition does not hold."""
    if condition.type.axes or condition.type.base != "bool":
        raise mistake(
            "E0501", statement.condition.span, "whether something acts is decided once, not entry by entry",
            why=f"this is {v.kind_name(condition)}",
            fix="choose rows instead, `sample(policy, tasks[condition], ..)`, or decide by one truth value: `any(..)`, `mean(..) < 0.5`",
        )  # fmt: skip
    span = statement.span
    once = s.AxisItem(span, "", s.Number(span, 1, "1"))
    acting_loop(body, s.Repeat(span, once, False, (), s.Unary(statement.condition.span, "not", statement.condition), statement.body), scope)


def _count(body: Body, statement: s.Repeat, scope: Scope) -> int:
    axis = statement.axis
    count = body.e.evaluate(axis.size, scope) if axis is not None and axis.size is not None else None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_PASSES:
        where = axis.size.span if axis is not None and axis.size is not None else head(statement.span, "repeat")
        raise mistake(
            "E0507", where, f"a loop that acts on the world has a number of passes, at most {MOST_PASSES}, that is known before it runs",
            why=("this is " + v.kind_name(count) if count is not None else "none is given") + "; it must end even where its `until` never comes true",
            fix="give the most that you want: `repeat round: 10 with .. until .. { .. }`",
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
    return ops.source((shape if _is_text(shape) else ops.constant(body.e.tensor(shape))).type, "world", id_, name)


def _is_text(value: Any) -> bool:
    return isinstance(value, Node) and value.type.base == "text"


@dataclass(frozen=True)
class Pass:
    """What the body makes of what is carried: when no further pass is made, the names as they go on, what it binds itself, the number of the pass."""

    until: Node | None
    following: dict[str, Any]
    bound: dict[str, Any]
    number: Node


def _pass(body: Body, statement: s.Repeat, scope: Scope, id_: str, slots: dict[str, Any], count: int) -> Pass:
    e = body.e
    within = scope.child()
    within.names.update(slots)
    made: Any = e.ops.source(Type("int"), "world", id_, "pass")
    number = e.ops.constant(e.ops.elementwise("sub", count - 1, made)) if statement.backward else made
    if statement.axis is not None:
        within.names[statement.axis.name] = number
        within.axes.pop(statement.axis.name, None)
    until = _until(body, statement.until, within) if statement.until is not None else None
    e.keeping.loops.append(id_)
    mark = within.child()
    try:
        with e.passing(ActingPass(e.ops, made, len(e.keeping.loops) - 1)):
            body.run(statement.body, mark)
    finally:
        e.keeping.loops.pop()
    return Pass(until, {name: within.names[name] for name in slots}, {n: x for n, x in mark.names.items() if not n.startswith("#")}, number)


def _until(body: Body, tree: s.Expr, within: Scope) -> Node:
    found = body.e.tensor(body.e.evaluate(tree, within), tree)
    if not isinstance(found, bool) and not (isinstance(found, Node) and found.type.base == "bool" and not found.type.axes):
        raise mistake(
            "E0507", tree.span, "`until` needs one truth value: a loop that acts ends for all at once", why=f"this is {v.kind_name(found)}",
            fix="compare what the loop carries, `until size(kept, over: prompt) >= 8`, or ask of all entries: `until all(..)`",
        )  # fmt: skip
    return body.e.ops.constant(found)


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


def _wider(body: Body, statement: s.Repeat, name: str, shape: Any, following: Any) -> Any:
    """A value of the type that holds both."""
    e = body.e
    if shape is v.NONE and following is v.NONE:
        return shape
    if shape is v.NONE and isinstance(following, v.Record):
        return _open(body, following)
    if isinstance(shape, v.Record) and shape.value is None:
        if following is v.NONE:
            return shape
        more = _difference(shape, following)
        if more:
            raise _changes(statement, name, *more)
        fields = {n: _wider(body, statement, name, x, following.fields[n]) for n, x in shape.fields.items()}
        return replace(shape, fields=fields, texts={n: _wider(body, statement, name, x, following.texts[n]) for n, x in shape.texts.items()})
    if shape is v.NONE or not isinstance(following, Node | int | float):
        raise _changes(statement, name, v.kind_name(shape), v.kind_name(following))
    one, other = (e.ops.constant(e.tensor(x)).type for x in (shape, following))
    open_ = replace(one, axes=tuple(Axis(a.name, None) if other.has(a.name) and other.axis(a.name).size != a.size else a for a in one.axes))
    both = merged(open_, replace(other, axes=other.without(one.names)))
    lacking = next((a.name for a in both.axes if a.size is None and not (one.has(a.name) and other.has(a.name))), None)
    if lacking is not None:  # nobody could say how many entries the one without the axis stands for
        with_, without = f"a value along `{lacking}`", f"one without `{lacking}`"
        raise _changes(statement, name, *((with_, without) if one.has(lacking) else (without.replace("one", "a value"), f"one along `{lacking}`")))
    if one.target is not None and other.target is not None and one.target.size != other.target.size:
        both = replace(both, target=Axis(one.target.name, None))
    return e.graph.fresh("element", both, statement.span)


def _difference(shape: v.Record, following: Any) -> tuple[str, str] | None:
    """What one of two records has and the other has not, in words."""
    if not isinstance(following, v.Record) or following.value is not None:
        return "a record", v.kind_name(following)
    before, after = ({*record.fields, *record.texts} for record in (shape, following))
    lacks, has = sorted(before - after), sorted(after - before)
    if lacks:
        return f"a record with `{lacks[0]}`", "one without"
    return (f"a record without `{has[0]}`", "one with it") if has else None


def _changes(statement: s.Repeat, name: str, before: str, after: str) -> Exception:
    here = [part for part in s.walk(statement) if isinstance(part, s.Bind) and part.op == "<-" and any(one.name == name for one in part.targets)]
    return mistake(
        "E0511", here[0].span if here else head(statement.span, "repeat"), f"`{name}` is {before}, and then {after}",
        why="what a pass leaves is what the next one finds; behind it there is one kind of value, however many there were",
        fix="begin with what it becomes: a number for a number, values along an axis for such values, `none` or a whole record for a record",
    )  # fmt: skip


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
        elif _is_text(value):
            texts[name] = text_of(value)
        else:
            node = ops.constant(body.e.tensor(value))
            axes = shapes[name].type.axes if isinstance(shapes[name], Node) else node.type.axes
            results.append((f"world/{id_}/{name}", ops.expand(node, axes)))
    return tuple(results), texts

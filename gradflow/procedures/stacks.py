"""What a loop that acts binds inside, behind it: stacked along the loop's axis, 0 for passes that were not made, as loops of formulas have it.

Only what is read behind the loop is stacked, and only what has one size in every pass. A record has not: it is carried by a `with` name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Span
from gradflow.passes import values as v

if TYPE_CHECKING:
    from gradflow.passes.bodies import Body
    from gradflow.passes.scope import Scope

Results = tuple[tuple[str, Node], ...]


@dataclass(frozen=True)
class Stacks:
    """The names behind the loop; and for the loop, how they begin and how they go on."""

    names: Mapping[str, Any]
    results: tuple[Results, Results]


def stacked(body: Body, statement: s.Repeat, scope: Scope, id_: str, bound: Mapping[str, Any], number: Node, count: int) -> Stacks:
    ops = body.e.ops
    names: dict[str, Any] = {}
    first: list[tuple[str, Node]] = []
    then: list[tuple[str, Node]] = []
    axis = Axis(statement.axis.name if statement.axis is not None else "", count)
    for name in read_behind(statement, scope) & bound.keys():
        value = bound[name]
        node = ops.constant(value) if isinstance(value, Node | int | float) else None
        if not axis.name or node is None or node.type.base == "text" or any(one.size is None for one in node.type.axes):
            names[name] = v.Broken(_unknown(statement, name, value))
            continue
        type_ = Type(node.type.base, (axis, *node.type.axes), node.type.target)
        slot = ops.source(type_, "world", id_, f"[{name}]")
        nothing = ops.constant({"bool": False, "int": 0}.get(type_.base, 0.0))
        nothing = ops.make("rename", (nothing,), Type("int", (), type_.target)) if type_.target is not None else nothing
        here = ops.elementwise("eq", ops.range(axis), number)
        first.append((f"world/{id_}/[{name}]", ops.expand(nothing, type_.axes)))
        then.append((f"world/{id_}/[{name}]", ops.expand(ops.constant(ops.where(here, node, slot)), type_.axes)))
        names[name] = slot
    return Stacks(names, (tuple(first), tuple(then)))


def read_behind(statement: s.Repeat, scope: Scope) -> set[str]:
    """Names that the function reads outside of the loop and does not bind there."""
    definition = scope.local("#definition")[1]
    outside = [node for node in s.walk(definition) if not _inside(node.span, statement.span)]
    bound = {target.name for node in outside if isinstance(node, s.Bind) and node.op != "<-" for target in node.targets}
    return {node.id for node in outside if isinstance(node, s.Name)} - bound


def _inside(span: Span, outer: Span) -> bool:
    return span.file == outer.file and outer.offset <= span.offset and span.end <= outer.end


def _unknown(statement: s.Repeat, name: str, value: Any) -> Diagnostic:
    binds = [node for node in s.walk(statement) if isinstance(node, s.Bind) and any(target.name == name for target in node.targets)]
    place = binds[0].targets[0].span if binds else statement.span
    around = "when" if statement.axis is not None and not statement.axis.name else "loop"
    row = isinstance(value, v.Record)
    begin = f"begin it before, `{name} = none`, and assign it: `{name} <- ..`"
    return Diagnostic(
        "E0201", f"`{name}` is known inside of the {around} only", place, "bound here, and read behind it",
        why="how large it is may differ from pass to pass" if around == "loop" else "it is made only where the condition holds",
        fix=begin if row else f"begin it before with a number and assign it, `{name} <- ..`, or keep it in a record: `extend(samples, {name}: ..)`",
    )  # fmt: skip

"""What a name means: a local one, an axis (its length), a constant, a clock, what a stage sees, a definition, a primitive or a built-in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.formulas import force
from gradflow.passes.scope import Module, Scope, standard_index
from gradflow.passes.suggestions import suggestion

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator

TOPOLOGY = "#topology"  # the context in which link rules are read: their draws are made once, for all runs alike
CONSTANTS = {"pi": math.pi, "inf": math.inf, "true": True, "false": False, "none": v.NONE}
OTHERWISE = "bind it before this line, or import the file that defines it"
CLOCKS = {"t": "int", "t_end": "int", "progress": "real"}


def named(e: Elaborator, node: s.Name, scope: Scope) -> Any:
    """The value of a name. Raises Mistake with what it may have meant."""
    from gradflow.builtins.functions import BUILTINS
    from gradflow.peers.parts import bound_below

    found, value = look_up(e, node.id, scope, node)
    if found:
        return value
    known = [*scope.locals(), *scope.module.definitions, *standard_index(), *BUILTINS, *CONSTANTS, *scope.axes]
    raise mistake(
        "E0201", node.span, f"unknown name `{node.id}`", label="not defined here",
        why="no local name, parameter, axis, definition or built-in function is called so",
        more=lambda: bound_below(inside(scope), node) or suggestion(node.span, node.id, known, OTHERWISE),
    )  # fmt: skip


def look_up(e: Elaborator, name: str, scope: Scope, node: s.Node) -> tuple[bool, Any]:
    """(found, value): local names, then axes (their size), clocks, definitions, primitives, built-ins."""
    found, value = scope.local(name)
    if found:
        if isinstance(value, v.Missing):
            from gradflow.peers.parts import supplier

            raise mistake(
                "E0205", node.span, f"`{value.owner}` needs the input `{value.name}`", label="read here",
                why="the call does not supply it, and no record in reach has it",
                fix=supplier(value.name) or f"pass `{value.name}: ..`, or a record that has a field `{value.name}`",
            )  # fmt: skip
        e.used.add(name)
        return True, force(value)
    if name in scope.axes and not (name == "param" and scope.frame is not None):
        return True, axis_length(e, name, scope, node)
    if name in CONSTANTS:
        return True, CONSTANTS[name]
    if name in CLOCKS:
        return True, clock(e, name)
    special = scope.frame.special(name, node) if scope.frame is not None else None  # `grad`, `param`, `objective`, `graph` inside stages
    if special is not None:
        return True, special
    return definition_value(name, scope, node)


def clock(e: Elaborator, name: str) -> Any:
    flow = "" if e.context.flow == TOPOLOGY else e.context.flow
    if name == "t" and flow and e.context.passes is not None:
        return e.context.passes
    if name == "progress":
        return e.tensor(e.ops.elementwise("div", clock_node(e, "t", flow), clock_node(e, "t_end", flow)))
    return clock_node(e, name, flow)


def clock_node(e: Elaborator, name: str, flow: str) -> Node:
    return e.ops.source(Type(CLOCKS[name]), "clock", name, *([flow] if flow else []))


def axis_length(e: Elaborator, name: str, scope: Scope, node: s.Node) -> Any:
    axis = scope.axes[name]
    if axis.size is not None:
        return axis.size
    holder = scope.holder(name)
    if holder is None:
        raise mistake(
            "E0303", node.span, f"the size of axis `{name}` is not known here", why="no value in reach has this axis",
            fix=f"read it off a value: `size(x, over: {name})`",
        )  # fmt: skip
    return e.ops.axis_size(name, holder)


def definition_value(name: str, scope: Scope, node: s.Node) -> tuple[bool, Any]:
    """What a name means that is no local one: a definition here or in the library, a primitive, a built-in."""
    from gradflow.builtins.functions import BUILTINS

    found = scope.find(name, inside(scope))
    if found is not None:
        return True, _definition(*found)
    if name in ("backprop", "nothing"):
        return True, v.BuiltinStage(name, node.span)
    if name in BUILTINS:
        return True, v.Builtin(name)
    from gradflow.library.catalogue import catalogue

    if name in catalogue():
        return True, v.Primitive(name)
    return False, None


def inside(scope: Scope) -> s.Definition | None:
    current: Scope | None = scope
    while current is not None:
        inside = current.names.get("#definition")
        if inside is not None:
            return inside
        current = current.parent
    return None


def _definition(definition: s.Definition, module: Module) -> Any:
    """A definition named without a call. Parameters keep their defaults where it is used."""
    scope = module.scope()
    if definition.kind in ("function", "objective"):
        return v.Function(definition, scope)
    return Unapplied(definition, scope)


@dataclass(frozen=True)
class Unapplied:
    """A stage, topology or pipeline named but not called; calling it with no arguments takes the defaults."""

    definition: s.Definition
    scope: Scope

"""What a call supplies for inputs, looked at where it stands: what is no value (E0301), an outcome that stands at every token (W0125), and values by
token where a response has one (W0124)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.suggestions import listed

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator

NUMBERS = (None, "real", "int", "bool")
NO_VALUES = (v.Function, v.LambdaValue, v.Builtin, v.Primitive, v.Data, v.Topology, str, *v.STAGES)


def declared(function: v.Function, name: str) -> s.TypeOne:
    return next(one.type.options[0] for one in function.inputs if name in one.names)


def axes_of(option: s.TypeOne) -> set[str]:
    return {item.name for item in option.axes.items} if option.axes is not None else set()


def given(e: Elaborator, function: v.Function, name: str, value: Any, span: Span) -> Any:
    """The value of an argument for an input. Raises Mistake for what cannot be a number or a tensor where one is declared."""
    option = declared(function, name)
    if option.base == "topology" and isinstance(value, v.Function):  # `lazy(max_degree())`: it would be taken for the graph that it works on
        takers = [param.name for param in function.definition.params]
        raise mistake(
            "E0301", span, f"the input `{name}` of `{function.name}` is a topology, this is {v.kind_name(value)}",
            why="an argument without a name is an input; parameters are given by name",
            fix=f"name what it is for: `{takers[0]}: ..`" if takers else "give a topology",
        )  # fmt: skip
    if option.base not in NUMBERS or (option.base is None and option.axes is None):
        return value
    record = isinstance(value, v.Record) and value.value is None
    if record or isinstance(value, NO_VALUES) or (isinstance(value, Node) and value.type.base == "text"):
        why, fix = v.kind_hint(value) if not isinstance(value, Node) else ("only calls of primitives read texts", '`matches(samples, "..")`, say')
        raise mistake(
            "E0301", span, f"`{name}` of `{function.name}` is a number or a tensor, this is {v.kind_name(value)}", why=why,
            fix=f"name its field: `.{name}`" if record and name in value.fields else fix,
        )  # fmt: skip
    by_token(e, function, name, value, span)
    return value


def by_token(e: Elaborator, function: v.Function, name: str, value: Any, span: Span) -> None:
    """W0124: an objective is given values along an axis that this input does not have and others have: it is taken apart along it."""
    own = axes_of(declared(function, name))
    if function.definition.kind != "objective" or not isinstance(value, Node) or not own <= set(value.type.names):
        return
    others = {axis for one in function.inputs for axis in axes_of(one.type.options[0])} - own
    if more := [axis for axis in value.type.names if axis in others]:
        e.warn(
            "W0124", span, f"`{name}` of `{function.name}` has one value for each {listed(sorted(own))}; this has one for each {listed(more)} too",
            why=f"every place along {listed(more)} is then compared by itself, padding included",
            fix=f"add them up first, `sum(x, over: {more[0]}, where: mask)`, or give what is to be made of them, such as `advantage: ..`",
        )  # fmt: skip


def spread(e: Elaborator, function: v.Function, name: str, value: Any, span: Span) -> None:
    """W0125: a field that a record supplies by its name to a function lacks an axis that the input declares, and is repeated along it."""
    own = axes_of(declared(function, name))
    if function.definition.kind == "function" and isinstance(value, Node) and value.type.axes and set(value.type.names) < own:
        missing = sorted(own - set(value.type.names))
        e.warn(
            "W0125", span, f"`{name}` of `{function.name}` is taken from the record, where it has no axis {listed(missing)}",
            why=f"the one value stands at every place along {listed(missing)}, and counts as often",
            fix=f"say where it stands: `{name}: at_end(samples)`" if missing == ["token"] else f"pass it by name: `{name}: ..`",
        )  # fmt: skip


__all__ = ["given", "spread"]

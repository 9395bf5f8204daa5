"""Inputs that are topologies: what else is given for one is told apart early, since a function would be taken for the graph that it works on."""

from __future__ import annotations

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v


def check_graph_input(function: v.Function, name: str, value: v.Function, arg: s.Arg) -> None:
    """`lazy(max_degree())`: an argument without a name is an input, and a graph is no function."""
    if not any(name in one.names and one.type.options[0].base == "topology" for one in function.inputs):
        return
    takers = [param.name for param in function.definition.params]
    raise mistake(
        "E0301", arg.span, f"the input `{name}` of `{function.name}` is a topology, this is {v.kind_name(value)}",
        why="an argument without a name is an input; parameters are given by name",
        fix=f"name what it is for: `{takers[0]}: ..`" if takers else "give a topology",
    )  # fmt: skip

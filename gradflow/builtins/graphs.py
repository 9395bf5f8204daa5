"""Built-ins that make topologies: known graphs, graphs out of files, sequences of graphs, and weights that take an optimizer."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v


def topology(a: Arguments, place: int) -> v.Topology:
    from gradflow.passes.calls import applied

    arg = a.places[place]
    value = applied(a.e, a.raw(place), arg.span)
    if not isinstance(value, v.Topology):
        raise mistake(
            "E0301", arg.span, f"a topology is needed here, this is {v.kind_name(value)}",
            why=f"`{a.function.name}` works on who is linked to whom", fix="`ring(16)`, say; inside an exchange it is `graph`",
        )  # fmt: skip
    return value


def weighed(a: Arguments, found: v.Topology) -> v.Topology:
    """Every topology also takes `weights: ..`."""
    from dataclasses import replace

    return replace(found, options={**found.options, "weights": a.option("weights")}) if a.has("weights") else found


@builtin(
    "read_graph(path, weights: function)",
    "A topology out of a file, by its name: .edgelist, .edges, .txt, .csv (two nodes a line), .adjlist, .gml, .graphml, .json (node-link). "
    "Nodes that are whole numbers are in their order, others in that of the file. The path is relative to the spec.",
    "topologies",
)
def read_graph(a: Arguments) -> Any:
    from gradflow.topologies.files import from_file

    return weighed(a, from_file(a.e, a.raw(0), a.places[0].span))


@builtin("karate_club(weights: function)", "Zachary's karate club: 34 nodes, 78 links (networkx).", "topologies", 0, 0)
def karate_club(a: Arguments) -> Any:
    from gradflow.topologies.files import karate_club as made

    return weighed(a, made(a.e))


@builtin("cycle(graph, graph, weights: function)", "The links of round t are those of entry mod(t - 1, K) of the K graphs.", "topologies", 1, None)
def cycle(a: Arguments) -> Any:
    from gradflow.topologies.sequences import cycle as made

    return weighed(a, made(a.e, [topology(a, place) for place in range(len(a.places))], a.call.span))


@builtin("fastest_weights(graph)", "The symmetric weights [node, from] of least ||W - J||: a semidefinite program, solved when the spec is compiled.",
         "topologies")  # fmt: skip
def fastest_weights(a: Arguments) -> Any:
    from gradflow.topologies.mixing import fastest

    return fastest(a.e, topology(a, 0), a.call.span)

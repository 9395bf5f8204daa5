"""Topologies: link rules to adjacency, mixing weights, and the facts that exchanges ask for.

Axes: `node` is who receives, `from` who is heard; `weights` [node, from] is what a node gives to what it hears, so a gossip step is
`dot(weights, x[from], over: from)`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.bodies import Body
from gradflow.passes.calls import call_values
from gradflow.passes.constants import is_closed
from gradflow.passes.expressions import Elaborator
from gradflow.passes.names import TOPOLOGY
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed
from gradflow.topologies.edges import Factors, Rule, ends, incidence, link_count
from gradflow.topologies.sequences import MOST_ROUNDS, sequence

STATED = ("connected", "central", "doubly_stochastic")

MOST_NODES = 1_000_000


class TopologyBody(Body):
    """`nodes = n`, link rules, optional `weights` and `directed`."""

    def __init__(self, e: Elaborator, scope: Scope, name: str):
        super().__init__(e, scope, f"the topology `{name}`")
        self.links: list[s.Link] = []
        self.given: set[str] = set()

    def do_link(self, statement: s.Link, scope: Scope) -> None:
        self.links.append(statement)

    def do_gives(self, statement: s.Gives, scope: Scope) -> None:
        """`gives connected`: stated, so that checking need not compute it; a test computes it for the shipped ones."""
        if not isinstance(statement.value, s.Name) or statement.value.id not in STATED:
            raise mistake(
                "E0601", statement.value.span, "this is no property of a topology", why=f"properties are {listed(STATED)}",
                fix="state one of these, or leave the line out",
            )  # fmt: skip
        self.given.add(statement.value.id)


def build_topology(e: Elaborator, definition: s.Definition, scope: Scope) -> v.Topology:
    text = definition.name
    if definition.value is not None:
        value = e.evaluate(definition.value, scope)
        if not isinstance(value, v.Topology):
            raise mistake(
                "E0301", definition.value.span, f"a topology is needed here, this is {v.kind_name(value)}",
                why="an alias of kind topology stands for one",
                fix="`topology pairs = ring(16)`, say",
            )  # fmt: skip
        weights = scope.local("weights")
        return _named(value, text, weights[1] if weights[0] else None)
    body = TopologyBody(e, scope, definition.name)
    with e.at(flow=TOPOLOGY):
        body.run(definition.body or ())
    found, nodes = scope.local("nodes")
    if not found:
        raise mistake(
            "E0605", definition.name_span, f"`{definition.name}` does not say how many nodes it has",
            why="links and weights run over the axis `node`", fix="add `nodes = n`",
        )  # fmt: skip
    nodes = nodes if isinstance(nodes, int) and not isinstance(nodes, bool) else None
    directed = any(link.directed for link in body.links) or scope.local("directed")[1] is True
    given = scope.local("adjacency")[1]
    if not body.links and isinstance(given, Node):
        heard = e.ops.constant(given if given.type.base == "bool" else e.ops.elementwise("ne", given, 0))
        own = scope.local("weights")[1]
        one_way = scope.local("directed")[1] is not False
        return v.Topology(text, nodes, heard, None, one_way, {"weights": own} if own is not None else {}, is_closed(heard))
    if not body.links:
        weights_value = scope.local("weights")[1]
        if not isinstance(weights_value, Node):
            raise mistake(
                "E0605", definition.name_span, f"`{definition.name}` has neither links nor weights", why="a topology says who is linked to whom",
                fix="add `link i <-> j if ..`, or give `adjacency` or `weights` over [node, from]",
            )  # fmt: skip
        return v.Topology(text, nodes, e.ops.constant(e.ops.elementwise("ne", weights_value, 0)), weights_value, True, {}, False)
    if nodes is None or nodes < 1:
        raise mistake(
            "E0605", definition.name_span, f"`{definition.name}` needs a number of nodes known when the spec is compiled, at least 1",
            why="every node has its place in the plan",
            fix="`nodes = n`, with n a number or an `int` parameter",
        )  # fmt: skip
    rule = Rule(lambda receiver, sender: linked(e, body, scope, receiver, sender))
    axes = (Axis("node", nodes), Axis("from", nodes))
    adjacency = e.ops.expand(rule.holds(e.ops.range(axes[0]), e.ops.range(axes[1])), axes)
    weights_value = scope.local("weights")[1] if scope.local("weights")[0] else None
    constant = not any(n.op == "source" for n in ordered([adjacency]))
    options = {"weights": weights_value} if weights_value is not None else {}
    return v.Topology(text, nodes, adjacency, None, directed, options, constant, frozenset(body.given), rule, _rounds(scope, definition))


def _rounds(scope: Scope, definition: s.Definition) -> int:
    """`rounds = K`: the links repeat after K rounds."""
    found, rounds = scope.local("rounds")
    if found and (not isinstance(rounds, int) or isinstance(rounds, bool) or not 1 <= rounds <= MOST_ROUNDS):
        raise mistake(
            "E0605", definition.name_span, f"`rounds` of `{definition.name}` is a whole number from 1 to {MOST_ROUNDS}, known when it is compiled",
            why=f"this is {v.kind_name(rounds)}; after so many rounds the links repeat", fix="`rounds = K`, with K a number or an `int` parameter",
        )  # fmt: skip
    return rounds if found else 0


def _named(value: v.Topology, name: str, weights: Any) -> v.Topology:
    options = {**value.options, **({"weights": weights} if weights is not None else {})}
    return replace(value, name=name, options=options)


def linked(e: Elaborator, body: TopologyBody, scope: Scope, here: Any, there: Any) -> Any:
    """Whether the node `here` hears the node `there`; never itself."""
    ops = e.ops
    total: Any = False
    for link in body.links:
        for receiver, sender in ((here, there),) if link.directed else ((here, there), (there, here)):
            inner = scope.child()
            first, second = (sender, receiver) if link.directed else (receiver, sender)
            inner.names.update({link.first: first, link.second: second})
            with e.at(flow=TOPOLOGY):
                holds = e.evaluate(link.condition, inner) if link.condition is not None else True
            total = ops.elementwise("or", total, e.tensor(holds))
    return ops.elementwise("and", ops.elementwise("ne", here, there), total)


def combine(e: Elaborator, node: s.Binary, left: v.Topology, right: Any) -> v.Topology:
    """`ring(3) * ring(4)`: the Cartesian product, the last factor counting fastest; `path(2)^3`: a factor three times."""
    if node.op == "^" and isinstance(right, int) and right >= 0:
        result = left
        if right == 0:
            return _single(e)
        if left.nodes is not None and right * math.log(max(left.nodes, 1)) > math.log(MOST_NODES):
            raise mistake(
                "E0605", node.span, f"this topology would have {left.nodes}^{right} nodes",
                why=f"every node has its place in the plan; {MOST_NODES:,} are the most",
                fix="use a smaller power",
            )  # fmt: skip
        for _ in range(right - 1):
            result = product(e, result, left)
        return result
    if node.op == "*" and isinstance(right, v.Topology):
        return product(e, left, right)
    raise mistake(
        "E0301", node.span, f"topologies are combined by `*` and by `^` with a whole number, not with {v.kind_name(right)}",
        why="`*` is their Cartesian product, `^` repeats it",
        fix="`ring(3) * ring(4)`, or `path(2)^3`",
    )  # fmt: skip


def _single(e: Elaborator) -> v.Topology:
    axes = (Axis("node", 1), Axis("from", 1))
    return v.Topology("point", 1, e.ops.expand(False, axes), None, gives=frozenset(["connected"]))


def product(e: Elaborator, a: v.Topology, b: v.Topology) -> v.Topology:
    if a.nodes is None or b.nodes is None:
        raise mistake(
            "E0605", e.ops.span, "a product needs factors of known size", why="the nodes of the product are pairs of theirs",
            fix="give both a number of nodes",
        )  # fmt: skip
    ops = e.ops
    n = a.nodes * b.nodes
    here, there = ops.range(Axis("node", n)), ops.range(Axis("from", n))

    inner = b.nodes

    def parts(index: Node) -> tuple[Any, Any]:
        return ops.elementwise("floor", ops.elementwise("div", index, inner)), ops.elementwise("mod", index, inner)

    (row, column), (row2, column2) = parts(here), parts(there)
    first = _look(e, a.adjacency, row, row2)
    second = _look(e, b.adjacency, column, column2)
    either = ops.elementwise(
        "or", ops.elementwise("and", first, ops.elementwise("eq", column, column2)), ops.elementwise("and", second, ops.elementwise("eq", row, row2))
    )
    adjacency = ops.expand(either, (Axis("node", n), Axis("from", n)))
    return v.Topology(f"{a.name} x {b.name}", n, adjacency, None, a.directed or b.directed, {}, a.constant and b.constant, a.gives & b.gives,
                      Factors(a, b))  # fmt: skip


def _look(e: Elaborator, adjacency: Node, receiver: Any, sender: Any) -> Node:
    inner = e.ops.rename(adjacency, {"node": "row", "from": "col"})
    return e.ops.gather(e.ops.gather(inner, receiver, "row"), sender, "col")


def weights_of(e: Elaborator, topology: v.Topology, span: Any) -> Node:
    """Mixing weights [node, from]: the topology's own, else Metropolis-Hastings."""
    if topology.weights is not None:
        return topology.weights
    function = topology.options.get("weights")
    if function is None:
        from gradflow.passes.scope import module, standard_index

        path = standard_index()["metropolis"]
        home = module(path)
        function = v.Function(home.definitions["metropolis"], home.scope())
    if isinstance(function, Node):
        return function
    value = call_values(e, function, span, topology)
    axes = (Axis("node", topology.nodes), Axis("from", topology.nodes))
    return e.ops.expand(value, axes)


def topology_fields(e: Elaborator, topology: v.Topology, scope: Scope) -> dict[str, Any]:
    ops = e.ops
    number = ops.constant(ops.where(topology.adjacency, 1.0, 0.0))
    degree = ops.reduce("sum", number, ["from"])

    def laplacian() -> Any:
        same = ops.elementwise("eq", ops.range(Axis("node", topology.nodes), number), ops.range(Axis("from", topology.nodes), number))
        return ops.expand(ops.elementwise("sub", ops.where(same, degree, 0.0), number), number.type.axes)

    return {
        "adjacency": topology.adjacency,
        "degree": degree,
        "laplacian": laplacian,
        "weights": lambda: weights_of(e, topology, ops.span),
        "links": lambda: link_count(e, topology, number),
        "sequence": lambda: sequence(e, topology, ops.span),
        "rounds": max(topology.rounds, 1),
        "ends": lambda: ends(e, topology, scope),
        "incidence": lambda: incidence(e, topology, scope),
        "nodes": topology.nodes if topology.nodes is not None else ops.axis_size("node", topology.adjacency),
    }


__all__ = ["build_topology", "combine", "topology_fields", "weights_of"]

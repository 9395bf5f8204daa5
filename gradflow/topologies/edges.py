"""The links of a topology as a list, without its n x n adjacency where n is large, and as graph values over the axis `link`.

A link of an undirected topology stands once, i < j; of a directed one each arc stands once, sender first. The order is lexicographic. `Rule` asks
the link rules of a topology about given pairs, so that a large one is listed in blocks of rows; `Factors` lists a product from its factors.

Axes: link (in that order), node (who receives), from (who is heard).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node, Region, ordered, substitute
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope

if TYPE_CHECKING:
    import numpy

BLOCK = 100_000  # pairs that are looked at together: they stay in the cache
Arcs = tuple["numpy.ndarray", "numpy.ndarray"]


@dataclass(frozen=True)
class Rule:
    """`holds(receiver, sender)`: whether the one hears the other, for indices that are graph values."""

    holds: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Factors:
    """A Cartesian product, the second factor counting fastest."""

    first: v.Topology
    second: v.Topology


@dataclass(frozen=True)
class Listed:
    """Arcs that are known as numbers: senders and receivers."""

    arcs: Arcs


def arcs_of(e: Elaborator, topology: v.Topology) -> Arcs:
    """Senders and receivers of all arcs of a constant topology (both directions of a link), ordered by sender, then receiver."""
    known: dict[int, Arcs] = e.constants.setdefault("arcs", {})
    if topology.adjacency.id not in known:
        import numpy

        sender, receiver = _arcs(e, topology)
        order = numpy.lexsort((receiver, sender))
        known[topology.adjacency.id] = sender[order], receiver[order]
    return known[topology.adjacency.id]


def _arcs(e: Elaborator, topology: v.Topology) -> Arcs:
    import numpy

    n = topology.nodes or 0
    if isinstance(topology.listing, Listed):
        return topology.listing.arcs
    if isinstance(topology.listing, Factors):
        first, second = topology.listing.first, topology.listing.second
        (outer, outer_to), (inner, inner_to) = arcs_of(e, first), arcs_of(e, second)
        size, rows, columns = second.nodes or 0, numpy.arange(first.nodes or 0), numpy.arange(second.nodes or 0)
        across = [(end[:, None] * size + columns).reshape(-1) for end in (outer, outer_to)]
        along = [(rows[:, None] * size + end).reshape(-1) for end in (inner, inner_to)]
        return numpy.concatenate([across[0], along[0]]), numpy.concatenate([across[1], along[1]])
    if isinstance(topology.listing, Rule):
        return _in_blocks(e, topology.listing, n)
    from gradflow.passes.constants import compute

    receiver, sender = numpy.nonzero(compute(topology.adjacency)[0])
    return sender, receiver


def _in_blocks(e: Elaborator, rule: Rule, n: int) -> Arcs:
    """All pairs, some rows of receivers at a time; what does not depend on the rows (a matrix of draws) is computed once."""
    import numpy

    from gradflow.backends.reference import lower
    from gradflow.passes.constants import compute

    rows = max(1, BLOCK // n)
    block = e.ops.source(Type("int", (Axis("node"),)), "input", "#rows")
    condition = rule.holds(block, e.ops.range(Axis("from", n)))
    if not isinstance(condition, Node):  # false whatever the nodes
        return numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64)
    holds = e.ops.expand(condition, (Axis("node"), Axis("from", n)))
    draws = [node for node in ordered([holds]) if node.op == "draw"]
    held: dict[tuple[str, ...], Any] = {("input", f"#draw{i}"): value for i, value in enumerate(compute(*draws))}
    stands = {node.id: e.ops.source(node.type, "input", f"#draw{i}") for i, node in enumerate(draws)}
    run = lower(Region((("holds", substitute(e.graph, [holds], stands)[holds.id]),)))
    found: list[Arcs] = []
    for start in range(0, n, rows):
        receiver, sender = numpy.nonzero(run({("input", "#rows"): numpy.arange(start, min(start + rows, n)), **held})["holds"])
        found.append((sender, receiver + start))
    return numpy.concatenate([sender for sender, _ in found]), numpy.concatenate([receiver for _, receiver in found])


def links_of(e: Elaborator, topology: v.Topology) -> Arcs:
    """The two ends of every link of a constant topology: i < j, or sender and receiver where it is directed; lexicographic."""
    sender, receiver = arcs_of(e, topology)
    once = slice(None) if topology.directed else sender < receiver
    return sender[once], receiver[once]


# ---- as graph values


def link_count(e: Elaborator, topology: v.Topology, number: Node) -> Any:
    """How many links there are; `number` is the adjacency in numbers."""
    if topology.constant and topology.nodes is not None:
        return len(links_of(e, topology)[0])
    total = e.ops.reduce("sum", number, ("node", "from"))
    return total if topology.directed else e.ops.elementwise("div", total, 2)


def ends(e: Elaborator, topology: v.Topology, scope: Scope) -> tuple[Node, Node]:
    """The ends of every link, two maps [link -> node]: i < j, or sender and receiver."""
    ops, node = e.ops, Axis("node", topology.nodes)
    if topology.constant and topology.nodes is not None:
        found = links_of(e, topology)
        type_ = Type("int", (Axis("link", len(found[0])),), node)
        scope.axes["link"] = type_.axes[0]
        return ops.table(found[0].tolist(), type_), ops.table(found[1].tolist(), type_)
    pairs, chosen, _ = _flat(e, topology, scope)
    size = ops.axis_size("node", topology.adjacency)
    place = ops.gather(ops.range(Axis("pair", None if topology.nodes is None else topology.nodes**2), pairs), chosen, "pair")
    first, second = ops.elementwise("floor", ops.elementwise("div", place, size)), ops.elementwise("mod", place, size)
    return _map(e, first, node), _map(e, second, node)


def _map(e: Elaborator, value: Any, target: Axis) -> Node:
    return e.ops.make("rename", (value,), Type("int", value.type.axes, target))


def _flat(e: Elaborator, topology: v.Topology, scope: Scope) -> tuple[Node, Node, Node]:
    """(whether each pair is a link, sender first [pair]; the places of the links among them [link -> pair]; whether each is one [link]).

    Of links that are known only when it runs their number must be known: it is that of the axis `link` of a value in reach.
    """
    ops = e.ops
    known = scope.axes.get("link")
    holder = scope.holder("link")
    size = known.size if known is not None and known.size is not None else holder.type.axis("link").size if holder is not None else None
    if size is None or topology.nodes is None:
        raise mistake(
            "E0303", ops.span, f"the number of links of `{topology.name}` is not known here", why="its links depend on data or on the clock",
            fix="use it beside a value that has one entry for each link: `rate : [link]`",
        )  # fmt: skip
    n = topology.nodes
    pair = ops.range(Axis("pair", n * n))
    sender, receiver = ops.elementwise("floor", ops.elementwise("div", pair, n)), ops.elementwise("mod", pair, n)
    heard = ops.rename(topology.adjacency, {"node": "to", "from": "source"})
    linked = ops.gather(ops.gather(heard, ops.constant(receiver), "to"), ops.constant(sender), "source")
    if not topology.directed:
        linked = ops.constant(ops.elementwise("and", linked, ops.elementwise("lt", sender, receiver)))
    chosen = ops.top(ops.constant(ops.where(linked, 1, 0)), size, "pair", "link")
    return linked, chosen, ops.gather(linked, chosen, "pair")


def incidence(e: Elaborator, topology: v.Topology, scope: Scope) -> Node:
    """[link, node]: +1 at the first end of a link (the sender), -1 at the other."""
    ops, node = e.ops, Axis("node", topology.nodes)
    first, second = ends(e, topology, scope)
    here = ops.range(node)
    plus = ops.where(ops.elementwise("eq", first, here), 1.0, 0.0)
    value = ops.elementwise("sub", plus, ops.where(ops.elementwise("eq", second, here), 1.0, 0.0))
    if topology.adjacency.type.has("round"):
        present = ops.gather(ops.gather(topology.adjacency, second, "node"), first, "from")
        value = ops.elementwise("mul", value, ops.where(present, 1.0, 0.0))
    elif not topology.constant:
        value = ops.elementwise("mul", value, ops.where(_flat(e, topology, scope)[2], 1.0, 0.0))
    lifted = topology.adjacency.type.without(["node", "from"])
    return ops.expand(value, (*lifted, first.type.axes[0], node))

"""A `repeat` over an axis becomes a scan: one body, elements of the sequences in, carries along, what is bound inside stacked."""

from __future__ import annotations

from gradflow.graph.graph import Node, Region, depends, ordered, substitute
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes.bodies import Body
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head

ROUNDS = 4


def scan(body: Body, statement: s.Repeat, inner: Scope, scope: Scope, name: str) -> None:
    """Adds to `scope` what the loop binds, stacked; `inner` gets the final values of the `with` names."""
    e = body.e
    names = [start.name for start in statement.values]
    starts = [e.ops.constant(e.tensor(inner.names[n])) for n in names]
    types = [n.type for n in starts]
    for _ in range(ROUNDS):
        pass_ = _Pass(body, statement, inner, name, names, types)
        wider = [merged(t, n.type) for t, n in zip(types, pass_.following, strict=True)]
        if wider == types:
            break
        types = wider
    else:
        raise mistake(
            "E0511", head(statement.span, "repeat"), "the loop's variables do not settle on their axes",
            why=f"after {ROUNDS} looks at the body, one of them still gets another axis",
            fix="start them with all their axes: `with x = 0 * y`",
        )  # fmt: skip
    axis = pass_.axis
    results = [e.ops.expand(n, t.axes) for n, t in zip(pass_.following, types, strict=True)]
    stacked = {n: e.ops.constant(x) for n, x in pass_.bound.items()}
    roots = [*results, *stacked.values()]
    captured, roots = _captured(body, roots, pass_.elements)
    region = Region(
        tuple((str(i), node) for i, node in enumerate(roots)), (*pass_.carries, *(p for _, p in pass_.sequences), *(p for _, p in captured)), name
    )
    loop = e.ops.make(
        "scan", (*(begun(e, n, t) for n, t in zip(starts, types, strict=True)), *(x for x, _ in pass_.sequences), *(x for x, _ in captured)),
        Type("real"), region, carries=len(names), sequences=len(pass_.sequences), axis=name, backward=statement.backward,
    )  # fmt: skip
    for i, n in enumerate(names):
        inner.names[n] = e.ops.make("item", (loop,), types[i], index=i)
    for i, (n, node) in enumerate(stacked.items(), len(names)):
        scope.names[n] = e.ops.make("item", (loop,), Type(node.type.base, (axis, *node.type.axes), node.type.target), index=i)


def merged(carried: Type, following: Type) -> Type:
    """What holds both: a number that becomes real is real from the start; one that becomes an index points there from the start."""
    base = "real" if "real" in (carried.base, following.base) else following.base
    return Type(base, union(carried.axes, following.axes), carried.target or following.target if base == "int" else None)


def begun(e: Elaborator, start: Node, type_: Type) -> Node:
    node = e.ops.expand(start, type_.axes)
    return node if node.type.target == type_.target else e.ops.make("rename", (node,), type_)


class _Pass:
    """One elaboration of the loop's body, under assumed types of its carries."""

    def __init__(self, body: Body, statement: s.Repeat, inner: Scope, axis: str, names: list[str], types: list[Type]):
        e = body.e
        self.carries = [e.graph.fresh("element", t, statement.span) for t in types]
        self.sequences: list[tuple[Node, Node]] = []
        self.axis = Axis(axis, inner.axes[axis].size)
        within = inner.child()
        seen: set[str] = set()
        for name in inner.locals():
            value = within.local(name)[1]
            if name not in seen and isinstance(value, Node) and value.type.has(axis):
                element = e.graph.fresh("element", Type(value.type.base, value.type.without([axis]), value.type.target), statement.span)
                self.sequences.append((value, element))
                within.names[name] = element
                self.axis = value.type.axis(axis) if self.axis.size is None else self.axis
            seen.add(name)
        if not self.sequences:
            raise mistake(
                "E0303", head(statement.span, "repeat"), f"no value here has an axis `{axis}`",
                why="a loop over an axis runs along values that have it",
                fix=f"give a number of passes: `repeat {axis}: 10 {{ .. }}`",
            )  # fmt: skip
        within.names.update(zip(names, self.carries, strict=True))
        within.axes.pop(axis, None)
        mark = within.child()
        body.run(statement.body, mark)
        self.bound = {n: x for n, x in mark.names.items() if isinstance(x, Node | int | float) and not n.startswith("#")}
        self.following = [e.ops.constant(e.tensor(within.names[n])) for n in names]
        self.elements = [*self.carries, *(p for _, p in self.sequences)]


def _captured(body: Body, roots: list[Node], elements: list[Node]) -> tuple[list[tuple[Node, Node]], list[Node]]:
    """Values from outside that the body reads become parameters, so that the region is closed."""
    e = body.e
    inside = depends(roots, lambda n: any(n is x for x in elements))
    mapping: dict[int, Node] = {}
    pairs: list[tuple[Node, Node]] = []
    frontier: list[Node] = []
    for root in roots:
        if root.id not in inside:
            frontier.append(root)
    for node in ordered(roots):
        if node.id in inside:
            frontier.extend(below for below in node.inputs if below.id not in inside)
    for node in frontier:
        if node.id in mapping or node.op == "const":
            continue
        parameter = e.graph.fresh("element", node.type, node.span)
        mapping[node.id] = parameter
        pairs.append((node, parameter))
    new = substitute(e.graph, roots, mapping)
    return pairs, [new[root.id] for root in roots]

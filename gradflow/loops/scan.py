"""A `repeat` over an axis, or with `until`, becomes a scan: one body, elements of the sequences in, carries along, what is bound inside stacked.

`until` is asked before each pass, of the `with` names and of names outside. Once it holds, the carries keep their values and what would be
stacked is 0: a lazy choice in the body, so that no backend computes the rest, and the derivative is exact with no rule of its own. A condition
with axes ends the loop entry by entry.

A name of the outside that the body assigns is carried like the `with` names, and has its last value behind the loop. A draw inside belongs to
its pass: the number of the pass is part of its tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradflow.graph.graph import Node, Region, depends, ordered, substitute
from gradflow.graph.operations import Value
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes.bodies import Body
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head
from gradflow.passes.values import NONE, Record, kind_name

ROUNDS = 4


def scan(body: Body, statement: s.Repeat, inner: Scope, scope: Scope, name: str, count: int | None = None) -> None:
    """Adds to `scope` what the loop binds, stacked; `inner` gets the final values of the `with` names. `count`: passes, where no axis says it."""
    e = body.e
    own = [start.name for start in statement.values]
    outer = [n for n in dict.fromkeys(assigned(statement.body, {*own, name})) if isinstance(inner.local(n)[1], Node | int | float)]
    inner.names.update({n: inner.local(n)[1] for n in outer})
    names = [*own, *outer]
    rows = next((n for n in names if inner.names[n] is NONE or isinstance(inner.names[n], Record)), None)
    if rows is not None:
        raise mistake(
            "E0510", head(statement.span, "repeat"), f"a loop of formulas carries numbers, `{rows}` is {kind_name(inner.names[rows])}",
            why="loops that draw, choose and join records are carried out once a unit, by a function that is called with `~`",
            fix="bind the function around it: `x ~ f(..)`",
        )  # fmt: skip
    starts = [e.ops.constant(e.tensor(inner.names[n])) for n in names]
    types = [n.type for n in starts]
    for _ in range(ROUNDS):
        pass_ = _Pass(body, statement, inner, name, names, types, count)
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
    for i, n in enumerate(names if count != 0 else ()):  # without a pass they are what they were
        inner.names[n] = e.ops.make("item", (loop,), types[i], index=i)
    for n in outer:
        scope.assign(n, inner.names.pop(n))
    for i, (n, node) in enumerate(stacked.items(), len(names)):
        scope.names[n] = e.ops.make("item", (loop,), Type(node.type.base, (axis, *node.type.axes), node.type.target), index=i)


def no_pass(body: Body, statement: s.Repeat, scope: Scope, name: str) -> None:
    """A loop of no pass: what its body binds has an axis without entries. A body that must know the number of its pass binds nothing."""
    trial = scope.child()
    inner = trial.child()
    try:
        inner.names.update({start.name: body.e.evaluate(start.value, scope) for start in statement.values})
        scan(body, statement, inner, trial, name, 0)
    except Mistake:
        return
    scope.names.update(trial.names)


def assigned(statements: Sequence[s.Statement], own: set[str]) -> Iterator[str]:
    """Names of the outside that statements give new values; `own` are those of the loop."""
    for one in statements:
        if isinstance(one, s.Bind) and one.op == "<-":
            yield from (target.name for target in one.targets if target.name not in own)
        elif isinstance(one, s.Bind):
            own = own | {target.name for target in one.targets}
        elif isinstance(one, s.Repeat | s.When):
            values = {start.name for start in one.values} if isinstance(one, s.Repeat) else set()
            yield from assigned(one.body, own | values)


def merged(carried: Type, following: Type) -> Type:
    """What holds both: a number that becomes real is real from the start; one that becomes an index points there from the start."""
    base = "real" if "real" in (carried.base, following.base) else following.base
    return Type(base, union(carried.axes, following.axes), carried.target or following.target if base == "int" else None)


def begun(e: Elaborator, start: Node, type_: Type) -> Node:
    node = e.ops.expand(start, type_.axes)
    return node if node.type.target == type_.target else e.ops.make("rename", (node,), type_)


class _Pass:
    """One elaboration of the loop's body, under assumed types of its carries."""

    def __init__(self, body: Body, statement: s.Repeat, inner: Scope, axis: str, names: list[str], types: list[Type], count: int | None):
        self.e = e = body.e
        self.carries = [e.graph.fresh("element", t, statement.span) for t in types]
        self.sequences: list[tuple[Node, Node]] = []
        self.number: Node | None = None  # of the pass, from 0; made when something asks for it
        self.axis = Axis(axis, count) if count is not None else inner.axes.get(axis, Axis(axis))
        within = inner.child()
        if count is not None:
            within.names[axis] = self.index()
        else:
            self.elements_of(inner, within, statement)
        within.names.update(zip(names, self.carries, strict=True))
        within.axes.pop(axis, None)
        ended = self.ended(statement, inner, dict(zip(names, self.carries, strict=True)))
        mark = within.child()
        with e.passing(self):
            body.run(statement.body, mark)
        bound = {n: x for n, x in mark.names.items() if isinstance(x, Node | int | float) and not n.startswith("#")}
        self.bound = {n: x if ended is None else body.either(ended, _nothing(e, x), x, statement) for n, x in bound.items()}
        following = [e.ops.constant(e.tensor(within.names[n])) for n in names]
        if ended is not None:
            following = [e.ops.constant(body.either(ended, old, new, statement)) for old, new in zip(self.carries, following, strict=True)]
        self.following = following

    @property
    def elements(self) -> list[Node]:
        return [*self.carries, *(p for _, p in self.sequences)]

    def index(self) -> Node:
        """The number of the pass; a loop that runs backward begins with the last."""
        if self.number is None:
            like = self.sequences[0][0] if self.sequences else None
            self.number = self.e.graph.fresh("element", Type("int"), self.e.ops.span)
            self.sequences.append((self.e.ops.range(self.axis, like), self.number))
        return self.number

    def tick(self, before: Value) -> Value:
        """The tick of a draw that happens in this pass."""
        count: Value = self.axis.size if self.axis.size is not None else self.e.ops.axis_size(self.axis.name, self.sequences[0][0])
        return self.e.ops.elementwise("add", self.e.ops.elementwise("mul", before, count), self.index())

    def ended(self, statement: s.Repeat, inner: Scope, carries: dict[str, Node]) -> Node | None:
        """The condition under which this pass is not made; None where there is none. Nothing of the pass is in it: once true, it stays so."""
        if statement.until is None:
            return None
        outside = inner.child()
        outside.names.update(carries)
        condition = self.e.tensor(self.e.evaluate(statement.until, outside), statement.until)
        if not isinstance(condition, bool) and (
            not isinstance(condition, Node) or condition.type.base != "bool" or condition.type.has(self.axis.name)
        ):
            raise mistake(
                "E0507", statement.until.span, "`until` needs a condition that no single pass is in", why=f"this is {kind_name(condition)}",
                fix="compare what the loop carries: `until change < 0.1`",
            )  # fmt: skip
        return self.e.ops.constant(condition)

    def elements_of(self, inner: Scope, within: Scope, statement: s.Repeat) -> None:
        """In a loop over an axis, the names of values that have it mean one entry of them."""
        e, axis = self.e, self.axis.name
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


def _nothing(e: Elaborator, value: Node | int | float) -> Node:
    """What is stacked for a pass that is not made."""
    node = e.ops.constant(value)
    return e.ops.constant({"bool": False, "int": 0}.get(node.type.base, 0.0))


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

"""Reverse-mode differentiation, graph to graph: `gradient` builds the nodes that hold the derivative of one node with respect to others.

The local derivatives are the table in `derivatives.py`; this file walks the graph backwards once, from the root to what it is differentiated
by, and adds up cotangents. Three things are more than a table of rules:

- Only *active* nodes get work: real ones on a path from `wrt` to the root that has a derivative.
- *Guards*. What is computed only for one side of a lazy `choose`, or for the entries that a `where` takes, has its whole way back behind the
  same condition: the cotangent is passed in as it is, and what comes out at the other end is chosen by the condition (0 on the other side).
  So the backward pass of a branch not taken is not computed either, and no NaN or infinity in what was not taken reaches a gradient. Below
  a guard, and behind every derivative that can be infinite, 0 times infinity is kept at 0 (`Tools.quiet`).
- *Groups*. Cotangents of the leaves of one flat parameter become one `pack`; those of the outputs of one model call one `model_vjp` for each
  input; those of a loop one loop that runs the other way (`loop_gradient.py`).

A cotangent is a number or a node, and constant along the axes of its node that it lacks; results have exactly the axes of `wrt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gradflow.graph.graph import Node, ordered
from gradflow.graph.operations import ELEMENTWISE, Operations, Value
from gradflow.graph.types import Axis, Type
from gradflow.passes.derivatives import ELEMENTWISE_RULES, RULES, VARIADIC, Tools, rules_of

SINGULAR = {"div", "pow", "sqrt", "log", "log2", "log1mexp"}  # derivatives that can be infinite at finite points
WILD = {"exp", "div", "pow", "sqrt", "log", "log2", "log1mexp"}  # values that can be infinite or NaN at finite points
FACTORLESS = {"add", "sub", "neg", "where", "choose", "expand", "minimum", "maximum"}  # rules that multiply by nothing
SELECTING = {"minimum", "maximum", "max", "min", "segment_max", "segment_min"}  # what is not selected gets cotangent 0
GROUPED = {"leaf", "item", "scan", "model"}
CLEAR = {*ELEMENTWISE, "where", "expand", "sum", "choose"}  # operations that a guard of `where` passes through


class NotDifferentiable(Exception):
    """A derivative was asked for through an operation that has none; `node.span` is where it stands."""

    def __init__(self, node: Node, what: str):
        super().__init__(f"{node.span}: {what} has no derivative here")
        self.node = node
        self.span = node.span
        self.what = what


@dataclass(frozen=True)
class Guard:
    """Behind this, cotangents count only where the condition is `side`; `lazy` comes from `choose`, otherwise from `where`."""

    lazy: bool
    condition: Node
    side: bool

    def holds_at(self, node: Node) -> bool:
        """A guard of `where` needs all axes of its condition."""
        return self.lazy or set(self.condition.type.names) <= set(node.type.names)


Guards = tuple[Guard, ...]


def gradient(ops: Operations, root: Node, wrt: Sequence[Node], seed: Node | None = None) -> list[Node]:
    """d(sum of root) / d(each of wrt), or the cotangent `seed` (axes of the root) pulled back; axes of each result: those of its `wrt`."""
    return pull(ops, [(root, 1.0 if seed is None else seed)], wrt)


def pull(ops: Operations, seeds: Sequence[tuple[Node, Value]], wrt: Sequence[Node], masked: bool = False) -> list[Node]:
    """As `gradient`, for several roots at once. `masked`: the seeds may be zero where values are not finite. Raises NotDifferentiable."""
    span = ops.span
    try:
        found = _Backward(ops, seeds, wrt, masked).run()
    finally:
        ops.span = span
    tools = Tools(ops)
    return [tools.full(value, node) for node, value in zip(wrt, found, strict=True)]


def active_nodes(roots: Iterable[Node], wrt: Iterable[Node]) -> set[int]:
    """Ids of the real nodes below the roots through which one of `wrt` reaches them with a derivative."""
    wanted = {node.id for node in wrt}
    found: set[int] = set()
    for node in ordered(roots):
        if node.type.base != "real":
            continue
        differentiable = node.op in RULES or node.op in VARIADIC or node.op in GROUPED or node.op in ("linalg", "model_vjp")
        if node.id in wanted or (differentiable and any(below.id in found for below in node.inputs)):
            found.add(node.id)
    return found


class _Backward:
    """One walk from roots to `wrt`."""

    def __init__(self, ops: Operations, seeds: Sequence[tuple[Node, Value]], wrt: Sequence[Node], masked: bool):
        self.ops = ops
        self.tools = Tools(ops)
        self.wrt = wrt
        roots = [root for root, _ in seeds]
        self.active = active_nodes(roots, wrt)
        self.nodes = [node for node in reversed(ordered(roots)) if node.id in self.active]
        self.calls: dict[object, list[Node]] = {}
        for node in self.nodes:
            if node.op == "model":
                self.calls.setdefault(_call(node), []).append(node)
        self.wild = _wild(roots)
        self.guards = self._guards({root.id for root in roots})
        self.masked: set[int] = {root.id for root in roots} if masked else set()
        self.cotangents: dict[int, list[Value]] = {}
        self.parts: dict[int, list[tuple[Node, Value]]] = {}  # cotangents of a flat node's leaves, of a loop's items
        self.outputs: dict[object, list[tuple[Node, Value]]] = {}  # of a model call's outputs
        for root, seed in seeds:
            if root.id in self.active:
                self.cotangents.setdefault(root.id, []).append(seed)

    def run(self) -> list[Value]:
        found: dict[int, Value] = {}
        wanted = {node.id for node in self.wrt}
        for node in self.nodes:
            self.ops.span = node.span
            g = self._total(node)
            if node.id in wanted:
                found[node.id] = g
            if not isinstance(g, Node) and g == 0 and node.op not in ("scan", "model"):
                continue
            self._send(node, g)
        return [found.get(node.id, 0.0) for node in self.wrt]

    def _total(self, node: Node) -> Value:
        total: Value = 0.0
        for g in self.cotangents.pop(node.id, []):
            total = self.tools.add(total, g)
        if node.op != "scan" and node.id in self.parts:
            total = self.tools.add(total, self._packed(node, self.parts.pop(node.id)))
        return total

    # ---- what is known before the walk

    def _guards(self, roots: set[int]) -> dict[int, Guards]:
        """For each node the guards that every way from the roots to it passes, outermost first."""
        free = roots | {node.id for node in self.wrt} | {node.id for call in self.calls.values() if len(call) > 1 for node in call}
        found: dict[int, Guards] = {}
        for node in self.nodes:
            mine = found.setdefault(node.id, ())
            for place, below in enumerate(node.inputs):
                if below.id not in self.active:
                    continue
                edge = tuple(guard for guard in (*self._passing(node, mine), *self._edge(node, place)) if guard.holds_at(below))
                known = found.get(below.id)
                both = edge if known is None else tuple(guard for guard in known if guard in edge)
                found[below.id] = () if below.id in free else both
        return found

    def _passing(self, node: Node, guards: Guards) -> Guards:
        return guards if node.op in CLEAR else tuple(guard for guard in guards if guard.lazy)

    def _edge(self, node: Node, place: int) -> Guards:
        if node.op in ("where", "choose") and place > 0:
            return (Guard(node.op == "choose", node.inputs[0], place == 1),)
        return ()

    # ---- one node

    def _send(self, node: Node, g: Value) -> None:
        blank = [guard for guard in self.guards[node.id] if not guard.lazy] if node.op not in CLEAR else []
        for guard in reversed(blank):
            g = self._chosen(guard, g, node, node)
            self.masked.add(node.id)
        if node.op in ("leaf", "item"):
            self._collect(node, g)
        elif node.op == "model":
            self._call(node, g)
        elif node.op == "scan":
            self._loop(node)
        elif node.op in ("linalg", "model_vjp"):
            raise NotDifferentiable(node, f"`{node.get('name', 'the gradient of a model')}`")
        elif node.op in RULES or node.op in VARIADIC:
            for place, rule in enumerate(rules_of(node)):
                if node.inputs[place].id in self.active:
                    self._contribute(node, place, self._quieted(node, place, g, rule(self.tools, node, g)))

    def _quieted(self, node: Node, place: int, g: Value, value: Value) -> Value:
        if node.op not in ELEMENTWISE_RULES or node.op in FACTORLESS:
            return value
        if node.op == "div" and place == 0 and _harmless(node.inputs[1]):
            return value
        wild = node.id in self.masked and any(below.id in self.wild for below in (node, *node.inputs))
        return self.tools.quiet(g, value) if node.op in SINGULAR or wild else value

    def _contribute(self, node: Node, place: int, value: Value) -> None:
        """Adds a cotangent to an input: behind the guards that end here, summed over the axes that the input lacks."""
        below = node.inputs[place]
        value = self._left(node, place, value)
        if node.op in ELEMENTWISE_RULES:
            value = self._summed(value, node, below)
        self.cotangents.setdefault(below.id, []).append(value)

    def _left(self, node: Node, place: int, value: Value) -> Value:
        """The value behind the guards that hold on the way to this input but not at it."""
        below = node.inputs[place]
        passing = (*self._passing(node, self.guards[node.id]), *self._edge(node, place))
        leaving = [guard for guard in passing if guard not in self.guards[below.id]]
        for guard in reversed(leaving):
            value = self._chosen(guard, value, node, below)
        if leaving or node.id in self.masked or node.op in SELECTING:
            self.masked.add(below.id)
        return value

    def _chosen(self, guard: Guard, value: Value, node: Node, below: Node) -> Value:
        if not isinstance(value, Node) and value == 0:
            return value
        if not guard.lazy:
            return self.tools.where(guard.condition, value, 0.0) if guard.side else self.tools.where(guard.condition, 0.0, value)
        kept = self.ops.constant(value)
        zero = self.tools.full(0.0, (below, node), kept.type.axes)
        return self.ops.choose(guard.condition, kept, zero) if guard.side else self.ops.choose(guard.condition, zero, kept)

    def _summed(self, value: Value, node: Node, below: Node) -> Value:
        extra = [name for name in node.type.names if not below.type.has(name)]
        if isinstance(value, Node):
            held = [name for name in extra if value.type.has(name)]
            extra = [name for name in extra if name not in held]
            value = self.ops.reduce("sum", value, held)
        for name in extra:
            value = self.tools.mul(value, self.ops.axis_size(name, node))
        return value

    # ---- groups

    def _collect(self, node: Node, g: Value) -> None:
        self.parts.setdefault(node.inputs[0].id, []).append((node, self._left(node, 0, g)))

    def _packed(self, flat: Node, parts: list[tuple[Node, Value]]) -> Node:
        """The leaves' cotangents side by side along `param`, zeros where there is none. Leaves that overlap partly are packed one by one."""
        lifted = flat.type.without(["param"])
        pieces: dict[tuple[int, int], tuple[tuple[Axis, ...], Value]] = {}
        for node, g in parts:
            axes = node.type.without(axis.name for axis in lifted)
            key = (node["offset"], _length(axes))
            if key in pieces:
                axes, known = pieces[key]
                own = node.type.without(axis.name for axis in lifted)
                g = self.tools.full(g, node, (*lifted, *own))
                g = self.tools.add(known, self.ops.rename(g, {a.name: b.name for a, b in zip(own, axes, strict=True) if a.name != b.name}))
            pieces[key] = (axes, self.tools.full(g, node, (*lifted, *axes)))
        rows: list[list[tuple[int, int]]] = []
        for key in sorted(pieces):
            row = next((row for row in rows if sum(row[-1]) <= key[0]), None)
            if row is None:
                rows.append([key])
            else:
                row.append(key)
        total: Value = 0.0
        for row in rows:
            total = self.tools.add(total, self._row(flat, lifted, {key: pieces[key] for key in row}))
        return self.ops.constant(total)

    def _row(self, flat: Node, lifted: tuple[Axis, ...], pieces: Mapping[tuple[int, int], tuple[tuple[Axis, ...], Value]]) -> Node:
        leaves: list[Value] = []
        layouts: list[tuple[Axis, ...]] = []
        end = 0
        size = flat.type.axis("param").size or 0
        for (offset, length), (axes, g) in [*pieces.items(), ((size, 0), ((), 0.0))]:
            if offset > end:
                gap = (Axis("gap", offset - end),)
                leaves.append(self.tools.full(0.0, flat, (*lifted, *gap)))
                layouts.append(gap)
            if length:
                leaves.append(g)
                layouts.append(axes)
            end = offset + length
        return self.ops.pack([self.ops.constant(leaf) for leaf in leaves], layouts)

    def _call(self, node: Node, g: Value) -> None:
        """Keeps the cotangent of a model's output until all outputs of that call have theirs, then sends them on together."""
        key = _call(node)
        known = self.outputs.setdefault(key, [])
        known.append((node, g))
        if len(known) < len(self.calls[key]):
            return
        given = sorted(((n, v) for n, v in known if isinstance(v, Node) or v != 0), key=lambda pair: str(pair[0]["output"]))
        if not given:
            return
        cotangents = [self.tools.full(value, output) for output, value in given]
        outputs = tuple(output["output"] for output, _ in given)
        attrs = {key: value for key, value in node.attrs if key != "output"}
        self.masked.update(node.id for output, _ in given if output.id in self.masked)
        for place, below in enumerate(node.inputs):
            if below.id in self.active:
                wrt = "params" if place == 0 else node["fields"][place - 1]
                type_ = Type("real", below.type.axes)
                self._contribute(node, place, self.ops.make("model_vjp", (*node.inputs, *cotangents), type_, **attrs, outputs=outputs, wrt=wrt))

    def _loop(self, node: Node) -> None:
        from gradflow.passes.loop_gradient import loop_cotangents

        given = self.parts.pop(node.id, [])
        if given:
            found = loop_cotangents(self.ops, node, given, self.active, node.id in self.masked)
            for place, value in found.items():
                self._contribute(node, place, value)


def _wild(roots: Iterable[Node]) -> set[int]:
    """Nodes whose value may be infinite or NaN though everything that comes from outside is finite."""
    found: set[int] = set()
    for node in ordered(roots):
        if node.op in WILD or (node.op not in ("sigmoid", "model") and any(below.id in found for below in node.inputs)):
            found.add(node.id)
    return found


def _call(node: Node) -> object:
    """What all outputs of one call of a model have in common."""
    return tuple(below.id for below in node.inputs), tuple(pair for pair in node.attrs if pair[0] != "output")


def _length(axes: tuple[Axis, ...]) -> int:
    size = 1
    for axis in axes:
        size *= axis.size or 0
    return size


def _harmless(node: Node) -> bool:
    return node.op == "const" and node["value"] != 0

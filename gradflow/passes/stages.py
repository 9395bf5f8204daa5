"""What a flow is made of: leaves and their bundle, what comes from upstream, a change of the parameters, states, and chains as values.

Axes: `param` is all coordinates of the bundle, flat; `node` stands before it where every node has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.calls import applied
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope

Carry = Callable[[Node], Node]


@dataclass(frozen=True)
class Leaf:
    """One tensor of the bundle. `carry`, if given, moves a state of this shape into coordinates that have just changed."""

    name: str
    axes: tuple[Axis, ...]
    carry: Carry | None = None

    @property
    def size(self) -> int:
        return math.prod(axis.size or 0 for axis in self.axes)

    def carried(self, state: Node) -> Node:
        return self.carry(state) if self.carry is not None else state


@dataclass(frozen=True)
class Bundle:
    """Leaves side by side along `param`; `param` is their current value, None behind a change of coordinates."""

    leaves: tuple[Leaf, ...]
    param: Node | None

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in self.leaves)

    @property
    def axis(self) -> Axis:
        return Axis("param", self.size)

    def offset(self, place: int) -> int:
        return sum(leaf.size for leaf in self.leaves[:place])


@dataclass(frozen=True)
class Change:
    """What a stage makes of the parameters: a difference, or with `absolute` their new value."""

    value: Node
    absolute: bool = False


@dataclass(frozen=True)
class Upstream:
    """What comes from above, as a function of the point (None: here) and of how fresh the sample is. Flat along `param`.

    `per`: the same for every entry of an axis, and which entries there are.
    """

    at: Callable[[Node | None, int], Node]
    fields: Callable[[], dict[str, Any]] = field(default=dict)
    value: Callable[[Node | None, int], Any] | None = None
    per: Callable[[Node | None, int, str], tuple[Node, Any]] | None = None


Below = Callable[[Upstream, Bundle], Change]


@dataclass
class StateSlot:
    """One state of one stage: its type, the number it starts at (None: the graph says), and its node now and afterwards."""

    key: str
    type: Type
    init: float | None
    read: Node
    write: Node | None = None


@dataclass
class Flow:
    """One flow statement while it is elaborated. Types found in one round (of states, holes, the parameter) hold in the next."""

    name: str
    topology: v.Topology | None = None
    states: dict[str, StateSlot] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)
    holes: dict[int, Node] = field(default_factory=dict)
    called: dict[str, dict[str, Any]] = field(default_factory=dict)
    loop_values: dict[str, Node] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Node] = field(default_factory=dict)
    executed: Node | None = None
    asked: dict[int, tuple[int, tuple[Node, ...]]] = field(default_factory=dict)  # values of the objective: how many, under which conditions
    stated: dict[str, str] = field(default_factory=dict)  # what is asked of the objective, and how it is known
    events: Any = None  # of an exchange whose nodes act at events: see gradflow/events
    stage_notes: dict[str, tuple[Type, int]] = field(default_factory=dict)
    dirty: bool = False

    def settle(self, key: str, found: Type) -> Type:
        """The type remembered for a key, widened by what was found; a change asks for another round."""
        known = self.types.get(key)
        if known is None:
            self.types[key] = found
            return found
        merged = Type(found.base, union(known.axes, found.axes), known.target or found.target)
        if merged != known:
            self.types[key] = merged
            self.dirty = True
        return merged


def elsewhere(span: Span, why: str) -> Mistake:
    """`grad(at: ..)` where only the gradient at the parameters is to be had."""
    return mistake(
        "E0514", span, "the gradient cannot be asked for at another point here", why=why,
        fix="put the stage that asks before the one that stands between it and the objective",
    )  # fmt: skip


def constant_upstream(value: Node, why: str) -> Upstream:
    def at(point: Node | None, fresh: int) -> Node:
        if point is not None:
            raise elsewhere(point.span, why)
        return value

    return Upstream(at)


# ---- chains as values


def chain_value(e: Elaborator, node: s.Chain, scope: Scope) -> v.ChainOf:
    """`objective -> estimator -> .. -> update`: the head stays live, the stages are bound now."""
    from gradflow.gradients.joints import takes_gradients

    stages: list[Any] = []
    for place, tree in enumerate(node.stages):
        if place == 0 and (takes_gradients(tree, scope) or not is_stage(tree, scope)):
            stages.append(v.Live(tree, scope))
            continue
        stages.append(stage_value(e, tree, scope))
    return v.ChainOf(tuple(stages), node.span)


def stage_value(e: Elaborator, tree: s.Expr, scope: Scope) -> Any:
    """The stage that an expression is."""
    value = applied(e, e.evaluate(tree, scope), tree.span)
    if isinstance(value, v.STAGES):
        return value
    raise mistake(
        "E0515", tree.span, f"{v.kind_name(value)} cannot stand in a flow",
        why="after the objective come an estimator, projections, an exchange and an update",
        fix="`flow net: loss -> backprop -> sgd(lr: 0.1)`",
    )  # fmt: skip


def is_stage(tree: s.Expr, scope: Scope) -> bool:
    """Whether an expression is a stage by its name alone, so that a live objective is not evaluated too early."""
    while isinstance(tree, s.Call | s.Guarded | s.Alternatives | s.Group | s.Chain):
        if isinstance(tree, s.Alternatives | s.Chain):
            return True
        if isinstance(tree, s.Group):
            if len(tree.items) != 1:
                return False
            tree = tree.items[0].value
        else:
            tree = tree.callee if isinstance(tree, s.Call) else tree.stage
    if not isinstance(tree, s.Name):
        return False
    found, value = scope.local(tree.id)
    if found:
        return isinstance(value, v.STAGES)
    definition = scope.find(tree.id)
    return tree.id in ("backprop", "nothing") or definition is not None and definition[0].kind in ("estimator", "projection", "exchange", "update")


def flatten(value: Any) -> list[Any]:
    if isinstance(value, v.ChainOf):
        return [one for stage in value.stages for one in flatten(stage)]
    return [value]

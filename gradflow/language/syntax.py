"""The syntax tree: frozen nodes, each with the span of its text. Nothing here knows what a name means.

Expressions (`Number`, `Name`, `Call`, ...), statements (`State`, `Bind`, `Flow`, ...), types and patterns, definitions, and the file.
The parser builds them (`parser.py`), the formatter prints them (`format.py`), the elaborator gives them meaning (`passes/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from gradflow.language.source import Span


@dataclass(frozen=True, eq=False)
class Node:
    span: Span


# ---- expressions


@dataclass(frozen=True, eq=False)
class Number(Node):
    """A number as written: `text` keeps `1e-3`, `10%` (value 0.1) or `4GB` (value in bytes); `kind` is number, percent or size."""

    value: int | float
    text: str
    kind: str = "number"


@dataclass(frozen=True, eq=False)
class String(Node):
    value: str


@dataclass(frozen=True, eq=False)
class Name(Node):
    id: str


@dataclass(frozen=True, eq=False)
class Slice(Node):
    """`a .. b`, either side may be missing."""

    start: Expr | None
    stop: Expr | None


@dataclass(frozen=True, eq=False)
class Arg(Node):
    name: str | None
    value: Expr


@dataclass(frozen=True, eq=False)
class Group(Node):
    """Parentheses: one unnamed item is just that item; several, or named ones, are a tuple or a record."""

    items: tuple[Arg, ...]


@dataclass(frozen=True, eq=False)
class ListOf(Node):
    """`[a, b: n]`: an axis list where axes are expected, else a list of values."""

    items: tuple[Arg, ...]


@dataclass(frozen=True, eq=False)
class Call(Node):
    callee: Expr
    args: tuple[Arg, ...]


@dataclass(frozen=True, eq=False)
class Index(Node):
    value: Expr
    args: tuple[Arg, ...]


@dataclass(frozen=True, eq=False)
class Field(Node):
    value: Expr
    name: str
    name_span: Span


@dataclass(frozen=True, eq=False)
class Unary(Node):
    """`-x` (op "-") or `not x` (op "not")."""

    op: str
    operand: Expr


@dataclass(frozen=True, eq=False)
class Binary(Node):
    """`+ - * / ^ and or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, eq=False)
class Compare(Node):
    """`a < b <= c`: operands one more than ops."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lambda(Node):
    params: tuple[str, ...]
    body: Expr


@dataclass(frozen=True, eq=False)
class Chain(Node):
    """`a -> b -> c`: the flow."""

    stages: tuple[Expr, ...]


@dataclass(frozen=True, eq=False)
class Guarded(Node):
    """`stage on pattern`."""

    stage: Expr
    pattern: Pattern


@dataclass(frozen=True, eq=False)
class Alternatives(Node):
    """`a on P | b`: each leaf takes the first that fits."""

    options: tuple[Expr, ...]


Expr = Number | String | Name | Slice | Group | ListOf | Call | Index | Field | Unary | Binary | Compare | Lambda | Chain | Guarded | Alternatives


# ---- types and patterns


@dataclass(frozen=True, eq=False)
class AxisItem(Node):
    """One entry of an axis list: `token`, `r: min(rank, cut)`, `*unit`, `train.x`."""

    name: str
    size: Expr | None = None
    spliced: bool = False


@dataclass(frozen=True, eq=False)
class Axes(Node):
    """`[sample, token]` or `[sample -> prompt]`."""

    items: tuple[AxisItem, ...]
    target: str | None = None


@dataclass(frozen=True, eq=False)
class Bound(Node):
    """`> 0`, or an interval `in [0, 1)`: then `op` is "in"."""

    op: str
    low: Expr
    high: Expr | None = None
    low_closed: bool = True
    high_closed: bool = True


@dataclass(frozen=True, eq=False)
class TypeOne(Node):
    base: str | None
    axes: Axes | None = None
    bound: Bound | None = None


@dataclass(frozen=True, eq=False)
class TypeExpr(Node):
    options: tuple[TypeOne, ...]


@dataclass(frozen=True, eq=False)
class ShapePattern(Node):
    axes: Axes
    where: Expr | None = None


@dataclass(frozen=True, eq=False)
class NamedPattern(Node):
    """`linear(x: [row, in], ...)`, `node(i)`, `wait(dt)`."""

    name: str
    params: tuple[Param, ...]
    where: Expr | None = None


@dataclass(frozen=True, eq=False)
class TextPattern(Node):
    """`"*.attn.proj"`: leaves by name."""

    text: str
    where: Expr | None = None


Pattern = ShapePattern | NamedPattern | TextPattern


# ---- statements


@dataclass(frozen=True, eq=False)
class Doc(Node):
    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Input(Node):
    names: tuple[str, ...]
    type: TypeExpr
    default: Expr | None = None


@dataclass(frozen=True, eq=False)
class Vary(Node):
    names: tuple[str, ...]
    type: TypeExpr


@dataclass(frozen=True, eq=False)
class State(Node):
    names: tuple[str, ...]
    type: TypeExpr | None
    drawn: bool
    init: Expr
    storage: Expr | None = None


@dataclass(frozen=True, eq=False)
class Declare(Node):
    """`data a, b = ...` or `model net = ... as format`."""

    kind: str
    names: tuple[str, ...]
    value: Expr
    storage: Expr | None = None


@dataclass(frozen=True, eq=False)
class Target(Node):
    """What an assignment or a flow writes: `x`, `net.scale`, `z[i]`."""

    name: str
    index: tuple[Arg, ...] = ()


@dataclass(frozen=True, eq=False)
class Bind(Node):
    """`x = e` (formula), `x ~ e` (draw), `x <- e` (assignment)."""

    targets: tuple[Target, ...]
    op: str
    value: Expr


@dataclass(frozen=True, eq=False)
class Minimize(Node):
    value: Expr


@dataclass(frozen=True, eq=False)
class SubjectTo(Node):
    name: str | None
    value: Expr


@dataclass(frozen=True, eq=False)
class ReportAs(Node):
    name: str
    value: Expr


@dataclass(frozen=True, eq=False)
class Return(Node):
    value: Expr


@dataclass(frozen=True, eq=False)
class Require(Node):
    """`require`, `prefer` or `expect`."""

    kind: str
    value: Expr
    message: str | None = None


@dataclass(frozen=True, eq=False)
class Gives(Node):
    value: Expr


@dataclass(frozen=True, eq=False)
class When(Node):
    condition: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class StartValue(Node):
    name: str
    value: Expr


@dataclass(frozen=True, eq=False)
class Repeat(Node):
    axis: AxisItem | None
    backward: bool
    values: tuple[StartValue, ...]
    until: Expr | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class On(Node):
    each: bool
    pattern: Pattern
    rate: Expr | None
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class Backward(Node):
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class Every(Node):
    """`every 20 rounds { }`; `every step { }` has no count and the unit as its name."""

    count: Expr | None
    unit: str
    body: tuple[Statement, ...]


@dataclass(frozen=True, eq=False)
class Flow(Node):
    targets: tuple[Target, ...]
    over: Expr | None
    per: str | None
    value: Expr


@dataclass(frozen=True, eq=False)
class Train(Node):
    count: Expr
    unit: str
    args: tuple[Arg, ...]
    body: tuple[Statement, ...] | None


@dataclass(frozen=True, eq=False)
class ScheduleIs(Node):
    value: Expr


@dataclass(frozen=True, eq=False)
class Cut(Node):
    axis: str
    size: Expr


@dataclass(frozen=True, eq=False)
class Recompute(Node):
    name: str


@dataclass(frozen=True, eq=False)
class Carry(Node):
    name: str
    value: Expr


@dataclass(frozen=True, eq=False)
class Link(Node):
    """`link i <-> j if e`; directed with `->`."""

    first: str
    second: str
    directed: bool
    condition: Expr | None = None


@dataclass(frozen=True, eq=False)
class Bare(Node):
    """`checkpoint` or `reset`."""

    word: str


Statement = (
    Doc
    | Input
    | Vary
    | State
    | Declare
    | Bind
    | Minimize
    | SubjectTo
    | ReportAs
    | Return
    | Require
    | Gives
    | When
    | Repeat
    | On
    | Backward
    | Every
    | Flow
    | Train
    | ScheduleIs
    | Cut
    | Recompute
    | Carry
    | Link
    | Bare
)


# ---- definitions and the file


@dataclass(frozen=True, eq=False)
class Param(Node):
    name: str
    type: TypeExpr | None = None
    default: Expr | None = None


@dataclass(frozen=True, eq=False)
class Definition(Node):
    """`kind name(params) [on pattern] [over property] { body }`, or an alias `= value` (then `body` is None)."""

    kind: str
    name: str
    name_span: Span
    params: tuple[Param, ...]
    pattern: Pattern | None
    over: Expr | None
    body: tuple[Statement, ...] | None
    value: Expr | None

    def text(self, kind: str) -> str:
        """The text of its `doc` or `cite` lines, joined; empty where there is none."""
        return " ".join(s.text for s in self.body or () if isinstance(s, Doc) and s.kind == kind)


@dataclass(frozen=True, eq=False)
class Import(Node):
    path: str
    alias: str


@dataclass(frozen=True, eq=False)
class Comment(Node):
    """`# ...`; `alone` when nothing else stands on its line."""

    text: str
    alone: bool


@dataclass(frozen=True, eq=False)
class File(Node):
    items: tuple[Import | Definition, ...]
    comments: tuple[Comment, ...] = ()

    @property
    def definitions(self) -> tuple[Definition, ...]:
        return tuple(item for item in self.items if isinstance(item, Definition))


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, in the order of their text."""
    for f in fields(node):
        yield from _nodes(getattr(node, f.name))


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)


def walk(node: Node) -> Iterator[Node]:
    """This node and all below it, parents first."""
    yield node
    for child in children(node):
        yield from walk(child)


def shape(node: Any) -> Any:
    """The tree without spans and without comments: equal for texts that differ in layout only."""
    if isinstance(node, Group) and len(node.items) == 1 and node.items[0].name is None:
        return shape(node.items[0].value)
    if is_dataclass(node) and isinstance(node, Node):
        skipped = {"span", "name_span", "comments"} | ({"text"} if isinstance(node, Number) else set())
        return (type(node).__name__, *(shape(getattr(node, f.name)) for f in fields(node) if f.name not in skipped))
    if isinstance(node, tuple):
        return tuple(shape(item) for item in node)
    return node

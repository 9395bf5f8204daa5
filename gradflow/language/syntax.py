"""The syntax tree: frozen nodes, each with the span of its text. Nothing here knows what a name means.

Expressions (`Number`, `Name`, `Call`, ...), statements (`State`, `Bind`, `Flow`, ...), types and patterns, definitions, and the file.
The parser builds them (`parser.py`), the formatter prints them (`format.py`), the elaborator gives them meaning (`passes/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, dataclass_transform

from gradflow.language.source import Span

T = TypeVar("T")


@dataclass_transform(frozen_default=True, eq_default=False)
def node(cls: type[T]) -> type[T]:
    """A frozen dataclass, equal only to itself. Made in a third of the time: there are seventy, and every check of a file waits for them."""
    cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise dataclass has inspect write the signature there
    return dataclass(frozen=True, eq=False, repr=False)(cls)


@node
class Node:
    span: Span

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"


# ---- expressions


@node
class Number(Node):
    """A number as written: `text` keeps `1e-3`, `10%` (value 0.1) or `4GB` (value in bytes); `kind` is number, percent or size."""

    value: int | float
    text: str
    kind: str = "number"


@node
class String(Node):
    value: str


@node
class Name(Node):
    id: str


@node
class Slice(Node):
    """`a .. b`, either side may be missing."""

    start: Expr | None
    stop: Expr | None


@node
class Arg(Node):
    name: str | None
    value: Expr


@node
class Group(Node):
    """Parentheses: one unnamed item is just that item; several, or named ones, are a tuple or a record."""

    items: tuple[Arg, ...]


@node
class ListOf(Node):
    """`[a, b: n]`: an axis list where axes are expected, else a list of values."""

    items: tuple[Arg, ...]


@node
class Call(Node):
    callee: Expr
    args: tuple[Arg, ...]


@node
class Index(Node):
    value: Expr
    args: tuple[Arg, ...]


@node
class Field(Node):
    value: Expr
    name: str
    name_span: Span


@node
class Unary(Node):
    """`-x` (op "-") or `not x` (op "not")."""

    op: str
    operand: Expr


@node
class Binary(Node):
    """`+ - * / ^ and or`."""

    op: str
    left: Expr
    right: Expr


@node
class Compare(Node):
    """`a < b <= c`: operands one more than ops."""

    operands: tuple[Expr, ...]
    ops: tuple[str, ...]


@node
class Lambda(Node):
    params: tuple[str, ...]
    body: Expr


@node
class Chain(Node):
    """`a -> b -> c`: the flow."""

    stages: tuple[Expr, ...]


@node
class Guarded(Node):
    """`stage on pattern`."""

    stage: Expr
    pattern: Pattern


@node
class Alternatives(Node):
    """`a on P | b`: each leaf takes the first that fits."""

    options: tuple[Expr, ...]


Expr = Number | String | Name | Slice | Group | ListOf | Call | Index | Field | Unary | Binary | Compare | Lambda | Chain | Guarded | Alternatives


# ---- types and patterns


@node
class AxisItem(Node):
    """One entry of an axis list: `token`, `r: min(rank, cut)`, `*unit`, `train.x`."""

    name: str
    size: Expr | None = None
    spliced: bool = False


@node
class Axes(Node):
    """`[sample, token]` or `[sample -> prompt]`."""

    items: tuple[AxisItem, ...]
    target: str | None = None


@node
class Bound(Node):
    """`> 0`, or an interval `in [0, 1)`: then `op` is "in"."""

    op: str
    low: Expr
    high: Expr | None = None
    low_closed: bool = True
    high_closed: bool = True


@node
class TypeOne(Node):
    base: str | None
    axes: Axes | None = None
    bound: Bound | None = None


@node
class TypeExpr(Node):
    options: tuple[TypeOne, ...]


@node
class ShapePattern(Node):
    axes: Axes
    where: Expr | None = None


@node
class NamedPattern(Node):
    """`linear(x: [row, in], ...)`, `node(i)`, `wait(dt)`."""

    name: str
    params: tuple[Param, ...]
    where: Expr | None = None


@node
class TextPattern(Node):
    """`"*.attn.proj"`: leaves by name."""

    text: str
    where: Expr | None = None


Pattern = ShapePattern | NamedPattern | TextPattern


# ---- statements


@node
class Doc(Node):
    kind: str
    text: str


@node
class Input(Node):
    names: tuple[str, ...]
    type: TypeExpr
    default: Expr | None = None


@node
class Vary(Node):
    names: tuple[str, ...]
    type: TypeExpr


@node
class State(Node):
    names: tuple[str, ...]
    type: TypeExpr | None
    drawn: bool
    init: Expr
    storage: Expr | None = None


@node
class Declare(Node):
    """`data a, b = ...` or `model net = ... as format`."""

    kind: str
    names: tuple[str, ...]
    value: Expr
    storage: Expr | None = None


@node
class Target(Node):
    """What an assignment or a flow writes: `x`, `net.scale`, `z[i]`."""

    name: str
    index: tuple[Arg, ...] = ()


@node
class Bind(Node):
    """`x = e` (formula), `x ~ e` (draw), `x <- e` (assignment)."""

    targets: tuple[Target, ...]
    op: str
    value: Expr


@node
class Minimize(Node):
    value: Expr


@node
class SubjectTo(Node):
    name: str | None
    value: Expr


@node
class ReportAs(Node):
    name: str
    value: Expr


@node
class Return(Node):
    value: Expr


@node
class Require(Node):
    """`require`, `prefer` or `expect`."""

    kind: str
    value: Expr
    message: str | None = None


@node
class Gives(Node):
    value: Expr


@node
class When(Node):
    condition: Expr
    body: tuple[Statement, ...]


@node
class StartValue(Node):
    name: str
    value: Expr


@node
class Repeat(Node):
    axis: AxisItem | None
    backward: bool
    values: tuple[StartValue, ...]
    until: Expr | None
    body: tuple[Statement, ...]


@node
class On(Node):
    each: bool
    pattern: Pattern
    rate: Expr | None
    body: tuple[Statement, ...]


@node
class Backward(Node):
    body: tuple[Statement, ...]


@node
class Every(Node):
    """`every 20 rounds { }`; `every step { }` has no count and the unit as its name."""

    count: Expr | None
    unit: str
    body: tuple[Statement, ...]


@node
class Flow(Node):
    targets: tuple[Target, ...]
    over: Expr | None
    per: str | None
    value: Expr


@node
class Train(Node):
    count: Expr
    unit: str
    args: tuple[Arg, ...]
    body: tuple[Statement, ...] | None


@node
class ScheduleIs(Node):
    value: Expr


@node
class Cut(Node):
    axis: str
    size: Expr


@node
class Recompute(Node):
    name: str


@node
class Carry(Node):
    name: str
    value: Expr


@node
class Link(Node):
    """`link i <-> j if e`; directed with `->`."""

    first: str
    second: str
    directed: bool
    condition: Expr | None = None


@node
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


@node
class Param(Node):
    name: str
    type: TypeExpr | None = None
    default: Expr | None = None


@node
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


@node
class Import(Node):
    path: str
    alias: str


@node
class Comment(Node):
    """`# ...`; `alone` when nothing else stands on its line."""

    text: str
    alone: bool


@node
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

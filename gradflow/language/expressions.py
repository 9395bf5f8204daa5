"""Nodes of the syntax tree that stand inside of statements: expressions, types with their axes and bounds, and patterns."""

from __future__ import annotations

from gradflow.language.source import Span
from gradflow.language.tree import Node, node

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
class Param(Node):
    name: str
    type: TypeExpr | None = None
    default: Expr | None = None


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

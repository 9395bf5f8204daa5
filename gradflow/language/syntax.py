"""The syntax tree: frozen nodes, each with the span of its text. Nothing here knows what a name means.

Statements (`State`, `Bind`, `Flow`, ...), definitions and the file here; expressions, types and patterns in `expressions.py`: all are
read as `syntax.X`. The parser builds them (`building.py`), the formatter prints them (`format.py`), the elaborator gives them meaning (`passes/`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gradflow.language.expressions import (  # noqa: F401  # isort: skip
    Alternatives, Arg, Axes, AxisItem, Binary, Bound, Call, Chain, Compare, Expr, Field, Group, Guarded, Index, Lambda, ListOf, Name,
    NamedPattern, Number, Param, Pattern, ShapePattern, Slice, String, TextPattern, TypeExpr, TypeOne, Unary,
)  # fmt: skip
from gradflow.language.source import Span
from gradflow.language.tree import Node, children, node, walk  # noqa: F401

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
    Doc | Input | Vary | State | Declare | Bind | Minimize | SubjectTo | ReportAs | Return | Require | Gives | When | Repeat
    | On | Backward | Every | Flow | Train | ScheduleIs | Cut | Recompute | Carry | Link | Bare
)  # fmt: skip


# ---- definitions and the file


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


def shape(node: Any) -> Any:
    """The tree without spans and without comments: equal for texts that differ in layout only."""
    if isinstance(node, Group) and len(node.items) == 1 and node.items[0].name is None:
        return shape(node.items[0].value)
    if isinstance(node, Node):
        skipped = {"span", "name_span", "comments"} | ({"text"} if isinstance(node, Number) else set())
        return (type(node).__name__, *(shape(getattr(node, f.name)) for f in fields(node) if f.name not in skipped))
    if isinstance(node, tuple):
        return tuple(shape(item) for item in node)
    return node

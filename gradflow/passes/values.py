"""What an expression can be worth while a spec is elaborated, besides a number, a word (str) and a graph node.

Functions, stages and their chains, topologies, models, data, records: all frozen, all carrying the place they came from. They are
compile-time values; none of them survives into the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import NOWHERE, Span

if TYPE_CHECKING:
    from gradflow.library.catalogue import DataSpec, ModelSpec
    from gradflow.passes.scope import Scope


class _Nothing:
    def __repr__(self) -> str:
        return "none"


NONE = _Nothing()


@dataclass(frozen=True)
class Missing:
    """An input that nobody supplied: an error only if it is read."""

    name: str
    owner: str
    span: Span


@dataclass(frozen=True)
class Broken:
    """What a declaration with a mistake leaves behind: whoever reads the name fails by the same mistake, which is reported once."""

    diagnostic: Diagnostic


@dataclass(frozen=True)
class Function:
    """A definition (function or objective) with some or all of its parameters bound."""

    definition: s.Definition
    scope: Scope
    bound: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def inputs(self) -> tuple[s.Input, ...]:
        return tuple(statement for statement in self.definition.body or () if isinstance(statement, s.Input))


@dataclass(frozen=True)
class LambdaValue:
    tree: s.Lambda
    scope: Scope


@dataclass(frozen=True)
class Builtin:
    """A name of the expression language itself: `sum`, `where`, ..."""

    name: str


@dataclass(frozen=True)
class Record:
    """Named values: what an objective takes, what a function returns as (a: .., b: ..). `value` is what it is worth in arithmetic.

    `texts` are fields that only calls of primitives can read.
    """

    fields: Mapping[str, Any]
    name: str = "record"
    value: Node | float | None = None
    texts: Mapping[str, Node] = field(default_factory=dict)
    quiet: frozenset[str] = frozenset()  # fields that are there for who asks


def reporting(value: Any, *parts: Any) -> Any:
    """What is computed of objectives goes on reporting what they report, quietly where they weigh 0; of two of one name, that of the first."""
    found: dict[str, tuple[Any, bool]] = {}
    for part in (one for one in parts if isinstance(one, Record) and one.value is not None):
        quiet = part.quiet | (part.fields if _weightless(part.value) or _weightless(value) else {}).keys()
        found |= {name: (x, name in quiet) for name, x in part.fields.items() if name not in found or found[name][1]}
    fields = {name: x for name, (x, _) in found.items()}
    return Record(fields, "objective", value, quiet=frozenset(name for name, (_, quiet) in found.items() if quiet)) if fields else value


def _weightless(value: Any) -> bool:
    if not isinstance(value, Node):
        return value == 0
    return value.op == "const" and value["value"] == 0 or value.op in ("neg", "mul") and any(map(_weightless, value.inputs))


@dataclass(frozen=True)
class Stage:
    """An estimator, projection, exchange or update with its parameters bound."""

    definition: s.Definition
    scope: Scope
    bound: Mapping[str, Any]
    span: Span = NOWHERE

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def kind(self) -> str:
        return self.definition.kind


@dataclass(frozen=True)
class BuiltinStage:
    """`backprop`, and `nothing`, which changes nothing."""

    name: str
    span: Span = NOWHERE


@dataclass(frozen=True)
class ChainOf:
    stages: tuple[Any, ...]
    span: Span = NOWHERE


@dataclass(frozen=True)
class OnlyOn:
    """`stage on pattern`."""

    stage: Any
    pattern: s.Pattern
    scope: Scope


@dataclass(frozen=True)
class FirstFitting:
    """`a on P | b`."""

    options: tuple[Any, ...]
    span: Span = NOWHERE


@dataclass(frozen=True)
class Live:
    """The objective at the head of a flow: kept as text, because it is evaluated at whatever parameters are asked for."""

    tree: s.Expr
    scope: Scope


STAGES = (Stage, BuiltinStage, ChainOf, OnlyOn, FirstFitting)


@dataclass(frozen=True)
class Topology:
    """Who is linked to whom: `adjacency` and `weights` are nodes over [node, from] ([node]: the receiver)."""

    name: str
    nodes: int | None
    adjacency: Node
    weights: Node | None
    directed: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    constant: bool = True
    gives: frozenset[str] = frozenset()
    listing: Any = None  # how its links are listed without a dense adjacency: see topologies/edges.py
    rounds: int = 0  # after how many rounds its links repeat, where they change


@dataclass(frozen=True)
class Devices:
    """The processes of the run, where a topology stands. `shard`: what of the model is spread over them (none | parameters)."""

    shard: str = "none"


@dataclass(frozen=True)
class Model:
    """A declared model; its parameters are the source ("param", name) unless the context says otherwise."""

    name: str
    spec: ModelSpec
    span: Span = NOWHERE
    free: tuple[Axis, ...] | None = None
    start: Node | float | None = None
    copy_of: str | None = None


@dataclass(frozen=True)
class Data:
    name: str
    split: str
    spec: DataSpec
    span: Span = NOWHERE


@dataclass(frozen=True)
class Pipeline:
    definition: s.Definition
    scope: Scope
    bound: Mapping[str, Any]


@dataclass(frozen=True)
class Primitive:
    """A library call of kind `call` (sample, score, ...), not yet applied."""

    name: str


@dataclass(frozen=True)
class StageCall:
    """A stage used as a function inside another: `local(g)` gives a step, `inner.m` its states afterwards."""

    name: str
    run: Callable[..., Any]
    fields: dict[str, Any] = field(default_factory=dict)


def kind_name(value: Any) -> str:
    """The field's word for what a value is, for messages."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"the number {value:g}"
    if isinstance(value, str):
        return f"the word `{value}`"
    if isinstance(value, Node):
        return f"a value of type {value.type}"
    if isinstance(value, Stage):
        return f"the {value.kind} `{value.name}`"
    if isinstance(value, Builtin | BuiltinStage | Primitive | Topology | Model | Data):
        return f"the {NAMED[type(value)]} `{value.name}`"
    definition = getattr(value, "definition", None)
    if isinstance(definition, s.Definition):
        return f"the {definition.kind} `{definition.name}`"
    return "`none`" if value is NONE else next((text for cls, text in UNNAMED.items() if isinstance(value, cls)), "no value")


NAMED = {
    Builtin: "built-in function", BuiltinStage: "stage", Primitive: "library call", Topology: "topology", Model: "model", Data: "data set",
}  # fmt: skip
UNNAMED: dict[type, str] = {
    LambdaValue: "a function", Record: "a record", ChainOf: "a chain of stages", OnlyOn: "a stage", FirstFitting: "a choice of stages",
    Devices: "the processes of the run", Missing: "a missing input", StageCall: "a stage", tuple: "a tuple", list: "a list",
}  # fmt: skip


def kind_hint(value: Any) -> tuple[str, str]:
    """(why a value is no number, how one is had from it), for messages."""
    if isinstance(value, Function | LambdaValue | Builtin | Primitive):
        return "a function is a number only once it is called", "call it: `f(..)`"
    if isinstance(value, Record):
        return "a record holds several values", f"name one: `.{next(iter(value.fields), 'field')}`"
    if isinstance(value, Data):
        return "a data set holds several fields, in splits", "name one: `train.x`"
    if isinstance(value, str):
        return "words are values of options, not numbers", "choose by it: `case(option, word: value)`"
    if isinstance(value, tuple | list):
        return "a tuple holds several values", "take one by its place: `x[0]`"
    if isinstance(value, Topology):
        return "a topology says who is linked to whom", "use one of its fields: `graph.adjacency`, `graph.degree`, .."
    if isinstance(value, Missing):
        return f"`{value.name}` was not supplied", f"pass `{value.name}: ..`"
    if value is NONE:
        return "`none` stands for the absence of a value", "give a number, or ask first: `where(x == none, .., ..)`"
    return "a stage or a pipeline acts on what flows and has no value of its own", "use it in a `flow` line"

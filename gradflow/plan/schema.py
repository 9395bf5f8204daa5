"""What a compiled artifact holds, as pydantic models: a table of types, of spans and of nodes, and the program that refers to them by number.

Everything is strict: no coercion, no extra fields, no NaN but in constants. A model says what is well-formed by itself; what numbers refer to is
checked in `reading.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_AXES = 64
DEEPEST_VALUE = 12


class Described(str):
    """The text of a parameter's value that only the compiler can hold, as it stands in a program that was read back."""


def _plain(value: Any) -> Any:
    _check_plain(value, 0, False)
    return value


def _plain_or_nan(value: Any) -> Any:
    _check_plain(value, 0, True)
    return value


def _check_plain(value: Any, depth: int, nan: bool) -> None:
    """Numbers, words, none, and tuples of them. Raises ValueError."""
    if depth > DEEPEST_VALUE:
        raise ValueError("a value is nested too deeply")
    if isinstance(value, tuple):
        for item in value:
            _check_plain(item, depth + 1, nan)
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(f"{type(value).__name__} is no plain value")
    elif value != value and not nan:
        raise ValueError("NaN is allowed in constants only")


Plain = Annotated[Any, AfterValidator(_plain)]
PlainOrNaN = Annotated[Any, AfterValidator(_plain_or_nan)]
Index = Annotated[int, Field(ge=0, le=2**31)]
Size = Annotated[int, Field(ge=0, le=2**48)]
Number = Annotated[float | int, AfterValidator(_plain)]
AxisDoc = tuple[str, Size | None]
Text = tuple[tuple[str, ...], tuple[str, ...]]  # its axes, and the path of its source
Axes = Annotated[tuple[AxisDoc, ...], Field(max_length=MOST_AXES)]


class Doc(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TypeDoc(Doc):
    base: Literal["real", "int", "bool"]
    axes: Axes
    target: AxisDoc | None


class RegionDoc(Doc):
    """`results`: (name, node); `parameters`: the element nodes that a loop binds."""

    name: str
    results: tuple[tuple[str, Index], ...]
    parameters: tuple[Index, ...]


class NodeDoc(Doc):
    """A node's number is its place in the table; `inputs` are smaller numbers, `type` and `span` places in their tables."""

    op: str
    inputs: tuple[Index, ...]
    attrs: dict[str, PlainOrNaN]
    type: Index
    span: Index
    body: RegionDoc | None


class DeclarationDoc(Doc):
    """The call of a library primitive that makes a model's or a data set's spec anew."""

    primitive: str
    places: tuple[Plain, ...]
    options: dict[str, Plain]


class StoredDoc(Doc):
    """How leaves are kept; `domains` of the states that are whole numbers."""

    leaf: str
    shape: tuple[Size, ...]
    axes: Axes
    states: dict[str, Axes]
    domains: dict[str, tuple[int, int]]
    encode: RegionDoc
    decode: RegionDoc
    pull: RegionDoc


class ModelDoc(Doc):
    """`shape` is that of a free tensor; `size` the number of parameters that the graph was typed with."""

    declaration: DeclarationDoc | None
    shape: tuple[Size, ...] | None
    size: Size
    lifted: Axes
    copy_of: str | None
    start: RegionDoc | None
    free: bool
    stored: tuple[StoredDoc, ...]
    born: Size
    span: Index
    head: DeclarationDoc | None = None


class DataDoc(Doc):
    declaration: DeclarationDoc
    nodes: Size | None
    span: Index


class FieldDoc(Doc):
    base: Literal["real", "int", "bool", "text"]
    axes: Axes
    target: AxisDoc | None
    padded: bool
    live: bool


class CallDoc(Doc):
    id: str
    primitive: str
    models: dict[str, str]
    data: dict[str, tuple[str, str]]
    options: dict[str, Plain]
    fields: dict[str, FieldDoc]
    scalar: bool
    span: Index
    inputs: RegionDoc | None = None
    texts: dict[str, Text] = {}


class StateDoc(Doc):
    key: str
    type: Index
    init: Number
    stage: str


class TopologyDoc(Doc):
    """`region` has the result `adjacency`, and `weights` where the topology states its own."""

    name: str
    nodes: Size | None
    directed: bool
    constant: bool
    region: RegionDoc


class FactsDoc(Doc):
    """Numbers are none where they were not computed; `edges` are kept of small graphs."""

    nodes: Size
    links: Size
    directed: bool
    connected: bool
    components: Size
    diameter: Size | None
    central: bool
    doubly_stochastic: bool
    row_error: Number
    column_error: Number
    worst_column: Size
    contraction: Number | None
    slem: Number | None
    connectivity: Number | None
    chi_1: Number | None
    chi_2: Number | None
    degree_least: Size
    degree_most: Size
    weights: str
    rounds: Size
    hub: bool
    factors: tuple[Size, ...]
    edges: tuple[tuple[Index, Index], ...]


class DrawDoc(Doc):
    kind: Literal["draw"]
    name: str
    call: CallDoc


class HoldDoc(Doc):
    kind: Literal["hold"]
    region: RegionDoc
    texts: dict[str, Text] = {}
    states: tuple[StateDoc, ...] = ()
    flow: str = ""
    span: Index | None = None


class LoopDoc(Doc):
    """`texts`: how carried texts start (None: there are none yet) and go on; `empty`: types of what starts without entries."""

    kind: Literal["loop"]
    id: str
    count: Annotated[int, Field(ge=0, le=4096)]
    actions: tuple[Annotated[DrawDoc | LoopDoc, Field(discriminator="kind")], ...]
    start: RegionDoc
    next: RegionDoc
    until: RegionDoc | None
    texts: dict[str, tuple[Text | None, Text]]
    empty: dict[str, Index]
    span: Index


class AssignDoc(Doc):
    kind: Literal["assign"]
    model: str
    region: RegionDoc
    span: Index


class EventKindDoc(Doc):
    place: Literal["node", "link"]
    clock: Literal["poisson", "recorded"]
    body: RegionDoc
    schedule: RegionDoc
    span: Index


class EventsDoc(Doc):
    """`rows`: (name, type) of what a node keeps; `counters`: keys of states."""

    nodes: Size
    rows: tuple[tuple[str, Index], ...]
    counters: tuple[str, str, str]
    kinds: tuple[EventKindDoc, ...]
    constants: RegionDoc
    start: RegionDoc
    settle: RegionDoc
    settle_schedule: RegionDoc


class UpdateDoc(Doc):
    kind: Literal["update"]
    flow: str
    models: tuple[str, ...]
    region: RegionDoc
    rollout: RegionDoc | None
    states: tuple[StateDoc, ...]
    stages: tuple[str, ...]
    topology: TopologyDoc | None
    sliced: tuple[str, ...]
    span: Index
    facts: dict[str, Plain]
    topology_facts: FactsDoc | None
    events: EventsDoc | None = None
    spread: Literal["", "none", "parameters"] = ""


ActionDoc = Annotated[DrawDoc | HoldDoc | LoopDoc | AssignDoc | UpdateDoc, Field(discriminator="kind")]


class PeriodicDoc(Doc):
    count: Size
    unit: str
    region: RegionDoc
    calls: tuple[CallDoc, ...]
    checkpoint: bool
    span: Index


class PhaseDoc(Doc):
    count: Size
    unit: str
    settings: dict[str, Plain]
    actions: tuple[ActionDoc, ...]
    periodic: tuple[PeriodicDoc, ...]
    span: Index
    final: PeriodicDoc | None


class ScheduleDoc(Doc):
    name: str
    whole: Literal["", "group"]
    still: str
    layout: RegionDoc
    sees: RegionDoc
    idle: tuple[tuple[str, str], ...]
    span: Index


class ParameterDoc(Doc):
    """A parameter of the pipeline: its value, or the text of one that only the compiler can hold (a stage, a function)."""

    value: Plain = None
    text: str | None = None


class ProgramDoc(Doc):
    versions: dict[str, str]
    name: str
    doc: str
    source: str
    text: str
    files: tuple[str, ...]
    spans: tuple[tuple[Index, Size, Size, Size, Size], ...]
    types: tuple[TypeDoc, ...]
    nodes: tuple[NodeDoc, ...]
    models: dict[str, ModelDoc]
    data: dict[str, DataDoc]
    phases: tuple[PhaseDoc, ...]
    parameters: dict[str, ParameterDoc]
    inputs: dict[str, Index]
    schedule: ScheduleDoc | None = None

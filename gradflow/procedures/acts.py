"""What acts in a program: calls of library primitives, held values, loops around calls. Made by `acting.py`, carried out by `running.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from gradflow.graph.graph import Region
from gradflow.graph.types import Type
from gradflow.language.source import NOWHERE, Span
from gradflow.library.catalogue import FieldSpec

if TYPE_CHECKING:
    from gradflow.plan.program import StatePlan


class Text(NamedTuple):
    """Texts, which regions do not know: their axes and the path of their source."""

    axes: tuple[str, ...]
    path: tuple[str, ...]


@dataclass(frozen=True)
class WorldCall:
    """A call of a library primitive that acts on the world (draws samples, measures accuracy): `models` and `data` by parameter name.

    `inputs`: what is computed just before the call, as results PARAMETER (an option), PARAMETER/FIELD (of a record) and PARAMETER/row (which rows of
    `data`). `texts`: texts that go in by the same names.
    """

    id: str
    primitive: str
    models: Mapping[str, str]
    data: Mapping[str, tuple[str, str]]
    options: Mapping[str, Any]
    fields: Mapping[str, FieldSpec]
    scalar: bool = False
    span: Span = NOWHERE
    inputs: Region | None = None
    texts: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """Done at the head of a unit: fills world/ID, and held/NAME where there is a name."""

    name: str
    call: WorldCall


@dataclass(frozen=True)
class Hold:
    """A region whose results are held for the rest of the unit (held/NAME/FIELD), or kept from unit to unit (state/DRAW/KEY, as `states` lists)."""

    region: Region
    texts: Mapping[str, Text] = field(default_factory=dict)
    states: tuple[StatePlan, ...] = ()
    flow: str = ""
    span: Span = NOWHERE


@dataclass(frozen=True)
class Loop:
    """Actions done up to `count` times, until `until` (a region with that result) holds before a pass; world/ID/pass counts
    them from 0.

    `start` and `next` have results world/ID/NAME, what is carried from pass to pass; `texts` are carried texts by NAME, as they start (None: there
    are none yet) and as they go on. What starts as `empty` has no entries along the axes of open size.
    """

    id: str
    count: int
    actions: tuple[Draw | Loop, ...]
    start: Region
    next: Region
    until: Region | None = None
    texts: Mapping[str, tuple[Text | None, Text]] = field(default_factory=dict)
    empty: Mapping[str, Type] = field(default_factory=dict)
    span: Span = NOWHERE


Act = Draw | Hold | Loop


def acts_in(actions: Iterable[Any]) -> Iterator[Act]:
    """What acts on the world or is held, and what loops among it do."""
    for action in actions:
        if isinstance(action, Act):
            yield action
        if isinstance(action, Loop):
            yield from acts_in(action.actions)


def calls_in(actions: Iterable[Any]) -> list[WorldCall]:
    return [action.call for action in acts_in(actions) if isinstance(action, Draw)]


def regions_in(act: Act) -> list[Region]:
    """The regions of one act, those of acts inside of it left out."""
    found = (act.call.inputs,) if isinstance(act, Draw) else (act.region,) if isinstance(act, Hold) else (act.start, act.until, act.next)
    return [region for region in found if region is not None]


def with_regions(act: Act, change: Callable[[Region], Region]) -> Act:
    """The act with each of its regions changed."""

    def maybe(region: Region | None) -> Region | None:
        return change(region) if region is not None else None

    if isinstance(act, Draw):
        return replace(act, call=replace(act.call, inputs=maybe(act.call.inputs)))
    if isinstance(act, Hold):
        return replace(act, region=change(act.region))
    inner: Any = tuple(with_regions(one, change) for one in act.actions)
    return replace(act, actions=inner, start=change(act.start), next=change(act.next), until=maybe(act.until))

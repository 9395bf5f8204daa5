"""Types of values in the graph: a base, named axes with sizes where known, and for index maps the axis they point into.

Broadcasting is by axis name. `None` as a size means: known when the data is there. No torch, no numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Axis(NamedTuple):
    """A named axis; two axes are the same when their names are."""

    name: str
    size: int | None = None

    def __str__(self) -> str:
        return self.name if self.size is None else f"{self.name}: {self.size}"


class AxisConflict(Exception):
    """Two values give one axis two sizes."""

    def __init__(self, axis: str, first: int, second: int):
        super().__init__(f"axis `{axis}` has {first} entries on one side and {second} on the other")
        self.axis = axis


@dataclass(frozen=True, slots=True)
class Type:
    """`base` is real, int or bool; `target` is the axis that an index map points into (then base is int)."""

    base: str
    axes: tuple[Axis, ...] = ()
    target: Axis | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.axes if axis.name == name)

    def has(self, name: str) -> bool:
        return any(axis.name == name for axis in self.axes)

    def without(self, names: Iterable[str]) -> tuple[Axis, ...]:
        dropped = set(names)
        return tuple(axis for axis in self.axes if axis.name not in dropped)

    def __str__(self) -> str:
        inner = ", ".join(str(axis) for axis in self.axes)
        arrow = f"{' ' if inner else ''}-> {self.target.name}" if self.target else ""
        base = "" if self.base == "real" and (inner or arrow) or self.target else self.base
        return f"{base}[{inner}{arrow}]" if inner or arrow else base


REAL = Type("real")


def union(*lists: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """All axes by name, in order of first appearance, each with the size that any side knows. Raises AxisConflict."""
    found: dict[str, int | None] = {}
    for axes in lists:
        for name, size in axes:
            known = found.get(name)
            if known is not None and size is not None and known != size:
                raise AxisConflict(name, known, size)
            found[name] = known if known is not None else size
    return tuple(Axis(name, size) for name, size in found.items())


def wider(*bases: str) -> str:
    """The base that arithmetic on these gives: real over int over bool."""
    if "real" in bases:
        return "real"
    return "int" if "int" in bases or "bool" in bases else bases[0]

"""What every node of a syntax tree is: a frozen value with the span of its text; and how a tree is walked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
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

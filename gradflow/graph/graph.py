"""The typed graph: nodes in static single assignment, shared when equal, pure. State is a node read and a result written, never a mutation.

A `Region` is one function over the graph: named sources in, named results out. Backends lower regions; everything above them builds,
checks and rewrites them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradflow.graph.types import Type
from gradflow.language.source import NOWHERE, Span


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation. `attrs` are static and hashable; `body` is the inner region of a loop."""

    id: int
    op: str
    inputs: tuple[Node, ...]
    attrs: tuple[tuple[str, Any], ...]
    type: Type
    span: Span = NOWHERE
    body: Region | None = None

    def __getitem__(self, name: str) -> Any:
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.attrs if key == name), default)

    def __repr__(self) -> str:
        attrs = "".join(f" {k}={v}" for k, v in self.attrs)
        return f"%{self.id} = {self.op}({', '.join(f'%{n.id}' for n in self.inputs)}){attrs} : {self.type}"


@dataclass
class Graph:
    """Makes nodes, each once: equal operation, inputs and attributes give the same node."""

    table: dict[Any, Node] = field(default_factory=dict)
    count: int = 0

    def node(self, op: str, inputs: Iterable[Node], type_: Type, span: Span = NOWHERE, body: Region | None = None, **attrs: Any) -> Node:
        inputs = tuple(inputs)
        items = tuple(sorted(attrs.items()))
        key = (op, tuple(n.id for n in inputs), tuple((k, type(v), v) for k, v in items), type_, id(body) if body else None)
        found = self.table.get(key)
        if found is None:
            self.count += 1
            found = Node(self.count, op, inputs, items, type_, span, body)
            self.table[key] = found
        return found

    def fresh(self, op: str, type_: Type, span: Span = NOWHERE, **attrs: Any) -> Node:
        """A node like no other: a loop's parameter, a hole that is filled later."""
        self.count += 1
        return Node(self.count, op, (), tuple(sorted(attrs.items())), type_, span)


@dataclass(frozen=True)
class Region:
    """`results` by name; `parameters` are the free nodes that a loop binds. Sources (op `source`) are found by walking."""

    results: tuple[tuple[str, Node], ...]
    parameters: tuple[Node, ...] = ()
    name: str = ""

    @property
    def roots(self) -> tuple[Node, ...]:
        return tuple(node for _, node in self.results)

    def nodes(self) -> list[Node]:
        return ordered(self.roots)

    def sources(self) -> list[Node]:
        return [node for node in self.nodes() if node.op == "source"]


def ordered(roots: Iterable[Node]) -> list[Node]:
    """All nodes below the roots, inputs before users."""
    done: dict[int, Node] = {}
    for root in roots:
        stack: list[tuple[Node, Iterator[Node]]] = []
        if root.id not in done:
            stack.append((root, iter(root.inputs)))
        while stack:
            node, rest = stack[-1]
            for below in rest:
                if below.id not in done:
                    stack.append((below, iter(below.inputs)))
                    break
            else:
                done[node.id] = node
                stack.pop()
    return list(done.values())


def users(nodes: Iterable[Node]) -> dict[int, list[Node]]:
    """Who reads each node, by id."""
    found: dict[int, list[Node]] = {}
    for node in nodes:
        for below in node.inputs:
            found.setdefault(below.id, []).append(node)
    return found


def depends(roots: Iterable[Node], on: Callable[[Node], bool], unless: Callable[[Node], bool] = lambda node: False) -> set[int]:
    """Ids of the nodes that are, or read, one for which `on` is true; `unless`: nodes that hide what they read."""
    found: set[int] = set()
    for node in ordered(roots):
        if not unless(node) and (on(node) or any(below.id in found for below in node.inputs)):
            found.add(node.id)
    return found


def rebuild(graph: Graph, roots: Iterable[Node], replace: Callable[[Node, tuple[Node, ...]], Node | None]) -> dict[int, Node]:
    """The graph below the roots made anew: `replace` sees each node with its new inputs and may return another one. Maps old ids to new nodes."""
    new: dict[int, Node] = {}
    for node in ordered(roots):
        inputs = tuple(new[below.id] for below in node.inputs)
        other = replace(node, inputs)
        if other is not None:
            new[node.id] = other
        elif inputs == node.inputs:
            new[node.id] = node
        else:
            new[node.id] = graph.node(node.op, inputs, node.type, node.span, node.body, **dict(node.attrs))
    return new


def substitute(graph: Graph, roots: Iterable[Node], mapping: Mapping[int, Node]) -> dict[int, Node]:
    """Replaces nodes by id, everywhere below the roots; replacements are themselves substituted, until none is left."""
    resolved: dict[int, Node] = {}

    def replace(node: Node, inputs: tuple[Node, ...]) -> Node | None:
        if node.id in mapping:
            if node.id not in resolved:
                target = mapping[node.id]
                resolved[node.id] = substitute(graph, [target], mapping)[target.id]
            return resolved[node.id]
        return None

    return rebuild(graph, roots, replace)

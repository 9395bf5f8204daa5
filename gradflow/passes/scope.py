"""Names: where a definition is looked up, and what the standard library offers.

A scope is a chain of name tables. Behind the innermost tables of a body stand the definitions of its file, behind these the standard
library (`pipelines/`), which is indexed by a quick scan and parsed only where it is used, and at the end the built-ins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from os.path import abspath, normpath
from pathlib import Path
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.parser import parse
from gradflow.language.source import Source
from gradflow.language.syntax_words import KINDS

HEADER = re.compile(rf"^({'|'.join(KINDS)})[ \t]+([A-Za-z_]\w*)", re.M)


def standard_folder() -> Path:
    """Where the shipped specs are: beside the package in a checkout, inside it when installed."""
    import gradflow.pipelines

    return Path(next(iter(gradflow.pipelines.__path__)))


@cache
def standard_files() -> tuple[Path, ...]:
    """Baselines first, then methods: a name that both define means the baseline's."""
    root = standard_folder()
    return tuple(path for folder in ("baselines", "methods", "examples") for path in sorted((root / folder).glob("*.gflow")))


def example_files() -> tuple[Path, ...]:
    """Pipelines to run and to copy; what they define is known to nobody else."""
    return tuple(sorted((standard_folder() / "examples").glob("*.gflow")))


@cache
def standard_index() -> dict[str, Path]:
    """Name -> file of every definition of the standard library but pipelines and claims, which belong to their file."""
    index: dict[str, Path] = {}
    for path in standard_files():
        for kind, name in HEADER.findall(path.read_text(encoding="utf-8")):
            if kind not in ("pipeline", "claim"):
                index.setdefault(name, path)
    return index


@cache
def module(path: Path) -> Module:
    """A file, once; a shipped one is parsed definition by definition, as they are asked for. Raises GradflowError, OSError."""
    source = Source.read(path)
    shipped = path in standard_files() or Path(abspath(path)) in standard_files()
    return Module(source, Shipped(source), {}) if shipped else Module.of(source)


class Shipped(Mapping[str, s.Definition]):
    """The definitions of a file that is known to parse, each parsed when it is first asked for: checking a spec must not wait for all."""

    def __init__(self, source: Source):
        self.source = source
        heads = list(HEADER.finditer(source.text))
        ends = [head.start() for head in heads[1:]] + [len(source.text)]
        self.places = {head.group(2): (head.start(), end) for head, end in reversed(list(zip(heads, ends, strict=True)))}
        self.order = list(dict.fromkeys(head.group(2) for head in heads))
        self.parsed: dict[str, s.Definition] = {}

    def __getitem__(self, name: str) -> s.Definition:
        if name not in self.parsed:
            start, end = self.places[name]
            blank = re.sub(r"[^\n]", " ", self.source.text[:start])
            self.parsed[name] = parse(Source(self.source.name, blank + self.source.text[start:end])).definitions[0]
        return self.parsed[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Asked for every name of every expression, and mostly not there."""
        return self[name] if name in self.places else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __contains__(self, name: object) -> bool:
        return name in self.places


@dataclass(frozen=True, eq=False)
class Module:
    """One file and its definitions by name."""

    source: Source
    definitions: Mapping[str, s.Definition]
    imports: Mapping[str, Path]
    parsed: s.File | None = None

    @staticmethod
    def of(source: Source) -> Module:
        tree = parse(source)
        definitions: dict[str, s.Definition] = {}
        for definition in tree.definitions:
            definitions.setdefault(definition.name, definition)
        folder = Path(source.name).parent
        imports = {item.alias or Path(item.path).stem: Path(normpath(folder / item.path)) for item in tree.items if isinstance(item, s.Import)}
        return Module(source, definitions, imports, tree)

    @property
    def tree(self) -> s.File:
        """The whole file. A shipped one is parsed for it."""
        return self.parsed if self.parsed is not None else parse(self.source)

    def scope(self) -> Scope:
        return Scope({}, None, self)


@dataclass(eq=False)
class Scope:
    """A table of names before its parents. `axes` are the axes that the body names, with sizes where known; `maps` its index maps."""

    names: dict[str, Any]
    parent: Scope | None
    module: Module
    owner: str = ""
    axes: dict[str, Axis] = field(default_factory=dict)
    maps: list[Any] = field(default_factory=list)
    frame: Any = None

    def child(self, owner: str = "", frame: Any = None) -> Scope:
        return Scope({}, self, self.module, owner or self.owner, dict(self.axes), list(self.maps), frame or self.frame)

    def inside(self, definition: s.Definition, bound: Mapping[str, Any] | None = None, frame: Any = None) -> Scope:
        """Where the text of a definition is read: its parameters are bound, and its own name means the outer one."""
        scope = self.child(definition.name, frame)
        scope.names.update(bound or {})
        scope.names["#definition"] = definition
        return scope

    def local(self, name: str) -> tuple[bool, Any]:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True, scope.names[name]
            scope = scope.parent
        return False, None

    def assign(self, name: str, value: Any) -> bool:
        """Gives a name of this scope or a parent a new value; False where there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                scope.names[name] = value
                return True
            scope = scope.parent
        return False

    def locals(self) -> Iterator[str]:
        scope: Scope | None = self
        while scope is not None:
            yield from scope.names
            scope = scope.parent

    def holder(self, axis: str) -> Node | None:
        """Some value in scope that has the axis, to read its length off."""
        scope: Scope | None = self
        while scope is not None:
            for value in scope.names.values():
                if isinstance(value, Node) and value.type.has(axis):
                    return value
            scope = scope.parent
        return None

    def find(self, name: str, inside: s.Definition | None = None) -> tuple[s.Definition, Module] | None:
        """The definition a name means here. Inside its own definition a name means the outer one: there is no recursion to mean."""
        own = self.module.definitions.get(name)
        if own is not None and own is not inside:
            return own, self.module
        path = standard_index().get(name)
        if path is not None and (own is None or path.resolve() != Path(self.module.source.name).resolve()):
            found = module(path)
            return found.definitions[name], found
        return None

    def imported(self, alias: str, node: s.Node) -> Module | None:
        path = self.module.imports.get(alias)
        if path is None:
            return None
        try:
            return module(path)
        except OSError:
            raise mistake(
                "E0204", node.span, f"cannot read `{path}`", why="the import names a file that is not there",
                fix="correct the path; it is relative to this file",
            ) from None  # fmt: skip

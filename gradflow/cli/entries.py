"""Everything that has a name: shipped definitions, built-in functions, library primitives; what `list` shows and `explain` finds.

Read off the specs, the table of built-ins and the catalogue as they are: nothing is listed twice by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradflow.language import syntax as s

DEFINITIONS = ("objective", "estimator", "projection", "exchange", "update", "topology", "function", "format", "schedule", "pipeline", "claim")
PRIMITIVES = ("model", "data", "call")
FILTERS: Mapping[str, tuple[str, ...]] = {
    "stages": ("estimator", "projection", "exchange", "update"),
    "objectives": ("objective",), "functions": ("function",), "topologies": ("topology",), "pipelines": ("pipeline",), "claims": ("claim",),
    "built-ins": ("built-in",), "models": ("model",), "data": ("data",), "calls": ("call",), "primitives": PRIMITIVES,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One name. `where` is the file of a definition, the family of a built-in, the module in `gradflow/library` of a primitive."""

    kind: str
    name: str
    signature: str
    doc: str
    where: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def entries(kinds: Iterable[str] = ()) -> Iterator[Entry]:
    """All entries, or those of some kinds, in the order: definitions by file, built-ins by family, primitives by module."""
    wanted = set(kinds)

    def asked(group: Iterable[str]) -> bool:
        return not wanted or bool(wanted & set(group))

    if asked(DEFINITIONS):
        yield from (entry for entry in definitions() if not wanted or entry.kind in wanted)
    if asked(("built-in",)):
        yield from builtins()
    if asked(PRIMITIVES):
        yield from (entry for entry in primitives() if not wanted or entry.kind in wanted)


def definitions() -> Iterator[Entry]:
    """Of every shipped spec that parses."""
    from gradflow.language.diagnostics import GradflowError
    from gradflow.passes.scope import module, standard_files
    from gradflow.passes.words import expression_text

    for path in standard_files():
        try:
            found = module(path)
        except GradflowError:
            continue
        for definition in found.tree.definitions:
            said = definition.text("doc") or (f"= {expression_text(definition.value)}" if definition.value is not None else "")
            yield Entry(definition.kind, definition.name, signature(definition), said, f"{path.parent.name}/{path.stem}")


def signature(definition: s.Definition) -> str:
    """`adam(lr, beta1, ..)`: parameters in brackets, then inputs after a bar."""
    inputs = [name for one in definition.body or () if isinstance(one, s.Input) for name in one.names]
    params = ", ".join(param.name for param in definition.params)
    taken = f" on {', '.join(inputs)}" if inputs else ""
    return f"{definition.name}({params}){taken}" if params or not inputs else f"{definition.name}{taken}"


def builtins() -> Iterator[Entry]:
    from gradflow.builtins.functions import BUILTINS

    for function in sorted(BUILTINS.values(), key=lambda f: f.family):
        yield Entry("built-in", function.name, function.signature, function.doc, function.family)
    yield Entry("built-in", "backprop", "backprop", "The exact gradient: the estimator of a flow whose objective is differentiated.", "stages")
    yield Entry("built-in", "nothing", "nothing", "The stage that changes nothing.", "stages")


def primitives() -> Iterator[Entry]:
    from gradflow.library.catalogue import catalogue

    for primitive in catalogue().values():
        doc = primitive.doc.partition("\n")[0]
        yield Entry(primitive.kind, primitive.name, primitive_signature(primitive), doc, primitive.function.__module__.rpartition(".")[2])


def primitive_signature(primitive: Any) -> str:
    """The call as a spec writes it: parameters that a spec may give, with their defaults."""
    shown = []
    for param in primitive.signature.parameters.values():
        if param.name not in primitive.domains:
            continue
        text = f"{param.name}.." if param.kind is inspect.Parameter.VAR_POSITIONAL else param.name
        shown.append(text if param.default is inspect.Parameter.empty else f"{text} = {literal(param.default)}")
    return f"{primitive.name}({', '.join(shown)})"


def literal(value: Any) -> str:
    """A Python default as the language writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, str):
        return value if value.isidentifier() else f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def definition_of(name: str) -> tuple[s.Definition, Any] | None:
    """A definition by name, or by `FILE:name`: the standard library first, then pipelines and claims of the shipped specs."""
    from gradflow.compiler import find_file
    from gradflow.passes.scope import module, standard_files, standard_index

    file, _, inner = name.rpartition(":")
    if file:
        found = module(find_file(file)[0])
        return (found.definitions[inner], found) if inner in found.definitions else None
    path = standard_index().get(name) or next((f for f in standard_files() if name in defined_in(f)), None)
    return (module(path).definitions[name], module(path)) if path is not None else None


def defined_in(path: Path) -> set[str]:
    """The names that a file defines, by a quick scan."""
    from gradflow.passes.scope import HEADER

    return {name for _, name in HEADER.findall(path.read_text(encoding="utf-8"))}


def all_names() -> list[str]:
    """Every name that `explain` knows, for suggestions."""
    from gradflow.builtins.functions import BUILTINS
    from gradflow.library.catalogue import catalogue
    from gradflow.passes.scope import standard_files, standard_index

    stems = [path.stem for path in standard_files()]
    return [*standard_index(), *BUILTINS, *catalogue(), *stems, "backprop", "nothing"]

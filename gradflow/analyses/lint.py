"""Warnings that the text alone gives: names that nothing uses (W0101 to W0104, W0115), and names that hide a built-in one (W0105).

Scopes inside a definition are not told apart: a name counts as used when it is read anywhere in its definition. So a warning is sure, and
some names that nothing uses go unmentioned. A definition with an error is left alone, and names that begin with `_` are meant to be unused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, Report
from gradflow.language.source import Span
from gradflow.passes.scope import Module, standard_folder, standard_index
from gradflow.passes.suggestions import head

SAID_TO_THE_COMPILER = {"topology": {"nodes", "weights", "directed", "adjacency"}}  # names whose binding is their use
STAGE_WORDS = {"grad", "param", "step", "mix", "graph", "objective"}
STAGES = {"estimator", "projection", "update", "exchange"}


class Bound(NamedTuple):
    """A name that a definition binds: by what (formula, draw, model, data, state, input, parameter), and where."""

    name: str
    kind: str
    span: Span


def lint_module(module: Module, report: Report) -> None:
    """Adds the warnings of every definition without errors."""
    for definition in module.tree.definitions:
        wrong = [d for d in report.errors if d.span.file == definition.span.file and definition.span.offset <= d.span.offset < definition.span.end]
        _hiding(module, definition, report)
        if not wrong and definition.kind not in ("format", "schedule"):
            _unused(module, definition, report)
    _unused_definitions(module, report)


# ---- names that nothing uses


def _unused_definitions(module: Module, report: Report) -> None:
    """W0115: a definition that no other one of the file reads, in a file that runs, and that no parameter of a pipeline can be (`-p`). Files of a
    library are there for others.
    """
    definitions = module.tree.definitions
    if not any(definition.kind in ("pipeline", "claim") for definition in definitions) or _is_shipped(module) or report.errors:
        return
    chosen = {option.base for one in definitions if one.kind == "pipeline" for param in one.params if param.type for option in param.type.options}
    for definition in definitions:
        used = definition.kind in chosen or any(definition.name in _names_read(other) for other in definitions if other is not definition)
        if definition.kind not in ("pipeline", "claim") and not used and not definition.name.startswith("_"):
            report.add(
                Diagnostic(
                    "W0115", f"the {definition.kind} `{definition.name}` is never used", definition.name_span,
                    why="no other definition of this file names it", fix="use it, or remove it; a library is a file without pipelines",
                )
            )  # fmt: skip


def _is_shipped(module: Module) -> bool:
    return standard_folder().resolve() in Path(module.source.name).resolve().parents


def _unused(module: Module, definition: s.Definition, report: Report) -> None:
    used = set(_reads(definition)) | SAID_TO_THE_COMPILER.get(definition.kind, set())
    for together in _bound(module, definition):
        names = [one for one in together if one.name not in used and not one.name.startswith("_")]
        if len(names) != len(together) and together[0].kind in ("formula", "draw", "data"):
            continue  # of several names bound at once one is enough
        for one in names:
            if one.kind != "input" or _sees_inputs(definition):
                report.add(_unused_warning(one, definition))


def _unused_warning(one: Bound, definition: s.Definition) -> Diagnostic:
    from gradflow.peers.table import hint

    code, why, fix = {
        "parameter": ("W0102", f"every value of it gives the same `{definition.name}`", "use it in the body, or remove it"),
        "input": ("W0103", "whoever calls has to supply it, and nothing depends on it", "use it in the body, or remove it"),
        "state": ("W0104", "a state that only its own next value depends on is not even stored", "use it, or remove it"),
        "model": ("W0101", "no formula, flow or report uses this model", "train or report it, or remove it"),
        "data": ("W0101", "no formula, draw or report reads this data set", "use it, or remove it"),
    }.get(one.kind, ("W0101", "only what is used is computed", hint(one.name) or f"use it, or remove it; `report {one.name} = {one.name}` shows it"))
    return Diagnostic(code, f"the {one.kind} `{one.name}` is never used", one.span, why=why, fix=fix)


def _bound(module: Module, definition: s.Definition) -> Iterator[list[Bound]]:
    """Names bound by the definition, those of one statement together."""
    for param in definition.params:
        yield [Bound(param.name, "parameter", head(param.span, param.name))]
    for node in s.walk(definition):
        if isinstance(node, s.Bind) and node.op != "<-":
            kind = "draw" if node.op == "~" else "formula"
            plain = [target for target in node.targets if not target.index and "." not in target.name]
            if plain:
                yield [Bound(target.name, kind, head(target.span, target.name)) for target in plain]
        elif isinstance(node, s.Declare):
            whole = [Bound(name, node.kind, _inside(module, name, node.span)) for name in node.names]
            yield from [whole] if node.kind == "data" else [[one] for one in whole]
        elif isinstance(node, s.State | s.Input):
            kind = "state" if isinstance(node, s.State) else "input"
            yield from [[Bound(name, kind, _inside(module, name, node.span))] for name in node.names]


def _inside(module: Module, name: str, span: Span) -> Span:
    """Where a declaration says a name: the first place behind its keyword where it stands alone."""
    found = re.compile(rf"(?<![\w.]){name}\b").search(module.source.text, span.offset + 4, span.end)
    return module.source.span(found.start(), found.end()) if found else span


def _sees_inputs(definition: s.Definition) -> bool:
    """Whether an input is used by its name alone. A function may take what it does not need, because it is called by place; what an
    objective does not read itself, the functions that it calls take from its record."""
    from gradflow.builtins.functions import BUILTINS

    if definition.kind == "objective":
        return all(isinstance(call.callee, s.Name) and call.callee.id in BUILTINS for call in s.walk(definition) if isinstance(call, s.Call))
    return definition.kind == "pipeline"


def _reads(node: s.Node) -> Iterator[str]:
    """Every name that is read below a node; what an assignment reads of its own target, its only one, does not count."""
    if isinstance(node, s.Name):
        yield node.id
    elif isinstance(node, s.AxisItem):
        yield node.name.split(".")[0]
    elif isinstance(node, s.Cut | s.Recompute):
        yield node.axis if isinstance(node, s.Cut) else node.name
    elif isinstance(node, s.Flow):
        yield from (target.name.split(".")[0] for target in node.targets)
    own = {node.targets[0].name} if isinstance(node, s.Bind) and node.op == "<-" and len(node.targets) == 1 else set()
    for child in s.children(node):
        yield from (name for name in _reads(child) if name not in own)


@lru_cache(maxsize=1024)
def _names_read(definition: s.Definition) -> frozenset[str]:
    return frozenset(_reads(definition))


# ---- names that hide others


def _hiding(module: Module, definition: s.Definition, report: Report) -> None:
    from gradflow.builtins.functions import BUILTINS
    from gradflow.passes.names import CLOCKS, CONSTANTS

    words = {*BUILTINS, *CLOCKS, *CONSTANTS, *(STAGE_WORDS if definition.kind in STAGES else ())}
    for together in _bound(module, definition):
        for one in together:
            if one.name in words and one.kind in ("formula", "draw", "state", "model", "data"):
                report.add(_hides(one.span, one.name, _what(one.name), "in this body the other one cannot be used any more"))
    if definition.kind in ("pipeline", "claim"):
        return
    if definition.name not in standard_index() and definition.name not in words:
        return
    if all(definition.name not in _names_read(other) for other in module.tree.definitions if other is not definition):
        return  # nobody could mean the other one
    path = standard_index().get(definition.name)
    why = "where this file says that name, it means this definition"
    shipped = _is_shipped(module)
    if definition.name in words:
        report.add(_hides(definition.name_span, definition.name, _what(definition.name), why))
    elif path is not None and not shipped and definition.name not in _reads(definition):
        report.add(_hides(definition.name_span, definition.name, f"the library's `{definition.name}`", why))


def _hides(span: Span, name: str, what: str, why: str) -> Diagnostic:
    return Diagnostic("W0105", f"`{name}` hides {what}", span, why=why, fix="give it another name")


def _what(name: str) -> str:
    from gradflow.builtins.functions import BUILTINS

    return f"the built-in {'function' if name in BUILTINS else 'name'} `{name}`"

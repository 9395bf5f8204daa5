"""Tools in a spec: `tools: calculator()` is a value, the tool's name and its options, as words and numbers that a plan can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradflow.language import syntax as s
from gradflow.language.source import Span
from gradflow.passes.suggestions import unmade


def tool_value(name: str, arguments: dict[str, Any], span: Span) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """(name, options), tried once, so that what is wrong with it is said where it stands."""
    from gradflow.library.tools import made

    value = (name, tuple(arguments.items()))
    try:
        made(value)
    except ValueError as error:
        raise unmade(name, span, error) from None
    return value


def tool_tree(tree: s.Expr) -> s.Expr:
    """As a tool, `python("module:name")` is a function and not a model."""
    if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) and tree.callee.id == "python":
        return replace(tree, callee=replace(tree.callee, id="python_tool"))
    return tree

"""Library primitives as the language sees them: parameters with domains, read off the Python signature and the decorator."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

from gradflow.language import syntax as s
from gradflow.language.parser import parse
from gradflow.language.source import Source
from gradflow.library.catalogue import Primitive


@dataclass(frozen=True)
class PrimitiveParameter:
    """`hidden` ones are the runtime's (seed, tick); `variadic` takes all values that are left."""

    param: s.Param
    hidden: bool
    variadic: bool
    default: Any = None


def parameters_of(primitive: Primitive) -> dict[str, PrimitiveParameter]:
    return _parameters(primitive.name, primitive.function, tuple(sorted(primitive.domains.items())))


@cache
def _parameters(name: str, function: Any, domains: tuple[tuple[str, str], ...]) -> dict[str, PrimitiveParameter]:
    known = dict(domains)
    found: dict[str, PrimitiveParameter] = {}
    for param in inspect.signature(function).parameters.values():
        text = known.get(param.name, "")
        text = "" if text == "record" else text
        if param.default is None and text:
            text = f"{text} | none"
        header = f"function {name}({param.name}{': ' + text if text else ''}) = 0"
        tree = parse(Source(f"<{name}>", header)).definitions[0].params[0]
        found[param.name] = PrimitiveParameter(tree, param.name not in known, param.kind is inspect.Parameter.VAR_POSITIONAL, param.default)
    return found

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
    signature = inspect.signature(function).parameters.values()
    texts = []
    for param in signature:
        text = known.get(param.name, "").replace("record", "")
        texts.append(f"{param.name}: {text}{' | none' if param.default is None else ''}" if text else param.name)
    trees = parse(Source(f"<{name}>", f"function {name}({', '.join(texts)}) = 0")).definitions[0].params
    return {
        param.name: PrimitiveParameter(tree, param.name not in known, param.kind is inspect.Parameter.VAR_POSITIONAL, param.default)
        for param, tree in zip(signature, trees, strict=True)
    }

"""The table of built-in functions and the decorator that fills it: each handler types its result and makes nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradflow.builtins.arguments import Arguments, BuiltinFunction
from gradflow.language import syntax as s
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope

BUILTINS: dict[str, BuiltinFunction] = {}
Handler = Callable[[Arguments], Any]


def builtin(signature: str, doc: str, family: str, least: int = 1, most: int | None = 1) -> Callable[[Handler], Handler]:
    name, _, rest = signature.partition("(")
    names = tuple(part.split(":")[0].strip() for part in rest.rstrip(")").split(",") if ":" in part) + (
        ("*",) if "axis:" in signature or "field:" in signature else ()
    )

    def wrap(function: Handler) -> Handler:
        def handler(e: Elaborator, call: s.Call, scope: Scope) -> Any:
            return function(Arguments(e, call, scope, BUILTINS[name], least, most))

        BUILTINS[name] = BuiltinFunction(name, signature, doc, names, handler, family)
        return function

    return wrap

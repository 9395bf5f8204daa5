"""Built-ins of lists: what an option that holds several words or numbers is made into."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.calls import call_values


@builtin(
    "fold(list, start, (so_far, entry, place) => value)",
    "The entries of a list taken into a value one after the other, with their places from 0; what is no list is a list of one.",
    "choice", 3, 3,
)  # fmt: skip
def fold(a: Arguments) -> Any:
    entries, so_far, function = a.raw(0), a.raw(1), a.raw(2)
    if not isinstance(function, v.LambdaValue) or len(function.tree.params) != 3:
        raise mistake(
            "E0311", a.places[2].span, "`fold` takes a function of three", why=f"this is {v.kind_name(function)}",
            fix="write `(so_far, entry, place) => ..`",
        )  # fmt: skip
    for place, entry in enumerate(entries if isinstance(entries, tuple | list) else (entries,)):
        so_far = call_values(a.e, function, a.places[2].span, so_far, entry, place)
    return so_far

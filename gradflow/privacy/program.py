"""What a program says about privacy, read from its text, which artifacts carry too: the data sets that are private, and the budgets.

data train, test = private(digits(split: iid), unit: record)      the first split is private, record by record
require privacy <= (epsilon: 3, delta: 1e-5)                      `prefer` only warns when the plan is over it; a run stops there
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.language.source import Source, Span
from gradflow.passes.suggestions import head, suggestion
from gradflow.plan.program import Program

DELTA = 1e-5  # at which epsilon is shown where the spec names none
WORD = "private"


@dataclass(frozen=True)
class Budget:
    """At most epsilon at delta; `kind` is the word of its line, `require` or `prefer`."""

    epsilon: float
    delta: float
    kind: str
    span: Span


@dataclass(frozen=True)
class Said:
    """The private data sets by name with the place that makes them so, and the budgets."""

    data: Mapping[str, Span]
    budgets: tuple[Budget, ...]

    @property
    def delta(self) -> float:
        return self.budgets[0].delta if self.budgets else DELTA


NOTHING = Said({}, ())


def unwrapped(tree: s.Expr) -> s.Expr:
    """The data set inside of `private(data, unit: record)`. Raises Mistake."""
    if not (isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) and tree.callee.id == WORD):
        return tree
    places = [arg.value for arg in tree.args if arg.name is None]
    for arg in tree.args:
        if arg.name not in (None, "unit"):
            place = head(arg.span, arg.name or "")
            raise mistake(
                "E0404", place, f"`{WORD}` has no option `{arg.name}`", why="its option is `unit`, what is protected as a whole",
                **suggestion(place, arg.name or "", ("unit",), "`unit: record`"),
            )  # fmt: skip
        if arg.name == "unit" and not (isinstance(arg.value, s.Name) and arg.value.id == "record"):
            raise mistake(
                "E0402", arg.value.span, "only single records can be protected", why="clipping and sensitivities are by record",
                fix="write `unit: record`",
            )  # fmt: skip
    if len(places) != 1:
        raise mistake(
            "E0401", tree.span, f"`{WORD}` takes one data set, {len(places)} given", why="it says that the rows of that set are to be protected",
            fix=f"`data train, test = {WORD}(digits(), unit: record)`",
        )  # fmt: skip
    return places[0]


def said(program: Program) -> Said:
    """Of a whole program."""
    if not re.search(rf"\b{WORD}\s*\(", program.text):
        return NOTHING
    from gradflow.language.parser import parse

    tree = parse(Source(program.source, program.text))
    definition = next((one for one in tree.definitions if one.name == program.name and one.kind == "pipeline"), None)
    return said_in(definition, program.parameters) if definition is not None else NOTHING


def said_in(definition: s.Definition, parameters: Mapping[str, Any]) -> Said:
    data: dict[str, Span] = {}
    budgets: list[Budget] = []
    for statement in definition.body or ():
        if isinstance(statement, s.Declare) and statement.kind == "data" and unwrapped(statement.value) is not statement.value:
            data[statement.names[0]] = statement.value.span
        elif isinstance(statement, s.Require):
            budgets += _budgets(statement, parameters)
    return Said(data, tuple(budgets))


def _budgets(statement: s.Require, parameters: Mapping[str, Any]) -> list[Budget]:
    tree = statement.value
    if not isinstance(tree, s.Compare) or not isinstance(tree.operands[0], s.Name) or tree.operands[0].id != "privacy":
        return []
    group = tree.operands[1]
    items = group.items if isinstance(group, s.Group) else ()
    if any(isinstance(item.value, s.Name) and isinstance(parameters.get(item.value.id), Node) for item in items):
        return []  # a parameter without a value, while a spec is checked by itself
    given = {item.name: _number(item.value, parameters) for item in items}
    if len(tree.operands) != 2 or tree.ops[0] != "<=" or set(given) != {"epsilon", "delta"} or None in given.values():
        raise mistake(
            "E0402", tree.span, "a budget of privacy is an epsilon and a delta",
            why="both are numbers, or parameters of the pipeline, and the comparison is `<=`", fix="`require privacy <= (epsilon: 3, delta: 1e-5)`",
        )  # fmt: skip
    return [Budget(given["epsilon"], given["delta"], statement.kind, tree.span)]


def _number(tree: s.Expr, parameters: Mapping[str, Any]) -> Any:
    value = tree.value if isinstance(tree, s.Number) else parameters.get(tree.id) if isinstance(tree, s.Name) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

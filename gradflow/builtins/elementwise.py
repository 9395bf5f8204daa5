"""Built-ins that work entry by entry, and those that choose: `where` by value, `case` by an option's word."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments, BuiltinFunction
from gradflow.builtins.table import BUILTINS, builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Type
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.suggestions import listed

UNARY = {
    "abs": "Absolute value.", "sign": "-1, 0 or 1.", "exp": "e to the x.", "log": "Natural logarithm.", "log2": "Logarithm to base 2.",
    "log1mexp": "log(1 - exp(x)) for x < 0, accurate at both ends.", "sqrt": "Square root.", "sin": "Sine.", "cos": "Cosine.",
    "tanh": "Hyperbolic tangent.", "sigmoid": "1 / (1 + exp(-x)), without overflow.", "softplus": "log(1 + exp(x)), without overflow.",
    "floor": "Largest whole number not above x.", "ceil": "Smallest whole number not below x.", "truncate": "x without its fraction.",
    "round": "Nearest whole number, halves up.", "isfinite": "Neither infinite nor NaN.",
    "stop": "The same value; no gradient passes.", "stop_gradient": "The same as `stop`.",
}  # fmt: skip


def _unary(name: str, doc: str) -> None:
    op = "stop" if name == "stop_gradient" else name

    @builtin(f"{name}(x)", doc, "elementwise")
    def apply(a: Arguments) -> Any:
        return a.e.ops.elementwise(op, a.tensor(0))


for _name, _doc in UNARY.items():
    _unary(_name, _doc)


@builtin("relu(x)", "max(x, 0); at 0 its derivative is 0, where that of `max` is shared by the two sides.", "elementwise")
def relu(a: Arguments) -> Any:
    x = a.tensor(0)
    return a.e.ops.where(a.e.ops.elementwise("le", x, 0), 0, x)


@builtin("mod(x, n)", "The remainder, with the sign of n.", "elementwise", 2, 2)
def mod(a: Arguments) -> Any:
    return a.e.ops.elementwise("mod", *a.aligned(a.tensor(0), a.tensor(1)))


@builtin("clip(x, low, high)", "x held between two bounds; the gradient is 0 outside of them, and x's own on them.", "elementwise", 3, 3)
def clip(a: Arguments) -> Any:
    x, low, high = a.aligned(a.tensor(0), a.tensor(1), a.tensor(2))
    return held(a.e, "minimum", held(a.e, "maximum", x, low), high)


def held(e: Elaborator, op: str, x: Any, bound: Any) -> Any:
    """minimum or maximum, but where both are equal it is x: there the two of `elementwise` share the gradient half and half."""
    value = e.ops.elementwise(op, x, bound)
    if value is x or not isinstance(value, Node):
        return value
    return e.ops.where(e.ops.elementwise("gt" if op == "minimum" else "lt", x, bound), bound, x)


@builtin(
    "where(condition, a, b)",
    "a where the condition holds, else b, element by element; what is not taken reaches neither value nor gradient.",
    "choice",
    3,
    3,
)
def where(a: Arguments) -> Any:
    condition = a.tensor(0)
    if not isinstance(condition, Node):
        return a.raw(1 if condition else 2)
    chosen = a.aligned(condition, a.tensor(1), a.tensor(2))
    value = a.e.ops.where(*chosen)
    if isinstance(value, Node) or not condition.type.axes:
        return value
    return a.e.ops.make("where", chosen, Type(a.e.ops.constant(value).type.base, condition.type.axes))  # the same number, along the axes all the same


@builtin("case(option, word: value)", "The value that belongs to the option's word; decided when the spec is compiled.", "choice")
def case(a: Arguments) -> Any:
    option = a.raw(0)
    key = {True: "true", False: "false"}.get(option, option) if isinstance(option, bool) else option
    key = "none" if key is v.NONE else key
    if not isinstance(key, str):
        raise mistake(
            "E0311", a.places[0].span, "`case` needs an option that is known when the spec is compiled", why=f"this is {v.kind_name(option)}",
            fix="use `where(condition, a, b)` to choose by value",
        )  # fmt: skip
    if key in a.named:
        return a.e.evaluate(a.named[key].value, a.scope)
    if "else" in a.named:
        return a.e.evaluate(a.named["else"].value, a.scope)
    raise mistake(
        "E0405", a.call.span, f"this `case` says nothing for `{key}`", why=f"it knows {listed(a.named) or 'no word'}", fix=f"add `{key}: ..`",
    )  # fmt: skip


BUILTINS["case"] = BuiltinFunction("case", BUILTINS["case"].signature, BUILTINS["case"].doc, ("*",), BUILTINS["case"].handler, "choice")

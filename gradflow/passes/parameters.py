"""Parameters and their domains: words of an enumeration, bounds, kinds of definition. Every constant is checked when it is bound."""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language import syntax_words
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import COMPARISONS, NUMBERS, Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed, suggestion

BASES = {"real", "int", "bool", "text"}
KINDS = {*syntax_words.KINDS, "flow", "model", "data", "tools"}
KIND_WORDS = {
    "objective": "an objective", "estimator": "an estimator", "update": "an update", "exchange": "an exchange", "data": "a data set",
    "flow": "a stage",
}  # fmt: skip
STAGE_KINDS = {"estimator", "projection", "update", "exchange", "flow"}


def words_of(type_: s.TypeExpr | None) -> tuple[str, ...]:
    """The words that an enumeration allows: `a | b`. Beside words `none` is one too; beside a base (`real | none`) it is the value."""
    if type_ is None:
        return ()
    words = tuple(o.base for o in type_.options if o.base and o.base not in BASES and o.base not in KINDS and o.axes is None)
    return () if words == ("none",) else words


def argument(e: Elaborator, param: s.Param, tree: s.Expr, scope: Scope, home: Scope) -> Any:
    """The value of an argument: a name that is one of the parameter's words is that word, unless it is a local name. Its domain stands at `home`."""
    if isinstance(tree, s.Name) and tree.id in words_of(param.type) and not scope.local(tree.id)[0]:
        return v.NONE if tree.id == "none" else tree.id
    if isinstance(tree, s.Name) and words_of(param.type) and not scope.local(tree.id)[0] and not _other_than_words(param.type):
        words = words_of(param.type)
        raise mistake(
            "E0402", tree.span, f"`{param.name}` cannot be `{tree.id}`", why=f"it is one of {listed(words)}",
            **suggestion(tree.span, tree.id, words, f"write `{param.name}: {words[0]}`, say"),
        )  # fmt: skip
    return check_domain(e, param, e.evaluate(tree, scope), tree.span, home)


def _other_than_words(type_: s.TypeExpr | None) -> bool:
    return type_ is not None and any(o.base in BASES or o.base in KINDS or o.axes is not None or o.base is None for o in type_.options)


def check_domain(e: Elaborator, param: s.Param, value: Any, span: Any, scope: Scope) -> Any:
    """The value, if some option of the parameter's type takes it. Raises Mistake with the domain and what was given."""
    if param.type is None:
        return value
    problems = []
    for option in param.type.options:
        problem = _misfit(e, option, value, scope, param.type)
        if not problem:
            return _coerced(option, value)
        problems.append(problem)
    from gradflow.passes.words import expression_text

    default = f"; the default is `{expression_text(param.default)}`" if param.default is not None else ""
    raise mistake(
        "E0402", span, f"`{param.name}` cannot be {_shown(value)}", label=problems[0] if len(problems) == 1 else "fits none of them",
        why=f"its domain is `{type_text(param.type)}`",
        fix=f"give a value of this domain{default}",
    )  # fmt: skip


def _coerced(option: s.TypeOne, value: Any) -> Any:
    if option.base == "none":
        return v.NONE
    if option.base == "bool" and value in (0, 1):
        return bool(value)
    if option.base == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and 0 < len(value) < 9 and all(isinstance(item, NUMBERS) for item in value):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, NUMBERS) else v.kind_name(value)


def _misfit(e: Elaborator, option: s.TypeOne, value: Any, scope: Scope, whole: s.TypeExpr) -> str:
    base = option.base
    if base == "none":
        return "" if value is v.NONE or value == "none" else "write `none`"
    if isinstance(value, str):
        if base == "text":
            return ""
        return "" if value in words_of(whole) and base == value else "a word that it does not know"
    if base == "text":
        return "" if isinstance(value, Node) and value.type.base == "text" else "a text in quotes is needed"
    if base in KINDS:
        return "" if _of_kind(base, value) else f"{KIND_WORDS.get(base, f'a {base}')} is needed"
    if base is not None and base not in BASES:
        return f"write `{base}`"
    if isinstance(value, Node):
        return "" if base != "bool" or value.type.base == "bool" else "a truth value is needed"
    if isinstance(value, list | tuple) and all(isinstance(item, NUMBERS) for item in value):
        return next(filter(None, (number_misfit(e, option, item, scope) for item in value if not isinstance(item, bool))), "")
    if option.axes is not None:
        return "" if isinstance(value, v.Model | list | tuple | int | float) else "a tensor is needed"
    if isinstance(value, v.Model) and value.free is not None:
        return ""
    if isinstance(value, v.Record):
        return "" if value.value is not None else "a number is needed"
    if not isinstance(value, NUMBERS):
        return f"a {base or 'real'} is needed"
    return number_misfit(e, option, value, scope)


def number_misfit(e: Elaborator, option: s.TypeOne, value: Any, scope: Scope) -> str:
    """Why a number does not lie in a domain; empty where it does."""
    if option.base == "bool":
        return "" if value in (0, 1) else "write `true` or `false`"
    if isinstance(value, bool):
        return "a number is needed, not a truth value"
    if option.base == "int" and value != int(value if abs(value) < 1e18 else 0):
        return "a whole number is needed"
    if value != value:
        return "it is not a number"
    bound = option.bound
    if bound is None:
        return ""
    low = e.evaluate(bound.low, scope)
    if isinstance(low, Node):
        return ""
    if bound.op != "in":
        return "" if e.ops.elementwise(COMPARISONS[bound.op], value, low) else f"it must be {bound.op} {low:g}"
    high = e.evaluate(bound.high, scope) if bound.high is not None else float("inf")
    if isinstance(high, Node):
        return ""
    inside = (value > low or (bound.low_closed and value == low)) and (value < high or (bound.high_closed and value == high))
    return "" if inside else f"it must lie in {interval_text(bound, low, high)}"


def interval_text(bound: s.Bound, low: float, high: float) -> str:
    return f"{'[' if bound.low_closed else '('}{low:g}, {high:g}{']' if bound.high_closed else ')'}"


def _of_kind(kind: str, value: Any) -> bool:
    if kind in ("function", "objective"):
        return isinstance(value, v.Function | v.LambdaValue | v.Builtin | v.Primitive)
    if kind in STAGE_KINDS:
        if isinstance(value, v.Stage) and kind != "flow":
            return (
                value.kind == kind
                or (kind == "projection" and value.kind == "estimator")
                or (kind == "update" and value.kind in ("projection", "update"))
            )
        return isinstance(value, v.STAGES)
    if kind == "topology":
        return isinstance(value, v.Topology)
    if kind == "model":
        return isinstance(value, v.Model | Node | v.Function)
    if kind == "data":
        return isinstance(value, v.Data | v.Record)
    return True


def type_text(type_: s.TypeExpr | None) -> str:
    """A type as it is written."""
    if type_ is None:
        return "anything"
    return " | ".join(_one_text(option) for option in type_.options)


def _one_text(option: s.TypeOne) -> str:
    from gradflow.passes.words import expression_text

    text = option.base or ""
    if option.axes is not None:
        items = ", ".join(("*" if a.spliced else "") + a.name + (f": {expression_text(a.size)}" if a.size else "") for a in option.axes.items)
        text += f"[{items}{' -> ' + option.axes.target if option.axes.target else ''}]"
    bound = option.bound
    if bound is None:
        return text
    if bound.op != "in":
        return f"{text} {bound.op} {expression_text(bound.low)}"
    high = expression_text(bound.high) if bound.high is not None else "inf"
    return f"{text} in {'[' if bound.low_closed else '('}{expression_text(bound.low)}, {high}{']' if bound.high_closed else ')'}"

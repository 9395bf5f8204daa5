"""Options that a run computes, against the domains of the parameters that take them; constants are held against them when a spec is checked.

A domain is `int >= 0`, `real > 0`, `real in (0, 1]`, each perhaps `| none`, as the catalogue has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradflow.language import syntax as s
from gradflow.library.catalogue import catalogue

ONE = ("int", "float", "bool", "int | None", "float | None")  # annotations of parameters that take one value, not one for each row
INSIDE = {">": lambda x, low: x > low, ">=": lambda x, low: x >= low, "<": lambda x, low: x < low, "<=": lambda x, low: x <= low}


def takes_one(primitive: str, parameter: str) -> bool:
    return catalogue()[primitive].signature.parameters[parameter].annotation in ONE


def fitting(primitive: str, parameter: str, value: Any) -> Any:
    """The value, whole numbers as such. Raises ValueError where it is outside of the parameter's domain."""
    from gradflow.passes.primitives import parameters_of

    param = parameters_of(catalogue()[primitive])[parameter].param
    options = [option for option in (param.type.options if param.type is not None else ()) if option.base in ("int", "real")]
    entries = list(_entries(value))
    wrong = next((one for one in entries if options and not any(_fits(option, one) for option in options)), None)
    if wrong is not None:
        raise ValueError(
            f"`{parameter}` of `{primitive}` is computed, and cannot be {wrong:g}: its domain is `{catalogue()[primitive].domains[parameter]}`"
        )
    whole = options and all(option.base == "int" for option in options)
    return int(value) if whole and isinstance(value, float) else value


def _entries(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield float(value)
    elif hasattr(value, "flatten") and getattr(value, "dtype", None) is not None:
        yield from (float(one) for one in value.flatten().tolist())


def _fits(option: s.TypeOne, value: float) -> bool:
    if option.base == "int" and not value.is_integer():
        return False
    bound = option.bound
    if bound is None:
        return value == value
    low, high = _number(bound.low), _number(bound.high) if bound.high is not None else float("inf")
    if bound.op != "in":
        return bool(INSIDE[bound.op](value, low))
    return (value > low or bound.low_closed and value == low) and (value < high or bound.high_closed and value == high)


def _number(tree: Any) -> float:
    return -_number(tree.operand) if isinstance(tree, s.Unary) else float(tree.value)

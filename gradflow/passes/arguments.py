"""Which argument of a call is for which parameter or input.

Positional arguments are the inputs if a definition has any, else its parameters; names work for both; a record supplies inputs by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, listed, suggestion

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator


def match_arguments(definition: s.Definition, args: tuple[s.Arg, ...], scope: Scope) -> dict[str, tuple[s.Expr | None, Any, Scope]]:
    """Arguments to the parameters of a definition without inputs, by place and by name."""
    names = [param.name for param in definition.params]
    given: dict[str, tuple[s.Expr | None, Any, Scope]] = {}
    place = 0
    for arg in args:
        if arg.name is None:
            if place >= len(names):
                raise mistake(
                    "E0401", arg.span, f"`{definition.name}` takes {len(names)} argument{'s' * (len(names) != 1)}", label="one too many",
                    why=_takes(definition), fix="remove it" if names else f"write `{definition.name}()`",
                )  # fmt: skip
            name = names[place]
            place += 1
        else:
            name = arg.name
        if name not in names:
            raise unknown_parameter(definition, arg, names)
        if name in given:
            raise _twice(definition, name, arg)
        if isinstance(arg.value, s.Slice):
            raise mistake(
                "E0304", arg.value.span, "a range `a .. b` is no argument", why="it only says which part of an axis an index takes",
                fix="use it inside an index: `x[row: 0 .. 4]`",
            )  # fmt: skip
        given[name] = (arg.value, None, scope)
    return given


def unknown_parameter(definition: s.Definition, arg: s.Arg, names: list[str], callee: s.Expr | None = None) -> Exception:
    if arg.name is None:
        return mistake(
            "E0401", arg.span, f"`{definition.name}` takes no more arguments", why=_takes(definition), fix="remove it, or name what it is for",
        )  # fmt: skip
    from gradflow.peers.parts import part_with

    place = head(arg.span, arg.name)
    called = callee.id if isinstance(callee, s.Name) else definition.name
    what = "it takes" if called == definition.name else f"it is `{definition.name}`, which takes"
    return mistake(
        "E0404", place, f"`{called}` has no parameter `{arg.name}`", why=f"{what} {listed(names)}" if names else _takes(definition),
        **suggestion(place, arg.name, names, part_with(definition, arg.name) or ("use one of these" if names else "remove it")),
    )  # fmt: skip


def _twice(definition: s.Definition, name: str, arg: s.Arg) -> Exception:
    return mistake(
        "E0403", arg.span, f"`{name}` is given twice", why=f"`{definition.name}` takes {listed(p.name for p in definition.params)}, each once",
        fix="remove one of the two",
    )  # fmt: skip


def _takes(definition: s.Definition) -> str:
    return f"it takes {listed(p.name for p in definition.params)}" if definition.params else "it takes no parameters"


def split_arguments(
    e: Elaborator, function: v.Function, node: s.Call, scope: Scope, inputs: list[str], params: list[str], lenient: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a call to parameters and inputs; records spread over the inputs that they have fields for."""
    from gradflow.analyses.inputs import given as given_input
    from gradflow.analyses.inputs import spread

    given: dict[str, Any] = {}
    supplied: dict[str, Any] = {}
    records: list[v.Record] = []
    wholes = {name for one in function.inputs for name in one.names if one.type.options[0].base in ("data", "record")}  # taken as they are
    place = 0
    for arg in node.args:
        if arg.name is None:
            value = _input_value(e, arg, scope)
            while place < len(inputs) and inputs[place] in supplied:
                place += 1
            if isinstance(value, v.Data | v.Record) and place < len(inputs) and inputs[place] in wholes:
                supplied[inputs[place]] = value
                continue
            if isinstance(value, v.Data):
                from gradflow.passes.models import data_record

                value = data_record(e, value)
            if isinstance(value, v.Record) and value.value is None:
                records.append(value)
                continue
            if place >= len(inputs):
                raise mistake(
                    "E0401", arg.span, f"`{function.name}` takes {len(inputs)} input{'s' * (len(inputs) != 1)}", label="one too many",
                    why=f"the inputs are {listed(inputs)}; parameters are given by name",
                    fix=f"name it: `{params[0]}: ..`" if params else "remove it",
                )  # fmt: skip
            supplied[inputs[place]] = given_input(e, function, inputs[place], value, arg.value.span)
        elif arg.name in given or arg.name in supplied:
            raise _twice(function.definition, arg.name, arg)
        elif arg.name in params:
            given[arg.name] = (arg.value, None, scope)
        elif arg.name in inputs:
            supplied[arg.name] = given_input(e, function, arg.name, _input_value(e, arg, scope), arg.value.span)
        elif not lenient:
            raise unknown_parameter(function.definition, arg, [*params, *inputs], node.callee)
    for record in records:
        supplied["#record"] = {**record.fields, **supplied.get("#record", {})}
        for name in inputs:
            if name in record.fields and name not in supplied:
                supplied[name] = record.fields[name]
                spread(e, function, name, record.fields[name], node.span)
        if not any(name in record.fields for name in inputs):
            raise _no_field_fits(function, record, node, inputs)
    return given, supplied


def _input_value(e: Elaborator, arg: s.Arg, scope: Scope) -> Any:
    """An input that nobody supplied may be handed on by its name: it is missed where it is read."""
    absent = scope.local(arg.value.id)[1] if isinstance(arg.value, s.Name) else None
    return absent if isinstance(absent, v.Missing) else e.evaluate(arg.value, scope)


def _no_field_fits(function: v.Function, record: v.Record, node: s.Call, inputs: list[str]) -> Exception:
    return mistake(
        "E0206", node.span, f"nothing in this record is an input of `{function.name}`",
        why=f"it has {listed(record.fields) or 'no fields'}; `{function.name}` takes {listed(inputs)}",
        fix=f"pass a field by name: `{inputs[0]}: record.field`",
    )  # fmt: skip

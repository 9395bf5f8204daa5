"""Models, data sets and library primitives in expressions: calls of a model, fields of a record, `sample`, `score`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from gradflow.builtins.tool_values import tool_tree, tool_value
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, mistake
from gradflow.library.catalogue import FieldSpec, MissingExtra, catalogue
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.formulas import force
from gradflow.passes.primitives import PrimitiveParameter, parameters_of
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import head, listed, suggestion, unmade


def field_type(spec: FieldSpec) -> Type:
    target = Axis(*spec.target) if spec.target is not None else None
    return Type("int" if target is not None else spec.base, tuple(Axis(name, size) for name, size in spec.axes), target)


# ---- data


def data_fields(e: Elaborator, data: v.Data) -> dict[str, Any]:
    """Fields of one split, or the splits of a data set that was given one name."""
    fields: dict[str, Any] = {}
    if data.split == "*":
        for split in data.spec.splits:
            fields[split] = v.Data(data.name, split, data.spec, data.span)
        split = data.spec.splits[0]
    else:
        split = data.split
    for name, spec in data.spec.fields[split].items():
        if spec.base != "text":
            fields[name] = _reader(e, data, split, name, spec)
    for name, fact in data.spec.facts.items():
        fields.setdefault(name, fact)
    return fields


def _reader(e: Elaborator, data: v.Data, split: str, name: str, spec: FieldSpec) -> Any:
    return lambda: data_field(e, data, split, name, spec)


def data_field(e: Elaborator, data: v.Data, split: str, name: str, spec: FieldSpec) -> Node:
    """A source; inside a flow it is the step's batch, divided among the nodes of the flow's topology if there is one."""
    type_ = field_type(spec)
    mode = "full"
    training = split == data.spec.splits[0]
    rows = type_.axes[0].name if type_.axes and type_.axes[0].name != "node" else None
    nodes = e.context.nodes
    if nodes is not None and type_.has("node") and type_.axis("node").size not in (None, nodes):
        raise mistake(
            "E0606", data.span, f"`{data.name}` is divided among {type_.axis('node').size} nodes, the flow runs over {nodes}",
            why="every node trains on rows of its own", fix=f"give both the same number of nodes: `nodes: {nodes}`",
        )  # fmt: skip
    if e.context.batch and training and rows is not None and not type_.has("node"):
        if nodes is not None and data.spec.divide is not None:
            mode = "node"
            owned = data.spec.facts.get("per_node")
            share = owned if isinstance(owned, int) else (type_.axes[0].size // nodes if type_.axes[0].size is not None else None)
            size = data.spec.batch or share
            type_ = Type(type_.base, (Axis("node", nodes), Axis(rows, size), *type_.axes[1:]), type_.target)
        elif data.spec.batch is not None:
            mode = "batch"
            type_ = Type(type_.base, (Axis(rows, data.spec.batch), *type_.axes[1:]), type_.target)
    fresh = (str(e.context.fresh),) if e.context.fresh and mode != "full" and data.spec.batch is not None else ()
    return e.ops.source(type_, "data", data.name, split, name, mode, *fresh)


def data_record(e: Elaborator, data: v.Data) -> v.Record:
    fields = {name: value() if callable(value) else value for name, value in data_fields(e, data).items() if not isinstance(value, v.Data)}
    return v.Record(fields, data.name)


# ---- models


def call_model(e: Elaborator, callee: Any, node: s.Call, scope: Scope) -> Any:
    """net(x): the model's output axes in place of the ones it consumes. A value with the axis `param` is the model at that point."""
    model = callee if isinstance(callee, v.Model) else _named_in(node.callee, scope)
    if model is None:
        raise mistake(
            "E0203", node.callee.span, f"{v.kind_name(callee)} cannot be called", why="no model is named in it",
            fix="call the model itself: `net(x)`",
        )  # fmt: skip
    flat = e.parameters_of(model) if isinstance(callee, v.Model) else callee
    flat = e.ops.expand(flat, (*flat.type.without(["param"]), flat.type.axis("param")))
    if model.free is not None:
        raise mistake(
            "E0203", node.callee.span, f"`{model.name}` is a tensor, not a network", why="it was declared with `free(..)`",
            fix=f"use it by name: `{model.name}`",
        )  # fmt: skip
    if len(node.args) != 1:
        raise mistake(
            "E0401", node.span, f"`{model.name}` takes one value, {len(node.args)} given", why="a network is called on what goes in",
            fix=f"`{model.name}(train.x)`",
        )  # fmt: skip
    given = e.evaluate(node.args[0].value, scope)
    if isinstance(given, v.Record) and "vocabulary" in model.spec.facts:
        raise mistake(
            "E0301", node.args[0].span, f"`{model.name}` is called on a tensor, this is {v.kind_name(given)}", why="samples are scored by a call",
            fix=f"`score({model.name}, ..)` is the record with the log-probabilities of its tokens",
        )  # fmt: skip
    x = e.ops.constant(e.tensor(given, node.args[0].value))
    consumed = model.spec.inputs
    if len(x.type.axes) < len(consumed):
        raise mistake(
            "E0303", node.args[0].span, f"`{model.name}` consumes {len(consumed)} ax{'es' if len(consumed) != 1 else 'is'}, this is {v.kind_name(x)}",
            why="the last axes of what goes in give way to the model's outputs", fix="pass the features of a data set, such as `train.x`",
        )  # fmt: skip
    kept = x.type.axes[: len(x.type.axes) - len(consumed)]
    for axis, size in zip(x.type.axes[len(kept) :], consumed, strict=True):
        if size is not None and axis.size is not None and axis.size != size:
            raise mistake(
                "E0302", node.args[0].span, f"`{model.name}` takes {size} along its last axis, `{axis.name}` has {axis.size}",
                why=f"it was declared as `{model.spec.name}`", fix=f"declare it with {axis.size} inputs",
                secondary=(Label(model.span, "declared here"),),
            )  # fmt: skip
    lifted = flat.type.without(["param"])
    outputs = tuple(Axis(name, size) for name, size in model.spec.outputs)
    type_ = Type("real", (*union(lifted, kept), *outputs))
    return e.ops.make("model", (flat, x), type_, model=model.name, method="call", fields=("x",), output="value", options=())


def _named_in(tree: s.Expr, scope: Scope) -> v.Model | None:
    for part in s.walk(tree):
        if isinstance(part, s.Name):
            found, value = scope.local(part.id)
            if found and isinstance(force(value), v.Model):
                return force(value)
    return None


# ---- primitives


def call_primitive(e: Elaborator, name: str, node: s.Call, scope: Scope) -> Any:
    primitive = catalogue()[name]
    if primitive.kind in ("model", "data"):
        raise mistake(
            "E0519", node.span, f"`{name}` makes a {primitive.kind if primitive.kind == 'model' else 'data set'}, which has to be declared",
            why="its parameters and rows have a name, by which flows and checkpoints know them",
            fix=f"at the level of the pipeline: `{'model net' if primitive.kind == 'model' else 'data train, test'} = {name}(..)`",
        )  # fmt: skip
    arguments = bind_primitive(e, name, node, scope)
    if primitive.kind == "tool":
        return tool_value(name, arguments, node.span)
    from gradflow.library.rollouts import RESULT_TYPES
    from gradflow.procedures.acting import declarations, world_call

    if name == "score":
        from gradflow.builtins.scores import scored

        return scored(e, node, arguments)
    try:
        fields = RESULT_TYPES[name](**declarations(name, arguments))
    except ValueError as error:
        raise unmade(name, node.span, error) from None
    return world_call(e, name, node, arguments, fields, scope.frame is not None)


def bind_primitive(e: Elaborator, name: str, node: s.Call, scope: Scope) -> dict[str, Any]:
    """Arguments of a primitive by parameter name, in the order of its Python signature, checked against its domains."""
    from gradflow.passes.parameters import argument
    from gradflow.procedures.acting import Batch

    params = parameters_of(catalogue()[name])
    bound: dict[str, Any] = {}
    for key, arg in _placed(name, params, node.args):
        type_ = params[key].param.type
        wanted = [option.base for option in type_.options] if type_ is not None else []
        value = argument(e, params[key].param, tool_tree(arg.value) if "tools" in wanted else arg.value, scope, scope)
        if "model" in wanted and not isinstance(value, v.Model) and value is not v.NONE or "data" in wanted and not isinstance(value, v.Data | Batch):
            what = "model" if "model" in wanted else "data set"
            raise mistake(
                "E0402", arg.value.span, f"`{key}` cannot be {v.kind_name(value)}", label=f"a {what} is needed",
                why=f"`{name}` works on a declared {what}",
                fix=f"give the name of a {what} of the pipeline",
            )  # fmt: skip
        value = None if value is v.NONE else value
        bound[key] = (*bound.get(key, ()), value) if params[key].variadic else value
    missing = [n for n, p in params.items() if not (p.hidden or p.variadic or n in bound) and p.default is inspect.Parameter.empty]
    if missing:
        raise mistake(
            "E0401", node.span, f"`{name}` needs `{missing[0]}`", why="the parameter has no default", fix=f"write `{name}({missing[0]}: ..)`",
        )  # fmt: skip
    rest = {n: bound.pop(n, ()) for n, p in params.items() if p.variadic}
    return bound | rest


def _placed(name: str, params: Mapping[str, PrimitiveParameter], args: tuple[s.Arg, ...]) -> Iterator[tuple[str, s.Arg]]:
    """Which parameter each argument of a primitive is for; one that takes any number of them takes all that come at its place."""
    from gradflow.peers.parts import call_with

    names, seen, place = list(params), set[str](), 0
    shown = [n for n, p in params.items() if not p.hidden]
    variadic = next((n for n, p in params.items() if p.variadic), None)
    for arg in args:
        key = arg.name
        if key is None:
            key = names[place] if place < len(names) else variadic
            if key is None:
                raise mistake(
                    "E0401", arg.span, f"`{name}` takes {len(shown)} argument{'s' * (len(shown) != 1)}", label="one too many",
                    why=f"they are {listed(shown)}", fix="remove it",
                )  # fmt: skip
            place += key != variadic
        if key not in params or params[key].hidden:
            place_of = head(arg.span, key)
            raise mistake(
                "E0404", place_of, f"`{name}` has no parameter `{key}`", why=f"it takes {listed(shown)}",
                **suggestion(place_of, key, shown, call_with(key) or "use one of these"),
            )  # fmt: skip
        if key in seen:
            raise mistake("E0403", arg.span, f"`{key}` is given twice", why="each parameter has one value", fix="remove one of the two")
        seen |= {key} - {variadic}
        yield key, arg


def declare_primitive(e: Elaborator, kind: str, node: s.Expr, scope: Scope) -> Any:
    """The spec of `model x = mlp(..)` or `data x = digits(..)`, and the call that made it: (primitive, positional values, options)."""
    if not isinstance(node, s.Call):
        what = "data set" if kind == "data" else kind
        raise mistake(
            "E0519", node.span, f"a {what} is declared by a call", why="the call says what it is made of",
            fix=f"`{kind} x = {'digits' if kind == 'data' else 'mlp'}(..)`",
        )  # fmt: skip
    name = node.callee.id if isinstance(node.callee, s.Name) else ""
    known = [n for n, p in catalogue().items() if p.kind == kind]
    if name not in known:
        what = "data set" if kind == "data" else kind
        known += ["free", "copy"] if kind == "model" else []
        raise mistake(
            "E0208", node.callee.span, f"there is no {what} `{name}`" if name else f"a {what} is made by a call of its name",
            why=f"there are {listed(known, 20)}",
            **suggestion(node.callee.span, name, known, "use one of these"),
        )  # fmt: skip
    bound = bind_primitive(e, name, node, scope)
    variadic = [x for x in bound.values() if isinstance(x, tuple)]
    options = {k: x for k, x in bound.items() if not isinstance(x, tuple)}
    places = variadic[0] if variadic else ()
    try:
        return catalogue()[name].function(*places, **options), (name, places, tuple(options.items()))
    except MissingExtra as error:
        sentence, _, command = str(error).partition(": ")
        raise mistake("E0209", node.span, sentence, why="it belongs to an optional part of gradflow", fix=command) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise mistake(
            "E0407", node.span, f"`{name}` cannot read `{error.filename}`", why=f"the system says: {why}",
            fix="correct the path, relative to where gradflow runs",
        ) from None  # fmt: skip
    except ValueError as error:
        raise unmade(name, node.span, error) from None

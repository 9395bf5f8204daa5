"""Calls that act on the world: what goes into them, and the records that they give back.

A call is made once, where it stands; options that are computed, the fields of records and the rows of a data set become a region that is evaluated
just before it. Texts go by the path of their source, because no region knows texts. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.library.catalogue import FieldSpec, catalogue
from gradflow.library.records import MOVERS
from gradflow.passes import values as v
from gradflow.procedures.acts import Draw, Hold, Text, WorldCall
from gradflow.procedures.domains import takes_one

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator
    from gradflow.passes.scope import Scope


def text_of(node: Node) -> Text:
    return Text(node.type.names, (node["kind"], *node["path"]))


@dataclass(frozen=True)
class Batch(v.Record):
    """Some tasks of a data set, by their rows: a record that stands wherever the data set can."""

    data: v.Data | None = None


def spec_of(node: Node | float) -> FieldSpec:
    if not isinstance(node, Node):
        return FieldSpec("bool" if isinstance(node, bool) else "int" if isinstance(node, int) else "real", ())
    target = (node.type.target.name, node.type.target.size) if node.type.target is not None else None
    return FieldSpec(node.type.base, tuple((axis.name, axis.size) for axis in node.type.axes), target)


def type_of(spec: FieldSpec) -> Type:
    target = Axis(*spec.target) if spec.target is not None else None
    return Type("int" if target is not None else spec.base, tuple(Axis(name, size) for name, size in spec.axes), target)


def declared(value: Any, wanted: str = "data") -> Any:
    """What a primitive's type rule sees of an argument for a parameter of the domain `wanted`: a batch is also a record."""
    if isinstance(value, Batch) and "data" in wanted:
        assert value.data is not None
        size = next((axis.size for axis in value.fields["row"].type.axes), None)
        return replace(value.data.spec, facts={**value.data.spec.facts, "drawn": -1 if size is None else size})
    if isinstance(value, v.Model | v.Data):
        return value.spec
    if isinstance(value, v.Record):
        return {name: spec_of(x) for name, x in (*value.fields.items(), *value.texts.items()) if isinstance(x, Node | bool | int | float)}
    if isinstance(value, Node) and value.type.base == "text":
        return spec_of(value)
    return None if value is v.NONE else value


# ---- calls


def world_call(e: Elaborator, name: str, node: s.Call, arguments: dict[str, Any], fields: Any, in_a_stage: bool) -> Any:
    """The call, put behind those before it; what it gives back is read from there."""
    if e.world is None or in_a_stage:
        raise mistake(
            "E0520", node.span, f"`{name}` acts on the world; it is used in a pipeline",
            why="a stage works on what flows through it, any number of times in a step",
            fix=f"draw it in the pipeline, `x ~ {name}(..)`, and pass it on",
        )  # fmt: skip
    if e.keeping is None and not e.reporting:
        what, example = ("choosing rows of a record", "kept ~ samples[..]") if name == "pick" else (f"`{name}`", f"x ~ {name}(..)")
        raise mistake(
            "E0510", node.span, f"{what} acts, so it is bound with `~`",
            why="a formula `=` is read any number of times; what acts is done once a unit, and held",
            fix=f"bind it by itself: `{example}`",
        )  # fmt: skip
    if name in MOVERS and not any(isinstance(x, v.Record) for x in arguments.values()):
        return v.NONE
    key = f"{name}{e.calls}"
    e.calls += 1
    scalar = isinstance(fields, FieldSpec)
    table: dict[str, FieldSpec] = {"value": fields} if scalar else dict(fields)
    models, data, options, inputs, texts = _sorted(e, name, arguments)
    region = Region(tuple(inputs.items()), (), name) if inputs else None
    e.world.append(WorldCall(key, name, models, data, options, table, scalar, node.span, region, texts))
    if scalar:
        return e.ops.source(type_of(fields), "world", key, "value")
    found = {n: e.ops.source(type_of(f), "world", key, n) for n, f in table.items()}
    tensors, words = ({n: x for n, x in found.items() if (x.type.base == "text") == text} for text in (False, True))
    whole = next((x for x in arguments.values() if isinstance(x, Batch)), None)
    source = next((x for x in arguments.values() if isinstance(x, v.Data)), None)
    if "row" in tensors and (whole is not None or source is not None):
        return Batch(tensors, name, None, words, data=whole.data if whole is not None else source)
    return v.Record(tensors, name, None, words)


def _sorted(
    e: Elaborator, primitive: str, arguments: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any], dict[str, Any], dict[str, Node], dict[str, Text]]:
    """Arguments by what they are: models, data, constants, computed values, texts."""
    domains = catalogue()[primitive].domains
    models: dict[str, str] = {}
    data: dict[str, Any] = {}
    options: dict[str, Any] = {}
    inputs: dict[str, Node] = {}
    texts: dict[str, Text] = {}
    for name, value in arguments.items():
        if isinstance(value, v.Model):
            models[name] = value.name
        elif isinstance(value, v.Data) or (isinstance(value, Batch) and "data" in domains.get(name, "")):
            known = value.data if isinstance(value, Batch) else value
            assert known is not None
            data[name] = (known.name, known.split if known.split != "*" else known.spec.splits[0])
            if isinstance(value, Batch):
                inputs[f"{name}/row"] = value.fields["row"]
        elif isinstance(value, v.Record) and value.value is None:
            inputs |= {f"{name}/{field}": e.ops.constant(x) for field, x in value.fields.items() if isinstance(x, Node | bool | int | float)}
            texts |= {f"{name}/{field}": text_of(x) for field, x in value.texts.items()}
        elif isinstance(value, Node) and value.type.base == "text":
            texts[name] = text_of(value)
        elif isinstance(value, Node):
            if value.type.axes and takes_one(primitive, name):
                raise mistake(
                    "E0402", e.ops.span, f"`{name}` of `{primitive}` is one value, this is {v.kind_name(value)}",
                    why="it holds for the whole call", fix="reduce it, `mean(..)`, or call once for each: `repeat round: 4 { .. }`",
                )  # fmt: skip
            inputs[name] = value
        else:
            options[name] = value
    return models, data, options, inputs, texts


# ---- rows of records


def rows_where(e: Elaborator, record: v.Record, node: s.Index, scope: Scope) -> Any:
    """`samples[mask]`: the samples, or the prompts with all their samples, for which the mask is true."""
    condition = e.evaluate(node.args[0].value, scope)
    if len(node.args) != 1 or node.args[0].name or not isinstance(condition, Node) or condition.type.base != "bool" or len(condition.type.axes) != 1:
        raise mistake(
            "E0310", node.args[0].span, "rows of a record are chosen by a truth value for each of them",
            why=f"this is {v.kind_name(condition)}", fix="give one along `sample` or `prompt`: `samples[samples.finished]`",
        )  # fmt: skip
    axis = condition.type.axes[0]
    if not any(isinstance(x, Node) and x.type.has(axis.name) for x in (*record.fields.values(), *record.texts.values())):
        maps = {x.type.target.name: n for n, x in record.fields.items() if isinstance(x, Node) and x.type.target is not None}
        own = maps.get(axis.name)
        fix = f"ask by each row's own: `x[mask[{axis.name}: x.{own}]]`" if own is not None else "ask this record: `x[x.reward > 0]`"
        raise mistake(
            "E0310", node.args[0].span, f"nothing in this record lies along `{axis.name}`",
            why="rows are chosen along an axis that the record has: `sample`, or `prompt` with all its samples", fix=fix,
        )  # fmt: skip
    sizes = {own.size for x in record.fields.values() if isinstance(x, Node) for own in x.type.axes if own.name == axis.name} - {None, axis.size}
    if axis.size is not None and sizes:
        raise mistake(
            "E0310", node.args[0].span, f"a truth value for each of {next(iter(sizes))} entries along `{axis.name}` is needed, these are {axis.size}",
            why="the condition is of another record", fix="ask this record: `x[x.reward > 0]`",
        )  # fmt: skip
    arguments = {"record": record, "mask": condition, "over": axis.name}
    return acted(e, "pick", s.Call(node.span, node.value, ()), arguments, scope)


def acted(e: Elaborator, name: str, node: s.Call, arguments: dict[str, Any], scope: Scope) -> Any:
    """A primitive called with values at hand."""
    from gradflow.library.rollouts import RESULT_TYPES

    fields = RESULT_TYPES[name](**declarations(name, arguments))
    return world_call(e, name, node, arguments, fields, scope.frame is not None)


def declarations(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the type rule of a primitive sees of its arguments."""
    domains = catalogue()[name].domains
    return {key: declared(value, domains.get(key, "")) for key, value in arguments.items()}


# ---- what a `~` of a pipeline does


def actions_of(e: Elaborator, name: str, value: Any, acts: list[Any], held: Callable[[str, str, Node], Node]) -> tuple[Any, tuple[Any, ...]]:
    """(what the name means from then on, the actions that fill it): the calls in their order, then what is held of them and kept."""
    last = acts[-1] if acts else None
    own = value.fields if isinstance(value, v.Record) and value.value is None else {"value": e.ops.constant(e.tensor(value))}
    words = value.texts if isinstance(value, v.Record) else {}
    single = last.id if isinstance(last, WorldCall) and len(acts) == 1 else None  # what a single call gives is held as it comes
    as_drawn = [n for n, x in (*own.items(), *words.items()) if isinstance(x, Node) and x.op == "source" and x["path"] == (single, n)]
    fields = {n: held(name, n, e.ops.constant(x)) for n, x in own.items() if isinstance(x, Node | bool | int | float)}
    texts = {n: e.ops.source(x.type, "held", name, n) for n, x in words.items()}
    results = [(f"held/{name}/{n}", e.ops.constant(own[n])) for n in fields if n not in as_drawn]
    states, kept = e.keeping.results() if e.keeping is not None else ((), [])
    found: list[Any] = [Draw(name if as_drawn else "", one) if isinstance(one, WorldCall) else one for one in acts]
    if results or kept or any(n not in as_drawn for n in texts):
        paths = {f"held/{name}/{n}": text_of(x) for n, x in words.items() if n not in as_drawn}
        found.append(Hold(Region((*results, *kept)), paths, states, f"~{name}", e.ops.span))
    if isinstance(value, v.Record) and value.value is None:
        return replace(value, fields=fields, texts=texts, name=name), tuple(found)
    return fields["value"], tuple(found)


def does_act(statements: Any, scope: Scope, seen: set[str] | None = None) -> bool:
    """Whether statements, or functions that they call, call primitives that act on the world, choose rows of records, or keep state."""
    seen = set() if seen is None else seen
    parts = [part for one in statements for part in s.walk(one)]
    own = {target.name for part in parts if isinstance(part, s.Bind) and part.op != "<-" for target in part.targets}
    if any(isinstance(part, s.State) or _of_rows(part, scope, own) for part in parts):
        return True
    for name in dict.fromkeys(part.callee.id for part in parts if isinstance(part, s.Call) and isinstance(part.callee, s.Name)):
        here, value = scope.local(name)
        found = (value.definition, value.scope.module) if isinstance(value, v.Function) else None if here or name in own else scope.find(name)
        if found is not None:
            fresh = found[0].name not in seen
            seen.add(found[0].name)
            inside = (*(found[0].body or ()), *([found[0].value] if found[0].value is not None else []))
            if fresh and found[0].kind == "function" and does_act(inside, found[1].scope(), seen):
                return True
        elif not here and name not in own and name in catalogue() and catalogue()[name].kind == "call" and name != "score":
            return True
    return False


def whole(scope: Scope) -> bool:
    """Whether the function around acts and says of no input along which axes it lies: what it reduces it reduces whole, as a pipeline does."""
    body = getattr(scope.local("#definition")[1], "body", None) or ()
    inputs = [option for one in body if isinstance(one, s.Input) for option in one.type.options]
    return all(option.axes is None for option in inputs) and does_act(body, scope)


def _of_rows(part: Any, scope: Scope, own: set[str]) -> bool:
    """`x[mask]` of a record."""
    base = part.value if isinstance(part, s.Index) else None
    value = scope.local(base.id)[1] if isinstance(base, s.Name) and base.id not in own else None
    return isinstance(value, v.Record) and value.value is None


__all__ = ["Batch", "acted", "actions_of", "declarations", "does_act", "rows_where", "whole", "world_call"]

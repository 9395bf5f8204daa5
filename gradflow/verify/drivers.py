"""Drivers by kind of definition: a function is called, an objective is asked for its loss and gradients, an update is stepped through
grad_0, grad_1, .., a pipeline is run with its inputs bound. No component has code of its own here.

A component with several faces (an update that is stepped, and the function inside it that is called) is a definition for each: where a vector's
parameters say `op: name` and COMPONENT has no such parameter, the definition COMPONENT_name of the same file is driven.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import GradflowError, mistake
from gradflow.passes import values as v
from gradflow.passes.calls import applied, bind_parameters, with_bound
from gradflow.passes.expressions import Elaborator
from gradflow.passes.functions import run_function
from gradflow.passes.parameters import number_misfit, type_text
from gradflow.passes.scope import Module
from gradflow.passes.stages import Flow, Leaf
from gradflow.passes.standalone import FLOW, step_region

Arrays = Mapping[str, numpy.ndarray]


def drive(home: Module, name: str, params: Mapping[str, Any], inputs: Arrays, backend: str) -> dict[str, numpy.ndarray]:
    definition = home.definitions[name]
    face = home.definitions.get(f"{name}_{params.get('op')}")
    if face is not None and all(param.name != "op" for param in definition.params):
        definition, params = face, {key: value for key, value in params.items() if key != "op"}
    if definition.kind in ("function", "objective"):
        return drive_function(home, definition, params, inputs, backend)
    if definition.kind == "pipeline":
        return drive_pipeline(home, definition, params, inputs, backend)
    return drive_update(home, definition, params, inputs, backend)


def check_domain(e: Elaborator, home: Module, statement: s.Input, name: str, value: numpy.ndarray) -> None:
    """That no number of an input lies outside of what is declared for it. Raises Mistake."""
    option = statement.type.options[0]
    for extreme in (value.min(), value.max()) if option.bound is not None and value.size else ():
        problem = number_misfit(e, option, extreme.item(), home.scope())
        if problem:
            why = f"its domain is `{type_text(statement.type)}`"
            raise mistake("E0402", statement.span, f"`{name}` cannot hold {extreme:g}", label=problem, why=why)


def lowered(region: Region, backend: str) -> Any:
    if backend == "reference":
        from gradflow.backends.reference import lower

        return lower(region)
    if backend == "torch":
        import torch

        from gradflow.backends.torch import lower as lower_torch

        return lower_torch(region, dtype=torch.float64)
    raise GradflowError([mistake("E0217", s.Node(_nowhere()).span, f"there is no backend `{backend}`", fix="use reference or torch").diagnostic])


def _nowhere() -> Any:
    from gradflow.language.source import NOWHERE

    return NOWHERE


def numpied(value: Any) -> numpy.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else numpy.asarray(value)


def fed(value: numpy.ndarray, backend: str) -> Any:
    if backend == "reference":
        return value
    import torch

    return torch.as_tensor(value)


def bound_parameters(e: Elaborator, definition: s.Definition, home: Module, params: Mapping[str, Any]) -> dict[str, Any]:
    from gradflow.language.diagnostics import nearest

    names = [param.name for param in definition.params]
    for key in params:
        if key not in names:
            why = "it has " + ", ".join(f"`{n}`" for n in names)
            raise mistake("E0404", definition.name_span, f"`{definition.name}` has no parameter `{key}`", why=why, fix=nearest(key, names))
    given = {key: (None, value, home.scope()) for key, value in params.items()}
    return bind_parameters(e, definition, home.scope(), given, {}, definition.name_span)


def given_inputs(definition: s.Definition, inputs: Arrays) -> list[tuple[s.Input, str, numpy.ndarray]]:
    """The declared inputs that are there, or are a series; index maps behind all others, which say how long the axes are that they point to."""
    named = [(one, name) for one in definition.body or () if isinstance(one, s.Input) for name in one.names]
    found = [(one, name, inputs[name] if name in inputs else series(name, inputs)) for one, name in named]
    there = [(one, name, numpy.asarray(value)) for one, name, value in found if value is not None]
    return sorted(there, key=lambda one: (axes := one[0].type.options[0].axes) is not None and axes.target is not None)


def input_type(
    e: Elaborator, statement: s.Input, name: str, value: numpy.ndarray, sizes: dict[str, int], whole: bool = False
) -> tuple[Type, numpy.ndarray]:
    """The type of an input by its declaration and the array at hand, which may lack the last axes.

    What an index map holds are places on the axis it points to where another input has that axis, else names that are numbered from 0.
    Bare axes are real, so that whole numbers have gradients too; `whole`: what a record holds as whole numbers may number entries, and stays whole.
    """
    option = statement.type.options[0]
    items = option.axes.items if option.axes is not None else ()
    if value.ndim > len(items) and option.axes is not None:
        raise mistake("E0303", statement.span, f"`{name}` has {len(items)} axes, {value.ndim} given")
    base = "int" if whole and option.base is None and value.dtype.kind in "iub" else option.base or "real"
    axes = (
        tuple(Axis(items[i].name, n) for i, n in enumerate(value.shape))
        if option.axes is not None
        else tuple(Axis(f"entry{i}", n) for i, n in enumerate(value.shape))
    )
    for axis in axes:
        known = sizes.setdefault(axis.name, axis.size or 0)
        if known != axis.size:
            raise mistake("E0302", statement.span, f"axis `{axis.name}` of `{name}` has {axis.size} entries, another input {known}")
    target = None
    if option.axes is not None and option.axes.target is not None:
        target, base = Axis(option.axes.target, sizes.get(option.axes.target)), "int"
        if target.size is None or not ((value >= 0) & (value < target.size)).all():  # names of its entries, not their places
            ids, value = numpy.unique(value.astype(numpy.int64), return_inverse=True)
            value = value.reshape(tuple(a.size or 0 for a in axes))
            if target.size not in (None, len(ids)):
                raise mistake("E0302", statement.span, f"`{name}` points at {len(ids)} entries of `{target.name}`, which has {target.size}")
            target = Axis(target.name, len(ids))
    kinds = {"bool": bool, "int": numpy.int64, "real": numpy.float64}
    return Type(base, axes, target), value.astype(kinds[base])


def drive_function(home: Module, definition: s.Definition, params: Mapping[str, Any], inputs: Arrays, backend: str) -> dict[str, numpy.ndarray]:
    """Calls it. A series NAME_0, NAME_1, .. is stacked along its first axis, as for pipelines, and what has that axis in front is also NAME_k."""
    e = Elaborator()
    bound = bound_parameters(e, definition, home, params)
    supplied: dict[str, Any] = {}
    arrays: dict[tuple[str, ...], Any] = {("clock", "tick"): 0, ("clock", "seed"): 0}  # for what it draws itself
    sizes: dict[str, int] = {}
    spread: set[str] = set()  # the axes along which a series was stacked
    for statement, name, given in given_inputs(definition, inputs):
        check_domain(e, home, statement, name, given)
        type_, value = input_type(e, statement, name, given, sizes)
        supplied[name] = e.ops.source(type_, "input", name)
        arrays[("input", name)] = fed(value, backend)
        spread |= {type_.names[0]} if name not in inputs else set()
    result = run_function(e, v.Function(definition, home.scope(), bound), supplied, definition.span)
    outputs = _outputs(e, definition, result, supplied)
    region = Region(tuple((name, in_order(e, definition, e.ops.constant(e.tensor(value)))) for name, value in outputs.items()))
    found = {name: numpied(value) for name, value in lowered(region, backend)(arrays).items()}
    rows = [name for name, node in region.results if node.type.names and node.type.names[0] in spread]
    return found | {f"{name}_{k}": row for name in rows for k, row in enumerate(found[name])}


def in_order(e: Elaborator, definition: s.Definition, node: Node) -> Node:
    """Axes have names, not places: an output has them in the order of the first input with the same axes, else as the inputs declare them."""
    inputs = [one.type.options[0].axes for one in definition.body or () if isinstance(one, s.Input)]
    lists = [[item.name for item in axes.items] for axes in inputs if axes is not None]
    declared = next((names for names in lists if set(names) == set(node.type.names)), [name for names in lists for name in names])
    if not set(node.type.names) <= set(declared):
        return node
    return e.ops.transpose(node, sorted(node.type.names, key=declared.index))


def _outputs(e: Elaborator, definition: s.Definition, result: Any, supplied: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record; of an objective also `loss` and grad_INPUT for every real input."""
    if not isinstance(result, v.Record):
        return {"value": result}
    outputs = dict(result.fields)
    if definition.kind == "objective":
        from gradflow.passes.differentiate import gradient

        loss = e.ops.constant(result.value)  # type: ignore[arg-type]
        outputs["loss"] = loss
        real = {name: node for name, node in supplied.items() if isinstance(node, Node) and node.type.base == "real"}
        for (name, _), slope in zip(real.items(), gradient(e.ops, loss, list(real.values())), strict=True):
            outputs[f"grad_{name}"] = slope
    return outputs


# ---- updates


def drive_update(home: Module, definition: s.Definition, params: Mapping[str, Any], inputs: Arrays, backend: str) -> dict[str, numpy.ndarray]:
    start, grads = steps(definition, inputs)
    e = Elaborator()
    bound = bound_parameters(e, definition, home, params)
    value = applied(e, with_bound(e, definition, home.scope(), bound, definition.span), definition.span)
    region, flow = update_region(e, value, start.shape)
    run = lowered(region, backend)
    states: dict[tuple[str, ...], Any] = {}
    for slot in flow.states.values():
        if slot.write is not None:
            shape = tuple(axis.size for axis in slot.write.type.axes)
            kind = numpy.int64 if slot.write.type.base == "int" else numpy.float64
            states[("state", FLOW, slot.key)] = fed(numpy.full(shape, slot.init or 0, kind), backend)  # type: ignore[arg-type]
    outputs: dict[str, numpy.ndarray] = {}
    param = fed(start.reshape(-1), backend)
    for k, grad in enumerate(grads):
        clocks = {("clock", "t", FLOW): k + 1, ("clock", "t_end", FLOW): len(grads), ("clock", "tick"): k, ("clock", "seed"): 0}
        flat = fed(grad.reshape(-1), backend)
        found = run({("param", "leaf"): param, ("input", "grad"): flat, **states, **clocks})
        param = found["param/leaf"]
        states = {key: found["/".join(key)] for key in states}
        outputs[f"param_{k + 1}"] = numpied(param).reshape(start.shape).copy()
        for name in (n for n in found if n.startswith("report/")):
            short = name.rpartition(".")[2] if "." in name else name[7:]
            outputs[short] = numpied(found[name])
            outputs[f"{short}_{k + 1}"] = outputs[short]
    return outputs


def steps(definition: s.Definition, inputs: Arrays) -> tuple[numpy.ndarray, list[numpy.ndarray]]:
    """The parameter to start from, and the gradient of each step."""
    names = ["param_0", *(f"grad_{k}" for k in range(sum(name.startswith("grad_") for name in inputs)))]
    for name in names:
        if name not in inputs:
            raise mistake(
                "E0205", definition.name_span, f"`{name}` is missing", why="an update is given `param_0` and `grad_0`, `grad_1`, .., one a step"
            )
    start, *grads = (numpy.asarray(inputs[name], numpy.float64) for name in names)
    for name, grad in zip(names[1:], grads, strict=True):
        if grad.shape != start.shape:
            why = f"it has the shape {list(grad.shape)}, `param_0` has {list(start.shape)}"
            raise mistake("E0302", definition.name_span, f"`{name}` is no gradient of this parameter", why=why)
    return start, grads


def update_region(e: Elaborator, value: Any, shape: tuple[int, ...]) -> tuple[Region, Flow]:
    """One step on one leaf; what is reported of its coordinates has its shape."""
    leaf = Leaf("param", tuple(Axis(f"dim{i}", n) for i, n in enumerate(shape)))
    region, flow = step_region(e, value, (leaf,))
    return Region(tuple((name, _leafwise(e, node, leaf) if name.startswith("report/") else node) for name, node in region.results)), flow


def _leafwise(e: Elaborator, value: Any, leaf: Leaf) -> Node:
    node = e.ops.constant(e.tensor(value))
    if node.type.names == ("param",) and node.type.axes[0].size == leaf.size:
        return e.ops.leaf(node, 0, leaf.axes)
    return node


# ---- pipelines


def drive_pipeline(home: Module, definition: s.Definition, params: Mapping[str, Any], inputs: Arrays, backend: str) -> dict[str, numpy.ndarray]:
    """Runs it with its inputs bound: what it reports periodically is stacked along time, what it reports at the end is taken as it is.

    An input that is not there by its name is the series NAME_0, NAME_1, .. along its first axis; the k-th entry of what is reported is also NAME_k.
    """
    from gradflow.passes.pipelines import PipelineElaborator
    from gradflow.runtime.embed import run_reports

    e = Elaborator()
    bound = bound_parameters(e, definition, home, params)
    arrays: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for statement, name, given in given_inputs(definition, inputs):
        check_domain(e, home, statement, name, given)
        type_, value = input_type(e, statement, name, given, sizes, whole=True)
        bound[f"#{name}"] = type_
        arrays[name] = value
    program = PipelineElaborator(definition, home.scope(), bound, e).program()
    e.report.raise_errors()
    outputs = run_reports(program, arrays, backend)
    return {f"{name}_{k}": row for name, value in outputs.items() if value.ndim for k, row in enumerate(value)} | outputs


def series(name: str, inputs: Arrays) -> numpy.ndarray | None:
    """NAME_0, NAME_1, .. one behind the other; None where there is no such series of equal shapes."""
    found: list[numpy.ndarray] = []
    while f"{name}_{len(found)}" in inputs:
        found.append(numpy.asarray(inputs[f"{name}_{len(found)}"]))
    return numpy.stack(found) if found and len({one.shape for one in found}) == 1 else None

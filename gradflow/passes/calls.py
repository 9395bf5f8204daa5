"""Calls of definitions: functions, objectives, stages, topologies, pipelines; models and library primitives.

Which argument is for what is said in `arguments.py`; what a call leaves out comes from the record of the objective that it stands in, or is
the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.arguments import match_arguments, split_arguments, unknown_parameter
from gradflow.passes.axes import axes_of_bound
from gradflow.passes.expressions import Elaborator
from gradflow.passes.functions import run_function
from gradflow.passes.names import Unapplied
from gradflow.passes.parameters import argument, check_domain
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed, unbuilt

STAGE_DEFINITIONS = ("estimator", "projection", "exchange", "update")


def call(e: Elaborator, node: s.Call, scope: Scope) -> Any:
    if scope.frame is not None and isinstance(node.callee, s.Name) and not scope.local(node.callee.id)[0]:
        special, value = scope.frame.call_special(node, scope)
        if special:
            return value
    callee = e.evaluate(node.callee, scope)
    if isinstance(callee, v.Builtin):
        from gradflow.builtins.functions import BUILTINS

        return BUILTINS[callee.name].handler(e, node, scope)
    if isinstance(callee, v.Function):
        return call_function(e, callee, node, scope, lenient=_is_value(node.callee, scope))
    if isinstance(callee, v.LambdaValue):
        return _call_lambda(e, callee, node, scope)
    if isinstance(callee, Unapplied):
        return apply_definition(e, callee.definition, callee.scope, node.args, scope, node.span)
    if isinstance(callee, v.StageCall):
        return callee.run(*(e.tensor(e.evaluate(arg.value, scope), arg.value) for arg in node.args))
    if isinstance(callee, v.STAGES) and scope.frame is not None:
        return scope.frame.call_stage(callee, node, scope)
    if isinstance(callee, v.Model) or (isinstance(callee, Node) and callee.type.has("param")):
        from gradflow.passes.models import call_model

        return call_model(e, callee, node, scope)
    if isinstance(callee, v.Primitive):
        from gradflow.passes.models import call_primitive

        return call_primitive(e, callee.name, node, scope)
    frame_call = getattr(callee, "call", None)
    if frame_call is not None:
        return frame_call(e, node, scope)
    raise _not_callable(node, callee, scope)


def _not_callable(node: s.Call, callee: Any, scope: Scope) -> Exception:
    hidden = isinstance(node.callee, s.Name) and scope.local(node.callee.id)[0] and _hides_function(node.callee.id, scope)
    if hidden:
        why, fix = f"the name `{node.callee.id}` hides the function of that name here", "give the local value another name"  # type: ignore[union-attr]
    elif isinstance(callee, v.STAGES):
        why, fix = "a stage acts on what flows; only inside another stage is it called, on a gradient", "put it in a `flow` line, between `->`"
    else:
        why, fix = "only functions, stages and models are called", "to multiply, write `*`; to take an entry, `x[..]`"
    return mistake("E0203", node.callee.span, f"{v.kind_name(callee)} cannot be called", why=why, fix=fix)


def _hides_function(name: str, scope: Scope) -> bool:
    from gradflow.builtins.functions import BUILTINS

    return name in BUILTINS or scope.find(name) is not None


def _is_value(callee: s.Expr, scope: Scope) -> bool:
    """A function that arrived as a parameter: arguments that it does not declare are dropped."""
    return isinstance(callee, s.Name) and scope.local(callee.id)[0]


def _call_lambda(e: Elaborator, function: v.LambdaValue, node: s.Call, scope: Scope) -> Any:
    params = function.tree.params
    if len(node.args) != len(params):
        shown = ", ".join(params)
        raise mistake(
            "E0401", node.span, f"{len(params)} argument{'s' * (len(params) != 1)} needed, {len(node.args)} given",
            why=f"the function is `{shown if len(params) == 1 else f'({shown})'} => ..`", fix=f"call it with {listed(params)}",
        )  # fmt: skip
    inner = function.scope.child()
    for name, arg in zip(params, node.args, strict=True):
        inner.names[name] = e.evaluate(arg.value, scope)
    return e.evaluate(function.tree.body, inner)


# ---- parameters


def bind_parameters(
    e: Elaborator,
    definition: s.Definition,
    home: Scope,
    given: Mapping[str, tuple[s.Expr | None, Any, Scope]],
    already: Any,
    span: Any,
    abstract: bool = False,
) -> dict[str, Any]:
    """Values of all parameters: given here, bound before, or the default, evaluated where the definition stands."""
    bound: dict[str, Any] = {}
    inner = home.inside(definition)
    for param in definition.params:
        if param.name in given:
            tree, value, scope = given[param.name]
            bound[param.name] = argument(e, param, tree, scope, inner) if tree is not None else check_domain(e, param, value, span, inner)
        elif param.name in already:
            bound[param.name] = already[param.name]
        elif param.default is not None:
            bound[param.name] = applied(e, argument(e, param, param.default, inner, inner), param.default.span)
        elif abstract:
            bound[param.name] = v.Missing(param.name, definition.name, span)
        else:
            raise mistake(
                "E0401", span, f"`{definition.name}` needs `{param.name}`", why="the parameter has no default",
                fix=f"write `{definition.name}({param.name}: ..)`",
            )  # fmt: skip
        inner.names[param.name] = bound[param.name]
    return bound


def applied(e: Elaborator, value: Any, span: Any) -> Any:
    """A definition that was only named, called with its defaults."""
    if isinstance(value, Unapplied):
        with e.anchoring(span):
            return apply_definition(e, value.definition, value.scope, (), value.scope, span)
    return value


def apply_definition(e: Elaborator, definition: s.Definition, home: Scope, args: tuple[s.Arg, ...], scope: Scope, span: Any) -> Any:
    """A stage, topology, pipeline (or alias of one) with its arguments. Every topology also takes `weights: ..`, a function of the graph."""
    if definition.kind in STAGE_DEFINITIONS and any(isinstance(one, s.Input) for one in definition.body or ()):
        from gradflow.gradients.joints import joint

        return joint(e, definition, home, args, scope, span)
    weights = None
    if definition.kind == "topology" and all(param.name != "weights" for param in definition.params):
        weights = next((arg for arg in args if arg.name == "weights"), None)
        args = tuple(arg for arg in args if arg is not weights)
    bound = bind_parameters(e, definition, home, match_arguments(definition, args, scope), {}, span)
    value = with_bound(e, definition, home, bound, span)
    if weights is not None:
        value = replace(value, options={**value.options, "weights": e.evaluate(weights.value, scope)})
    return value


def with_bound(e: Elaborator, definition: s.Definition, home: Scope, bound: dict[str, Any], span: Any) -> Any:
    inner = home.inside(definition, bound)
    inner.axes.update(axes_of_bound(definition, bound))
    if definition.kind == "topology":
        from gradflow.topologies.links import build_topology

        return build_topology(e, definition, inner)
    if definition.kind == "pipeline":
        return v.Pipeline(definition, home, bound)
    if definition.value is not None:
        value = applied(e, e.evaluate(definition.value, inner), definition.value.span)
        return v.ChainOf((value,), span) if definition.kind in STAGE_DEFINITIONS else value
    if definition.kind in (*STAGE_DEFINITIONS, "format", "schedule"):
        return v.Stage(definition, home, bound, span)
    raise unbuilt(span, f"{definition.kind}s cannot be used yet", f"leave `{definition.name}` out of what runs")


# ---- functions and objectives


def call_function(e: Elaborator, function: v.Function, node: s.Call, scope: Scope, lenient: bool = False) -> Any:
    definition = function.definition
    inputs = [name for statement in function.inputs for name in statement.names]
    params = [param.name for param in definition.params]
    if definition.value is not None:
        return _call_alias(e, function, node, scope, lenient)
    if not inputs:
        args = tuple(a for a in node.args if not lenient or a.name is None or a.name in params)
        given = match_arguments(definition, args, scope)
        bound = bind_parameters(e, definition, function.scope, given, function.bound, node.span)
        return run_function(e, v.Function(definition, function.scope, bound), {}, node.span)
    given, supplied = split_arguments(e, function, node, scope, inputs, params, lenient)
    bound = bind_parameters(e, definition, function.scope, given, function.bound, node.span)
    configured = v.Function(definition, function.scope, bound)
    if not supplied and not any(arg.name is None or arg.name not in params for arg in node.args):  # what a function value drops is a call too
        return configured
    return run_function(e, configured, supplied, node.span)


def _call_alias(e: Elaborator, function: v.Function, node: s.Call, scope: Scope, lenient: bool) -> Any:
    """`objective sapo(tau) = policy_gradient(..)`: own parameters here, everything else goes to what it stands for."""
    definition = function.definition
    assert definition.value is not None
    names = {param.name for param in definition.params}
    plain = _is_formula(function)
    own = tuple(arg for arg in node.args if (arg.name in names if arg.name else plain))
    rest = tuple(arg for arg in node.args if arg not in own)
    bound = bind_parameters(e, definition, function.scope, match_arguments(definition, own, scope), function.bound, node.span)
    inner = function.scope.inside(definition, bound)
    inner.axes.update(axes_of_bound(definition, bound))
    target = applied(e, e.evaluate(definition.value, inner), definition.value.span)
    if plain and (lenient or not rest):
        return target
    if isinstance(target, v.Function) and rest and not plain:
        return call_function(e, target, s.Call(node.span, node.callee, rest), scope, lenient)
    if rest:
        raise unknown_parameter(definition, rest[0], [p.name for p in definition.params])
    return target


def _is_formula(function: v.Function) -> bool:
    """An alias of kind function whose value is an expression of its parameters: `function warmup(share) = min(1, progress / share)`."""
    definition = function.definition
    if definition.kind != "function":
        return False
    value = definition.value
    if isinstance(value, s.Call) and isinstance(value.callee, s.Name):
        found = function.scope.find(value.callee.id, definition)
        return not (found is not None and found[0].kind in ("function", "objective") and any(isinstance(x, s.Input) for x in found[0].body or ()))
    return True


def call_values(e: Elaborator, function: Any, span: Any, *values: Any, **named: Any) -> Any:
    """Calls a function value with values already at hand."""
    if isinstance(function, v.LambdaValue):
        inner = function.scope.child()
        inner.names.update(zip(function.tree.params, values, strict=True))
        return e.evaluate(function.tree.body, inner)
    definition = function.definition
    if definition.value is not None:
        bound = bind_parameters(e, definition, function.scope, {}, function.bound, span)
        inner = function.scope.inside(definition, bound)
        return call_values(e, e.evaluate(definition.value, inner), span, *values, **named)
    names = [name for statement in function.inputs for name in statement.names]
    bound = bind_parameters(
        e, definition, function.scope, {k: (None, x, function.scope) for k, x in named.items() if k not in names}, function.bound, span
    )
    supplied = dict(zip(names, values, strict=False)) | {k: x for k, x in named.items() if k in names}
    return run_function(e, v.Function(definition, function.scope, bound), supplied, span)

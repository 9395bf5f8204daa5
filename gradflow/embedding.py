"""Definitions used alone in someone else's training loop: an objective as a function of tensors, an update as a torch.optim.Optimizer.

Both elaborate the definition once for what they are given and call the torch backend's generated function after that. This module imports
torch inside its functions only; `gradflow.objective` and `gradflow.optimizer` are its public names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, GradflowError, Mistake, nearest
from gradflow.language.parser import parse_expression
from gradflow.language.source import Source
from gradflow.passes import values as v
from gradflow.passes.calls import call_values
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Module, module, standard_files, standard_index

if TYPE_CHECKING:
    import torch


def find_definition(name: str, kinds: tuple[str, ...]) -> tuple[s.Definition, Module]:
    """A definition of the standard library, or `path.gflow:name`. Raises GradflowError."""
    from pathlib import Path

    path, _, inner = name.rpartition(":")
    if path:
        home = module(Path(path))
        if inner in home.definitions:
            return home.definitions[inner], home
    elif name in standard_index():
        home = module(standard_index()[name])
        if home.definitions[name].kind in kinds:
            return home.definitions[name], home
    known = [d.name for file in standard_files() for d in module(file).tree.definitions if d.kind in kinds]
    where = Source("<call>", name).span(0, len(name))
    raise GradflowError([Diagnostic("E0212", f"there is no {' or '.join(kinds)} `{name}`", where, fix=nearest(inner or name, known))])


def checked(definition: s.Definition, options: Mapping[str, Any]) -> None:
    names = [param.name for param in definition.params]
    for key in options:
        if key not in names:
            span = Source("<call>", key).span(0, len(key))
            known = ", ".join(f"`{n}`" for n in names)
            raise GradflowError(
                [Diagnostic("E0404", f"`{definition.name}` has no parameter `{key}`", span, why=f"it has {known}", fix=nearest(key, names))]
            )


# ---- objectives


class Objective:
    """A shipped (or own) objective on tensors. Called with its inputs by name; returns the loss, ready for autograd.

    Inputs are tensors with the axes that the definition declares, in that order; trailing axes may be left out and broadcast. Options are numbers,
    words, lists, and texts in the language where a part is chosen: `surrogate="clipped(high: 0.28)"`. After a call `reports` holds what the
    objective reports, detached. Raises GradflowError for what does not fit.
    """

    def __init__(self, name: str, **options: Any):
        self.definition, self.home = find_definition(name, ("objective",))
        text = f"{self.definition.name}({', '.join(f'{key}: {_written(value)}' for key, value in options.items())})"
        self._call = parse_expression(Source("<call>", text))
        self.name = name
        self.reports: dict[str, torch.Tensor] = {}
        self._cache: dict[Any, tuple[Callable[..., Any], Callable[..., Any], tuple[str, ...], tuple[str, ...]]] = {}
        self._declared = self._input_types()
        self._maps = {name for name, option in self._declared.items() if option.axes is not None and option.axes.target is not None}
        self._compiled({})

    def __call__(self, *places: Any, **inputs: torch.Tensor) -> torch.Tensor:
        import torch

        from gradflow.runtime.autograd import apply_regions

        self._fitting(places, inputs)
        real = tuple(name for name, x in inputs.items() if isinstance(x, torch.Tensor) and x.requires_grad)
        key = (tuple((name, x.dim(), x.dtype, name in real) for name, x in inputs.items()), next(iter(inputs.values())).device)
        if key not in self._cache:
            self._cache[key] = torch.compiler.disable(self._build)(inputs, real)
        forward, backward, wanted, names = self._cache[key]
        try:
            loss, reports = apply_regions(forward, backward, wanted, self._prepared(inputs))
        except (RuntimeError, IndexError):
            self._same_sizes(inputs)
            raise
        self.reports = dict(zip(names, reports, strict=True))
        return loss

    def _fitting(self, places: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        """Raises GradflowError for what is no input, or no tensor."""
        import torch

        if places:
            raise _wrong("E0401", self.name, f"`{self.name}` takes its inputs by name", ", ".join(f"{n}=.." for n in self._declared))
        for name, value in inputs.items():
            if name not in self._declared:
                known = "it takes " + ", ".join(f"`{n}`" for n in self._declared)
                raise _wrong("E0404", name, f"`{self.name}` has no input `{name}`", nearest(name, self._declared), known)
            if not isinstance(value, torch.Tensor):
                raise _wrong("E0301", name, f"`{name}` is a tensor, this is a {type(value).__name__}", "`torch.as_tensor(..)` makes one")

    def _same_sizes(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Raises GradflowError where two inputs differ along an axis."""
        known: dict[str, tuple[str, int]] = {}
        for name, value in inputs.items():
            option = self._declared[name]
            for item, size in zip(option.axes.items if option.axes is not None else (), value.shape, strict=False):
                other, before = known.setdefault(item.name, (name, size))
                if before != size:
                    message = f"axis `{item.name}` has {before} entries in `{other}` and {size} in `{name}`"
                    raise _wrong("E0302", name, message, "give all of them for the same samples", "axes of one name are matched entry by entry")

    def _prepared(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Index maps numbered from 0; everything else as it is."""
        import torch

        return {name: torch.unique(x, return_inverse=True)[1] if name in self._maps else x for name, x in inputs.items()}

    def _input_types(self) -> dict[str, s.TypeOne]:
        definition = self._body()
        return {name: one.type.options[0] for one in definition.body or () if isinstance(one, s.Input) for name in one.names}

    def _body(self) -> s.Definition:
        """The definition that has the inputs, behind aliases."""
        definition, home = self.definition, self.home
        while definition.value is not None and isinstance(definition.value, s.Call) and isinstance(definition.value.callee, s.Name):
            found = home.scope().find(definition.value.callee.id, definition)
            if found is None:
                break
            definition, home = found
        return definition

    def _compiled(self, types: Mapping[str, Type]) -> tuple[Elaborator, Any, dict[str, Node]]:
        """Elaborates the objective on sources of the given types. Raises GradflowError."""
        e = Elaborator()
        sources = {name: e.ops.source(type_, "input", name) for name, type_ in types.items()}
        try:
            function = e.evaluate(self._call, self.home.scope())
            return e, (call_values(e, function, self.definition.name_span, **sources) if sources else None), sources
        except Mistake as error:
            raise GradflowError([error.diagnostic]) from None

    def _build(self, inputs: Mapping[str, torch.Tensor], real: tuple[str, ...]) -> Any:
        from gradflow.backends.torch import lower
        from gradflow.passes.differentiate import gradient

        types = {name: _type_of(name, self._declared[name], x) for name, x in inputs.items()}
        e, value, sources = self._compiled(types)
        loss = e.ops.constant(value.value)
        reports = [(f"report/{n}", e.ops.constant(e.tensor(x))) for n, x in value.fields.items()]
        first = next(iter(inputs.values()))
        dtype = next((x.dtype for x in inputs.values() if x.is_floating_point()), first.dtype)
        forward = lower(Region((("loss", loss), *reports)), device=first.device, dtype=dtype)
        slopes = gradient(e.ops, loss, [sources[name] for name in real]) if real else []
        backward = lower(Region(tuple((name, slope) for name, slope in zip(real, slopes, strict=True))), device=first.device, dtype=dtype)
        return forward, backward, real, tuple(value.fields)


def _wrong(code: str, word: str, message: str, fix: str = "", why: str = "") -> GradflowError:
    return GradflowError([Diagnostic(code, message, Source("<call>", word).span(0, len(word)), why=why, fix=fix)])


def _written(value: Any) -> str:
    """An option as the language writes it. Raises GradflowError."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, str):
        return value
    try:
        return repr(float(value)) if not isinstance(value, int) else repr(value)
    except (TypeError, ValueError):
        fix = "give a number, a word, a list, or a text in the language"
        raise _wrong("E0402", str(value), f"no option can be of the type {type(value).__name__}", fix) from None


def _type_of(name: str, option: s.TypeOne, value: torch.Tensor) -> Type:
    items = option.axes.items if option.axes is not None else ()
    if value.dim() > len(items) and items:
        declared = f"[{', '.join(item.name for item in items)}]"
        raise _wrong("E0303", name, f"`{name}` has {value.dim()} axes", f"give it the axes {declared}, in this order", f"it is declared {declared}")
    axes = tuple(Axis(items[i].name if items else f"entry{i}") for i in range(value.dim()))
    target = Axis(option.axes.target) if option.axes is not None and option.axes.target is not None else None
    base = "int" if target is not None else "bool" if option.base == "bool" else "real"
    return Type(base, axes, target)


def _option(value: Any) -> Any:
    return v.NONE if value is None else tuple(value) if isinstance(value, list) else value


def objective(name: str, **options: Any) -> Objective:
    """An objective of the library by name, with its parameters: `gradflow.objective("sapo", tau_neg=1.1)(logp=.., logp_old=.., ..)`."""
    return Objective(name, **options)


# ---- updates


def update_stage(name: str, options: Mapping[str, Any], e: Elaborator, dynamic: Iterable[str]) -> Any:
    """The update (or chain) with its parameters; those in `dynamic` are read as clocks when the step runs."""
    definition, home = find_definition(name, ("update",))
    checked(definition, options)
    live = {key: e.ops.source(Type("real"), "clock", "option", key) for key in dynamic if key in options}
    given = {key: (None, live.get(key, _option(value)), home.scope()) for key, value in options.items()}
    from gradflow.passes.calls import bind_parameters, with_bound

    try:
        bound = bind_parameters(e, definition, home.scope(), given, {}, definition.name_span)
        return with_bound(e, definition, home.scope(), bound, definition.name_span)
    except Mistake as error:
        raise GradflowError([error.diagnostic]) from None


def defaults_of(name: str) -> dict[str, Any]:
    """Parameters of an update with their default values, where those are numbers, words or truth values."""
    definition, home = find_definition(name, ("update",))
    e = Elaborator()
    found: dict[str, Any] = {}
    for param in definition.params:
        if param.default is not None:
            from gradflow.passes.parameters import argument

            value = argument(e, param, param.default, home.scope(), home.scope())
            if isinstance(value, bool | int | float | str):
                found[param.name] = value
    return found


def optimizer(name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    """A torch.optim.Optimizer that steps by an update of the library: `gradflow.optimizer("diffgrad", model.parameters(), lr=1e-3)`.

    Parameter groups, learning-rate schedulers, `state_dict` and `load_state_dict` work as for any other. Raises GradflowError for an unknown
    update or option.
    """
    from gradflow.runtime.optimizer import GradflowOptimizer

    return GradflowOptimizer(name, params, **options)


__all__ = ["Objective", "objective", "optimizer"]

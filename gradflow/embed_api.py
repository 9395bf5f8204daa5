"""Whole specs in Python: `gradflow.check`, `gradflow.compile`, and the program that `compile` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.compiler import build, check_source, load
from gradflow.language.diagnostics import Diagnostic, GradflowError
from gradflow.language.source import Source
from gradflow.library.python_models import python_allowed
from gradflow.passes.scope import Module

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.embed import Running


@dataclass(frozen=True)
class Compiled:
    """A pipeline that has been checked and is ready to run. `warnings` are the diagnostics that did not stop it."""

    program: Program
    warnings: tuple[Diagnostic, ...]
    inputs: Mapping[str, Any]

    def run(self, folder: Path | str | None = None, **options: Any) -> Running:
        """A run whose events come as it is iterated: `for event in program.run(steps=100): ..`. Options as of `gradflow run`."""
        from gradflow.runtime.embed import run

        return run(self.program, self.inputs, folder, **options)


def _module(source: str | Path) -> tuple[Module, str | None]:
    """A text (it has a newline or a brace), else a path or the name of a shipped spec."""
    text = str(source)
    if isinstance(source, str) and ("\n" in text or "{" in text):
        return Module.of(Source("<string>", text)), None
    return load(text)


def check(source: str | Path) -> list[Diagnostic]:
    """Everything that is wrong in a text, a file or a shipped spec, in the order of the text. Never raises for a bad spec."""
    text = str(source)
    if isinstance(source, str) and ("\n" in text or "{" in text):
        return check_source(Source("<string>", text))
    try:
        return check_source(load(text)[0].source)
    except GradflowError as error:
        return list(error.diagnostics)


def compile(
    source: str | Path, pipeline: str | None = None, bind: Mapping[str, Any] | None = None, allow_python: bool = False, **parameters: Any
) -> Compiled:
    """A pipeline of a text, a file or a shipped spec (`path:pipeline` or `pipeline=..` where it is not the first).

    `parameters` are the pipeline's own; `bind` puts a torch module in the place of a declared model (`{"net": my_module}`, same call), or
    gives the pipeline's inputs as tensors; `allow_python` lets the spec call `python(..)`. Raises GradflowError with every mistake found.
    """
    module, named = _module(source)
    inputs = {name: value for name, value in (bind or {}).items() if not hasattr(value, "named_parameters")}
    with python_allowed(allow_python):
        program, diagnostics = build(module, pipeline or named, (), {**parameters, **input_types(inputs)})
    if program is None:
        raise GradflowError(diagnostics)
    models = dict(program.models)
    for name, value in (bind or {}).items():
        if hasattr(value, "named_parameters"):
            if name not in models:
                whole = module.source.span(0, 1)
                raise GradflowError(
                    [
                        Diagnostic(
                            "E0212", f"`{program.name}` has no model `{name}` to bind", whole, why="it has " + ", ".join(f"`{n}`" for n in models)
                        )
                    ]
                )
            models[name] = replace(models[name], spec=module_spec(models[name].spec, value))
    return Compiled(replace(program, models=models), tuple(diagnostics), inputs)


def input_types(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Types of bound tensors, so that sizes are known when the spec is compiled."""
    from gradflow.graph.types import Axis, Type

    found: dict[str, Any] = {}
    for name, value in inputs.items():
        shape = getattr(value, "shape", None)
        if shape is not None:
            base = "bool" if "bool" in str(value.dtype) else "int" if "int" in str(value.dtype) else "real"
            found[f"#{name}"] = Type(base, tuple(Axis(f"entry{i}", int(n)) for i, n in enumerate(shape)))
    return found


def module_spec(spec: Any, module: Any) -> Any:
    """The declared model's interface with a user's module behind it, whose parameters must be of the same number of coordinates."""
    from gradflow.library.catalogue import LeafSpec

    leaves = tuple(LeafSpec(name, tuple(p.shape), p.requires_grad) for name, p in module.named_parameters())
    if sum(leaf.size for leaf in leaves) != spec.size:
        total = sum(leaf.size for leaf in leaves)
        where = Source("<bind>", spec.name).span(0, len(spec.name))
        why = "flows and states were laid out for the declared model"
        raise GradflowError(
            [Diagnostic("E0302", f"the bound module has {total} parameters, `{spec.name}` is declared with {spec.size}", where, why=why)]
        )
    return replace(spec, leaves=leaves, build=lambda seed: module)

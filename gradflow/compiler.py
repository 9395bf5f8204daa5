"""The compiler's front: from a name, a path or a text to diagnostics and programs. Everything the command line and Python users call.

No torch is imported here or below, except by running what came out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, GradflowError, Mistake, Report, nearest
from gradflow.language.source import Source

if TYPE_CHECKING:
    from gradflow.passes.scope import Module
    from gradflow.plan.program import Program


def find_file(reference: str) -> tuple[Path, str | None]:
    """(file, pipeline) of a path, `path:pipeline`, or the name of a shipped spec (`17_diffgrad`, `diffgrad`). Raises GradflowError."""
    from gradflow.passes.scope import example_files, standard_files

    path, _, pipeline = reference.partition(":") if not Path(reference).exists() else (reference, "", "")
    if Path(path).exists():
        return Path(path), pipeline or None
    names: dict[str, Path] = {}
    for file in (*standard_files(), *example_files()):
        stem = file.stem
        for name in (stem, stem.partition("_")[2] if stem[:2].isdigit() else stem, f"{file.parent.name}/{stem}", stem.replace("_", "-")):
            names.setdefault(name, file)
    if path in names:
        return names[path], pipeline or None
    where = Source("<command line>", reference)
    fix = nearest(path, names) or "give the path of a .gflow file, or the name of a shipped spec: `gradflow list`"
    why = "neither a path nor the name of a spec in the library"
    raise GradflowError([Diagnostic("E0212", f"there is no file or shipped spec `{path}`", where.span(0, len(path)), why=why, fix=fix)])


def load(reference: str) -> tuple[Module, str | None]:
    """The parsed file and the pipeline asked for, if one was. Raises GradflowError."""
    from gradflow.passes.scope import module

    path, pipeline = find_file(reference)
    try:
        return module(path), pipeline
    except (OSError, UnicodeDecodeError) as error:
        where = Source("<command line>", reference)
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        fix = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "check the path and its permissions"
        raise GradflowError([Diagnostic("E0213", f"cannot read `{path}`", where.span(0, len(reference)), why=why, fix=fix)]) from None


def check_source(source: Source) -> list[Diagnostic]:
    """Everything that is wrong in a text, in the order of the text."""
    from gradflow.passes.check import check_module
    from gradflow.passes.scope import Module

    report = Report()
    try:
        check_module(Module.of(source), report)
    except GradflowError as error:
        for diagnostic in error.diagnostics:
            report.add(diagnostic)
    return report.sorted()


def pipelines_of(module: Module) -> list[str]:
    return [d.name for d in module.tree.definitions if d.kind == "pipeline"]


def build(
    module: Module, pipeline: str | None = None, overrides: Sequence[str] = (), bind: Mapping[str, Any] | None = None
) -> tuple[Program | None, list[Diagnostic]]:
    """A pipeline's program (None if it has errors) and its diagnostics. `overrides` are texts `name=value`; `bind` are values at hand."""
    from gradflow.passes.pipelines import PipelineElaborator

    report = Report()
    program = None
    try:
        definition, home, bound, e = _chosen(module, pipeline, overrides, bind or {}, report)
        program = PipelineElaborator(definition, home, bound, e).program()
    except Mistake as error:
        report.add(error.diagnostic)
    except GradflowError as error:
        for diagnostic in error.diagnostics:
            report.add(diagnostic)
    return (None if report.errors else program), report.sorted()


def _chosen(module: Module, name: str | None, overrides: Sequence[str], bind: Mapping[str, Any], report: Report) -> Any:
    """The pipeline by name (the first of the file if none is named), its scope and its parameters. Follows aliases."""
    from gradflow.passes import values as v
    from gradflow.passes.calls import bind_parameters
    from gradflow.passes.check import not_a_pipeline
    from gradflow.passes.expressions import Elaborator

    names = pipelines_of(module)
    whole = module.source.span(0, 1)
    if not names:
        why, fix = "definitions alone do not run", "add `pipeline name { .. }`"
        raise GradflowError([Diagnostic("E0214", f"`{module.source.name}` has no pipeline", whole, why=why, fix=fix)])
    if name is not None and name not in names:
        why = "it has " + ", ".join(f"`{n}`" for n in names)
        fix = nearest(name, names) or "name one of these"
        raise GradflowError([Diagnostic("E0214", f"`{module.source.name}` has no pipeline `{name}`", whole, why=why, fix=fix)])
    definition, home = module.definitions[name or names[0]], module.scope()
    e = Elaborator(report, module.source.name)
    given = {**_overrides(overrides, definition, home), **{key: (None, value, home) for key, value in bind.items() if not key.startswith("#")}}
    bound: dict[str, Any] = {
        **bind_parameters(e, definition, home, given, {}, definition.name_span),
        **{k: x for k, x in bind.items() if k.startswith("#")},
    }
    while definition.value is not None:
        scope = home.inside(definition, bound)
        target = e.evaluate(definition.value, scope)
        if not isinstance(target, v.Pipeline):
            raise not_a_pipeline(definition.value.span, target)
        definition, home, bound = target.definition, target.scope, dict(target.bound)
    return definition, home, bound, e


def _overrides(texts: Sequence[str], definition: s.Definition, home: Any) -> dict[str, Any]:
    """`-p name=value`, through the language's own parser; spans are <command line>:1:column."""
    from gradflow.language.parser import parse_expression

    found: dict[str, Any] = {}
    names = [param.name for param in definition.params]
    for text in texts:
        name, equals, value = text.partition("=")
        source = Source("<command line>", text)
        if not equals or not name.strip():
            why = "an override gives a parameter of the pipeline another value"
            raise GradflowError([Diagnostic("E0215", f"`{text}` is no override", source.span(0, len(text)), why=why, fix="write `name=value`")])
        name = name.strip()
        if name not in names:
            why = "it has " + ", ".join(f"`{n}`" for n in names) if names else "it has no parameters"
            fix = nearest(name, names) or (f"`-p {names[0]}=..`, say" if names else f"declare it: `pipeline {definition.name}({name}: .. = ..) {{`")
            raise GradflowError([Diagnostic("E0404", f"`{definition.name}` has no parameter `{name}`", source.span(0, len(name)), why=why, fix=fix)])
        offset = len(text) - len(value)
        padded = Source("<command line>", " " * offset + value)
        found[name] = (parse_expression(padded), None, home)
    return found

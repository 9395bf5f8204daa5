"""Write the compiled artifact, or print what a stage of the compiler makes of a pipeline.

One of -o, --emit and --stop-after says what is wanted. Stages: parse (the syntax tree); resolve, infer and differentiate (the typed graph: names,
types and derivatives are found in one walk, so these show the same); simplify and place (the graph that is lowered); lower (the source that
runs, as --emit python). --passes none leaves every optimization out: the numbers stay the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from gradflow.cli.plan import program_of
from gradflow.cli.terminal import ERRORS, FINE, UsageError, say
from gradflow.graph.graph import Region
from gradflow.language import syntax as s
from gradflow.plan.program import Program
from gradflow.plan.rewriting import optimized, regions

STAGES = ("parse", "resolve", "infer", "differentiate", "simplify", "place", "lower")
UNOPTIMIZED = ("resolve", "infer", "differentiate")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE[:PIPELINE]")
    parser.add_argument("-o", dest="out", type=Path, metavar="OUT.gfp", help="where to write the artifact")
    parser.add_argument("--emit", choices=("python",), help="print the source that would run")
    parser.add_argument("--stop-after", choices=STAGES, metavar="STAGE", help=f"print what a stage makes: {', '.join(STAGES)}")
    parser.add_argument("--trace", action="store_true", help="print every rewrite with the rule that made it")
    parser.add_argument("--passes", choices=("all", "none"), default="all", help="which optimizations to make (default: all)")
    parser.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline")


def run(options: argparse.Namespace) -> int:
    wanted = [name for name in ("out", "emit", "stop_after") if getattr(options, name) is not None]
    if len(wanted) != 1 and not (options.trace and not wanted):
        raise UsageError("say what is wanted: one of `-o OUT.gfp`, `--emit python`, `--stop-after STAGE`, `--trace`")
    if options.stop_after == "parse":
        print("\n".join(tree_lines(tree_of(options.file))))
        return FINE
    program = program_of(options.file, options.overrides)
    if program is None:
        return ERRORS
    trace: list[Any] | None = [] if options.trace else None
    if options.passes == "all" and options.stop_after not in UNOPTIMIZED:
        program = optimized(program, trace)
    for rule, before, after in trace or ():
        print(f"{rule}: {before!r}\n{' ' * len(rule)}  {after!r}    {before.span}")
    if options.out is not None:
        write(program, options.out)
    elif options.emit or options.stop_after == "lower":
        print("\n\n".join(sources(program, options.passes == "all")))
    elif options.stop_after:
        print("\n".join(graph_lines(program)))
    return FINE


def write(program: Program, path: Path) -> None:
    from gradflow.plan.artifact import save

    save(program, path)
    say(f"{path}: {program.name}, {path.stat().st_size / 1000:.1f} kB")


# ---- printing


def graph_lines(program: Program) -> Iterator[str]:
    """Each region: its nodes in order, one a line, and what its results are called."""
    for title, region in regions(program):
        yield f"# {title}"
        yield from region_lines(region, "")
        yield ""


def region_lines(region: Region, margin: str) -> Iterator[str]:
    if region.parameters:
        yield f"{margin}with {', '.join(f'%{node.id}: {node.type}' for node in region.parameters)}"
    for node in region.nodes():
        yield f"{margin}{node!r}"
        if node.body is not None:
            yield from region_lines(node.body, margin + "    ")
    for name, node in region.results:
        yield f"{margin}{name} <- %{node.id}"


def sources(program: Program, optimize: bool) -> Iterator[str]:
    """The source of each region as the torch backend runs it; models are built, since their calls are part of it."""
    from gradflow.backends.torch import lower
    from gradflow.runtime.executor import Options, Run

    one = Run(program, Options(optimize=optimize))
    next(one.events())
    for title, region in regions(one.program):
        lowered = lower(region, one.store.runners, donate=title.startswith("flow "), optimize=optimize)
        notes = [f"# {'one kernel' if note.fused else 'not fused'}: {note.what}: {note.reason}" for note in lowered.fusion]
        yield "\n".join([f"# {title}", *notes, lowered.source.rstrip()])


def tree_of(reference: str) -> s.File:
    from gradflow.cli.terminal import read_source
    from gradflow.language.parser import parse

    return parse(read_source(reference))


def tree_lines(node: s.Node, label: str = "", margin: str = "") -> Iterator[str]:
    """A syntax tree, one node a line: its kind, its plain fields, its place; what is below it indented."""
    below: list[tuple[str, s.Node]] = []
    facts = []
    for one in fields(node):
        value = getattr(node, one.name)
        nodes = [value] if isinstance(value, s.Node) else [x for x in value if isinstance(x, s.Node)] if isinstance(value, tuple) else []
        if nodes:
            below += [(one.name, x) for x in nodes]
        elif one.name not in ("span", "name_span") and value not in (None, (), False):
            facts.append(f"{one.name}={value!r}")
    head = f"{label}: " if label else ""
    yield f"{margin}{head}{type(node).__name__} {' '.join([*facts, ''])}@ {node.span.line}:{node.span.column}"
    for name, inner in below:
        yield from tree_lines(inner, name, margin + "  ")

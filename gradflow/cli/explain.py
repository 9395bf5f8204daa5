"""Explain a name of the language or the library, or an error code.

NAME is a definition (`adam`, `18_sapo:reason`, `my.gflow:mine`), a shipped spec (`18_sapo`), a built-in function, a primitive, a code such
as E0312, or what TRL or verl call an option (`loss_type=dapo`, `epsilon_high`). Exit code 2 for a name that nobody knows.
"""

from __future__ import annotations

import argparse
import re
from textwrap import indent, wrap
from typing import Any

from gradflow.cli.terminal import FINE, UsageError
from gradflow.language import syntax as s

WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME|CODE")


def run(options: argparse.Namespace) -> int:
    print(page(options.name.strip()))
    return FINE


def page(name: str) -> str:
    """What there is to say about a name. Raises UsageError where nothing has it."""
    if re.fullmatch(r"[EeWw]\d{4}", name):
        return code_page(name.upper())
    from gradflow.cli.entries import definition_of
    from gradflow.peers.table import find, in_short
    from gradflow.peers.table import page as peers_page

    peers = find(name)
    found = definition_of(name) if "=" not in name else None
    if found is not None:
        elsewhere = "\n".join(filled(line, "  ") for line in in_short(peers).splitlines())
        return definition_page(*found) + (f"\n\nElsewhere:\n{elsewhere}" if peers else "")
    text = builtin_page(name) or primitive_page(name) or file_page(name)
    if text or peers:
        return text or peers_page(peers)
    from gradflow.cli.words import word_page

    if word := word_page(name):
        return "\n\n".join(filled(part) if not part.startswith(" ") else filled(part.strip(), "  ") for part in word.split("\n\n"))
    raise UsageError(f"nothing is called `{name}`; {nearby(name)}")


def nearby(name: str) -> str:
    """What was perhaps meant: a value of an option that another library has, or a name."""
    from gradflow.cli.entries import all_names
    from gradflow.language.diagnostics import nearest
    from gradflow.peers.table import asked, rows, values_of

    values = values_of(name)
    if values:
        return nearest(asked(name)[1], values) or f"its values are {', '.join(f'`{value}`' for value in dict.fromkeys(values))}"
    names = [*all_names(), *(one for row in rows() for one in row.names)]
    return nearest(name, names) or "`gradflow list` shows the names"


def code_page(code: str) -> str:
    from gradflow.language.codes import PAGES
    from gradflow.language.diagnostics import nearest

    if code not in PAGES:
        raise UsageError(f"there is no page for `{code}`; {nearest(code, PAGES) or 'codes begin with E01 to E09 or W'}")
    found = PAGES[code]
    parts = [f"{code}: {found.title}", filled(found.text)]
    if found.wrong:
        parts.append("This gives it:\n\n" + indent(found.wrong.rstrip(), "    "))
    if found.right:
        parts.append("This is right:\n\n" + indent(found.right.rstrip(), "    "))
    return "\n\n".join(parts)


def filled(text: str, start: str = "") -> str:
    return "\n".join(wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False, break_long_words=False))


# ---- definitions


def definition_page(definition: s.Definition, home: Any) -> str:
    """Doc, source, parameters with domains and defaults, inputs, states, what it gives and requires, and its text."""
    from gradflow.passes.words import expression_text

    span = definition.span
    parts = [f"{definition.kind} {definition.name}    {span.file}:{span.line}"]
    doc, cite = definition.text("doc"), definition.text("cite")
    if doc:
        parts.append(filled(doc))
    if cite:
        parts.append(f"Source: {cite}")
    body = definition.body or ()
    over = f"over {expression_text(definition.over)}" if definition.over is not None else ""
    works = f"on {expression_text(definition.pattern)}" if definition.pattern is not None else ""
    sections = [
        ("Parameters", [parameter_line(param) for param in definition.params]),
        ("Inputs", [input_line(one) for one in body if isinstance(one, s.Input)]),
        ("Works", [text for text in (works, over) if text]),
        ("States", [state_line(one) for one in body if isinstance(one, s.State)]),
        ("Gives", [expression_text(one.value) for one in body if isinstance(one, s.Gives)]),
        ("Requires", [requirement_line(one) for one in body if isinstance(one, s.Require) and one.kind != "expect"]),
        ("Reports", [one.name for one in body if isinstance(one, s.ReportAs)]),
    ]
    parts += [f"{title}:\n" + "\n".join(f"  {line}" for line in lines) for title, lines in sections if lines]
    parts.append("Text:\n" + indent(home.source.text[span.offset : span.end].rstrip(), "  "))
    return "\n\n".join(parts)


def parameter_line(param: s.Param) -> str:
    from gradflow.passes.parameters import type_text
    from gradflow.passes.words import expression_text

    default = f" = {expression_text(param.default)}" if param.default is not None else "    (no default: always given)"
    return f"{param.name}{f': {type_text(param.type)}' if param.type is not None else ''}{default}"


def input_line(statement: s.Input) -> str:
    from gradflow.passes.parameters import type_text
    from gradflow.passes.words import expression_text

    default = f" = {expression_text(statement.default)}" if statement.default is not None else ""
    return f"{', '.join(statement.names)}: {type_text(statement.type)}{default}"


def state_line(statement: s.State) -> str:
    from gradflow.passes.parameters import type_text
    from gradflow.passes.words import expression_text

    kind = f": {type_text(statement.type)}" if statement.type is not None else ""
    return f"{', '.join(statement.names)}{kind} {'~' if statement.drawn else '='} {expression_text(statement.init)}"


def requirement_line(statement: s.Require) -> str:
    from gradflow.passes.words import expression_text

    preferred = "preferred: " if statement.kind == "prefer" else ""
    return f"{preferred}{expression_text(statement.value)}{f'    {statement.message}' if statement.message else ''}"


# ---- the rest


def builtin_page(name: str) -> str:
    from gradflow.cli.entries import builtins

    found = next((entry for entry in builtins() if entry.name == name), None)
    return f"built-in {found.signature}    ({found.where})\n\n{filled(found.doc)}" if found is not None else ""


def primitive_page(name: str) -> str:
    from gradflow.cli.entries import literal
    from gradflow.library.catalogue import catalogue
    from gradflow.passes.parameters import type_text
    from gradflow.passes.primitives import parameters_of

    found = catalogue().get(name)
    if found is None:
        return ""
    lines = []
    defaults = found.signature.parameters
    for key, known in parameters_of(found).items():
        if known.hidden:
            continue
        text = f"{key}{'..' if known.variadic else ''}{f': {type_text(known.param.type)}' if known.param.type is not None else ''}"
        default = defaults[key].default
        lines.append(f"  {text}{f' = {literal(default)}' if default is not defaults[key].empty else ''}")
    head = f"{found.kind} {name}    gradflow/library/{found.function.__module__.rpartition('.')[2]}.py"
    doc = "\n\n".join(filled(" ".join(part.split())) if "\n  " not in part else part for part in found.doc.split("\n\n"))
    return "\n\n".join([head, doc, *(["Parameters:\n" + "\n".join(lines)] if lines else [])])


def file_page(name: str) -> str:
    """A shipped spec by its name: what it defines."""
    from gradflow.passes.scope import module, standard_files

    path = next((path for path in standard_files() if path.stem in (name, name.replace("-", "_"))), None)
    if path is None:
        return ""
    from gradflow.cli.entries import signature

    found = module(path)
    lines = [f"  {d.kind} {signature(d)}" + (f"\n{filled(d.text('doc'), '      ')}" if d.text("doc") else "") for d in found.tree.definitions]
    return f"spec {path.stem}    {path}\n\n" + "\n".join(lines)

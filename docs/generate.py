"""The generated part of the documentation, made from what the compiler itself reads and prints.

    python -m docs.generate            writes the files
    python -m docs.generate --check    writes nothing; names those that are stale, exit code 1 if there are any

`language.md`, `library.md`, `diagnostics.md` and `claims.md` are made whole: constructs come from `constructs.toml` (a test holds it against the
grammar), built-ins from their table, primitives from the catalogue, definitions from the shipped specs, pages from the list of diagnostics. In
pages that people write (`RECORDED`) the outputs are made, and the tables of other libraries' options: a block ```gflow NAME or ```python NAME is
a file, a block ```console holds commands after `$ ` and what they print. Runs take time and print times, so theirs stand in ```text blocks and
are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORDED = ("README.md", "docs/tutorial.md", "docs/from-trl.md", "docs/from-verl.md")
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLUMNS = "100"
ORDER = ("elementwise", "choice", "reduction", "axes", "order", "linear algebra", "losses", "derivatives", "draws")
NOTE = "<!-- Made by `python -m docs.generate`; changes here are lost. -->"
FAMILIES = {
    "E01": "Syntax", "E02": "Names, files and the command line", "E03": "Types and axes", "E04": "Arguments", "E05": "Statements and stages",
    "E06": "Properties and topologies", "E09": "Not built yet", "W01": "Warnings: names and knobs", "W02": "Warnings", "W03": "Warnings: preferences",
}  # fmt: skip


def constructs() -> list[dict[str, Any]]:
    """Sections of the language's constructs, each with its entries."""
    return tomllib.loads((HERE / "constructs.toml").read_text(encoding="utf-8"))["section"]


def pages() -> dict[str, str]:
    """Every generated file by its path, with the text that it should have."""
    made = {"docs/language.md": language(), "docs/library.md": library(), "docs/diagnostics.md": diagnostics(), "docs/claims.md": claims()}
    return made | {name: recorded(peers((ROOT / name).read_text(encoding="utf-8"))) for name in RECORDED if (ROOT / name).exists()}


OPTIONS = re.compile(r"(<!-- options of (\w+)[^\n]*-->\n).*?(<!-- end of options -->)", re.DOTALL)


def peers(text: str) -> str:
    """A page whose table of a peer's options, between its two comments, is as `gradflow/peers/` has it."""
    return OPTIONS.sub(lambda found: f"{found[1]}\n{options_of(found[2])}\n\n{found[3]}", text)


def options_of(library: str) -> str:
    from gradflow.peers.table import rows

    own = [row for row in rows() if row.library == library]
    here = [f"| `{option(row)}` | {cell(row.says)} | {code(row.write or row.line)} | {differences(row)} |" for row in own if not row.missing]
    absent = [f"| `{option(row)}` | {cell(row.says)} {cell(row.missing)} |" for row in own if row.missing]
    table = ["| option | what it is | in gradflow | what differs |", "| --- | --- | --- | --- |", *here]
    return "\n".join([*table, "", "Not here:", "", "| option | why |", "| --- | --- |", *absent])


def option(row: Any) -> str:
    return "`, `".join([f"{row.names[0]}={row.values[0]}" if row.values else row.names[0], *row.names[1:], *row.values[1:]])


def code(text: str) -> str:
    return "<br>".join(f"`{cell(line)}`" for line in text.splitlines())


def differences(row: Any) -> str:
    exact = f"To the letter: `{cell(row.exact.splitlines()[-1])}`." if row.exact else ""
    return " ".join(filter(None, [*(cell(text) for text in row.differs.values()), exact]))


def recorded(text: str) -> str:
    """A page with the output of its commands as it is now. They run in one empty folder, from the first to the last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tests").symlink_to(ROOT / "tests")

        def block(found: re.Match[str]) -> str:
            kind, file, body = found.groups()
            if file:
                (folder / file).write_text(body, encoding="utf-8")
            if kind != "console":
                return found[0]
            commands = [line for line in body.splitlines() if line.startswith("$ ")]
            return "```console\n" + "\n\n".join(f"{line}\n{printed(line[2:], folder)}".rstrip() for line in commands) + "\n```"

        return BLOCK.sub(block, text)


def printed(command: str, folder: Path) -> str:
    """What a command prints, on stdout and stderr together, without spaces at the ends of lines."""
    program, *words = shlex.split(command)
    start = {"gradflow": [sys.executable, "-m", "gradflow.cli.main"], "python": [sys.executable]}[program]
    settings = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*start, *words], cwd=folder, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    if done.returncode not in (0, 1) or (program == "python" and done.returncode):
        raise SystemExit(f"`{command}` fails with exit code {done.returncode}:\n{done.stdout}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


# ---- the language


def language() -> str:
    parts = [
        "# Language reference",
        NOTE,
        "A spec says what is minimized, how its gradient is obtained, what the gradient is turned into on its way, who tells whom about it, and how "
        "the parameters move. Values are tensors with named axes. Models, data and definitions that a spec can use are in [library.md](library.md), "
        "the pages of all diagnostics in [diagnostics.md](diagnostics.md).",
    ]
    for section in constructs():
        parts.append(f"## {section['title']}")
        for entry in section["construct"]:
            parts.extend(construct(entry))
    parts += [
        "## Built-in functions",
        "Axes, maps and conditions are always named arguments. A reduction without `over:` covers the axes that the body names.",
    ]
    parts += [f"### {family.capitalize()}\n\n{table}" for family, table in builtin_tables()]
    return "\n\n".join(parts) + "\n"


def construct(entry: dict[str, Any]) -> Iterator[str]:
    yield f"### {entry['title']}"
    yield spec_block(entry["form"], "text")
    yield entry["text"].strip()
    if not entry.get("built", True):
        yield "*Not built yet: it parses and formats, and using it is an error that says so.*"
    yield spec_block(entry["example"])


def spec_block(text: str, kind: str = "gflow") -> str:
    return f"```{kind}\n{text.strip()}\n```"


def builtin_tables() -> Iterator[tuple[str, str]]:
    from gradflow.builtins.functions import BUILTINS

    found: dict[str, list[str]] = {}
    for function in BUILTINS.values():
        found.setdefault(function.family, []).append(f"| `{function.signature}` | {cell(function.doc)} |")
    for family in sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        yield family, "\n".join(["| function | value |", "| --- | --- |", *found[family]])


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- the library


def library() -> str:
    parts = ["# Library", NOTE, "What a spec can use without an import. `gradflow list` prints the names, `gradflow explain NAME` one entry."]
    parts += ["## Primitives", "Written in Python, called from specs."]
    titles = {"model": "Models", "data": "Data", "call": "Calls"}
    for kind, title in titles.items():
        parts.append(f"### {title}")
        parts.extend(primitive_entries(kind))
    parts += [
        "## Definitions",
        "Written in the language; each can be read, changed and recombined. What was left out of a method is said in its file.",
    ]
    parts.extend(definition_entries())
    return "\n\n".join(parts) + "\n"


def primitive_entries(kind: str) -> Iterator[str]:
    from gradflow.cli.entries import literal, primitive_signature
    from gradflow.library.catalogue import catalogue
    from gradflow.passes.parameters import type_text
    from gradflow.passes.primitives import parameters_of

    for found in catalogue().values():
        if found.kind != kind:
            continue
        yield f"#### `{primitive_signature(found)}`"
        yield found.doc
        rows = []
        for name, known in parameters_of(found).items():
            if not known.hidden:
                default = found.signature.parameters[name].default
                shown = "" if default is found.signature.parameters[name].empty else f"`{literal(default)}`"
                rows.append(f"| `{name}` | {f'`{cell(type_text(known.param.type))}`' if known.param.type is not None else ''} | {shown} |")
        if rows:
            yield "\n".join(["| parameter | domain | default |", "| --- | --- | --- |", *rows])


def definition_entries() -> Iterator[str]:
    from gradflow.cli.entries import signature
    from gradflow.passes.scope import module, standard_files

    for path in standard_files():
        yield f"### `{path.parent.name}/{path.name}`"
        rows = []
        home = module(path)
        for one in home.tree.definitions:
            told = [one.text("doc"), f"{one.text('cite')}." if one.text("cite") else ""]
            if not any(told) and one.value is not None:
                told = [f"`= {home.source.text[one.value.span.offset : one.value.span.end]}`"]
            rows.append(f"| {one.kind} | `{cell(signature(one))}` | {cell(' '.join(told))} |")
        yield "\n".join(["| kind | name, parameters and inputs | what it is |", "| --- | --- | --- |", *rows])


# ---- diagnostics


def diagnostics() -> str:
    from gradflow.language.codes import PAGES

    parts = ["# Diagnostics", NOTE, "Every error and warning has a code; `gradflow explain CODE` prints its page."]
    for family, codes in groupby(sorted(PAGES), key=lambda code: code[:3]):
        parts.append(f"## {FAMILIES.get(family, family)}")
        for code in codes:
            parts.extend(page(code, PAGES[code]))
    return "\n\n".join(parts) + "\n"


def page(code: str, found: Any) -> Iterator[str]:
    """A page: its title, its text, a text that gives the diagnostic and the same text mended."""
    kind = "sh" if getattr(found, "command", False) else "text"
    yield f"### {code}: {found.title}"
    yield found.text
    if found.wrong:
        yield f"This gives it:\n\n{spec_block(found.wrong, kind)}"
    if found.right:
        yield f"This is right:\n\n{spec_block(found.right, kind)}"


def claims() -> str:
    """What was measured of each claim, from the records of `gradflow claim`."""
    parts = [
        "# Claims", NOTE,
        "What each method promises against its baseline, as its spec states it, and what came out: `gradflow claim NAME` runs it again. A claim "
        "holds where the whole interval of every margin is positive, is contradicted where one is negative, and is not shown otherwise. Records "
        "carry a fingerprint of the definitions behind them; a test fails when these have changed since.",
    ]  # fmt: skip
    for path in sorted((HERE / "claims").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {record['spec']}")
        for name, entry in record["claims"].items():
            parts.append(f"### {name}: {entry['verdict']}")
            parts.append(entry["doc"] + (f" ({entry['cite']})" if entry["cite"] else ""))
            parts.append("\n".join(["| expected | margin | interval | |", "| --- | --- | --- | --- |", *map(expectation, entry["expectations"])]))
            parts.append("\n".join(["| run | budget | seeds | last reports, means |", "| --- | --- | --- | --- |", *trial_rows(entry["trials"])]))
            made = entry["made_with"]
            parts.append(f"Made with torch {made['torch']}, Python {made['python']}, on {made['machine']}.")
    return "\n\n".join(parts) + "\n"


def expectation(one: dict[str, Any]) -> str:
    interval = f"[{one['low']:.3g}, {one['high']:.3g}], {one['method']}" if one["low"] is not None else one["method"]
    return f"| `{one['text']}` | {one['margin']:.3g} | {interval} | {one['verdict']} |"


def trial_rows(trials: dict[str, Any]) -> Iterator[str]:
    for name, trial in trials.items():
        means = []
        for report, values in trial["reports"].items():
            if all(isinstance(value, int | float) for value in values):
                means.append(f"{report} {sum(values) / len(values):.4g}")
        yield f"| `{name} = {trial['run']}` | {trial['budget']} | {len(trial['seeds'])} | {', '.join(means)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is stale")
    options = parser.parse_args()
    found = pages()
    stale = [name for name, text in found.items() if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != text]
    for name in stale:
        if not options.check:
            (ROOT / name).write_text(found[name], encoding="utf-8")
        print(f"{name} {'is stale: run python -m docs.generate' if options.check else 'written'}", file=sys.stderr)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())

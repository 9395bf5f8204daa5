"""Show the evidence for every shipped method: its spec, its vectors, its property tests, its claim.

The table is computed from files: specs in the package's `pipelines/methods`, vector files and property tests in a checkout's `tests`. Vectors
count as passing when `gradflow verify --record` has written so, and neither the vectors nor the spec have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gradflow.cli.terminal import FINE, say, width
from gradflow.language import syntax as s

EVIDENCE = "evidence.json"


@dataclass(frozen=True)
class Evidence:
    """What there is for one method. `vectors` are vector files, `passing` those with a fresh record of success."""

    number: int
    name: str
    title: str
    parses: bool
    pipelines: tuple[str, ...]
    vectors: int
    passing: int
    properties: int
    claims: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return bool(self.parses and self.pipelines and self.vectors and self.passing == self.vectors and self.properties and self.claims)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    found = list(evidence())
    if options.format == "json":
        print(json.dumps([{**asdict(one), "complete": one.complete} for one in found], indent=2, ensure_ascii=False))
    else:
        print(table(found, width(sys.stdout, 160)))
        say(f"{sum(one.complete for one in found)} of {len(found)} methods have a spec, passing vectors, property tests and a claim")
    return FINE


def evidence() -> list[Evidence]:
    """One row a spec, by number."""
    from gradflow.passes.scope import standard_folder

    tests = tests_folder()
    rows = [row(path, tests) for path in sorted((standard_folder() / "methods").glob("[0-9][0-9]_*.gflow"))]
    return sorted(rows, key=lambda one: one.number)


def tests_folder() -> Path | None:
    """The tests of a checkout; None for an installed package."""
    import gradflow

    folder = Path(next(iter(gradflow.__path__))).parent / "tests"
    return folder if folder.is_dir() else None


def row(path: Path, tests: Path | None) -> Evidence:
    from gradflow.language.diagnostics import GradflowError
    from gradflow.passes.scope import module

    number, _, slug = path.stem.partition("_")
    try:
        definitions: Sequence[s.Definition] = module(path).tree.definitions
        parses = True
    except GradflowError:
        definitions, parses = (), False
    kinds = {kind: tuple(d.name for d in definitions if d.kind == kind) for kind in ("pipeline", "claim")}
    files = vector_files(path.stem)
    passing = sum(recorded(file, path) for file in files)
    parts = {slug, *slug.split("_")}
    properties = property_tests(path.stem, {slug, *(d.name for d in definitions if d.name in parts)}, tests)
    return Evidence(int(number), path.stem, title(definitions, slug), parses, kinds["pipeline"], len(files), passing, properties, kinds["claim"])


def title(definitions: Sequence[s.Definition], slug: str) -> str:
    """The first sentence of the `doc` of the definition that the file is named after, else of the first that has one."""
    told = [d for d in definitions if d.kind not in ("pipeline", "claim") and d.text("doc")]
    told.sort(key=lambda d: d.name not in (slug, *slug.split("_")))
    return told[0].text("doc").partition(". ")[0].rstrip(".") if told else slug.replace("_", " ")


# ---- vectors and their records


def vector_files(stem: str) -> list[Path]:
    """`NN-slug.*.json` in the tests of a checkout or in the package."""
    from gradflow.passes.scope import standard_folder

    tests = tests_folder()
    folders = [*([tests / "golden"] if tests is not None else []), standard_folder() / "golden"]
    found = {file.name: file for folder in reversed(folders) for file in folder.glob(f"{stem.replace('_', '-')}.*.json")}
    return sorted(found.values())


def fingerprint(*files: Path) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files if file.exists())).hexdigest()


def record(file: Path, component: str, verdict: dict[str, Any]) -> Path:
    """Writes down how a vector file fared; returns the file of records, which lies beside the vectors."""
    from gradflow.files import write_text

    target = file.parent / EVIDENCE
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    known.setdefault(file.name, {})[verdict["backend"]] = {
        "component": component, "cases": verdict["cases"], "passed": verdict["passed"], "fingerprint": fingerprint(file, *specs_behind(component)),
    }  # fmt: skip
    write_text(target, json.dumps(known, indent=1, sort_keys=True) + "\n")
    return target


def specs_behind(component: str) -> list[Path]:
    """The spec of a component's method and its wrapper, where there is one."""
    from gradflow.passes.scope import standard_files, standard_folder

    stem = component.rpartition(".")[0].replace("-", "_")
    return [*(path for path in standard_files() if path.stem == stem), standard_folder() / "golden" / f"{stem}.gflow"]


def recorded(file: Path, spec: Path) -> bool:
    """Whether every backend on record passed all cases of a vector file, with the texts as they are now."""
    target = file.parent / EVIDENCE
    try:
        known = json.loads(target.read_text(encoding="utf-8")).get(file.name, {})
    except (OSError, ValueError):
        return False
    return bool(known) and all(
        one["passed"] == one["cases"] > 0 and one["fingerprint"] == fingerprint(file, *specs_behind(one["component"])) for one in known.values()
    )


def property_tests(stem: str, names: set[str], tests: Path | None) -> int:
    """How many test functions in `tests/methods` are about the method: in a file named after it, or naming it or its definition themselves."""
    if tests is None:
        return 0
    wanted = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
    count = 0
    for file in sorted((tests / "methods").glob("test_*.py")):
        bodies = re.split(r"^(?=def test_)", file.read_text(encoding="utf-8"), flags=re.M)[1:]
        own = any(file.stem.removeprefix("test_").startswith(name) for name in (stem, *names))
        count += len(bodies) if own else sum(bool(wanted.search(body)) for body in bodies)
    return count


# ---- the table


def table(found: Sequence[Evidence], columns: int) -> str:
    head = ("method", "spec", "vectors", "properties", "claim")
    cells = [(one.name, spec_cell(one), f"{one.passing}/{one.vectors}", str(one.properties or "-"), ", ".join(one.claims) or "-") for one in found]
    widths = [max([len(head[i]), *(len(line[i]) for line in cells)]) for i in range(len(head))]
    room = columns - sum(widths) - 2 * len(widths)
    titles = [one.title if len(one.title) <= room else one.title[: max(room - 3, 0)] + "..." for one in found]
    lines = ["  ".join(text.ljust(w) for text, w in zip(head, widths))]
    for line, text in zip(cells, titles):
        lines.append("  ".join([*(cell.ljust(w) for cell, w in zip(line, widths)), *([text] if room >= 20 else [])]))
    return "\n".join(line.rstrip() for line in lines)


def spec_cell(one: Evidence) -> str:
    if not one.parses:
        return "does not parse"
    return f"{len(one.pipelines)} pipeline{'s' * (len(one.pipelines) != 1)}"

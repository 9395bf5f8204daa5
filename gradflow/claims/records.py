"""What was found, written down: one JSON file a spec, with a fingerprint of all definitions behind each claim, so that a change makes it stale."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradflow.claims.design import Claim
from gradflow.claims.trials import Outcome, by_trial
from gradflow.claims.verdicts import Judged, overall
from gradflow.files import write_text
from gradflow.language import syntax as s
from gradflow.passes.scope import Module

VERSION = 1
TELLING = (s.Doc, s.Require)


def fingerprint(*roots: tuple[s.Definition, Module]) -> str:
    """A hash of the meaning of definitions and of all that they name: layout and what only tells or refuses (`doc`, `require`) do not count."""
    digest = hashlib.sha256()
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        definition, home = waiting.pop()
        key = f"{home.source.name}:{definition.name}"
        if key in seen:
            continue
        seen.add(key)
        definition = replace(definition, body=tuple(one for one in definition.body or () if not isinstance(one, TELLING)))
        digest.update(repr(s.shape(definition)).encode())
        for name in sorted({node.id for node in s.walk(definition) if isinstance(node, s.Name)} - own_names(definition)):
            found = home.scope().find(name, definition)
            if found is not None:
                waiting.append(found)
    return digest.hexdigest()[:16]


def own_names(definition: s.Definition) -> set[str]:
    """What a definition binds itself and so never means in the library; but `x = x(1)` does, where nothing else binds x."""
    found: set[str] = {param.name for param in definition.params}
    outer: set[str] = set()
    for node in s.walk(definition):
        if isinstance(node, s.Input | s.State | s.Vary | s.Declare):
            found |= set(node.names)
        elif isinstance(node, s.Lambda):
            found |= set(node.params)
        elif isinstance(node, s.Repeat):
            found |= {start.name for start in node.values} | ({node.axis.name} if node.axis is not None else set())
        elif isinstance(node, s.Bind) and node.op != "<-":
            used = {part.id for part in s.walk(node.value) if isinstance(part, s.Name)}
            for target in node.targets:
                (outer if target.name in used else found).add(target.name)
    return found - (outer - found)


def record(claim: Claim, outcomes: list[Outcome], judged: list[Judged], confidence: float) -> dict[str, Any]:
    """One claim's entry."""
    return {
        "claim": claim.name, "doc": claim.definition.text("doc"), "cite": claim.definition.text("cite"),
        "fingerprint": fingerprint((claim.definition, claim.home)), "verdict": overall(judged), "confidence": confidence,
        "expectations": [{name: plain(value) for name, value in asdict(one).items()} for one in judged],
        "trials": {trial.name: _trial(trial.text, by_trial(outcomes, trial)) for trial in claim.trials},
        "made_with": made_with(),
    }  # fmt: skip


def _trial(text: str, outcomes: list[Outcome]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for one in outcomes for name in one.reports))
    return {
        "run": text, "seeds": [one.task.seed for one in outcomes], "budget": outcomes[0].budget,
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "reports": {name: [plain(one.reports.get(name)) for one in outcomes] for name in names},
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Numbers as JSON can say them: six digits, and words where there is no number."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def made_with() -> dict[str, Any]:
    """Versions and the class of machine: what a reader needs to judge the numbers, nothing that names the machine."""
    packages = {}
    for name in ("gradflow", "torch", "numpy", "scipy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {"python": platform.python_version(), **packages, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"}


def write(entries: Mapping[str, dict[str, Any]], spec: str, folder: Path) -> Path:
    """Adds entries to the file of a spec; claims of it that were not run now keep theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{spec}.json"
    known = read(target)
    known = {"version": VERSION, "spec": spec, "claims": {**known.get("claims", {}), **entries}}
    write_text(target, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return target


def read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stale(record: Mapping[str, Any], home: Module) -> list[str]:
    """The claims of a file whose definitions have changed since, or are gone."""
    names = []
    for name, entry in record.get("claims", {}).items():
        definition = home.definitions.get(name)
        if definition is None or entry["fingerprint"] != fingerprint((definition, home)):
            names.append(name)
    return names

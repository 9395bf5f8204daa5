"""A run taken up again: the program and the options out of its folder, the newest whole checkpoint, and what is different from before.

Nothing is written here: a run that is refused leaves its folder as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.plan.header import ArtifactError
from gradflow.runtime.events import RunFailed, plain
from gradflow.runtime.options import Options
from gradflow.runtime.run_folder import RunFolder, versions

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.executor import Run
    from gradflow.runtime.ranks import Ranks


MOST_CHANGES = 3  # that a refusal names


@dataclass(frozen=True)
class Kept:
    """What a run folder says of how its run began."""

    folder: RunFolder
    options: Options
    parameters: Mapping[str, Any]
    command: Mapping[str, Any]
    source: str
    pipeline: str

    @property
    def path(self) -> Path:
        return self.folder.path


def reopened(path: Path) -> Kept:
    """The folder of a run. Raises RunFailed for what is none."""
    if not path.is_dir():
        raise RunFailed(f"there is no run at `{path}`: --resume takes the folder of a run (`gradflow runs` lists them)")
    if (path / "sweep.json").is_file():
        raise RunFailed(f"`{path}` is a sweep: its runs go on one by one, `gradflow run --resume {path}/NAME`")
    try:
        found = json.loads((path / "parameters.json").read_text())
        known = {field.name for field in fields(Options)}
        options = Options(**{name: value for name, value in found["options"].items() if name in known})
        return Kept(RunFolder(path), options, found["parameters"], found.get("command", {}), found["source"], found["pipeline"])
    except FileNotFoundError:
        raise RunFailed(f"`{path}` is no folder of a run, or its run never began: it has no parameters.json; start a new run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFailed(f"`{path}/parameters.json` cannot be read: {' '.join(str(error).split())}; start a new run") from None


def program_kept(kept: Kept) -> Program | None:
    """The program as it ran; None where the folder holds no artifact of it. Raises RunFailed for a damaged one."""
    from gradflow.plan.artifact import load

    path = kept.path / "plan.gfp"
    if not path.exists():
        return None
    try:
        return load(path)
    except ArtifactError as error:
        raise RunFailed(f"{error}; name the spec too: `gradflow run SPEC --resume {kept.path}`") from None


def refuse_changes(kept: Kept, program: Program) -> None:
    """Raises RunFailed unless the program is the one that the run began with: names the parameters that differ, else says that the text does."""
    from gradflow.plan.artifact import encode

    advice = "leave the spec out to go on with what it began with, or start a new run"
    before, now = kept.parameters, plain(program.parameters)
    if program.name != kept.pipeline:
        raise RunFailed(f"the run at {kept.path} is one of `{kept.pipeline}`, not of `{program.name}`: {advice}")
    changed = [name for name in [*now, *(name for name in before if name not in now)] if now.get(name) != before.get(name)]
    if changed:
        told = ", ".join(f"`{name}` is {now.get(name)} and was {before.get(name)}" for name in changed)
        raise RunFailed(f"the spec is not what the run at {kept.path} began with: {told}; {advice}")
    path = kept.path / "plan.gfp"
    try:
        if path.exists():
            same = encode(program) == path.read_bytes() or encode(replace(program, source=kept.source)) == path.read_bytes()
        else:
            same = program.text == (kept.path / "spec.gflow").read_text()
    except (OSError, ArtifactError) as error:
        raise RunFailed(f"the spec cannot be compared with that of the run at {kept.path}: {error}") from None
    if not same:
        raise RunFailed(f"the spec is not what the run at {kept.path} began with, {kept.path}/spec.gflow: {told_of(kept, program)}; {advice}")


def told_of(kept: Kept, program: Program) -> str:
    """What is different in meaning, the first few changes; that it is the text alone, where the kept plan says so."""
    from gradflow.views.diff import changes, lines

    before = program_kept(kept)
    if before is None:
        return "its text is different"
    found = [line.strip() for line in lines(changes(before, program)) if line.startswith("  ")]
    rest = f" and {len(found) - MOST_CHANGES} more" if len(found) > MOST_CHANGES else ""
    return "; ".join(found[:MOST_CHANGES]) + rest if found else "its text is different, though not what it means"


def refuse_options(kept: Kept, asked: Mapping[str, Any]) -> None:
    """Raises RunFailed for options of the command line that are not what the run began with (None: not said)."""
    for name, value in asked.items():
        before = getattr(kept.options, name)
        if value is not None and value != before:
            said = "left to the spec" if before is None else before
            raise RunFailed(f"a run goes on only as it began: `{name}` is {value} and was {said}; leave it out, or start a new run")


def continued(
    kept: Kept, program: Program, save_every: float | None, inputs: Mapping[str, Any] | None = None, ranks: Ranks | None = None
) -> tuple[Run, list[str]]:
    """(the run, put on from its newest whole checkpoint when its events are asked for; what a person should know). Raises RunFailed."""
    from gradflow.runtime.checkpoints import newest_checkpoint
    from gradflow.runtime.executor import Run

    checkpoint, notes = newest_checkpoint(kept.path)
    if checkpoint is not None:
        notes = [f"{note}; the one before it is used" for note in notes]
        notes.append(f"goes on after {checkpoint.state['tick']} units, from {checkpoint.path}")
    elif notes:
        raise RunFailed(f"no checkpoint of {kept.path} can be used, so the run cannot go on: {'; '.join(notes)}; start a new run")
    else:
        notes = [f"{kept.path} has no checkpoint yet: the run starts again from its beginning"]
    return Run(program, kept.options, inputs, kept.path, save_every, checkpoint, ranks), [*_differing(kept), *notes]


def _differing(kept: Kept) -> list[str]:
    """Versions that numbers may depend on and that are not what they were."""
    try:
        before = json.loads((kept.path / "versions.json").read_text())
    except (OSError, ValueError):
        return []
    now = versions()
    changed = [f"{name} is {now[name]} and was {before[name]}" for name in now if name != "hardware" and name in before and now[name] != before[name]]
    return [f"{', '.join(changed)}: the last digits may differ from those of a run that was never interrupted"] if changed else []

"""The specs that the tests of the language run over: the copies in `specs/` and everything under `pipelines/`."""

from __future__ import annotations

from pathlib import Path

from gradflow.language.source import Source

HERE = Path(__file__).parent
SPECS = sorted((HERE / "specs").glob("*.gflow")) + sorted((HERE.parent.parent / "pipelines").rglob("*.gflow"))


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def sources() -> list[Source]:
    return [Source.read(path) for path in SPECS]

"""The page behind every diagnostic's code: what `gradflow explain E0102` prints.

The texts are in `pages.toml`, one table a code. Families: E01 syntax, E02 names, E03 types and axes, E04 arguments, E05 statements and
stages, E06 properties and topologies, E07 privacy, E09 what is not built yet; W01 names and knobs without effect, W02 and W03 the rest. Nothing that
only checks a file imports this module.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """`wrong` is a short text that gives the diagnostic, `right` the same text mended. With `command` they are command lines."""

    title: str
    text: str
    wrong: str
    right: str
    command: bool = False


def load() -> dict[str, Page]:
    """All pages by code, their text on one line."""
    tables = tomllib.loads(Path(__file__).with_name("pages.toml").read_text(encoding="utf-8"))
    return {code: Page(**{**table, "text": " ".join(table["text"].split())}) for code, table in tables.items()}


PAGES: Mapping[str, Page] = load()

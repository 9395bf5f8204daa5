"""The page behind every diagnostic's code: what `gradflow explain E0102` prints.

One dictionary a family; `PAGES` is all of them. `wrong` is a short text that gives the diagnostic, `right` the same text mended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    title: str
    text: str
    wrong: str
    right: str


SYNTAX: dict[str, Page] = {}
NAMES: dict[str, Page] = {}
TYPES: dict[str, Page] = {}
STAGES: dict[str, Page] = {}
DATA: dict[str, Page] = {}
WARNINGS: dict[str, Page] = {}

PAGES: dict[str, Page] = {**SYNTAX, **NAMES, **TYPES, **STAGES, **DATA, **WARNINGS}

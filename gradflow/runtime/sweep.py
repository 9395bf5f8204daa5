"""A sweep: every combination of several values and seeds as one cell, and what the cells came to as rows of a table. No torch here.

A comma separates values only outside of brackets and quotes: `-p lr=1e-4,3e-4` are two values, `-p betas=(0.9, 0.99)` is one.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradflow.runtime import records

OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. `overrides`: all of its parameters as on a command line; `point`: those that the sweep varies; `seed`: its number
    from 0 on, None where seeds are not swept."""

    overrides: tuple[str, ...]
    point: tuple[tuple[str, str], ...]
    seed: int | None

    @property
    def title(self) -> str:
        return ", ".join([*(f"{name}={value}" for name, value in self.point), *([] if self.seed is None else [f"seed {self.seed}"])])

    def folder(self, number: int) -> str:
        """A name that is one on every file system."""
        return re.sub(r"[^A-Za-z0-9=.+-]+", "_", f"{number:03d}-{self.title.replace(', ', '-')}")[:100]


def values_of(text: str) -> list[str]:
    """The values of `a,b,c`, split at commas outside of brackets and quotes."""
    found, depth, quote, begun = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[place - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in OPENING or letter in CLOSING:
            depth += 1 if letter in OPENING else -1
        elif letter == "," and depth == 0:
            found.append(text[begun:place].strip())
            begun = place + 1
    return [*found, text[begun:].strip()]


def cells_of(overrides: Sequence[str], seeds: int | None) -> list[Cell] | None:
    """The cells of a command line, in its order, the last value changing fastest; None where it is no sweep."""
    choices: list[list[tuple[str, str]]] = []
    for text in overrides:
        name, equals, values = text.partition("=")
        choices.append([(name.strip(), value) for value in values_of(values)] if equals else [(text, "")])
    varied = [len(one) > 1 for one in choices]
    if not any(varied) and seeds is None:
        return None
    cells = []
    for point in itertools.product(*choices):
        texts = tuple(f"{name}={value}" if changes else text for (name, value), changes, text in zip(point, varied, overrides))
        moved = tuple(pair for pair, changes in zip(point, varied) if changes)
        cells += [Cell(texts, moved, seed) for seed in (range(seeds) if seeds else (None,))]
    return cells


@dataclass(frozen=True)
class Row:
    """The runs of one point: how many finished of how many, and of each metric mean and standard deviation over them (None for one run)."""

    point: tuple[tuple[str, str], ...]
    finished: int
    runs: int
    metrics: Mapping[str, tuple[float, float | None]]


def rows_of(cells: Sequence[Cell], folders: Sequence[Path]) -> list[Row]:
    """One row a point, from what the runs left in their folders."""
    found: dict[tuple[tuple[str, str], ...], list[dict[str, float] | None]] = {}
    for cell, folder in zip(cells, folders, strict=True):
        found.setdefault(cell.point, []).append(results_of(folder))
    return [_row(point, results) for point, results in found.items()]


def _row(point: tuple[tuple[str, str], ...], results: Sequence[dict[str, float] | None]) -> Row:
    done = [result for result in results if result is not None]
    names = dict.fromkeys(name for result in done for name in result)
    metrics = {name: _spread(result[name] for result in done if name in result) for name in names}
    return Row(point, len(done), len(results), metrics)


def _spread(values: Iterable[float]) -> tuple[float, float | None]:
    numbers = list(values)
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 and all(map(math.isfinite, numbers)) else None


def results_of(folder: Path) -> dict[str, float] | None:
    """The last values of a finished run, of its reports if it makes any, else of its loss and metrics; None where it did not finish."""
    try:
        record = records.glance(folder)
    except OSError:
        return None
    if record.state != "finished":
        return None
    values: Mapping[str, Any] = {name: last for name, (_, last) in record.learnt.items()} or record.last
    return {name: number for name, value in values.items() if (number := scalar(value)) is not None}


def scalar(value: Any) -> float | None:
    """A number, also one that JSON holds as a word ("nan"); None for values with axes."""
    try:
        return None if isinstance(value, list) else float(value)
    except (TypeError, ValueError):
        return None

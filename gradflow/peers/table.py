"""The table of what TRL and verl call things: reading it, finding rows by what a person types, and saying a row in words.

A row is an option, or one value of it. `line` is what to write in a pipeline in which `samples` was drawn from `tasks` with `policy`, `scored`
is `score(policy, samples)` and `loss` is what the flow descends; `exact`, where it is another one, gives that library's numbers to the letter.
`write` is the part that matters. `definition` names what a row is in place of a line, `missing` says why there is none. Nothing that only
checks a correct file reads the table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """`names` of the option, `values` that mean the same (none: the option as such), `differs` by subject. `common`: a word of many meanings."""

    library: str
    version: str
    names: tuple[str, ...]
    says: str
    values: tuple[str, ...] = ()
    path: str = ""
    line: str = ""
    exact: str = ""
    write: str = ""
    definition: str = ""
    missing: str = ""
    common: bool = False
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.path or self.names[0]}{f'={self.values[0]}' if self.values else ''}"


@cache
def rows() -> tuple[Row, ...]:
    """All rows, library by library, in the order of the files."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for one in table["row"]:
            names = (one.pop("name"), *one.pop("also_names", ()))
            values = (*filter(None, [one.pop("value", None)]), *one.pop("also", ()))
            texts: dict[str, Any] = {key: text.strip() if isinstance(text, str) else text for key, text in one.items()}
            found.append(Row(table["library"], table["version"], names, values=values, **texts))
    return tuple(found)


def asked(text: str) -> tuple[str, str]:
    """(option, value) of what was typed: `loss_type=dapo`, `--loss_type="dapo"`, `algorithm.adv_estimator=rloo`, `epsilon_high`, `cispo`."""
    path, _, value = text.strip().lstrip("-+").partition("=")
    parts = [part.strip() for part in path.split(".")]
    names = {name for row in rows() for name in row.names}
    return next((part for part in reversed(parts) if part in names), parts[-1]), value.strip().strip("\"'")


def find(text: str) -> list[Row]:
    """The rows that a text means: those of an option (with this value), else those whose value it is."""
    name, value = asked(text)
    options = [row for row in rows() if name in row.names]
    if not options and not value:
        return [row for row in rows() if _same(name, row.values)]
    with_value = [row for row in options if _same(value, row.values)]
    return with_value or [row for row in options if not value or not row.values]


def _same(value: str, values: tuple[str, ...]) -> bool:
    return bool(value) and re.sub(r"\W", "_", value) in {re.sub(r"\W", "_", one) for one in values}


def values_of(text: str) -> list[str]:
    """The values that the table has for an option."""
    return [value for row in rows() if asked(text)[0] in row.names for value in row.values]


def hint(name: str, common: bool = False) -> str:
    """What to write for a peer's name that a spec does not know, in one sentence, or nothing. Everyday words are nobody's unless asked for."""
    found = [row for row in find(name) if common or not row.common]
    if not found:
        return ""
    row = found[0]
    owner = f"{row.library}'s `{name}`"
    rest = f"`gradflow explain {name}` says more"
    if len(found) > 1 and row.values and name in row.names:
        return f"{owner} is here a choice of definitions: {rest}"
    if row.missing:
        return f"{owner} is not here: {rest}"
    return f"{owner} is written `{row.write or row.line.splitlines()[-1]}` here; {rest}"


# ---- in words


def page(found: list[Row]) -> str:
    """What there is to say about rows, one behind the other."""
    end = "`scored` is `score(policy, samples)`, `samples` what `sample` drew, and `flow policy: loss -> ..` descends `loss`."
    return "\n\n".join([*map(paragraphs, found), *([end] if any(row.line for row in found) else [])])


def paragraphs(row: Row) -> str:
    parts = [f"{row.library} {row.version}: {row.title}{also(row)}\n\n  {row.says}"]
    if row.missing:
        parts.append(f"  Not in gradflow: {row.missing}")
    if row.definition:
        parts.append(f"  In gradflow: `{row.write}`; `gradflow explain {row.definition}` has its text")
    if row.line:
        parts.append("  In gradflow:\n\n" + _indented(row.line))
    if row.exact:
        parts.append(f"  As {row.library} has it, to the letter:\n\n" + _indented(row.exact))
    if row.differs:
        parts.append("  What differs:\n\n" + "\n".join(f"    {subject}: {text}" for subject, text in row.differs.items()))
    return "\n\n".join(parts)


def also(row: Row) -> str:
    others = [*row.names[1:], *row.values[1:]]
    return f" (also {', '.join(others)})" if others else ""


def _indented(lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines.splitlines())


def in_short(found: list[Row]) -> str:
    """For a page about gradflow's own name: which options of which library mean it."""
    return "\n".join(f"{row.library}: {row.title}. {' '.join([row.says, *row.differs.values()])}" for row in found)

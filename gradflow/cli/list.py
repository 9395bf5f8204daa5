"""Show what a spec can use: shipped definitions, built-in functions, models, data sets and other primitives.

KIND narrows the list: stages, objectives, functions, topologies, pipelines, claims, built-ins, models, data, calls, primitives; or one kind
of definition: estimator, projection, exchange, update. `gradflow explain NAME` says more about a name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gradflow.cli.entries import DEFINITIONS, FILTERS, Entry, entries
from gradflow.cli.terminal import FINE, UsageError, say, width

SINGLE = (*DEFINITIONS, "built-in", "model", "data", "tool", "call")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="what to list (default: all)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    found = list(entries(chosen(options.kinds)))
    if options.format == "json":
        import json

        print(json.dumps([entry.as_json() for entry in found], indent=2, ensure_ascii=False))
    else:
        print(table(found, width(sys.stdout, 160)))
        say(f"{len(found)} names; `gradflow explain NAME` says more about one")
    return FINE


def chosen(words: Sequence[str]) -> list[str]:
    """The kinds that the words mean. Raises UsageError for a word that is none."""
    kinds: list[str] = []
    for word in words:
        if word in FILTERS:
            kinds += FILTERS[word]
        elif word in SINGLE:
            kinds.append(word)
        else:
            from gradflow.language.diagnostics import nearest

            hint = nearest(word, [*FILTERS, *SINGLE]) or "kinds are " + ", ".join(FILTERS)
            raise UsageError(f"there is no kind `{word}`; {hint}")
    return kinds


def table(found: Sequence[Entry], columns: int) -> str:
    """One line a name under a heading for each kind: signature, what it is, and where, if there is room to say it."""
    lines: list[str] = []
    kind = ""
    wide = min(max((len(e.signature) for e in found), default=0), columns * 2 // 5)
    for entry in sorted(found, key=lambda e: SINGLE.index(e.kind)):
        if entry.kind != kind:
            kind = entry.kind
            lines += ["", kind] if lines else [kind]
        place = f"  [{entry.where}]" if columns >= 110 else ""
        room = columns - wide - len(place) - 4
        lines.append(f"  {cut(entry.signature, wide):<{wide}}  {cut(entry.doc, room):<{room}}{place}".rstrip())
    return "\n".join(lines)


def cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3].rstrip() + "..."

"""The LALR tables of `gflow.lark`, kept as JSON beside it: building them takes longer than checking a spec.

`python -m gradflow.grammar.tables` writes them anew after a change of the grammar; a test compares the stored hash.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

FOLDER = Path(__file__).parent
GRAMMAR = FOLDER / "gflow.lark"
TABLES = FOLDER / "gflow.tables.json"
OPTIONS: dict[str, Any] = {"parser": "lalr", "propagate_positions": True, "maybe_placeholders": True}


def digest() -> str:
    return hashlib.sha256(GRAMMAR.read_bytes()).hexdigest()


def build(postlex: Any, **more: Any) -> Lark:
    """The parser straight from the grammar."""
    return Lark(GRAMMAR.read_text(), postlex=postlex, **OPTIONS, **more)


def load(postlex: Any) -> Lark:
    """The parser from the stored tables; from the grammar where they are missing or of another grammar."""
    if TABLES.exists():
        stored = json.loads(TABLES.read_text(), object_hook=_restore)
        if stored["grammar"] == digest():
            instance = Lark.__new__(Lark)
            return instance._load({"data": stored["data"], "memo": stored["memo"]}, postlex=postlex)
    return build(postlex)


def _plain(value: Any) -> Any:
    """JSON without loss for what Lark serializes: sets, tuples and dictionaries with integer keys are marked."""
    if isinstance(value, dict):
        return {"dict": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(_plain(v) for v in value)}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _restore(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        (kind, content) = next(iter(value.items()))
        if kind == "dict":
            return {k: v for k, v in content}
        if kind == "tuple":
            return tuple(content)
        if kind == "set":
            return set(content)
    return value


def main() -> None:
    from gradflow.language.parser import Newlines

    data, memo = build(Newlines()).memo_serialize([TerminalDef, Rule])
    data["options"]["postlex"] = None
    text = json.dumps({"grammar": digest(), "data": _plain(data), "memo": _plain(memo)}, separators=(",", ":"))
    TABLES.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Wording that mistakes share. Instead of an unknown name: what another library means by it, else the nearest known one, as an edit where there is
little doubt.

Sites pass the result on to `mistake`: `mistake("E0404", span, .., **suggestion(span, name, known, "else this"))`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

from gradflow.language.diagnostics import Edit, Mistake, mistake, nearest
from gradflow.language.source import Span

CERTAIN = 0.75


def suggestion(span: Span, name: str, known: Iterable[str], otherwise: str = "") -> dict[str, Any]:
    """`fix` and `edits` of a diagnostic about `name`, which stands at `span`. `otherwise` is the fix where nothing known comes near.

    The edit is offered when exactly one known name is so close that it can hardly be anything but a slip.
    """
    from gradflow.peers.habits import habit
    from gradflow.peers.table import hint

    names = sorted({n for n in known if n and n[0] not in "#"})
    close = nearest(name, names)
    if told := habit(name) or hint(name) or ("" if close or otherwise.startswith("bind it") else hint(name, common=True)):
        return {"fix": told}
    if not close:
        return {"fix": otherwise}
    sure = [n for n in names if SequenceMatcher(None, n, name).ratio() >= CERTAIN]
    return {"fix": close, "edits": (Edit(span, sure[0]),) if len(sure) == 1 and f"`{sure[0]}`" in close else ()}


def head(span: Span, name: str) -> Span:
    """The name that a longer text begins with: of `lr: 0.1`, of `x[i]`."""
    return Span(span.file, span.offset, len(name), span.line, span.column)


def unmade(name: str, span: Span, error: ValueError) -> Mistake:
    """What a primitive says against its arguments; an error may bring its own reason and remedy."""
    why, fix = f"`{name}` cannot be made of these arguments", f"`gradflow explain {name}` says what it takes"
    return mistake("E0407", span, str(error), why=getattr(error, "why", why), fix=getattr(error, "fix", fix))


def listed(names: Iterable[str], most: int = 12) -> str:
    """`a`, `b`, `c`: for messages; what is beyond `most` is counted."""
    shown = [f"`{name}`" for name in names]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def unbuilt(span: Any, what: str, fix: str) -> Exception:
    """What the language has and this version cannot run."""
    return mistake("E0901", span, what, why="this is part of the language and parses, but this version of gradflow cannot run it", fix=fix)

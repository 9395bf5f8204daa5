"""Applies the machine-applicable edits that diagnostics carry: what `gradflow check --fix` does to a text."""

from __future__ import annotations

from collections.abc import Sequence

from gradflow.language.diagnostics import Edit


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits made.

    The same edit given twice is made once. Of edits that overlap only the first is made; the others wait for the next round, in which
    the checker sees the mended text.
    """
    kept: list[Edit] = []
    for edit in sorted(set(edits), key=lambda e: (e.span.offset, e.span.end, e.text)):
        if not kept or edit.span.offset >= kept[-1].span.end:
            kept.append(edit)
    for edit in reversed(kept):
        text = text[: edit.span.offset] + edit.text + text[edit.span.end :]
    return text

"""Messages for text that does not parse."""

from __future__ import annotations

from lark.exceptions import UnexpectedInput

from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Source


def describe(source: Source, error: UnexpectedInput) -> Diagnostic:
    offset = error.pos_in_stream or 0
    return Diagnostic("E0101", "this does not parse", source.span(offset, offset + 1))

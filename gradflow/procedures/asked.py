"""Calls that reports ask for: which of them values need, themselves or through what goes into other calls, and what these wait for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gradflow.graph.graph import Node
from gradflow.language.diagnostics import mistake
from gradflow.procedures.acts import WorldCall

Path = tuple[str, ...]


def read_by(call: WorldCall) -> Iterator[Path]:
    """(kind, *path) of what goes into a call."""
    if call.inputs is not None:
        yield from ((source["kind"], *source["path"]) for source in call.inputs.sources())
    yield from (text.path for text in call.texts.values())


def asked(sources: Iterable[Node], calls: Sequence[WorldCall]) -> tuple[tuple[WorldCall, ...], set[Path]]:
    """(the calls behind these sources, in their order; everything that is read, by the calls too). A call reads only what was called before it."""
    read: set[Path] = {(source["kind"], *source["path"]) for source in sources}
    found: list[WorldCall] = []
    for call in reversed(calls):
        if any(path[:2] == ("world", call.id) for path in read):
            if not isinstance(call, WorldCall):
                raise mistake(
                    "E0501", call.span, "a loop that acts has no place in a report", why="reports make single calls, and hold nothing",
                    fix="bind it, `x ~ f(..)`, in the pipeline or the `train` block, and report of `x`",
                )  # fmt: skip
            found.append(call)
            read.update(read_by(call))
    return tuple(reversed(found)), read


__all__ = ["asked"]

"""Which responses give the same final answer: texts as numbers, equal where what they say in the end is equal, right or wrong.

Axes: sample (a response), answer (the different answers that were given).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradflow.library.catalogue import FieldSpec, primitive


@primitive("call", texts="text", mark="text")
def identify(texts: Sequence[str], mark: str = "") -> Any:
    """The answer of each text, an index map [sample -> answer] numbered in the order in which answers first appear.

    `mark`: what stands before the final answer, `"####"` or `"Answer:"`; the answer goes from its last appearance to the end of the line, or, where
    the mark ends with an opening brace as `"\\\\boxed{"` does, to the brace that closes it. Without a mark a whole text is its answer. Blanks around
    it do not count. A text without the mark is an answer of its own kind: equal to those with the same text, and to no marked one.
    """
    import torch

    known: dict[tuple[bool, str], int] = {}
    return torch.tensor([known.setdefault(final_answer(text, mark), len(known)) for text in texts], dtype=torch.int64)


def final_answer(text: str, mark: str = "") -> tuple[bool, str]:
    """Whether the mark stands in a text, and its final answer: the text itself where it does not."""
    before, found, after = text.rpartition(mark) if mark else (text, "", "")
    if not found:
        return False, text.strip()
    if not mark.endswith("{"):
        return True, after.split("\n", 1)[0].strip()
    depth = 1
    for place, letter in enumerate(after):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return True, after[:place].strip()
    return False, text.strip()  # cut before the brace was closed


def identify_fields(texts: FieldSpec, **options: Any) -> FieldSpec:
    """An index map for each text; how many answers there are shows only when they are read."""
    return FieldSpec("int", texts.axes, target=("answer", None))


RESULT_TYPES: Mapping[str, Callable[..., FieldSpec]] = {"identify": identify_fields}

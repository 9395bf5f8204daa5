"""What a program holds of its schedule. No torch here.

`layout` and `sees` are regions over the sources input/FIELD, the fields of a record that a schedule may read (`FIELDS`). Results of `layout`:

    word, place   int [prompt, slot]   the rows that the model is called with, and the position of each token
    filled        bool [prompt, slot]  where a token stands
    piece         int [prompt, slot]   slots of one number are computed together
    slot          int [sample, step]   where the prediction of each token of a response is read
    known         bool [sample, step]  whether there is such a token

and of `sees`: visible, bool [prompt, slot, seen], whether a slot attends to another one. Axes: prompt (a row), place (of a prompt's tokens, padded),
sample (a response), token (its tokens, padded), slot and seen (places in a row), step (a token of a response).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gradflow.graph.graph import Region
from gradflow.graph.types import Axis, Type
from gradflow.language.source import NOWHERE, Span

PROMPT, SAMPLE, PLACE, TOKEN, SLOT, STEP = (Axis(name) for name in ("prompt", "sample", "place", "token", "slot", "step"))
FIELDS = {
    "prefix": Type("int", (PROMPT, PLACE), Axis("word")),
    "prefix_mask": Type("bool", (PROMPT, PLACE)),
    "response": Type("int", (SAMPLE, TOKEN), Axis("word")),
    "response_mask": Type("bool", (SAMPLE, TOKEN)),
    "group": Type("int", (SAMPLE,), PROMPT),
}
RESULTS = {
    "word": Type("int", (PROMPT, SLOT)),
    "place": Type("int", (PROMPT, SLOT)),
    "filled": Type("bool", (PROMPT, SLOT)),
    "piece": Type("int", (PROMPT, SLOT)),
    "slot": Type("int", (SAMPLE, STEP)),
    "known": Type("bool", (SAMPLE, STEP)),
}
HOOK = "attention"  # the method of a model whose attention can be told what it sees
SCORE = "score"


@dataclass(frozen=True)
class SchedulePlan:
    """`whole`: the map whose groups micro-batches hold whole (empty: any cut will do); `still`: why a model with dropout cannot be used (empty: it
    can); `idle`: (model, why) for those that are computed as without the schedule.
    """

    name: str
    whole: str
    still: str
    layout: Region
    sees: Region
    idle: tuple[tuple[str, str], ...] = ()
    span: Span = NOWHERE


def rewritten_schedule(plan: SchedulePlan | None, rewrite: Callable[[Region], Region]) -> SchedulePlan | None:
    return None if plan is None else replace(plan, layout=rewrite(plan.layout), sees=rewrite(plan.sees))


# ---- in an artifact


def document(plan: SchedulePlan | None, writer: Any) -> dict[str, Any] | None:
    if plan is None:
        return None
    return {
        "name": plan.name,
        "whole": plan.whole,
        "still": plan.still,
        "layout": writer.region(plan.layout),
        "sees": writer.region(plan.sees),
        "idle": plan.idle,
        "span": writer.span(plan.span),
    }


def undocumented(doc: Any, reader: Any) -> SchedulePlan | None:
    """The plan that a document describes. Raises ArtifactError."""
    if doc is None:
        return None
    from gradflow.plan.header import ArtifactError

    layout, sees = reader.outer(doc.layout, *RESULTS), reader.outer(doc.sees, "visible")
    for region in (layout, sees):
        for source in region.sources():
            if source["kind"] != "input" or source["path"][0] not in FIELDS:
                raise ArtifactError(f"the schedule reads `{'/'.join((source['kind'], *source['path']))}`, which no record has")
    return SchedulePlan(doc.name, doc.whole, doc.still, layout, sees, doc.idle, reader.span(doc.span))

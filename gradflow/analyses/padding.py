"""Padding that counts (W0123): a mean along the tokens of drawn responses that is not told which tokens there are.

Responses are padded to the longest. What a record or `score` says of a token is 0 behind the end, so a sum may pass; a mean divides by the width,
which is another one from rollout to rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradflow.analyses.origins import Origins
from gradflow.graph.graph import Node
from gradflow.language.source import Span
from gradflow.procedures.acts import Draw, WorldCall

AXES = ("token", "place")  # of `gradflow/library/rollouts.py`
FIELDS = ("logp_old", "entropy_old", "logits_old", "action", "ids")


def padding_counts(e: Any, x: Any, over: tuple[str, ...], span: Span) -> None:
    """Warns where a mean of `x` over these axes, without a condition, counts what is padded."""
    axis = next((name for name in over if name in AXES), None)
    if axis is None or not isinstance(x, Node) or not x.type.has(axis) or x.type.base == "bool":
        return

    if any(_padded(e, node, axis) for node in _arithmetic(x)):
        e.warn(
            "W0123", span, f"this mean over `{axis}` counts the padding behind the responses",
            why="they are as wide as the longest of the rollout, so the mean depends on the others",
            fix="say which tokens there are: `mean(.., where: mask)`",
        )  # fmt: skip


def _padded(e: Any, node: Node, axis: str) -> bool:
    held = node.op == "source" and node["kind"] in ("held", "world") and node.type.base != "bool"
    return node.type.has(axis) and any(_of_a_response(one, axis) for one in (_drawn_so_far(e).behind([node]) if held else [node]))


def _of_a_response(node: Node, axis: str) -> bool:
    if node.op == "model":
        return node.get("method") == "score" and node.type.has(axis)
    return node.op == "source" and node["kind"] in ("held", "world") and node["path"][-1].rpartition(".")[2] in FIELDS and node.type.has(axis)


def _drawn_so_far(e: Any) -> Origins:
    made = [action for name, actions in e.constants.items() if name.startswith("draw ") for action in actions]
    return Origins([*made, *(Draw("", one) if isinstance(one, WorldCall) else one for one in e.world or ())])


def _arithmetic(x: Node) -> Iterator[Node]:
    """What a value is made of, without the conditions that choose: a share of conditions is not a mean of numbers."""
    seen: set[int] = set()
    stack = [x]
    while stack:
        node = stack.pop()
        if node.id not in seen and node.type.base != "bool":
            seen.add(node.id)
            yield node
            stack.extend(node.inputs)

"""What acts, as `gradflow plan` tells it: the draws by the name that they fill, how often a loop may make them, what a function keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gradflow.procedures.acts import Draw, Hold, Loop, WorldCall


def draws_of(actions: Iterable[Any]) -> Iterator[tuple[str, WorldCall, int]]:
    """(name, call, how often at most) of every call with a model or a name of its own; calls inside of a function go by what it fills."""
    waiting: list[tuple[WorldCall, int]] = []
    for action in actions:
        if isinstance(action, Draw) and action.name:
            yield action.name, action.call, 1
        elif isinstance(action, Draw | Loop):
            waiting += _calls(action, 1)
        elif isinstance(action, Hold):
            names = [name.split("/")[1] for name, _ in action.region.results if name.startswith("held/")]
            yield from ((names[0] if names else action.flow[1:], call, times) for call, times in waiting)
            waiting = []


def _calls(act: Draw | Loop, times: int) -> list[tuple[WorldCall, int]]:
    if isinstance(act, Draw):
        return [(act.call, times)] if act.call.models or act.call.data else []
    return [found for one in act.actions for found in _calls(one, times * act.count)]


def keeping_of(actions: Iterable[Any], bytes_of: Callable[[Any], int | None]) -> list[dict[str, Any]]:
    """The states of functions that act."""
    held = [action for action in actions if isinstance(action, Hold)]
    return [{"name": f"{one.flow[1:]}: {plan.key}", "type": str(plan.type), "bytes": bytes_of(plan.type)} for one in held for plan in one.states]

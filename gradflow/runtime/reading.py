"""Where the sources of a region have their values: parameters, states, clocks, data, inputs, and what was drawn or taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradflow.graph.graph import Node
from gradflow.plan.program import Assign, Update
from gradflow.runtime.state import dtype_of

if TYPE_CHECKING:
    from gradflow.runtime.cuts import Cut
    from gradflow.runtime.executor import Run


def reader(run: Run, flow: str, cut: Cut | None, updating: bool) -> Callable[[Node], Any]:
    """Where the sources of a region have their values, for one evaluation."""

    def read(source: Node) -> Any:
        kind, path = source["kind"], source["path"]
        if kind in ("param", "state"):
            if run.looked and "/".join((kind, *path)) in run.looked:
                return run.looked["/".join((kind, *path))]
            return run.store.read(kind, path)
        if kind == "clock":
            return run.clocks.read(path, updating)
        if kind == "data":
            return run.ranks.fitted(run.batches.read(path), source.type)
        if kind == "input":
            return _input(run, source)
        if kind == "world":
            return run.world.records[path[0]][path[1]]
        value = run.held[path] if kind == "held" else run.taken[flow][path[0]]
        value = run.ranks.fitted(value, source.type)
        if cut is not None and source.type.has("sample"):
            axis = source.type.names.index("sample")
            return value.index_select(axis, cut[value.shape[axis]]) if value.shape[axis] in cut else value
        return value

    return read


def _input(run: Run, source: Node) -> Tensor:
    value = run.inputs[source["path"][0]]
    value = value(run.clocks.tick) if callable(value) else value
    return run.ranks.fitted(torch.as_tensor(value, dtype=dtype_of(source.type.base, run.store.real), device=run.device), source.type)


def samples_of(run: Run, action: Update | Assign) -> set[int]:
    """How many samples there are in what an action reads; none where it reads none."""
    read = reader(run, action.flow if isinstance(action, Update) else "", None, True)
    drawn = (one for one in run.regions.lowered(action.region, True, action.span).sources if one["kind"] in ("held", "rollout"))
    return {int(read(one).shape[one.type.names.index("sample")]) for one in drawn if one.type.has("sample")} - {0}

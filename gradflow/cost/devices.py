"""What a flow over devices splits, and what each process sends in an update, predicted: as a share of the gradient, and with a few processes.

A sum of the gradient over R ranks (`shard: none`) is a reduction and a distribution of it, each of which sends (R - 1) / R of its bytes. With
sharded parameters these are gathered for the forward pass and again for the backward pass, and the gradient is reduced to its owners: three times
(R - 1) / R. The loss and the counts that means divide by are single numbers, left out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradflow.plan.program import Program, Update

PASSES = {"none": 2, "parameters": 3}
SHOWN = 4  # processes that the plan takes as an example


def devices_of(update: Update, program: Program, width: int) -> Mapping[str, Any]:
    """`width`: bytes of a real number. `sent`, `kept`: bytes of one of `ranks` processes."""
    calls = {
        (node["model"], *(one.id for one in node.inputs)) for node in update.region.nodes() if node.op == "model_vjp" and node["wrt"] == "params"
    }
    gradient = sum(program.models[name].spec.size for name, *_ in calls) * width
    kept = sum(program.models[name].spec.size for name in update.models) * width
    for state in update.states:
        count = 1
        for axis in state.type.axes:
            count *= axis.size or 0
        kept += count * {"bool": 1, "int": 8}.get(state.type.base, width)
    return {
        "shard": update.spread, "ranks": SHOWN, "gradient": gradient, "sent": PASSES[update.spread] * gradient * (SHOWN - 1) // SHOWN,
        "kept": kept if update.spread == "none" else -(-kept // SHOWN),
    }  # fmt: skip


__all__ = ["devices_of"]

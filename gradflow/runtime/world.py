"""Calls that act on the world: primitives of the library that take live models and task sets (draw responses, measure accuracy).

A call's tensors are sources of the regions after it. Parameters of a primitive that only the runtime knows (`seed`, `tick`, `site`) are
passed where its signature has them, so that a draw depends on them and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradflow.graph.graph import Node
from gradflow.library.catalogue import catalogue
from gradflow.library.text_tasks import Tasks
from gradflow.plan.program import Program, WorldCall
from gradflow.runtime.batches import Batches
from gradflow.runtime.events import RunFailed
from gradflow.runtime.regions import failures
from gradflow.runtime.state import Store, dtype_of

Record = dict[str, Tensor]


class World:
    """Makes world calls with the parameters of the moment. `records` holds the last result of each call, by id and field."""

    def __init__(self, program: Program, store: Store, batches: Batches):
        self.program = program
        self.store = store
        self.batches = batches
        self.records: dict[str, Record] = {}
        self.tokens = 0  # drawn so far
        self._tasks: dict[tuple[str, str], Any] = {}

    def call(self, call: WorldCall, seed: int, tick: int) -> Record:
        """The declared fields of a call's result as tensors; texts stay with the primitive. Raises RunFailed."""
        if any(isinstance(value, Node) for value in call.options.values()):
            raise RunFailed(f"an option of `{call.primitive}` is computed from data, which cannot run yet", call.span)
        primitive = catalogue()[call.primitive]
        hidden = {"seed": seed, "tick": tick, "site": (call.id,)}
        known = primitive.signature.parameters
        arguments = {name: value for name, value in hidden.items() if name in known} | dict(call.options)
        with failures(call.span, call.primitive), torch.no_grad():
            arguments |= {name: self.model(model, call) for name, model in call.models.items()}
            arguments |= {name: self.tasks(data, split) for name, (data, split) in call.data.items()}
            result = self.within(list(call.models.values()), lambda: primitive(**arguments))
        found = self._tensors(call, {"value": result} if call.scalar else result)
        if "mask" in found:
            self.tokens += int(found["mask"].sum())
        self.records[call.id] = found
        return found

    def within(self, models: list[str], use: Callable[[], Any]) -> Any:
        """Carries out `use` while the parameters of these models are there for it."""
        if not models:
            return use()
        runner, rest = self.store.runners[models[0]], models[1:]
        return runner.within(lambda: self.within(rest, use)) if hasattr(runner, "within") else self.within(rest, use)

    def model(self, name: str, call: WorldCall) -> torch.nn.Module:
        """The module whose parameters are the live ones."""
        plan = self.program.models[name]
        if plan.lifted:
            axes = ", ".join(f"`{axis.name}`" for axis in plan.lifted)
            raise RunFailed(f"`{call.primitive}` takes one model; there is a `{name}` for each {axes}", call.span)
        return self.store.runners[name].module

    def tasks(self, name: str, split: str) -> Any:
        key = (name, split)
        if key not in self._tasks:
            spec = self.program.data[name].spec
            self._tasks[key] = Tasks.of(spec, split) if spec.verify is not None else self.batches.loaded(name)[split]
        return self._tasks[key]

    def _tensors(self, call: WorldCall, result: Mapping[str, Any]) -> Record:
        found = {}
        for name, spec in call.fields.items():
            if spec.base == "text" or name not in result:
                continue
            base = "int" if spec.target is not None else spec.base
            value = torch.as_tensor(result[name], dtype=dtype_of(base, self.store.real), device=self.store.device)
            found[name] = value.detach()
        return found

"""Calls that act on the world: primitives of the library that take live models and task sets (draw responses, measure accuracy).

A call's tensors are sources of the regions after it. Parameters of a primitive that only the runtime knows (`seed`, `tick`, `site`) are
passed where its signature has them, so that a draw depends on them and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradflow.library.catalogue import catalogue
from gradflow.library.text_tasks import Tasks
from gradflow.plan.program import Program
from gradflow.procedures.acts import WorldCall
from gradflow.procedures.domains import fitting
from gradflow.runtime.batches import Batches
from gradflow.runtime.events import RunFailed
from gradflow.runtime.regions import failures
from gradflow.runtime.state import Store, dtype_of

Record = dict[str, Tensor]
NOTHING: Mapping[str, Tensor] = {}


def types_of(call: WorldCall) -> dict[str, dict[str, tuple[tuple[str, ...], str | None]]]:
    """Axes and target of every field of the records that a call takes, by parameter."""
    found: dict[str, dict[str, tuple[tuple[str, ...], str | None]]] = {}
    tensors = [(name, node.type.names, node.type.target) for name, node in (call.inputs.results if call.inputs is not None else ())]
    for name, axes, target in [*tensors, *((name, text.axes, None) for name, text in call.texts.items())]:
        parameter, slash, field = name.partition("/")
        if slash:
            found.setdefault(parameter, {})[field] = (axes, target.name if target is not None else None)
    return found


class World:
    """Makes world calls with the parameters of the moment. `records` holds the last result of each call, by id and field."""

    def __init__(self, program: Program, store: Store, batches: Batches):
        self.program = program
        self.store = store
        self.batches = batches
        self.records: dict[str, Record] = {}
        self.texts: dict[tuple[str, ...], list[str]] = {}  # by the path of their source
        self.visits: dict[str, int] = {}  # how often calls inside of loops were made
        self.tokens = 0  # drawn so far
        self._tasks: dict[tuple[str, str], Any] = {}

    def call(self, call: WorldCall, seed: int, tick: int, given: Mapping[str, Tensor] = NOTHING, passes: tuple[int, ...] = ()) -> Record:
        """The declared fields of a call's result as tensors; its texts are in `texts`. `given`: what was computed for it; `passes`: of the loops
        around it. Raises RunFailed.
        """
        primitive = catalogue()[call.primitive]
        hidden: dict[str, Any] = {"seed": seed, "tick": tick, "site": (call.id, *passes), "types": types_of(call)}
        if passes:
            hidden["visit"] = self.visits[call.id] = self.visits.get(call.id, -1) + 1
        known = primitive.signature.parameters
        arguments = {name: value for name, value in hidden.items() if name in known} | dict(call.options)
        with failures(call.span, call.primitive), torch.no_grad():
            arguments |= {name: self.model(model, call) for name, model in call.models.items()}
            arguments |= {name: self.tasks(data, split) for name, (data, split) in call.data.items()}
            self._give(call.primitive, arguments, {**given, **{name: self.texts[text.path] for name, text in call.texts.items()}})
            result = self.within(list(call.models.values()), lambda: primitive(**arguments))
        found = self._tensors(call, {"value": result} if call.scalar else result)
        if call.models and "mask" in found:
            self.tokens += int(found["mask"].sum())
        self.records[call.id] = found
        return found

    def _give(self, primitive: str, arguments: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Adds what was computed: options, records field by field, rows of tasks. Raises ValueError where an option is outside of its domain."""
        for name, value in given.items():
            parameter, _, field = name.partition("/")
            if isinstance(arguments.get(parameter), Tasks):
                arguments[parameter] = replace(arguments[parameter], rows=value.cpu().numpy())
            elif field:
                arguments.setdefault(parameter, {})[field] = value
            else:
                arguments[parameter] = fitting(primitive, parameter, value.item() if isinstance(value, Tensor) and not value.ndim else value)

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
            if name not in result:
                continue
            if spec.base == "text":
                self.texts["world", call.id, name] = list(result[name])
                continue
            base = "int" if spec.target is not None else spec.base
            value = torch.as_tensor(result[name], dtype=dtype_of(base, self.store.real), device=self.store.device)
            found[name] = value.detach()
        return found

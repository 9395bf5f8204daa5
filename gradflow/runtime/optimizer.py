"""An update of the library as a torch.optim.Optimizer.

The update is elaborated for the shapes at hand and lowered by the torch backend; the parameter and its states are overwritten in place.
Where no stage couples leaves (an elementwise rule, a projection leaf by leaf) each parameter is stepped by itself; where one does (a norm
over everything) the parameters of a group are laid side by side for the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradflow.backends.torch import lower
from gradflow.embedding import defaults_of, find_definition, update_stage
from gradflow.graph.graph import Region
from gradflow.graph.operations import ELEMENTWISE
from gradflow.graph.types import Axis
from gradflow.passes.expressions import Elaborator
from gradflow.passes.stages import Leaf
from gradflow.passes.standalone import step_region

TRANSPARENT = {"leaf", "pack", "expand", "rename", "const", "source", "where", "choose", *ELEMENTWISE}
STEP = "step"


class GradflowOptimizer(torch.optim.Optimizer):
    """`name` is an update of the library (or `file.gflow:name`); options are its parameters, per group as usual."""

    def __init__(self, name: str, params: Any, **options: Any):
        self.update = name
        self._plans: dict[Any, _Plan] = {}
        self._first: dict[str, Any] = {}
        self._moving: set[str] = {"lr"}
        definition, _ = find_definition(name, ("update",))
        known = defaults_of(name)
        for key in options:
            if key not in {param.name for param in definition.params}:
                update_stage(name, options, Elaborator(), ())
        super().__init__(params, {**known, **options})
        names = {param.name for param in definition.params}
        self.options = tuple(key for key in self.defaults if key in names)
        update_stage(name, {key: self.defaults[key] for key in self.options}, Elaborator(), ())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Parameters without a gradient, and their states, stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if p.grad.is_sparse:
                raise RuntimeError(f"`{self.update}` does not work on sparse gradients")
        values = self._values(group)
        alone = self._plan(values, [params[0]])
        if alone.coupled and len(params) > 1:
            self._plan(values, params).step(params, self.state, values)
            return
        for p in params:
            self._plan(values, [p]).step([p], self.state, values)

    def _values(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group's options as plain numbers; one that has changed since the first step is read anew each time from then on."""
        values = {key: float(group[key]) if isinstance(group[key], Tensor) else group[key] for key in self.options}
        for key, value in values.items():
            first = self._first.setdefault(f"{id(group)}.{key}", value)
            if value != first and isinstance(value, float):
                self._moving.add(key)
        return values

    def _plan(self, values: dict[str, Any], params: list[Tensor]) -> _Plan:
        moving = tuple(sorted(key for key in self._moving if isinstance(values.get(key), float)))
        fixed = tuple((key, value) for key, value in values.items() if key not in moving)
        key = (tuple((tuple(p.shape), p.dtype, p.device) for p in params), fixed, moving)
        if key not in self._plans:
            self._plans[key] = _Plan(self.update, values, moving, params)
        return self._plans[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plans": {}}


class _Plan:
    """The lowered step for tensors of certain shapes."""

    def __init__(self, name: str, values: dict[str, Any], moving: tuple[str, ...], params: list[Tensor]):
        self.moving = moving
        e = Elaborator()
        stage = update_stage(name, values, e, moving)
        leaves = tuple(Leaf(f"p{i}", tuple(Axis(f"dim{j}", n) for j, n in enumerate(p.shape))) for i, p in enumerate(params))
        region, flow = step_region(e, stage, leaves)
        region = Region(tuple((name, node) for name, node in region.results if not name.startswith("report/")))
        self.coupled = couples(region)
        self.slots = {slot.key: slot for slot in flow.states.values() if slot.write is not None}
        self.lowered = lower(region, device=params[0].device, dtype=params[0].dtype, donate=True)
        self.axis = sum(leaf.size for leaf in leaves)

    def step(self, params: list[Tensor], state: Any, values: dict[str, Any]) -> None:
        first = state[params[0]]
        for p in params:
            state[p].setdefault(STEP, torch.tensor(0.0))
            state[p][STEP] += 1
        buffers = {key: self._buffer(key, params, first) for key in self.slots}
        whole = len(params) == 1 and params[0].is_contiguous()
        flat = params[0].view(-1) if whole else torch.cat([p.reshape(-1) for p in params])
        grads = [p.grad.reshape(-1) for p in params if p.grad is not None]
        t = int(first[STEP].item())
        inputs: dict[tuple[str, ...], Any] = {
            ("param", "leaf"): flat, ("input", "grad"): grads[0] if len(grads) == 1 else torch.cat(grads),
            ("clock", "t", "step"): t, ("clock", "t_end", "step"): t, ("clock", "tick"): t - 1, ("clock", "seed"): 0,
            **{("clock", "option", key): float(values[key]) for key in self.moving},
        }  # fmt: skip
        inputs |= {("state", "step", key): buffer for key, buffer in buffers.items()}
        found = self.lowered(inputs)
        self._write(params, flat, found["param/leaf"], whole)
        for key, buffer in buffers.items():
            new = found[f"state/step/{key}"]
            if new.data_ptr() != buffer.data_ptr():
                buffer.copy_(new)

    def _write(self, params: list[Tensor], flat: Tensor, new: Tensor, whole: bool) -> None:
        if whole:
            if new.data_ptr() != flat.data_ptr():
                flat.copy_(new)
            return
        for p, piece in zip(params, new.split([p.numel() for p in params]), strict=True):
            p.copy_(piece.view(p.shape))

    def _buffer(self, key: str, params: list[Tensor], first: dict[str, Any]) -> Tensor:
        """The state, kept with the first of its parameters; a loaded one is taken over as it is."""
        slot = self.slots[key]
        assert slot.write is not None
        type_ = slot.write.type
        if key not in first:
            shape = [axis.size for axis in type_.axes]
            kind = torch.int64 if type_.base == "int" else params[0].dtype
            first[key] = torch.full(shape, slot.init or 0, dtype=kind, device=params[0].device)  # type: ignore[arg-type]
        if type_.base == "int" and first[key].dtype != torch.int64:
            first[key] = first[key].to(torch.int64)
        return first[key]


def couples(region: Region) -> bool:
    """Whether some operation works across the flat axis of all parameters at once."""
    return any(node.op not in TRANSPARENT and any(below.type.has("param") for below in node.inputs) for node in region.nodes())

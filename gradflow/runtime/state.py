"""What a run keeps between updates: parameters and states as tensors at fixed addresses, and the models' runners.

Every model has one flat tensor [lifted.., param]; every state of a flow one tensor of its plan's axes. They are made once and written in
place ever after, so that modules can be views of them and regions may write into them directly.

Axes: lifted (`node`, where every node owns a copy), param (all coordinates of a model).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradflow.graph.types import Type
from gradflow.placement.devices import Shards
from gradflow.plan.program import ModelPlan, Program, Update
from gradflow.procedures.acts import Hold
from gradflow.runtime import random
from gradflow.runtime.events import RunFailed
from gradflow.runtime.models import ModelRunner

PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def dtype_of(base: str, real: torch.dtype) -> torch.dtype:
    return {"real": real, "int": torch.int64, "bool": torch.bool}[base]


def model_seed(seed: int, name: str) -> int:
    """What a model's initial values are drawn from: different for each name, below 2^63."""
    low, high = random.key(seed, "model", name)
    return (low | high << 32) & (2**63 - 1)


class Store:
    """Parameters by model, states by (flow, key). `start(plan)` evaluates the region of a free tensor's start."""

    def __init__(self, device: torch.device, real: torch.dtype):
        self.device = device
        self.real = real
        self.params: dict[str, Tensor] = {}
        self.states: dict[tuple[str, str], Tensor] = {}
        self.runners: dict[str, ModelRunner] = {}
        self.initial: dict[str, Tensor] = {}
        self.shards: Mapping[str, Shards] = {}  # of models whose parameters are spread over the ranks

    # ---- the start

    def build(self, program: Program, seed: int, start: Any) -> None:
        """Makes every model. Copies are made of what the others start from, before anything is attached."""
        self._make([plan for plan in program.models.values() if not plan.born], seed, start)

    def bear(self, program: Program, phase: int, seed: int, start: Any) -> None:
        """Makes the models that are declared before a phase, behind others; their copies start where those are now."""
        self._make([plan for plan in program.models.values() if plan.born and plan.born == phase and plan.name not in self.params], seed, start)

    def _make(self, plans: list[ModelPlan], seed: int, start: Any) -> None:
        for plan in plans:
            self.initial[plan.name] = self._first(plan, seed, start)
        for plan in plans:
            own = self.initial.pop(plan.name).expand(*(_size(axis.size, plan) for axis in plan.lifted), -1)
            if plan.name in self.shards:
                from gradflow.runtime.sharded import ShardedRunner

                self.runners[plan.name] = ShardedRunner(self.runners[plan.name], self.shards[plan.name])
                own = self.runners[plan.name].flat()
            flat = own.contiguous().clone()
            self.params[plan.name] = flat
            runner = self.runners.get(plan.name)
            if runner is not None and not plan.lifted:
                runner.attach(flat)
        self.initial.clear()

    def _first(self, plan: ModelPlan, seed: int, start: Any) -> Tensor:
        """Where the model starts: [param], or [lifted.., param] where a free tensor's copies start at different points."""
        if plan.copy_of is not None:
            first = self.initial[plan.copy_of] if plan.copy_of in self.initial else self.params[plan.copy_of].clone()
            if plan.free:
                return first
            module = copied(self.runners[plan.copy_of].module)
            if plan.head is None:
                self.runners[plan.name] = self._runner(plan, module)
                return self.runners[plan.name].flat() if plan.stored else first
            assert plan.spec.dress is not None
            self.runners[plan.name] = self._runner(plan, plan.spec.dress(module, model_seed(seed, plan.name)))
            return self.runners[plan.name].flat()
        if plan.start is not None:
            return torch.as_tensor(start(plan), dtype=self.real, device=self.device)
        try:
            module = plan.spec.build(model_seed(seed, plan.name))
        except (OSError, ImportError, ValueError, RuntimeError) as error:
            raise RunFailed(f"the model `{plan.name}` cannot be made: {error}", plan.span) from error
        self.runners[plan.name] = self._runner(plan, module)
        return self.runners[plan.name].flat()

    def _runner(self, plan: ModelPlan, module: nn.Module) -> ModelRunner:
        """The module ready to be called, its leaves kept as planned."""
        if not plan.stored:
            return ModelRunner(plan.spec, module, self.device, self.real)
        from gradflow.formats.storage import store

        return ModelRunner(plan.spec, module, self.device, self.real, names=store(module, plan.stored, self.real))

    def add_states(self, update: Update | Hold) -> None:
        """Buffers for the states of a flow, or of a function that acts; those that are there already go on from where they are."""
        for plan in update.states:
            key = (update.flow, plan.key)
            if key in self.states:
                continue
            if any(axis.size is None for axis in plan.type.axes):
                name = next(axis.name for axis in plan.type.axes if axis.size is None)
                raise RunFailed(f"the state `{plan.key}` has the axis `{name}`, whose size is not known before the run", update.span, plan.stage)
            shape = tuple(axis.size or 0 for axis in plan.type.axes)
            self.states[key] = torch.full(shape, plan.init, dtype=dtype_of(plan.type.base, self.real), device=self.device)

    # ---- reading and writing

    def read(self, kind: str, path: tuple[str, ...]) -> Tensor:
        return self.params[path[0]] if kind == "param" else self.states[path[0], path[1]]

    def place(self, name: str) -> Tensor:
        """The tensor that a result is written to: "param/MODEL" or "state/FLOW/KEY"."""
        kind, *path = name.split("/", 2)
        return self.read(kind, tuple(path))

    def write(self, results: Mapping[str, Tensor]) -> None:
        """Takes over results; one that is its own buffer was written in place already, one that shares another's memory is copied first."""
        memory = {buffer.untyped_storage().data_ptr() for buffer in (*self.params.values(), *self.states.values())}
        found = []
        for name, value in results.items():
            buffer = self.place(name)
            if value.data_ptr() == buffer.data_ptr() and value.shape == buffer.shape:
                continue
            found.append((buffer, value.clone() if value.untyped_storage().data_ptr() in memory else value))
        for buffer, value in found:
            buffer.copy_(value)

    def leaves(self, plan: ModelPlan) -> dict[str, Tensor]:
        """A model's tensors by name: views of its parameters, [lifted.., *shape] each."""
        pieces = self.params[plan.name].split([leaf.size for leaf in plan.spec.leaves], dim=-1)
        return {leaf.name: piece.unflatten(-1, leaf.shape or (1,)) for leaf, piece in zip(plan.spec.leaves, pieces, strict=True)}


def copied(module: nn.Module) -> nn.Module:
    """A module of its own with equal tensors. Each is cloned here: a deep copy would copy the memory behind it, which a view shares with others
    and a tensor without values (of a plan) does not have."""
    tensors = [*module.parameters(), *module.buffers()]
    memo = {id(x): nn.Parameter(x.detach().clone(), x.requires_grad) if isinstance(x, nn.Parameter) else x.clone() for x in tensors}
    return copy.deepcopy(module, memo)


def _size(size: int | None, plan: ModelPlan) -> int:
    if size is None:
        raise RunFailed(f"how many copies of `{plan.name}` there are is not known before the run", plan.span)
    return size


def as_tensor(value: Any, type_: Type, real: torch.dtype, device: torch.device) -> Tensor:
    """What a backend returns as a tensor of the run's types; the same object where it is one already."""
    return torch.as_tensor(value, dtype=dtype_of(type_.base, real), device=device)

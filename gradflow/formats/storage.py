"""A torch module whose tensors are kept in a format: whole numbers packed into bytes, reals as parameters, each tensor made when it is asked for.

The module's own code does not know: `module.weight` decodes. One tensor at a time is opened, so a forward pass needs memory for the largest
one beside what is stored. Numbers are packed as their distance from the low end of their domain, 8 // bits to a byte.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gradflow.backends.torch import lower
from gradflow.plan.program import LeafStorage, bits_of


def pack(values: Tensor, low: int, bits: int) -> Tensor:
    """Whole numbers as bytes: uint8 [ceil(count * bits / 8)]."""
    flat = (values.reshape(-1) - low).to(torch.uint8)
    per = 8 // bits
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % per)).reshape(-1, per)
    packed = torch.zeros(flat.shape[0], dtype=torch.uint8, device=values.device)
    for place in range(per):
        packed |= flat[:, place] << (place * bits)
    return packed


def unpack(packed: Tensor, low: int, bits: int, count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """The inverse: [count]."""
    per, mask = 8 // bits, (1 << bits) - 1
    rows = torch.empty(packed.shape[0], per, dtype=dtype, device=packed.device)
    for place in range(per):
        one = packed if not place else packed >> (place * bits)
        rows[:, place] = one if place == per - 1 else one & mask
    return rows.reshape(-1)[:count].add_(low)


class Stored(nn.Module):
    """The parametrization of one tensor: decodes what is stored; made by encoding the tensor that it replaces."""

    def __init__(self, plan: LeafStorage, real: torch.dtype):
        super().__init__()
        self.plan, self.real = plan, real
        self.encode = lower(plan.encode, dtype=real)
        self.decode = lower(plan.decode, dtype=real)
        self.pull = lower(plan.pull, dtype=real)
        self.whole = {name: bounds for name, (_, bounds) in plan.states.items() if bounds is not None}

    def right_inverse(self, value: Tensor) -> Any:
        """Keeps the whole numbers as buffers; what is trained becomes the module's parameters."""
        blocks = value.detach().reshape([axis.size or 0 for axis in self.plan.axes]).to(self.real)
        found = self.encode({("input", "value"): blocks})
        for name, (low, high) in self.whole.items():
            self.register_buffer(name, pack(found[name].clamp(low, high), low, bits_of(low, high)))
        trained = tuple(found[name].clone() for name, _ in self.plan.trained)
        return trained[0] if len(trained) == 1 else trained

    def forward(self, *trained: Tensor) -> Tensor:
        return _Decode.apply(self, *trained).reshape(self.plan.shape)

    def inputs(self, trained: tuple[Tensor, ...]) -> dict[tuple[str, ...], Tensor]:
        given: dict[tuple[str, ...], Tensor] = {("input", name): value for (name, _), value in zip(self.plan.trained, trained, strict=True)}
        for name, (low, high) in self.whole.items():
            shape = [axis.size or 0 for axis in self.plan.states[name][0]]
            given["input", name] = unpack(getattr(self, name), low, bits_of(low, high), math.prod(shape), self.real).reshape(shape)
        return given


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stored: Stored, *trained: Tensor) -> Tensor:
        ctx.stored = stored
        ctx.save_for_backward(*trained)
        value: Tensor = stored.decode(stored.inputs(trained))["value"]
        return value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        stored: Stored = ctx.stored
        found = stored.pull({**stored.inputs(ctx.saved_tensors), ("input", "cotangent"): cotangents[0].contiguous()})
        return (None, *(found[name] for name, _ in stored.plan.trained))


def store(module: nn.Module, plans: tuple[LeafStorage, ...], real: torch.dtype) -> dict[str, str]:
    """Keeps the module's tensors as planned, in place. Returns where each trained state now is: NAME.state -> name of the module's parameter.

    A tensor that several parts share (a head tied to an embedding) is stored once and decoded wherever it is read.
    """
    names: dict[str, str] = {}
    for plan in plans:
        path, _, attribute = plan.leaf.rpartition(".")
        owner = module.get_submodule(path)
        tensor = getattr(owner, attribute)
        others = [(part, name) for part in module.modules() for name, one in part._parameters.items() if one is tensor and part is not owner]
        parametrize.register_parametrization(owner, attribute, Stored(plan, real), unsafe=True)
        kept = owner.parametrizations[attribute]  # type: ignore[index]
        for part, name in others:
            parametrize.register_parametrization(part, name, _Nothing(), unsafe=True)
            part.parametrizations[name] = kept  # type: ignore[index, operator]
        prefix = f"{path}.parametrizations" if path else "parametrizations"
        for place, (state, _) in enumerate(plan.trained):
            names[f"{plan.leaf}.{state}"] = f"{prefix}.{attribute}.original{place if len(plan.trained) > 1 else ''}"
    return names


class _Nothing(nn.Module):
    """Holds the place of a shared tensor until the one that it shares takes it."""

    def forward(self, value: Tensor) -> Tensor:
        return value

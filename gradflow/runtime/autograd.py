"""Lowered regions under torch's autograd: the loss from one region, its derivatives from another, so that no tape is kept in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Lowered = Callable[[Mapping[tuple[str, ...], Any]], dict[str, Tensor]]


class _Regions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, forward: Lowered, backward: Lowered, wanted: tuple[str, ...], names: tuple[str, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        inputs: dict[tuple[str, ...], Any] = {("input", name): tensor for name, tensor in zip(names, tensors, strict=True)}
        found = forward(inputs)
        ctx.backward_region, ctx.wanted, ctx.names = backward, wanted, names
        ctx.save_for_backward(*tensors)
        loss, *reports = found.values()
        ctx.mark_non_differentiable(*reports)
        return (loss, *reports)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        inputs: dict[tuple[str, ...], Any] = {("input", name): tensor for name, tensor in zip(ctx.names, ctx.saved_tensors, strict=True)}
        slopes = ctx.backward_region(inputs)
        pairs = zip(ctx.names, ctx.saved_tensors, strict=True)
        found = [slopes[name].to(tensor.dtype) * cotangents[0] if name in ctx.wanted else None for name, tensor in pairs]
        return (None, None, None, None, *found)


def apply_regions(forward: Lowered, backward: Lowered, wanted: tuple[str, ...], inputs: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(loss, reports in the order of the region); the gradient flows to the inputs in `wanted`."""
    loss, *reports = _Regions.apply(forward, backward, wanted, tuple(inputs), *inputs.values())
    return loss, [report.detach() for report in reports]

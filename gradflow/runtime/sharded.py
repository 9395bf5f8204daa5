"""A model whose parameters are spread over the ranks of a run, by FSDP2 (`fully_shard`) of PyTorch.

The module is wrapped block by block, where it has a list of blocks, and the rest as one. FSDP2 gathers the parameters of a block when it is about to
be needed, frees them afterwards, and reduces its gradients to the ranks that own them; what it keeps between calls are views of this rank's flat
tensor, where its own layout allows, so that updates in place are seen without a copy. The flat tensor of a rank is its shard of every leaf (rows
of the first axis), side by side. Gradients are sums over the ranks: FSDP2's division by their number is turned off.

Axes: param (the coordinates that this rank keeps), batch and outputs as in `models.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from gradflow.backends.distributed import connected
from gradflow.placement.devices import Shards
from gradflow.runtime.models import Arguments, Axes, Chosen, ModelRunner, _Tape


class _Root(nn.Module):
    """What FSDP2 takes for the whole: its forward is any use of the model."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, use: Callable[[], Any]) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing here writes into what a block returns
            return use()


class ShardedRunner(ModelRunner):
    """Stands for a runner whose module is taken over. All ranks make the same calls in the same order."""

    def __init__(self, whole: ModelRunner, layout: Shards):
        super().__init__(whole.spec, whole.module, whole.device, whole.dtype, whole.micro, whole.names)
        self.layout = layout
        self.mesh = init_device_mesh(self.device.type, (layout.ranks,))
        self._point: Tensor | None = None
        self._summed = False
        named = dict(self.module.named_parameters())
        for leaf in self.spec.leaves:
            named[self.names[leaf.name]].requires_grad_(leaf.trained)
        for block in blocks_of(self.module):
            fully_shard(block, mesh=self.mesh)
        self.root = _Root(self.module)
        fully_shard(self.root, mesh=self.mesh, reshard_after_forward=True)
        self.groups = [part for part in self.root.modules() if isinstance(part, FSDPModule)]
        for group in self.groups:
            group.set_gradient_divide_factor(1.0)
            group.set_force_sum_reduction_for_comms(True)  # gloo has no other

    # ---- parameters

    def shards(self) -> list[DTensor]:
        """This rank's parts, leaf by leaf."""
        for group in self.groups:
            group.reshard()
        named = dict(self.module.named_parameters())
        return [named[self.names[leaf.name]] for leaf in self.spec.leaves]  # type: ignore[misc]

    def flat(self) -> Tensor:
        return torch.cat([one.to_local().detach().reshape(-1) for one in self.shards()])

    def attach(self, flat: Tensor) -> None:
        state = {}
        for leaf, one, view in zip(self.spec.leaves, self.shards(), self.views(flat), strict=True):
            made = DTensor.from_local(view, self.mesh, [Shard(0)], run_check=False, shape=one.shape, stride=one.stride())
            state[self.names[leaf.name]] = nn.Parameter(made, requires_grad=leaf.trained)
        self.module.load_state_dict(state, strict=False, assign=True)
        self._attached = flat

    def views(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.detach().split(self.layout.counts(self.layout.rank), dim=-1)
        return [piece.unflatten(-1, (-1, *leaf.shape[1:])) if piece.shape[-1] else piece.reshape(0, *leaf.shape[1:])
                for leaf, piece in zip(self.spec.leaves, pieces, strict=True)]  # fmt: skip

    @contextmanager
    def _at(self, params: Tensor) -> Iterator[None]:
        """The module has its part of these parameters, for one call or one backward pass."""
        assert self._attached is not None
        kept = None if self._is_attached(params) else self._attached.clone()
        if kept is not None:
            self._attached.copy_(params)
        self._hand_over()
        try:
            yield
        finally:
            if kept is not None:
                self._attached.copy_(kept)
                self._hand_over()

    @torch.no_grad()
    def _hand_over(self) -> None:
        """FSDP2 pads shards that are smaller than others in a copy of its own; these are brought up to date."""
        assert self._attached is not None
        for one, view in zip(self.shards(), self.views(self._attached), strict=True):
            local = one.to_local()
            if local.data_ptr() != view.data_ptr():
                local.copy_(view)

    # ---- calls

    def within(self, use: Callable[[], Any]) -> Any:
        """Uses the module in another way than by a call of the graph, parameters as they are."""
        assert self._attached is not None
        with self._at(self._attached):
            return self.root(use)

    def vjp(self, *given: Any, summed: bool = False, **more: Any) -> Tensor:
        self._summed = summed
        return super().vjp(*given, **more)

    def _leaves(self, params: Tensor, track: bool) -> tuple[list[Tensor], list[Tensor | None]]:
        self._point = params
        return [], []

    def _swapped(self, module: nn.Module, prefix: str, leaves: list[Tensor], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        assert self._point is not None
        with self._at(self._point):
            return self.root(lambda: module(*arguments, **options))

    def _record(self, method: str, params: Tensor, args: Arguments, options: Mapping[str, Any], params_axes: Axes, wrt: Axes) -> _Tape:
        if set(wrt) != {"params"}:
            raise ValueError(f"the gradient of `{self.spec.name}` by what it is given cannot be had where parameters are sharded: `shard: none`")
        return super()._record(method, params, args, options, params_axes, wrt)

    def _pull(
        self, tape: _Tape, cotangents: Mapping[str, Tensor], wrt: str, params: Tensor, args: Arguments, last: bool, summed: bool = False
    ) -> Tensor:
        live = [(tape.outputs[name], value) for name, value in cotangents.items() if tape.outputs[name].requires_grad]
        if live:
            with self._at(params):
                torch.autograd.backward([y for y, _ in live], [value.to(y.dtype).expand_as(y) for y, value in live], retain_graph=not last)
        flat = torch.zeros_like(params)
        for one, place in zip(self.shards(), self.views(flat), strict=True):
            if one.grad is not None:
                place.copy_(one.grad.to_local())  # type: ignore[attr-defined]
                one.grad = None
        return flat if self._summed else flat.div_(self.layout.ranks)  # else every rank has made the same of all rows

    def _pieces(self, args: Arguments, params_axes: Axes) -> Iterator[tuple[Arguments, Chosen]]:
        """As many on every rank: each piece is a call that all of them make."""
        if (self.micro or 1) == 1:
            yield from super()._pieces(args, params_axes)
            return
        wanted, count = self.micro, len(list(super()._pieces(args, params_axes)))
        self.micro = int(connected().reduce("min", torch.tensor(count, device=self.device)))
        try:
            yield from list(super()._pieces(args, params_axes))
        finally:
            self.micro = wanted


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The members of lists of parts that have parts themselves: the layers of a language model."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return [block for part in lists for block in part if any(True for _ in block.children())]


__all__ = ["ShardedRunner", "blocks_of"]

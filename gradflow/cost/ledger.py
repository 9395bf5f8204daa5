"""A ledger of tensors: what is alive, how much it was at most and who held it, and what every operation works and moves.

It stands between torch and the tensors as a dispatch mode, on top of fake tensors (then nothing is computed) or of real ones. An operation is
one pass: it reads its operands and writes its results. The operations of a fused kernel are one pass together, over the kernel's own operands:
of what it overwrites, the old value counts only where it is read. Scratch of a block's length stays in the cache and counts nothing.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gradflow.cost.figures import Step

aten = torch.ops.aten
FREE = {aten.empty, aten.empty_like, aten.new_empty, aten.detach, aten.lift_fresh, aten._unsafe_view, aten.alias, aten.empty_strided}
PASSING = {
    aten.max,
    aten.amax,
    aten.select,
    aten.slice,
    aten.view,
    aten.index,
    aten.index_select,
    aten.detach,
    aten._to_copy,
    aten.clone,
    aten.expand,
}  # what is known of a value's entries (`hint`: the largest) is known of the result's


class Ledger(TorchDispatchMode):
    """`label` names what is made now; `live` and `peak` are bytes; `at_peak` is what was live then, by label; `steps` are the passes so far."""

    def __init__(self, alignment: int = 64) -> None:
        super().__init__()
        self.alignment = alignment
        self.label = "temporaries"
        self.place = ""
        self.answer = True  # to what asks for a truth value
        self.live = 0
        self.by_label: Counter[str] = Counter()
        self.peak = self.local_peak = 0
        self.at_peak: dict[str, int] = {}
        self.peak_place = ""
        self.steps: list[Step] = []
        self._known: dict[int, weakref.ref[Any]] = {}
        self._kernel: _Kernel | None = None

    # ---- what is alive

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor's memory until nothing refers to it any more."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self.alignment) * self.alignment
        label = self.label

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.live -= size
            self.by_label[label] -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.by_label[label] += size
        self.local_peak = max(self.local_peak, self.live)
        if self.live > self.peak:
            self.peak, self.peak_place = self.live, self.place
            self.at_peak = {name: held for name, held in self.by_label.items() if held}

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    # ---- what is done

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and not _has_value(args[0]):
            return args[0].__dict__.get("hint", {torch.bool: self.answer}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1))
        if func._overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            args = (args[0], [one for index in args[1] for one in _all_entries(index)], *args[2:])
        elif func is aten.nonzero.default and not _has_value(args[0]):
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        hint = 0 if func._overloadpacket is aten.argmax else getattr(args[0], "hint", None) if args and func._overloadpacket in PASSING else None
        for tensor in made:
            self.hold(tensor)
            if hint is not None:
                tensor.__dict__["hint"] = hint
        self._count(func, args, kwargs, result, made)
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
        packet = func._overloadpacket
        if packet in FREE or _is_view(func):
            return
        elementwise = float(sum(tensor.numel() for tensor in made[:1])) if torch.Tag.pointwise in func.tags else 0.0
        written = _written(func, args, kwargs)
        if not made and not written:
            return  # a question about a tensor, its device say
        if self._kernel is not None:
            self._kernel.add(elementwise, _operands(args, kwargs, written), written)
            return
        flops = float(flop_registry[packet](*args, **kwargs, out_val=result)) if packet in flop_registry else 0.0
        moved = sum(map(_size, {id(t): t for t in _operands(args, kwargs, written)}.values())) + sum(map(_size, {id(t): t for t in made}.values()))
        self.steps.append(Step(flops, elementwise, float(moved)))

    @contextmanager
    def kernel(self, flat: Sequence[Tensor], scale: float) -> Iterator[None]:
        """The operations inside are one pass over `flat`, of which they see one block; `scale` blocks make the whole."""
        self._kernel = _Kernel(flat)
        try:
            yield
        finally:
            self.steps.append(self._kernel.step(scale))
            self._kernel = None


class _Kernel:
    """Counts which of a kernel's operands are read before they are written, and which are written."""

    def __init__(self, flat: Sequence[Tensor]):
        self.sizes = {tensor.untyped_storage()._cdata: float(tensor.numel() * tensor.element_size()) for tensor in flat}
        self.read: set[int] = set()
        self.written: set[int] = set()
        self.elementwise = 0.0

    def add(self, elementwise: float, operands: list[Tensor], written: list[Tensor]) -> None:
        self.elementwise += elementwise
        self.read |= {tensor.untyped_storage()._cdata for tensor in operands} - self.written
        self.written |= {tensor.untyped_storage()._cdata for tensor in written}

    def step(self, scale: float) -> Step:
        moved = sum(size * ((key in self.read) + (key in self.written)) for key, size in self.sizes.items())
        return Step(0.0, self.elementwise * scale, moved)


def _all_entries(index: Tensor | None) -> list[Tensor | None]:
    """A mask whose entries nobody knows as the places of all of them: the most that it can select."""
    if index is None or index.dtype != torch.bool or _has_value(index):
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]


def _has_value(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def _is_view(func: Any) -> bool:
    found = [one.alias_info for one in func._schema.returns]
    return any(info is not None and not info.is_write for info in found)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    names = [argument.name for argument in func._schema.arguments if argument.alias_info is not None and argument.alias_info.is_write]
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args)} | dict(kwargs)
    return [leaf for name in names for leaf in tree_leaves(given.get(name)) if isinstance(leaf, Tensor)]


def _operands(args: Any, kwargs: Any, written: list[Tensor]) -> list[Tensor]:
    """What is read: everything given but what `out=` names. An operand that is overwritten in place is read too."""
    out = kwargs.get("out")
    skipped = {id(leaf) for leaf in tree_leaves(out)} if out is not None else set()
    first = [leaf for leaf in tree_leaves((args, {k: x for k, x in kwargs.items() if k != "out"})) if isinstance(leaf, Tensor)]
    return [tensor for tensor in first if id(tensor) not in skipped or any(tensor is one for one in written)]


def _size(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())

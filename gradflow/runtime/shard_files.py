"""Checkpoints of what is spread over the ranks, through torch.distributed.checkpoint: every rank writes its part, any number of ranks reads them.

    checkpoints/TICK/shards/*.safetensors    parameters and states of sharded models, leaf by leaf: NAME//DIM//PLACE

NAME is that of the whole tensor, DIM the dimension of its coordinates, PLACE the number of the leaf. Leaves are DTensors, so that torch finds
which files hold what a rank wants, however many ranks there were. The files are safetensors with their offsets in the header: nothing is pickled.

Axes: [.., param]: coordinates are brought to the end, where a leaf's own axes take their place.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gradflow.placement.devices import Shards

FOLDER = "shards"
FILE = 1 << 28  # bytes of whole tensors in one file
KEY = re.compile(r"(.+)//([0-9]{1,2})//([0-9]{5})")


def write_shards(folder: Path, tensors: Mapping[str, tuple[Tensor, int]], layout: Shards, device: torch.device) -> None:
    """`tensors`: of this rank, each with the dimension of its coordinates. All ranks write into one folder. Raises OSError."""
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (layout.ranks,))
    found = {}
    for name, (value, dim) in tensors.items():
        moved = value.detach().movedim(dim, -1)
        before = tuple(moved.shape[:-1])
        for place, (leaf, piece) in enumerate(_leaves(moved, layout)):
            found[f"{name}//{dim}//{place:05d}"] = _spread(piece.contiguous(), mesh, len(before), (*before, *leaf))
    try:
        save(found, storage_writer=HuggingFaceStorageWriter(str(folder), _files_of(found), save_distributed=True))
    except CheckpointException as error:
        raise OSError(", ".join(str(one[0] if isinstance(one, tuple) else one) for one in error.failures.values())) from error


def _files_of(found: Mapping[str, Tensor]) -> dict[str, int]:
    """Which file each goes into: one is put together in memory before it is written, so that none is large."""
    files, filled = {}, 0
    for key, value in found.items():
        files[key] = 1 + filled // FILE
        filled += value.numel() * value.element_size()
    return files


def _spread(piece: Tensor, mesh: Any, dim: int, shape: tuple[int, ...]) -> Tensor:
    """A rank's piece as a part of the whole."""
    from torch.distributed.tensor import DTensor, Shard

    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    made: Tensor = DTensor.from_local(piece, mesh, [Shard(dim)], run_check=False, shape=torch.Size(shape), stride=stride)
    return made


def _leaves(moved: Tensor, layout: Shards) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """[.., own] leaf by leaf: the whole leaf's shape, and the rank's piece [.., rows, *rest]."""
    for leaf, piece in zip(layout.leaves, moved.split(layout.counts(layout.rank), dim=-1), strict=True):
        rows = piece.shape[-1] // max(math.prod(leaf[1:]), 1)
        yield leaf, piece.reshape(*moved.shape[:-1], rows, *leaf[1:])


def names_of(folder: Path) -> set[str]:
    """Which tensors are there in parts."""
    return {match[1] for key in _sizes(folder) if (match := KEY.fullmatch(key))}


def _sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    return {key: tuple(found.size) for key, found in metadata.state_dict_metadata.items() if hasattr(found, "size")}


def read_shards(folder: Path, buffers: Mapping[str, Tensor], layout: Shards | None, device: torch.device) -> None:
    """Writes into the buffers what stands there: whole ones where there is no layout, else this rank's parts. Raises ValueError."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load
    from torch.distributed.device_mesh import init_device_mesh

    sizes = _sizes(folder)
    wanted: dict[str, Tensor] = {}
    landed: list[tuple[Tensor, list[Tensor]]] = []
    mesh = init_device_mesh(device.type, (layout.ranks,)) if layout is not None else None
    for name in names_of(folder):
        keys = sorted(key for key in sizes if key.startswith(f"{name}//"))
        dim = int(keys[0].split("//")[-2])
        buffer = buffers[name]
        moved = buffer.movedim(dim, -1)
        before = tuple(moved.shape[:-1])
        leaves = [sizes[key][len(before) :] for key in keys]
        if any(sizes[key][: len(before)] != before for key in keys):
            raise ValueError(f"`{name}` has another shape there")
        if layout is None:
            own: list[tuple[int, ...]] = [*leaves]
        elif tuple(leaves) == layout.leaves:
            own = [(count // max(math.prod(leaf[1:]), 1), *leaf[1:]) for leaf, count in zip(leaves, layout.counts(layout.rank), strict=True)]
        else:
            raise ValueError(f"the model of `{name}` has other leaves there")
        if sum(map(math.prod, own)) != moved.shape[-1]:
            raise ValueError(f"`{name}` has another number of coordinates there")
        pieces = []
        for key, leaf, shape in zip(keys, leaves, own, strict=True):
            piece = torch.empty((*before, *shape), dtype=buffer.dtype, device=buffer.device)
            pieces.append(piece)
            wanted[key] = piece if mesh is None else _spread(piece, mesh, len(before), (*before, *leaf))
        landed.append((moved, pieces))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is")  # one process: that is the intent
        load(wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=mesh is None)
    for moved, pieces in landed:
        with torch.no_grad():
            moved.copy_(torch.cat([piece.reshape(*moved.shape[:-1], -1) for piece in pieces], dim=-1))


__all__ = ["FOLDER", "names_of", "read_shards", "write_shards"]

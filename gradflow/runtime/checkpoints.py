"""Checkpoints: parameters and states as safetensors, counters as msgpack, in a folder that is there whole or not at all.

Everything is written into a folder with a temporary name and flushed to the disk, the counters last; then the folder gets its name. A folder
`checkpoints/TICK` without `.tmp` is therefore complete. TICK is the number of units done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
from safetensors.torch import load_file, save_file
from torch import Tensor

VERSION = 1
TENSORS = "tensors.safetensors"
STATE = "state.msgpack"


def write_checkpoint(run: Path, tick: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Writes `run`/checkpoints/TICK and returns it; one that is there already is replaced. Raises OSError."""
    folder = run / "checkpoints" / f"{tick:08d}"
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    own = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(own, temporary / TENSORS)
    flush(temporary / TENSORS)
    write_flushed(temporary / STATE, msgpack.packb({"version": VERSION, "tick": tick, **state}))
    flush(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    flush(folder.parent)
    return folder


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, counters). Raises OSError, or ValueError for what is no checkpoint of this version."""
    content = (folder / STATE).read_bytes()
    try:
        state = msgpack.unpackb(content, max_map_len=10_000, max_array_len=10_000, max_str_len=1 << 20)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"{folder / STATE} is damaged: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{folder} was written in another version of the format")
    return load_file(folder / TENSORS), state


def write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """The file with this content, whole or not at all: temporary name, flush, rename."""
    temporary = path.with_name(path.name + ".tmp")
    write_flushed(temporary, content)
    temporary.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Has the operating system put a file or a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

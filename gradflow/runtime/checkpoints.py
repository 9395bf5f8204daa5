"""Checkpoints: tensors as safetensors, counters as msgpack, and a manifest of hashes, in a folder that is there whole or not at all.

    checkpoints/TICK/tensors.safetensors    parameters, states, what is held, random state
    checkpoints/TICK/state.msgpack          clocks, the place in the program, what was learnt so far
    checkpoints/TICK/shards/*.safetensors   where parameters are sharded: these and their states, every rank's part (`shard_files.py`)
    checkpoints/TICK/manifest.json          written last: the format's version, and size and SHA-256 of the others

Everything is written into a folder with a temporary name and flushed to the disk, the manifest last; then the folder gets its name. TICK is
the number of units done. The last `KEEP` are kept. Reading checks sizes and hashes before anything is decoded, so that a damaged checkpoint
is refused and never half read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gradflow.runtime.files import discard, flush, write_flushed
from gradflow.runtime.shard_files import FOLDER as SHARDS

VERSION = 2
FOLDER = "checkpoints"
TENSORS = "tensors.safetensors"
STATE = "state.msgpack"
MANIFEST = "manifest.json"
PART = re.compile(rf"{SHARDS}/[A-Za-z0-9_-]+\.safetensors")
KEEP = 2
LARGEST_MANIFEST = 1 << 16
LARGEST_STATE = 1 << 28
BLOCK = 1 << 20
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; `str(error)` is a sentence: which, and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """One that was read in full and found whole."""

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def shards(self) -> Path | None:
        """Where the parts of what was spread over ranks are, if anything was."""
        return self.path / SHARDS if (self.path / SHARDS).is_dir() else None


# ---- writing


def begin_checkpoint(run: Path, tick: int) -> Path:
    """The folder, empty, in which one is put together, and where ranks put their parts before the rest is written. Raises OSError."""
    temporary = place_of(run, tick).with_suffix(".tmp")
    discard(temporary)
    temporary.mkdir(parents=True)
    return temporary


def write_checkpoint(
    run: Path, tick: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP, temporary: Path | None = None
) -> Path:
    """Writes `run`/checkpoints/TICK and returns it; one that is there already is replaced, older and later ones go. Raises OSError."""
    folder = place_of(run, tick)
    temporary = temporary or begin_checkpoint(run, tick)
    try:
        hashes = {f"{SHARDS}/{path.name}": _hashed(path) for path in sorted((temporary / SHARDS).glob("*"))}
        if hashes:
            flush(temporary / SHARDS)
        hashes |= {TENSORS: _written(temporary / TENSORS, _safetensors(tensors)), STATE: _written(temporary / STATE, iter([packed(tick, state)]))}
        write_flushed(temporary / MANIFEST, (json.dumps({"version": VERSION, "tick": tick, "files": hashes}, indent=2) + "\n").encode())
        flush(temporary)
        _move(temporary, folder)
    except OSError:
        discard(temporary)
        raise
    flush(folder.parent)
    flush(run)
    _prune(folder, keep)
    return folder


def place_of(run: Path, tick: int) -> Path:
    return run / FOLDER / f"{tick:08d}"


def packed(tick: int, state: Mapping[str, Any]) -> bytes:
    content: bytes = msgpack.packb({"version": VERSION, "tick": tick, **state})
    return content


def _written(path: Path, pieces: Iterator[bytes | memoryview]) -> dict[str, Any]:
    """Writes a file; its size and hash."""
    digest, size = hashlib.sha256(), 0

    def seen() -> Iterator[bytes | memoryview]:
        nonlocal size
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            yield piece

    write_flushed(path, seen())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _hashed(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file piece by piece: the memory that writing takes is that of one tensor, not of all of them. Wide types first, which aligns all."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, place = {}, 0
    for name in order:
        value = tensors[name]
        size = value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        if tensors[name].numel():
            yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _move(temporary: Path, folder: Path) -> None:
    """The temporary folder gets its name; a folder that has it already steps aside first."""
    old = folder.with_suffix(".old")
    if folder.exists():
        discard(old)
        os.replace(folder, old)
    os.replace(temporary, folder)
    discard(old)


def _prune(newest: Path, keep: int) -> None:
    """Keeps the last ones up to the newest. Later ones belong to a course that was given up when the run went on from before them."""
    found = checkpoints_of(newest.parents[1])
    later = [path for path in found if int(path.name) > int(newest.name)]
    earlier = [path for path in found if int(path.name) <= int(newest.name)]
    for path in [*later, *earlier[: len(earlier) - keep]]:
        discard(path)


# ---- reading


def checkpoints_of(run: Path) -> list[Path]:
    """Checkpoints of a run folder, oldest first. Names alone are looked at."""
    try:
        names = [name for name in os.listdir(run / FOLDER) if re.fullmatch(r"[0-9]{8,18}", name)]
    except OSError:
        return []
    return [run / FOLDER / name for name in sorted(names, key=int)]


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """(the newest whole one, why each newer one was refused)."""
    refused: list[str] = []
    for path in reversed(checkpoints_of(run)):
        try:
            tensors, state = read_checkpoint(path)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return Checkpoint(path, tensors, state), refused
    return None, refused


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, counters). Raises CheckpointError for what is damaged, incomplete, or of another version."""
    try:
        _check_files(folder, _manifest(folder))
        state = _state(folder)
        return load_file(folder / TENSORS), state
    except OSError as error:
        what = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        name = Path(error.filename).name if error.filename else "a file of it"
        raise CheckpointError(f"the checkpoint {folder} cannot be used: {name} {what}") from None
    except SafetensorError as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {TENSORS}: {' '.join(str(error).split())}") from None


def _manifest(folder: Path) -> dict[str, Any]:
    with open(folder / MANIFEST, "rb") as file:
        content = file.read(LARGEST_MANIFEST + 1)
    try:
        manifest = json.loads(content) if len(content) <= LARGEST_MANIFEST else None
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"the checkpoint {folder} is damaged: {MANIFEST} cannot be read")
    if manifest.get("version") != VERSION:
        raise CheckpointError(f"the checkpoint {folder} was written in another version of the format; this gradflow reads version {VERSION}")
    files = manifest.get("files")
    known = isinstance(files, dict) and all(isinstance(files.get(name), dict) for name in (TENSORS, STATE, *files))
    known = known and all(name in (TENSORS, STATE) or PART.fullmatch(name) for name in files or ())
    if not known or manifest.get("tick") != int(folder.name):
        raise CheckpointError(f"the checkpoint {folder} is damaged: {MANIFEST} does not say what is in it")
    return manifest


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Size first, then the hash, block by block."""
    written = {f"{SHARDS}/{path.name}" for path in (folder / SHARDS).glob("*")}
    if unknown := written - set(manifest["files"]):
        raise CheckpointError(f"the checkpoint {folder} is damaged: nothing is said of {min(unknown)}")
    for name in manifest["files"]:
        said = manifest["files"][name]
        with open(folder / name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != said.get("bytes"):
                raise CheckpointError(f"the checkpoint {folder} is damaged: {name} has {size} bytes, {said.get('bytes')} were written")
            digest = hashlib.sha256()
            while block := file.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != said.get("sha256"):
            raise CheckpointError(f"the checkpoint {folder} is damaged: {name} does not match its hash")


def _state(folder: Path) -> dict[str, Any]:
    with open(folder / STATE, "rb") as file:
        if os.fstat(file.fileno()).st_size > LARGEST_STATE:
            raise CheckpointError(f"the checkpoint {folder} cannot be used: {STATE} is larger than {LARGEST_STATE >> 20} MiB")
        content = file.read()
    try:
        state = msgpack.unpackb(content, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {STATE}: {' '.join(str(error).split())}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION or state.get("tick") != int(folder.name):
        raise CheckpointError(f"the checkpoint {folder} is damaged: {STATE} belongs to another one")
    return state

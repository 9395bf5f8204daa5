"""The compiled artifact, `.gfp`: a program on disk that loading checks in full and never executes.

A header (`header.py`: magic, format version, length, SHA-256) and behind it one msgpack document, `schema.ProgramDoc`. The same program gives the
same bytes. Reading goes from the cheap to the dear: size, header, hash, then msgpack with every limit set (containers are counted too, because
an empty map of one byte costs 64 in memory), then the schema, then what numbers refer to.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
from pydantic import ValidationError

from gradflow.files import write_atomically
from gradflow.plan.header import FORMAT, HEADER, MAGIC, ArtifactError, is_artifact
from gradflow.plan.schema import ProgramDoc

if TYPE_CHECKING:
    from gradflow.plan.program import Program

LARGEST = 16 * 2**20
MOST_CONTAINERS = 500_000
LONGEST_TEXT = 4 * 2**20


def encode(program: Program) -> bytes:
    """The program as bytes. Raises ArtifactError for what an artifact cannot hold (a model bound from Python)."""
    from gradflow.plan.writing import document

    try:
        payload = msgpack.packb(document(program), use_bin_type=True, strict_types=False)
    except (OverflowError, UnicodeEncodeError, ValueError, TypeError) as error:
        raise ArtifactError(f"`{program.name}` cannot be written: {error}") from None
    if len(payload) > LARGEST:
        raise ArtifactError(f"`{program.name}` takes {len(payload) / 2**20:.0f} MiB, and an artifact at most {LARGEST // 2**20}")
    return MAGIC + HEADER.pack(FORMAT, len(payload), hashlib.sha256(payload).digest()) + payload


def decode(data: bytes, name: str = "the artifact") -> Program:
    """The program that bytes hold. Raises ArtifactError, which names what it was read from."""
    from gradflow.plan.reading import program_of

    try:
        return program_of(_validated(_unpacked(_payload(data))))
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from None


def save(program: Program, path: Path) -> None:
    """Writes an artifact in one step: a reader finds the old file or the new one, also after a crash."""
    try:
        write_atomically(path, encode(program))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from None


def load(path: Path) -> Program:
    """Reads an artifact. Raises ArtifactError."""
    try:
        if path.stat().st_size > LARGEST + len(MAGIC) + HEADER.size:
            raise ArtifactError(f"{path}: it is larger than {LARGEST // 2**20} MiB")
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    return decode(data, str(path))


# ---- from bytes to a document


def _payload(data: bytes) -> bytes:
    """What stands behind the header, its hash checked."""
    if not data.startswith(MAGIC):
        raise ArtifactError("this is no compiled artifact")
    start = len(MAGIC) + HEADER.size
    if len(data) < start:
        raise ArtifactError("it ends inside its header")
    version, length, digest = HEADER.unpack_from(data, len(MAGIC))
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise ArtifactError(f"it was written in format {version}, by {age} gradflow; this one reads format {FORMAT}: compile the spec again")
    if length > LARGEST:
        raise ArtifactError(f"it is larger than {LARGEST // 2**20} MiB")
    if len(data) - start != length:
        raise ArtifactError("it is cut off" if len(data) - start < length else "something follows its end")
    payload = data[start:]
    if hashlib.sha256(payload).digest() != digest:
        raise ArtifactError("its content does not match its hash: it was damaged or changed")
    return payload


class _Budget:
    """Counts containers while they are made, and refuses duplicate keys."""

    def __init__(self) -> None:
        self.left = MOST_CONTAINERS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ArtifactError(f"it has more than {MOST_CONTAINERS} lists and tables")

    def table(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.spend()
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ArtifactError("a table in it has a key twice")
        return found

    def row(self, items: Any) -> tuple[Any, ...]:
        self.spend()
        return tuple(items)


def _unpacked(payload: bytes) -> Any:
    budget = _Budget()
    unpacker = msgpack.Unpacker(
        raw=False, use_list=False, strict_map_key=True, object_pairs_hook=budget.table, list_hook=budget.row, max_buffer_size=LARGEST,
        max_str_len=LONGEST_TEXT, max_bin_len=0, max_array_len=MOST_CONTAINERS, max_map_len=MOST_CONTAINERS, max_ext_len=0,
    )  # fmt: skip
    try:
        unpacker.feed(payload)
        value = unpacker.unpack()
    except ArtifactError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"its content cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None
    if unpacker.tell() != len(payload):
        raise ArtifactError("something follows the end of its content")
    return value


def _validated(value: Any) -> ProgramDoc:
    try:
        return ProgramDoc.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the content"
        raise ArtifactError(f"`{place}` is not as it should be: {first['msg']}") from None
    except RecursionError:
        raise ArtifactError("its content is nested too deeply") from None


__all__ = ["ArtifactError", "decode", "encode", "is_artifact", "load", "save"]

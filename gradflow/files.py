"""Files that readers find whole or not at all: the old content or the new one, never half of it.

Every byte goes through `os.write`, every name through `os.replace`: a disk that is full or fails is heard of where it happens, as an OSError
that names the file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write_all(handle: int, content: bytes | memoryview, path: Path) -> None:
    """All of the content, in as many writes as it takes."""
    view = memoryview(content).cast("B") if not isinstance(content, bytes) else memoryview(content)
    while len(view):
        try:
            done = os.write(handle, view)
        except OSError as error:
            raise named(error, path) from None
        view = view[done:]


def named(error: OSError, path: Path) -> OSError:
    """The error with the file's name, which the system leaves out where it knows only a handle."""
    return error if error.filename is not None else OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def flush(path: Path) -> None:
    """Has the operating system put a file or a folder on the disk. A folder that cannot be opened needs no such thing, or allows none."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        raise named(error, path) from None
    finally:
        os.close(handle)


def write_flushed(path: Path, pieces: bytes | Iterable[bytes | memoryview]) -> None:
    """A file of these bytes that is on the disk when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            write_all(handle, piece, path)
        try:
            os.fsync(handle)
        except OSError as error:
            raise named(error, path) from None
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """The file with this content, whole or not at all, also after a crash: temporary name, flush, rename. One that is there keeps its permissions."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_flushed(temporary, content)
        if path.exists():
            os.chmod(temporary, path.stat().st_mode)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """The same for text, as UTF-8 and with its line ends as they are."""
    write_atomically(path, text.encode())

"""Writing to disk so that nothing is ever half there: files that appear whole or not at all, lines appended whole, and one writer a folder.

Every byte goes through `os.write`, every name through `os.replace`: a disk that is full or fails is heard of where it happens, as an OSError
that names the file. No torch here.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 10  # tries for a lock: whoever only looks whether a run lives holds it for an instant
FIXES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room: your share of that disk is used up",
    errno.EIO: "the disk or the network behind it fails: write to another one",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.ENOTDIR: "choose another folder: something that is no folder stands in its way",
    errno.EEXIST: "choose another folder: something that is no folder stands in its way",
}


def trouble(error: OSError, doing: str = "written") -> str:
    """A file error as a sentence: which file, what could not be done, why, and what helps."""
    place = f"`{error.filename}`" if error.filename else "a file"
    why = error.strerror or str(error) or type(error).__name__
    fix = FIXES.get(error.errno or 0, "")
    return f"{place} cannot be {doing}: {why[:1].lower()}{why[1:]}{'; ' + fix if fix else ''}"


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
    """Has the operating system put a file or a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
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
    """The file with this content, whole or not at all: temporary name, flush, rename."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_flushed(temporary, content)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def discard(folder: Path) -> None:
    """Removes a folder with all that is in it, if it is there and can be."""
    shutil.rmtree(folder, ignore_errors=True)


class Appender:
    """A file that grows by whole lines: what a failed write left of its line is taken back."""

    def __init__(self, path: Path):
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, line: bytes) -> None:
        before = os.fstat(self._handle).st_size
        try:
            write_all(self._handle, line, self.path)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        os.close(self._handle)


def _locked(handle: int) -> bool:
    """Takes the lock of an open file; False where another process has it. A file system without locks refuses nobody."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class Lock:
    """Held on a file by one process, for as long as it lives: the system takes it from a process that is killed."""

    def __init__(self, path: Path):
        self.path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """Whether it could be had, or is; True where the system has no locks."""
        if self._handle is not None:
            return True
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        for _ in range(PATIENCE):
            if _locked(handle):
                self._handle = handle
                return True
            time.sleep(0.05)
        os.close(handle)
        return False

    def give_back(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: Any) -> None:
        self.give_back()


def is_locked(path: Path) -> bool | None:
    """Whether a living process holds the lock; None where that cannot be told."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False

"""Writing a run to disk so that nothing is ever half there: beside whole files (`gradflow/files.py`) lines appended whole, one writer a folder, and
what a failure is called. No torch here.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradflow.files import flush, write_all, write_atomically, write_flushed

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Appender", "Lock", "discard", "flush", "is_locked", "trouble", "write_all", "write_atomically", "write_flushed"]
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

"""How much memory this process has, and had at its most, as far as the system and torch say."""

from __future__ import annotations

import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def resident(key: str = "VmRSS") -> int | None:
    """Bytes in memory now (VmRSS), or at the most so far (VmHWM); None where the system does not say."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def keep_freed() -> bool:
    """Has this process keep the memory that tensors give back, for the next ones: fresh pages from the system cost more than a pass over them.

    For a process that trains models of moderate size and nothing else: what is kept is not given to others, and gaps between tensors may remain.
    Says whether the C library took it (glibc does).
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return bool(library.mallopt(M_MMAP_MAX, 0)) and bool(library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def free() -> int | None:
    """Bytes of the machine's memory that can be had; None where the system does not say."""
    try:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def on_device() -> tuple[int, int] | None:
    """Bytes of tensors on an accelerator, now and at the most so far; None where torch is not loaded or uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def peak(before: int | None) -> int | None:
    """The most that a run took: of an accelerator's memory, else what the process grew by over `before`. None where the system does not say."""
    device, most = on_device(), resident("VmHWM")
    if device is not None:
        return device[1]
    return None if before is None or most is None else max(most - before, 0)

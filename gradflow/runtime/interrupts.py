"""SIGINT (Ctrl-C) and SIGTERM: the first asks the run to end after the unit at hand, with a checkpoint if it has a folder; the second ends it.

The second is a KeyboardInterrupt wherever the run is, between two operations of the device; from then on a signal has the system's own effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stoppable(Protocol):
    def stop(self) -> None: ...


class Interrupts:
    """Which signal came first; 0: none."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def code(self) -> int:
        """The exit code that stands for it."""
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def stopping_on_interrupt(run: Stoppable) -> Iterator[Interrupts]:
    """Inside, the first signal calls `run.stop()`. Does nothing outside of the main thread, where Python takes no signals."""
    seen = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: Any) -> None:
        if not seen.number:
            seen.number = number
            run.stop()
            return
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

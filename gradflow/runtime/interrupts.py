"""Ctrl-C: the first one asks the run to end after the unit at hand (with a checkpoint, if it has a folder), the second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradflow.runtime.executor import Run


@contextmanager
def stopping_on_interrupt(run: Run) -> Iterator[None]:
    """Inside, the first SIGINT calls `run.stop()`. Does nothing outside of the main thread, where Python takes no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        run.stop()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

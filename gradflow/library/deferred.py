"""numpy, and the random numbers made with it, imported when they are first used: signatures are read at start-up, where importing numpy would
be half of the time that checking a spec takes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


class Deferred:
    """Stands for a module; any attribute imports it."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import numpy

    from gradflow.runtime import random
else:
    numpy = Deferred("numpy")
    random = Deferred("gradflow.runtime.random")

__all__ = ["numpy", "random"]

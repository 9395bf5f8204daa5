"""Regions as the run calls them: lowered once by the chosen backend, fed from wherever their sources live, with tensors as results.

A backend's own errors become `RunFailed` with the place in the spec that they carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gradflow.graph.graph import Node, Region
from gradflow.language.source import NOWHERE, Span
from gradflow.runtime.events import RunFailed
from gradflow.runtime.state import as_tensor

BACKENDS = ("torch", "reference")
CAUSED = (ArithmeticError, ImportError, MemoryError, OSError, RuntimeError, ValueError)

Key = tuple[str, ...]


def backend_module(name: str) -> ModuleType:
    """The backend of this name. Raises ValueError for one that cannot run a program on one machine."""
    if name not in BACKENDS:
        raise ValueError(f"there is no backend `{name}`; there are: {', '.join(BACKENDS)}")
    import importlib

    return importlib.import_module(f"gradflow.backends.{name}")


def sources_of(region: Region) -> list[Node]:
    """Every source that a region or the body of one of its loops reads, each once."""
    found: dict[Key, Node] = {}
    queue = [region]
    while queue:
        for node in queue.pop().nodes():
            if node.op == "source":
                found.setdefault((node["kind"], *node["path"]), node)
            if node.body is not None:
                queue.append(node.body)
    return list(found.values())


@dataclass(frozen=True)
class Lowered:
    """A region ready to be called."""

    region: Region
    sources: tuple[Node, ...]
    call: Callable[[Mapping[Key, Any]], Mapping[str, Any]]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(source["kind"] for source in self.sources)


class Regions:
    """Lowers on first use. `models` are the runners by name, shared by all regions."""

    def __init__(self, backend: str, models: Mapping[str, Any], device: torch.device, real: torch.dtype, compile_: bool, optimize: bool = True):
        self.backend = backend
        self.models = models
        self.device = device
        self.real = real
        self.compile = compile_
        self.optimize = optimize
        self._lowered: dict[int, Lowered] = {}

    def lowered(self, region: Region, donate: bool = False, span: Span = NOWHERE) -> Lowered:
        known = self._lowered.get(id(region))
        if known is None:
            donate = donate and self.backend == "torch"
            with failures(span, region.name):
                known = Lowered(region, tuple(sources_of(region)), self._lower(region, donate))
            self._lowered[id(region)] = known
        return known

    def _lower(self, region: Region, donate: bool) -> Callable[[Mapping[Key, Any]], Mapping[str, Any]]:
        module = backend_module(self.backend)
        if self.backend == "reference":
            return module.lower(region, self.models)
        return module.lower(region, self.models, device=self.device, dtype=self.real, donate=donate, compile=self.compile, optimize=self.optimize)

    def run(self, lowered: Lowered, read: Callable[[Node], Any], span: Span = NOWHERE) -> dict[str, Tensor]:
        """Evaluates a region; `read` gives the value of a source."""
        inputs = {(source["kind"], *source["path"]): read(source) for source in lowered.sources}
        with failures(span, lowered.region.name):
            results = lowered.call(inputs)
        return {name: as_tensor(results[name], node.type, self.real, self.device) for name, node in lowered.region.results}


class failures:
    """Turns what data, a model or a device can cause inside into `RunFailed`, at the place that the error names, else at `span`.

    Errors that only a mistake of the compiler can cause go through as they are.
    """

    def __init__(self, span: Span, stage: str = ""):
        self.span = span
        self.stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        span = getattr(error, "span", None)
        if isinstance(error, RunFailed) or not (isinstance(span, Span) or isinstance(error, CAUSED)):
            return
        place = span if isinstance(span, Span) and span != NOWHERE else self.span
        message = getattr(error, "reason", None) or str(error) or type(error).__name__
        message = str(message).strip()
        if isinstance(error, torch.OutOfMemoryError):
            message = f"the device has no more memory: {message}"
        op = getattr(error, "op", None)
        raise RunFailed(f"`{op}` cannot be computed: {message}" if op else message, place, self.stage) from error

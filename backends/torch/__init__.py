"""The torch backend: a region of the graph as readable Python source, compiled and run.

    lowered = lower(region, models, dtype=torch.float32, donate=True)
    results = lowered({("param", "net"): flat, ("input", "grad"): gradient, ("clock", "t"): 3})
    print(lowered.source)

The road: `program.py` decides what is computed together (`fuse.py`: one-pass kernels) and in which order (`schedule.py`), `blocks.py` writes
the statements, `emit.py` and `indexing.py` the expressions, `kernels.py` (with `instructions.py` and `memory.py`) the kernels; `donate.py`
says which results overwrite their inputs. What runs beside torch itself is in `support.py`, `draws.py` and `linalg.py`. The source is made
from the graph alone and never read from anywhere.

Real values have the dtype asked for, ints are int64, bools bool; clocks and what is computed from them alone are Python numbers.
"""

from __future__ import annotations

import importlib.util
import itertools
import linecache
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradflow.backends.torch import draws, linalg, mixing, support
from gradflow.backends.torch.blocks import Context
from gradflow.backends.torch.calls import ModelCalls
from gradflow.backends.torch.fuse import FusionNote
from gradflow.backends.torch.kernels import Kernel
from gradflow.backends.torch.program import write_program
from gradflow.graph.graph import Region
from gradflow.runtime.models import ModelRunner

__all__ = ["FusionNote", "Lowered", "lower"]

HELPERS = (
    "number", "load", "buffer", "stacked", "product", "softplus", "log1mexp", "extreme", "arg_extreme", "segments", "gather_rows", "scatter_rows",
    "order", "ranks", "top", "one_hot", "blocks", "fresh", "replace", "entries",
)  # fmt: skip
COMPILERS = ("g++", "clang++", "c++")
_numbers = itertools.count(1)
_compiled: dict[tuple[str, torch.dtype, str], Callable[..., Any]] = {}


@dataclass(eq=False)
class Lowered:
    """A region that runs. `source` is exactly what is executed, `fusion` what became one kernel and what did not, with the reason."""

    source: str
    fusion: list[FusionNote]
    models: Mapping[str, ModelRunner] = field(repr=False)
    run: Callable[[Mapping[tuple[str, ...], Any]], dict[str, Tensor]] = field(repr=False)

    def __call__(self, inputs: Mapping[tuple[str, ...], Any]) -> dict[str, Tensor]:
        """Sources in by (kind, *path), results out by name. Raises KeyError for a source that is missing."""
        try:
            with torch.no_grad():
                return self.run(inputs)
        finally:
            for runner in self.models.values():
                runner.release()


def lower(
    region: Region,
    models: Mapping[str, ModelRunner] | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    optimize: bool = True,
    donate: bool = False,
) -> Lowered:
    """Writes and compiles the source of a region.

    `models`: the runners of the models that it calls, by name. `compile`: kernels under torch.compile. `optimize=False`: node by node, nothing
    fused. `donate`: a result named like a source (`state/m`) is written into that source's memory, which is also what is returned for it.
    Raises ValueError where a model is missing or a size cannot be known.
    """
    device = torch.device(device)
    notes: list[FusionNote] = []
    mode = _mode(device, compile and optimize, notes)
    context = Context(ModelCalls(models or {}), mode, torch.empty((), dtype=dtype).element_size(), notes=notes)
    source, constants = write_program(region, context, optimize, donate)
    namespace = _namespace(device, dtype) | {"models": dict(models or {})} | constants
    filename = f"<gradflow {region.name or 'region'} {next(_numbers)}>"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename  # so that tracebacks show the line
    exec(compile_source(source, filename), namespace)
    if mode == "compiled":
        namespace["mix"] = partial(mixing.mix, compiled=True)
        namespace.update({kernel.name: _compiled_kernel(kernel, namespace, dtype, device) for kernel in context.kernels})
    return Lowered(source, notes, dict(models or {}), namespace["run"])


def compile_source(source: str, filename: str) -> Any:
    return compile(source, filename, "exec")


def _mode(device: torch.device, wanted: bool, notes: list[FusionNote]) -> str:
    plain = "blocked" if device.type == "cpu" else "whole"
    if not wanted:
        return plain
    lacking = _lacking(device)
    if lacking is not None:
        notes.append(FusionNote(False, "torch.compile", f"{lacking}; kernels run as calls of torch"))
        return plain
    return "compiled"


def _lacking(device: torch.device) -> str | None:
    """What torch.compile would need and this machine does not have."""
    if device.type == "cpu":
        asked = os.environ.get("CXX")
        names = (asked,) if asked else COMPILERS
        return None if any(shutil.which(name) for name in names) else f"no C++ compiler was found ({', '.join(names)})"
    return None if importlib.util.find_spec("triton") else "the package `triton` is not installed"


def _compiled_kernel(kernel: Kernel, namespace: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Callable[..., Any]:
    """The kernel under torch.compile, one for each text, type and place in this process."""
    key = kernel.text, dtype, str(device)
    if key not in _compiled:
        _compiled[key] = torch.compile(namespace[kernel.name], dynamic=False, fullgraph=True)
    return _compiled[key]


def _namespace(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    helpers = {name: getattr(support, name) for name in HELPERS}
    own = {"draw": draws.draw, "linalg": linalg.linalg, "decompose": linalg.decompose, "mix": mixing.mix, "scratch": support.Scratch(device)}
    return {"torch": torch, "math": math, "real": dtype, "device": device, "transfer": _transfer, **support.NUMBERS, **helpers, **own}


def _transfer(*given: Any) -> Tensor:
    from gradflow.backends.distributed import transfer

    return transfer(*given)

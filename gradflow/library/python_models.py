"""Code of the user's own, a model `python("package.module:name")` or a reward, and the switch without which none is ever imported.

The switch is off; `--allow-python` and `gradflow.compile(.., allow_python=True)` turn it on for what they build. The sizes of
such a model are known only by building it, so declaring one imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from gradflow.library.catalogue import LeafSpec, ModelSpec, primitive


class NotAllowed(ValueError):
    """A spec names Python code where that is not allowed."""

    why = "a spec may come from anybody, and Python code can do whatever you can"
    fix = "read that code; then `--allow-python`, or `gradflow.compile(.., allow_python=True)`"

    def __init__(self) -> None:
        super().__init__("this spec calls Python code of yours, which only `--allow-python` allows")


_allowed: ContextVar[bool] = ContextVar("gradflow_allow_python", default=False)
_known: dict[str, Any] = {}


@contextmanager
def python_allowed(allowed: bool) -> Iterator[None]:
    """Inside, specs may name Python code (if `allowed`)."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def python_is_allowed() -> bool:
    """Whether specs may name Python code here."""
    return _allowed.get()


def python_object(where: str) -> Any:
    """What `package.module:name` names, for a spec that is compiled or read. Raises ValueError where that is not allowed, or not there."""
    _check(where)
    _known[where] = imported(where)
    return _known[where]


def known_object(where: str) -> Any:
    """The same at run time: what was allowed when the spec was compiled. Raises ValueError."""
    return _known[where] if where in _known else python_object(where)


def _check(where: str) -> None:
    if ":" not in where:
        raise ValueError(f'Python code is named "package.module:name", not "{where}"')
    if not _allowed.get():
        raise NotAllowed


class NotFound(ValueError):
    """Python code that a spec names cannot be had."""

    why = "it is looked for in the folder that gradflow runs in, and among installed packages"
    fix = 'name it "package.module:name", of a module that imports'


def imported(where: str) -> Any:
    """What `package.module:name` names, also in the folder that gradflow runs in. Raises NotFound, whatever goes wrong in that code."""
    module, _, name = where.partition(":")
    here = os.getcwd()
    sys.path.append(here)
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise NotFound(f"`{where}` cannot be imported: {kind}{error}") from None
    finally:
        sys.path.remove(here)


def _module(where: str, seed: int) -> Any:
    """Imports `package.module:name` and calls it, with the seed of the run as torch's; it must return a torch.nn.Module."""
    import torch

    make = imported(where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = make()
    if not isinstance(built, torch.nn.Module):
        raise ValueError(f"`{where}` must return a torch.nn.Module, it returned a {type(built).__name__}")
    return built


@primitive("model", where="text", inputs="int >= 1", classes="int >= 0")
def python(where: str, inputs: int = 1, classes: int = 0) -> ModelSpec:
    """What the function `name` of `package.module` returns, a torch.nn.Module, as a model.

    `where`: "package.module:name"; `inputs`: how many trailing axes of its argument a call consumes; `classes`: the size of the axis `class`
    that it adds (0: none). Raises ValueError where Python code is not allowed, or where the name does not give a module.
    """
    _check(where)
    leaves = tuple(LeafSpec(name, tuple(p.shape), p.requires_grad) for name, p in _module(where, 0).named_parameters())
    outputs = (("class", classes),) if classes else ()
    return ModelSpec(f'python("{where}")', leaves, lambda seed: _module(where, seed), (None,) * inputs, outputs)

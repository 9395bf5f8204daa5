"""A model of the user's own: `python("package.module:name")`, and the switch without which no code of a user's is ever imported.

The switch is off; `gradflow run --allow-python` and `gradflow.compile(.., allow_python=True)` turn it on for what they build. The sizes of
such a model are known only by building it, so declaring one imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from gradflow.library.catalogue import LeafSpec, ModelSpec, primitive

_allowed: ContextVar[bool] = ContextVar("gradflow_allow_python", default=False)


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


def _module(where: str, seed: int) -> Any:
    """Imports `package.module:name` and calls it, with the seed of the run as torch's; it must return a torch.nn.Module."""
    import torch

    module, _, name = where.partition(":")
    try:
        make = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`{where}` cannot be imported: {error}") from None
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
    if ":" not in where:
        raise ValueError(f'`python` takes "package.module:name", not "{where}"')
    if not _allowed.get():
        raise ValueError("this spec calls Python code of yours, which has to be allowed: `gradflow run --allow-python ..`")
    leaves = tuple(LeafSpec(name, tuple(p.shape), p.requires_grad) for name, p in _module(where, 0).named_parameters())
    outputs = (("class", classes),) if classes else ()
    return ModelSpec(f'python("{where}")', leaves, lambda seed: _module(where, seed), (None,) * inputs, outputs)

"""Torch's own settings as the loop needs them: the device, its generators, algorithms that give the same bits, what draws while it trains."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradflow.runtime import random
from gradflow.runtime.events import RunFailed


def pick_device(name: str) -> torch.device:
    """A device by its name; `auto` is the accelerator if there is one. Raises RunFailed for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RunFailed(f"the device `{name}` cannot be used on this {platform.machine()} machine: {str(error).splitlines()[0]}") from error
    return device


def dropout_of(part: torch.nn.Module) -> bool:
    """Whether a part of a model draws at random while it trains."""
    share = getattr(part, "p", 0) if isinstance(part, torch.nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0)
    return isinstance(share, int | float) and share > 0


@contextmanager
def seeded(key: random.Key, device: torch.device) -> Iterator[None]:
    """Torch's own generators seeded by a key inside, and outside as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(key[0] | key[1] << 32)
        yield


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted == before or before:
        yield
        return
    torch.use_deterministic_algorithms(True)  # imports the compiler of torch, which takes seconds
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

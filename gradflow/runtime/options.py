"""How to run what a spec leaves open, or is overruled in."""

from __future__ import annotations

from dataclasses import dataclass

from gradflow.runtime.regions import BACKENDS
from gradflow.runtime.state import PRECISIONS


@dataclass(frozen=True)
class Options:
    """How to run, where the spec does not say or is overruled; None leaves it to the `train` line.

    `device`: a torch device, or auto; `steps`: the count of every phase; `precision`: float32, float64, bfloat16; `micro`: pieces that a
    batch is cut into; `optimize`: whether anything is simplified and fused; `deterministic`: only algorithms that give the same bits every time;
    `network`: the name, the file or the text of a description (`network/description.py`) whose clock is shown beside the run's.
    """

    seed: int | None = None
    device: str = "cpu"
    backend: str = "torch"
    steps: int | None = None
    compile: bool = False
    precision: str | None = None
    micro: int | None = None
    deterministic: bool = False
    optimize: bool = True
    network: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"there is no backend `{self.backend}`; there are: {', '.join(BACKENDS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not `{self.precision}`")
        for name in ("steps", "micro", "seed"):
            value = getattr(self, name)
            if value is not None and value < (name == "micro"):
                raise ValueError(f"`{name}` cannot be {value}")


PLAIN = Options()

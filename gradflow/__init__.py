"""GradFlow: a declarative language and a compiler for gradient methods.

    program = gradflow.compile("sapo.gflow")                               # a pipeline, ready to run
    diagnostics = gradflow.check(text)                                     # what is wrong, as data
    loss = gradflow.objective("sapo", tau_neg=1.1)                         # an objective on tensors
    optimizer = gradflow.optimizer("diffgrad", model.parameters(), lr=1e-3)

Importing this package imports no torch; what needs it imports it when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "GradflowError": "gradflow.language.diagnostics",
    "check": "gradflow.embed_api",
    "compile": "gradflow.embed_api",
    "objective": "gradflow.embedding",
    "optimizer": "gradflow.embedding",
    "verify": "gradflow.verify",
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = import_module(_PUBLIC[name])
        return module if name == "verify" else getattr(module, name)
    raise AttributeError(f"module `gradflow` has no attribute `{name}`")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]

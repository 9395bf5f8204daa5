"""The catalogue of primitives: what a spec may call that is not itself written in the language.

A primitive is one Python function in this folder under `@primitive`, which states its kind and the domain of each parameter in the
language's own type syntax. Signatures are read without importing torch (bodies import it); what a model or a data set looks like is a
`ModelSpec` or a `DataSpec`: names, axes, sizes, and two callables that do the work later. There is no registry filled from afar: the
catalogue is the list of modules below, read in order.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MODULES = (
    "models",
    "masked_models",
    "python_models",
    "transformers_models",
    "tabular_data",
    "synthetic_data",
    "text_tasks",
    "traced_tasks",
    "tabular_policy",
    "heads",
    "decision_processes",
    "records",
    "rollouts",
    "answer_pairs",
    "demonstrations",
    "answers",
    "tools",
    "tool_tasks",
    "agents",
    "agent_tests",
    "paths",
    "episodes",
    "rewards",
)


class MissingExtra(Exception):
    """A package of an optional extra is not installed; `str(error)` is the sentence that a user sees. `then`: a second command."""

    def __init__(self, what: str, extra: str, package: str, then: str = ""):
        super().__init__(f"{what} needs the package `{package}`: pip install 'gradflow[{extra}]'{f' && {then}' if then else ''}")
        self.extra = extra


@dataclass(frozen=True)
class Primitive:
    """`kind` is model (returns a ModelSpec), data (a DataSpec), tool (a Tool, see `tools.py`) or call (tensors and records, see `rollouts.py`)."""

    name: str
    kind: str
    function: Callable[..., Any]
    domains: Mapping[str, str]

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.function(*args, **options)


def primitive(kind: str, **domains: str) -> Callable[[Callable[..., Any]], Primitive]:
    """Marks a function as a primitive; `domains` gives each parameter's type as the language writes it: `rank="int >= 1"`."""

    def wrap(function: Callable[..., Any]) -> Primitive:
        return Primitive(function.__name__, kind, function, domains)

    return wrap


@cache
def catalogue() -> dict[str, Primitive]:
    """Every primitive by name. Imports this folder's modules, none of which imports torch at the top."""
    found: dict[str, Primitive] = {}
    for module_name in MODULES:
        module = importlib.import_module(f"gradflow.library.{module_name}")
        for value in vars(module).values():
            if isinstance(value, Primitive) and value.function.__module__ == module.__name__:
                found[value.name] = value
    return found


# ---- what a model and a data set look like before torch is there


@dataclass(frozen=True)
class LeafSpec:
    """One parameter tensor: its name in the module (`layers.0.weight`), its shape, and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    trained: bool = True

    @property
    def size(self) -> int:
        size = 1
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class ModelSpec:
    """A model as the checker sees it.

    `inputs`: how many trailing axes of the argument a call consumes, with their sizes (None: any). `outputs`: the axes that a call adds,
    (name, size). `build(seed)` returns a torch.nn.Module whose named_parameters are `leaves`, in order, initialized from the seed alone.
    `methods` names the primitives that may take it (`sample`, `score`); `facts` are fields a spec may read (`policy.vocabulary`).
    """

    name: str
    leaves: tuple[LeafSpec, ...]
    build: Callable[[int], Any]
    inputs: tuple[int | None, ...] = ()
    outputs: tuple[tuple[str, int | None], ...] = ()
    index_input: bool = False
    methods: tuple[str, ...] = ()
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    flops_per_row: float = 0.0
    dress: Callable[[Any, int], Any] | None = None  # of a model with a head: (another's module, seed) -> that module with the head on it

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in self.leaves)


@dataclass(frozen=True)
class FieldSpec:
    """One field of a record: base (real, int, bool, text), axes with sizes (None: known only at run time), target of an index map."""

    base: str
    axes: tuple[tuple[str, int | None], ...]
    target: tuple[str, int | None] | None = None
    padded: bool = False
    live: bool = False


@dataclass(frozen=True)
class DataSpec:
    """A data set as the checker sees it.

    `fields[split]` are the fields of a whole split (first axis `sample`, or `prompt` for tasks); `batch` is how many rows a step draws
    (None: all). `load()` returns {split: {field: numpy array}} (float64, int64 or bool). `divide(nodes)` returns the row indices of the
    training split that each node owns, all of equal number so that nodes can be stacked, or None where rows are not divided by node.
    """

    name: str
    splits: tuple[str, ...]
    fields: Mapping[str, Mapping[str, FieldSpec]]
    load: Callable[[], Mapping[str, Mapping[str, Any]]]
    batch: int | None = None
    divide: Callable[[int], list[Any]] | None = None
    facts: Mapping[str, int | float | str] = field(default_factory=dict)
    verify: Callable[[Any, list[str]], Any] | None = None  # tasks: (ids int64 [sample], responses) -> rewards float64 [sample]
    feedback: Callable[[Any, list[str]], list[str]] | None = None  # tasks: what the world says to the responses, never the right one

    @property
    def tasks(self) -> int | None:
        """How many there are in all splits: what ids number."""
        return sum(fields["question"].axes[0][1] or 0 for fields in self.fields.values()) or None

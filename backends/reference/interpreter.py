"""The reference backend: a region evaluated node by node, on demand, in numpy. It is the definition of what a spec means.

`lower` makes a region callable: sources in by (kind, *path), results out by name. A node is computed when something that is wanted reads it
and once a run; of a lazy choice only the branch taken is computed. Walking is by an explicit stack, so a graph may be as deep as it likes.
A loop's body is a region of its own, evaluated once a step with its parameters bound. Models are called through their runners
(`gradflow/runtime/models.py`), which take and give torch tensors; torch is imported only there.

An axis whose size the graph does not know has the size that the sources fed to this run give it: by name, from the sources that have it as
an axis if they agree, else from the largest entry of the index maps that point into it.

Axes: names are free; every array has its dimensions in the order of its node's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy

from gradflow.backends.reference import draws, linalg
from gradflow.backends.reference.operations import DTYPES, OPERATIONS, Array, align
from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis

Inputs = Mapping[tuple[str, ...], Any]
Memo = dict[int, Any]

SIZED = {"expand", "draw", "one_hot", "range", "scatter_add", "leaf", "linalg"}  # operations that need the sizes of their result's axes


class EvaluationError(Exception):
    """A node could not be computed from the data given; `span` is the place in the spec that it comes from."""

    def __init__(self, node: Node, reason: str):
        super().__init__(f"{node.span}: `{node.op}` cannot be computed: {reason}")
        self.node = node
        self.op = node.op
        self.span = node.span
        self.reason = reason


def lower(region: Region, models: Mapping[str, Any] | None = None) -> Callable[[Inputs], dict[str, Array]]:
    """The region as a function of its sources; `models` are the runners by name. The function raises EvaluationError."""
    sources = _all_sources(region)

    def run(inputs: Inputs) -> dict[str, Array]:
        state = _Run(inputs, models or {}, _known_sizes(sources, inputs))
        memo: Memo = {}
        try:
            with numpy.errstate(all="ignore"):
                return {name: numpy.array(state.value(node, memo)) for name, node in region.results}
        finally:
            state.release()

    return run


def as_array(value: Any, base: str) -> Array:
    """What a caller feeds (numbers, lists, arrays, tensors on any device) as an array of the base's own dtype."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return numpy.asarray(value).astype(DTYPES[base], copy=False)


def _all_sources(region: Region) -> list[Node]:
    found = []
    for node in region.nodes():
        if node.op == "source":
            found.append(node)
        if node.body is not None:
            found.extend(_all_sources(node.body))
    return found


def _known_sizes(sources: list[Node], inputs: Inputs) -> dict[str, int]:
    """Sizes by axis name, as this run's sources give them; a name that two sources measure differently is left out."""
    seen: dict[str, set[int]] = {}
    pointed: dict[str, int] = {}
    for node in sources:
        key = (node["kind"], *node["path"])
        if key not in inputs:
            continue
        shape = numpy.shape(inputs[key])
        for name, size in zip(node.type.names, shape, strict=False):
            seen.setdefault(name, set()).add(size)
        target = node.type.target
        if target is not None and target.size is None:
            largest = int(as_array(inputs[key], "int").max(initial=-1))
            pointed[target.name] = max(pointed.get(target.name, 0), largest + 1)
    return pointed | {name: min(sizes) for name, sizes in seen.items() if len(sizes) == 1}


class _Run:
    """One evaluation: what was fed, and what was found on the way."""

    def __init__(self, inputs: Inputs, models: Mapping[str, Any], sizes: dict[str, int]):
        self.inputs = inputs
        self.models = models
        self.sizes = sizes
        self.calls: dict[Any, tuple[Any, Mapping[str, Any]]] = {}
        self.tensors: dict[Any, tuple[Array, Any]] = {}
        self.used: set[str] = set()

    def value(self, root: Node, memo: Memo) -> Any:
        stack = [root]
        while stack:
            node = stack[-1]
            if node.id in memo:
                stack.pop()
                continue
            wanted = [below for below in self.wanted(node, memo) if below.id not in memo]
            if wanted:
                stack.extend(reversed(wanted))
                continue
            memo[node.id] = self.compute(node, [memo.get(below.id) for below in node.inputs])
            stack.pop()
        return memo[root.id]

    def wanted(self, node: Node, memo: Memo) -> tuple[Node, ...]:
        if node.op != "choose":
            return node.inputs
        condition, first, second = node.inputs
        if condition.id not in memo:
            return (condition,)
        return (first,) if bool(memo[condition.id]) else (second,)

    def compute(self, node: Node, arrays: list[Any]) -> Any:
        try:
            if node.op == "scan":
                return self.scan(node, arrays)
            return self.checked(node, self.meaning(node, arrays))
        except EvaluationError:
            raise
        except (ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError, numpy.linalg.LinAlgError) as error:
            raise EvaluationError(node, str(error)) from error

    def meaning(self, node: Node, arrays: list[Any]) -> Array:
        special = SPECIAL.get(node.op)
        if special is not None:
            return special(self, node, arrays)
        node = self.sized(node)
        if node.op == "draw":
            return draws.evaluate(node, *arrays)
        if node.op == "linalg":
            return linalg.evaluate(node, *arrays)
        if node.op not in OPERATIONS:
            raise ValueError("this has no value here: a hole, or the parameter of a loop outside of it")
        return OPERATIONS[node.op](node, *arrays)

    def checked(self, node: Node, value: Any) -> Array:
        array = numpy.asarray(value).astype(DTYPES[node.type.base], copy=False)
        if array.ndim != len(node.type.axes):
            raise ValueError(f"{array.ndim} dimensions for the axes {list(node.type.names)}")
        for (name, size), length in zip(node.type.axes, array.shape, strict=True):
            if size is not None and size != length:
                raise ValueError(f"axis `{name}` has {length} entries, {size} were declared")
        return array

    def sized(self, node: Node) -> Node:
        """The node with this run's sizes where neither its type nor an input of it knows."""
        if node.op not in SIZED or all(size is not None for _, size in node.type.axes):
            return node
        given = {name for below in node.inputs for name in below.type.names}
        if node.op == "scatter_add":
            given.discard(node["axis"])
        axes = tuple(Axis(n, self.sizes.get(n) if size is None and n not in given else size) for n, size in node.type.axes)
        return replace(node, type=replace(node.type, axes=axes))

    # ---- sources, choices, loops

    def source(self, node: Node, arrays: list[Any]) -> Array:
        key = (node["kind"], *node["path"])
        if key not in self.inputs:
            raise ValueError(f"nothing was given for {' '.join(key)}")
        return as_array(self.inputs[key], node.type.base)

    def choose(self, node: Node, arrays: list[Any]) -> Array:
        place = 1 if bool(arrays[0]) else 2
        return align(arrays[place], node.inputs[place].type.names, node.type.names)

    def item(self, node: Node, arrays: list[Any]) -> Array:
        array, names = arrays[0][node["index"]]
        return align(array, names, node.type.names)

    def scan(self, node: Node, arrays: list[Array]) -> list[tuple[Array, tuple[str, ...]]]:
        """Final carries, then stacked values, each with the names of its axes; a backward loop stacks at the place that it read."""
        body, axis = node.body, node["axis"]
        assert body is not None
        first, second = node["carries"], node["carries"] + node["sequences"]
        carries = body.parameters[:first]
        state = [_fitted(a, n, p) for a, n, p in zip(arrays[:first], node.inputs, carries, strict=False)]
        captured = zip(arrays[second:], node.inputs[second:], body.parameters[second:], strict=True)
        fixed = {p.id: _fitted(array, n, p) for array, n, p in captured}
        sequences = list(zip(arrays[first:second], node.inputs[first:second], body.parameters[first:second], strict=True))
        lengths = {array.shape[n.type.names.index(axis)] for array, n, _ in sequences}
        if len(lengths) != 1:
            raise ValueError(f"the sequences have {sorted(lengths)} entries along `{axis}`")
        count = lengths.pop()
        rows: list[list[Array]] = [[] for _ in body.results[first:]]
        for step in reversed(range(count)) if node["backward"] else range(count):
            memo: Memo = dict(fixed)
            memo.update((p.id, _element(array, n, p, axis, step)) for array, n, p in sequences)
            memo.update((p.id, array) for p, array in zip(carries, state, strict=True))
            found = [self.value(root, memo) for root in body.roots]
            state = [_fitted(a, root, p) for a, root, p in zip(found, body.roots, carries, strict=False)]
            for row, array in zip(rows, found[first:], strict=True):
                row.append(array)
        stacked = [self.stacked(row[::-1] if node["backward"] else row, root) for row, root in zip(rows, body.roots[first:], strict=True)]
        names = [*(p.type.names for p in carries), *((axis, *root.type.names) for root in body.roots[first:])]
        return list(zip([*state, *stacked], names, strict=True))

    def stacked(self, row: list[Array], root: Node) -> Array:
        if row:
            return numpy.stack(row)
        sizes = (self.sizes.get(name, 0) if size is None else size for name, size in root.type.axes)
        return numpy.zeros((0, *sizes), DTYPES[root.type.base])

    # ---- models

    def model(self, node: Node, arrays: list[Array]) -> Array:
        """One output of a call; the outputs of one call are computed together."""
        runner, params, args, options, key = self.call(node, arrays)
        if key not in self.calls:
            found = runner.forward(node["method"], params, args, options, params_axes=node.inputs[0].type.names)
            self.calls[key] = (params, found)
        return as_array(self.calls[key][1][node["output"]], node.type.base)

    def model_vjp(self, node: Node, arrays: list[Array]) -> Array:
        runner, params, args, options, _ = self.call(node, arrays)
        first = 1 + len(node["fields"])
        cotangents = {name: self.tensor(array, runner) for name, array in zip(node["outputs"], arrays[first:], strict=True)}
        more = {"summed": True} if node.get("summed") else {}
        found = runner.vjp(node["method"], params, args, cotangents, node["wrt"], options, params_axes=node.inputs[0].type.names, **more)
        wrt = 0 if node["wrt"] == "params" else 1 + node["fields"].index(node["wrt"])
        return align(as_array(found, "real"), node.inputs[wrt].type.names, node.type.names)

    def call(self, node: Node, arrays: list[Array]) -> tuple[Any, Any, dict[str, tuple[Any, tuple[str, ...]]], dict[str, Any], Any]:
        name, fields = node["model"], node["fields"]
        if name not in self.models:
            raise ValueError(f"no model `{name}` was given")
        self.used.add(name)
        runner = self.models[name]
        given = arrays[: 1 + len(fields)]
        params, *values = (self.tensor(array, runner) for array in given)
        args = {field: (value, below.type.names) for field, value, below in zip(fields, values, node.inputs[1:], strict=False)}
        options = node.get("options", ())
        return runner, params, args, dict(options), (name, node["method"], fields, options, tuple(id(array) for array in given))

    def tensor(self, array: Array, runner: Any) -> Any:
        """The array as the runner's tensor, the same one each time, so that a backward call finds the tape of its forward call."""
        import torch

        dtype = getattr(runner, "dtype", torch.float64) if array.dtype == numpy.float64 else None
        key = (id(array), dtype)
        if key not in self.tensors:
            self.tensors[key] = (array, torch.as_tensor(numpy.array(array), dtype=dtype, device=getattr(runner, "device", None)))
        return self.tensors[key][1]

    def release(self) -> None:
        """Lets the runners that were called drop what they kept for a backward call."""
        for name in self.used:
            getattr(self.models[name], "release", lambda: None)()


def _fitted(array: Array, node: Node, parameter: Node) -> Array:
    """A value as a loop's parameter holds it."""
    return align(array, node.type.names, parameter.type.names).astype(DTYPES[parameter.type.base], copy=False)


def _element(array: Array, node: Node, parameter: Node, axis: str, step: int) -> Array:
    names = node.type.names
    rest = [name for name in names if name != axis]
    return align(array.take(step, axis=names.index(axis)), rest, parameter.type.names).astype(DTYPES[parameter.type.base], copy=False)


SPECIAL: dict[str, Callable[[_Run, Node, list[Any]], Array]] = {
    "source": _Run.source, "choose": _Run.choose, "item": _Run.item, "model": _Run.model, "model_vjp": _Run.model_vjp
}  # fmt: skip

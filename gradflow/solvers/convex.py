"""A problem's code (`problem.py`) handed to cvxpy, which checks that it is convex and calls the solver.

Every value is flat, in row-major order of its named axes. What only moves entries about (expand, gather, rename, stack, ..) is done by the reference
meaning of the operation on the numbers of the entries; sums and products with known values are linear maps; the rest are cvxpy's own functions.

Axes: names are free; a matrix that is to be semidefinite has its rows and columns last, other axes give one constraint for each entry.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.library.catalogue import MissingExtra

Array = Any
MOVING = ("expand", "gather", "rename", "slice", "stack", "concat", "leaf", "pack")
FUNCTIONS = {"abs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt", "maximum": "maximum", "minimum": "minimum", "softplus": "logistic"}
SAID = {
    "infeasible": "nothing fulfils all of its conditions",
    "unbounded": "it has no minimum: it can be made as small as one likes",
    "infeasible_inaccurate": "nothing seems to fulfil all of its conditions",
    "unbounded_inaccurate": "it seems to have no minimum",
}


class Unsolved(ValueError):
    """A problem without a solution, or one that is not convex as it is written; the message is a sentence."""


@dataclass(frozen=True)
class Flat:
    """A value: a cvxpy expression (or an array) [entry], with its axes."""

    value: Any
    base: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    known: bool
    source: Any = None  # of a square or a sum of squares: what was squared

    @property
    def type(self) -> Type:
        return Type(self.base, tuple(Axis(name, size) for name, size in zip(self.names, self.sizes, strict=True)))

    @property
    def numbers(self) -> Array:
        """The numbers of the entries, in the shape of the axes."""
        return numpy.arange(int(numpy.prod(self.sizes, dtype=int))).reshape(self.sizes)


def optimum(code: Any, solver: str, part: str, arrays: tuple[Array, ...]) -> Array:
    """One part of a problem's solution: a variable by its name, or #value or #status. Raises Unsolved, MissingExtra."""
    return _solved(code, solver, tuple((array.shape, str(array.dtype), array.tobytes()) for array in arrays))[part]


@lru_cache(maxsize=16)
def _solved(code: Any, solver: str, given: tuple[tuple[tuple[int, ...], str, bytes], ...]) -> dict[str, Array]:
    return solved(code, solver, [numpy.frombuffer(data, dtype).reshape(shape) for shape, dtype, data in given])


def solved(code: Any, solver: str, arrays: list[Array]) -> dict[str, Array]:
    """Every part of the solution."""
    try:
        import cvxpy
    except ImportError:
        raise MissingExtra("`solve`", "opt", "cvxpy") from None
    sought, _, _, least, constraints = code
    translation = Translation(cvxpy, code, arrays)
    values = translation.values
    found = []
    for _, kind, places in constraints:
        if kind == "psd":
            found += translation.semidefinite([[values[place] for place in row] for row in places])
        else:
            first, second = (translation.along(values[place], *translation.together([values[p] for p in places])) for place in places)
            found.append(first.value <= second.value if kind == "le" else first.value == second.value)
    for (_, low, high, _), variable in zip(sought, translation.variables, strict=True):
        found += [variable >= low] if low is not None else []
        found += [variable <= high] if high is not None else []
    minimum = values[least].value
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(minimum) if not values[least].known else float(minimum[0])), found)
    _solve(cvxpy, problem, solver)
    status = 0.0 if problem.status == "optimal" else 1.0
    results: dict[str, Array] = {"#value": numpy.float64(problem.value), "#status": numpy.float64(status)}
    for (name, _, _, _), variable, sizes in zip(sought, translation.variables, translation.shapes, strict=True):
        results[name] = numpy.asarray(variable.value, numpy.float64).reshape(sizes)
    return results


def _solve(cvxpy: Any, problem: Any, solver: str) -> None:
    if not problem.is_dcp():
        what = "a sum of convex terms is minimized, under conditions convex <= concave and affine == affine"
        raise Unsolved(f"the problem is not convex as it is written: {what}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is in the status
            problem.solve(solver=solver.upper())
    except cvxpy.error.SolverError:
        raise Unsolved(
            f"the solver `{solver}` gave up: nothing may fulfil all of the conditions, or their numbers are of too different sizes"
        ) from None
    if problem.status not in ("optimal", "optimal_inaccurate"):
        raise Unsolved(f"the problem has no solution: {SAID.get(problem.status, problem.status)}")


class Translation:
    """The steps of a problem's code as cvxpy expressions."""

    def __init__(self, cvxpy: Any, code: Any, arrays: list[Array]):
        self.cvxpy = cvxpy
        sought, axes, steps, _, _ = code
        self.lengths: dict[str, int] = {}
        for names, array in zip(axes, arrays, strict=True):
            self.lengths.update({name: size for (name, _), size in zip(names, array.shape, strict=True)})
        self.shapes = [tuple(self.length(axis) for axis in own) for _, _, _, own in sought]
        self.variables = [cvxpy.Variable(int(numpy.prod(shape, dtype=int))) for shape in self.shapes]
        self.values: list[Flat] = []
        for step in steps:
            self.values.append(self.value(step, arrays))

    def length(self, axis: tuple[str, int | None]) -> int:
        name, size = axis
        if size is None and name not in self.lengths:
            raise Unsolved(f"how long the axis `{name}` of what is sought is, is not known")
        return size if size is not None else self.lengths[name]

    def value(self, step: Any, arrays: list[Array]) -> Flat:
        *what, base, axes, span = step
        if what[0] == "input":
            array = arrays[what[1]]
            return Flat(array.reshape(-1), base, tuple(name for name, _ in axes), array.shape, True)
        names, sizes = tuple(name for name, _ in axes), tuple(self.length(axis) for axis in axes)
        if what[0] == "vary":
            return Flat(self.variables[what[1]], base, names, sizes, False)
        op, places, attrs = what
        inputs = [self.values[place] for place in places]
        if op in MOVING:
            return self.moved(op, inputs, attrs, Flat(None, base, names, sizes, False))
        found = self.operation(op, inputs, dict(attrs), names, sizes)
        if found is None:
            raise Unsolved(f"{span}: `{op}` of what is sought cannot be part of a problem that is solved")
        value, source = found if isinstance(found, tuple) else (found, None)
        return Flat(value, base, names, sizes, False, source)

    def moved(self, op: str, inputs: list[Flat], attrs: Any, result: Flat) -> Flat:
        """Entries moved about: the operation's own meaning, on the entries' numbers."""
        from gradflow.backends.reference.operations import OPERATIONS

        if op == "gather" and not inputs[1].known:
            raise Unsolved("a place cannot be sought")
        moving = inputs[:1] if op == "gather" else inputs
        numbers, start = [], 0
        for one in moving:
            numbers.append((one.numbers + start).astype(numpy.float64))
            start += one.numbers.size
        others = [one.value.reshape(one.sizes) for one in inputs[len(moving) :]]
        below = tuple(Node(-1 - k, "source", (), (), Type("real" if k < len(moving) else "int", one.type.axes)) for k, one in enumerate(inputs))
        node = Node(0, op, below, tuple(attrs), Type("real", result.type.axes))
        places = numpy.asarray(OPERATIONS[op](node, *numbers, *others)).astype(int).reshape(-1)
        whole = moving[0].value if len(moving) == 1 else self.cvxpy.hstack([one.value for one in moving])
        return Flat(self.picked(whole, places), result.base, result.names, result.sizes, False)

    def picked(self, flat: Any, places: Array) -> Any:
        return flat if len(places) == flat.shape[0] and (places == numpy.arange(len(places))).all() else flat[places]

    def together(self, values: list[Flat]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """All axes of some values, in order of first appearance."""
        found: dict[str, int] = {}
        for one in values:
            found |= {name: size for name, size in zip(one.names, one.sizes, strict=True) if name not in found}
        return tuple(found), tuple(found.values())

    def along(self, one: Flat, names: tuple[str, ...], sizes: tuple[int, ...]) -> Flat:
        """The value with exactly these axes, repeated along those that it lacks."""
        kept = [name for name in names if name in one.names]
        numbers = one.numbers.transpose([one.names.index(name) for name in kept])
        numbers = numbers.reshape([size if name in kept else 1 for name, size in zip(names, sizes, strict=True)])
        places = numpy.broadcast_to(numbers, sizes).reshape(-1)
        return Flat(self.picked(one.value, places), one.base, names, sizes, one.known, one.source if names == one.names else None)

    def operation(self, op: str, inputs: list[Flat], attrs: dict[str, Any], names: tuple[str, ...], sizes: tuple[int, ...]) -> Any:
        """The value of an operation on what is sought, or None for one that has no place here."""
        cvxpy = self.cvxpy
        if op in ("sum", "max", "min"):
            rows = self.rows(inputs[0], names)
            if op == "sum":
                source = inputs[0].source if not names else None
                return self.summed(inputs[0].value, rows), source
            return cvxpy.hstack([(cvxpy.max if op == "max" else cvxpy.min)(inputs[0].value[row]) for row in rows])
        if op == "dot":
            return self.product(inputs, attrs["over"], names, sizes)
        same = len(inputs) == 2 and inputs[0] is inputs[1]
        first, *rest = (self.along(one, names, sizes) for one in inputs)
        second = rest[0] if rest else None
        if op in ("add", "sub"):
            assert second is not None
            return first.value + second.value if op == "add" else first.value - second.value
        if op in ("neg", "stop"):
            return -first.value if op == "neg" else first.value
        if op == "mul" and second is not None:
            if same:
                return cvxpy.square(first.value), first
            return cvxpy.multiply(first.value, second.value) if first.known or second.known else None
        if op == "div" and second is not None and second.known:
            return cvxpy.multiply(first.value, 1 / second.value)
        if op == "pow" and second is not None and second.known and len(set(second.value.tolist())) == 1:
            power = float(second.value[0])
            return (cvxpy.square(first.value), first) if power == 2 else cvxpy.power(first.value, power)
        if op == "sqrt" and first.source is not None and not names:
            return cvxpy.reshape(cvxpy.norm(first.source.value, 2), (1,), order="C")
        if op == "where" and first.known:
            a, b = rest
            return cvxpy.multiply(first.value.astype(float), a.value) + cvxpy.multiply(1.0 - first.value, b.value)
        if op in FUNCTIONS:
            return getattr(cvxpy, FUNCTIONS[op])(*(one.value for one in (first, *rest)))
        return None

    def rows(self, one: Flat, names: tuple[str, ...]) -> Array:
        """For each entry of the axes that stay, the entries that fall together: int [entry, reduced]."""
        gone = [name for name in one.names if name not in names]
        order = [one.names.index(name) for name in (*names, *gone)]
        count = int(numpy.prod([one.sizes[one.names.index(name)] for name in names], dtype=int))
        return one.numbers.transpose(order).reshape(count, -1)

    def summed(self, flat: Any, rows: Array) -> Any:
        from scipy.sparse import csr_matrix

        kept, width = rows.shape
        ones = numpy.ones(rows.size)
        return csr_matrix((ones, (numpy.repeat(numpy.arange(kept), width), rows.reshape(-1))), (kept, flat.shape[0])) @ flat

    def product(self, inputs: list[Flat], over: tuple[str, ...], names: tuple[str, ...], sizes: tuple[int, ...]) -> Any:
        axes = self.together(inputs)
        whole = [self.along(one, *axes) for one in inputs]
        rows = self.rows(whole[0], names)
        if inputs[0] is inputs[1]:
            return self.summed(self.cvxpy.square(whole[0].value), rows), (inputs[0] if not names else None)
        if not (whole[0].known or whole[1].known):
            return None
        return self.summed(self.cvxpy.multiply(whole[0].value, whole[1].value), rows)

    # ---- semidefinite matrices

    def semidefinite(self, rows: list[list[Flat]]) -> list[Any]:
        """One constraint for each entry of the axes that are neither rows nor columns."""
        diagonal = [row[0] for row in rows]
        if len(rows) == 1:
            ends = [diagonal[0].names[-2:]]
        else:
            ends = [self.ends(one, rows, place) for place, one in enumerate(diagonal)]
        matrix = {name for pair in ends for name in pair}
        lifted = self.together([one for row in rows for one in row])
        others = tuple((name, size) for name, size in zip(*lifted, strict=True) if name not in matrix)
        names, sizes = tuple(name for name, _ in others), tuple(size for _, size in others)
        stacks = {}
        for i, row in enumerate(rows):
            for j, block in enumerate(row, i):
                stacks[i, j] = self.matrices(block, ends[i], ends[j], i == j, names, sizes)
        found = []
        for entry in range(int(numpy.prod(sizes, dtype=int))):
            whole = [[stacks[i, j][entry] if i <= j else stacks[j, i][entry].T for j in range(len(rows))] for i in range(len(rows))]
            whole_matrix = self.cvxpy.bmat(whole)
            found.append((whole_matrix + whole_matrix.T) / 2 >> 0)
        return found

    def ends(self, one: Flat, rows: list[list[Flat]], place: int) -> tuple[str, ...]:
        """The axes of a diagonal block that are its rows and columns: the last two; a number has none."""
        return one.names[-2:] if len(one.names) >= 2 else ()

    def matrices(self, block: Flat, row: tuple[str, ...], column: tuple[str, ...], diagonal: bool, names: Any, sizes: Any) -> list[Any]:
        """The block as matrices [row, column], one for each entry of the lifted axes."""
        own_row = next((name for name in row if name in block.names), None)
        own_column = next((name for name in reversed(column) if name in block.names and name != own_row), None)
        lengths = dict(zip(block.names, block.sizes, strict=True))
        shape = (lengths[own_row] if own_row else 1, lengths[own_column] if own_column else 1)
        axes = tuple(name for name in (own_row, own_column) if name is not None)
        flat = self.along(block, (*names, *axes), (*sizes, *(lengths[name] for name in axes)))
        size = shape[0] * shape[1]
        count = int(numpy.prod(sizes, dtype=int))
        return [self.cvxpy.reshape(flat.value[k * size : (k + 1) * size], shape, order="C") for k in range(count)]

"""Built-ins of linear algebra over two named axes: factorizations, spectra, inverses. The numbers are made by `backends/*/linalg.py`."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type, union
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.expressions import Elaborator


def matrix(a: Arguments, place: int = 0) -> Node:
    x = a.node(place)
    if len(x.type.axes) < 2:
        raise mistake(
            "E0308", a.places[place].span, f"`{a.function.name}` needs a matrix, this is {v.kind_name(x)}",
            why="it factors a value along its last two axes",
            fix="in a stage, ask for matrices: `on [row, col]`",
        )  # fmt: skip
    return x


@builtin(
    "singular_vectors(x, of: axis, top: k)",
    "The leading k singular vectors of one side, [of, r]; signs such that the largest entry of each left vector is positive.",
    "linear algebra",
)
def singular_vectors(a: Arguments) -> Any:
    x = matrix(a)
    axis, size = a.axis("of", x)
    count = a.count("top")
    smaller = min((n.size for n in x.type.axes[-2:] if n.size is not None), default=None)
    count = smaller if count is None else count if smaller is None else min(count, smaller)
    type_ = Type("real", (*x.type.axes[:-2], Axis(axis, size), Axis("r", count)))
    return linalg(a.e, "singular_vectors", [x], type_, of=axis, top=count)


@builtin("svd(x, top: k)", "(u, s, v) with x about dot(u * s, v, over: r); leading k.", "linear algebra")
def svd(a: Arguments) -> Any:
    x = matrix(a)
    row, col = x.type.axes[-2:]
    count = a.count("top")
    smaller = min((n.size for n in (row, col) if n.size is not None), default=None)
    rank = Axis("r", smaller if count is None else count if smaller is None else min(count, smaller))
    lifted = x.type.axes[:-2]
    a.scope.axes.setdefault("r", rank)
    pieces = {"u": (*lifted, row, rank), "s": (*lifted, rank), "v": (*lifted, col, rank)}
    return tuple(linalg(a.e, "svd", [x], Type("real", axes), part=part, top=rank.size) for part, axes in pieces.items())


@builtin("eigenvalues(x)", "Of a symmetric matrix, ascending, along the axis `eigen`.", "linear algebra")
def eigenvalues(a: Arguments) -> Any:
    x = matrix(a)
    return linalg(a.e, "eigenvalues", [x], Type("real", (*x.type.axes[:-2], Axis("eigen", x.type.axes[-1].size))))


@builtin("moduli(x)", "Absolute values of the eigenvalues of a square matrix, descending, along the axis `eigen`.", "linear algebra")
def moduli(a: Arguments) -> Any:
    x = matrix(a)
    return linalg(a.e, "moduli", [x], Type("real", (*x.type.axes[:-2], Axis("eigen", x.type.axes[-1].size))))


@builtin("eigen(x)", "(values, vectors) of a symmetric matrix, ascending: [eigen] and [row, eigen].", "linear algebra")
def eigen(a: Arguments) -> Any:
    x = matrix(a)
    values = a.scope.axes["eigen"] = Axis("eigen", x.type.axes[-1].size)
    vectors = Type("real", (*x.type.axes[:-1], values))
    return linalg(a.e, "eigenvalues", [x], Type("real", (*x.type.axes[:-2], values))), linalg(a.e, "eigenvectors", [x], vectors)


@builtin("eigenvalue(x, k)", "The k-th eigenvalue of a symmetric matrix, 1 the smallest, `last` the largest.", "linear algebra", 2, 2)
def eigenvalue(a: Arguments) -> Any:
    x = matrix(a)
    tree = a.places[1].value
    k = -1 if getattr(tree, "id", "") == "last" else a.raw(1)
    if not isinstance(k, int) or isinstance(k, bool):
        raise mistake(
            "E0301", tree.span, f"which eigenvalue is a whole number or `last`, this is {v.kind_name(k)}",
            why="they are counted from the smallest, 1", fix="`eigenvalue(x, 2)`",
        )  # fmt: skip
    values = linalg(a.e, "eigenvalues", [x], Type("real", (*x.type.axes[:-2], Axis("eigen", x.type.axes[-1].size))))
    size = x.type.axes[-1].size
    place: Any = k - 1 if k > 0 else (size - 1 if size is not None else a.e.ops.elementwise("sub", a.e.ops.axis_size("eigen", values), 1))
    index = a.e.ops.constant(place)
    return a.e.ops.gather(values, index, "eigen")


@builtin("spectral_norm(x)", "The largest singular value.", "linear algebra")
def spectral_norm(a: Arguments) -> Any:
    x = matrix(a)
    return linalg(a.e, "spectral_norm", [x], Type("real", x.type.axes[:-2]))


@builtin("pseudo_inverse(x)", "The Moore-Penrose inverse, axes as those of x.", "linear algebra")
def pseudo_inverse(a: Arguments) -> Any:
    x = matrix(a)
    return linalg(a.e, "pseudo_inverse", [x], x.type)


@builtin(
    "sylvester(a, b, q)",
    "x [row, col] with a x + x b + q = 0, of q's axes: a has q's rows and an axis of its own, b q's columns and one of its own. "
    "With b the transpose of a: a Lyapunov equation.",
    "linear algebra",
    3,
    3,
)
def sylvester(a: Arguments) -> Any:
    left, right, q = matrix(a, 0), matrix(a, 1), matrix(a, 2)
    row, col = q.type.names[-2:]
    for place, (side, name) in enumerate(((left, row), (right, col))):
        if len(side.type.axes) != 2 or len(q.type.axes) != 2 or not side.type.has(name):
            raise mistake(
                "E0308", a.places[place].span, f"`sylvester` needs a matrix with the axis `{name}` here, this is {v.kind_name(side)}",
                why=f"the last value is {v.kind_name(q)}: the first has its rows and an axis of its own, the second its columns and one of its own",
                fix="`rename` the axes so that they meet",
            )  # fmt: skip
    return linalg(a.e, "sylvester", [q, left, right], q.type)


@builtin("stationary(p)", "The law that a row-stochastic matrix keeps: [node], summing to 1.", "linear algebra")
def stationary(a: Arguments) -> Any:
    x = matrix(a)
    return linalg(a.e, "stationary", [x], Type("real", (*x.type.axes[:-2], x.type.axes[-2])))


@builtin("with_diagonal(x, d)", "x with its diagonal replaced.", "linear algebra", 2, 2)
def with_diagonal(a: Arguments) -> Any:
    x = matrix(a)
    row, col = x.type.axes[-2:]
    same = a.e.ops.elementwise("eq", a.e.ops.range(row, x), a.e.ops.range(col, x))
    return a.e.ops.where(same, a.tensor(1), x)


@builtin("identity(graph_or_axis, axis)", "1 on the diagonal, 0 elsewhere: of a graph over [node, from], or over two axes.", "linear algebra", 1, 2)
def identity(a: Arguments) -> Any:
    if len(a.places) == 2:
        row, col = (a.axis_of(name) for name in (axis_names(place.value)[0] for place in a.places))
        holders = [a.scope.holder(axis.name) for axis in (row, col)]
    else:
        value = a.raw(0)
        x = value.adjacency if isinstance(value, v.Topology) else matrix(a)
        (row, col), holders = x.type.axes[-2:], [x, x]
    same = a.e.ops.elementwise("eq", a.e.ops.range(row, holders[0]), a.e.ops.range(col, holders[1]))
    return a.e.ops.where(same, 1.0, 0.0)


def two_axes(a: Arguments, x: Node) -> tuple[Axis, Axis]:
    """The rows and the columns of a matrix, as `over: [row, col]` names them."""
    arg = a.needed("over")
    names = axis_names(arg.value)
    if len(names) != 2 or not all(x.type.has(name) for name in names):
        raise mistake(
            "E0308", arg.value.span, f"`{a.function.name}` needs the two axes of its matrix, rows first", why=f"the matrix is {v.kind_name(x)}",
            fix=f"name them: `over: [{', '.join(x.type.names[-2:])}]`",
        )  # fmt: skip
    return x.type.axis(names[0]), x.type.axis(names[1])


def solved(a: Arguments, name: str) -> tuple[Node, Axis, Axis]:
    """The x with sum(a * x, over: col) = b over the rows: axes of a before its matrix, col, and what else b has."""
    x, b = a.node(0), a.node(1)
    row, col = two_axes(a, x)
    others = x.type.without([row.name, col.name])
    lifted = tuple(axis for axis in union(others, b.type.axes) if b.type.has(axis.name) or axis in others)
    rest = tuple(axis for axis in lifted if axis.name != row.name and axis not in others)
    b = a.e.ops.expand(b, (*others, row, *rest))
    matrix_ = a.e.ops.transpose(x, [*(axis.name for axis in others), row.name, col.name])
    return linalg(a.e, name, [matrix_, b], Type("real", (*others, col, *rest))), row, col


@builtin(
    "solve_spd(a, b, over: axes)",
    "The x with dot(a, x) = b, where a is symmetric and positive definite over [row, col]; b and x have the axis row.",
    "linear algebra", 2, 2,
)  # fmt: skip
def solve_spd(a: Arguments) -> Any:
    x, row, col = solved(a, "solve_spd")
    return a.e.ops.rename(x, {col.name: row.name})


@builtin(
    "least_squares(a, b, over: axes)",
    "The x [col] of least norm among those that bring dot(a, x, over: col) nearest to b [row].",
    "linear algebra",
    2,
    2,
)
def least_squares(a: Arguments) -> Any:
    return solved(a, "least_squares")[0]


@builtin(
    "orthonormalize(x, over: axes)",
    "The entries along row, made orthonormal along col by Gram-Schmidt; at most as many as col has. One that depends on those before it becomes 0.",
    "linear algebra",
)
def orthonormalize(a: Arguments) -> Any:
    x = a.node(0)
    row, col = two_axes(a, x)
    if col.size is not None and (row.size is None or row.size > col.size):
        x = a.e.ops.slice(x, row.name, 0, col.size)
        row = Axis(row.name, min(row.size, col.size)) if row.size is not None else Axis(row.name)
    others = x.type.without([row.name, col.name])
    x = a.e.ops.transpose(x, [*(axis.name for axis in others), row.name, col.name])
    return linalg(a.e, "orthonormalize", [x], x.type)


def linalg(e: Elaborator, name: str, inputs: list[Node], type_: Type, **options: Any) -> Node:
    return e.ops.make("linalg", inputs, type_, name=name, options=tuple(sorted(options.items())))

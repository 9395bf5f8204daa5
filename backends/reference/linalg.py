"""Linear algebra over two named axes: one table, `LINALG`, name -> function(call) -> (array, names of its axes).

The matrix is the last two axes of the first input, rows before columns in the order of its type; axes before them are lifted (the same
computation for each). The result's axes below are in that order; the node's type may have them in any other, they are matched by name. `r`
(rank) and `eigen` stand for whatever the type calls the axis that the inputs do not have.

    name             inputs           options                  result axes
    singular_vectors x                of: axis, top: k         [.., of, r]    k leading singular vectors of the side `of`
    svd              x                part: u | s | v, top: k  u [.., row, r]; s [.., r]; v [.., col, r]; x = sum_r u s v
    eigenvalues      x symmetric      descending: bool = no    [.., eigen]    ascending
    eigenvectors     x symmetric      descending: bool = no    [.., row, eigen], in the order of `eigenvalues`
    eigenvalue       x symmetric      k, counted from 1        [..]           the k-th smallest; negative k counts from the largest, -1
    moduli           x square                                  [.., eigen]    absolute values of its eigenvalues, descending
    spectral_norm    x                                         [..]           the largest singular value
    identity         like             -                        [row, col]     the type's two axes; `like` only supplies sizes
    pseudo_inverse   x                                         [.., row, col] entry (row i, col j) is x+ at (j, i): see below
    stationary       x                                         [.., row]      left Perron vector of a row-stochastic matrix, sum 1
    with_diagonal    x, d             -                        [.., row, col] d may lack axes, and has one of row and col at most
    matrix_exponential x                                       [.., row, col] exp of a square matrix, by scaling and squaring
    optimum          what is known   part, problem, solver     the type's    a part of the solution of a problem (gradflow/solvers)
    sylvester        q, a, b           -                        [row, col]     x with a x + x b + q = 0; a has row and one more axis, b col
    solve            a, b             -                        [.., col, rest of b]  a x = b, where b has the axis row
    solve_spd        a, b             -                        [.., col, rest of b]  the same for a symmetric and positive definite a
    least_squares    a, b             -                        [.., col, rest of b]  of least norm; singular values below eps * size count as 0
    orthonormalize   x                -                        [.., row, col] Gram-Schmidt of the rows in order; a dependent one becomes 0

`top` left out or None: all; above the smaller side: clamped. Signs are deterministic: each singular pair is turned so that the entry of
largest magnitude of its left vector (the side of the rows; of equal ones, to 1e-6, the first) is positive; each eigenvector likewise. Where
singular values coincide, the vectors themselves are not determined, and not promised. `pseudo_inverse` keeps the names: as a map it goes from row to
col, so by names x+ stands transposed; for the symmetric matrices of graphs the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from gradflow.backends.reference.operations import Array, align, common_sizes, sizes_of
from gradflow.graph.graph import Node

TIE = 1e-6  # entries this close in relative magnitude count as equal when a sign is chosen
DEPENDENT = 1e-6  # what is left of a vector's length by those before it; less than this share counts as nothing
NEW = ""  # stands for the axis that only the result has


@dataclass(frozen=True)
class Call:
    """One call: the node, its arrays, and the matrix (lifted axes first, then row and column) with its names."""

    node: Node
    arrays: tuple[Array, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.node.inputs[0].type.names

    @property
    def lifted(self) -> tuple[str, ...]:
        return self.names[:-2]

    @property
    def matrix(self) -> Array:
        if len(self.names) < 2:
            raise ValueError(f"`{self.node['name']}` needs a matrix, this has the axes {list(self.names)}")
        return self.arrays[0].astype(numpy.float64, copy=False)

    def option(self, name: str, default: Any = None) -> Any:
        value = dict(self.node.get("options", ())).get(name)
        return default if value is None else value


Result = tuple[Array, tuple[str, ...]]


def evaluate(node: Node, *arrays: Array) -> Array:
    """The value of a `linalg` node, dimensions in the order of its type."""
    function = LINALG.get(node["name"])
    if function is None:
        raise ValueError(f"there is no linear algebra called `{node['name']}`")
    try:
        array, names = function(Call(node, arrays))
    except numpy.linalg.LinAlgError as error:
        wrong = any(not numpy.isfinite(one).all() for one in arrays)
        raise ValueError(f"`{node['name']}` of a matrix with entries that are not finite" if wrong else f"`{node['name']}`: {error}") from error
    if NEW in names:
        known = {name for name in names if name != NEW}
        fresh = [name for name in node.type.names if name not in known]
        if len(fresh) != 1:
            raise ValueError(f"`{node['name']}` adds one axis, the type says {list(node.type.names)}")
        names = tuple(fresh[0] if name == NEW else name for name in names)
    return align(array, names, node.type.names)


def turned(vectors: Array) -> Array:
    """Signs [.., r] that make the entry of largest magnitude of each column of `vectors` [.., n, r] positive."""
    size = numpy.abs(vectors)
    if vectors.shape[-2] == 0:
        return numpy.ones((*vectors.shape[:-2], vectors.shape[-1]))
    first = numpy.argmax(size >= size.max(axis=-2, keepdims=True) * (1 - TIE), axis=-2)
    chosen = numpy.take_along_axis(vectors, first[..., None, :], axis=-2)[..., 0, :]
    return numpy.where(chosen < 0, -1.0, 1.0)


def decompose(call: Call) -> tuple[Array, Array, Array]:
    """u [.., row, r], s [.., r], v [.., col, r] of the leading `top` singular triples, signs fixed."""
    u, s, vt = numpy.linalg.svd(call.matrix, full_matrices=False)
    v = numpy.swapaxes(vt, -1, -2)
    signs = turned(u)
    count = min(call.option("top", s.shape[-1]), s.shape[-1])
    return (u * signs[..., None, :])[..., :count], s[..., :count], (v * signs[..., None, :])[..., :count]


def singular_vectors(call: Call) -> Result:
    of = call.option("of")
    if of not in call.names[-2:]:
        raise ValueError(f"`of: {of}` is not an axis of the matrix {list(call.names[-2:])}")
    u, _, v = decompose(call)
    return (u if of == call.names[-2] else v), (*call.lifted, of, NEW)


def svd(call: Call) -> Result:
    u, s, v = decompose(call)
    row, col = call.names[-2:]
    pieces: dict[str, Result] = {"u": (u, (*call.lifted, row, NEW)), "s": (s, (*call.lifted, NEW)), "v": (v, (*call.lifted, col, NEW))}
    return pieces[call.option("part")]


def eigenvalues(call: Call) -> Result:
    values = numpy.linalg.eigvalsh(call.matrix)
    return (values[..., ::-1] if call.option("descending", False) else values), (*call.lifted, NEW)


def eigenvectors(call: Call) -> Result:
    _, vectors = numpy.linalg.eigh(call.matrix)
    vectors = vectors * turned(vectors)[..., None, :]
    return (vectors[..., ::-1] if call.option("descending", False) else vectors), (*call.lifted, call.names[-2], NEW)


def eigenvalue(call: Call) -> Result:
    values = numpy.linalg.eigvalsh(call.matrix)
    k = call.option("k")
    if not 1 <= abs(k) <= values.shape[-1]:
        raise ValueError(f"eigenvalue {k} was asked for, there are {values.shape[-1]}")
    return values[..., k - 1 if k > 0 else k], call.lifted


def moduli(call: Call) -> Result:
    return -numpy.sort(-numpy.abs(numpy.linalg.eigvals(call.matrix))), (*call.lifted, NEW)


def spectral_norm(call: Call) -> Result:
    return numpy.linalg.svd(call.matrix, compute_uv=False).max(axis=-1, initial=0.0), call.lifted


def identity(call: Call) -> Result:
    rows, cols = sizes_of(call.node, common_sizes(call.node, call.arrays))
    return numpy.eye(rows, cols), call.node.type.names


def pseudo_inverse(call: Call) -> Result:
    row, col = call.names[-2:]
    return numpy.linalg.pinv(call.matrix), (*call.lifted, col, row)


def stationary(call: Call) -> Result:
    """pi with pi P = pi and sum 1, from the nonsingular system (1 1' + I - P)' pi = 1; unique where the chain is irreducible."""
    p = call.matrix
    system = 1.0 + numpy.eye(p.shape[-1]) - numpy.swapaxes(p, -1, -2)
    law = numpy.linalg.solve(system, numpy.ones((*p.shape[:-1], 1)))[..., 0]
    return law / law.sum(axis=-1, keepdims=True), call.names[:-1]


def with_diagonal(call: Call) -> Result:
    x = call.matrix.copy()
    place = numpy.arange(min(x.shape[-2:]))
    names, row, col = call.node.inputs[1].type.names, *call.names[-2:]
    renamed = tuple(row if name == col else name for name in names)
    d = numpy.broadcast_to(align(call.arrays[1], renamed, call.names[:-1]), x.shape[:-2] + (len(place),))
    x[..., place, place] = d
    return x, call.names


def system(call: Call, solution: Callable[[Array, Array], Array]) -> Result:
    """A system of equations: `solution(a [.., row, col], b [.., row, k])` is [.., col, k]."""
    common_sizes(call.node, call.arrays)
    row, col = call.names[-2:]
    names = call.node.inputs[1].type.names
    rest = tuple(name for name in names if name not in (*call.lifted, row))
    b = align(call.arrays[1].astype(numpy.float64, copy=False), names, (*call.lifted, row, *rest))
    columns = b.reshape(*b.shape[: len(call.lifted) + 1], -1)
    found = solution(call.matrix, columns)
    return found.reshape(*found.shape[:-1], *b.shape[len(call.lifted) + 1 :]), (*call.lifted, col, *rest)


def solve(call: Call) -> Result:
    return system(call, numpy.linalg.solve)


def solve_spd(call: Call) -> Result:
    """By Cholesky factors, whose failure is what tells that a is not positive definite."""

    def solution(a: Array, b: Array) -> Array:
        lower = numpy.linalg.cholesky(a)
        return numpy.linalg.solve(numpy.swapaxes(lower, -1, -2), numpy.linalg.solve(lower, b))

    return system(call, solution)


def least_squares(call: Call) -> Result:
    small = max(call.matrix.shape[-2:]) * numpy.finfo(numpy.float64).eps
    return system(call, lambda a, b: numpy.linalg.pinv(a, rcond=small) @ b)


def orthonormalize(call: Call) -> Result:
    """Each row less its projections on those before it, twice against round-off, over what is left of its length."""
    x = call.matrix
    found = numpy.zeros_like(x)
    for place in range(x.shape[-2]):
        left = x[..., place, :]
        for _ in range(2):
            left = left - numpy.einsum("...r,...rc->...c", numpy.einsum("...rc,...c->...r", found, left), found)
        size, before = numpy.linalg.norm(left, axis=-1, keepdims=True), numpy.linalg.norm(x[..., place, :], axis=-1, keepdims=True)
        kept = size > DEPENDENT * before
        found[..., place, :] = numpy.where(kept, left / numpy.where(kept, size, 1.0), 0.0)
    return found, call.names


def sylvester(call: Call) -> Result:
    from scipy.linalg import solve_sylvester

    row, col = call.names
    a, b = (node.type.names for node in call.node.inputs[1:])
    left = align(call.arrays[1].astype(numpy.float64), a, (row, *(name for name in a if name != row)))
    right = align(call.arrays[2].astype(numpy.float64), b, (*(name for name in b if name != col), col))
    return solve_sylvester(left, right, -call.matrix), call.names


def matrix_exponential(call: Call) -> Result:
    from scipy.linalg import expm

    x = call.matrix
    return expm(x) if x.size else x, call.names


def optimum(call: Call) -> Result:
    from gradflow.solvers.convex import optimum as solved

    return solved(call.option("problem"), call.option("solver"), call.option("part"), call.arrays), call.node.type.names


LINALG: dict[str, Callable[[Call], Result]] = {
    "singular_vectors": singular_vectors, "svd": svd, "eigenvalues": eigenvalues, "eigenvectors": eigenvectors, "eigenvalue": eigenvalue,
    "moduli": moduli, "spectral_norm": spectral_norm, "identity": identity, "pseudo_inverse": pseudo_inverse, "stationary": stationary,
    "with_diagonal": with_diagonal, "sylvester": sylvester, "matrix_exponential": matrix_exponential, "optimum": optimum, "solve": solve,
    "solve_spd": solve_spd, "least_squares": least_squares, "orthonormalize": orthonormalize,
}  # fmt: skip

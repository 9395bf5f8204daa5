"""Synthetic problems whose optimum is known: least squares spread over nodes, for methods that communicate.

Fields carry the axis `node` themselves (a node's rows are its own function), so rows are not divided: `divide` is None. Everything is drawn
from the parameter `seed`, not from the seed of the run: the problem stays the same over repeated runs. `best` is the minimizer of the mean
of the nodes' functions; facts that a method needs (`strong`, `smooth`, `noise`) are known before anything is drawn.

Axes: node, row (of a node's matrix), coordinate (of the unknown x).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradflow.library.catalogue import DataSpec, FieldSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.splits import divide_rows


def normals(shape: tuple[int, ...], seed: int, what: str) -> Any:
    """Standard normal float64 of this shape; `what` tells the draws of one problem apart."""
    return random.normal(random.key(seed, what), numpy.arange(int(numpy.prod(shape)))).reshape(shape)


def orthonormal(rows: int, columns: int, seed: int, what: str) -> Any:
    """[rows, columns] with orthonormal columns, uniformly drawn: Gram-Schmidt of normals, signs fixed so that it is unique."""
    q, r = numpy.linalg.qr(normals((rows, columns), seed, what))
    return q * numpy.where(numpy.diag(r) < 0, -1.0, 1.0)


@primitive(
    "data",
    nodes="int >= 1",
    dim="int >= 1",
    condition="real >= 1",
    rows="int >= 1 | all",
    spread="real >= 0",
    basis="shared | own",
    seed="int >= 0",
)
def random_least_squares(
    nodes: int = 8, dim: int = 10, condition: float = 1000.0, rows: int | str = "all", spread: float = 3.0, basis: str = "shared", seed: int = 0
) -> DataSpec:
    """Least squares of an exact condition number: f_i(x) = 1/2 |a_i x - b_i|^2 over rows, with eigenvalues of a_i^T a_i from 1/condition to 1.

    a real[node, row, coordinate] = U_i diag(sqrt(geomspace(1/condition, 1, dim))) Q_i and b real[node, row] ~ spread * normal;
    best real[coordinate]. Q is a random rotation that all nodes share, or each has its `own` (then their mean is better conditioned
    than each). `rows: all` is dim rows with U = 1; more rows get a random U_i with orthonormal columns.
    Facts: `strong` = 1/condition and `smooth` = 1, of every node. The problem of DADAO's comparison (arXiv:2208.00779).
    """
    height = dim if rows == "all" else int(rows)
    if height < dim:
        raise ValueError(f"random_least_squares: {height} rows do not determine {dim} coordinates")

    def load() -> Mapping[str, Mapping[str, Any]]:
        roots = numpy.sqrt(numpy.geomspace(1 / condition, 1.0, dim))
        turns = [orthonormal(dim, dim, seed, f"rotation {i if basis == 'own' else 0}").T for i in range(nodes)]
        frames = [numpy.eye(dim) if height == dim else orthonormal(height, dim, seed, f"rows {i}") for i in range(nodes)]
        a = numpy.stack([frame * roots @ turn for frame, turn in zip(frames, turns)])
        b = spread * normals((nodes, height), seed, "b")
        best = numpy.linalg.solve(numpy.einsum("nrc,nrd->cd", a, a), numpy.einsum("nrc,nr->c", a, b))
        return {"train": {"a": a, "b": b, "best": best}}

    fields = {
        "a": FieldSpec("real", (("node", nodes), ("row", height), ("coordinate", dim))),
        "b": FieldSpec("real", (("node", nodes), ("row", height))),
        "best": FieldSpec("real", (("coordinate", dim),)),
    }
    facts = {"nodes": nodes, "dim": dim, "strong": 1 / condition, "smooth": 1.0}
    return DataSpec("random_least_squares", ("train",), {"train": fields}, load, facts=facts)


@primitive("data", nodes="int >= 1", dim="int >= 1", shift="real >= 0", noise="real >= 0", seed="int >= 0")
def heterogeneous_quadratics(nodes: int = 10, dim: int = 50, shift: float = 10.0, noise: float = 5.0, seed: int = 0) -> DataSpec:
    """Quadratics that pull in different directions: f_i(x) = 1/2 |a_i x - b_i|^2, i = 1 .. nodes, where stale or compressed gradients show.

    a real[node] = i / sqrt(nodes); b real[node, coordinate] ~ shift / i * normal; best real[coordinate]. The gradient at node i is
    a_i (a_i x - b_i); a spec adds `data.noise * normal([coordinate])` to it. Facts: `noise` = noise / sqrt(dim), the standard deviation of a
    coordinate (so `noise` is that of the whole vector), `strong` and `smooth`, both the mean of a_i^2. The toy of the comparison of
    EControl (arXiv:2311.05645) with error feedback.
    """
    scales = [(i + 1) / nodes**0.5 for i in range(nodes)]
    curvature = sum(scale**2 for scale in scales) / nodes

    def load() -> Mapping[str, Mapping[str, Any]]:
        a = numpy.array(scales)
        b = shift / numpy.arange(1, nodes + 1)[:, None] * normals((nodes, dim), seed, "b")
        return {"train": {"a": a, "b": b, "best": a @ b / (a @ a)}}

    fields = {
        "a": FieldSpec("real", (("node", nodes),)),
        "b": FieldSpec("real", (("node", nodes), ("coordinate", dim))),
        "best": FieldSpec("real", (("coordinate", dim),)),
    }
    facts = {"nodes": nodes, "dim": dim, "noise": noise / dim**0.5, "strong": curvature, "smooth": curvature}
    return DataSpec("heterogeneous_quadratics", ("train",), {"train": fields}, load, facts=facts)


@primitive("data", nodes="int >= 1", dim="int >= 1", spread="real >= 0", seed="int >= 0")
def mixed_quadratics(nodes: int = 5, dim: int = 20, spread: float = 5.0, seed: int = 0) -> DataSpec:
    """Quadratics on the unit cube, shared out unevenly: with p = 20 clip(x, 0, 1) - 10, f_i(x) = 0.1 / dim (square_i . p^2 + linear_i . p + 1).

    square, linear real[node, coordinate] = 1 + spread (Dirichlet(1 / nodes) - 1 / nodes) over the nodes of each coordinate, so both are 1 in the
    mean and F(x) = mean of f_i does not depend on the spread; start real[coordinate] uniform in the cube; best real[coordinate] = 0.475, the
    minimizer of F. Fact: `least` = F(best). The synthetic objective of FZooS (arXiv:2308.04077), which asks for values alone.
    """

    def load() -> Mapping[str, Mapping[str, Any]]:
        from scipy.special import gammaincinv

        def shares(what: str) -> Any:
            uniforms = random.uniform(random.key(seed, what), numpy.arange(nodes * dim)).reshape(nodes, dim)
            parts = numpy.maximum(gammaincinv(1 / nodes, uniforms), 1e-300)  # gamma variates: their shares are Dirichlet(1 / nodes)
            return 1 + spread * (parts / parts.sum(0) - 1 / nodes)

        start = random.uniform(random.key(seed, "start"), numpy.arange(dim))
        return {"train": {"square": shares("square"), "linear": shares("linear"), "start": start, "best": numpy.full(dim, 0.475)}}

    every, own = (("node", nodes), ("coordinate", dim)), (("coordinate", dim),)
    fields = {"square": FieldSpec("real", every), "linear": FieldSpec("real", every), "start": FieldSpec("real", own), "best": FieldSpec("real", own)}
    facts = {"nodes": nodes, "dim": dim, "least": 0.1 / dim * (1 - dim / 4)}
    return DataSpec("mixed_quadratics", ("train",), {"train": fields}, load, facts=facts)


@primitive("data", rows="int >= 1", dim="int >= 1", radius="real > 0", seed="int >= 0")
def logistic_labels(rows: int = 8000, dim: int = 20, radius: float = 3.0, seed: int = 0) -> DataSpec:
    """Labels by chance from a linear score: rows evenly on a sphere, y = 1 with probability sigmoid(x . w), else 0, for normal weights w.

    x real[sample, feature], of length `radius`, which bounds the gradient of any loss of a linear score; y real[sample]. The toy of the
    experiment on private gradient differences (arXiv:2302.03884).
    """

    def load() -> Mapping[str, Mapping[str, Any]]:
        x = normals((rows, dim), seed, "x")
        x = radius * x / numpy.linalg.norm(x, axis=1, keepdims=True)
        chance = 1 / (1 + numpy.exp(-x @ normals((dim,), seed, "w")))
        return {"train": {"x": x, "y": (random.uniform(random.key(seed, "y"), numpy.arange(rows)) < chance).astype(numpy.float64)}}

    def divide(nodes: int) -> list[Any]:
        return divide_rows(nodes, load()["train"]["y"], "iid")

    fields = {"x": FieldSpec("real", (("sample", rows), ("feature", dim))), "y": FieldSpec("real", (("sample", rows),))}
    return DataSpec("logistic_labels", ("train",), {"train": fields}, load, divide=divide, facts={"features": dim})

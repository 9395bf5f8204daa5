"""Linear algebra at run time: the counterpart of `backends/reference/linalg.py`, on tensors, and how a node asks for it.

One table, name -> (function, axes of its result); the contract of every entry (inputs, options, signs, order) is the table in the reference's
docstring. The matrix is the last two dimensions, [.., row, col]. `NEW` stands for the axis that only the result has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradflow.backends.torch.emit import Writer, aligned, permuted
from gradflow.graph.graph import Node

TIE = 1e-6  # entries this close in relative magnitude count as equal when a sign is chosen
DEPENDENT = 1e-6
NEW = ""
Options = Mapping[str, Any]


# ---- factorizations


def _turned(vectors: Tensor) -> Tensor:
    """Signs [.., 1, r] that make the entry of largest magnitude of each column of [.., n, r] positive."""
    if vectors.shape[-2] == 0:
        return torch.ones_like(vectors.sum(-2, keepdim=True))
    size = vectors.abs()
    first = (size >= size.amax(-2, keepdim=True) * (1 - TIE)).int().argmax(-2, keepdim=True)
    chosen = vectors.take_along_dim(first, -2)
    return torch.where(chosen < 0, -torch.ones_like(chosen), torch.ones_like(chosen))


def decompose(x: Tensor, top: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """u [.., row, r], s [.., r], v [.., col, r] of the leading `top` singular triples, signs fixed by the left vectors."""
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    v, signs = vt.mT, _turned(u)
    count = s.shape[-1] if top is None else min(top, s.shape[-1])
    return (u * signs)[..., :count], s[..., :count], (v * signs)[..., :count]


def _eigenvalues(options: Options, x: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(x)
    return values.flip(-1) if options.get("descending") else values


def _eigenvectors(options: Options, x: Tensor) -> Tensor:
    _, vectors = torch.linalg.eigh(x)
    vectors = vectors * _turned(vectors)
    return vectors.flip(-1) if options.get("descending") else vectors


def _eigenvalue(options: Options, x: Tensor) -> Tensor:
    k, values = options["k"], torch.linalg.eigvalsh(x)
    if not 1 <= abs(k) <= values.shape[-1]:
        raise ValueError(f"eigenvalue {k} was asked for, there are {values.shape[-1]}")
    return values[..., k - 1 if k > 0 else k]


def _moduli(options: Options, x: Tensor) -> Tensor:
    return torch.linalg.eigvals(x).abs().sort(-1, descending=True).values


def _spectral_norm(options: Options, x: Tensor) -> Tensor:
    return torch.linalg.svdvals(x)[..., 0]


# ---- inverses, systems, diagonals


def _identity(options: Options, like: Tensor) -> Tensor:
    rows, cols = options["sizes"]
    return torch.eye(rows, cols, dtype=options["dtype"], device=options["device"])


def _pseudo_inverse(options: Options, x: Tensor) -> Tensor:
    return torch.linalg.pinv(x)


def _stationary(options: Options, p: Tensor) -> Tensor:
    """pi with pi P = pi and sum 1, from the nonsingular system (1 1' + I - P)' pi = 1."""
    size = p.shape[-1]
    system = 1.0 + torch.eye(size, dtype=p.dtype, device=p.device) - p.mT
    law = torch.linalg.solve(system, torch.ones_like(p[..., :1])).squeeze(-1)
    return law / law.sum(-1, keepdim=True)


def _with_diagonal(options: Options, x: Tensor, d: Tensor) -> Tensor:
    """`d` stands along the rows."""
    x = x.clone()
    x.diagonal(dim1=-2, dim2=-1).copy_(d)
    return x


def _system(solution: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Options, Tensor, Tensor], Tensor]:
    """a [.., row, col] x = b [.., row, rest..]."""

    def run(options: Options, a: Tensor, b: Tensor) -> Tensor:
        lead = a.dim() - 2
        found = solution(a, b.reshape(*b.shape[: lead + 1], -1))
        return found.reshape(*found.shape[: lead + 1], *b.shape[lead + 1 :])

    return run


def _pinv(a: Tensor) -> Tensor:
    return torch.linalg.pinv(a, rtol=max(a.shape[-2:]) * torch.finfo(a.dtype).eps)


def _orthonormalize(options: Options, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    for vector in x.unbind(-2):
        left = vector
        for _ in range(2 if found else 0):
            basis = torch.stack(found, -2)
            left = left - ((basis @ left.unsqueeze(-1)).mT @ basis).squeeze(-2)
        size = torch.linalg.vector_norm(left, dim=-1, keepdim=True)
        kept = size > DEPENDENT * torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        found.append(torch.where(kept, left / torch.where(kept, size, torch.ones_like(size)), torch.zeros_like(left)))
    return torch.stack(found, -2)


SYSTEMS = ("solve", "solve_spd", "least_squares")  # those with a right side


def _sylvester(options: Options, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x [row, col] with a x + x b + q = 0: one linear system in all entries of x."""
    rows, cols = (torch.eye(n, dtype=q.dtype, device=q.device) for n in q.shape)
    return -torch.linalg.solve(torch.kron(a.contiguous(), cols) + torch.kron(rows, b.mT.contiguous()), q.reshape(-1)).reshape(q.shape)


def _matrix_exponential(options: Options, x: Tensor) -> Tensor:
    """In float64 whatever the precision: what flows between events is exact, and a small matrix costs nothing."""
    return torch.linalg.matrix_exp(x.double()).to(x.dtype)


def _optimum(options: Options, *known: Tensor) -> Tensor:
    """Part of the solution of a problem: numbers of a solver, so on the CPU and in float64."""
    from gradflow.solvers.convex import optimum

    arrays = tuple(one.detach().cpu().numpy() for one in known)
    found = optimum(options["problem"], options["solver"], options["part"], arrays)
    return torch.as_tensor(found, dtype=options["dtype"], device=known[0].device)


# name: (function, axes of the result out of (lifted, row, col) and the node)
LINALG: dict[str, tuple[Callable[..., Tensor], Callable[..., tuple[str, ...]]]] = {
    "eigenvalues": (_eigenvalues, lambda lifted, row, col, node: (*lifted, NEW)),
    "eigenvectors": (_eigenvectors, lambda lifted, row, col, node: (*lifted, row, NEW)),
    "eigenvalue": (_eigenvalue, lambda lifted, row, col, node: lifted),
    "moduli": (_moduli, lambda lifted, row, col, node: (*lifted, NEW)),
    "spectral_norm": (_spectral_norm, lambda lifted, row, col, node: lifted),
    "identity": (_identity, lambda lifted, row, col, node: node.type.names),
    "pseudo_inverse": (_pseudo_inverse, lambda lifted, row, col, node: (*lifted, col, row)),
    "stationary": (_stationary, lambda lifted, row, col, node: (*lifted, row)),
    "with_diagonal": (_with_diagonal, lambda lifted, row, col, node: (*lifted, row, col)),
    "sylvester": (_sylvester, lambda lifted, row, col, node: (row, col)),
    "solve": (_system(torch.linalg.solve), lambda lifted, row, col, node: (*lifted, col, *_rest(node))),
    "solve_spd": (
        _system(lambda a, b: torch.cholesky_solve(b, torch.linalg.cholesky(a))),
        lambda lifted, row, col, node: (*lifted, col, *_rest(node)),
    ),
    "least_squares": (_system(lambda a, b: _pinv(a) @ b), lambda lifted, row, col, node: (*lifted, col, *_rest(node))),
    "orthonormalize": (_orthonormalize, lambda lifted, row, col, node: (*lifted, row, col)),
    "matrix_exponential": (_matrix_exponential, lambda lifted, row, col, node: (*lifted, row, col)),
    "optimum": (_optimum, lambda lifted, row, col, node: node.type.names),
}


def linalg(name: str, options: Options, *tensors: Tensor) -> Tensor:
    """Runs one entry of the table."""
    try:
        return LINALG[name][0](options, *tensors)
    except torch.linalg.LinAlgError as error:
        wrong = any(not one.isfinite().all() for one in tensors)
        raise ValueError(f"`{name}` of a matrix with entries that are not finite" if wrong else f"`{name}`: {error}") from error


# ---- text


def emit_linalg(w: Writer, node: Node) -> str:
    """A call of `linalg`, its result brought to the node's axes. Factorizations are shared by several nodes: see `emit_part`."""
    name, options = node["name"], dict(node.get("options", ()))
    if name not in LINALG:
        raise ValueError(f"there is no linear algebra called `{name}` (from {node.span})")
    if name == "optimum":
        known = ", ".join(w.tensor(below) for below in node.inputs)
        given = ", ".join(f"{key!r}: {w.constant(value, 'option')}" for key, value in options.items())
        return f"linalg('optimum', {{{given}, 'dtype': real}}, {known})"
    first = node.inputs[0]
    texts = [w.tensor(first) if name == "identity" else w.tensor(first, "real")]
    *lifted, row, col = first.type.names if name != "identity" else node.type.names
    if name == "with_diagonal":
        d = node.inputs[1]
        along = tuple(row if n == col else n for n in d.type.names)
        texts.append(w.tensor(d, "real") if w.is_host(d) else aligned(w.tensor(d, "real"), along, (*lifted, row)))
    if name == "sylvester":
        a, b = node.inputs[1:]
        texts.append(w.align(a, (row, *(n for n in a.type.names if n != row)), "real"))
        texts.append(w.align(b, (*(n for n in b.type.names if n != col), col), "real"))
    if name in SYSTEMS:
        texts.append(w.align(node.inputs[1], (*lifted, row, *_rest(node)), "real"))
    given = ", ".join(f"{key!r}: {w.constant(value, 'option')}" for key, value in options.items())
    if name == "identity":
        given = f"'sizes': ({w.size(node, row)}, {w.size(node, col)}), 'dtype': real, 'device': device"
    names = _named(LINALG[name][1](tuple(lifted), row, col, node), node)
    return permuted(f"linalg({name!r}, {{{given}}}, {', '.join(texts)})", names, node.type.names)


def factorization(node: Node) -> tuple[Any, ...] | None:
    """What nodes that come out of one decomposition have in common; None for all others."""
    if node.op != "linalg" or node["name"] not in ("svd", "singular_vectors"):
        return None
    return "svd", node.inputs[0].id, dict(node.get("options", ())).get("top")


def emit_part(node: Node, names: tuple[str, str, str]) -> str:
    """One factor out of u, s, v, by their names in the source."""
    u, s, v = names
    *lifted, row, col = node.inputs[0].type.names
    options = dict(node["options"])
    if node["name"] == "singular_vectors":
        part = "u" if options["of"] == row else "v"
    else:
        part = options["part"]
    text, axes = {"u": (u, (*lifted, row, NEW)), "s": (s, (*lifted, NEW)), "v": (v, (*lifted, col, NEW))}[part]
    return permuted(text, _named(axes, node), node.type.names)


def _named(axes: tuple[str, ...], node: Node) -> tuple[str, ...]:
    fresh = next((n for n in node.type.names if n not in axes), NEW)
    return tuple(fresh if n == NEW else n for n in axes)


def _rest(node: Node) -> tuple[str, ...]:
    *lifted, row, _ = node.inputs[0].type.names
    return tuple(n for n in node.inputs[1].type.names if n not in (*lifted, row))

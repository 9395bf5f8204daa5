"""Facts of a topology that are numbers: what the checker compares needs with and `plan` shows. Computed only where somebody asks.

W: the mixing weights [node, from]; J: all entries 1/n; L: the Laplacian over |links| (link rates that sum to 1), L+ its pseudo-inverse.

    contraction  rho = ||W - J||_2: one gossip step shrinks the distance from consensus by it; the spectral gap is 1 - rho
    slem         the second largest |eigenvalue| of W
    chi_1        1 / lambda_2(L): how slow the slowest disagreement is
    chi_2        half the largest effective resistance of a link, (e_i - e_j)' L+ (e_i - e_j) / 2; at most chi_1

Up to `SMALL` nodes by dense matrices; above them by sparse ones, where what would take too long stays None. Of a sequence of graphs the union
counts as connected, weights must be doubly stochastic in every round, and rho is that of a round on average: ||product of W_t - J||^(1/K).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradflow.graph.graph import Node
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.topologies.edges import Factors, arcs_of

SMALL = 1500
DRAWN = 60  # nodes up to which links are kept, to be drawn
EXACT = 1e-9
FEW = 11  # entries a row


@dataclass(frozen=True)
class Facts:
    """`worst_sum`: the row or column of the weights whose sum is farthest from 1, and that sum. `hub`: all of
    them hear a server that is no node. `factors`: of a product. `edges`: of small graphs."""

    nodes: int
    links: int
    directed: bool
    connected: bool
    components: int
    diameter: int | None
    central: bool
    doubly_stochastic: bool
    row_error: float
    column_error: float
    worst_column: int
    contraction: float | None
    slem: float | None
    connectivity: float | None
    chi_1: float | None
    chi_2: float | None
    degree_least: int
    degree_most: int
    weights: str
    rounds: int = 1
    hub: bool = False
    factors: tuple[int, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()

    @property
    def gap(self) -> float | None:
        return None if self.contraction is None else 0.0 if abs(1 - self.contraction) < 1e-14 else 1 - self.contraction

    def holds(self, name: str) -> bool:
        return {"connected": self.connected, "central": self.connected, "doubly_stochastic": self.doubly_stochastic}.get(name, True)

    def why(self, name: str) -> str:
        """The number that fails."""
        if self.hub:
            return "its nodes hear a hub that is none of them, and never one another"
        if name in ("connected", "central") and self.components > 1:
            return f"it falls into {self.components} parts that never hear of each other: lambda_2 of its Laplacian is 0"
        if name in ("connected", "central"):
            return "some node never hears of another: links go one way, and not back by any path"
        return (
            f"the columns of its weights sum to 1 only within {self.column_error:.2g} (node {self.worst_column}'s is the worst), "
            f"its rows within {self.row_error:.2g}: every step of gossip moves the average"
        )

    def fix(self, name: str) -> str:
        if self.hub:
            return "use an exchange over a center, such as `average()`; or a hub that is a node"
        if name in ("connected", "central"):
            return "link the parts" if self.components > 1 else "add links back"
        return "use `weights: metropolis()`"


def stated(topology: v.Topology, name: str) -> bool:
    """Whether a property is known without computing: it was stated, or it holds by construction (Metropolis weights of an undirected graph)."""
    if name in topology.gives or (name == "central" and "connected" in topology.gives):
        return True
    return name == "doubly_stochastic" and topology.weights is None and "weights" not in topology.options and not topology.directed


def facts(e: Elaborator, topology: v.Topology) -> Facts | None:
    """None where the topology depends on data, or on the clock without an end."""
    if topology.nodes is None or not (topology.constant or topology.rounds):
        return None
    cache: dict[Any, Facts] = e.constants.setdefault("topology facts", {})
    key = (topology.adjacency.id, weights_name(topology), getattr(topology.weights, "id", 0))
    if key not in cache:
        cache[key] = _facts(e, topology) if topology.constant else _of_rounds(e, topology)
    return cache[key]


def weights_name(topology: v.Topology) -> str:
    function = topology.options.get("weights")
    if topology.weights is not None or isinstance(function, Node):
        return "its own weights"
    return str(getattr(function, "name", "")) or ("metropolis" if function is None else "weights of its own")


# ---- one graph


def _facts(e: Elaborator, topology: v.Topology) -> Facts:
    import numpy
    from scipy.sparse import coo_array, csgraph

    n = topology.nodes or 0
    sender, receiver = arcs_of(e, topology)
    heard = coo_array((numpy.ones(len(sender)), (receiver, sender)), shape=(n, n)).tocsr()
    parts = int(csgraph.connected_components(heard, directed=True, connection="weak")[0])
    strong = parts == 1 and (not topology.directed or csgraph.connected_components(heard, directed=True, connection="strong")[0] == 1)
    degrees = heard.sum(axis=1)
    once = slice(None) if topology.directed else sender < receiver
    small = n <= SMALL
    w = mixing(e, topology, heard)
    rows, columns = (abs(w.sum(axis=axis) - 1) for axis in (1, 0)) if w is not None else (numpy.zeros(n), numpy.zeros(n))
    rho = contraction(w)
    connectivity, chi_1, chi_2 = delays(heard, topology.directed, parts)
    return Facts(
        nodes=n, links=len(sender[once]), directed=topology.directed, connected=bool(strong), components=parts,
        diameter=int(csgraph.shortest_path(heard, unweighted=True).max()) if strong and small and n else None,
        central=n == 1 or bool((degrees == n - 1).any()), doubly_stochastic=bool(max(rows.max(), columns.max()) < EXACT),
        row_error=float(rows.max()), column_error=float(columns.max()), worst_column=int(columns.argmax()),
        contraction=rho, slem=second_modulus(w) if small else rho, connectivity=connectivity, chi_1=chi_1, chi_2=chi_2,
        degree_least=int(degrees.min()), degree_most=int(degrees.max()), weights=weights_name(topology),
        hub=served(topology, len(sender)), factors=factors(topology),
        edges=tuple(zip(sender[once].tolist(), receiver[once].tolist(), strict=True)) if n <= DRAWN else (),
    )  # fmt: skip


def served(topology: v.Topology, arcs: int) -> bool:
    """Central without a link: all nodes talk to a hub that is none of them."""
    return not arcs and "central" in topology.gives and "connected" not in topology.gives


def factors(topology: v.Topology) -> tuple[int, ...]:
    """The numbers of nodes of what a product is made of, the last counting fastest."""
    if isinstance(topology.listing, Factors):
        return factors(topology.listing.first) + factors(topology.listing.second)
    return (topology.nodes or 0,)


def mixing(e: Elaborator, topology: v.Topology, heard: Any) -> Any:
    """W: an array for a small graph, sparse for a large one with Metropolis weights, None for other large ones."""
    import numpy
    from scipy.sparse import coo_array, diags_array

    from gradflow.passes.constants import compute
    from gradflow.topologies.links import weights_of

    if heard.shape[0] <= SMALL:
        return compute(weights_of(e, topology, e.ops.span))[0]
    if weights_name(topology) != "metropolis":
        return None
    degrees, pairs = heard.sum(axis=1), heard.tocoo()
    values = 1 / (1 + numpy.maximum(degrees[pairs.row], degrees[pairs.col]))
    off = coo_array((values, (pairs.row, pairs.col)), shape=heard.shape).tocsr()
    return (off + diags_array(1 - off.sum(axis=1))).tocsr()


def is_dense(w: Any) -> bool:
    import numpy

    return isinstance(w, numpy.ndarray)


def symmetric(w: Any) -> bool:
    return bool(abs(w - w.T).max() < EXACT)


def contraction(w: Any) -> float | None:
    import numpy

    if w is None:
        return None
    if not is_dense(w):
        return _sparse_modulus(w) if symmetric(w) else None
    apart = w - 1 / len(w)
    return float(abs(numpy.linalg.eigvalsh(apart)).max() if symmetric(w) else numpy.linalg.norm(apart, 2))


def second_modulus(w: Any) -> float | None:
    """Of a dense W; of a sparse one, which is symmetric, it is `contraction`."""
    import numpy

    if len(w) == 1:
        return 0.0
    if symmetric(w):
        return float(numpy.sort(abs(numpy.linalg.eigvalsh(w)))[-2])
    return float(numpy.sort(abs(numpy.linalg.eigvals(w)))[-2]) if len(w) <= SMALL // 3 else None


def _sparse_modulus(w: Any) -> float:
    """The largest |eigenvalue| of W - J for a symmetric sparse W with W 1 = 1: the larger of both ends of its spectrum without the eigenvalue 1."""
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import eigsh

    slowest = 1 - least(eye_array(w.shape[0]) - w, 2)
    low = float(eigsh(w, k=1, which="SA", v0=_start(w.shape[0]), tol=1e-3, return_eigenvectors=False)[0])  # to 1e-3: it is seldom the larger one
    if abs(low) + 2e-3 < abs(slowest):
        return abs(slowest)
    return max(abs(slowest), abs(float(eigsh(w, k=1, which="SA", v0=_start(w.shape[0]), return_eigenvectors=False)[0])))


def _start(n: int) -> Any:
    import numpy

    return numpy.random.default_rng(0).normal(size=n)


def least(matrix: Any, k: int) -> float:
    """The k-th smallest eigenvalue of a sparse positive semidefinite matrix, k = 1 or 2. Graphs with few links a node have small separators, so
    that inverting costs little; the others mix well, so that Lanczos' method is quick (with more vectors than are needed: it may skip one)."""
    import numpy
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = matrix.shape[0]
    if matrix.nnz > FEW * n:
        try:
            return float(numpy.sort(eigsh(matrix, k=6, ncv=min(80, n), which="SA", v0=_start(n), maxiter=30, return_eigenvectors=False))[k - 1])
        except ArpackNoConvergence:
            pass
    shifted = (matrix + 1e-9 * eye_array(n)).tocsc()
    return float(numpy.sort(eigsh(shifted, k=3, sigma=0, which="LM", v0=_start(n), return_eigenvectors=False))[k - 1]) - 1e-9


def delays(heard: Any, directed: bool, parts: int) -> tuple[float | None, float | None, float | None]:
    """(lambda_2 of the plain Laplacian, chi_1, chi_2 of the one whose link rates sum to 1); None where directed; infinite delays are None too."""
    import numpy
    from scipy.sparse import csgraph

    n, links = heard.shape[0], heard.nnz / 2
    if directed:
        return None, None, None
    if parts > 1:
        return 0.0, None, None
    if n == 1:
        return None, None, None
    plain = csgraph.laplacian(heard).tocsr()
    if n > SMALL:
        second = least(plain, 2)
        return second, links / second, None
    values, vectors = numpy.linalg.eigh(plain.toarray())
    scaled = vectors[:, 1:] / numpy.sqrt(values[1:])
    pairs = heard.tocoo()
    apart = scaled[pairs.row] - scaled[pairs.col]
    return float(values[1]), float(links / values[1]), float(links * (apart**2).sum(axis=1).max() / 2)


# ---- a sequence of graphs


def _of_rounds(e: Elaborator, topology: v.Topology) -> Facts:
    import numpy

    from gradflow.passes.constants import compute
    from gradflow.topologies.links import weights_of
    from gradflow.topologies.sequences import rounds_of, union

    parts = rounds_of(e, topology)
    whole = _facts(e, union(e, topology))
    each = [facts(e, part) for part in parts]
    found = [one for one in each if one is not None]
    factor: float | None = None
    if whole.nodes <= SMALL // 3:
        product = numpy.eye(whole.nodes)
        for w in compute(*(weights_of(e, part, e.ops.span) for part in parts)):
            product = w @ product
        factor = float(numpy.linalg.norm(product - 1 / whole.nodes, 2) ** (1 / len(parts))) if len(parts) else None
    worst = max(found, key=lambda one: max(one.row_error, one.column_error))
    return Facts(**{
        **vars(whole), "central": False, "doubly_stochastic": all(one.doubly_stochastic for one in found), "row_error": worst.row_error,
        "column_error": worst.column_error, "worst_column": worst.worst_column, "contraction": factor, "slem": None, "rounds": len(parts),
        "degree_least": min(one.degree_least for one in found), "degree_most": max(one.degree_most for one in found),
        "weights": worst.weights,
    })  # fmt: skip

"""FZooS and its baselines against a walk in numpy where shapes are odd: single clients, steps and coordinates, nothing asked first, flat values.

Axes: N clients, R rounds, T local steps, q directions, D coordinates, M features.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.verify.vectors import compute

Inputs = dict[str, numpy.ndarray]
backends = pytest.mark.parametrize("backend", ["reference", "torch"])
METHODS = ("fedzo", "fedprox", "scaffold1", "scaffold2", "fzoos")


def orthonormal(rows: numpy.ndarray) -> numpy.ndarray:
    """Gram-Schmidt, at most as many rows as coordinates."""
    q, r = numpy.linalg.qr(rows[: rows.shape[1]].T)
    return (q * numpy.sign(numpy.diag(r))).T


def surrogate_slope(z: numpy.ndarray, x: numpy.ndarray, y: numpy.ndarray, kernel: str, length: float, noise: float) -> numpy.ndarray:
    def kernels(square: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        if kernel == "rbf":
            value = numpy.exp(-square / (2 * length**2))
            return value, value / length**2
        s = numpy.sqrt(5 * square) / length
        return (1 + s + s**2 / 3) * numpy.exp(-s), 5 / (3 * length**2) * (1 + s) * numpy.exp(-s)

    gram = kernels(((x[:, None] - x[None]) ** 2).sum(-1))[0] + noise * numpy.eye(len(x))
    weights = numpy.linalg.solve(gram, (y - y.min()) / (numpy.ptp(y) + 1e-20))
    return numpy.ptp(y) * -(kernels(((z - x) ** 2).sum(-1))[1] * weights) @ (z - x)


class Client:
    """What one client asks and remembers."""

    def __init__(self, n: int, p: Inputs, o: dict[str, Any]) -> None:
        self.n, self.p, self.o = n, p, o
        self.x: list[numpy.ndarray] = []
        self.own = numpy.zeros_like(p.get("random_offset", numpy.zeros(1)))
        self.control = numpy.zeros_like(p["x0"])

    def value(self, x: numpy.ndarray) -> float:
        return float(0.5 * ((self.p["A"][self.n] @ x - self.p["b"][self.n]) ** 2).sum())

    def nearest(self, z: numpy.ndarray, count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        x = numpy.array(self.x)
        x = x[numpy.argsort(((x - z) ** 2).sum(-1), kind="stable")[:count]]
        return x, numpy.array([self.value(one) for one in x])

    def differences(self, z: numpy.ndarray, rows: numpy.ndarray) -> numpy.ndarray:
        u = orthonormal(rows)
        return numpy.mean([(self.value(z + 0.01 * one) - self.value(z)) / 0.01 * one for one in u], axis=0)

    def features(self, x: numpy.ndarray) -> numpy.ndarray:
        return numpy.sqrt(2 / len(self.own)) * numpy.cos(x @ self.p["random_weights"] + self.p["random_offset"])

    def fit(self, x: numpy.ndarray) -> None:
        self.x.append(x)
        near, y = self.nearest(x, self.o["max_queries_rff"])
        phi, scaled = self.features(near), (y - y.min()) / (numpy.ptp(y) + 1e-20)
        ridge = self.o["ridge_sigma2"]
        fitted = phi.T @ numpy.linalg.solve(phi @ phi.T + ridge * numpy.eye(len(y)), scaled) if ridge else numpy.linalg.pinv(phi) @ scaled
        self.own = numpy.ptp(y) * fitted

    def local(self, r: int, x: numpy.ndarray, shared: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Where it ends after its local steps, and the mean of its estimates."""
        z, m, v, found, o = x, 0.0, 0.0, [], self.o
        self.x += [x] if o["method"] == "fzoos" else []
        for t in range(1, o["local_steps"] + 1):
            if o["method"] == "fzoos":
                g = surrogate_slope(z, *self.nearest(z, o["max_queries"]), o["kernel"], o["lengthscale"], o["noise_var"])
                omega, phase = self.p["random_weights"], self.p["random_offset"]
                gap = (shared - self.own) * -numpy.sin(z @ omega + phase) * numpy.sqrt(2 / len(phase))
                g = g + (omega @ gap / t if r else 0)
            else:
                g = self.differences(z, self.p["U"][r, self.n, t - 1])
                found.append(g)
                g = g + {"fedprox": o["prox_mu"] * (z - x), "fedzo": 0}.get(o["method"], shared - self.control) * (r > 0)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            step = m / (1 - 0.9**t) / (numpy.sqrt(v / (1 - 0.999**t)) + 1e-8) if o["local_opt"] == "adam" else g
            z = z - o["lr"] * step
            if o["method"] == "fzoos":
                self.x += [z, *(z + self.p["active_offsets"][r, self.n, t - 1] if t < o["local_steps"] else [])]
        return z, numpy.mean(found, axis=0) if found else numpy.zeros_like(x)


def walk(p: Inputs, o: dict[str, Any]) -> dict[str, numpy.ndarray]:
    clients = [Client(n, p, o) for n in range(len(p["weights"]))]
    for client in clients if o["method"] == "fzoos" else ():
        client.x += list(p["init_queries"][client.n])
    x, shared = p["x0"], numpy.zeros(1)
    path, ends = [x], []
    for r in range(o["rounds"]):
        z, means = zip(*(client.local(r, x, shared) for client in clients), strict=True)
        new = x - o["eta"] * p["weights"] @ (x - numpy.array(z))
        before, after = (sum(w * client.value(at) for w, client in zip(p["weights"], clients, strict=True)) for at in (x, new))
        x = x if o["accept_only_if_better"] and before <= after else new
        for client, mean in zip(clients, means, strict=True):
            if o["method"] == "fzoos":
                client.fit(x)
            client.control = client.differences(x, p["U"][r, client.n, -1]) if o["method"] == "scaffold1" else mean
        shared = p["weights"] @ numpy.array([client.own if o["method"] == "fzoos" else client.control for client in clients])
        path.append(x)
        ends.append(z)
    return {"x": numpy.array(path), "local": numpy.array(ends)} | ({"w_global": shared} if o["method"] == "fzoos" else {})


def problem(seed: int, nodes: int, steps: int, d: int, first: int = 3, tries: int = 2, directions: int = 2) -> Inputs:
    r = numpy.random.default_rng(seed)
    weights = r.uniform(0.2, 1, nodes)
    x0 = r.normal(size=d)
    return {
        "A": r.normal(size=(nodes, 3, d)), "b": r.normal(size=(nodes, 3)), "x0": x0, "weights": weights / weights.sum(),
        "U": r.normal(size=(3, nodes, steps + 1, directions, d)), "init_queries": x0 + 0.3 * r.normal(size=(nodes, first, d)),
        "active_offsets": 0.1 * r.normal(size=(3, nodes, steps - 1, tries, d)),
        "random_weights": r.normal(size=(d, 20)), "random_offset": r.uniform(0, 2 * numpy.pi, 20),
    }  # fmt: skip


def agrees(inputs: Inputs, backend: str, method: str, **more: Any) -> None:
    steps = inputs["U"].shape[2] - 1
    o: dict[str, Any] = {
        "method": method,
        "rounds": 3,
        "local_steps": steps,
        "lr": 0.05,
        "local_opt": "sgd",
        "eta": 1.0,
        "accept_only_if_better": False,
    }
    own = {"kernel": "matern52", "lengthscale": 1.5, "noise_var": 1e-4, "max_queries": 8, "max_queries_rff": 15, "ridge_sigma2": 1e-3}
    o |= (own if method == "fzoos" else {"prox_mu": 0.7}) | more
    found = compute("06-fzoos.rounds", o, inputs, backend)
    for name, value in walk(inputs, o).items():
        numpy.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@backends
@pytest.mark.parametrize("method", METHODS)
def test_one_client_one_step_one_coordinate(backend: str, method: str) -> None:
    agrees(problem(0, 1, 1, 1, directions=1), backend, method, local_opt="adam")


@backends
@pytest.mark.parametrize("method", METHODS)
def test_unequal_weights_a_server_step_and_worse_points_refused(backend: str, method: str) -> None:
    agrees(problem(1, 3, 2, 3), backend, method, eta=1.5, lr=0.4, accept_only_if_better=True)


@backends
@pytest.mark.parametrize(("first", "tries"), [(0, 2), (2, 0)])
def test_nothing_asked_before_the_first_round_or_beside_the_path(backend: str, first: int, tries: int) -> None:
    agrees(problem(2, 2, 2, 2, first, tries), backend, "fzoos", kernel="rbf", ridge_sigma2=0.0)


@backends
def test_clients_whose_values_are_all_equal_stay(backend: str) -> None:
    inputs = problem(3, 2, 2, 2)
    inputs["A"][0] = 0
    agrees(inputs, backend, "fzoos", noise_var=1e-2)


@backends
def test_more_directions_than_coordinates(backend: str) -> None:
    agrees(problem(4, 2, 2, 2, directions=5), backend, "scaffold1")

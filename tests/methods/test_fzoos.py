"""Invariants of zeroth-order federated optimization (card 06): surrogates, random features, finite differences, and rounds of all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

SPECS = Path(__file__).parent.parent.parent / "pipelines"
KERNELS = ("rbf", "matern52")
SEEDS = st.integers(0, 10**6)


def points(seed: int, n: int = 8, d: int = 3, m: int = 2) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    return {"X": random.normal(size=(n, d)), "y": 3 * random.normal(size=n) + 1, "x_query": random.normal(size=(m, d))}


def guess(inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return compute("06-fzoos.gp_surrogate", {"kernel": "matern52", "lengthscale": 1.2, "noise_var": 1e-4, **params}, inputs, backend)


def problem(
    seed: int, method: str = "fzoos", nodes: int = 3, d: int = 4, rounds: int = 3, steps: int = 3, tries: int = 2, alike: bool = False
) -> dict[str, Any]:
    random = numpy.random.default_rng(seed)
    shape = (1 if alike else nodes,)
    found: dict[str, Any] = {
        "A": random.normal(size=(*shape, d + 1, d)), "b": random.normal(size=(*shape, d + 1)), "x0": random.normal(size=d),
    }  # fmt: skip
    if method == "fzoos":
        found |= {"init_queries": found["x0"] + 0.3 * random.normal(size=(*shape, 4, d))}
        found |= {"active_offsets": 0.05 * random.normal(size=(rounds, *shape, steps - 1, tries, d))}
        found |= {"random_weights": random.normal(size=(d, 30)), "random_offset": random.uniform(0, 2 * numpy.pi, 30)}
    else:
        found |= {"U": random.normal(size=(rounds, *shape, steps + 1, 3, d))}
    if alike:
        found = {k: v.repeat(nodes, 1 if k in ("active_offsets", "U") else 0) if k in ("A", "b", "init_queries", "active_offsets", "U") else v
                 for k, v in found.items()}  # fmt: skip
    return found | {"weights": numpy.full(nodes, 1 / nodes)}


def rounds(inputs: dict[str, Any], method: str = "fzoos", backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    own = {"kernel": "rbf", "lengthscale": 1.5, "noise_var": 1e-4, "max_queries": 12, "max_queries_rff": 30, "ridge_sigma2": 1e-3}
    count = inputs["active_offsets" if method == "fzoos" else "U"].shape[0]
    given_ = {"method": method, "local_opt": "sgd", "lr": 0.05, "rounds": count, "local_steps": 3, **(own if method == "fzoos" else {}), **params}
    return compute("06-fzoos.rounds", given_, inputs, backend)


# ---- surrogates


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(KERNELS), st.booleans())
def test_gradient_is_that_of_the_posterior_mean(seed: int, kernel: str, normalise: bool) -> None:
    import torch

    inputs = points(seed)
    found = guess(inputs, kernel=kernel, normalise=int(normalise))["grad"]
    x, y = torch.tensor(inputs["X"]), torch.tensor(inputs["y"])
    q = torch.tensor(inputs["x_query"], requires_grad=True)

    def k(a: Any, b: Any) -> Any:
        square = ((a[:, None] - b[None]) ** 2).sum(-1) / 1.2**2
        far = (5 * square).sqrt()
        return torch.exp(-square / 2) if kernel == "rbf" else (1 + far + far**2 / 3) * torch.exp(-far)

    low, span = (y.min(), y.max() - y.min()) if normalise else (torch.tensor(0.0), torch.tensor(1.0))
    mean = low + span * k(q, x) @ torch.linalg.solve(k(x, x) + 1e-4 * torch.eye(len(y), dtype=torch.float64), (y - low) / span)
    mean.sum().backward()
    numpy.testing.assert_allclose(found, q.grad.numpy(), rtol=1e-8, atol=1e-8 * numpy.abs(found).max())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(KERNELS), st.integers(1, 10))
def test_covariance_lies_between_zero_and_the_prior_and_shrinks(seed: int, kernel: str, n: int) -> None:
    inputs = points(seed, n + 3)
    less = {**inputs, "X": inputs["X"][:n], "y": inputs["y"][:n]}
    prior = (1 if kernel == "rbf" else 5 / 3) / 1.2**2 * numpy.eye(3)
    few, many = guess(less, kernel=kernel)["grad_cov"], guess(inputs, kernel=kernel)["grad_cov"]
    for a, b in zip(few, many, strict=True):
        numpy.testing.assert_allclose(a, a.T, atol=1e-10)
        for difference in (b, a - b, prior - a):
            assert numpy.linalg.eigvalsh(difference).min() > -1e-8


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_flat_values_single_points_and_duplicates(kernel: str, backend: str) -> None:
    inputs = points(0)
    flat = guess({**inputs, "y": numpy.full(8, 2.5)}, backend, kernel=kernel)
    numpy.testing.assert_array_equal(flat["grad"], 0)
    one = {"X": inputs["X"][:1], "y": inputs["y"][:1], "x_query": inputs["X"][:1]}
    for normalise in (0, 1):
        numpy.testing.assert_array_equal(guess(one, backend, kernel=kernel, normalise=normalise)["grad"], 0)
    twice = {**inputs, "X": numpy.repeat(inputs["X"], 2, 0), "y": numpy.repeat(inputs["y"], 2)}
    again = guess(twice, backend, kernel=kernel, noise_var=2e-4)  # two looks with twice the noise tell as much as one
    for name, value in guess(inputs, backend, kernel=kernel).items():
        numpy.testing.assert_allclose(again[name], value, rtol=1e-6, atol=1e-8)
    here = guess({**inputs, "x_query": inputs["X"]}, backend, kernel=kernel)
    assert all(numpy.isfinite(value).all() for value in here.values())


# ---- random features


def rff(inputs: dict[str, Any], ridge: float = 1e-3) -> dict[str, numpy.ndarray]:
    return compute("06-fzoos.rff", {"lengthscale": 1.0, "M": inputs["random_offset"].size, "ridge_sigma2": ridge}, inputs, "reference")


def featured(seed: int, features: int, n: int = 6) -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(seed)
    return points(seed, n) | {"random_weights": random.normal(size=(3, features)), "random_offset": random.uniform(0, 2 * numpy.pi, features)}


def test_products_of_features_tend_to_the_kernel() -> None:
    """Each product is a mean of M terms in [-2, 2]: off by more than 4 sqrt(log(2 pairs / p) / 2M) with probability p at most (Hoeffding)."""
    for features in (100, 1600, 25600):
        inputs = featured(3, features)
        phi = rff(inputs)["phi"]
        kernel = numpy.exp(-((inputs["X"][:, None] - inputs["X"][None]) ** 2).sum(-1) / 2)
        off = numpy.abs(phi @ phi.T - kernel).max()
        assert off < 4 * numpy.sqrt(numpy.log(2 * 36 / 1e-6) / (2 * features))
        assert features < 1000 or off < 0.1


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_without_a_ridge_weights_interpolate_and_a_small_ridge_comes_near(seed: int) -> None:
    inputs = featured(seed, 60)
    found = rff({**inputs, "x_query": inputs["X"]}, ridge=1e-9)
    scale = numpy.ptp(inputs["y"])
    numpy.testing.assert_allclose(found["predict"], inputs["y"], atol=1e-6 * scale)
    predicted = inputs["y"].min() + scale * found["phi"] @ found["w_ridge"]
    numpy.testing.assert_allclose(predicted, inputs["y"], atol=1e-3 * scale)
    least = numpy.linalg.lstsq(found["phi"], (inputs["y"] - inputs["y"].min()) / scale, rcond=None)[0]
    numpy.testing.assert_allclose(found["w"], least, rtol=1e-5, atol=1e-5 * numpy.abs(least).max())


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_gradient_is_linear_in_the_weights(seed: int) -> None:
    """The gradient of the averaged weights is the average of the clients' gradients."""
    clients = [featured(seed, 40) | {"y": points(seed + i)["y"][:6]} for i in range(3)]
    found = [rff(one) for one in clients]
    mean = numpy.mean([numpy.ptp(one["y"]) * f["w_ridge"] for one, f in zip(clients, found, strict=True)], 0)
    omega, phase = clients[0]["random_weights"], clients[0]["random_offset"]
    slopes = -numpy.sin(clients[0]["x_query"] @ omega + phase) * mean @ omega.T * numpy.sqrt(2 / 40)
    numpy.testing.assert_allclose(numpy.mean([f["grad_ridge"] for f in found], 0), slopes, rtol=1e-9, atol=1e-9)


# ---- finite differences


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 9))
def test_directions_are_made_orthonormal_and_at_most_as_many_as_coordinates(seed: int, q: int) -> None:
    random = numpy.random.default_rng(seed)
    c = {"x": random.normal(size=5), "U": random.normal(size=(q, 5)), "c1": random.normal(size=5), "c2": random.normal(size=5)}
    found = {
        b: compute("06-fzoos.fd_gradient", {"objective": "sinquad", "smoothing": 1e-3, "orthogonalise": 1}, c, b) for b in ("reference", "torch")
    }
    full, _ = numpy.linalg.qr(c["U"][:5].T)
    f = lambda x: numpy.sum(c["c1"] * x**2 + numpy.sin(c["c2"] * x), -1)  # noqa: E731
    frame = (full * numpy.sign((full * c["U"][:5].T).sum(0))).T
    there = f(c["x"] + 1e-3 * frame)
    for one in found.values():
        assert one["f_queries"].shape == (min(q, 5),)
        numpy.testing.assert_allclose(one["f_queries"], there, rtol=1e-8)
        numpy.testing.assert_allclose(one["grad"], (there - f(c["x"])) / 1e-3 @ frame / min(q, 5), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_direction_that_depends_on_others_counts_for_nothing(backend: str) -> None:
    text = "function f { input u : [direction, coordinate]; return orthonormalize(u, over: [direction, coordinate]) }"
    u = numpy.array([[2.0, 0, 0], [1, 0, 0], [1, 3, 0], [0, 0, 0], [5, 6, 7]])
    found = evaluate_text(text, "f", {}, {"u": u}, backend)["value"]
    numpy.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 0], [0, 1, 0]], atol=1e-12)


# ---- rounds


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_equal_clients_correct_nothing(seed: int) -> None:
    """With equal objectives and queries the global surrogate is each client's own: every client goes where one alone would go."""
    inputs = problem(seed, alike=True)
    found = rounds(inputs)
    alone = rounds({k: v[:1] if k in ("A", "b", "init_queries") else v[:, :1] if k == "active_offsets" else numpy.ones(1) if k == "weights" else v
                    for k, v in inputs.items()})  # fmt: skip
    numpy.testing.assert_allclose(found["x"], alone["x"], rtol=1e-7, atol=1e-9)
    numpy.testing.assert_allclose(found["local"], numpy.repeat(alone["local"], 3, 1), rtol=1e-7, atol=1e-9)


def test_without_correction_clients_follow_their_own_surrogates() -> None:
    """correction: 0 is plain descent on the local surrogate: shared features that say something else change nothing."""
    text = (SPECS / "golden" / "06_fzoos.gflow").read_text().replace('"../baselines', f'"{SPECS}/baselines')
    plain = text.replace("capacity: capacity", "capacity: capacity, correction: 0")
    assert plain != text
    params = {
        "method": "fzoos",
        "local_opt": "sgd",
        "lr": 0.05,
        "rounds": 3,
        "local_steps": 3,
        "lengthscale": 1.5,
        "noise_var": 1e-4,
        "ridge_sigma2": 1e-3,
    }
    inputs = problem(5)
    other = inputs | {"random_weights": inputs["random_weights"][::-1].copy()}
    first, second = (evaluate_text(plain, "rounds", params, one) for one in (inputs, other))
    numpy.testing.assert_array_equal(first["x"], second["x"])
    corrected, also = (evaluate_text(text, "rounds", params, one) for one in (inputs, other))
    numpy.testing.assert_array_equal(corrected["x"][1], first["x"][1])
    assert numpy.abs(corrected["x"][2] - also["x"][2]).max() > 1e-6


@settings(max_examples=2, deadline=None)
@given(SEEDS, st.sampled_from(["sgd", "adam"]))
def test_baselines_agree_in_the_first_round_and_where_nothing_corrects(seed: int, local_opt: str) -> None:
    inputs = problem(seed, "fedzo")
    found = {m: rounds(inputs, m, local_opt=local_opt) for m in ("fedzo", "fedprox", "scaffold1", "scaffold2")}
    for one in found.values():
        numpy.testing.assert_array_equal(one["x"][1], found["fedzo"]["x"][1])
    numpy.testing.assert_array_equal(rounds(inputs, "fedprox", local_opt=local_opt, prox_mu=0.0)["x"], found["fedzo"]["x"])
    assert all(numpy.abs(one["x"][2] - found["fedzo"]["x"][2]).max() > 1e-9 for m, one in found.items() if m in ("scaffold1", "scaffold2"))


@settings(max_examples=2, deadline=None)
@given(SEEDS)
def test_corrections_add_up_to_nothing_at_a_common_point(seed: int) -> None:
    """With one local step of gradient descent all clients stand at one point: SCAFFOLD moves the server as FedZO does."""
    inputs = problem(seed, "fedzo", steps=1)
    inputs["weights"] = numpy.array([0.2, 0.3, 0.5])
    found = {m: rounds(inputs, m, local_steps=1)["x"] for m in ("fedzo", "scaffold1", "scaffold2")}
    for m in ("scaffold1", "scaffold2"):
        numpy.testing.assert_allclose(found[m], found["fedzo"], rtol=1e-9, atol=1e-11)


@settings(max_examples=3, deadline=None)
@given(SEEDS, st.sampled_from(["fedzo", "scaffold1", "fzoos"]))
def test_a_worse_point_is_not_taken(seed: int, method: str) -> None:
    inputs = problem(seed, method)
    found = rounds(inputs, method, accept_only_if_better=1, lr=0.5, eta=2.0)["x"]

    def value(x: numpy.ndarray) -> float:
        return float(0.5 * ((numpy.einsum("nrd,d->nr", inputs["A"], x) - inputs["b"]) ** 2).sum(1).mean())

    values = [value(x) for x in found]
    assert all(after < before or numpy.array_equal(x, y) for before, after, x, y in zip(values, values[1:], found, found[1:], strict=False))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_one_step_no_active_queries_and_few_entries(backend: str) -> None:
    inputs = problem(1, steps=1, nodes=1, tries=0)
    found = rounds(inputs, backend=backend, local_steps=1)
    assert found["x"].shape == (4, 4) and all(numpy.isfinite(value).all() for value in found.values())
    inputs = problem(2, tries=0)
    inputs["init_queries"] = inputs["init_queries"][:, :1]
    found = rounds(inputs, backend=backend, max_queries=1, max_queries_rff=2)
    numpy.testing.assert_array_equal(found["local"][0], numpy.tile(inputs["x0"], (3, 1)))  # one value says nothing about a slope


# ---- buffers

STORED = """
function seen_last(capacity: int >= 1, count: int >= 1) {
  input x : [tick, coordinate]
  input z : [coordinate]
  seen = filled(x, capacity)
  near = closest(seen, to: z, count: count)
  last = newest(seen, count: count)
  return (x: near.x, n: near.n, here: near.here, last: last.n, there: last.here, total: seen.total)
}
function filled(x: [tick, coordinate], capacity: int) {
  repeat k: SIZE with seen = store(x: [coordinate], n: [], capacity: capacity) { seen <- append(seen, x: x[tick: k], n: k) }
  return seen
}
"""


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 7), st.integers(1, 9))
def test_a_buffer_keeps_the_newest_and_finds_the_nearest(seed: int, ticks: int, capacity: int, count: int) -> None:
    random = numpy.random.default_rng(seed)
    x, z = random.integers(-1, 2, size=(ticks, 2)).astype(float), random.integers(-1, 2, size=2).astype(float)
    for backend in ("reference", "torch"):
        found = evaluate_text(STORED.replace("SIZE", str(ticks)), "seen_last", {"capacity": capacity, "count": count}, {"x": x, "z": z}, backend)
        kept = list(range(max(0, ticks - capacity), ticks))
        expected = sorted(kept, key=lambda k: float(((x[k] - z) ** 2).sum()))[:count]  # stable: of equal ones the oldest
        here = int(found["here"].sum())
        assert found["total"] == ticks and here == len(expected) == int(found["there"].sum()) and found["here"].shape == (min(count, capacity),)
        numpy.testing.assert_array_equal(found["n"][:here], expected)
        numpy.testing.assert_array_equal(found["x"][:here], x[expected])
        numpy.testing.assert_array_equal(found["last"][:here], kept[::-1][:count])


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 4))
def test_only_what_is_wanted_is_stored(seed: int, capacity: int, slots: int) -> None:
    """Entries for which a condition holds, in order; and none where a single condition does not hold."""
    slots = min(slots, capacity)
    random = numpy.random.default_rng(seed)
    text = f"""
    function f {{
      input n    : [tick, slot]
      input keep : bool[tick, slot]
      input once : bool[tick]
      repeat k: 4 with seen = store(n: [], capacity: {capacity}) {{
        seen <- append(seen, n: n[tick: k], where: keep[tick: k])
        seen <- append(seen, n: -k - 1, where: once[tick: k])
      }}
      last = newest(seen)
      return (n: last.n, here: last.here, total: seen.total)
    }}"""
    n = numpy.arange(4.0 * slots).reshape(4, slots)
    keep, once = random.uniform(size=(4, slots)) < 0.5, random.uniform(size=4) < 0.5
    expected: list[float] = []
    for k in range(4):
        expected += [*n[k][keep[k]], *([-k - 1.0] if once[k] else [])]
    for backend in ("reference", "torch"):
        found = evaluate_text(text, "f", {}, {"n": n, "keep": keep, "once": once}, backend)
        assert found["total"] == len(expected)
        numpy.testing.assert_array_equal(found["n"][found["here"]], expected[::-1][:capacity])


def test_values_asked_for_are_counted() -> None:
    """Only what is needed, each point once: q + 1 a local step, SCAFFOLD's control as many once a round; FZooS one a step and its active queries."""
    text = """
    pipeline p {
      input A : [node, row, coordinate]
      model x = free([coordinate: 4])
      rule = RULE
      flow x over star(size(node)): black_box(sum((dot(A, x, over: coordinate) - 1)^2, over: row)) -> SLOPE -> rule -> sgd(1)
      train 3 rounds { every round { report queries = rule.queries } }
    }"""
    values = {"A": numpy.random.default_rng(0).normal(size=(3, 5, 4))}
    slope = "finite_differences(directions: gaussians(directions: 3))"
    rules = {
        "local_steps(sgd(0.01), 2)": (slope, [0, 8, 16, 24]), "scaffold(sgd(0.01), 2)": (slope, [0, 8, 16, 24]),
        "scaffold(sgd(0.01), 2, control: end)": (slope, [0, 12, 24, 36]),
        "local_steps(sgd(0.01), 2, accept: better)": (slope, [0, 9, 18, 27]),
        "fzoos(sgd(0.01), 3, basis: fourier(features: 8), ridge: 0.1, active: 2, first: scattered(count: 7))": ("nothing", [0, 16, 25, 34]),
    }  # fmt: skip
    for rule, (estimator, expected) in rules.items():
        found = evaluate_text(text.replace("RULE", rule).replace("SLOPE", estimator), "p", {}, values)
        assert list(found["queries"]) == expected, rule


def test_jacobian_of_a_kernel_is_what_the_spec_says() -> None:
    text = """
    function f {
      input x : [param]
      input p : [entry, param]
      k = y => matern52(length: 0.7)(square: sum((y - p)^2, over: param))
      return (by_hand: -k(x).fall * (x - p), jacobian: jacobian(y => k(y).value, of: x))
    }"""
    random = numpy.random.default_rng(0)
    found = evaluate_text(text, "f", {}, {"x": random.normal(size=3), "p": random.normal(size=(4, 3))})
    assert found["jacobian"].shape == (4, 3) and numpy.abs(found["by_hand"]).min() > 1e-6
    numpy.testing.assert_allclose(found["jacobian"], found["by_hand"], rtol=1e-9)

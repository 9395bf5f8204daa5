"""DIFF2: against an independent walk in numpy, its limits, its accounting, and what one replaced record can move.

Axes: N records in P blocks of `sizes`, D coordinates, R rounds, K local steps.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gradflow.language.diagnostics import GradflowError
from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

LOSSES = ("squared", "logistic", "sigmoid_squared")
Problem = dict[str, numpy.ndarray]


def problem(seed: int, sizes: tuple[int, ...] = (3, 5), dim: int = 4, rounds: int = 6) -> Problem:
    r = numpy.random.default_rng(seed)
    n = sum(sizes)
    return {
        "Z": r.normal(size=(n, dim)), "y": (r.random(n) < 0.5).astype(float), "sizes": numpy.array(sizes), "x0": 0.3 * r.normal(size=dim),
        "noise": r.normal(size=(rounds, dim)),
    }  # fmt: skip


def slopes(loss: str, p: Problem, x: numpy.ndarray) -> numpy.ndarray:
    """The gradient of every record: [N, D]."""
    score = p["Z"] @ x
    chance = 1 / (1 + numpy.exp(-score))
    gap = {"squared": score - p["y"], "logistic": chance - p["y"], "sigmoid_squared": (chance - p["y"]) * chance * (1 - chance)}[loss]
    return gap[:, None] * p["Z"]


def shortened(rows: numpy.ndarray, radius: float) -> numpy.ndarray:
    length = numpy.linalg.norm(rows, axis=1, keepdims=True)
    return rows * numpy.minimum(1, numpy.divide(radius, length, out=numpy.full_like(length, numpy.inf), where=length > 0))


def blocks(p: Problem) -> list[slice]:
    ends = numpy.cumsum(p["sizes"])
    return [slice(int(end - size), int(end)) for end, size in zip(ends, p["sizes"], strict=True)]


def walk(p: Problem, o: dict[str, Any]) -> dict[str, numpy.ndarray]:
    """The card's algorithm, step by step."""
    x = before = p["x0"]
    v = numpy.zeros_like(x)
    found: dict[str, list[Any]] = {"x": [x], "v": [], "clip_radius": [], "noise_std": [], "n_clipped": []}
    for r in range(o["R"]):
        begin = r % o["T"] == 0
        radius = o["C1"] if begin else o["C2"] * float(numpy.linalg.norm(x - before))
        each = slopes(o["loss"], p, x) - (0 if begin else slopes(o["loss"], p, before))
        parts = [shortened(each[block], radius).mean(0) for block in blocks(p)]
        spread = (o["z1"] if begin else o["z2"]) * 2 * radius / (p["sizes"].min() * len(parts))
        change = numpy.mean(parts, axis=0) + spread * p["noise"][r]
        v = change if begin else v + change
        before, x = x, x - o["lr"] * v
        for name, value in (("x", x), ("v", v), ("clip_radius", radius), ("noise_std", spread)):
            found[name].append(value)
        found["n_clipped"].append(int((numpy.linalg.norm(each, axis=1) > radius).sum()))
    return {name: numpy.array(values) for name, values in found.items()}


def ran(p: Problem, backend: str = "reference", **options: Any) -> dict[str, numpy.ndarray]:
    return compute("25-diff2.diff2_gd", options, p, backend)


def options(**more: Any) -> dict[str, Any]:
    return {"loss": "logistic", "R": 6, "T": 3, "C1": 0.6, "C2": 0.2, "z1": 0.4, "z2": 0.3, "lr": 0.4} | more


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 4), st.sampled_from(LOSSES),
    st.integers(1, 8), st.sampled_from([0.0, 0.3]), st.sampled_from(["reference", "torch"]),
)  # fmt: skip
def test_it_is_the_algorithm(seed: int, sizes: list[int], dim: int, loss: str, restart: int, level: float, backend: str) -> None:
    """Also one client, one record, one coordinate, more rounds than a restart interval and fewer, and no noise."""
    o = options(loss=loss, T=restart, z1=level, z2=level)
    p = problem(seed, tuple(sizes), dim)
    expected, found = walk(p, o), ran(p, backend, **o)
    for name, value in expected.items():
        numpy.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_restarting_every_round_is_dp_gd() -> None:
    text = """
    function given(rows: [round, entry]) { input like : [coordinate]; now ~ replay(rows, over: round); return rename(now, entry: coordinate) }
    pipeline p {
      input Z     : [record, entry]
      input y     : [record]
      input x0    : [entry]
      input noise : [round, entry]
      model x = free(x0)
      score = dot(rename(Z, record: sample), x, over: entry)
      loss  = mean(softplus(score) - rename(y, record: sample) * score, over: sample)
      flow x over star(1): loss -> dp_gd(radius: 0.6, multiplier: 0.4, noise: given(rows: noise)) -> sgd(lr: 0.4)
      train 6 rounds { every round { report x = x } }
    }
    """
    p = problem(3, (7,))
    gd = evaluate_text(text, "p", {}, {name: value for name, value in p.items() if name != "sizes"})
    numpy.testing.assert_allclose(ran(p, **options(T=1, z2=9.0, C2=77.0))["x"], gd["x"], rtol=1e-12)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(LOSSES))
def test_without_noise_and_clipping_the_differences_telescope(seed: int, loss: str) -> None:
    o = options(loss=loss, T=50, z1=0.0, z2=0.0, C1=1e9, C2=1e9)
    p = problem(seed)
    found = ran(p, **o)
    for r in range(o["R"]):
        each = slopes(loss, p, found["x"][r])
        full = numpy.mean([each[block].mean(0) for block in blocks(p)], axis=0)
        numpy.testing.assert_allclose(found["v"][r], full, rtol=1e-9, atol=1e-12)
    assert not found["n_clipped"].any()


def test_where_nothing_moves_the_radius_and_the_noise_are_zero() -> None:
    found = ran(problem(1), **options(lr=0.0, T=100))
    assert found["clip_radius"][0] > 0 and not found["clip_radius"][1:].any() and not found["noise_std"][1:].any()
    numpy.testing.assert_array_equal(found["v"][1:], numpy.broadcast_to(found["v"][0], found["v"][1:].shape))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_one_local_step_is_gradient_descent(seed: int) -> None:
    o, p = options(), problem(seed)
    r = numpy.random.default_rng(seed)
    more = {"client": r.integers(0, 2, 6), "batch_index": r.integers(0, 3, (6, 1, 2)), "local_noise": r.normal(size=(6, 1, 4))}
    both = compute("25-diff2.diff2_bvr", {**o, "K": 1, "batch": 2, "C3": 1.0, "sigma3": 0.5}, {**p, **more}, "reference")
    alone = ran(p, **o)
    for name in alone:
        numpy.testing.assert_allclose(both[name], alone[name], rtol=1e-12, atol=1e-14)
    numpy.testing.assert_allclose(both["local"][:, 0], both["x"][1:], rtol=1e-12)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["reference", "torch"]))
def test_local_steps(seed: int, backend: str) -> None:
    """BVR-L-SGD at one client, with repeated rows in a batch, against the card's recursion."""
    o = options(K=4, batch=3, C3=0.3, sigma3=0.2)
    p = problem(seed)
    r = numpy.random.default_rng(seed)
    p |= {"client": r.integers(0, 2, 6), "batch_index": r.integers(0, 3, (6, 4, 3)), "local_noise": r.normal(size=(6, 4, 4))}
    found = compute("25-diff2.diff2_bvr", o, p, backend)
    for n in range(o["R"]):
        a, w = [found["x"][n]], found["v"][n]
        rows = blocks(p)[p["client"][n]].start + p["batch_index"][n]
        for k in range(o["K"]):
            if k:
                gap = slopes(o["loss"], p, a[-1]) - slopes(o["loss"], p, a[-2])
                far = numpy.linalg.norm(a[-1] - a[-2])
                w = w + shortened(gap[rows[k]], o["C3"] * far).mean(0) + o["sigma3"] * far * p["local_noise"][n, k]
            a.append(a[-1] - o["lr"] * w)
        numpy.testing.assert_allclose(found["local"][n], a[1:], rtol=1e-9, atol=1e-11)
        numpy.testing.assert_allclose(found["x"][n + 1], a[-1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sizes", [(0, 5), (3, 0, 2)])
def test_a_client_without_records_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(GradflowError, match="`sizes` cannot hold 0"):
        ran(problem(0, sizes), **options())


# ---- privacy


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(0, 2**32 - 1), st.sampled_from([(3, 5), (2, 2, 4), (1, 6)]))
def test_replacing_one_record_moves_a_release_by_its_sensitivity_at_most(seed: int, sizes: tuple[int, ...]) -> None:
    """Every record in turn gives way to one far out, on the wrong side. The noise of the first round is such that both worlds release the same."""
    o = options(R=2, T=10, z1=1.0, z2=1.0, lr=1.0)
    p = problem(seed, sizes, rounds=2)
    here = ran(p, **o)
    reach = here["noise_std"]
    first, second = here["v"][0] - reach[0] * p["noise"][0], here["v"][1] - here["v"][0] - reach[1] * p["noise"][1]
    moves = []
    for record in range(sum(sizes)):
        q = {**p, "Z": p["Z"].copy(), "y": p["y"].copy()}
        q["Z"][record] *= -10
        q["y"][record] = q["Z"][record] @ p["x0"] < 0
        alone = ran(q, **{**o, "R": 1})["v"][0] - reach[0] * p["noise"][0]
        q["noise"] = p["noise"].copy()
        q["noise"][0] += (first - alone) / reach[0]
        there = ran(q, **o)
        numpy.testing.assert_allclose(there["v"][0], here["v"][0], rtol=1e-9, atol=1e-12)
        change = there["v"][1] - there["v"][0] - reach[1] * p["noise"][1]
        moves.append((numpy.linalg.norm(alone - first) / reach[0], numpy.linalg.norm(change - second) / reach[1]))
    found = numpy.array(moves)
    assert (found <= 1 + 1e-9).all()
    assert found[:, 0].max() > 0.02, "the bound should not be far from what happens"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.floats(1e-3, 10))
def test_clipping(seed: int, rows: int, dim: int, radius: float) -> None:
    r = numpy.random.default_rng(seed)
    inputs = {"per_sample": r.normal(size=(rows, dim)) * r.choice([0, 1e-12, 1, 1e6], size=(rows, 1)), "noise": r.normal(size=dim)}
    once = compute("25-diff2.clip", {"C": radius, "noise_multiplier": 0.7}, inputs, "reference")
    again = compute("25-diff2.clip", {"C": radius, "noise_multiplier": 0.7}, {**inputs, "per_sample": once["clipped"]}, "reference")
    lengths = numpy.linalg.norm(once["clipped"], axis=1)
    assert (lengths <= radius * (1 + 1e-12)).all()
    numpy.testing.assert_allclose(again["clipped"], once["clipped"], rtol=1e-12)
    numpy.testing.assert_allclose(once["clipped"], shortened(inputs["per_sample"], radius), rtol=1e-12)
    numpy.testing.assert_allclose(once["private_mean"] - once["mean"], 0.7 * 2 * radius / rows * inputs["noise"], rtol=1e-9, atol=1e-12)


ORDERS = [1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128]


def accounts(**more: Any) -> dict[str, Any]:
    o = {"eps": 3.0, "delta": 1e-5, "R": 100, "T": 10, "split": 0.5, "sample_rate": 0.1, "noise_multiplier": 1.5, "orders": ORDERS[1:]}
    return compute("25-diff2.accounting", o | more, {}, "reference")


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 20), st.sampled_from([1e-3, 1e-5, 1e-8]), st.integers(1, 500), st.integers(1, 60), st.floats(0.05, 0.95))
def test_the_split_spends_exactly_what_was_asked_for(eps: float, delta: float, rounds: int, restart: int, split: float) -> None:
    found = accounts(eps=eps, delta=delta, R=rounds, T=restart, split=split)
    assert found["K1"] == -(-rounds // restart) and found["K1"] + found["K2"] == rounds
    rho = found["K1"] / (2 * found["z1"] ** 2) + (found["K2"] / (2 * found["z2"] ** 2) if found["K2"] else 0)
    numpy.testing.assert_allclose(rho, found["rho"], rtol=1e-12)
    numpy.testing.assert_allclose(found["eps_zcdp"], eps, rtol=1e-12)
    assert found["eps_rdp_improved"] <= found["eps_rdp_classic"] + 1e-12


def test_epsilon_grows_with_rounds_and_falls_with_noise() -> None:
    costs = [float(accounts(R=rounds, noise_multiplier=level)["subsampled_eps"]) for rounds, level in ((50, 2.0), (100, 2.0), (100, 1.5), (100, 0.8))]
    assert costs == sorted(costs) and len(set(costs)) == 4


def test_without_sampling_the_divergence_is_that_of_plain_noise() -> None:
    found = accounts(sample_rate=1.0, R=7, noise_multiplier=1.5)
    numpy.testing.assert_allclose(found["subsampled_rdp"], 7 * numpy.array(ORDERS[1:]) / (2 * 1.5**2), rtol=1e-12)


def test_the_noise_has_the_spread_that_is_paid_for() -> None:
    """Where all gradients are 0 what is released is noise alone: 300 rounds of 40 entries. The mean square within 6 standard errors, and so the
    mean: a false alarm in fewer than 1 of 10^8 runs."""
    text = """
    pipeline p {
      input Z : [sample, entry]
      model x = free([entry: 40])
      rule = diff2(full: 0.5, lipschitz: 1, restart: 1, spend: given, z_full: 3)
      flow x over star(2): mean(0 * dot(Z, x, over: entry), over: sample) -> rule -> sgd(lr: 0)
      train 300 rounds { every round { report v = rule.kept } }
    }
    """
    drawn = evaluate_text(text, "p", {}, {"Z": numpy.ones((5, 40))})["v"] / (3 * 2 * 0.5 / (5 * 2))
    assert drawn.shape == (300, 40)
    assert abs((drawn**2).mean() - 1) < 6 * (2 / drawn.size) ** 0.5 and abs(drawn.mean()) < 6 / drawn.size**0.5
    assert len(numpy.unique(drawn)) == drawn.size, "every entry of every round has noise of its own"


@pytest.mark.parametrize("name", ["private_digits", "estimate_error", "membership"])
def test_its_pipelines_compile(name: str) -> None:
    from gradflow.compiler import build, load

    program, diagnostics = build(load("25_diff2")[0], name)
    assert program is not None and not diagnostics


def test_orders_are_whole_and_as_high_as_one_likes() -> None:
    """At high orders the last term of the sum is nearly all of it: log of q^a exp((a^2 - a) / (2 z^2)), divided by a - 1."""
    a = numpy.array([2048, 4096])
    found = accounts(orders=a.tolist(), sample_rate=0.5, noise_multiplier=1.0, R=1)["subsampled_rdp"]
    numpy.testing.assert_allclose(found, (a * numpy.log(0.5) + (a**2 - a) / 2) / (a - 1), rtol=1e-10)
    for orders in ([1, 2], [2, 2.5]):
        with pytest.raises(GradflowError, match="`orders` cannot be"):
            accounts(orders=orders)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_local_differences_that_nothing_clips(backend: str) -> None:
    """C3 = inf is the base algorithm; its local noise, which is in proportion to the step alone, stays."""
    p, r = problem(5), numpy.random.default_rng(5)
    p |= {"client": r.integers(0, 2, 6), "batch_index": r.integers(0, 3, (6, 3, 2)), "local_noise": r.normal(size=(6, 3, 4))}
    free, wide = (compute("25-diff2.diff2_bvr", options(K=3, batch=2, sigma3=0.3, C3=bound), p, backend) for bound in (numpy.inf, 1e6))
    for name, value in wide.items():
        numpy.testing.assert_allclose(free[name], value, rtol=1e-9)


def test_a_radius_of_zero_leaves_nothing() -> None:
    r = numpy.random.default_rng(0)
    found = compute("25-diff2.clip", {"C": 0, "noise_multiplier": 2.0}, {"per_sample": r.normal(size=(3, 2)), "noise": numpy.ones(2)}, "torch")
    assert not any(value.any() for value in found.values())

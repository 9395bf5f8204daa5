"""Compressed trajectories against the recursions of card 14, with every compressor whose draws can be recorded and every rule; vectors of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.verify.vectors import compute

RULES = ["csgd", "ef14", "ef14_lr_inside", "ef21", "ef21_sgdm", "econtrol", "ec_ideal", "d_ec_sgd"]
COMPRESSORS = ["identity", "topk", "randk", "randk_unbiased", "sign_l1", "qsgd", "qsgd_contractive", "natural", "rank_r"]
LR, ETA, K, LEVELS = 0.03, 0.3, 2, 3
Map = Callable[[numpy.ndarray, int], numpy.ndarray]


def compressed(kind: str, x: numpy.ndarray, aux: numpy.ndarray) -> numpy.ndarray:
    """One vector."""
    size, kept = len(x), numpy.zeros(len(x))
    if kind == "topk":
        places = numpy.argsort(-abs(x), kind="stable")[:K]
        kept[places] = x[places]
        return kept
    if kind.startswith("randk"):
        kept[aux] = x[aux]
        return kept * (size / len(aux) if "unbiased" in kind else 1)
    if kind == "sign_l1":
        return abs(x).mean() * numpy.sign(x)
    if kind.startswith("qsgd"):
        length = numpy.linalg.norm(x)
        found = length / LEVELS * numpy.sign(x) * numpy.floor(LEVELS * abs(x) / length + aux) if length else kept
        return found / (1 + min(size / LEVELS**2, size**0.5 / LEVELS)) if "contractive" in kind else found
    if kind == "natural":
        low = 2.0 ** (numpy.frexp(x)[1] - 1)
        return numpy.sign(x) * low * numpy.where(aux < abs(x) / low - 1, 2, 1)
    if kind == "rank_r":
        u, s, v = numpy.linalg.svd(x.reshape(2, -1), full_matrices=False)
        return (s[0] * numpy.outer(u[:, 0], v[0])).reshape(-1)
    return x


def recursion(rule: str, x: numpy.ndarray, gradient: Map, c: Map, rounds: int, zero: bool, optimum: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """gradient(x, sample) and c(vectors, round) are of all nodes; rows are nodes."""
    v = first = gradient(x, 0)
    h, e, path = 0 * first if zero else first, 0 * first, [x]
    for t in range(rounds):
        if rule.startswith("ef21"):
            x = x - LR * h.mean(0)
            v = gradient(x, t + 1) if rule == "ef21" else (1 - ETA) * v + ETA * gradient(x, t + 1)
            h = h + c(v - h, t)
            path.append(x)
            continue
        g = gradient(x, t) * (LR if rule == "ef14_lr_inside" else 1)
        known = {"econtrol": h, "d_ec_sgd": h, "ec_ideal": optimum}.get(rule, 0 * g)
        message = c({"csgd": 0, "econtrol": ETA}.get(rule, 1) * e + g - known, t)
        e = e + g - known - message
        x = x - (1 if rule == "ef14_lr_inside" else LR) * (known + message).mean(0)
        h = h + (message if rule == "econtrol" else c(g - h, t) if rule == "d_ec_sgd" else 0)
        path.append(x)
    shown = {"csgd": "", "ef21": "h", "ef21_sgdm": "hv", "econtrol": "eh", "d_ec_sgd": "eh"}.get(rule, "e")
    return {"x": numpy.stack(path), **{name: value for name, value in {"e": e, "h": h, "v": v}.items() if name in shown}}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(COMPRESSORS), st.integers(1, 4), st.booleans(), st.sampled_from(["reference", "torch"]))
def test_every_rule_with_every_compressor(rule: str, seed: int, kind: str, nodes: int, zero: bool, backend: str) -> None:
    random, rounds, size = numpy.random.default_rng(seed), 4, 6
    a, b, x = random.normal(size=(nodes, 3, size)), random.normal(size=(nodes, 3)), random.normal(size=size)
    noise, optimum = random.normal(size=(rounds + 1, nodes, size)), random.normal(size=(nodes, size))
    aux: Any = random.random((rounds, nodes, size))
    if kind.startswith("randk"):
        aux = aux.argsort(-1)[..., :K]
    found = compute(
        "14-econtrol.trajectory",
        {"algorithm": rule, "compressor": kind, "lr": LR, "eta": ETA, "init": "zero" if zero else "grad", "k": K, "levels": LEVELS, "rows": 2},
        {"A": a, "b": b, "x0": x, "noise": noise, "aux": aux, "h_star": optimum}, backend,
    )  # fmt: skip

    def gradient(at: numpy.ndarray, sample: int) -> numpy.ndarray:
        return numpy.einsum("nrd,nr->nd", a, a @ at - b) + noise[sample]

    def c(vectors: numpy.ndarray, t: int) -> numpy.ndarray:
        return numpy.stack([compressed(kind, one, aux[t, node]) for node, one in enumerate(vectors)])

    for name, value in recursion(rule, x, gradient, c, rounds, zero, optimum).items():
        numpy.testing.assert_allclose(found[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", ["identity", "topk", "sign_l1", "qsgd", "qsgd_contractive", "natural", "rank_r"])
def test_of_nothing_nothing_is_lost(kind: str) -> None:
    found = compute("14-econtrol.compressors", {"kind": kind, "k": 2, "levels": 3}, {"x": numpy.zeros(4), "u": numpy.full(4, 0.9)}, "reference")
    assert not found["c"].any() and found["relative_error"] == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(COMPRESSORS), st.sampled_from([1e-30, 1.0, 1e12]), st.sampled_from(["reference", "torch"]))
def test_compressors_at_any_scale_and_with_ties(seed: int, kind: str, scale: float, backend: str) -> None:
    """Powers of two are rounded to themselves, equal entries are kept from the lowest index on."""
    random = numpy.random.default_rng(seed)
    x = scale * 2.0 ** random.integers(-2, 3, 8) * random.choice([-1, 1, 0.75], 8)
    draws: Any = random.permutation(8)[:3] if kind.startswith("randk") else random.random(8)
    inputs = {"x": x, ("indices" if kind.startswith("randk") else "u"): draws}
    found = compute("14-econtrol.compressors", {"kind": kind, "k": K, "levels": LEVELS, "rows": 2, "contraction_delta": 0.0}, inputs, backend)
    expected = compressed(kind, x, draws)
    numpy.testing.assert_allclose(found["c"], expected, rtol=1e-9, atol=1e-12 * scale)
    numpy.testing.assert_allclose(found["relative_error"], ((expected - x) ** 2).sum() / (x**2).sum(), rtol=1e-6, atol=1e-20)

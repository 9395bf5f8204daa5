"""Invariants of the cosine basis: orthogonality, the fast transform, selection, the subspace's optimality, rotation of moments, error feedback."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradflow.verify import evaluate

from .cases import MATRICES, close, few, path, seeds, stepped, walk
from .harness import evaluate_text

COSINE = "11-dct-lowrank"
bases = st.sampled_from(["dct2", "dct3"])
shapes = st.sampled_from(MATRICES)


def transform(x: numpy.ndarray) -> dict[str, numpy.ndarray]:
    return {k: v.numpy() for k, v in evaluate(f"{COSINE}.dct", {"n": x.shape[1]}, {"x": x}).items()}


def select(g: numpy.ndarray, backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    return {k: v.numpy() for k, v in evaluate(f"{COSINE}.select", params, {"g": g}, backend).items()}


def wave(n: int, basis: str) -> numpy.ndarray:
    """The basis vectors as columns, from the definition."""
    i, j = numpy.arange(n)[:, None], numpy.arange(n)[None, :]
    d = math.sqrt(2 / n) * numpy.cos(i * (2 * j + 1) * math.pi / (2 * n))
    d[0] *= math.sqrt(0.5)
    return d.T if basis == "dct2" else d


def makhoul(x: numpy.ndarray) -> numpy.ndarray:
    """The orthonormal cosine transform of each row by one Fourier transform of the same length."""
    n = x.shape[1]
    order = numpy.concatenate([numpy.arange(0, n, 2), numpy.arange(1, n, 2)[::-1]])
    k = numpy.arange(n)
    weight = 2 * numpy.exp(-1j * math.pi * k / (2 * n)) / numpy.sqrt(numpy.where(k == 0, 4 * n, 2 * n))
    return (numpy.fft.fft(x[:, order], axis=1) * weight).real


@few
@given(seeds, st.integers(1, 17), st.integers(1, 4))
def test_the_basis_is_orthogonal_and_its_transform_the_fast_one(seed: int, n: int, rows: int) -> None:
    x = numpy.random.default_rng(seed).normal(size=(rows, n))
    found = transform(x)
    close(found["D"] @ found["D"].T, numpy.eye(n), atol=1e-12)
    close(found["D"].T, wave(n, "dct2"), atol=1e-14)
    close(found["dct2_rows"], makhoul(x), rtol=1e-9, atol=1e-12)
    close(found["dct3_rows"], x @ found["D"], rtol=1e-9, atol=1e-12)


@few
@given(seeds, shapes, st.integers(1, 8), bases, st.sampled_from(["left", "right"]), st.sampled_from([1, 2, 3, -1, -2]))
def test_selection_by_its_equations(seed: int, shape: tuple[int, int], rank: int, basis: str, side: str, order: int) -> None:
    g = numpy.random.default_rng(seed).normal(size=shape)
    q = wave(shape[1] if side == "right" else shape[0], basis)
    s = g @ q if side == "right" else (q.T @ g).T
    scores = numpy.linalg.norm(s, ord=abs(order), axis=0) * (numpy.linalg.norm(q, ord=abs(order), axis=0) if order < 0 else 1)
    best = numpy.sort(numpy.argsort(-scores, kind="stable")[:rank])
    found = select(g, rank=rank, norm=order, basis=basis, side=side)
    close(found["scores"], scores)
    assert found["indices"].tolist() == best.tolist()
    back = s[:, best] @ q[:, best].T
    close(found["reconstruction"], back if side == "right" else back.T, atol=1e-11)
    close(found["low_rank"], s[:, best] if side == "right" else s[:, best].T, atol=1e-11)
    close(found["residual_fro2"], ((g - found["reconstruction"]) ** 2).sum(), atol=1e-11)


@few
@given(seeds, shapes, st.integers(1, 8), bases, st.floats(0.001, 1000))
def test_selection_projects_and_does_not_see_the_scale(seed: int, shape: tuple[int, int], rank: int, basis: str, scale: float) -> None:
    g = numpy.random.default_rng(seed).normal(size=shape)
    once = select(g, rank=rank, basis=basis)
    again = select(once["reconstruction"], rank=rank, basis=basis)
    close(again["reconstruction"], once["reconstruction"], atol=1e-11)
    close((once["reconstruction"] * (g - once["reconstruction"])).sum(), 0, atol=1e-10)
    assert select(scale * g, rank=rank, basis=basis)["indices"].tolist() == once["indices"].tolist()


@few
@given(seeds, st.sampled_from([(5, 4), (4, 6), (4, 4)]), st.integers(1, 4), bases)
def test_the_squared_norm_chooses_best(seed: int, shape: tuple[int, int], rank: int, basis: str) -> None:
    g = numpy.random.default_rng(seed).normal(size=shape)
    n = min(shape)
    found = select(g, rank=rank, norm=2, basis=basis)["residual_fro2"]
    q = wave(n, basis)
    s = g @ q if shape[0] >= shape[1] else g.T @ q
    every = [(s**2).sum() - (s[:, list(chosen)] ** 2).sum() for chosen in itertools.combinations(range(n), rank)]
    close(found, min(every), atol=1e-10)
    assert found <= (1 - rank / n) * (g**2).sum() + 1e-10


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_equal_scores_take_the_first(backend: str) -> None:
    assert select(numpy.zeros((3, 4)), backend, rank=2, side="right")["indices"].tolist() == [0, 1]


# ---- DCT-AdamW


def dct_adamw(inputs: dict[str, numpy.ndarray], o: dict[str, Any]) -> tuple[list[numpy.ndarray], dict[str, Any]]:
    """The card's seven steps, one matrix; the path, and per step the projected gradients and the last states."""
    p = inputs["param_0"]
    right = p.shape[0] >= p.shape[1]
    q = wave(min(p.shape), o["basis"])
    error, chosen, m, v = numpy.zeros_like(p), numpy.arange(min(o["rank"], len(q))), 0.0, 0.0
    points, sent = [p], numpy.zeros_like(p)
    for k in range(len(inputs) - 1):
        t = k + 1
        p = p * (1 - 0.01 * 0.1)
        a = inputs[f"grad_{k}"] + (error if o["use_ef"] else 0)
        a = a if right else a.T
        s = a @ q
        if (t == 1 or t % o["update_proj_gap"] == 0) and s.any():
            before, chosen = chosen, numpy.sort(numpy.argsort(-numpy.abs(s).sum(0), kind="stable")[: o["rank"]])
            if t > 1 and o["rotate_subspace"]:
                moved = (before[:, None] == chosen[None, :]).astype(float)
                m, v = m @ moved, v @ moved
        low = s[:, chosen]
        back = low @ q[:, chosen].T
        error = (a - back) if right else (a - back).T
        sent = sent + (back if right else back.T)
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        u = m / (1e-8 * math.sqrt(1 - 0.999**t) + numpy.sqrt(v))
        step = u @ q[:, chosen].T
        p = p - 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * (step if right else step.T)
        points.append(p)
    return points, {"exp_avg": m if right else m.T, "exp_avg_sq": v if right else v.T, "indices": chosen, "error": error, "sent": sent}


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_dct_adamw_by_its_equations(shape: tuple[int, int], backend: str) -> None:
    r = numpy.random.default_rng(shape[0] + 10 * shape[1])
    inputs = {"param_0": r.normal(size=shape), **{f"grad_{k}": r.normal(size=shape) for k in range(6)}, "grad_6": numpy.zeros(shape)}
    for rank, gap, rotate, feedback in ((1, 1, True, True), (2, 3, True, False), (2, 2, False, True), (9, 100, True, True)):
        options = {"rank": rank, "update_proj_gap": gap, "rotate_subspace": rotate, "use_ef": feedback, "basis": "dct2" if feedback else "dct3"}
        points, state = dct_adamw(inputs, options)
        found = stepped(f"{COSINE}.dct_adamw", inputs, backend, lr=0.01, weight_decay=0.1, **options)
        close(path(found, inputs), numpy.stack(points), rtol=1e-6, atol=1e-9)
        assert found["indices_7"].tolist() == state["indices"].tolist()
        for name in ("exp_avg", "exp_avg_sq"):
            assert found[name].shape == state[name].shape
            close(found[name], state[name], rtol=1e-6, atol=1e-9)
        assert (found["exp_avg_sq"] >= 0).all()
        if feedback:
            close(found["error_feedback"], state["error"], rtol=1e-6, atol=1e-9)


@few
@given(seeds, st.sampled_from([(6, 4), (3, 7)]), st.integers(1, 3), st.integers(1, 4), bases)
def test_error_feedback_loses_nothing(seed: int, shape: tuple[int, int], rank: int, gap: int, basis: str) -> None:
    """What was handed on and what is left over add up to all gradients: the steps of a plain descent show what was handed on."""
    inputs = walk(seed, shape, 5)
    body = f"inner = dct(rank, every, basis: {basis}, feedback: true) -> sgd(lr: 1); param <- param + inner(grad); report left = inner.missed"
    found = evaluate_text(f"update fed(rank: int, every: int) {{ {body} }}", "fed", {"rank": rank, "every": gap}, inputs)
    handed = inputs["param_0"] - found["param_5"]
    close(handed + found["left"], sum(inputs[f"grad_{k}"] for k in range(5)), atol=1e-10)


@few
@given(seeds, st.sampled_from([(6, 4), (3, 7), (4, 4)]), st.integers(1, 3))
def test_rotation_keeps_what_stays_chosen(seed: int, shape: tuple[int, int], rank: int) -> None:
    """Slots whose frequency stays chosen go on with their moments, the others start anew."""
    inputs = walk(seed, shape, 2)
    right = shape[0] >= shape[1]
    first = stepped(f"{COSINE}.dct_adamw", inputs, rank=rank, rotate_subspace=True, basis="dct2")
    m1, m2 = (first[f"exp_avg_{t}"] if right else first[f"exp_avg_{t}"].T for t in (1, 2))
    old, new = first["indices_1"].tolist(), first["indices_2"].tolist()
    g = inputs["grad_1"] if right else inputs["grad_1"].T
    low = g @ wave(min(shape), "dct2")[:, new]
    for slot, frequency in enumerate(new):
        kept = m1[:, old.index(frequency)] if frequency in old else 0.0
        close(m2[:, slot], 0.9 * kept + 0.1 * low[:, slot], atol=1e-12)


@few
@given(seeds, st.sampled_from([(5, 3), (3, 6), (4, 4)]), bases)
def test_full_rank_is_adamw_in_turned_coordinates(seed: int, shape: tuple[int, int], basis: str) -> None:
    inputs = walk(seed, shape, 4)
    found = stepped(f"{COSINE}.dct_adamw", inputs, rank=max(shape), lr=0.01, basis=basis, use_ef=True, rotate_subspace=True)
    q = wave(min(shape), basis)
    turn = (lambda x: x @ q) if shape[0] >= shape[1] else (lambda x: q.T @ x)
    turned = {k: turn(x) for k, x in inputs.items()}
    plain = path(stepped("00-optimizer-baselines.adamw", turned, lr=0.01, weight_decay=0.0), turned)
    close(numpy.stack([turn(x) for x in path(found, inputs)]), plain, rtol=1e-6, atol=1e-8)
    close(found["error_feedback"], 0, atol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (), (3, 8), (2, 2, 2)], ids=str)
def test_what_is_no_small_matrix_gets_adamw(shape: tuple[int, ...]) -> None:
    inputs = walk(5, shape, 3)
    found = stepped(f"{COSINE}.dct_adamw", inputs, rank=1, lr=0.01, weight_decay=0.1, max_shape=8)
    plain = stepped("00-optimizer-baselines.adamw", inputs, lr=0.01, weight_decay=0.1)
    close(path(found, inputs), path(plain, inputs))
    assert "indices_1" not in found


# ---- Trion


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("scaling", ["kj", "dion", "kimi", "none"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_trion_by_its_equations(side: str, scaling: str, backend: str) -> None:
    for shape in MATRICES:
        inputs = walk(shape[0] + 10 * shape[1], shape, 3)
        found = stepped(f"{COSINE}.trion", inputs, backend, rank=2, side=side, scaling=scaling, basis="dct2", lr=0.1, weight_decay=0.1)
        n, m = shape
        scale = {"kj": math.sqrt(max(1, n / m)), "dion": math.sqrt(n / m), "kimi": 0.2 * math.sqrt(max(n, m)), "none": 1}[scaling]
        q = wave(m if side == "right" else n, "dct2")
        p, kept = inputs["param_0"], numpy.zeros(shape)
        for k in range(3):
            b = kept + inputs[f"grad_{k}"]
            s = (b if side == "right" else b.T) @ q
            chosen = numpy.sort(numpy.argsort(-numpy.abs(s).sum(0), kind="stable")[:2])
            low = s[:, chosen]
            back = low @ q[:, chosen].T
            kept = b - 0.05 * (back if side == "right" else back.T)
            x = low / (numpy.linalg.norm(low) + 1e-7)
            for _ in range(5):
                a = x @ x.T
                x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
            step = x @ q[:, chosen].T
            p = (1 - 0.01) * p - 0.1 * scale * (step if side == "right" else step.T)
            close(found[f"param_{k + 1}"], p, rtol=1e-6, atol=1e-9)
            assert found[f"indices_{k + 1}"].tolist() == chosen.tolist()
        close(found["momentum"], kept, atol=1e-11)

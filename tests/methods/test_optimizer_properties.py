"""Invariants of the optimizer baselines: torch's own classes as the absolute anchor, limits in which one rule is another, Muon, GaLore, LoRA."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate

from .cases import MATRICES, SHAPES, close, few, orthogonal, path, seeds, stepped, walk
from .harness import evaluate_text

BASE = "00-optimizer-baselines"
rates = st.floats(1e-4, 0.3)
betas = st.tuples(st.floats(0, 0.95), st.floats(0.1, 0.999))


def by_torch(rule: Any, inputs: dict[str, numpy.ndarray], **options: Any) -> tuple[numpy.ndarray, dict[str, Any]]:
    """The path that a class of torch.optim takes, and its last state."""
    p = torch.nn.Parameter(torch.tensor(inputs["param_0"], dtype=torch.float64))
    optimizer = rule([p], foreach=False, **options)
    found = [p.detach().numpy().copy()]
    for k in range(len(inputs) - 1):
        p.grad = torch.tensor(inputs[f"grad_{k}"], dtype=torch.float64)
        optimizer.step()
        found.append(p.detach().numpy().copy())
    return numpy.stack(found), {k: x.numpy() for k, x in optimizer.state[p].items() if k != "step" and x is not None}


OPTIONS = {
    "sgd": (torch.optim.SGD, [
        {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"momentum": 0.5, "dampening": 0.3, "maximize": True},
    ]),
    "adam": (torch.optim.Adam, [{}, {"weight_decay": 0.1, "amsgrad": True}, {"betas": (0.5, 0.7), "eps": 1e-2, "maximize": True}]),
    "adamw": (torch.optim.AdamW, [{}, {"weight_decay": 0.3, "amsgrad": True, "maximize": True}, {"weight_decay": 0.0}]),
    "rmsprop": (torch.optim.RMSprop, [
        {}, {"centered": True}, {"momentum": 0.9, "weight_decay": 0.1}, {"centered": True, "momentum": 0.5, "maximize": True},
    ]),
    "adagrad": (torch.optim.Adagrad, [{}, {"lr_decay": 0.2, "initial_accumulator_value": 0.5, "weight_decay": 0.1, "maximize": True}]),
    "adadelta": (torch.optim.Adadelta, [{}, {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}]),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", OPTIONS)
def test_every_rule_is_that_of_torch(rule: str, shape: tuple[int, ...], backend: str) -> None:
    kind, choices = OPTIONS[rule]
    for place, options in enumerate(choices):
        inputs = walk(17 * place + len(shape), shape, 4)
        expected, state = by_torch(kind, inputs, lr=0.05, **options)
        found = stepped(f"{BASE}.{rule}", inputs, backend, lr=0.05, **{k: list(x) if isinstance(x, tuple) else x for k, x in options.items()})
        close(path(found, inputs), expected, rtol=1e-7)
        for name, value in state.items():
            assert found[name].shape == shape
            close(found[name], value, rtol=1e-7)


@few
@given(seeds, st.sampled_from(SHAPES), rates, betas)
def test_adamw_without_decay_is_adam(seed: int, shape: tuple[int, ...], lr: float, beta: tuple[float, float]) -> None:
    inputs = walk(seed, shape, 4)
    options = {"lr": lr, "betas": list(beta)}
    one = stepped(f"{BASE}.adamw", inputs, weight_decay=0.0, **options)
    close(path(one, inputs), path(stepped(f"{BASE}.adam", inputs, **options), inputs))


@few
@given(seeds, st.sampled_from(SHAPES), rates)
def test_nesterov_without_momentum_is_plain_descent(seed: int, shape: tuple[int, ...], lr: float) -> None:
    inputs = walk(seed, shape, 3)
    plain = inputs["param_0"] - lr * sum(inputs[f"grad_{k}"] for k in range(3))
    close(stepped(f"{BASE}.sgd", inputs, lr=lr, nesterov=True)["param_3"], plain)


@few
@given(seeds, st.sampled_from(SHAPES))
def test_amsgrad_keeps_the_largest_second_moment(seed: int, shape: tuple[int, ...]) -> None:
    inputs = walk(seed, shape, 5)
    peaks = [numpy.zeros(shape)]
    found = stepped(f"{BASE}.adam", inputs, amsgrad=True, betas=[0.9, 0.5])
    for k in range(5):
        peaks.append(found[f"max_exp_avg_sq_{k + 1}"])
        assert (peaks[-1] >= peaks[-2]).all() and (peaks[-1] >= found[f"exp_avg_sq_{k + 1}"]).all()


@few
@given(seeds, st.sampled_from(SHAPES))
def test_amsgrad_is_adam_where_the_second_moment_only_grows(seed: int, shape: tuple[int, ...]) -> None:
    inputs = walk(seed, shape, 4)
    for k in range(4):
        inputs[f"grad_{k}"] = 2.0**k * inputs["grad_0"]
    close(path(stepped(f"{BASE}.adam", inputs, amsgrad=True), inputs), path(stepped(f"{BASE}.adam", inputs), inputs))


@few
@given(seeds, st.sampled_from(SHAPES), rates, st.floats(0, 0.5))
def test_lion_moves_by_one_rate_or_not_at_all(seed: int, shape: tuple[int, ...], lr: float, decay: float) -> None:
    inputs = walk(seed, shape, 4)
    found = path(stepped(f"{BASE}.lion", inputs, lr=lr, weight_decay=decay), inputs)
    moves = (found[1:] - (1 - lr * decay) * found[:-1]) / lr
    close(moves, numpy.round(moves), atol=1e-9)
    assert numpy.abs(numpy.round(moves)).max(initial=0) <= 1
    close(moves[0], -numpy.sign(inputs["grad_0"]), atol=1e-9)


@few
@given(seeds, st.sampled_from(SHAPES), rates)
def test_the_first_step_of_adam_is_the_sign(seed: int, shape: tuple[int, ...], lr: float) -> None:
    inputs = walk(seed, shape, 1)
    found = stepped(f"{BASE}.adam", inputs, lr=lr, eps=1e-14)
    close(found["param_1"], inputs["param_0"] - lr * numpy.sign(inputs["grad_0"]), rtol=1e-7)


@few
@given(seeds, st.sampled_from(SHAPES), st.floats(0.01, 100))
def test_adam_does_not_see_the_scale_of_the_gradient(seed: int, shape: tuple[int, ...], scale: float) -> None:
    inputs = walk(seed, shape, 3)
    scaled = {k: x * (scale if k.startswith("grad") else 1) for k, x in inputs.items()}
    close(path(stepped(f"{BASE}.adam", inputs, eps=1e-14), inputs), path(stepped(f"{BASE}.adam", scaled, eps=1e-14), inputs), rtol=1e-6)


@pytest.mark.parametrize("rule", ["adam", "adamw", "rmsprop", "adagrad", "adadelta", "lion", "sgd"])
def test_zero_gradients_move_nothing(rule: str) -> None:
    inputs = {"param_0": numpy.ones((2, 3)), "grad_0": numpy.zeros((2, 3)), "grad_1": numpy.zeros((2, 3))}
    options = {"weight_decay": 0.0} if rule == "adamw" else {}
    assert (path(stepped(f"{BASE}.{rule}", inputs, **options), inputs) == 1).all()


def test_eps_of_zero_is_refused() -> None:
    with pytest.raises(GradflowError, match="E0402"):
        stepped(f"{BASE}.adam", walk(0, (2,), 1), eps=0.0)


# ---- orthogonalization


def newton_schulz(x: numpy.ndarray, **params: Any) -> dict[str, numpy.ndarray]:
    return {k: v.numpy() for k, v in evaluate(f"{BASE}.muon", {"op": "newton_schulz", **params}, {"x": x}).items()}


def conditioned(seed: int, shape: tuple[int, int]) -> numpy.ndarray:
    """A matrix whose singular values lie in [0.2, 1]."""
    r = numpy.random.default_rng(seed)
    k = min(shape)
    return orthogonal(r, shape[0])[:, :k] * r.uniform(0.2, 1, k) @ orthogonal(r, shape[1])[:, :k].T


@few
@given(seeds, st.sampled_from(MATRICES))
def test_singular_values_go_to_about_one(seed: int, shape: tuple[int, int]) -> None:
    x = conditioned(seed, shape)
    found = newton_schulz(x)
    assert found["singular_values"].min() > 0.68 and found["singular_values"].max() < 1.14
    close(found["singular_values"], numpy.linalg.svd(found["y"], compute_uv=False))
    u, _, vt = numpy.linalg.svd(x, full_matrices=False)
    between = u.T @ found["y"] @ vt.T
    close(between, numpy.diag(numpy.diag(between)), atol=1e-9)


@few
@given(seeds, st.sampled_from(MATRICES), st.floats(0.1, 1000))
def test_orthogonalization_turns_with_its_argument_and_does_not_see_its_scale(seed: int, shape: tuple[int, int], scale: float) -> None:
    r = numpy.random.default_rng(seed)
    x, left, right = conditioned(seed, shape), orthogonal(r, shape[0]), orthogonal(r, shape[1])
    y = newton_schulz(x)["y"]
    close(newton_schulz(left @ x @ right)["y"], left @ y @ right, rtol=1e-7, atol=1e-9)
    close(newton_schulz(scale * x)["y"], y, rtol=1e-7, atol=1e-9)
    close(newton_schulz(x.T)["y"], y.T, rtol=1e-9, atol=1e-11)


def test_muon_of_a_zero_gradient_only_decays() -> None:
    inputs = {"param_0": numpy.ones((3, 2)), "grad_0": numpy.zeros((3, 2))}
    close(stepped(f"{BASE}.muon", inputs, lr=0.1, weight_decay=0.5)["param_1"], 0.95)


@few
@given(seeds, st.sampled_from(MATRICES), st.booleans(), st.sampled_from(["original", "match_rms_adamw", None]))
def test_muon_by_its_equations(seed: int, shape: tuple[int, int], nesterov: bool, adjust: str | None) -> None:
    inputs = walk(seed, shape, 3)
    p, buffer = inputs["param_0"], numpy.zeros(shape)
    found = stepped(f"{BASE}.muon", inputs, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov, adjust_lr_fn=adjust)
    for k in range(3):
        g = inputs[f"grad_{k}"]
        buffer = 0.9 * buffer + 0.1 * g
        x = 0.9 * buffer + 0.1 * g if nesterov else buffer
        x = x / max(numpy.linalg.norm(x), 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        factor = 0.2 * math.sqrt(max(shape)) if adjust == "match_rms_adamw" else math.sqrt(max(1, shape[0] / shape[1]))
        p = (1 - 0.002) * p - 0.02 * factor * x
        close(found[f"param_{k + 1}"], p, rtol=1e-7, atol=1e-10)
    close(found["momentum_buffer"], buffer)


# ---- GaLore


def galore(inputs: dict[str, numpy.ndarray], rank: int, gap: int, scale: float, side: str, lr: float, decay: float, correct: bool) -> tuple[Any, Any]:
    """galore-torch's AdamW by its equations, signs by the largest entry of each left vector; the path and the last moments."""
    p = inputs["param_0"]
    found, m, v, left, right = [p], 0.0, 0.0, None, None
    for k in range(len(inputs) - 1):
        g, t = inputs[f"grad_{k}"], k + 1
        if k % gap == 0:
            u, _, vt = numpy.linalg.svd(g, full_matrices=False)
            signs = numpy.sign(u[numpy.abs(u).argmax(0), numpy.arange(u.shape[1])])
            u, vt = (u * signs)[:, :rank], (vt * signs[:, None])[:rank]
            tall = g.shape[0] >= g.shape[1]
            on_right = {"std": tall, "reverse_std": not tall, "right": True, "left": False, "full": True}[side]
            left, right = (u if side == "full" or not on_right else None), (vt if on_right else None)
        low = g if left is None else left.T @ g
        low = low if right is None else low @ right.T
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) if correct else lr
        step = m / (numpy.sqrt(v) + 1e-6)
        step = step if left is None else left @ step
        step = step if right is None else step @ right
        p = p - rate * scale * step
        p = p - lr * decay * p
        found.append(p)
    return numpy.stack(found), (m, v)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("side", ["std", "reverse_std", "left", "right", "full"])
@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_galore_by_its_equations(shape: tuple[int, int], side: str, backend: str) -> None:
    r = numpy.random.default_rng(shape[0] * 10 + shape[1])
    inputs = {"param_0": r.normal(size=shape), **{f"grad_{k}": r.normal(size=shape) for k in range(5)}}
    for rank, gap, correct in ((1, 2, True), (2, 200, False), (9, 3, True)):
        expected, (m, v) = galore(inputs, rank, gap, 0.5, side, 0.01, 0.1, correct)
        options = {"lr": 0.01, "weight_decay": 0.1, "rank": rank, "update_proj_gap": gap, "scale": 0.5, "proj_type": side, "correct_bias": correct}
        found = stepped(f"{BASE}.galore_adamw", inputs, backend, **options)
        close(path(found, inputs), expected, rtol=1e-6, atol=1e-8)
        assert found["exp_avg"].shape == m.shape
        close(found["exp_avg"], m, rtol=1e-6, atol=1e-8)
        close(found["exp_avg_sq"], v, rtol=1e-6, atol=1e-8)


@few
@given(seeds, st.sampled_from([(5, 3), (3, 6), (4, 4)]))
def test_galore_of_full_rank_is_adamw_in_turned_coordinates(seed: int, shape: tuple[int, int]) -> None:
    r = numpy.random.default_rng(seed)
    inputs = {"param_0": r.normal(size=shape), **{f"grad_{k}": r.normal(size=shape) for k in range(4)}}
    found = stepped(f"{BASE}.galore_adamw", inputs, rank=max(shape), scale=1.0, update_proj_gap=10**6, lr=0.01)
    basis = found["proj"].T if shape[0] >= shape[1] else found["proj"]
    turn = (lambda x: x @ basis) if shape[0] >= shape[1] else (lambda x: basis.T @ x)
    turned = {k: turn(x) for k, x in inputs.items()}
    plain = path(stepped(f"{BASE}.galore_adamw", turned, lr=0.01), turned)
    close(numpy.stack([turn(x) for x in path(found, inputs)]), plain, rtol=1e-7, atol=1e-10)


def test_vectors_pass_galore_by() -> None:
    inputs = walk(3, (5,), 3)
    found = stepped(f"{BASE}.galore_adamw", inputs, rank=2)
    close(path(found, inputs), path(stepped(f"{BASE}.galore_adamw", inputs), inputs))
    assert "proj" not in found


def test_a_forced_side_is_a_guard_in_a_flow() -> None:
    """The same body under either guard: what is cut is what the guard calls so."""
    text = "update left = (galore_side(2) on [cut, kept] | nothing) -> sgd(lr: 1)\nupdate right = (galore_side(2) on [kept, cut]) -> sgd(lr: 1)"
    g = numpy.random.default_rng(0).normal(size=(3, 7))
    u, s, vt = numpy.linalg.svd(g, full_matrices=False)
    expected = -0.25 * (u[:, :2] * s[:2]) @ vt[:2]
    for name in ("left", "right"):
        close(evaluate_text(text, name, {}, {"param_0": numpy.zeros((3, 7)), "grad_0": g})["param_1"], expected)


# ---- LoRA


@few
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_lora_is_the_merged_layer(seed: int, rank: int, rows: int, features: int, units: int, stabilized: bool) -> None:
    r = numpy.random.default_rng(seed)
    shapes = {"x": (rows, features), "W0": (units, features), "A": (rank, features), "B": (units, rank), "grad_y": (rows, units)}
    inputs = {name: r.normal(size=shape) for name, shape in shapes.items()}
    params = {"r": rank, "alpha": 3.0, "rslora": stabilized}
    found = {k: v.numpy() for k, v in evaluate(f"{BASE}.lora", params, inputs).items()}
    s = 3.0 / (math.sqrt(rank) if stabilized else rank)
    close(found["y"], inputs["x"] @ found["W_merged"].T)
    close(found["W_merged"], inputs["W0"] + s * inputs["B"] @ inputs["A"])
    close(found["grad_B"], s * inputs["grad_y"].T @ inputs["x"] @ inputs["A"].T)
    close(found["grad_A"], s * inputs["B"].T @ inputs["grad_y"].T @ inputs["x"])
    close(found["grad_x"], inputs["grad_y"] @ found["W_merged"])


def test_lora_begins_at_the_base_layer() -> None:
    r = numpy.random.default_rng(1)
    inputs = {name: r.normal(size=shape) for name, shape in {"x": (3, 5), "W0": (4, 5), "A": (2, 5), "grad_y": (3, 4)}.items()}
    inputs["B"] = numpy.zeros((4, 2))
    found = {k: v.numpy() for k, v in evaluate(f"{BASE}.lora", {"r": 2}, inputs).items()}
    assert (found["grad_A"] == 0).all()
    close(found["y"], inputs["x"] @ inputs["W0"].T)

"""Invariants of CAPO: its predictions against the true step and against a dense second derivation, the trust region, and the loss without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.verify import evaluate

from .cases import few, seeds
from .policy_cases import Batch, batches, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
VOCABULARY, WIDTH = 5, 3


@dataclass(frozen=True)
class Rollout:
    """hidden [B, T, d], topk_logits, topk_ids [B, T, K], actions, mask [B, T], advantage [B], and the whole head [V, d] that made the logits."""

    inputs: dict[str, Any]
    head: numpy.ndarray

    def __call__(self, backend: str = "reference", state: dict[str, Any] | None = None, **params: Any) -> dict[str, numpy.ndarray]:
        found = evaluate("07-capo.curvature", {"vocab": VOCABULARY, **params}, self.inputs | (state or {}), backend)
        return {name: value.numpy() for name, value in found.items()}


@st.composite
def rollouts(draw: Any, kept: int | None = None) -> Rollout:
    r = numpy.random.default_rng(draw(seeds))
    rows, tokens, top = draw(st.integers(1, 3)), draw(st.integers(1, 3)), kept or draw(st.integers(1, VOCABULARY))
    head, hidden = r.normal(size=(VOCABULARY, WIDTH)), r.normal(size=(rows, tokens, WIDTH))
    logits = hidden @ head.T
    words = numpy.argsort(-logits, -1)[..., :top]
    inputs = {
        "hidden": hidden,
        "topk_logits": numpy.take_along_axis(logits, words, -1),
        "topk_ids": words,
        "actions": r.integers(0, VOCABULARY, (rows, tokens)),
        "advantage": r.normal(size=rows) * (r.uniform(size=rows) < 0.8),
        "mask": (r.uniform(size=(rows, tokens)) < draw(st.sampled_from([1.0, 0.6, 0.0]))).astype(float),
    }
    return Rollout(inputs, head)


def moments(seed: int) -> dict[str, numpy.ndarray]:
    """Of Adam, some rows never seen."""
    r = numpy.random.default_rng(seed)
    seen = (r.uniform(size=(VOCABULARY, 1)) < 0.7).astype(float)
    return {"m": seen * r.normal(size=(VOCABULARY, WIDTH)), "v": seen * r.uniform(0.01, 1, size=(VOCABULARY, WIDTH))}


def dense(rollout: Rollout, state: dict[str, Any] | None, lr: float, steps: int, tau_h: float, tau_f: float) -> dict[str, Any]:
    """The card, token by token, over the whole head: rows that were not kept have no probability and no gradient."""
    x = rollout.inputs
    rows, tokens = x["mask"].shape
    found = {name: numpy.zeros((rows, tokens)) for name in ("m_H", "m_F", "accept")}
    pulls = numpy.zeros((rows, tokens, VOCABULARY, WIDTH))
    p, s = (numpy.zeros((rows, tokens, VOCABULARY)) for _ in range(2))

    def moved(g: numpy.ndarray) -> numpy.ndarray:
        if state is None or not steps:
            return g
        m, v = 0.9 * state["m"] + 0.1 * g, 0.999 * state["v"] + 0.001 * g**2
        return m / (1 - 0.9 ** (steps + 1)) / (numpy.sqrt(v / (1 - 0.999 ** (steps + 1))) + 1e-8)

    def bent(b: int, t: int, d: numpy.ndarray) -> tuple[float, float]:
        words = x["topk_ids"][b, t]
        u = numpy.zeros(VOCABULARY)
        u[words] = d[words] @ x["hidden"][b, t]
        q = s[b, t] @ u
        return x["advantage"][b] * (q**2 - (p[b, t] @ u**2 - (p[b, t] @ u) ** 2)), q**2

    for b, t in numpy.ndindex(rows, tokens):
        words, weight = x["topk_ids"][b, t], numpy.exp(x["topk_logits"][b, t])
        p[b, t, words] = weight / weight.sum()
        s[b, t] = -p[b, t]
        if x["actions"][b, t] in words:
            s[b, t, x["actions"][b, t]] += 1
        pulls[b, t] = x["advantage"][b] * s[b, t][:, None] * x["hidden"][b, t]
        d = moved(pulls[b, t])
        hess, fisher = bent(b, t, d)
        kept = numpy.isin(numpy.arange(VOCABULARY), words)
        m_h, m_f = lr * (pulls[b, t] * d)[kept].sum() + lr**2 / 2 * hess, lr**2 / 2 * fisher
        if x["mask"][b, t]:
            found["m_H"][b, t], found["m_F"][b, t] = m_h, m_f
            found["accept"][b, t] = (not tau_h or abs(m_h) < tau_h) and (not tau_f or m_f < tau_f)

    def typical(taken: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        many = numpy.zeros(VOCABULARY)
        for b, t in numpy.argwhere(taken):
            many[x["topk_ids"][b, t]] += 1
        return (pulls * taken[..., None, None]).sum((0, 1)) / numpy.maximum(many, 1)[:, None], many

    def whole(members: list[int]) -> tuple[float, float]:
        """The step of all tokens of some samples, averaged over the tokens of each and then over the samples."""
        taken = (x["mask"] > 0) & numpy.isin(numpy.arange(rows), members)[:, None]
        g, many = typical(taken)
        d = moved(g) * (many > 0)[:, None]
        means = numpy.zeros((rows, 2))
        for b, t in numpy.argwhere(taken):
            means[b] += numpy.array(bent(b, t, d)) / taken[b].sum()
        hess, fisher = means[members].mean(0)
        return lr * float((g * d).sum()) + lr**2 / 2 * hess, lr**2 / 2 * fisher

    found["m_H_batch"], found["m_F_batch"] = whole([*range(rows)])
    found["m_H_seq"], found["m_F_seq"] = numpy.array([whole([b]) for b in range(rows)]).T
    found["gbar_accepted"], many = typical(found["accept"] > 0)
    if state is not None:
        seen = (many > 0)[:, None]
        found["m_new"] = numpy.where(seen, 0.9 * state["m"] + 0.1 * found["gbar_accepted"], state["m"])
        found["v_new"] = numpy.where(seen, 0.999 * state["v"] + 0.001 * found["gbar_accepted"] ** 2, state["v"])
    return found


@backends
@few
@given(
    rollouts(),
    seeds,
    st.sampled_from(["sgd", "adam", "adam at first"]),
    st.floats(0.001, 0.2),
    st.sampled_from([0.0, 0.02]),
    st.sampled_from([0.0, 1e-3]),
)
def test_every_number_is_that_of_the_dense_derivation(
    backend: str, rollout: Rollout, seed: int, rule: str, lr: float, tau_h: float, tau_f: float
) -> None:
    state, steps = (moments(seed), 4) if rule == "adam" else (None, 0)
    params = {"optimizer": rule.split()[0], "lr": lr, "tau_H": tau_h, "tau_F": tau_f, "t": steps}
    found, expected = rollout(backend, state, **params), dense(rollout, state, lr, steps, tau_h, tau_f)
    for name, value in expected.items():
        numpy.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-10, err_msg=name)


@few
@given(rollouts(kept=VOCABULARY), st.sampled_from([1e-2, 1e-3]))
def test_the_prediction_is_the_true_change_up_to_third_order(rollout: Rollout, lr: float) -> None:
    """With all words kept: W + lr * g changes advantage * p / p_old by m_H."""
    x = rollout.inputs
    found = rollout(optimizer="sgd", lr=lr, tau_H=0.0, tau_F=0.0)
    for b, t in numpy.argwhere(x["mask"] > 0):
        h, y = x["hidden"][b, t], x["actions"][b, t]
        p = numpy.exp(rollout.head @ h - numpy.logaddexp.reduce(rollout.head @ h))
        moved = rollout.head + lr * x["advantage"][b] * ((numpy.arange(VOCABULARY) == y) - p)[:, None] * h
        change = moved @ h - numpy.logaddexp.reduce(moved @ h)
        size = lr * abs(x["advantage"][b]) * (h @ h)
        assert found["m_H"][b, t] == pytest.approx(
            x["advantage"][b] * (numpy.exp(change[y]) / p[y] - 1), abs=3 * abs(x["advantage"][b]) * size**3 + 1e-12
        )


@few
@given(rollouts(), st.floats(0.001, 1), st.floats(1.1, 5))
def test_plain_steps_have_a_closed_form(rollout: Rollout, lr: float, factor: float) -> None:
    """u = A |h|^2 s; and m_F grows with the square of the rate."""
    x = rollout.inputs
    found = rollout(optimizer="sgd", lr=lr, tau_H=0.0, tau_F=0.0)
    weight = numpy.exp(x["topk_logits"])
    s = (x["topk_ids"] == x["actions"][..., None]) - weight / weight.sum(-1, keepdims=True)
    size = x["advantage"][:, None] * (x["hidden"] ** 2).sum(-1)
    numpy.testing.assert_allclose(found["grad_dot"], x["mask"] * x["advantage"][:, None] * size * (s**2).sum(-1), atol=1e-12)
    numpy.testing.assert_allclose(found["fisher_coef"], x["mask"] * (size * (s**2).sum(-1)) ** 2, rtol=1e-9, atol=1e-12)
    assert (found["m_F"] >= 0).all()
    faster = rollout(optimizer="sgd", lr=factor * lr, tau_H=0.0, tau_F=0.0)
    numpy.testing.assert_allclose(faster["m_F"], factor**2 * found["m_F"], rtol=1e-9)


@few
@given(rollouts(), seeds, st.floats(0.01, 0.3), st.floats(1e-4, 0.1), st.floats(1, 10), st.booleans())
def test_a_wider_region_takes_no_fewer_tokens_and_never_more_than_there_are(
    rollout: Rollout, seed: int, lr: float, tau: float, factor: float, symmetric: bool
) -> None:
    params = {"lr": lr, "t": 3, "symmetric": symmetric}
    narrow, wide = (rollout(state=moments(seed), tau_H=k * tau, tau_F=k * tau, **params)["accept"] for k in (1, factor))
    unbounded = rollout(state=moments(seed), tau_H=0.0, tau_F=0.0, **params)["accept"]
    assert (narrow <= wide).all() and (wide <= unbounded).all()
    numpy.testing.assert_array_equal(unbounded, rollout.inputs["mask"])


@few
@given(rollouts(), seeds, seeds)
def test_the_order_of_the_batch_does_not_matter(rollout: Rollout, seed: int, order: int) -> None:
    moved = numpy.random.default_rng(order).permutation(len(rollout.inputs["mask"]))
    there = Rollout({name: value[moved] for name, value in rollout.inputs.items()}, rollout.head)
    params = {"state": moments(seed), "lr": 0.05, "tau_H": 0.02, "tau_F": 1e-3, "t": 3}
    here, other = rollout(**params), there(**params)
    numpy.testing.assert_array_equal(here["accept"][moved], other["accept"])
    numpy.testing.assert_allclose(here["m_new"], other["m_new"], atol=1e-12)


def test_without_an_advantage_a_one_sided_test_passes_and_a_rate_of_zero_takes_all() -> None:
    r = numpy.random.default_rng(0)
    inputs = {
        "hidden": r.normal(size=(2, 2, WIDTH)), "topk_logits": r.normal(size=(2, 2, 2)), "topk_ids": numpy.array([[[0, 1], [2, 3]]] * 2),
        "actions": numpy.zeros((2, 2), int), "advantage": numpy.array([0.0, 3.0]), "mask": numpy.ones((2, 2)),
    }  # fmt: skip
    rollout = Rollout(inputs, numpy.zeros(0))
    found = rollout(optimizer="sgd", lr=5.0, tau_H=1e-6, tau_F=1e-6, symmetric=False)
    numpy.testing.assert_array_equal(found["accept"], [[1, 1], [0, 0]])
    assert rollout(optimizer="sgd", lr=0.0, tau_H=1e-6, tau_F=1e-6)["accept"].all()


def test_garbage_outside_of_the_mask_reaches_nothing() -> None:
    r = numpy.random.default_rng(0)
    mask = numpy.array([[1.0, 0.0], [1.0, 1.0]])
    inputs = {
        "hidden": r.normal(size=(2, 2, WIDTH)), "topk_logits": r.normal(size=(2, 2, 2)), "topk_ids": numpy.array([[[0, 1], [2, 3]]] * 2),
        "actions": numpy.zeros((2, 2), int), "advantage": numpy.ones(2), "mask": mask,
    }  # fmt: skip
    spoilt = {name: numpy.where(mask[..., None] > 0, inputs[name], numpy.nan) for name in ("hidden", "topk_logits")}
    for backend in ("reference", "torch"):
        clean, other = (Rollout(inputs | x, numpy.zeros(0))(backend, moments(1), lr=0.1, t=2) for x in ({}, spoilt))
        for name, value in clean.items():
            numpy.testing.assert_allclose(other[name], value, err_msg=name)


# ---- the loss


@backends
@few
@given(batches(), seeds, st.booleans())
def test_the_loss_is_that_of_grpo_on_the_tokens_taken(backend: str, batch: Batch, seed: int, constant: bool) -> None:
    accept = torch.tensor(numpy.random.default_rng(seed).uniform(size=batch.mask.shape) < 0.6) & batch.mask
    way = {"aggregate": "seq-mean-token-sum-norm", "norm": 7.0} if constant else {"aggregate": "seq-mean-token-mean"}
    for taken in (accept, batch.mask):
        inputs = {name: x for name, x in batch.inputs().items() if name != "logp_ref"} | {"accept": taken.double()}
        ours = evaluate("07-capo.masked_loss", {"norm": "constant" if constant else "seq", "max_len": 7.0}, inputs, backend)
        grpo = component("policy_loss", Batch(**{**vars(batch), "mask": taken}).inputs(), algo="ppo", log_ratio_clamp=None, empty_seq="count", **way)
        same(ours["loss"], grpo["loss"])
        same(ours["grad_logp"], grpo["grad_logp"])

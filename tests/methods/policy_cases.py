"""Draws of the policy tests, and the card's formulas a second time: a batch of log-probabilities, and every option of the loss in torch's autograd.

Axes: B responses, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from torch import Tensor

from gradflow.verify import evaluate

BASE = "00-policy-baselines"
AGGREGATES = ("token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-sum-token-mean")
SHAPES = [(1, 1), (1, 4), (4, 1), (3, 5), (4, 6)]
GARBAGE = (float("nan"), float("inf"), -float("inf"))
inf = float("inf")


@dataclass(frozen=True)
class Batch:
    """logp, logp_old, logp_ref [B, T], mask bool [B, T], advantage [B] or [B, T]."""

    logp: Tensor
    logp_old: Tensor
    logp_ref: Tensor
    mask: Tensor
    advantage: Tensor

    def inputs(self, garbage: float | None = None, **changes: Tensor) -> dict[str, Tensor]:
        """As in a vector file; `garbage` stands where there is no token."""
        values = {**vars(self), **changes}
        if garbage is not None:
            values |= {name: values[name].masked_fill(~self.mask, garbage) for name in ("logp", "logp_old", "logp_ref")}
        return values | {"mask": self.mask.double()}


@st.composite
def batches(draw: Any, scales: tuple[float, ...] = (0.1, 1.0, 30.0), full: bool = False, rows: bool = False) -> Batch:
    """`scales`: of the log ratio; `full`: no response is empty; `rows`: an advantage for each response."""
    seed, shape, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(SHAPES)), draw(st.sampled_from(scales))
    share = draw(st.sampled_from((1.0, 0.7, 0.3) if full else (1.0, 0.7, 0.3, 0.0)))
    r = numpy.random.default_rng(seed)
    old = -3 * r.uniform(size=shape)
    mask = r.uniform(size=shape) < share
    if full:
        mask[:, r.integers(shape[1])] = True
    wide = not rows and draw(st.booleans())
    advantage = r.normal(size=shape if wide else shape[:1]) * (r.uniform(size=shape if wide else shape[:1]) < 0.8)
    return Batch(*(torch.tensor(x) for x in (old + scale * r.normal(size=shape), old, old + 0.3 * r.normal(size=shape), mask, advantage)))


def component(name: str, inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, Tensor]:
    return evaluate(f"{BASE}.{name}", params, inputs, backend)


def same(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(torch.as_tensor(numpy.asarray(a, float)), torch.as_tensor(numpy.asarray(b, float)), rtol=rtol, atol=atol)


# ---- the formulas of the card


def aggregated(loss: Tensor, mask: Tensor, aggregate: str, empty_seq: str = "exclude", norm: float | None = None, dp_size: float = 1) -> Tensor:
    loss = torch.where(mask, loss, 0.0)
    length, row = mask.sum(1).clamp(min=1), loss.sum(1)
    rows = max(int(mask.any(1).sum()) if empty_seq == "exclude" else len(mask), 1)
    count = rows if norm is None else norm
    total = {
        "token-mean": loss.sum() / (max(int(mask.sum()), 1) if norm is None else norm),
        "token-sum": loss.sum(),
        "seq-mean-token-mean": (row / length).sum() / count,
        "seq-mean-token-sum": row.sum() / count,
        "seq-mean-token-sum-norm": row.sum() / rows / (mask.shape[1] if norm is None else norm),
        "seq-sum-token-mean": (row / length).sum(),
    }[aggregate]
    return total * dp_size


def divergence(logp: Tensor, other: Tensor, kl: str, bound: float = inf, most: float = inf) -> Tensor:
    if kl.endswith("+"):
        slope = 0.5 * (logp - other) ** 2
        return slope - slope.detach() + divergence(logp, other, kl[:-1], bound, most).detach()
    gap = (other - logp).clamp(-bound, bound)
    table: dict[str, Callable[[], Tensor]] = {
        "k1": lambda: logp - other,
        "abs": lambda: (logp - other).abs(),
        "k2": lambda: 0.5 * (logp - other) ** 2,
        "k3": lambda: (gap.exp() - gap - 1).clamp(-most, most),
    }
    return table[kl]()


def ratio_of(p: dict[str, Any], batch: Batch, logp: Tensor) -> Tensor:
    change = torch.where(batch.mask, logp - batch.logp_old, 0.0)
    bound = p["log_ratio_clamp"] or inf
    if p["algo"] == "rloo_seq":
        return change.sum(1, keepdim=True).clamp(-bound, bound).exp().expand_as(logp)
    if p["ratio_level"] == "token":
        return (logp - batch.logp_old).clamp(-bound, bound).exp()
    mean = change.sum(1, keepdim=True) / batch.mask.sum(1, keepdim=True).clamp(min=1)
    if p["log_ratio_clamp_max"] is None:
        return mean.clamp(-bound, bound).exp().expand_as(logp)
    return (logp - logp.detach() + mean.detach()).clamp(max=p["log_ratio_clamp_max"]).exp()


def surrogate_of(p: dict[str, Any], ratio: Tensor, advantage: Tensor, logp: Tensor) -> Tensor:
    low, high = 1 - p["eps_low"], 1 + p["eps_high"]
    if p["algo"] == "reinforce":
        return -advantage * logp
    if p["algo"] == "cispo":
        weight = ratio.clamp(max=p["ratio_max"]) if p["clip_form"] == "max" else ratio.clamp(low, high)
        return -weight.detach() * advantage * logp
    loss = torch.max(-advantage * ratio.clamp(max=p["ratio_cap"] or inf), -advantage * ratio.clamp(low, high))
    if p["dual_clip_c"] is None:
        return loss
    return torch.where(advantage < 0, torch.min(loss, -advantage * p["dual_clip_c"]), loss)


def policy_loss(p: dict[str, Any], batch: Batch) -> dict[str, Tensor]:
    """loss and grad_logp of the component `policy_loss`."""
    logp = batch.logp.clone().requires_grad_()
    advantage = (batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]).expand_as(logp)
    counts = {name: p[name] for name in ("aggregate", "empty_seq", "norm", "dp_size")}
    ratio = ratio_of(p, batch, logp)
    losses = surrogate_of(p, ratio, advantage, logp)
    if p["algo"] == "rloo_seq":
        rows = losses[:, 0] if p["empty_seq"] == "count" else losses[:, 0][batch.mask.any(1)]
        loss = rows.sum() / (p["norm"] or max(len(rows), 1))
    else:
        loss = aggregated(losses, batch.mask, **counts)
    if p["beta"]:
        kl = divergence(logp, batch.logp_ref, p["kl"])
        loss = loss + p["beta"] * aggregated(kl * ratio if p["kl_is_weight"] else kl, batch.mask, **counts)
    (slope,) = torch.autograd.grad(loss, logp)
    return {"loss": loss.detach(), "grad_logp": slope}


@st.composite
def options(draw: Any, algos: tuple[str, ...] = ("ppo", "gspo", "cispo", "reinforce", "rloo_seq")) -> dict[str, Any]:
    """Every parameter of the component `policy_loss`."""

    def one(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    algo = one(*algos)
    level = "sequence" if algo == "gspo" else one("token", "sequence") if algo in ("ppo", "cispo") else "token"
    return {
        "algo": algo, "ratio_level": level, "eps_low": one(0.2, 3e-4, 1.0), "eps_high": one(0.2, 0.28), "dual_clip_c": one(None, 3.0),
        "ratio_cap": one(None, 1.5), "log_ratio_clamp": one(None, 20.0), "log_ratio_clamp_max": one(None, 10.0) if level == "sequence" else None,
        "clip_form": one("max", "1-low..1+high"), "ratio_max": one(5.0, 0.5), "beta": one(0.0, 0.04), "kl_is_weight": draw(st.booleans()),
        "kl": one("k1", "k2", "k3", "abs", "k1+", "k3+"), "aggregate": one(*AGGREGATES), "empty_seq": one("exclude", "count"),
        "norm": one(None, 7.0), "dp_size": one(1, 2),
    }  # fmt: skip

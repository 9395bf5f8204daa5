"""Draws of the preference tests, and the card's formulas a second time, in torch's autograd.

Axes: B pairs or answers, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from gradflow.verify import evaluate

BASE = "00-preference-baselines"
SHAPES = [(1, 1), (1, 4), (2, 1), (3, 5), (4, 6)]
GARBAGE = (float("nan"), float("inf"), -float("inf"))
MARGINS = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
SEPARATE = ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True)
class Pairs:
    """chosen, rejected, ref_chosen, ref_rejected [B, T]; chosen_mask, rejected_mask bool [B, T], true from the left on."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_mask: Tensor
    rejected_mask: Tensor

    def inputs(self, garbage: float | None = None, reference: bool = True) -> dict[str, Tensor]:
        """As in a vector file; `garbage` stands where there is no token."""
        found = {"chosen_mask": self.chosen_mask.double(), "rejected_mask": self.rejected_mask.double()}
        for side in ("chosen", "rejected"):
            for name, value in ((f"{side}_logp", getattr(self, side)), (f"ref_{side}_logp", getattr(self, f"ref_{side}"))):
                if reference or not name.startswith("ref_"):
                    found[name] = value if garbage is None else value.masked_fill(~getattr(self, f"{side}_mask"), garbage)
        return found


def masks(r: numpy.random.Generator, shape: tuple[int, int], least: int) -> numpy.ndarray:
    """Answers of random lengths, the first tokens of each row."""
    return numpy.arange(shape[1]) < r.integers(least, shape[1] + 1, size=(shape[0], 1))


@st.composite
def pairs(draw: Any, least: int = 0, scales: tuple[float, ...] = (0.1, 1.0, 30.0)) -> Pairs:
    """`least`: tokens of the shortest answer; `scales`: of the log ratio."""
    seed, shape, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(SHAPES)), draw(st.sampled_from(scales))
    r = numpy.random.default_rng(seed)
    references = [-3 * r.uniform(size=shape) for _ in range(2)]
    live = [-abs(x + scale * r.normal(size=shape)) for x in references]
    return Pairs(*(torch.tensor(x) for x in (*live, *references, masks(r, shape, least), masks(r, shape, least))))


def component(name: str, inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, Tensor]:
    return evaluate(f"{BASE}.{name}", params, inputs, backend)


def same(a: Any, b: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(torch.as_tensor(numpy.asarray(a, float)), torch.as_tensor(numpy.asarray(b, float)), rtol=rtol, atol=atol)


# ---- the formulas of the card


def changed(x: Tensor, kind: str, alpha: float) -> Tensor:
    table: dict[str, Callable[[], Tensor]] = {
        "reverse_kl": lambda: x,
        "forward_kl": lambda: 1 - torch.exp(-x),
        "js_divergence": lambda: log(2) + logsigmoid(x),
        "alpha_divergence": lambda: x if abs(alpha - 1) < 1e-6 else (torch.exp(((alpha - 1) * x).clamp(max=80)) - 1) / (alpha - 1),
    }
    return table[kind]()


def dpo_loss(p: dict[str, Any], data: Pairs) -> dict[str, Tensor]:
    """loss, gradients and rewards of the component `dpo`."""
    chosen, rejected = data.chosen.clone().requires_grad_(), data.rejected.clone().requires_grad_()
    lengths = [mask.sum(1) for mask in (data.chosen_mask, data.rejected_mask)]
    shared, late = torch.minimum(*lengths)[:, None], 1.0 if p["ld_alpha"] is None else p["ld_alpha"]
    weights = [mask * torch.where(mask.cumsum(1) <= shared, 1.0, late) for mask in (data.chosen_mask, data.rejected_mask)]
    sums = [(x * w).sum(1) for x, w in zip((chosen, rejected, data.ref_chosen, data.ref_rejected), weights * 2, strict=True)]
    loss = torch.zeros((), dtype=torch.float64)
    for kind, weight in zip(p["loss_type"], p["loss_weights"] or [1.0] * len(p["loss_type"]), strict=True):
        loss = loss + weight * pair_loss(kind, p, sums, [n.clamp(min=1) for n in lengths], chosen, data.chosen_mask).mean()
    grads = torch.autograd.grad(loss, (chosen, rejected), allow_unused=True)
    slopes = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, (chosen, rejected), strict=True)]
    won, lost = p["beta"] * (sums[0] - sums[2]).detach(), p["beta"] * (sums[1] - sums[3]).detach()
    return {
        "loss": loss.detach(), "grad_chosen_logp": slopes[0], "grad_rejected_logp": slopes[1], "chosen_rewards": won, "rejected_rewards": lost,
        "reward_accuracy": (won > lost).double().mean(),
    }  # fmt: skip


def pair_loss(kind: str, p: dict[str, Any], sums: list[Tensor], lengths: list[Tensor], chosen: Tensor, mask: Tensor) -> Tensor:
    b, e = p["beta"], p["label_smoothing"]
    dc, dr = sums[0] - sums[2], sums[1] - sums[3]
    sc, sr = (changed(x, p["f_divergence_type"], p["f_alpha_divergence_coef"]) for x in (dc, dr))
    d, sg, ls = b * (sc - sr), torch.sigmoid, logsigmoid

    def smoothed(x: Tensor) -> Tensor:
        return -(1 - e) * ls(x) - e * ls(-x)

    table: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: -ls(d),
        "sigmoid_norm": lambda: -ls(b * (sc / lengths[0] - sr / lengths[1])),
        "hinge": lambda: torch.relu(1 - d),
        "ipo": lambda: (sc / lengths[0] - sr / lengths[1] - 1 / (2 * b)) ** 2,
        "robust": lambda: (-(1 - e) * ls(d) + e * ls(-d)) / (1 - 2 * e),
        "exo_pair": lambda: sg(d) * (ls(d) - log(1 - e)) + sg(-d) * (ls(-d) - log(e)),
        "discopop": lambda: -ls(d) * (1 - sg(d / p["discopop_tau"])) + torch.exp(-d) * sg(d / p["discopop_tau"]),
        "sft": lambda: -(chosen * mask).sum() / mask.sum().clamp(min=1),
        "nca_pair": lambda: -ls(b * dc) - 0.5 * ls(-b * dc) - 0.5 * ls(-b * dr),
        "bco_pair": lambda: -ls(b * dc) - ls(-b * dr),
        "sppo_hard": lambda: (dc - 0.5 / b) ** 2 + (dr + 0.5 / b) ** 2,
        "aot": lambda: smoothed(b * ((sums[0] - sums[1]).sort().values - (sums[2] - sums[3]).sort().values)),
        "aot_unpaired": lambda: smoothed(b * (dc.sort().values - dr.sort().values)),
        "apo_zero": lambda: 1 - sg(b * dc) + sg(b * dr),
        "apo_down": lambda: sg(b * dc) + 1 - sg(b * (dc - dr)),
    }
    return table[kind]()


def cpo_loss(p: dict[str, Any], data: Pairs) -> dict[str, Tensor]:
    """loss and gradients of the component `simpo`, pairs with an empty side left out where lengths are divided by."""
    chosen, rejected = data.chosen.clone().requires_grad_(), data.rejected.clone().requires_grad_()
    averaged = p["loss_type"] in ("simpo", "ipo")
    scores = []
    for x, mask in ((chosen, data.chosen_mask), (rejected, data.rejected_mask)):
        s = (x * mask).sum(1) / (mask.sum(1).clamp(min=1) if averaged else 1)
        scores.append(s if p["alpha"] == 0 else (1 - torch.exp(s) ** (-p["alpha"])) / p["alpha"])
    gap, b, e = scores[0] - scores[1], p["beta"], p["label_smoothing"]
    if p["loss_type"] == "simpo":
        gap = gap - p["simpo_gamma"] / b
    if p["loss_type"] == "hinge":
        each = torch.relu(1 - b * gap)
    elif p["loss_type"] == "ipo":
        each = (gap - 1 / (2 * b)) ** 2
    else:
        each = (1 - e) * softplus(-b * gap) + e * softplus(b * gap)
    here = data.chosen_mask.any(1) & data.rejected_mask.any(1) if averaged else torch.ones(len(each), dtype=torch.bool)
    nll = -(chosen * data.chosen_mask).sum() / data.chosen_mask.sum().clamp(min=1)
    loss = each[here].sum() / max(int(here.sum()), 1) + p["cpo_alpha"] * nll
    slopes = torch.autograd.grad(loss, (chosen, rejected))
    return {"loss": loss.detach(), "grad_chosen_logp": slopes[0], "grad_rejected_logp": slopes[1], "chosen_rewards": (b * scores[0]).detach()}

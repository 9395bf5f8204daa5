"""Invariants of AEPO: the controller's sign, which rows change places, what the additional term may and may not move, GRPO without it."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.verify import evaluate

from .cases import few, seeds
from .policy_cases import GARBAGE, Batch, batches, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
rules = st.sampled_from(["switch", "clip"])
additive = st.sampled_from(["additive-reinforce", "additive-clip"])


def temperatures(before: Any, backend: str = "reference", **params: Any) -> dict[str, numpy.ndarray]:
    """For entropies measured before the step: the controller is asked one step later."""
    entropy = numpy.append(numpy.asarray(before, float), 0)
    positives = params.pop("positives", numpy.zeros(len(entropy), int))
    found = evaluate("20-aepo.controller", params, {"entropy": entropy, "n_positive": positives}, backend)
    return {name: value.numpy()[1:] for name, value in found.items()}


# ---- the controller


@few
@given(rules, st.floats(0.1, 2), st.lists(st.floats(0, 4), min_size=2, max_size=8, unique=True))
def test_the_temperature_never_rises_with_the_entropy(rule: str, target: float, entropy: list[float]) -> None:
    found = temperatures(numpy.sort(entropy), mode=rule, target=target)["temperature"]
    assert (numpy.diff(found) <= 0).all() and (found >= 0.8).all() and (found <= 1.2).all()


@backends
@few
@given(st.floats(0.1, 2))
def test_at_the_target_the_one_rule_asks_for_one_and_the_other_for_more(backend: str, target: float) -> None:
    assert temperatures([target], backend, mode="clip", target=target)["temperature"] == pytest.approx(1, abs=1e-15)
    assert temperatures([target], backend, mode="switch", target=target)["temperature"] == 1.2
    assert temperatures([target + 1e-9], backend, mode="switch", target=target)["temperature"] == 0.8


def test_the_first_step_knows_no_entropy() -> None:
    found = evaluate("20-aepo.controller", {"mode": "switch"}, {"entropy": numpy.array([3.0]), "n_positive": numpy.array([7])})
    assert found["temperature"] == 1.2 and found["n_aux"] == 7


@few
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 200)), min_size=1, max_size=6), st.integers(0, 80))
def test_above_the_target_half_as_many_come(steps: list[tuple[float, int]], most: int) -> None:
    entropy, positive = (numpy.array(x) for x in zip(*steps))
    found = temperatures(entropy, positives=numpy.append(0, positive), max_aux=most)["n_aux"]
    n = numpy.minimum(positive, most)
    numpy.testing.assert_array_equal(found, numpy.where(entropy > 0.5, n // 2, n))


# ---- the rows that change places


@backends
@few
@given(seeds, st.integers(1, 8), st.integers(0, 9), st.integers(0, 10), st.booleans())
def test_the_first_right_answers_take_the_first_places(backend: str, seed: int, rows: int, extra: int, most: int, above: bool) -> None:
    r = numpy.random.default_rng(seed)
    main, aux = r.normal(size=rows), r.choice([-1.0, 0.05, 0.06, 1.0], extra)
    params = {"entropy": 0.9 if above else 0.1, "target": 0.5, "max_aux": most, "threshold": 0.05}
    found = {name: x.numpy() for name, x in evaluate("20-aepo.compose", params, {"adv_main": main, "adv_aux": aux}, backend).items()}
    good = numpy.flatnonzero(aux > 0.05)
    taken = min(min(most, len(good)) // (2 if above else 1), rows)
    numpy.testing.assert_array_equal(found["is_aux"], numpy.arange(rows) < taken)
    numpy.testing.assert_array_equal(found["source_index"], [*good[:taken], *range(taken, rows)])
    numpy.testing.assert_array_equal(found["advantage"], [*numpy.ones(taken), *main[taken:]])


# ---- the losses


def loss(batch: Batch, other: Batch | None = None, backend: str = "reference", garbage: float | None = None, **params: Any) -> dict[str, Any]:
    inputs = {name: x for name, x in batch.inputs(garbage).items() if name != "logp_ref"}
    if other is not None:
        extra = other.inputs(garbage)
        inputs |= {"logp_aux": extra["logp"], "logp_old_aux": extra["logp_old"], "mask_aux": extra["mask"], "reward_aux": worth(other)}
    return evaluate("20-aepo.loss", params, inputs, backend)


def worth(batch: Batch) -> torch.Tensor:
    """Rewards of the extra samples: right, wrong, and half right."""
    return torch.tensor([(1.0, 0.0, 0.5, 1.0)[row % 4] for row in range(len(batch.mask))], dtype=torch.float64)


def additional(batch: Batch, logp: torch.Tensor, mode: str) -> torch.Tensor:
    """The card's term, a second time."""
    ratio = (logp - batch.logp_old).exp()
    held = torch.minimum(ratio, ratio.clamp(0.8, 1.2)) * (worth(batch) >= 1)[:, None]
    gain = torch.where(batch.mask, held if mode == "additive-clip" else worth(batch)[:, None] * logp, 0.0)
    return (gain.sum(1) / batch.mask.sum(1).clamp(min=1)).mean()


@backends
@few
@given(batches(), batches(scales=(0.1, 1.0)), additive, st.floats(0, 1), st.sampled_from([None, *GARBAGE]))
def test_the_loss_is_grpo_less_the_additional_term(backend: str, batch: Batch, other: Batch, mode: str, alpha: float, garbage: float | None) -> None:
    logp = other.logp.clone().requires_grad_()
    term = additional(other, logp, mode)
    term.backward()
    found = loss(batch, other, backend, garbage, mode=mode, alpha=alpha)
    grpo = component("policy_loss", batch.inputs(), algo="ppo", log_ratio_clamp=None, aggregate="seq-mean-token-mean", empty_seq="count")
    same(found["loss"], grpo["loss"] - alpha * term.detach())
    same(found["grad_logp"], grpo["grad_logp"])
    same(found["grad_logp_aux"], -alpha * logp.grad)


@few
@given(batches(), st.integers(0, 3))
def test_with_nothing_replaced_it_is_ppo(batch: Batch, dual: int) -> None:
    found = loss(batch, mode="replace", clip_dual=float(dual))
    ppo = component("policy_loss", batch.inputs(), algo="ppo", log_ratio_clamp=None, dual_clip_c=dual or None, aggregate="token-mean")
    same(found["loss"], ppo["loss"])
    same(found["grad_logp"], ppo["grad_logp"])


@few
@given(batches(scales=(0.1, 1.0)))
def test_wrong_answers_are_left_alone_and_right_ones_never_made_rarer(other: Batch) -> None:
    slope = loss(other, other, mode="additive-clip", alpha=1.0)["grad_logp_aux"]
    assert (slope[worth(other) < 1] == 0).all() and (slope <= 0).all()


@few
@given(batches(scales=(0.1, 1.0)))
def test_on_policy_the_clipped_term_moves_like_the_plain_one(other: Batch) -> None:
    here = Batch(**{**vars(other), "logp_old": other.logp})
    inputs = {name: x for name, x in here.inputs().items() if name != "logp_ref"}
    reward = (worth(here) >= 1).double()
    extra = {"logp_aux": inputs["logp"], "logp_old_aux": inputs["logp"], "mask_aux": inputs["mask"], "reward_aux": reward}
    clip, plain = (evaluate("20-aepo.loss", {"mode": mode, "alpha": 0.3}, {**inputs, **extra}) for mode in ("additive-clip", "additive-reinforce"))
    same(clip["grad_logp_aux"], plain["grad_logp_aux"])


def test_a_right_answer_moves() -> None:
    one = Batch(*(torch.tensor([[-1.0, -2.0]]).double() for _ in range(3)), torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
    same(loss(one, one, mode="additive-clip", alpha=0.5)["grad_logp_aux"], [[-0.25, -0.25]])

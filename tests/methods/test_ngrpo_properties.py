"""Invariants of NGRPO: its formula for ragged groups, GRPO without virtual answers, closed forms, signs, what shifts and scales leave, the filter."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, load
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few
from .grouped_cases import Groups, groups
from .policy_cases import AGGREGATES, GARBAGE, aggregated, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
GRADED = (0.0, 0.25, 0.7, 1.0)


def advantage(drawn: Groups, backend: str = "reference", changes: dict[str, Any] | None = None, **params: Any) -> torch.Tensor:
    return evaluate("31-ngrpo.advantage", params, drawn.inputs("reward", "group", **(changes or {})), backend)["advantage"]


def loss(drawn: Groups, backend: str = "reference", garbage: float | None = None, **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("31-ngrpo.loss", params, drawn.inputs("logp", "logp_old", "mask", "reward", "group", garbage=garbage), backend)


def calibrated(drawn: Groups, best: float = 1.0, virtual: int = 1, eps: float = 1e-6) -> torch.Tensor:
    """The card, group by group."""
    found = torch.zeros_like(drawn.reward)
    for rows in drawn.members:
        own = drawn.reward[rows]
        if len(rows) == 1:
            found[rows] = own / (1 + eps)
            continue
        x = torch.cat([own, own.new_full((virtual,), best)])
        found[rows] = (own - x.mean()) / (x.std(unbiased=True) + eps)
    return found


@backends
@few
@given(groups(rewards=GRADED), st.integers(1, 4), st.sampled_from([1.0, 2.0]), st.sampled_from([1e-6, 1e-3]))
def test_the_advantage_is_the_formula(backend: str, drawn: Groups, virtual: int, best: float, eps: float) -> None:
    same(advantage(drawn, backend, max_reward=best, num_virtual=virtual, eps=eps), calibrated(drawn, best, virtual, eps), atol=1e-9)


@few
@given(groups(rewards=GRADED))
def test_without_virtual_answers_it_is_grpo(drawn: Groups) -> None:
    grpo = component("advantage", drawn.inputs("reward", "group"), estimator="grpo", eps=1e-6)["advantage"]
    same(advantage(drawn, num_virtual=0), grpo)


@pytest.mark.parametrize("size", [2, 3, 8, 16])
@pytest.mark.parametrize("virtual", [1, 2, 5])
@pytest.mark.parametrize("reward", [-1.0, 0.0, 0.1, 0.999])
def test_a_group_of_equal_rewards_is_pushed_away_by_a_known_amount(size: int, virtual: int, reward: float) -> None:
    """Whatever the reward."""
    inputs = {"reward": numpy.full(size, reward), "group": numpy.zeros(size, int)}
    found = evaluate("31-ngrpo.advantage", {"num_virtual": virtual, "eps": 0.0}, inputs)["advantage"]
    same(found, numpy.full(size, -numpy.sqrt(virtual * (size + virtual - 1) / ((size + virtual) * size))))


@backends
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("best", [1.0, 0.1, -1.0])
def test_where_all_are_the_best_nothing_is_left(eps: float, best: float, backend: str) -> None:
    for virtual in (0, 1, 3):
        inputs = {"reward": numpy.full(7, best), "group": numpy.zeros(7, int)}
        found = evaluate("31-ngrpo.advantage", {"max_reward": best, "num_virtual": virtual, "eps": eps}, inputs, backend)["advantage"]
        assert (found == 0).all()


@few
@given(groups(sizes=(2, 3, 8)))
def test_right_answers_rise_less_than_under_grpo_and_failed_groups_fall(drawn: Groups) -> None:
    ours, grpo = advantage(drawn), component("advantage", drawn.inputs("reward", "group"), estimator="grpo")["advantage"]
    for rows in drawn.members:
        right = drawn.reward[rows] == 1
        if right.all():
            assert (ours[rows] == 0).all()
        elif right.any():
            assert (ours[rows][right] >= 0).all() and (ours[rows][right] < grpo[rows][right]).all()
        else:
            assert (ours[rows] < -0.1).all() and (grpo[rows] == 0).all()
        assert float(ours[rows].sum()) <= 1e-9, "never more praise than blame"


@few
@given(groups(rewards=GRADED, sizes=(2, 3, 8)), st.floats(-3, 3), st.floats(0.1, 5))
def test_shifting_and_scaling_rewards_and_their_best_changes_nothing(drawn: Groups, shift: float, factor: float) -> None:
    moved = advantage(drawn, changes={"reward": factor * drawn.reward + shift}, max_reward=factor + shift, eps=0.0)
    same(moved, advantage(drawn, eps=0.0), rtol=1e-7, atol=1e-7)


def test_many_virtual_answers_leave_right_ones_alone() -> None:
    inputs = {"reward": numpy.array([1.0, 0.0, 0.0]), "group": numpy.zeros(3, int)}
    sizes = [float(evaluate("31-ngrpo.advantage", {"num_virtual": n}, inputs)["advantage"][0]) for n in (1, 10, 100, 10000)]
    assert sizes == sorted(sizes, reverse=True) and 0 < sizes[-1] < 0.02


@few
@given(groups(rewards=GRADED), st.integers(0, 2**16))
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(drawn: Groups, seed: int) -> None:
    order = torch.tensor(numpy.random.default_rng(seed).permutation(len(drawn.reward)))
    moved = advantage(drawn, changes={"reward": drawn.reward[order], "group": 100 - 2 * drawn.group[order]})
    same(moved, advantage(drawn)[order])


@backends
@few
@given(groups(rewards=GRADED), st.sampled_from(AGGREGATES), st.sampled_from([None, *GARBAGE]), st.sampled_from([(0.16, 0.24), (0.2, 0.2)]))
def test_the_loss_is_the_formula(backend: str, drawn: Groups, way: str, garbage: float | None, width: tuple[float, float]) -> None:
    logp = drawn.logp.clone().requires_grad_()
    ahead = calibrated(drawn)[:, None]
    ratio = (logp - drawn.logp_old).exp()
    plain, held = -ahead * ratio, -ahead * ratio.clamp(1 - width[0], 1 + width[1])
    expected = aggregated(torch.max(plain, held), drawn.mask, way)
    expected.backward()
    found = loss(drawn, backend, garbage, eps_neg=width[0], eps_pos=width[1], aggregate=way)
    same(found["loss"], expected.detach(), atol=1e-9)
    same(found["grad_logp"], logp.grad, atol=1e-9)
    same(found["advantage"], ahead[:, 0], atol=1e-9)
    same(found["clipfrac"], float(((held > plain) & drawn.mask).sum()) / max(int(drawn.mask.sum()), 1))


@few
@given(groups(scale=1.0, sizes=(2, 3, 8)))
def test_with_equal_widths_it_is_the_objective_of_grpo(drawn: Groups) -> None:
    inputs = drawn.inputs("logp", "logp_old", "mask") | {"advantage": advantage(drawn)}
    grpo = component("policy_loss", inputs, algo="ppo", log_ratio_clamp=None, aggregate="token-mean")
    found = loss(drawn, eps_neg=0.2, eps_pos=0.2)
    same(found["loss"], grpo["loss"])
    same(found["grad_logp"], grpo["grad_logp"])


@few
@given(groups(scale=1.0, sizes=(2, 8)), st.floats(0, 0.9), st.floats(0, 3))
def test_each_width_acts_on_one_sign_alone(drawn: Groups, low: float, high: float) -> None:
    """Failed groups see the lower one, right answers the upper one."""
    blamed, praised = (torch.where(advantage(drawn) < 0, 1, 0)[:, None], torch.where(advantage(drawn) > 0, 1, 0)[:, None])
    at, wider, narrower = (loss(drawn, eps_neg=a, eps_pos=b)["grad_logp"] for a, b in ((0.16, 0.24), (0.16, high), (low, 0.24)))
    same(blamed * at, blamed * wider)
    same(praised * at, praised * narrower)


@few
@given(groups(rewards=(0.0, 1.0, 0.5)))
def test_the_filter_drops_what_its_name_says(drawn: Groups) -> None:
    kept = {
        strategy: evaluate("31-ngrpo.group_filter", {"strategy": strategy}, drawn.inputs("reward", "group"))["keep"]
        for strategy in ("all_correct", "all", "all_incorrect")
    }
    for rows in drawn.members:
        solved, failed = bool((drawn.reward[rows] == 1).all()), bool((drawn.reward[rows] == 0).all())
        assert (kept["all_correct"][rows] == (not solved)).all()
        assert (kept["all_incorrect"][rows] == (not failed)).all()
        assert (kept["all"][rows] == (not solved and not failed)).all()


def losses(backend: str, *parameters: str) -> list[float]:
    program, diagnostics = build(load("31_ngrpo")[0], "bandits", parameters)
    assert program is not None, diagnostics
    options = Options(backend=backend, precision="float64", steps=3)
    return [event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None]


def test_bandits_run_alike_on_every_backend_and_failed_groups_teach() -> None:
    reference = losses("reference")
    assert all(reference) and len(set(reference)) == 3
    same(reference, losses("torch"))
    assert losses("torch", "loss=ngrpo(virtual: 0)") != reference

"""Invariants of DRPO and DisCO: the formula for ragged groups, weights of right answers, who is never unlearned, limits, what drops out."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, load
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate

from .cases import few
from .grouped_cases import Groups, groups
from .policy_cases import GARBAGE, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
NAMES = ("logp", "logp_old", "mask", "reward", "group")
FREE = {"beta": 0.0}  # without the distance to the old policy


def drpo(
    drawn: Groups, backend: str = "reference", garbage: float | None = None, changes: dict[str, Any] | None = None, **params: Any
) -> dict[str, torch.Tensor]:
    return evaluate("32-drpo.loss", params, drawn.inputs(*NAMES, garbage=garbage, **(changes or {})), backend)


def disco(drawn: Groups, backend: str = "reference", **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("32-drpo.disco", params, drawn.inputs(*NAMES), backend)


def weights(length: Any, reward: Any, group: Any, **params: float) -> numpy.ndarray:
    return evaluate("32-drpo.positive_weights", params, {"length": length, "reward": reward, "group": group})["weight"].numpy()


def expected(
    drawn: Groups, lam: float = 0.1, tau: float | None = 10.0, delta: float = 1e-4, beta: float = 1e3, kl: str = "kl", ratio: bool = False
) -> dict[str, torch.Tensor]:
    """The card, group by group, with torch's softmax and logsumexp; rows without tokens are left out first."""
    logp = drawn.logp.clone().requires_grad_()
    change = torch.where(drawn.mask, logp - drawn.logp_old, 0.0)
    length, width = drawn.mask.sum(1), drawn.mask.shape[1]
    per_token = change.exp() if ratio else logp
    merit = torch.where(drawn.mask, per_token, 0.0).sum(1) / length.clamp(min=1)
    gains, surrogates = [logp.sum() * 0], [torch.zeros(())]
    members = [rows[length[rows] > 0] for rows in drawn.members]
    members = [rows for rows in members if len(rows)]
    for rows in members:
        right, wrong = rows[drawn.reward[rows] == 1], rows[drawn.reward[rows] == 0]
        if len(right) and len(wrong):
            weight = torch.softmax((1 - length[right].double() / width) / lam, 0)
            scores = merit[wrong]
            rival = scores.mean() if tau is None else tau * (torch.logsumexp(scores / tau, 0) - numpy.log(len(wrong)))
            gains.append((weight * merit[right]).sum() - rival)
            surrogates.append(((weight * merit[right]).sum() - (rival if tau is None else tau)).detach())
    count = max(len(members), 1)
    tokens = max(int(drawn.mask.sum()), 1)
    drift = (torch.where(drawn.mask, -change if kl == "kl" else change.exp() - 1 - change, 0.0)).sum() / tokens
    excess = (drift - delta).clamp(min=0)
    loss = -sum(gains) / count + beta / 2 * excess**2
    loss.backward()
    return {
        "loss_true": loss.detach(), "loss_surrogate": -sum(surrogates) / count + (beta * excess * drift).detach(), "kl": drift.detach(),
        "grad_logp": logp.grad,
    }  # fmt: skip


def agree(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        same(found[name], value, rtol=1e-8, atol=1e-9)


@backends
@few
@given(
    groups(rewards=(0.0, 1.0, 0.5)), st.sampled_from([0.02, 0.1, 1e6]), st.sampled_from([0.3, 10.0]), st.sampled_from(["kl", "low_var_kl"]),
    st.sampled_from([(1e-4, 1e3), (0.1, 1.0)]), st.sampled_from([None, *GARBAGE]),
)  # fmt: skip
def test_the_loss_is_the_formula(
    backend: str, drawn: Groups, lam: float, tau: float, kl: str, budget: tuple[float, float], garbage: float | None
) -> None:
    params = {"lam": lam, "tau": tau, "kl": kl, "delta": budget[0], "beta": budget[1]}
    found = drpo(drawn, backend, garbage, **params)
    agree(found, expected(drawn, **params))
    same(found["loss"], found["loss_true"])


@backends
@few
@given(groups(), st.sampled_from(["disco_logL", "disco_Lratio", "discob_logL", "discob_Lratio"]), st.sampled_from([1.0, 10.0]))
def test_disco_has_equal_weights_and_its_b_form_the_mean_of_the_wrong(backend: str, drawn: Groups, kind: str, tau: float) -> None:
    heat = None if kind.startswith("discob") else tau
    wanted = expected(drawn, lam=float("inf"), tau=heat, ratio=kind.endswith("ratio"))
    agree(disco(drawn, backend, kind=kind, tau=heat), wanted)


# ---- who is raised, and how much


@few
@given(groups(rewards=(0.0, 1.0, 0.5), full=True), st.sampled_from([0.02, 0.1, 10.0]), st.sampled_from([0.3, 10.0]))
def test_right_answers_only_rise_and_wrong_ones_only_fall_by_as_much(drawn: Groups, lam: float, tau: float) -> None:
    slope = drpo(drawn, lam=lam, tau=tau, **FREE)["grad_logp"].sum(1)
    for rows in drawn.members:
        right, wrong = drawn.reward[rows] == 1, drawn.reward[rows] == 0
        assert (slope[rows][right] <= 0).all() and (slope[rows][wrong] >= 0).all()
        same(slope[rows].sum(), 0.0)
        if right.any() and wrong.any():
            same(slope[rows][right].sum(), -1 / len(drawn.members))
        else:
            assert not slope[rows].any(), "a group that is not mixed drops out, and counts"
        assert not slope[rows][~right & ~wrong].any()


@few
@given(groups(scale=0.1), st.sampled_from(["kl", "low_var_kl"]))
def test_where_no_group_is_mixed_the_distance_alone_acts(drawn: Groups, kl: str) -> None:
    reward = torch.where(drawn.group % 2 == 0, 1.0, 0.0).double()
    found = drpo(drawn, changes={"reward": reward}, kl=kl)
    excess = (found["kl"] - 1e-4).clamp(min=0)
    same(found["loss_true"], 500 * excess**2)
    assert bool(found["grad_logp"].any()) == (float(excess) > 0)


@few
@given(groups(scale=0.0))
def test_on_policy_the_distance_is_silent(drawn: Groups) -> None:
    same(drpo(drawn)["grad_logp"], drpo(drawn, **FREE)["grad_logp"])


@few
@given(groups(full=True), st.floats(-5, 5))
def test_a_constant_on_every_merit_changes_nothing(drawn: Groups, shift: float) -> None:
    moved = drpo(drawn, changes={"logp": drawn.logp + shift}, **FREE)
    same(moved["loss"], drpo(drawn, **FREE)["loss"], atol=1e-9)


@few
@given(groups(), st.integers(0, 2**16))
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(drawn: Groups, seed: int) -> None:
    order = torch.tensor(numpy.random.default_rng(seed).permutation(len(drawn.reward)))
    changes = {name: vars(drawn)[name][order] for name in NAMES} | {"group": 9 - 3 * drawn.group[order]}
    moved, plain = drpo(drawn, changes=changes), drpo(drawn)
    same(moved["loss"], plain["loss"])
    same(moved["grad_logp"], plain["grad_logp"][order])


# ---- limits


@few
@given(groups(full=True, sizes=(2, 8)))
def test_a_high_temperature_takes_the_mean_of_the_wrong(drawn: Groups) -> None:
    wanted = expected(drawn, tau=None, **FREE)
    found = drpo(drawn, tau=1e7, **FREE)
    same(found["loss"], wanted["loss_true"], rtol=1e-5, atol=1e-6)
    same(found["grad_logp"], wanted["grad_logp"], rtol=1e-5, atol=1e-6)


def test_a_low_temperature_pushes_the_likeliest_wrong_answer_alone() -> None:
    logp = torch.tensor([[-1.0], [-2.0], [-0.5], [-3.0]]).double()
    drawn = Groups(torch.tensor([1.0, 0, 0, 0]).double(), torch.zeros(4).long(), torch.zeros(4).long(), logp, logp, torch.ones(4, 1).bool())
    found = drpo(drawn, tau=1e-3)
    same(found["grad_logp"][:, 0], [-1.0, 0.0, 1.0, 0.0])
    same(found["loss"], 1.0 - 0.5, atol=0.01)


@few
@given(st.integers(0, 2**16), st.sampled_from([0.05, 0.1, 0.5]), st.floats(0.1, 10))
def test_weights_add_up_and_fall_with_the_length(seed: int, lam: float, factor: float) -> None:
    r = numpy.random.default_rng(seed)
    length, reward, group = r.integers(1, 64, 12), r.choice([0.0, 0.5, 1.0], 12), r.integers(0, 3, 12)
    found = weights(length, reward, group, lam=lam, max_len=64.0)
    assert not found[reward != 1].any()
    for one in set(group[reward == 1].tolist()):
        rows = (group == one) & (reward == 1)
        assert found[rows].sum() == pytest.approx(1)
        assert (numpy.diff(found[rows][numpy.argsort(length[rows], kind="stable")]) <= 0).all()
    same(found, weights(length, reward, group, lam=lam * factor, max_len=64.0 / factor))


def test_extreme_lambdas_pick_the_shortest_or_all_alike() -> None:
    length, reward, group = numpy.array([4, 4, 9, 30, 2]), numpy.array([1.0, 1, 1, 1, 0]), numpy.zeros(5, int)
    same(weights(length, reward, group, lam=1e-6, max_len=64.0), [0.5, 0.5, 0, 0, 0])
    same(weights(length, reward, group, lam=float("inf"), max_len=64.0), [0.25] * 4 + [0])


@backends
@pytest.mark.parametrize("mask", [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
def test_empty_answers_have_no_say(mask: list[list[float]], backend: str) -> None:
    """One group, right and wrong, one or both of them empty: nothing to contrast, and nothing that is not a number."""
    logp = torch.full((2, 2), -1.0).double()
    inputs = {"logp": logp, "logp_old": logp, "mask": torch.tensor(mask), "reward": torch.tensor([1.0, 0.0]), "group": torch.tensor([4, 4])}
    found = evaluate("32-drpo.loss", {}, inputs, backend)
    assert float(found["loss"]) == 0 and not found["grad_logp"].any()


# ---- pipelines


CUT = """
pipeline cut(minibatches: int >= 1 = 1) {
  data  tasks  = combination_lock(prompts: 8, length: 3, vocabulary: 5)
  model policy = table_policy(prompts: 8, length: 3, vocabulary: 5, decoy: 1)
  samples ~ sample(policy, tasks, group: 6, max_tokens: 3)
  luck    ~ uniform(0, 1, [samples.reward])
  flow policy: drpo(extend(score(policy, samples), reward: where(luck < 0.5, 1, 0))) -> backprop -> sgd(lr: 0)
  train 2 rollouts (seed: 0, minibatches: minibatches)
}
"""


def test_mini_batches_of_as_many_prompts_have_the_mean_of_the_whole() -> None:
    """Only because none splits a group, and each counts its own prompts."""
    found = []
    for count in (1, 2, 4):
        program, diagnostics = build(Module.of(Source("<test>", CUT)), "cut", [f"minibatches={count}"])
        assert program is not None, diagnostics
        done = execute(program, Options(precision="float64"))
        found.append([event.loss for event in done if isinstance(event, UnitDone) and event.loss is not None])
    assert all(abs(x) > 1e-3 for x in found[0])
    same(found[1], found[0])
    same(found[2], found[0])


def losses(backend: str, *parameters: str) -> list[float]:
    program, diagnostics = build(load("32_drpo")[0], "lengths", parameters)
    assert program is not None, diagnostics
    options = Options(backend=backend, precision="float64", steps=3)
    return [event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None]


def test_lengths_run_alike_on_every_backend_and_lambda_matters() -> None:
    reference = losses("reference")
    assert len(set(reference)) == 3
    same(reference, losses("torch"))
    assert losses("torch", "loss=drpo(lambda: 5, longest: 8192)") != reference

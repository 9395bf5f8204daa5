"""Invariants of Retroformer: telescoping ratings, TRL's formula, no step where nothing moved, a bounded controller, fair labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradflow.library.episodes import lock_game
from gradflow.runtime.checkpoints import newest_checkpoint
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, Run
from gradflow.verify import evaluate
from tests.runtime.harness import of_kind, ran, shipped, written

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import GARBAGE, same

METHOD = "33-retroformer"
GOLDEN = Path(__file__).parent.parent / "golden"
BACKENDS = ["reference", "torch"]


def component(name: str, inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, Tensor]:
    return evaluate(f"{METHOD}.{name}", params, inputs, backend)


# ---- ratings


@st.composite
def trials(draw: Any, binary: bool = False) -> tuple[numpy.ndarray, numpy.ndarray]:
    """returns and valid [K, N]: a task ends with its first success, or when somebody stops trying."""
    r = numpy.random.default_rng(draw(seeds))
    tasks, most = draw(st.sampled_from([(1, 1), (1, 2), (3, 1), (5, 4), (6, 5)]))
    returns = r.choice([0.0, 1.0] if binary else [0.0, 0.25, 0.5, 0.75, 1.0], size=(tasks, most), p=None if not binary else [0.7, 0.3])
    run = numpy.ones((tasks, most), bool)
    for k in range(tasks):
        ends = min(numpy.flatnonzero(returns[k] >= 1), default=most - 1)
        run[k, min(ends, r.integers(most)) + 1 :] = False
    return numpy.where(run, returns, 0.0), run


@pytest.mark.parametrize("backend", BACKENDS)
@few
@given(trials(), st.sampled_from([0.0, 0.25]))
def test_ratings_telescope_and_are_known_where_two_trials_were_run(backend: str, made: tuple[numpy.ndarray, numpy.ndarray], threshold: float) -> None:
    returns, run = made
    found = {
        name: value.numpy() for name, value in component("rating", {"returns": returns, "valid": run}, backend, label_threshold=threshold).items()
    }
    assert found["rating"].shape == (returns.shape[0], returns.shape[1] - 1)
    for k, row in enumerate(run):
        last = row.sum() - 1
        same(found["rating"][k].sum(), returns[k, last] - returns[k, 0])
        assert found["reflect_mask"][k].sum() == last, "every trial but the last was failed and followed by another"
    assert (found["rating"][~found["reflect_mask"].astype(bool)] == 0).all()
    assert (found["label"] == (found["rating"] > threshold)).all() and (found["sft_mask"] == (found["rating"] > 0)).all()


@few
@given(trials(binary=True))
def test_where_only_success_counts_no_rating_is_negative(made: tuple[numpy.ndarray, numpy.ndarray]) -> None:
    rating = component("rating", {"returns": made[0], "valid": made[1]})["rating"]
    assert rating.numel() == 0 or set(rating.unique().tolist()) <= {0.0, 1.0}


def test_a_trial_behind_a_success_rates_nothing() -> None:
    """Also where somebody ran it: a trial that succeeded is not reflected on."""
    found = component("rating", {"returns": numpy.array([[1.0, 0.0, 0.5]]), "valid": numpy.ones((1, 3), bool)})
    assert found["reflect_mask"].tolist() == [[False, True]] and found["rating"].tolist() == [[0.0, 0.5]]


def test_success_may_be_less_than_one() -> None:
    found = component("rating", {"returns": numpy.array([[0.5, 0.75]]), "valid": numpy.ones((1, 2), bool)}, success_return=0.5)
    assert not found["reflect_mask"].any()


# ---- the loss

TENSORS = ("logp", "logp_old", "logp_ref", "values", "values_old")


@st.composite
def batches(draw: Any, holes: bool = True) -> dict[str, Tensor]:
    """All inputs of `ppo_loss`; `holes`: the mask need not be one stretch."""
    r = numpy.random.default_rng(draw(seeds))
    shape = draw(st.sampled_from([(1, 3), (2, 2), (3, 5), (4, 6)]))
    scale = draw(st.sampled_from([0.05, 0.5]))
    old = -3 * r.uniform(size=shape)
    length = r.integers(1, shape[1] + 1, size=shape[0])
    mask = numpy.arange(shape[1]) < length[:, None]
    if holes:
        mask &= r.uniform(size=shape) < 0.8
    mask[0, :2] = True  # the variance of one token is not defined
    values = {
        "logp": old + scale * r.normal(size=shape), "logp_old": old, "logp_ref": old + 0.3 * r.normal(size=shape),
        "values": r.normal(size=shape), "values_old": r.normal(size=shape), "mask": mask.astype(float), "score": r.normal(size=shape[:1]),
    }  # fmt: skip
    return {name: torch.tensor(value) for name, value in values.items()}


@st.composite
def options(draw: Any) -> dict[str, Any]:
    def one(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    return {
        "kl_coef": one(0.0, 0.2), "reward_baseline": one(0.0, 0.5), "gamma": one(1.0, 0.9), "lam": one(1.0, 0.95, 0.0), "cliprange": one(0.2, 0.02),
        "cliprange_value": one(0.2, 5.0), "vf_coef": one(0.1, 0.0, 1.0), "whiten_rewards": draw(st.booleans()),
        "kl_penalty": one("kl", "abs", "mse"), "ratio_threshold": one(10.0, 1.0),
    }  # fmt: skip


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum() / mask.sum()


def masked_whiten(x: Tensor, mask: Tensor, shift: bool = True) -> Tensor:
    mean, count = masked_mean(x, mask), mask.sum()
    variance = masked_mean((x - mean) ** 2, mask) * count / (count - 1)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift else whitened + mean


def trl(batch: dict[str, Tensor], p: dict[str, Any]) -> dict[str, Tensor]:
    """The card's formulas a second time, token by token, in torch's autograd."""
    logp, values = (batch[name].clone().requires_grad_() for name in ("logp", "values"))
    mask, gap = batch["mask"], batch["logp_old"] - batch["logp_ref"]
    reward = -p["kl_coef"] * {"kl": gap, "abs": gap.abs(), "mse": 0.5 * gap**2}[p["kl_penalty"]]
    for row in range(len(mask)):
        places = mask[row].nonzero()
        if len(places):
            reward[row, places[-1]] += batch["score"][row] - p["reward_baseline"]
    old, told = batch["values_old"] * mask, reward * mask
    moved = masked_whiten(told, mask, shift=False) if p["whiten_rewards"] else told
    running, columns = torch.zeros(len(mask), dtype=torch.float64), []
    for t in reversed(range(mask.shape[1])):
        ahead = old[:, t + 1] if t + 1 < mask.shape[1] else 0.0
        running = moved[:, t] + p["gamma"] * ahead - old[:, t] + p["gamma"] * p["lam"] * running
        columns.append(running)
    raw = torch.stack(columns[::-1], 1)
    returns, advantage = raw + old, masked_whiten(raw, mask)
    near = torch.minimum(torch.maximum(values, old - p["cliprange_value"]), old + p["cliprange_value"])
    worth = 0.5 * masked_mean(torch.max((values - returns) ** 2, (near - returns) ** 2), mask)
    ratio = (logp - batch["logp_old"]).exp()
    first, second = -advantage * ratio, -advantage * ratio.clamp(1 - p["cliprange"], 1 + p["cliprange"])
    policy = masked_mean(torch.max(first, second), mask)
    kept = 0.0 if float(masked_mean(ratio.detach(), mask)) > p["ratio_threshold"] else 1.0
    loss = kept * (policy + p["vf_coef"] * worth)
    loss.backward()
    found = {
        "token_reward": told, "advantage": advantage * mask, "returns": returns * mask, "pg_loss": kept * policy, "vf_loss": kept * worth,
        "loss": loss, "grad_logp": logp.grad, "grad_values": values.grad, "pg_clipfrac": masked_mean((second > first).double(), mask),
        "approx_kl": 0.5 * masked_mean((logp - batch["logp_old"]) ** 2, mask),
    }  # fmt: skip
    return {name: torch.as_tensor(value).detach() for name, value in found.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@few
@given(batches(), options(), st.sampled_from([None, *GARBAGE]))
def test_the_loss_is_the_formula(backend: str, batch: dict[str, Tensor], p: dict[str, Any], garbage: float | None) -> None:
    """Whatever stands outside of the mask."""
    wanted = trl(batch, p)
    if garbage is not None:
        batch = {**batch, **{name: batch[name].masked_fill(batch["mask"] == 0, garbage) for name in TENSORS}}
    found = component("ppo_loss", batch, backend, **p)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        same(found[name], value, rtol=1e-8, atol=1e-10)


@few
@given(batches(holes=False), options())
def test_where_nothing_moved_the_policy_part_is_zero(batch: dict[str, Tensor], p: dict[str, Any]) -> None:
    """Whitened advantages have mean zero; the gradient need not be zero."""
    found = component("ppo_loss", {**batch, "logp": batch["logp_old"]}, **{**p, "ratio_threshold": 10.0})
    same(found["pg_loss"], 0.0, atol=1e-9)
    same(found["approx_kl"], 0.0)
    assert float(found["grad_logp"].abs().max()) > 1e-6 or float(found["advantage"].abs().max()) < 1e-6


@few
@given(batches(holes=False))
def test_without_kl_and_discount_every_token_returns_the_score(batch: dict[str, Tensor]) -> None:
    found = component("ppo_loss", batch, kl_coef=0.0, gamma=1.0, lam=1.0)
    same(found["returns"], batch["mask"] * batch["score"][:, None])


@few
@given(batches(), st.floats(-3, 3))
def test_the_baseline_is_taken_off_the_score(batch: dict[str, Tensor], baseline: float) -> None:
    ours = component("ppo_loss", batch, reward_baseline=baseline)
    theirs = component("ppo_loss", {**batch, "score": batch["score"] - baseline})
    for name, value in theirs.items():
        same(ours[name], value)


@few
@given(batches(), st.floats(2.5, 5))
def test_a_step_that_has_gone_too_far_is_skipped(batch: dict[str, Tensor], far: float) -> None:
    moved = {**batch, "logp": batch["logp_old"] + far}
    found = component("ppo_loss", moved, ratio_threshold=10.0)
    assert all(float(found[name].abs().max()) == 0 for name in ("loss", "pg_loss", "vf_loss", "grad_logp", "grad_values"))
    kept = component("ppo_loss", moved, ratio_threshold=1e6, cliprange_value=100.0)
    assert float(kept["vf_loss"]) > 0 and float(kept["grad_values"].abs().max()) > 0


@few
@given(batches())
def test_values_have_no_gradient_through_returns_nor_the_reference_any(batch: dict[str, Tensor]) -> None:
    found = component("ppo_loss", batch, vf_coef=0.0)
    assert float(found["grad_values"].abs().max()) == 0
    assert set(found) == set(json.loads((GOLDEN / "33-retroformer.ppo_loss.json").read_text())["cases"][0]["outputs"])


# ---- the controller


@pytest.mark.parametrize("backend", BACKENDS)
@few
@given(st.lists(st.floats(-5, 50), min_size=1, max_size=8), st.floats(0.1, 10), st.sampled_from([50, 1000]), st.integers(1, 64))
def test_the_weight_moves_at_most_a_fifth_in_a_horizon(backend: str, kl: list[float], target: float, horizon: int, samples: int) -> None:
    params = {"init_kl_coef": 0.2, "target": target, "horizon": horizon, "n_steps": samples}
    found = component("kl_controller", {"kl": numpy.array(kl)}, backend, **params)["kl_coef"].numpy()
    before = numpy.concatenate([[0.2], found[:-1]])
    most = 0.2 * samples / horizon
    assert (numpy.abs(found / before - 1) <= most * (1 + 1e-9) + 1e-12).all()
    error = numpy.clip(numpy.array(kl) / target - 1, -0.2, 0.2)
    same(found / before - 1, error * samples / horizon, atol=1e-12)


def test_on_target_it_stays() -> None:
    assert component("kl_controller", {"kl": numpy.full(3, 6.0)})["kl_coef"].tolist() == pytest.approx([0.2] * 3)


# ---- reward models


@pytest.mark.parametrize("backend", BACKENDS)
@few
@given(seeds, st.integers(1, 6), st.sampled_from(["mixed", "all", "none"]), st.sampled_from([1.0, 50.0]))
def test_reward_models_are_trained_by_cross_entropy(backend: str, seed: int, rows: int, labels: str, scale: float) -> None:
    r = numpy.random.default_rng(seed)
    label = {"mixed": r.integers(0, 2, rows), "all": numpy.ones(rows, int), "none": numpy.zeros(rows, int)}[labels]
    logits = torch.tensor(scale * r.normal(size=(rows, 2)), requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(label))
    wanted.backward()
    found = component("reward_model_loss", {"logits": logits.detach(), "label": label}, backend, mode="softmax2")
    same(found["loss"], wanted.detach())
    same(found["grad_logits"], logits.grad)
    odds = (logits[:, 1] - logits[:, 0]).detach().requires_grad_()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(odds, torch.tensor(label, dtype=torch.float64))
    wanted.backward()
    one = component("reward_model_loss", {"logits": odds.detach(), "label": label}, backend, mode="sigmoid")
    same(one["loss"], found["loss"], rtol=1e-7)
    same(one["grad_logits"], odds.grad)
    pair = component("reward_model_loss", {"score_chosen": odds.detach(), "score_rejected": torch.zeros(rows)}, backend, mode="pairwise")
    same(pair["loss"], torch.nn.functional.softplus(-odds).mean().detach())
    same(pair["grad_chosen"], -pair["grad_rejected"])


@few
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_balanced_labels_count_alike(seed: int, good: int, bad: int) -> None:
    r = numpy.random.default_rng(seed)
    logit, label = r.normal(size=good + bad), numpy.arange(good + bad) < good
    text = """
    objective judged {
      input logit : [sample]
      input label : bool[sample]
      minimize reward_odds(logit: logit, label: label, weight: balance(label: label))
    }
    """
    found = evaluate_text(text, "judged", {}, {"logit": logit, "label": label})
    losses = numpy.logaddexp(0, logit) - numpy.where(label, logit, 0)
    same(found["loss"], (losses[label].mean() + losses[~label].mean()) / 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tokens", [0, 1])
def test_one_token_or_none_has_no_advantage(backend: str, tokens: int) -> None:
    """TRL raises there; the critic still learns of one token."""
    ones, mask = numpy.ones((2, 3)), numpy.zeros((2, 3))
    mask[1, :tokens] = 1
    inputs = {
        "logp": 0.1 * ones,
        "logp_old": 0 * ones,
        "logp_ref": 0 * ones,
        "values": ones,
        "values_old": 0.9 * ones,
        "mask": mask,
        "score": ones[:, 0],
    }
    found = component("ppo_loss", inputs, backend)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert float(found["advantage"].abs().max()) == 0 == float(found["pg_loss"])
    same(found["returns"][1, 0], float(tokens))


# ---- the pipelines

TRIES = """
pipeline tries {
  data  tasks  = lock_game(causes: 3, prompts: 12, test: 4)
  model actor  = ACTOR
  model writer = value_head(transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 64))
  notes ~ retries(actor, writer, tasks, trials: 4, prompts: 12, max_tokens: 3)
  flow writer: retrospective(score(writer, notes), paid: at_end(notes)) -> backprop -> adam(lr: 1e-2)
  train 3 rollouts (seed: 0) {
    every 1 rollouts { report total = sum(notes.reward); report solved = notes.solved; report count = count(notes.reward) }
  }
}
"""
SCRIPT, MODEL = "scripted_actor()", "transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 64)"


@pytest.mark.parametrize("backend", BACKENDS)
def test_ratings_of_a_rollout_add_up_to_what_was_solved_by_notes(backend: str) -> None:
    _, events = ran(written(TRIES.replace("ACTOR", SCRIPT)), backend=backend, precision="float64")
    first = sum(key == "0" for key in lock_game.function(causes=3, prompts=12, test=4).load()["train"]["answer"])
    reports = [event.values for event in of_kind(events, Report) if event.values]
    assert len(reports) == 3 and 0 < first < 12
    for values in reports:
        same(values["total"], 12 * values["solved"] - first)
        assert 12 - first <= values["count"] <= 3 * (12 - first), "one note to each failed try, but for the last"
    assert any(values["total"] > 0 for values in reports)


def test_the_actor_is_frozen_and_its_parameters_are_not_the_writers() -> None:
    run, _ = ran(written(TRIES.replace("ACTOR", MODEL)))
    start, _ = ran(written(TRIES.replace("ACTOR", MODEL)), steps=0)
    assert all(torch.equal(value, start.parameters("actor")[name]) for name, value in run.parameters("actor").items())
    assert any(not torch.equal(value, start.parameters("writer")[name]) for name, value in run.parameters("writer").items())


@pytest.mark.parametrize("pipeline", ["locks", "collected"])
def test_the_pipelines_run_alike_on_both_backends(pipeline: str) -> None:
    found = []
    for backend in BACKENDS:
        _, events = ran(shipped("methods/33_retroformer", pipeline), backend=backend, steps=1, precision="float64")
        losses = [event.loss for event in of_kind(events, UnitDone) if event.loss is not None]
        found.append([*losses, *(value for event in of_kind(events, Report) for value in event.values.values())])
    assert len(found[0]) >= 3 and len({round(value, 6) for value in found[0]}) >= 3
    same(found[0], found[1], rtol=1e-7)


def test_the_price_of_the_reference_is_kept_from_unit_to_unit(tmp_path: Path) -> None:
    """A run that is resumed goes on with the weight that the KL of earlier rollouts made."""
    program = shipped("methods/33_retroformer", "locks")
    whole, _ = ran(program, steps=3)
    half = Run(program, Options(steps=3), None, tmp_path)
    for event in half.events():
        if isinstance(event, UnitDone) and event.tick == 1:
            half.stop()
    rest = Run(program, Options(steps=3), resume=newest_checkpoint(tmp_path)[0])
    list(rest.events())
    (key,) = [key for key in whole.store.states if key[1].endswith("beta")]
    assert float(whole.store.states[key]) == float(rest.store.states[key]) != 0.01
    assert all(torch.equal(value, rest.parameters("writer")[name]) for name, value in whole.parameters("writer").items())

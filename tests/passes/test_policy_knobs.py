"""Dead knobs of policies: what is told, and what looks like it and is right. The wording is in tests/errors."""

from __future__ import annotations

import pytest

from gradflow.compiler import check_source
from gradflow.language.source import Source

BODY = """
pipeline p(weight: real >= 0 = 0.1) {{
  data  tasks  = {data}
  model policy = transformer()
  {draw}
  {scored}
  {loss}
  flow policy: loss -> backprop -> adam(lr: 1e-4)
  train 20 rollouts (minibatches: 2) {{ every 10 rollouts {{ report reward = mean(samples.reward) }} }}
}}
"""
ACTING = """
function chosen(temperature: real > 0 = 1) {{
  input policy : model
  input tasks  : data
  repeat round: 4 with kept = none until size(kept, over: prompt) >= 8 {{
    fresh ~ sample(policy, tasks, group: 4, prompts: 8, temperature: temperature{more})
    kept <- join(kept, fresh[{mask}])
  }}
  return first(kept, 8, over: prompt)
}}
"""


def codes(
    draw: str = "sample(policy, tasks, group: 4, prompts: 8)", scored: str = "", loss: str = "grpo(scored)",
    data: str = "arithmetic(size: 60)", before: str = "",
) -> set[str]:  # fmt: skip
    text = BODY.format(data=data, draw=f"samples ~ {draw}", scored=scored or "scored = score(policy, samples)", loss=f"loss = {loss}")
    return {diagnostic.code for diagnostic in check_source(Source("a.gflow", before + text))} - {"W0102"}  # `weight` is for one test


COOL = "sample(policy, tasks, group: 4, prompts: 8, temperature: 0.6{})"
SCORED = "scored = score(policy, samples, temperature: 0.6)"


@pytest.mark.parametrize(
    ("draw", "scored", "expected"),
    [
        (COOL.format(", scored_at: 0.6"), SCORED, set()),
        (COOL.format(", scored_at: 0.6"), "", {"E0408"}),
        (COOL.format(", scored_at: 1"), "", set()),
        (COOL.format(", scored_at: 1"), SCORED, {"E0408"}),
        (COOL.format(""), SCORED, {"E0408", "W0118"}),
        (COOL.format(""), "", {"W0118"}),
        ("sample(policy, tasks, group: 4, prompts: 8, top_k: 5)", "", {"W0118"}),
        ("sample(policy, tasks, group: 4, prompts: 8, top_p: 0.9, scored_at: 1)", "", set()),
        ("sample(policy, tasks, group: 4, prompts: 8, temperature: 1, top_p: 1, top_k: 0)", "", set()),
    ],
)
def test_temperatures(draw: str, scored: str, expected: set[str]) -> None:
    assert codes(draw, scored) == expected


@pytest.mark.parametrize("loss", ["gspo(scored)", "cispo(scored)", "vespo(scored)", "gmpo(scored)", "kl_cov(scored)", "rloo(scored)"])
def test_every_ratio_is_seen(loss: str) -> None:
    assert codes(COOL.format(", scored_at: 0.6"), loss=loss) == {"E0408"}


def test_without_a_ratio_temperatures_do_not_meet() -> None:
    """REINFORCE and imitation read no `logp_old`."""
    assert codes(COOL.format(""), loss="policy_gradient(scored, surrogate: likelihood())") == set()
    assert codes(COOL.format(""), loss="token_mean(-scored.logp, samples.mask and samples.reward > 0)") == set()


def test_a_temperature_that_is_computed_is_meant() -> None:
    draw = "sample(policy, tasks, group: 4, prompts: 8, temperature: 1 + 0.1 * progress)"
    assert codes(draw) <= {"W0118"} and "E0408" not in codes(draw)


@pytest.mark.parametrize(("weight", "expected"), [("0", {"W0117"}), ("0.1", set()), ("weight", set()), ("0 * weight", {"W0117"})])
def test_an_entropy_needs_a_weight(weight: str, expected: set[str]) -> None:
    assert codes(loss=f"grpo(scored) + entropy_bonus(scored, weight: {weight})") == expected


GYM = 'reasoning_gym("basic_arithmetic", size: 60)'
SPREAD, RIGHT = "instructive(fresh.reward, fresh.group)", "instructive(fresh.correct, fresh.group)"


@pytest.mark.parametrize(
    ("mask", "data", "expected"),
    [
        (SPREAD, GYM, {"W0119"}),
        (RIGHT, GYM, set()),
        (SPREAD, "arithmetic(size: 60)", set()),
        ("instructive(fresh.reward, fresh.group, drop: all_right)", GYM, set()),
        ("fresh.length > 2", GYM, set()),
        ("fresh.reward > mean(fresh.reward)", GYM, set()),
    ],
)
def test_selections_where_rewards_are_graded(mask: str, data: str, expected: set[str]) -> None:
    assert codes("chosen(policy, tasks)", data=data, before=ACTING.format(mask=mask, more="")) == expected


def test_a_draw_inside_of_a_function_is_seen() -> None:
    acting = ACTING.format(mask=SPREAD, more="")
    assert codes("chosen(policy, tasks, temperature: 0.6)", before=acting) == {"W0118"}
    assert codes("chosen(policy, tasks, temperature: 0.6)", before=ACTING.format(mask=SPREAD, more=", scored_at: 1")) == set()
    assert codes("chosen(policy, tasks)", SCORED, before=acting) == {"E0408"}


def test_dynamic_sampling_of_the_library() -> None:
    draw = "informative(policy, tasks, group: 4, prompts: 8{})"
    assert codes(draw.format("")) == set()
    assert codes(draw.format(""), data=GYM) == {"W0119"}
    assert codes(draw.format(", by: correct"), data=GYM) == set()
    assert codes(draw.format(", drop: all_right"), data=GYM) == set()
    assert codes(draw.format(", temperature: 0.6")) == {"W0118"}
    assert codes(draw.format(", temperature: 0.6, scored_at: 0.6")) == {"E0408"}
    assert codes(draw.format(", temperature: 0.6, scored_at: 0.6"), SCORED) == set()
    assert codes(draw.format(", temperature: 0.6, scored_at: 1")) == set()
    assert codes(draw.format(""), loss="ngrpo(scored)") == {"W0120"}
    assert codes(draw.format(", drop: all_right"), loss="ngrpo(scored)") == set()


DARING = """
function daring {
  input reward : [sample]
  input group  : [sample -> prompt]
  return reward - (sum(reward, by: group) + 0.5) / (count(by: group) + 0.5)
}
"""


@pytest.mark.parametrize(
    ("mask", "credit", "expected"),
    [
        (SPREAD, "daring()", {"W0120"}),
        (RIGHT, "daring()", {"W0120"}),
        ("instructive(fresh.reward, fresh.group, drop: all_wrong)", "daring()", {"W0120"}),
        ("instructive(fresh.reward, fresh.group, drop: all_right)", "daring()", set()),
        (SPREAD, "group_norm()", set()),
        (SPREAD, "leave_one_out()", set()),
        (SPREAD, "length_baseline()", set()),
        (SPREAD, "outcome()", set()),
    ],
)
def test_a_selection_does_not_drop_what_the_advantage_is_for(mask: str, credit: str, expected: set[str]) -> None:
    before = (DARING if "daring" in credit else "") + ACTING.format(mask=mask, more="")
    assert codes("chosen(policy, tasks)", loss=f"policy_gradient(scored, credit: {credit})", before=before) == expected


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("-mean(scored.logp * samples.reward)", {"W0123"}),
        ("-mean(scored.logp * samples.reward, where: samples.mask)", set()),
        ("-mean(mean(scored.logp, over: token) * samples.reward)", {"W0123"}),
        ("-mean(sum(scored.logp, over: token) * samples.reward)", set()),
        ("-mean(scored.logp * samples.reward, where: true)", set()),
        ("grpo(scored) + 0 * mean(samples.reward)", set()),
    ],
)
def test_a_mean_counts_tokens(loss: str, expected: set[str]) -> None:
    assert codes(loss=loss) == expected

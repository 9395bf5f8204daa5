"""Where values of functions that act come from: what is computed is not what was drawn, and every `~` has its own options."""

from __future__ import annotations

import pytest

from gradflow.compiler import check_source
from gradflow.language.source import Source

SPEC = """
function f({params}) {{
  input policy, frozen : model
  input tasks          : data
{body}
}}
pipeline p {{
  data  tasks  = {data}
  model policy = transformer()
  model frozen = copy(policy)
{draw}
  flow policy: {loss} -> backprop -> adam()
  train 20 rollouts ({train}) {{ every 20 rollouts {{ report drift = mean(frozen - policy, over: param) }} }}
}}
"""
CLIPPED = "policy_gradient(score(policy, samples), surrogate: clipped(low: 0.1))"
GRPO = "grpo(score(policy, samples))"


def said(
    body: str, loss: str = GRPO, train: str = "minibatches: 2", draw: str = "  samples ~ f(policy, frozen, tasks)",
    params: str = "", data: str = "arithmetic(size: 60)",
) -> list[tuple[str, str]]:  # fmt: skip
    """Codes, and the text that they point to."""
    text = SPEC.format(body=body, loss=loss, train=train, draw=draw, params=params, data=data)
    found = check_source(Source("a.gflow", text))
    return [(one.code, text[one.span.offset : one.span.end]) for one in found]


def returning(value: str, options: str = "") -> str:
    return f"  x ~ sample(policy, tasks{options})\n  return extend(x, {value})"


COOL = ", temperature: 0.6, scored_at: 0.6"


@pytest.mark.parametrize(
    ("body", "loss", "train", "code"),
    [
        (returning("logp_old: x.logp_old / 2"), CLIPPED, "epochs: 1", ""),
        (returning("logp_old: score(policy, x).logp"), CLIPPED, "epochs: 1", "W0107"),
        (returning("logp_old: score(frozen, x).logp"), CLIPPED, "epochs: 1", ""),
        (returning("logp_old: score(policy, x).logp", COOL), GRPO, "epochs: 2", ""),
        (returning("logp_old: score(policy, x, temperature: 0.6).logp"), GRPO, "epochs: 2", "E0408"),
        (returning("before: x.logp_old", COOL), "mean(exp(score(policy, samples).logp - samples.before), where: samples.mask)", "epochs: 2", "E0408"),
        (returning("luck: 1", ", temperature: 0.5 + progress, scored_at: 0.5 + progress"), CLIPPED, "epochs: 1", ""),
        (returning("logp_ref: score(frozen, x).logp"), f"{GRPO} + 0 * reference_kl(score(policy, samples))", "epochs: 2", ""),
        (returning("unsure: score(policy, x).entropy"), f"{GRPO} - 0 * mean(samples.unsure, where: samples.mask)", "epochs: 2", "W0117"),
        (returning("unsure: score(policy, x).entropy"), f"{GRPO} - 0.1 * mean(samples.unsure, where: samples.mask)", "epochs: 2", ""),
        (returning("unsure: score(policy, x).entropy"), GRPO, "epochs: 2", ""),
        (returning("tokens: sum(x.mask)"), "-sum(score(policy, samples).logp, where: samples.mask) / samples.tokens", "minibatches: 2", "W0111"),
        (returning("tokens: 7"), "-sum(score(policy, samples).logp, where: samples.mask) / samples.tokens", "minibatches: 2", ""),
        (returning("gap: x.logp_old + 1"), f"{GRPO} - mean(samples.gap)", "minibatches: 2", "W0123"),
        (returning("gap: sum(x.logp_old, over: token)"), f"{GRPO} - mean(samples.gap)", "minibatches: 2", ""),
        (returning("luck: 1", ", group: where(progress > 0.5, 2, 1)"), GRPO, "minibatches: 2", ""),
    ],
)
def test_what_a_function_computes(body: str, loss: str, train: str, code: str) -> None:
    assert [found for found, _ in said(body, loss, train)] == ([code] if code else [])


def test_a_reference_of_a_function() -> None:
    """Scored where samples are drawn, and multiplied by 0 in the flow: and nobody else reads the model."""
    body = returning("logp_ref: score(frozen, x).logp")
    for weight, found in (("0", ["W0109"]), ("0.1", [])):
        loss = f"{GRPO} + {weight} * reference_kl(score(policy, samples), logp_ref: samples.logp_ref)"
        text = SPEC.format(
            body=body, loss=loss, train="epochs: 2", draw="  samples ~ f(policy, frozen, tasks)", params="", data="arithmetic(size: 60)"
        )
        text = text.replace("report drift = mean(frozen - policy, over: param)", "checkpoint")
        assert [one.code for one in check_source(Source("a.gflow", text))] == found


def test_every_draw_has_its_own_options() -> None:
    body, params = "  x ~ sample(policy, tasks, group: group)\n  return x", "group: int = 4"
    two = "  a ~ f(policy, frozen, tasks)\n  b ~ f(policy, frozen, tasks, group: 1)"
    assert said(body, "grpo(score(policy, a)) + grpo(score(policy, b))", draw=two, params=params) == [("W0112", "group: 1")]
    assert said(body, draw=f"{two}\n  samples ~ join(a, b)", params=params) == []  # some have a group
    assert said(body, draw="  samples ~ f(policy, frozen, tasks)", params="group: int = 1") == [("W0112", "1")]


def test_the_place_is_in_the_file() -> None:
    """Of a draw in the library, what its function was given here."""
    draw = "  samples ~ informative(policy, tasks, temperature: 0.6{})"
    unused = [("W0115", "f")]
    assert said("  return 1", draw=draw.format("")) == [*unused, ("W0118", "temperature: 0.6")]
    assert ("E0408", "scored_at: 0.6") in said("  return 1", draw=draw.format(", scored_at: 0.6"))
    assert said("  return 1", CLIPPED, "epochs: 1", "  samples ~ informative(policy, tasks)") == [*unused, ("W0107", "low: 0.1")]


def test_a_policy_that_moves_between_draw_and_update() -> None:
    draw = "  samples ~ f(policy, frozen, tasks)\n  policy <- 0.9 * policy + 0.1 * frozen"
    assert said(returning("luck: 1"), CLIPPED, "epochs: 1", draw) == []


def test_rewards_that_a_function_gives_are_not_graded() -> None:
    draw = "  drawn ~ f(policy, frozen, tasks)\n  samples ~ drawn[instructive(drawn.reward, drawn.group)]"
    data = 'reasoning_gym("basic_arithmetic", size: 60)'
    assert said(returning("luck: 1"), draw=draw, data=data)[0][0] == "W0119"
    assert said(returning("reward: where(x.correct, 1, 0)"), draw=draw, data=data) == []

"""What the table calls another library's numbers are its numbers: recorded losses, advantages, aggregations and KLs, by the lines of the rows."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest

from gradflow.peers.table import Row, find
from gradflow.verify.vectors import array
from tests.methods.harness import evaluate_text

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = """
  input reward : [sample]
  input group : [sample -> prompt]
  input logp, logp_old, logp_ref, x : [sample, token]
  input advantage : [sample, token]
  input mask : bool[sample, token]
"""


@cache
def cases(kind: str) -> dict[str, Any]:
    data = json.loads((GOLDEN / f"00-policy-baselines.{kind}.json").read_text(encoding="utf-8"))
    return {case["name"]: case for case in data["cases"]}


def row(typed: str, library: str) -> Row:
    (found,) = [one for one in find(typed) if one.library == library]
    return found


def close(found: Any, expected: Any) -> None:
    numpy.testing.assert_allclose(numpy.asarray(found, float), array(expected).astype(float), rtol=1e-6, atol=1e-9)


# Rows of the table and the numbers that the recorded case has in place of theirs.
LOSSES = [
    ("verl", "loss_mode=vanilla", "ppo_dual_clip_verl", {"dual: 3": "dual: 3, high: 0.28"}),
    ("verl", "loss_mode=gspo", "gspo_verl", {}),
    ("TRL", "beta", "grpo_trl_kl", {}),
    ("TRL", "loss_type=dapo", "dapo_trl", {"aggregate:": "surrogate: clipped(high: 0.28), aggregate:"}),
    ("TRL", "loss_type=dr_grpo", "dr_grpo_trl", {"divisor: 8": "divisor: 10"}),
    ("TRL", "importance_sampling_level=sequence", "gspo_trl", {"aggregate:": "surrogate: clipped(low: 0.1, high: 0.15), aggregate:"}),
    ("TRL", "loss_type=cispo", "cispo_trl", {"most: 5": "most: 1.3"}),
]


@pytest.mark.parametrize(("library", "typed", "name", "numbers"), LOSSES, ids=lambda x: x if isinstance(x, str) else "")
def test_losses(library: str, typed: str, name: str, numbers: dict[str, str]) -> None:
    one, case = row(typed, library), cases("policy_loss")[name]
    inputs = {key: array(value) for key, value in case["inputs"].items()}
    expression = (one.exact or one.line).splitlines()[-1].removeprefix("loss = ")
    for old, new in numbers.items():
        assert old in expression
        expression = expression.replace(old, new)
    record = f"({', '.join(f'{key}: {key}' for key in inputs)})"
    text = f"objective run {{{INPUTS}  minimize {expression.replace('scored', record)}\n}}"
    found = evaluate_text(text, "run", {}, inputs)
    close(found["loss"], case["outputs"]["loss"])
    close(found["grad_logp"], case["outputs"]["grad_logp"])


CREDITS = [
    ("verl", "adv_estimator=grpo", "grpo_verl"),
    ("TRL", "scale_rewards=group", "grpo_trl"),
    ("verl", "norm_adv_by_std_in_grpo=False", "dr_grpo"),
    ("TRL", "scale_rewards=batch", "batch_scale_trl"),
    ("verl", "adv_estimator=rloo", "rloo"),
]


@pytest.mark.parametrize(("library", "typed", "name"), CREDITS)
def test_advantages(library: str, typed: str, name: str) -> None:
    one, case = row(typed, library), cases("advantage")[name]
    called = argument(one.line, "credit: ").replace("(", "(reward, group, ", 1).replace(", )", ")")
    inputs = {key: array(value) for key, value in case["inputs"].items() if key in ("reward", "group")}
    found = evaluate_text(f"function run {{{INPUTS}  return (out: {called})\n}}", "run", {}, inputs)
    close(found["out"], case["outputs"]["advantage"])


def argument(line: str, name: str) -> str:
    """The call that stands for a parameter of a line."""
    start = line.index(name) + len(name)
    return line[start : line.index(")", start) + 1]


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("token-mean", "token-mean"), ("seq-mean-token-mean", "seq-mean-token-mean_verl"), ("seq-mean-token-sum", "seq-mean-token-sum"),
        ("seq-mean-token-sum-norm", "seq-mean-token-sum-norm"),
    ],
)  # fmt: skip
def test_aggregations(mode: str, name: str) -> None:
    one, case = row(f"loss_agg_mode={mode}", "verl"), cases("aggregate")[name]
    called = argument(one.line, "aggregate: ").replace("(", "(x, mask, ", 1).replace(", )", ")")
    inputs = {"x": array(case["inputs"]["loss_mat"]), "mask": array(case["inputs"]["mask"])}
    found = evaluate_text(f"function run {{{INPUTS}  return (out: {called})\n}}", "run", {}, inputs)
    close(found["out"], case["outputs"]["loss"])


@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs", "k1+", "k3+"])
def test_kl(name: str) -> None:
    one, case = row(f"kl_penalty={name}", "verl"), cases("kl")[name]
    line = one.line.splitlines()[-1]
    estimate = line[line.index("estimate: ") + len("estimate: ") : -1]
    inputs = {key: array(value) for key, value in case["inputs"].items() if key in ("logp", "logp_ref")}
    text = f"objective run(estimate: function = {estimate}) {{{INPUTS}  minimize sum(estimate(logp, logp_ref), over: [sample, token])\n}}"
    found = evaluate_text(text, "run", {}, inputs)
    close(found["loss"], numpy.sum(array(case["outputs"]["kl"])))
    close(found["grad_logp"], case["outputs"]["grad_logp"])

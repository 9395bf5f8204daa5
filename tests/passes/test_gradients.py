"""Several gradients in one flow: sums and functions of them against one objective of the same meaning, stages with inputs, other points,
fresh samples, micro-batches, plans; and what does not combine.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

import gradflow
from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.snapshots import tensors_of
from tests.placement.threads import on_ranks

TEXT = """
function weighed(share: real = 0.3) {{ input a, b : [param]; return (1 - share) * a + share * b }}
projection tempered(floor: real >= 0 = 0) {{
  input kept, lost : [param]
  state seen = 0
  seen <- seen + norm(lost)
  report size = norm(lost)
  return kept / max(seen, floor)
}}
projection recent(share: real in [0, 1] = 0.5) {{
  input a, b : [param]
  repeat k: 2 {{ again = a(fresh: k) }}
  return mean(again, over: k) + share * b
}}
projection counted {{
  input kept, lost : [param]
  state n = 0
  n <- n + 1
  return kept / n + 0 * lost
}}
projection fading {{ return grad / t }}
projection ahead {{ return grad(at: param - 0.1 * grad) }}
pipeline p {{
  data  train, test = digits(batch: 32)
  model net = softmax_regression(64, 10)
  one   = cross_entropy(net(train.x), train.y)
  other = mean((sigmoid(3 * net(train.x)) - train.x[feature: 20])^2)
  named = 0.5 * (one -> backprop)
  flow net: {flow} -> sgd(lr: 0.1)
  train 3 steps (seed: 0{settings}) {{ every 1 steps {{ report accuracy = accuracy(net(test.x), test.y) }} }}
}}
"""


def trained(flow: str, backend: str = "torch", settings: str = "", **options: Any) -> torch.Tensor:
    """The parameters after three steps."""
    program, diagnostics = build(Module.of(Source("spec", TEXT.format(flow=flow, settings=settings))), "p")
    assert program is not None, diagnostics
    executor = Run(program, Options(backend=backend, precision="float64", **options))
    for _ in executor.events():
        pass
    return torch.cat([leaf.reshape(-1) for leaf in executor.parameters("net").values()])


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float(a.abs().max()) > 1e-5
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


BOTH = pytest.mark.parametrize("backend", ["reference", "torch"])


@BOTH
@pytest.mark.parametrize(
    ("combined", "alone"),
    [
        ("(one -> backprop) + 0.1 * (other -> backprop)", "one + 0.1 * other -> backprop"),
        ("0.5 * (one -> backprop) - (other -> backprop) / 4", "0.5 * one - other / 4 -> backprop"),
        ("-(other -> backprop) + (one -> backprop)", "one - other -> backprop"),
        ("weighed(a: one -> backprop, b: other -> backprop)", "0.7 * one + 0.3 * other -> backprop"),
        ("weighed(a: one -> backprop, b: other -> backprop, share: 0.9)", "0.1 * one + 0.9 * other -> backprop"),
        ("named + (other -> backprop)", "0.5 * one + other -> backprop"),
        ("2 * named", "one -> backprop"),
        ("(1 + progress) * (one -> backprop)", "(1 + progress) * one -> backprop"),
        ("weighed(a: weighed(a: one -> backprop, b: other -> backprop), b: other -> backprop)", "0.49 * one + 0.51 * other -> backprop"),
        ("((one -> backprop) + (other -> backprop) -> nothing) + (other -> backprop)", "one + 2 * other -> backprop"),
        ("(one -> backprop) + (other -> backprop) -> clip_norm(0.1)", "one + other -> backprop -> clip_norm(0.1)"),
        ("case(true, true: (one -> backprop), false: named)", "one -> backprop"),
    ],
)
def test_linear_combinations_are_gradients_of_sums(combined: str, alone: str, backend: str) -> None:
    same(trained(combined, backend), trained(alone, backend))


@BOTH
def test_a_part_has_stages_of_its_own(backend: str) -> None:
    """Only the second gradient is clipped."""
    clipped = trained("(one -> backprop) + (other -> backprop -> clip_norm(0.01))", backend)
    assert not torch.allclose(clipped, trained("one + other -> backprop", backend))
    same(clipped, trained("(other -> backprop -> clip_norm(0.01)) + (one -> backprop)", backend))


@BOTH
def test_a_stage_with_inputs_keeps_state(backend: str) -> None:
    same(trained("counted(one -> backprop, lost: other -> backprop)", backend), trained("one -> backprop -> fading()", backend))
    same(trained("tempered(kept: one -> backprop, lost: other -> backprop, floor: 100)", backend), trained("0.01 * (one -> backprop)", backend))


@BOTH
def test_parts_of_parts_have_states_of_their_own(backend: str) -> None:
    """A stage with inputs inside of a part and another outside: each counts its own steps."""
    nested = (
        "((counted(one -> backprop, lost: other -> backprop)) + 0 * (other -> backprop) -> nothing) + counted(other -> backprop, one -> backprop)"
    )
    same(trained(nested, backend), trained("one + other -> backprop -> fading()", backend))


def test_backends_agree_on_what_is_not_linear() -> None:
    flow = "tempered(one -> backprop, other -> backprop) + 0.1 * (other -> backprop)"
    same(trained(flow, "reference"), trained(flow, "torch"))


@BOTH
def test_a_stage_behind_asks_at_another_point(backend: str) -> None:
    same(trained("(one -> backprop) + (other -> backprop) -> ahead()", backend), trained("one + other -> backprop -> ahead()", backend))


@BOTH
def test_inputs_are_asked_for_fresh_samples(backend: str) -> None:
    """Pass 0 is the sample of the step, pass 1 another one."""
    found = trained("recent(one -> backprop, other -> backprop, share: 0)", backend)
    assert not torch.allclose(found, trained("one -> backprop", backend))
    same(found, trained("recent(one -> backprop, one -> backprop, share: 0)", backend))


@pytest.mark.parametrize("micro", [2, 5])
def test_the_norm_is_that_of_the_whole_mini_batch(micro: int) -> None:
    flow = "tempered(one -> backprop, other -> backprop)"
    same(trained(flow, micro=micro), trained(flow))


def test_without_rewrites_the_numbers_are_the_same() -> None:
    flow = "tempered(one -> backprop, other -> backprop) + (other -> backprop)"
    same(trained(flow, optimize=False), trained(flow))


def test_a_plan_shows_the_head_and_an_artifact_holds_it(tmp_path: Any) -> None:
    text = TEXT.format(flow="tempered(one -> backprop, other -> backprop) + (other -> backprop)", settings="")
    program = gradflow.compile(text, "p")
    assert "tempered(one -> backprop, other -> backprop) + (other -> backprop)" in str(program.program.phases[0].actions[0].facts["stages"])
    first, last = program.run().finish()["accuracy"]
    assert last > first


@pytest.mark.parametrize(
    ("flow", "code"),
    [
        ("(one -> backprop) + other", "E0541"),
        ("other + (one -> backprop)", "E0541"),
        ("(one -> backprop) * (other -> backprop)", "E0541"),
        ("1 / (one -> backprop)", "E0541"),
        ("tempered(one, other)", "E0541"),
        ("tempered(one -> backprop)", "E0401"),
        ("tempered(one -> backprop, other -> backprop, one -> backprop)", "E0401"),
        ("weighed(a: one -> backprop, b: 0.5)", ""),
        ("(one -> backprop -> sgd(lr: 1)) + (other -> backprop)", "E0542"),
        ("(one -> backprop -> decoupled_decay(0.1)) + (other -> backprop)", "E0542"),
        ("one -> backprop -> tempered(one -> backprop, other -> backprop)", "E0541"),
        ("norm(one -> backprop)", "E0541"),
        ("(one -> backprop) + missing", "E0201"),
    ],
)
def test_what_does_not_combine_is_said(flow: str, code: str) -> None:
    found = [d.code for d in gradflow.check(TEXT.format(flow=flow, settings="")) if d.code.startswith("E")]
    assert found == ([code] if code else []), found


def test_gradients_weigh_in_proportion() -> None:
    r = numpy.random.default_rng(0)
    share = float(r.uniform())
    a, b = trained("one -> backprop", steps=1), trained("other -> backprop", steps=1)
    same(trained(f"weighed(a: one -> backprop, b: other -> backprop, share: {share})", steps=1), (1 - share) * a + share * b)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_divide_by_the_norm_of_the_sum(count: int) -> None:
    """Each rank has a part of the batch; the lost gradient is summed over them before its norm is taken."""
    flow = " over devices(): tempered(one -> backprop, lost: other -> backprop, floor: 1e-6) + 0.1 * (other -> backprop)"
    text = TEXT.format(flow="FLOW", settings="").replace(": FLOW", flow)
    program, diagnostics = build(Module.of(Source("spec", text)), "p")
    assert program is not None, diagnostics
    options = Options(precision="float64")
    run = Run(program, options)
    wanted = list(run.events()) and state(run)
    for _, found in on_ranks(program, count, options, watch=state):
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


def state(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tensors_of(run).items() if not name.startswith("random/")}

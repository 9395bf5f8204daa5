"""DP-SGD: one step against Opacus, and the cost of its noise, in the plan and in formulas, against dp-accounting."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.compiler import build, load
from gradflow.privacy.accountant import epsilon
from gradflow.privacy.mechanisms import EVERY, Sampling
from gradflow.privacy.plan import spending, summary
from gradflow.verify.vectors import compute
from tests.methods.harness import evaluate_text

STEP = """
function given(rows: [round, entry]) { input like : [coordinate]; now ~ replay(rows, over: round); return rename(now, entry: coordinate) }
function chosen(here: [record]) { input like : [record]; return where(here > 0, 1, 0) }
pipeline p(radius: real = 0.5, rate: real = 0.5, level: real = 1.2) {
  input Z     : [record, entry]
  input y     : [record]
  input take  : [record]
  input x0    : [entry]
  input noise : [round, entry]
  model x = free(x0)
  loss = mean((dot(rename(Z, record: sample), x, over: entry) - rename(y, record: sample))^2, over: sample)
  rule = dp_sgd(radius: radius, multiplier: level, rate: rate, taken: chosen(here: take), noise: given(rows: noise))
  flow x over star(1): loss -> rule -> sgd(lr: 0.1)
  train 1 rounds { report x = x }
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_one_step_is_that_of_opacus(backend: str) -> None:
    opacus = pytest.importorskip("opacus")
    import torch
    from opacus.optimizers import DPOptimizer

    r = numpy.random.default_rng(0)
    z, y, x0, noise = r.normal(size=(8, 3)), r.normal(size=8), r.normal(size=3), r.normal(size=(1, 3))
    take = numpy.array([1, 0, 1, 1, 0, 0, 1, 0.0])
    found = evaluate_text(STEP, "p", {}, {"Z": z, "y": y, "take": take, "x0": x0, "noise": noise}, backend)["x"]
    model = torch.nn.Linear(3, 1, bias=False).double()
    model.weight.data = torch.tensor(x0)[None]
    module = opacus.GradSampleModule(model)
    optimizer = DPOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=4)
    rows = take > 0
    ((module(torch.tensor(z[rows]))[:, 0] - torch.tensor(y[rows])) ** 2).mean().backward()
    optimizer.step()
    expected = model.weight.detach().numpy()[0] - 0.1 * 1.2 * 0.5 / 4 * noise[0]  # Opacus' own noise is off: ours in its place, std C sigma / B
    numpy.testing.assert_allclose(found, expected, rtol=1e-5)
    assert numpy.abs(found - x0).max() > 1e-3


def test_an_empty_batch_is_noise_alone() -> None:
    r = numpy.random.default_rng(1)
    inputs = {"Z": r.normal(size=(4, 2)), "y": r.normal(size=4), "take": numpy.zeros(4), "x0": numpy.zeros(2), "noise": numpy.ones((1, 2))}
    found = evaluate_text(STEP, "p", {}, inputs)["x"]
    numpy.testing.assert_allclose(found, -0.1 * 1.2 * 0.5 / 2 * numpy.ones(2), rtol=1e-12)


def planned(**parameters: Any) -> Any:
    program, diagnostics = build(load("baselines/privacy")[0], "private_sgd", [f"{name}={value}" for name, value in parameters.items()])
    assert program is not None, diagnostics
    return program


def test_the_plan_has_the_epsilon_of_the_library() -> None:
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    accountant.compose(dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(2.0)), 200)
    found = summary(planned())
    assert found is not None
    numpy.testing.assert_allclose(found["epsilon"], accountant.get_epsilon(1e-5), rtol=1e-12)
    one = found["flows"][0]["mechanisms"][0]
    assert (one["records"], one["sensitivity"], one["releases"]) == ("poisson", "derived", 200)
    assert spending(planned(multiplier=4)).epsilon() < found["epsilon"]


def test_it_is_the_epsilon_of_opacus() -> None:
    pytest.importorskip("opacus")
    from opacus.accountants import RDPAccountant

    other = RDPAccountant()
    other.history = [(2.0, 0.1, 200)]
    assert abs(spending(planned()).epsilon() / other.get_epsilon(1e-5) - 1) < 0.02  # other orders, the same conversion


def test_the_formulas_of_the_language_are_those_of_the_library() -> None:
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    orders = [2, 3, 4, 5, 8, 16, 32, 64, 128]
    o = {"eps": 2.0, "delta": 1e-5, "R": 120, "T": 12, "split": 0.4, "sample_rate": 0.05, "noise_multiplier": 1.3, "orders": orders}
    found = compute("25-diff2.accounting", o, {}, "reference")
    plain, sampled = rdp.RdpAccountant(orders), rdp.RdpAccountant(orders)
    plain.compose(dp.GaussianDpEvent(float(found["z1"])), int(found["K1"])).compose(dp.GaussianDpEvent(float(found["z2"])), int(found["K2"]))
    sampled.compose(dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(1.3)), 120)
    for mine, theirs in ((found["eps_rdp_improved"], plain), (found["subsampled_eps"], sampled)):
        numpy.testing.assert_allclose(mine, theirs.get_epsilon(1e-5), rtol=1e-6)
    assert int(found["subsampled_best_order"]) == sampled.get_epsilon_and_optimal_order(1e-5)[1]


def test_what_nothing_and_everything_cost() -> None:
    assert epsilon({}, 1e-5) == 0.0
    assert epsilon({(0.0, EVERY): 1}, 1e-5) == float("inf")
    pytest.importorskip("dp_accounting")
    whole = epsilon({(5.0, EVERY): 10}, 1e-5)
    assert epsilon({(5.0, Sampling("subset", 0.1, 10, 100)): 10}, 1e-5) < whole
    assert epsilon({(5.0, Sampling("subset", 1.0, 100, 100)): 10}, 1e-5) == whole

"""A model called more than once in a loss, with and without gradient."""

import numpy
import pytest

from tests.runtime.harness import ran, series, written

TWICE = """
pipeline twice {
  data  train, test = digits(batch: 64)
  model net = mlp(64, 32, 10)
  loss = mean((net(train.x) - stop(net(2 * train.x)))^2)
  flow net: loss -> backprop -> sgd(lr: 0.1)
  train 3 steps (seed: 0) { every step { report level = mean(net(test.x)^2) } }
}
"""


@pytest.mark.parametrize(
    "order", [("net(train.x) - stop(net(2 * train.x))",) * 2, ("net(train.x) - stop(net(2 * train.x))", "stop(net(2 * train.x)) - net(train.x)")]
)
def test_a_call_without_gradient_leaves_the_tape_of_another_alone(order):
    text = TWICE.replace(*order)
    levels = [numpy.array(series(ran(written(text), backend=backend, precision="float64")[1], "level")) for backend in ("reference", "torch")]
    numpy.testing.assert_allclose(levels[0], levels[1], rtol=1e-9)
    assert levels[0][0] != levels[0][-1]

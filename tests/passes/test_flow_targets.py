"""Flows over several models, and over some leaves of one: the same steps as one model that holds what they train."""

import pytest
import torch

from tests.runtime.harness import ran, written

SEVERAL = """
pipeline several(rule: update = adam(lr: 0.1)) {
  model a = free([row: 3, col: 2])
  model b = free([row: 3])
  flow a, b: sum((a * b - 1)^2, over: [row, col]) + sum((b - 2)^2, over: row) -> backprop -> clip_norm(1) -> rule
  train 5 steps
}
pipeline apart(rule: update = adam(lr: 0.1)) {
  model b = free([row: 3])
  model a = free([row: 3, col: 2])
  loss = sum((a * b - 1)^2, over: [row, col]) + sum((b - 2)^2, over: row)
  flow b, a: loss -> backprop -> clip_norm(1) -> rule
  train 5 steps
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_the_order_of_models_does_not_matter(backend):
    runs = [ran(written(SEVERAL, name), backend=backend, precision="float64")[0] for name in ("several", "apart")]
    for name in ("a", "b"):
        first, second = (torch.as_tensor(run.store.params[name]) for run in runs)
        assert first.abs().min() > 0
        torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


PART = """
pipeline part(steps: int >= 1 = 4) {
  data  train, test = digits(batch: 64)
  model net = mlp(64, 16, 10)
  flow TARGET: cross_entropy(net(train.x), train.y) -> backprop -> adamw(lr: 1e-2)
  train steps steps (seed: 0)
}
"""


def leaves(target):
    run, _ = ran(written(PART.replace("TARGET", target)), precision="float64")
    return {name: leaf.clone() for name, leaf in run.parameters("net").items()}, run


def test_the_other_leaves_stay():
    start, _ = ran(written(PART.replace("TARGET", "net").replace("steps: int >= 1 = 4", "steps: int >= 0 = 0").replace("train steps", "train 0")))
    moved, run = leaves("net.bias")
    for name, leaf in run.parameters("net").items():
        before = start.parameters("net")[name].to(leaf.dtype)
        assert torch.equal(leaf.float(), before.float()) != name.endswith("bias"), name
    assert {tuple(state.shape) for state in run.store.states.values()} == {(26,)}, "moments of the biases alone"


def test_all_leaves_named_one_by_one_are_the_model():
    whole, _ = leaves("net")
    parts, _ = leaves("net.weight, net.bias")
    for name, leaf in whole.items():
        torch.testing.assert_close(parts[name], leaf, rtol=1e-12, atol=0)


def test_a_part_moves_as_it_does_in_the_first_step_of_all():
    all_, _ = ran(written(PART.replace("TARGET", "net")), precision="float64", steps=1)
    part, _ = ran(written(PART.replace("TARGET", "net.weight")), precision="float64", steps=1)
    for name, leaf in part.parameters("net").items():
        if name.endswith("weight"):
            torch.testing.assert_close(leaf, all_.parameters("net")[name], rtol=1e-12, atol=0)

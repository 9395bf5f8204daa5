"""`python(..)`: a model of the user's own, only where it is allowed."""

from __future__ import annotations

import pytest
import torch

import gradflow

SPEC = """
pipeline own {
  data  train, test = digits(batch: 32)
  model net = python("tests.library.test_python_models:make_network", classes: 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> adam(lr: 1e-2)
  train 20 steps { every 20 steps { report accuracy = accuracy(net(test.x), test.y) } }
}
"""


def make_network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def test_nothing_runs_unless_it_is_allowed() -> None:
    with pytest.raises(gradflow.GradflowError, match="--allow-python"):
        gradflow.compile(SPEC)
    assert [d.code for d in gradflow.check(SPEC)] == ["E0407"]


def test_it_trains_where_it_is_allowed() -> None:
    first, last = gradflow.compile(SPEC, allow_python=True).run().finish()["accuracy"]
    assert last > first + 0.2


def test_a_name_that_gives_no_module_is_a_sentence() -> None:
    with pytest.raises(gradflow.GradflowError, match="must return a torch.nn.Module"):
        gradflow.compile(SPEC.replace("make_network", "SPEC.upper").replace("SPEC.upper", "dict_maker"), allow_python=True)


def dict_maker() -> dict[str, int]:
    return {}

"""Warnings about training that does not do what it says: where they come, and above all where they do not."""

from __future__ import annotations

import pytest

from gradflow.compiler import check_source
from gradflow.language.source import Source

SPEC = """HEADpipeline p {
  LIMIT
  data train, test = digits(batch: 64)
  model net = mlp(64, 32, 10DROP)
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> RULE
  train COUNT (SETTINGS)
}
"""


def codes(
    rule: str = "adam(lr: 1e-3)", count: str = "100 steps", settings: str = "seed: 0", drop: str = "", head: str = "", limit: str = ""
) -> list[str]:
    text = SPEC
    for word, value in (("RULE", rule), ("COUNT", count), ("SETTINGS", settings), ("DROP", drop), ("HEAD", head), ("  LIMIT\n", limit)):
        text = text.replace(word, value)
    return [one.code for one in check_source(Source("analyses.gflow", text))]


@pytest.mark.parametrize("rule", ["adam(lr: 1e-3)", "rmsprop(lr: 1e-3)", "adagrad(lr: 1e-3)", "adadelta()"])
def test_decay_before_a_rule_that_scales(rule: str) -> None:
    assert codes(f"decay(1e-2) -> {rule}") == ["W0113"]


@pytest.mark.parametrize(
    "rule",
    ["decay(1e-2) -> sgd(lr: 0.1)", "decay(1e-2) -> sgd(lr: 0.1, momentum: 0.9)", "decoupled_decay(1e-4) -> adam(lr: 1e-3)", "adamw(lr: 1e-3)",
     "decay(0) -> adam(lr: 1e-3)", "decay(1e-2) -> clip_norm(1.0) -> sgd(lr: 0.1)", "late_decay(1e-4) -> adam(lr: 1e-3)"],
)  # fmt: skip
def test_decay_elsewhere(rule: str) -> None:
    assert codes(rule) == []


def test_schedules_in_updates() -> None:
    assert codes("adam(lr: 1e-3 * min(1, t / 500))") == ["W0114"]
    assert codes("adam(lr: 1e-3 * where(t < 500, 1, 0.1))") == ["W0114"]
    assert codes("adam(lr: 1e-3 * min(1, t / 100))") == []
    assert codes("adam(lr: 1e-3 * min(1, progress / 10%))") == []
    assert codes("adam(lr: 1e-3 * where(t < t_end, 1, 0.1))") == []
    assert codes("adam(lr: 1e-3 * min(1, t / 50))", "20 epochs") == ["W0114"]  # outside of a stage `t` counts epochs, 22 updates each
    assert codes("adam(lr: 1e-3 * min(1, t / 50))", "60 epochs") == []


def test_schedules_inside_a_stage_count_updates() -> None:
    late = "update late(lr: real) {\n  param <- param - lr * grad * where(t < 300, 1, 0.1)\n}\n"
    assert codes("late(0.1)", "200 steps", head=late) == ["W0114"]
    assert codes("late(0.1)", "20 epochs", head=late) == codes("late(0.1)", "400 steps", head=late) == []
    assert codes("late(0.1)", "10 epochs", head=late) == ["W0114"]


def test_definitions() -> None:
    assert codes(head="function spare(x: real) = 2 * x\n") == ["W0115"]
    assert codes(head="function _spare(x: real) = 2 * x\n") == []
    assert codes("adam(lr: twice(1e-3))", head="function twice(x: real) = 2 * x\n") == []
    library = "function spare(x: real) = 2 * x\nfunction other(x: real) = 3 * x\n"
    assert check_source(Source("library.gflow", library)) == []


def test_dropout_and_micro_batches() -> None:
    assert codes(drop=", dropout: 0.1", settings="micro: 4") == ["W0116"]
    assert codes(drop=", dropout: 0.1", settings="micro: 1") == codes(drop=", dropout: 0.1") == codes(settings="micro: 4") == []
    assert codes(drop=", dropout: 0.0", settings="micro: 4") == []


def test_memory_of_what_is_kept() -> None:
    assert codes(limit="  require memory < 10kB\n") == ["E0608"] and codes(limit="  prefer memory < 10kB\n") == ["W0302"]
    assert codes(limit="  require memory < 1GB\n") == []

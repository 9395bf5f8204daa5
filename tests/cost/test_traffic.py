"""Messages that a flow sends in one update, against counts by hand."""

from __future__ import annotations

import pytest

from gradflow.cost.figures import Message
from gradflow.cost.traffic import compressed, messages_of
from gradflow.plan.program import Update
from tests.plan.programs import of, shipped

SPEC = """pipeline p {
  data train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net over GRAPH: loss -> backprop -> EXCHANGE -> sgd(lr: 0.1)
  train 10 rounds
}
"""
DENSE = 650 * 4


def messages(graph: str, exchange: str) -> tuple[Message, ...]:
    program = of(SPEC.replace("GRAPH", graph).replace("EXCHANGE", exchange))
    (update,) = (action for action in program.phases[0].actions if isinstance(action, Update))
    return messages_of(update, program, 4)


def test_gossip_sends_over_every_link_both_ways() -> None:
    assert messages("ring(8)", "gossip()") == (Message("mix", "link", 16, DENSE, 16 * DENSE),)
    assert messages("path(4)", "gossip()") == (Message("mix", "link", 6, DENSE, 6 * DENSE),)


def test_tracking_sends_twice() -> None:
    assert [one.messages for one in messages("ring(8)", "gradient_tracking()")] == [16, 16]


def test_the_mean_goes_to_the_center_and_back() -> None:
    assert messages("star(8)", "average()") == (Message("all-reduce", "gather", 14, 2 * DENSE, 14 * DENSE),)


def test_a_compressor_makes_the_way_up_shorter() -> None:
    up = 65 * (4 + 4)
    assert messages("star(8)", "econtrol(eta: 0.1, compress: topk(10%))") == (Message("all-reduce", "gather", 14, up + DENSE, 7 * (up + DENSE)),)


def test_a_token_takes_the_parameters_along() -> None:
    assert messages("ring(8)", "token()") == (Message("the parameters to the next node", "walk", 1, DENSE, DENSE),)


def test_a_flow_without_a_topology_sends_nothing() -> None:
    program = shipped()["17_diffgrad:digits"]
    assert all(not messages_of(action, program, 4) for action in program.phases[0].actions if isinstance(action, Update))


@pytest.mark.parametrize(
    ("gives", "size"),
    [("sparse(k: 10)", 80), ("bits(b: 2)", 67), ("scalar(n: 1)", 4), ("", 1000), ("sparse(k: 500)", 1000), ("stored_bits(b: 1)", 1000)],
)
def test_what_a_compressor_says(gives: str, size: int) -> None:
    assert compressed(gives, 1000, 4) == size

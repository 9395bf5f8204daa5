"""What runs count as sent, against the prediction and against counts by hand; the same on several ranks and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from gradflow.network.counting import counted
from gradflow.network.crossings import crossings_of, gradients_of
from gradflow.network.description import network_of
from gradflow.plan.artifact import decode, encode
from gradflow.plan.program import Program, Update
from gradflow.runtime.checkpoints import newest_checkpoint
from gradflow.runtime.events import RunFinished, RunStopped, UnitDone
from gradflow.runtime.executor import Options, Run
from tests.placement.threads import on_ranks
from tests.plan.programs import of, shipped

SPEC = """DEFINITIONS
pipeline p {
  data train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net over GRAPH: loss -> backprop -> EXCHANGE -> sgd(lr: 0.1)
  train 10 rounds (seed: 0) { every 5 rounds { report size = sum(net^2) } }
}
"""
SIZE = 650
DENSE = SIZE * 4


def program(graph: str, exchange: str, definitions: str = "") -> Program:
    return of(SPEC.replace("GRAPH", graph).replace("EXCHANGE", exchange).replace("DEFINITIONS", definitions))


def run(one: Program, steps: int = 4, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(what each unit sent, the totals)."""
    events = list(Run(one, Options(steps=steps, **options)).events())
    (end,) = (event for event in events if isinstance(event, RunFinished))
    return [dict(event.sent) for event in events if isinstance(event, UnitDone)], dict(end.sent)


def the_update(one: Program) -> Update:
    (update,) = (action for action in one.phases[0].actions if isinstance(action, Update))
    return update


# ---- counted and predicted


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    ("graph", "exchange", "messages", "size"),
    [
        ("ring(8)", "gossip()", 16, 16 * DENSE),
        ("exponential(8)", "gossip()", 24, 24 * DENSE),
        ("star(8)", "average()", 14, 14 * DENSE),
        ("ring(8)", "gradient_tracking()", 32, 32 * DENSE),
        ("star(8)", "econtrol(eta: 0.1, compress: topk(10%), start: zero)", 14, 7 * (65 * 8 + DENSE)),
        ("star(8)", "compressed(dither(4))", 14, 7 * (SIZE * 4 // 8 + 4 + DENSE)),
        ("star(8)", "compressed(low_rank(rank: 2))", 14, 7 * ((2 * (64 + 10) + 10) * 4 + DENSE)),
        ("star(8)", "local_steps(steps: 2)", 14, 14 * DENSE),
    ],
)  # fmt: skip
def test_counted_is_predicted_where_all_take_part(graph: str, exchange: str, messages: int, size: int, backend: str) -> None:
    wider = 2 if backend == "reference" else 1
    units, total = run(program(graph, exchange), 3, backend=backend)
    if backend == "torch":
        assert [(one["messages"], one["bytes"]) for one in units] == [(messages, size)] * 3
        assert (total["messages"], total["bytes"]) == (3 * messages, 3 * size)
    assert size <= units[0]["bytes"] <= wider * size
    assert total["predicted"] == {"messages": total["messages"], "bytes": total["bytes"]}


def test_the_first_message_of_econtrol_is_the_gradient_and_then_k_entries() -> None:
    units, total = run(program("star(8)", "econtrol(eta: 0.1, compress: topk(10%))"))
    assert [one["bytes"] for one in units[1:]] == [7 * (65 * 8 + DENSE)] * 3
    assert units[0]["bytes"] == 7 * 2 * DENSE + 7 * DENSE  # the gradient, and a message of zeros, of which only the answer has a size
    assert total["predicted"]["bytes"] == total["bytes"] + 7 * 65 * 8


def test_fewer_entries_than_the_compressor_may_send_are_counted_as_they_are() -> None:
    half = "projection half() { gives sparse(k: 65); return where(grad > 0, largest(x: grad, k: 65), 0) }"
    one = program("star(4)", "compressed(half())", half)
    units, total = run(one, 2)
    assert all(3 * DENSE < unit["bytes"] < 3 * (DENSE + 65 * 8) for unit in units)
    assert total["bytes"] < total["predicted"]["bytes"]


def test_who_is_not_drawn_sends_nothing() -> None:
    units, total = run(program("star(8)", "local_steps(steps: 2, active: some(share: 0.5))"), 12)
    assert {one["messages"] for one in units} == {6, 8}  # four take part: the center and three others, or four others
    assert all(one["bytes"] == one["messages"] * DENSE for one in units)
    assert total["messages"] < total["predicted"]["messages"] == 12 * 14


def test_a_token_that_stays_sends_nothing() -> None:
    one = program("star(4)", "token()")
    update, places = the_update(one), list[int]()
    (state,) = update.states
    listening = Run(one, Options(steps=12))
    units = []
    for event in listening.events():
        if isinstance(event, UnitDone):
            units.append(event.sent["messages"])
            places.append(int(listening.store.states[update.flow, state.key]))
    moved = [int(before != after) for before, after in zip([0, *places], places, strict=False)]
    assert units == moved and 0 < sum(moved) < 12


def test_links_of_the_round_are_counted() -> None:
    growing = """topology growing(n: int >= 2) {
      nodes = n
      link i <-> j if j - i <= t and i < j
    }"""
    units, total = run(program("growing(5)", "gossip()", growing), 5)
    assert [one["messages"] for one in units] == [8, 14, 18, 20, 20]
    assert total["predicted"] is None
    peers, _ = run(program("one_peer_exponential(8)", "gossip()"), 4)
    assert [one["messages"] for one in peers] == [8] * 4


def test_what_happens_now_and_then_is_counted_when_it_does() -> None:
    rule = """exchange seldom(every: int = 3) over connected {
      param <- param + step(grad)
      when mod(t, every) == 0 { param <- mix(param) }
    }"""
    units, total = run(program("ring(6)", "seldom()", rule), 7)
    assert [one["messages"] for one in units] == [0, 0, 12, 0, 0, 12, 0]
    assert total["rounds"] == 2


def test_rounds_are_those_that_wait_for_each_other() -> None:
    assert run(program("ring(6)", "gradient_tracking()"), 3)[1]["rounds"] == 6
    assert run(program("star(6)", "scaffold(steps: 2)"), 3)[1]["rounds"] == 3


def test_the_busiest_node_is_the_center() -> None:
    assert run(program("star(8, center: 3)", "average()"), 2)[1]["largest"] == 2 * 7 * DENSE
    assert counted(program("star(8, center: 3)", "average()"))[1][0].counters[0].center == 3


def test_gradients_of_an_update() -> None:
    assert gradients_of(the_update(program("ring(4)", "gossip()")).region) == 1
    assert gradients_of(the_update(program("star(4)", "local_steps(steps: 5)")).region) == 5
    assert gradients_of(the_update(program("ring(4)", "gradient_tracking()")).region) == 2


def test_a_flow_without_a_topology_counts_nothing() -> None:
    one = shipped()["17_diffgrad:digits"]
    assert counted(one) == (one, {})
    units, total = run(one, 1)
    assert units == [{}] and total == {}


# ---- nothing else changes


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    ("graph", "exchange"),
    [
        ("ring(6)", "gossip()"), ("star(6)", "econtrol(eta: 0.1, compress: topk(10%))"), ("star(6)", "ef21(topk(10%), momentum: 0.5)"),
        ("star(6)", "scaffold(steps: 2, active: some(share: 0.5))"), ("ring(6)", "token()"), ("one_peer_exponential(6)", "gossip()"),
    ],
)  # fmt: skip
def test_counting_changes_no_number(graph: str, exchange: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, found = program(graph, exchange), []
    for counting in (True, False):
        monkeypatch.setattr(Run, "counting", counting)
        made = Run(one, Options(steps=6, backend=backend))
        for _ in made.events():
            pass
        found.append({**made.store.params, **made.store.states})
    assert any(value.abs().sum() > 0 for value in found[0].values())
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


# ---- ranks, and runs that go on


@pytest.mark.parametrize(
    ("graph", "exchange"),
    [
        ("ring(7)", "gossip()"), ("star(7)", "econtrol(eta: 0.1, compress: topk(10%))"), ("star(7)", "scaffold(steps: 2, active: some(share: 0.5))"),
        ("ring(7)", "token()"), ("one_peer_exponential(7)", "gossip()"),
    ],
)  # fmt: skip
def test_counts_are_the_same_on_three_ranks(graph: str, exchange: str) -> None:
    one = program(graph, exchange)
    options = Options(steps=5, deterministic=True, network=network_of("wan").text())
    alone = [event.sent for event in Run(one, options).events() if isinstance(event, UnitDone | RunFinished)]
    for events, _ in on_ranks(one, 3, options):
        assert [event.sent for event in events if isinstance(event, UnitDone | RunFinished)] == alone
    assert alone[-1]["messages"] > 0


def test_a_run_that_goes_on_counts_on(tmp_path: Path) -> None:
    one = program("star(6)", "econtrol(eta: 0.1, compress: topk(10%))")
    options = Options(steps=8, network=network_of("wan").text())
    whole = [event for event in Run(one, options).events() if isinstance(event, UnitDone | RunFinished)]
    first = Run(one, options, folder=tmp_path)
    for event in first.events():
        if isinstance(event, UnitDone) and event.tick == 2:
            first.stop()
    assert isinstance(event, RunStopped) and event.sent["messages"] == sum(done.sent["messages"] for done in whole[:3])
    checkpoint, _ = newest_checkpoint(tmp_path)
    again = [event for event in Run(one, options, folder=tmp_path, resume=checkpoint).events() if isinstance(event, UnitDone | RunFinished)]
    assert [event.sent for event in again] == [event.sent for event in whole[3:]]
    assert again[-1].sent["seconds"] > 0


def test_a_checkpoint_that_never_counted_can_be_gone_on_from(tmp_path: Path) -> None:
    one = program("ring(4)", "gossip()")
    first = Run(one, Options(steps=4), folder=tmp_path)
    for event in first.events():
        if isinstance(event, UnitDone) and event.tick == 1:
            first.stop()
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    del checkpoint.state["sent"]
    (*_, end) = Run(one, Options(steps=4), folder=tmp_path, resume=checkpoint).events()
    assert isinstance(end, RunFinished) and end.sent["messages"] == 2 * 8


def test_crossings_in_a_loop_are_counted_as_often_as_it_goes_round() -> None:
    rule = """exchange thrice(passes: int = 30) over connected {
      repeat k: passes with x = param + step(grad) { x <- mix(x) }
      param <- x
    }"""
    one = program("ring(6)", "thrice()", rule)
    found = crossings_of(the_update(one), one)
    units, total = run(one, 2)
    assert sum(crossing.times for crossing in found) == 30
    assert [unit["messages"] for unit in units] == [30 * 12] * 2 and total["rounds"] == 60
    assert total["predicted"]["messages"] == total["messages"]


@pytest.mark.parametrize("graph", ["ring(5)", "exponential(5)", "one_peer_exponential(5)"])
def test_an_artifact_counts_as_its_spec(graph: str) -> None:
    one = program(graph, "gossip()")
    assert run(decode(encode(one)), 2) == run(one, 2)


def test_shares_of_other_widths() -> None:
    narrow, _ = run(program("ring(4)", "gossip()"), 1)
    wide, _ = run(program("ring(4)", "gossip()"), 1, precision="float64")
    assert numpy.array([wide[0]["bytes"], narrow[0]["bytes"]]).tolist() == [8 * SIZE * 8, 8 * SIZE * 4]


EVENTS = """
exchange talk(rate: real > 0 = 2) over connected {
  on each node(i) ~ poisson(1) { param <- param - 0.1 * grad(at: param) }
  on each link(i, j) ~ poisson(rate) {
    m = param[node: i] - param[node: j]
    param[i] <- param[i] - m / 2
    param[j] <- param[j] + m / 2
  }
}
pipeline p {
  data  train = random_least_squares()
  model x = free([coordinate: 10])
  loss = 0.5 * sum((dot(train.a, x, over: coordinate) - train.b)^2, over: row)
  rule = talk()
  flow x over ring(8): loss -> backprop -> rule
  train 20 time (seed: 0) { report gradients = rule.node_events; report talks = rule.link_events }
}
"""


def event_run(network: str | None = None, ranks: int = 1) -> RunFinished:
    one, options = of(EVENTS), Options(network=network)
    events = list(Run(one, options).events()) if ranks == 1 else on_ranks(one, ranks, options)[0][0]
    (end,) = (event for event in events if isinstance(event, RunFinished))
    return end


def test_events_send_what_crosses_their_links() -> None:
    """Each node of a link sends its ten numbers; the plan expects the rates' mean, a Poisson number lies within four deviations of it."""
    end = event_run()
    talks = int(end.learnt["talks"][1])  # type: ignore[arg-type]
    assert end.sent["messages"] == 2 * talks and end.sent["bytes"] == 2 * talks * 10 * 4
    assert end.sent["predicted"] == {"messages": 20 * 2 * 2 * 8, "bytes": 20 * 2 * 2 * 8 * 10 * 4}
    assert abs(talks - 320) < 4 * 320**0.5


def test_clocks_of_events_wait_at_their_links_only() -> None:
    slow, quick = event_run("wan"), event_run("lan")
    assert slow.sent["messages"] == quick.sent["messages"]
    talks = int(slow.learnt["talks"][1])  # type: ignore[arg-type]
    assert quick.sent["seconds"] < slow.sent["seconds"] < talks * 0.06 + 20 * 8 * 0.001 * 2
    assert slow.sent["seconds"] > talks / 4 * 0.05  # at most four of eight links at a time
    assert event_run("wan", ranks=3).sent == slow.sent

"""Flows whose nodes act at events: waves, resuming, artifacts, what reports see, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan.artifact import decode, encode
from gradflow.runtime.embed import run
from gradflow.runtime.events import RunFailed
from tests.methods.harness import evaluate_text
from tests.runtime.interrupting import assert_goes_on

TALK = """
exchange talk(pull: real >= 0 = 0.3) over connected {
  state total : [grad] = 0
  on each wait(dt) { total <- total * exp(-dt) }
  on each node(i) ~ poisson(1) { total <- total + grad; param <- param - 0.05 * total }
  on each link(i, j) ~ poisson(2) {
    m = param[node: i] - param[node: j]
    param[i] <- param[i] - pull * m
    param[j] <- param[j] + pull * m
  }
}
pipeline p(graph: topology = ring(6)) {
  data  train = random_least_squares(nodes: 6, dim: 4, condition: 10)
  model x = free([coordinate: 4])
  target = train.b
  loss = 0.5 * sum((x - rename(target, row: coordinate))^2, over: coordinate)
  rule = talk()
  flow x over graph: loss -> backprop -> rule
  train COUNT (seed: 3, precision: float64) {
    PERIOD
    report total = rule.total
    report nodes = rule.node_events
    report links = rule.link_events
    report last  = rule.last_event
  }
}
"""


def program(count: str, period: str = "", text: str = TALK) -> Any:
    found, diagnostics = build(Module.of(Source("<test>", text.replace("COUNT", count).replace("PERIOD", period))), "p")
    assert found is not None, [one.message for one in diagnostics]
    return found


def outcome(count: str, period: str = "", text: str = TALK, backend: str = "torch") -> tuple[Any, dict[str, Any]]:
    running = run(program(count, period, text), backend=backend, precision="float64" if backend == "torch" else None)
    reports = {name: last for name, (_, last) in running.finish().items()}
    return running.parameters("x")["value"].numpy().copy(), reports


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_waves_are_one_by_one(backend: str) -> None:
    """512 events, up to 256 at once in waves, against one after another: the same bits, since all of it is elementwise."""
    together, reports = outcome("512 events", backend=backend)
    apart, other = outcome("512 events", "every event { report x = x }", backend=backend)
    numpy.testing.assert_array_equal(together, apart)
    for name, value in reports.items():
        numpy.testing.assert_array_equal(value, other[name])
    assert reports["nodes"] + reports["links"] == 512 and 100 < reports["nodes"] < 240


def test_backends_agree() -> None:
    one, reports = outcome("20 time")
    other, again = outcome("20 time", backend="reference")
    numpy.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    assert reports["nodes"] == again["nodes"] > 60
    assert numpy.abs(one - one.mean(0)).max() < 2 and numpy.abs(one).max() > 1e-2


def test_looking_changes_nothing_but_the_last_bits() -> None:
    """Reports of `time` integrate copies: the run goes on as if nobody had looked, in other waves."""
    seldom, _ = outcome("60 time")
    often, _ = outcome("60 time", "every time { report x = x; report total = rule.total }")
    numpy.testing.assert_array_equal(seldom, often)


def test_reports_of_time_see_all_nodes_at_one_moment() -> None:
    """`total` decays as exp(-dt): seen at time 7 it is what each node's last event left, decayed since then."""
    events = run(program("7 time", "every time { report total = rule.total }"))
    for event in events:
        if type(event).__name__ == "UnitDone" and event.t == 6:
            kept = {key: value.clone() for key, value in events.run.store.states.items()}
            seen_later = dict(kept)
    total = next(value for key, value in seen_later.items() if key[1].endswith("total"))
    last = next(value for key, value in seen_later.items() if key[1].endswith("last_event"))
    shown = numpy.asarray(events.reports["total"][6][1])
    numpy.testing.assert_allclose(shown, (total * torch.exp(last - 6)[:, None]).numpy(), rtol=1e-5)


def test_interrupted_is_uninterrupted(tmp_path: Any) -> None:
    made = program("40 time", "every 4 time { report x = x; checkpoint }")
    assert_goes_on(made, tmp_path, 12, 24)


def test_interrupted_between_phases(tmp_path: Any) -> None:
    text = TALK.replace("  train COUNT", "  train 8 time (seed: 3, precision: float64)\n  train COUNT")
    made = program("10 events", "every 5 events { report x = x }", text)
    assert_goes_on(made, tmp_path, 8)


def test_a_plan_keeps_its_events() -> None:
    made = program("5 time")
    again = decode(encode(made))
    one, other = run(made), run(again)
    one.finish(), other.finish()
    assert torch.equal(one.parameters("x")["value"], other.parameters("x")["value"])
    assert encode(again) == encode(made)


def test_networks_take_their_own_rows() -> None:
    """A gradient event on a network with data divided among nodes: the plain step on that node's rows, and nothing elsewhere."""
    text = """
    exchange alone() over connected { on each node(i) ~ poisson(1) { param <- param - 0.5 * grad } }
    pipeline p {
      data  train, test = digits(split: by_label)
      model net = softmax_regression(64, 10)
      loss = cross_entropy(net(train.x), train.y)
      rule = alone()
      flow net over ring(4): loss -> backprop -> rule
      train COUNT (seed: 0, precision: float64) { report last = rule.last_event }
    }
    exchange together() over connected { param <- param - 0.5 * grad }
    """
    one = run(program("1 events", text=text))
    one.finish()
    moved = one.run.store.params["net"]
    still = [node for node in range(4) if float(one.run.store.states["flow1", "1.alone.last_event"][node]) == 0]
    assert len(still) == 3
    both = text.replace("-> rule", "-> together()").replace("rule = alone()", "").replace("{ report last = rule.last_event }", "")
    other = run(program("1 steps", text=both))
    other.finish()
    stepped, first = other.run.store.params["net"], moved[still[0]]
    for node in range(4):
        assert torch.equal(moved[node], first) if node in still else torch.allclose(moved[node], stepped[node], rtol=1e-12)
    assert not torch.equal(moved, stepped)


def test_one_node_has_no_links() -> None:
    """Nothing to talk to: the clock at the node is all there is."""
    text = """
    exchange alone() over connected { on each node(i) ~ poisson(1) { param <- param - 0.5 * grad } }
    pipeline p {
      model x = free([coordinate: 2])
      loss = 0.5 * sum((x - 1)^2, over: coordinate)
      flow x over complete(1): loss -> backprop -> alone()
      train COUNT (seed: 0, precision: float64)
    }
    """
    one = run(program("30 events", text=text))
    one.finish()
    numpy.testing.assert_allclose(one.parameters("x")["value"].numpy(), 1 - 0.5**30, rtol=1e-12)


RECORDED = """
exchange played(time: [event], at: int[event, end]) over connected {
  on each node(i) ~ at_times(time, at: at) { param <- param - 0.5 * grad }
}
pipeline p {
  input time : [event]
  input at   : int[event, end]
  model x = free([coordinate: 2])
  loss = 0.5 * sum((x - 1)^2, over: coordinate)
  flow x over ring(3): loss -> backprop -> played(time, at)
  train 3 events { report x = x }
}
"""


def test_a_record_is_played() -> None:
    found = evaluate_text(RECORDED, "p", {}, {"time": numpy.array([0.1, 0.2, 0.2]), "at": numpy.array([[2], [0], [2]])})
    numpy.testing.assert_allclose(found["x"], [[0.5, 0.5], [0, 0], [0.75, 0.75]])


@pytest.mark.parametrize(
    ("time", "at", "word"),
    [
        ([0.1, 0.2], [[0], [1]], "only 2 are recorded"),
        ([0.2, 0.1, 0.3], [[0], [1], [2]], "never go back"),
        ([0.1, 0.2, 0.3], [[0], [3], [1]], "node 3"),
    ],
)
def test_records_that_cannot_be(time: Any, at: Any, word: str) -> None:
    with pytest.raises(RunFailed, match=word):
        evaluate_text(RECORDED, "p", {}, {"time": numpy.array(time), "at": numpy.array(at)})


def test_clocks_that_stand_still() -> None:
    with pytest.raises(RunFailed, match="stand still"):
        outcome("3 time", text=TALK.replace("poisson(1)", "poisson(0)").replace("poisson(2)", "poisson(0)"))


@pytest.mark.parametrize("dt", [0.0, 0.7])
def test_linear_flow(dt: float) -> None:
    """A rotation, exactly; its flow over s + t is that over s after that over t; dt = 0 is no change."""
    text = """
    function turned(dt: real >= 0) {
      input x, y : [entry]
      first  = linear_ode((a, b) => (b, -a), dt, from: (x, y))
      second = linear_ode((a, b) => (b, -a), dt, from: first)
      return (x: first[0], y: first[1], twice: second[0])
    }
    """
    x, y = numpy.array([1.0, 2.0]), numpy.array([0.5, -1.0])
    for backend in ("reference", "torch"):
        found = evaluate_text(text, "turned", {"dt": dt}, {"x": x, "y": y}, backend)
        numpy.testing.assert_allclose(found["x"], numpy.cos(dt) * x + numpy.sin(dt) * y, rtol=1e-12)
        numpy.testing.assert_allclose(found["y"], numpy.cos(dt) * y - numpy.sin(dt) * x, rtol=1e-12)
        numpy.testing.assert_allclose(found["twice"], numpy.cos(2 * dt) * x + numpy.sin(2 * dt) * y, rtol=1e-12)

"""What reports read of stages, fresh looks, recorded draws, and values laid one behind the other, run by the reference and by torch."""

import numpy
import pytest

from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.verify.drivers import drive
from tests.runtime.harness import ran, series, written

BOTH = pytest.mark.parametrize("backend", ["reference", "torch"])

LOOKED_INTO = """
update halved(lr: real > 0 = 0.5) {
  state seen = 0
  slope  = grad / 2
  seen  <- seen + slope
  param <- param - lr * slope
}
pipeline watched {
  model x = free([entry: 2])
  rule = halved()
  loss = sum((x - 1)^2, over: entry)
  flow x: loss -> backprop -> rule
  train 3 steps { every step { report x = x; report slope = rule.slope; report seen = rule.seen } }
}
"""


@BOTH
def test_a_report_reads_what_a_stage_bound(backend):
    run, events = ran(written(LOOKED_INTO), backend=backend, precision="float64")
    x, slope, seen = (numpy.array(series(events, name)) for name in ("x", "slope", "seen"))
    assert len(x) == 4 and len(slope) == 3, "before the first step there is nothing to read"
    numpy.testing.assert_allclose(slope.reshape(3, 2), x[:-1] - 1)
    numpy.testing.assert_allclose(seen.reshape(4, 2)[1:], numpy.cumsum(slope.reshape(3, 2), 0))


def test_what_no_report_reads_is_not_kept():
    program = written(LOOKED_INTO.replace("report slope = rule.slope; ", ""))
    names = [name for name, _ in program.phases[0].actions[0].region.results]
    assert not [name for name in names if name.startswith("held/")]


FUNCTIONS = """
function laid(number: real = 7) {
  input a : [row, col]
  input b : [more, col]
  return (rows: concat(a, rename(b, more: row), number, along: row), moved: shift(a, over: row, by: 1, fill: number),
          back: shift(a, over: row, by: -2), far: shift(a, over: row, by: 9))
}
function path(start: int >= 0 = 1) {
  input turn : int[tick]
  input to   : int[node]
  repeat tick with here = start, count = 0, total = 0 {
    here  <- to[node: here] + turn - turn
    count <- count + 1
    total <- total + here / 2
    stop   = here
  }
  return (path: concat(start, stop, along: tick), count: count, total: total)
}
"""


def called(name, inputs, backend, **params):
    home = Module.of(Source("inline.gflow", FUNCTIONS))
    return drive(home, name, params, inputs, backend)


@BOTH
def test_concat_and_shift(backend):
    a, b = numpy.arange(6.0).reshape(3, 2), numpy.arange(10.0, 14.0).reshape(2, 2)
    found = called("laid", {"a": a, "b": b}, backend)
    numpy.testing.assert_array_equal(found["rows"], numpy.concatenate([a, b, [[7, 7]]]))
    numpy.testing.assert_array_equal(found["moved"], [[7, 7], a[0], a[1]])
    numpy.testing.assert_array_equal(found["back"], [a[2], [0, 0], [0, 0]])
    numpy.testing.assert_array_equal(found["far"], numpy.zeros((3, 2)))


@BOTH
def test_a_loop_along_data_carries_whole_numbers_and_reals(backend):
    found = called("path", {"turn": numpy.zeros(4, numpy.int64), "to": numpy.array([2, 0, 1])}, backend)
    assert found["path"].tolist() == [1, 0, 2, 1, 0] and found["path"].dtype.kind == "i"
    assert int(found["count"]) == 4 and found["count"].dtype.kind == "i"
    assert float(found["total"]) == 1.5


FRESH = """
projection noisy(noise: [tick, look]) {
  z ~ replay(noise, over: [tick, look])
  return grad + z
}
exchange looking over central {
  repeat k: 3 { g = grad(at: param, fresh: k) }
  return mean(sum(g, over: k), over: node)
}
pipeline looks {
  input noise : [tick, look]
  model x = free([entry: 1])
  flow x over star(2): 0 * sum(x, over: entry) -> backprop -> noisy(noise) -> looking() -> sgd(lr: 1)
  train 2 steps { every step { report x = x } }
}
"""


@BOTH
def test_every_fresh_look_has_a_draw_of_its_own(backend):
    noise = numpy.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    found = drive(Module.of(Source("inline.gflow", FRESH)), "looks", {}, {"noise": noise}, backend)
    numpy.testing.assert_allclose(found["x"].reshape(-1), [0, -111, -333])


DEFAULTED = """
function inner {
  input a : [row, col]
  input b : [row, place] = a
  return (sums: sum(b, over: place), all: a)
}
function outer {
  input x : [pair, time]
  found = inner(x)
  return (sums: found.sums, all: found.all)
}
"""


@BOTH
@pytest.mark.parametrize("name", ["inner", "outer"])
def test_a_default_made_of_another_input_has_the_axes_that_it_is_declared_with(name, backend):
    x = numpy.arange(6.0).reshape(2, 3)
    found = drive(Module.of(Source("inline.gflow", DEFAULTED)), name, {}, {"a" if name == "inner" else "x": x}, backend)
    numpy.testing.assert_array_equal(found["sums"], x.sum(1))
    numpy.testing.assert_array_equal(found["all"], x)

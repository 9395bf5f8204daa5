"""Loops with `until`, and draws in loops, on the reference and on torch: values, passes not made, derivatives, shapes."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.language.diagnostics import GradflowError, Mistake
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.verify import drivers

BOTH = pytest.mark.parametrize("backend", ["reference", "torch"])

LOOPS = """
function halved(most: int >= 0 = 10, least: real = 1) {
  input x : [row]
  repeat k: most with y = x, n = 0 until all(y < least) {
    y   <- y / 2
    n   <- n + 1
    seen = sin(y) + k
  }
  return (y: y, n: n, seen: seen, slope: gradient(sum(y^2) + sum(seen), of: x))
}
function each(most: int >= 0 = 10, least: real = 1) {
  input x : [row]
  repeat k: most with y = x, n = 0 until y < least {
    y   <- y / 2
    n   <- n + 1
    seen = sin(y) + k
  }
  return (y: y, n: n, seen: seen, slope: gradient(sum(y^2) + sum(seen), of: x))
}
function along(least: real = 1) {
  input x : [row, step]
  repeat step with total = 0, n = 0 until any(total > least) {
    total <- total + x
    n     <- n + 1
    seen   = total^2
  }
  return (total: total, n: n, seen: seen, slope: gradient(sum(total^2) + sum(seen), of: x))
}
function in_a_loop {
  input x : [row]
  repeat i: 4 with y = x, n = 0 until all(y < 1) {
    repeat j: 3 with z = y until all(z < 2) { z <- z / 2; n <- n + 1 }
    y <- z - 0.5
  }
  return (y: y, n: n)
}
function lazily(most: int >= 1 = 5) {
  input x     : [row]
  input place : int[row]
  repeat k: most with y = 0, n = 0 until n >= 2 { y <- x[row: place + n]; n <- n + 1 }
  return y
}
function drawing(most: int >= 1 = 3) {
  input x : [row]
  repeat k: most with y = 0, n = 0 until n >= 2 {
    u ~ uniform(0, 1, [x])
    v ~ uniform(0, 1, [])
    repeat j: 2 with z = 0 until z > 9 { w ~ uniform(0, 1, [x]); z <- z + sum(w) }
    n <- n + 1
    drawn  = u
    number = v
    inner  = w
  }
  return (drawn: drawn, number: number, inner: inner)
}
function drawing_along {
  input x : [row, step]
  repeat step with total = 0 { u ~ uniform(0, 1, [total]); total <- total + x; drawn = u }
  return drawn
}
function one { input like : [row]; u ~ uniform(0, 1, [like]); return u }
function two { input like : [row]; v ~ one(like); return v }
function drawn_twice {
  input x : [row]
  a ~ two(x)
  b ~ two(x)
  c ~ one(x)
  return (a: a, b: b, c: c)
}
function of_a_count(passes: int >= 0) {
  input x : [row]
  repeat k: passes with y = x { y <- y / 2; seen = y + k }
  return (y: y, seen: seen, total: sum(seen, over: k))
}
function chosen {
  input x     : [row]
  input count : int
  first = x[row: range([place: count])]
  repeat place with total = 1 { total <- total + first^2; seen = total }
  return (total: total, seen: seen, slope: gradient(total, of: x))
}
function asked_of_a_pass { input x : [row, step]; repeat step with y = 0 until x > 1 { y <- y + x }; return y }
function asked_for_a_number { input x : [row]; repeat k: 3 with y = x until sum(y) { y <- y / 2 }; return y }
"""


def called(name, inputs, backend, monkeypatch=None, **params):
    if monkeypatch is not None:
        lowered = drivers.lowered
        clocks = {("clock", "seed"): 3, ("clock", "tick"): 2}
        monkeypatch.setattr(drivers, "lowered", lambda region, which: lambda given: lowered(region, which)(given | clocks))
    return drivers.drive(Module.of(Source("inline.gflow", LOOPS)), name, params, inputs, backend)


@BOTH
@settings(deadline=None, max_examples=15)
@given(x=st.lists(st.floats(0.1, 30), min_size=1, max_size=4), most=st.integers(0, 6), least=st.floats(0.2, 5))
def test_nothing_changes_once_the_condition_holds(backend, x, most, least):
    found = called("halved", {"x": numpy.array(x)}, backend, most=most, least=least)
    start = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y, n, seen = start, 0, torch.zeros(most, len(x), dtype=torch.float64)
    while n < most and not bool((y < least).all()):
        y = y / 2
        seen = seen + torch.nn.functional.one_hot(torch.tensor(n), most)[:, None] * (torch.sin(y) + n)
        n += 1
    (slope,) = torch.autograd.grad((y**2).sum() + seen.sum(), start)
    assert int(found["n"]) == n
    for name, value in {"y": y, "seen": seen, "slope": slope}.items():
        numpy.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-12, atol=1e-15, err_msg=name)


@BOTH
def test_without_a_pass_what_is_bound_has_no_entries(backend):
    x = numpy.array([3.0, 1.0])
    found = called("of_a_count", {"x": x}, backend, passes=0)
    assert found["seen"].shape == (0, 2) and found["y"].tolist() == x.tolist() and found["total"].tolist() == [0, 0]
    assert called("of_a_count", {"x": x}, backend, passes=1)["seen"].tolist() == [[1.5, 0.5]]


@BOTH
@pytest.mark.parametrize("count", [0, 2])
def test_a_loop_runs_along_what_was_chosen_also_where_that_is_nothing(backend, count):
    x = numpy.array([3.0, -1.0, 2.0])
    found = called("chosen", {"x": x, "count": numpy.array(count)}, backend)
    assert found["seen"].tolist() == (1 + numpy.cumsum(x[:count] ** 2)).tolist() and found["total"] == 1 + (x[:count] ** 2).sum()
    assert found["slope"].tolist() == [*(2 * x[:count]), *(0 * x[count:])]


@BOTH
@settings(deadline=None, max_examples=10)
@given(x=st.lists(st.floats(0.1, 30), min_size=1, max_size=4), most=st.integers(0, 6))
def test_a_condition_with_axes_ends_each_entry_for_itself(backend, x, most):
    found = called("each", {"x": numpy.array(x)}, backend, most=most)
    for place, one in enumerate(x):
        alone = called("halved", {"x": numpy.array([one])}, backend, most=most)
        assert int(numpy.broadcast_to(found["n"], len(x))[place]) == int(alone["n"])
        for name in ("y", "slope"):
            numpy.testing.assert_allclose(found[name][place], alone[name][0], rtol=1e-12)
        numpy.testing.assert_allclose(found["seen"][:, place], alone["seen"][:, 0], rtol=1e-12)


@BOTH
@pytest.mark.parametrize("least", [-1.0, 0.5, 2.0, 99.0])
def test_a_loop_along_data_ends_too(backend, least):
    x = numpy.arange(8.0).reshape(2, 4) / 3
    found = called("along", {"x": x}, backend, least=least)
    totals = numpy.concatenate([numpy.zeros((2, 1)), x.cumsum(1)], 1)
    n = next((k for k in range(4) if (totals[:, k] > least).any()), 4)
    assert int(found["n"]) == n
    numpy.testing.assert_allclose(found["total"], totals[:, n] if n else found["total"])
    numpy.testing.assert_allclose(found["seen"], numpy.where(numpy.arange(4) < n, totals[:, 1:] ** 2, 0))
    later = numpy.where(numpy.arange(4) < n, totals[:, 1:], 0)[:, ::-1].cumsum(1)[:, ::-1]
    numpy.testing.assert_allclose(found["slope"], numpy.where(numpy.arange(4) < n, 2 * later + 2 * totals[:, [n]], 0))


@BOTH
def test_loops_in_loops(backend):
    y, n, passes = numpy.array([0.5, 3.0, 20.0]), 0, 0
    while passes < 4 and not (y < 1).all():
        z, inner = y, 0
        while inner < 3 and not (z < 2).all():
            z, n, inner = z / 2, n + 1, inner + 1
        y, passes = z - 0.5, passes + 1
    found = called("in_a_loop", {"x": numpy.array([0.5, 3.0, 20.0])}, backend)
    numpy.testing.assert_allclose(found["y"], y)
    assert int(found["n"]) == n > 3


@BOTH
def test_a_pass_that_is_not_made_is_not_computed(backend):
    """In a third pass the place would lie beyond the axis, which is an error."""
    x = numpy.array([1.0, 2.0])
    found = called("lazily", {"x": x, "place": numpy.array([0, 0])}, backend)
    assert found["value"].tolist() == [2.0, 2.0]
    with pytest.raises(Exception, match=r"index|out of"):
        called("lazily", {"x": x, "place": numpy.array([1, 1])}, backend)


def test_a_draw_in_a_loop_is_another_one_in_each_pass(monkeypatch):
    found = {backend: called("drawing", {"x": numpy.zeros(4)}, backend, monkeypatch) for backend in ("reference", "torch")}
    for name, value in found["reference"].items():
        numpy.testing.assert_array_equal(value, found["torch"][name])
        assert not value[2].any(), "the third pass is not made"
        made = value[:2].reshape(-1)
        assert len(set(made.tolist())) == made.size and 0 < made.min() <= made.max() < 1
    everything = numpy.concatenate([value[:2].reshape(-1) for value in found["reference"].values()])
    assert len(set(everything.tolist())) == everything.size
    rows = [called("drawing_along", {"x": numpy.zeros((2, 5))}, backend)["value"] for backend in ("reference", "torch")]
    numpy.testing.assert_array_equal(*rows)
    assert len(set(rows[0].reshape(-1).tolist())) == 10


def test_a_function_that_is_drawn_twice_draws_other_numbers(monkeypatch):
    found = {backend: called("drawn_twice", {"x": numpy.zeros(4)}, backend, monkeypatch) for backend in ("reference", "torch")}
    for name, value in found["reference"].items():
        numpy.testing.assert_array_equal(value, found["torch"][name])
    assert len(set(numpy.concatenate(list(found["reference"].values())).tolist())) == 12


@pytest.mark.parametrize("name, shape", [("asked_of_a_pass", (2, 3)), ("asked_for_a_number", (2,))])
def test_what_is_no_condition_of_the_whole_loop_is_refused(name, shape):
    with pytest.raises((Mistake, GradflowError), match="until"):
        called(name, {"x": numpy.ones(shape)}, "reference")

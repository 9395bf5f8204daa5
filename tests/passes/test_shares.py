"""`evenly`: shares are whole, add up to the amount, differ by at most one, and the first get more."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.methods.harness import evaluate_text

TEXT = """
function shared {
  input amount : int
  input among  : bool[prompt]
  input each   : int[row]
  return (
    some: evenly(amount, [prompt], where: among),
    all: evenly(amount, [prompt]),
    both: evenly(amount, [prompt, step: 3], where: among),
    rows: arrange(evenly(each, [step: 3]), [row, step]),
    nobody: evenly(amount, [prompt], where: amount < -1)
  )
}
"""


def parts(amount: int, entries: int) -> list[int]:
    """By dealing out one after the other."""
    return [len(range(i, amount, entries)) for i in range(entries)]


@pytest.mark.parametrize("backend", ["reference", "torch"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.lists(st.booleans(), min_size=1, max_size=7), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_shares_are_dealt_out_in_order(backend: str, amount: int, among: list[bool], each: list[int]) -> None:
    inputs = {"amount": numpy.array(amount), "among": numpy.array(among), "each": numpy.array(each)}
    found = evaluate_text(TEXT, "shared", {}, inputs, backend)
    some = numpy.zeros(len(among), int)
    some[among] = parts(amount, sum(among)) if any(among) else []
    both = numpy.zeros((len(among), 3), int)
    both[among] = numpy.reshape(parts(amount, 3 * sum(among)), (-1, 3)) if any(among) else both[among]
    numpy.testing.assert_array_equal(found["some"], some)
    numpy.testing.assert_array_equal(found["all"], parts(amount, len(among)))
    numpy.testing.assert_array_equal(found["both"], both)
    numpy.testing.assert_array_equal(found["rows"], [parts(n, 3) for n in each])
    numpy.testing.assert_array_equal(found["nobody"], 0 * some)
    assert found["some"].dtype.kind == "i"


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_choice_between_equal_numbers_has_its_axes(backend: str) -> None:
    """An option may make both sides equal; what is summed is as many numbers all the same."""
    text = "function f(low: int = 2, high: int = 2) { input x : bool[prompt]; return (total: sum(where(x, low, high)), each: where(x, low, high)) }"
    found = evaluate_text(text, "f", {}, {"x": numpy.array([True, False, True])}, backend)
    assert found["total"] == 6 and found["each"].tolist() == [2, 2, 2]
    assert found["each"].dtype.kind == "i"

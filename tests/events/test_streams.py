"""When what happens: the law of a stream, that it does not depend on how it is cut, and what a recorded one must be."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.events.streams import BLOCK, BadStream, EventStream, Record, recorded, waits_and_waves


def same(one: Any, other: Any) -> None:
    for name in ("time", "kind", "place"):
        numpy.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_rates_are_kept() -> None:
    """Counts over 4000 units of time within 6 standard deviations of their means: a false alarm in fewer than 1 of 10^7 runs."""
    rates = [numpy.array([1.0, 1.0, 0.0]), numpy.array([0.25, 4.0])]
    found = EventStream(7, rates, ("flow", 0)).until(4000.0)
    assert (numpy.diff(found.time) > 0).all() and found.time[-1] <= 4000
    for kind, own in enumerate(rates):
        counts = numpy.bincount(found.place[found.kind == kind], minlength=len(own))
        assert (numpy.abs(counts - 4000 * own) <= 6 * numpy.sqrt(4000 * own)).all()
    waits = numpy.diff(found.time)
    assert abs(waits.mean() * 6.25 - 1) < 6 / len(waits) ** 0.5
    assert abs((waits > 1 / 6.25).mean() - numpy.exp(-1)) < 6 * 0.5 / len(waits) ** 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3 * BLOCK), max_size=4))
def test_no_cut_changes_a_bit(seed: int, cuts: list[int]) -> None:
    rates = [numpy.ones(3), numpy.array([0.1, 2.0])]
    whole = EventStream(seed, rates).take(sum(cuts))
    stream = EventStream(seed, rates)
    start = 0
    for cut in cuts:
        same(stream.take(cut), whole.cut(start, start + cut))
        start += cut


def test_time_and_number_give_the_same_events() -> None:
    first, second = EventStream(3, [numpy.ones(5)]), EventStream(3, [numpy.ones(5)])
    pieces = [first.until(float(t)) for t in range(1, 40)]
    whole = second.take(sum(map(len, pieces)))
    numpy.testing.assert_array_equal(numpy.concatenate([piece.time for piece in pieces]), whole.time)
    assert second.take(1).time[0] > 39


def test_seeds_and_words_give_other_events() -> None:
    times = {EventStream(seed, [numpy.ones(2)], words).take(1).time[0] for seed in (0, 1) for words in ((), ("flow", 0), ("flow", 1))}
    assert len(times) == 6


@pytest.mark.parametrize(
    ("rates", "word"), [([[-1.0]], "-1"), ([[numpy.nan]], "nan"), ([[numpy.inf]], "inf"), ([[0.0], [0.0]], "stand still"), ([[]], "stand still")]
)
def test_rates_that_cannot_be(rates: Any, word: str) -> None:
    with pytest.raises(BadStream, match=word):
        EventStream(0, rates)


def test_a_clock_that_stands_still_never_ticks() -> None:
    found = EventStream(0, [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).take(3000)
    assert set(found.place.tolist()) == {1} and set(found.kind.tolist()) == {0, 1}


# ---- waves


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 60))
def test_waves_touch_different_nodes_and_keep_the_order_at_each(seed: int, nodes: int, count: int) -> None:
    random = numpy.random.default_rng(seed)
    time = numpy.cumsum(random.exponential(size=count))
    ends = numpy.full((count, 2), -1)
    for event in range(count):
        touched = random.permutation(nodes)[: random.integers(1, 3)]
        ends[event, : len(touched)] = touched
    last = random.uniform(-1, 0, nodes)
    before = last.copy()
    waits, levels = waits_and_waves(time, ends, last)
    for node in range(nodes):
        own = (ends == node).any(1)
        assert (numpy.diff(levels[own]) > 0).all()
        expected = numpy.diff(numpy.concatenate([[before[node]], time[own]]))
        numpy.testing.assert_array_equal(waits[ends == node], expected)
        assert last[node] == (time[own][-1] if own.any() else before[node])
    assert count == 0 or set(levels.tolist()) == set(range(levels.max() + 1))


# ---- recorded


def record(time: Any, ends: Any, mine: Any) -> Record:
    return Record(numpy.array(time, float), numpy.array(ends), numpy.array(mine, bool))


LINKS = {(0, 1): 0, (1, 2): 1}


def test_a_record_is_played_back() -> None:
    time, ends, own = [0.5, 1.0, 1.0, 3.0], [[2, -1], [1, 0], [0, -1], [1, 2]], [True, False, True, False]
    stream = recorded([record(time, ends, own), record(time, ends, numpy.logical_not(own))], 3, LINKS, [1, 2])
    first = stream.until(1.0)
    assert first.time.tolist() == [0.5, 1.0, 1.0] and first.kind.tolist() == [0, 1, 0] and first.place.tolist() == [2, 0, 0]
    rest = stream.take(5)
    assert len(rest) == 1 and rest.place.tolist() == [1]


@pytest.mark.parametrize(
    ("time", "ends", "word"),
    [
        ([1.0, 0.5], [[0], [1]], "never go back"),
        ([-1.0], [[0]], "at least 0"),
        ([numpy.nan], [[0]], "numbers"),
        ([1.0], [[3]], "node 3"),
        ([1.0], [[-1]], "node -1"),
    ],
)
def test_records_of_nodes_that_cannot_be(time: Any, ends: Any, word: str) -> None:
    with pytest.raises(BadStream, match=word):
        recorded([record(time, ends, [True] * len(time))], 3, LINKS, [1])


@pytest.mark.parametrize(("ends", "word"), [([[0, 2]], "0 and 2"), ([[1, 1]], "1 and 1"), ([[0]], "2 nodes")])
def test_records_of_links_that_cannot_be(ends: Any, word: str) -> None:
    with pytest.raises(BadStream, match=word):
        recorded([record([1.0], ends, [True])], 3, LINKS, [2])

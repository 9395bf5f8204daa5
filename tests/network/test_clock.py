"""Clocks against closed forms and computations by hand, and what must hold on every network."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.network import clock as c


def links(n: int, latency: Any = 0.1, bandwidth: Any = 1000.0, upload: Any = numpy.inf, download: Any = numpy.inf, compute: Any = 0.0) -> c.Links:
    def wide(value: Any, shape: tuple[int, ...]) -> Any:
        return numpy.broadcast_to(numpy.asarray(value, dtype=float), shape).copy()

    square = (n, n)
    return c.Links(wide(latency, square), wide(bandwidth, square), wide(upload, (n,)), wide(download, (n,)), wide(compute, (n,)), wide(0.0, (n,)))


def ring(n: int) -> Any:
    gap = (numpy.arange(n)[:, None] - numpy.arange(n)[None, :]) % n
    return (gap == 1) | (gap == n - 1)


# ---- closed forms


@pytest.mark.parametrize("n", [3, 4, 7])
def test_rounds_of_a_homogeneous_ring(n: int) -> None:
    """r (compute + latency + bytes / bandwidth) at every node."""
    clock = c.started(links(n, compute=0.25))
    for _ in range(5):
        clock = c.gossiped(c.computed(clock), ring(n), 300)
    assert clock.nodes == pytest.approx(numpy.full(n, 5 * (0.25 + 0.1 + 0.3)))


def test_a_shared_line_takes_as_long_as_all_that_goes_over_it() -> None:
    n, size = 5, 300
    clock = c.gossiped(c.started(links(n, bandwidth=1e9, upload=1000.0)), ~numpy.eye(n, dtype=bool), size)
    assert clock.nodes == pytest.approx(numpy.full(n, 0.1 + (n - 1) * size / 1000))


def test_the_center_waits_for_all_and_answers() -> None:
    clock = c.gathered(c.started(links(4, download=[600.0, numpy.inf, numpy.inf, numpy.inf])), 0, 100, 500)
    there = 0.1 + 100 / 200  # three share the center's download
    assert clock.nodes == pytest.approx([there, *[there + 0.1 + 0.5] * 3])


# ---- by hand


def test_gossip_on_a_path_by_hand() -> None:
    """0 - 1 - 2; node 1 computes for 1 s, the link 1 - 2 is slow."""
    latency = numpy.full((3, 3), 0.1)
    latency[1, 2] = latency[2, 1] = 2.0
    path = numpy.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    clock = c.computed(c.started(links(3, latency, compute=[0.0, 1.0, 0.0])))
    clock = c.gossiped(clock, path, [100, 200, 300])
    assert clock.nodes == pytest.approx([1.0 + 0.1 + 0.2, 0.0 + 2.0 + 0.3, 1.0 + 2.0 + 0.2])
    assert clock.seconds == pytest.approx(3.2)


def test_who_does_not_take_part_waits_for_the_center_and_sends_nothing() -> None:
    here = numpy.array([True, True, False, False])
    clock = c.gathered(c.computed(c.started(links(4, compute=[0.0, 2.0, 9.0, 0.0])), here=here), 0, 100, 200, here)
    assert clock.nodes == pytest.approx([2.2, 2.2 + 0.3, 2.2, 2.2])


def test_a_center_without_a_share_of_its_own() -> None:
    clock = c.gathered(c.started(links(3)), 0, 100, 100, numpy.array([False, True, False]))
    assert clock.nodes == pytest.approx([0.2, 0.4, 0.2])


def test_a_hop_and_a_stay() -> None:
    clock = c.hopped(c.started(links(3)), 0, 2, 500)
    assert clock.nodes == pytest.approx([0, 0, 0.6])
    assert (c.hopped(clock, 2, 2, 500).nodes == clock.nodes).all()


def test_an_event_moves_two_clocks_to_the_same_time() -> None:
    clock = c.Clock(links(3, bandwidth=[[1, 50, 1], [1000, 1, 1], [1, 1, 1]]), numpy.array([1.0, 4.0, 2.0]))
    later = c.event(clock, 0, 1, 100)
    assert later.nodes == pytest.approx([4 + 0.1 + 2, 4 + 0.1 + 2, 2])
    assert c.event(clock, 1, 1, 100) is clock


def test_nothing_is_heard_where_nobody_is_linked() -> None:
    clock = c.Clock(links(3), numpy.array([1.0, 4.0, 2.0]))
    assert (c.gossiped(clock, numpy.eye(3), 100).nodes == clock.nodes).all()


# ---- on every network


@st.composite
def cases(draw: Any) -> tuple[c.Links, c.Clock, Any, Any]:
    n = draw(st.integers(2, 5))

    def numbers(low: float, high: float, *shape: int) -> Any:
        count = int(numpy.prod(shape))
        return numpy.array(draw(st.lists(st.floats(low, high), min_size=count, max_size=count))).reshape(shape)

    made = c.Links(
        numbers(0, 2, n, n), numbers(1, 100, n, n), numbers(1, 100, n), numbers(1, 100, n), numbers(0, 3, n), numbers(0, 1, n)
    )  # fmt: skip
    heard = numpy.array(draw(st.lists(st.booleans(), min_size=n * n, max_size=n * n))).reshape(n, n)
    return made, c.Clock(made, numbers(0, 5, n)), heard, numbers(0, 500, n)


def every_step(clock: c.Clock, heard: Any, size: Any) -> list[c.Clock]:
    n = len(clock.nodes)
    return [
        c.computed(clock, 2), c.gossiped(clock, heard, size), c.gathered(clock, 0, size, float(size[0])),
        c.gathered(clock, n - 1, size, float(size[0]), heard[0]), c.hopped(clock, 0, 1, float(size[0])), c.event(clock, 0, 1, float(size[0])),
        c.gossiped(c.gathered(c.computed(clock), 0, size, 1.0, heard[0]), heard, size),
    ]  # fmt: skip


@given(cases())
@settings(max_examples=60, deadline=None)
def test_no_clock_goes_back_and_all_are_finite(case: Any) -> None:
    _, clock, heard, size = case
    for later in every_step(clock, heard, size):
        assert (later.nodes >= clock.nodes).all() and numpy.isfinite(later.nodes).all()


@given(cases(), st.integers(0, 4), st.integers(0, 4), st.floats(0, 10), st.floats(1, 4), st.floats(0, 300))
@settings(max_examples=100, deadline=None)
def test_a_worse_network_is_never_faster(case: Any, i: int, j: int, more: float, slower: float, bytes_: float) -> None:
    made, clock, heard, size = case
    i, j = i % made.nodes, j % made.nodes
    latency, bandwidth, upload, compute = made.latency.copy(), made.bandwidth.copy(), made.upload.copy(), made.compute.copy()
    latency[i, j] += more
    bandwidth[j, i] /= slower
    upload[j] /= slower
    compute[i] += more
    larger = size.copy()
    larger[j] += bytes_
    before = every_step(clock, heard, size)
    for links_, sizes in (
        (c.Links(latency, made.bandwidth, made.upload, made.download, made.compute, made.gradient), size),
        (c.Links(made.latency, bandwidth, upload, made.download, made.compute, made.gradient), size),
        (c.Links(made.latency, made.bandwidth, made.upload, made.download, compute, made.gradient), size),
        (made, larger),
    ):
        for one, other in zip(before, every_step(c.Clock(links_, clock.nodes), heard, sizes), strict=True):
            assert (other.nodes >= one.nodes - 1e-9 * (1 + one.nodes)).all()


@given(cases(), st.floats(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_later_start_is_a_later_end_by_no_more(case: Any, more: float) -> None:
    """Clocks that start later all by the same time end later by that time."""
    made, clock, heard, size = case
    for one, other in zip(every_step(clock, heard, size), every_step(c.Clock(made, clock.nodes + more), heard, size), strict=True):
        assert other.nodes == pytest.approx(one.nodes + more, abs=1e-9)

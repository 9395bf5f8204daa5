"""The live board and plain lines: chosen metrics, memory, a run that goes on, failures of what they are written to."""

import io
import re

from rich.console import Console

from gradflow.runtime.events import RunResumed, RunStarted, UnitDone
from gradflow.runtime.executor import execute
from gradflow.views import run as view
from tests.runtime.harness import LOCK, written
from tests.runtime.test_executor import QUADRATIC

STARTED = RunStarted(1, "0", "p", "p.gflow", "torch", "cpu", "float32", 0, 100, {}, {}, ({"unit": "steps"},))


def drawn(*events, only=None):
    console = Console(file=io.StringIO(), width=120)
    board = view.Board(console, only)
    for event in events:
        board.tell(event)
    console.print(board)
    return console.file.getvalue()


def unit(tick, **metrics):
    return UnitDone(tick, 0, tick + 1, 100, "steps", 1.0 / (tick + 1), metrics, 0.1, 640.0, "samples")


def test_the_board_shows_curves_rate_memory_and_what_is_left():
    text = drawn(STARTED, *(unit(tick, norm=float(tick)) for tick in range(20)))
    assert re.search(r"loss +0\.05 +█", text) and re.search(r"norm +19 +▁.*█", text)
    assert "640 samples/s" in text and "20/100" in text and re.search(r"memory +\d+\.\d\d GiB", text) and "left" in text


def test_only_chosen_metrics_are_shown():
    text = drawn(STARTED, unit(0, norm=1.0, skew=2.0), only=["norm"])
    assert "norm" in text and "skew" not in text and "loss" not in text
    console = Console(file=io.StringIO(), width=120)
    view.follow(execute(written(QUADRATIC)), "plain", console, None, ["loss"])
    assert "loss 3" in console.file.getvalue() and re.search(r"\bx\b", console.file.getvalue()) is None


def test_a_run_that_goes_on_begins_where_it_was():
    text = drawn(STARTED, RunResumed(60, "checkpoints/00000060", 70), unit(60))
    assert "61/100" in text and "goes on after 60 units" in text


def test_curves_hold_numbers_that_are_not_finite():
    history = view.History()
    for value in (1.0, float("nan"), 3.0, float("inf")):
        history.add(value)
    assert history.curve() == "▁?█?"


def test_json_tells_everything_whatever_is_chosen():
    out = io.StringIO()
    view.follow(execute(written(LOCK)), "json", out=out, only=["nothing"])
    assert "accuracy" in out.getvalue() and out.getvalue().startswith('{"event": "version"')


def test_what_is_known_of_the_gradient_is_shown() -> None:
    from tests.runtime.harness import of_kind, ran, shipped

    _, events = ran(shipped("methods/14_econtrol", "compressed_digits"), steps=1)
    started = of_kind(events, RunStarted)[0]
    assert started.gradients["flow1"][0] == "backprop: exact, dense, local"
    console = Console(width=100, file=io.StringIO())
    board = view.Board(console)
    board.tell(started)
    console.print(board)
    assert "backprop: exact, dense, local; econtrol: dense" in console.file.getvalue()  # type: ignore[attr-defined]

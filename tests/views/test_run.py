"""What a person sees: plain lines, JSON lines, the live board, curves."""

import io
import json

import pytest
from rich.console import Console

from gradflow.runtime.events import RunFailed, RunFinished, UnitDone
from gradflow.runtime.executor import Options, Run, execute
from gradflow.runtime.interrupts import stopping_on_interrupt
from gradflow.views import run as view
from tests.runtime.harness import LOCK, written
from tests.runtime.test_executor import DIVERGING, QUADRATIC


def shown(mode, events, **how):
    console = Console(file=io.StringIO(), width=100, **how)
    last = view.follow(events, mode, console)
    return last, console.file.getvalue()


def test_plain_has_one_line_a_report():
    last, text = shown("auto", execute(written(QUADRATIC)))
    lines = text.splitlines()
    assert isinstance(last, RunFinished)
    assert lines[0] == "quadratic  inline.gflow  torch on cpu, float32, seed 0"
    assert lines[1] == "steps 0: x 3 values, mean 0, loss 3" and lines[2].startswith("steps 5: x 3 values, mean 0.67")
    assert lines[-3].startswith("finished: 20 units in ") and lines[-1].startswith("learnt: loss 3 -> ")
    assert len(lines) == 1 + 5 + 3 and "\x1b" not in text


def test_plain_shows_the_loss_where_nothing_is_reported():
    text = written(QUADRATIC.replace("{ every 5 steps { report x = x; report loss = loss } }", ""))
    _, told = shown("plain", execute(text))
    losses = [line for line in told.splitlines() if "loss" in line]
    assert len(losses) == 10 and losses[-1].startswith("steps 20 of 20: loss ")


def test_quiet_says_nothing():
    assert shown("quiet", execute(written(QUADRATIC)))[1] == ""


def test_json_lines_begin_with_the_version():
    out = io.StringIO()
    view.follow(execute(written(LOCK), Options(steps=2)), "json", out=out)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert records[0]["event"] == "version" and records[0]["schema"] == 1
    assert [record["event"] for record in records[1:]] == ["run_started", "report", "unit_done", "unit_done", "report", "run_finished"]


def test_json_tells_a_failure_as_its_last_line():
    out = io.StringIO()
    with pytest.raises(RunFailed):
        view.follow(execute(written(DIVERGING)), "json", out=out)
    assert json.loads(out.getvalue().splitlines()[-1])["event"] == "run_failed"


def test_the_board_shows_what_runs_and_ends_with_what_was_learnt(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    last, text = shown("live", execute(written(LOCK)), force_terminal=True)
    assert isinstance(last, RunFinished)
    for part in ("lock", "inline.gflow", "12/12", "report accuracy", "ratio_mean", "tokens/s", "what was learnt", "->"):
        assert part in text, part


def test_no_color_is_honored(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    _, text = shown("live", execute(written(QUADRATIC)), force_terminal=True)
    assert "\x1b[3" not in text and "what was learnt" in text


def test_an_unknown_view():
    with pytest.raises(ValueError, match="no view"):
        view.follow(iter(()), "loud")


def test_a_history_keeps_the_whole_course():
    history = view.History()
    for i in range(1000):
        history.add(float(i))
    assert len(history.values) < 2 * view.POINTS and history.latest == 999
    curve = history.curve()
    assert view.POINTS <= len(curve) < 2 * view.POINTS and curve[0] == "▁" and list(curve) == sorted(curve)
    odd = view.History()
    for value in (1.0, float("nan"), 2.0):
        odd.add(value)
    assert odd.curve() == "▁?█"


@pytest.mark.parametrize("value, text", [(True, "true"), (3, "3"), (0.123456, "0.1235"), ([1.0, [2.0, 3.0]], "3 values, mean 2"), ([], "no values")])
def test_values_are_shown_short(value, text):
    assert view.shown(value) == text


def test_the_first_interrupt_asks_the_second_ends():
    import signal

    run = Run(written(QUADRATIC))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with interrupts ignored
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_interrupt(run):
        kinds = []
        for event in run.events():
            kinds.append(type(event).__name__)
            if isinstance(event, UnitDone) and event.t == 2:
                signal.raise_signal(signal.SIGINT)
                assert run.stopping
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
        assert kinds[-1] == "RunStopped"
    assert signal.getsignal(signal.SIGINT) is before

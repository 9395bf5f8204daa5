"""Loggers: TensorBoard's files as its own package reads them, trackers by their protocol, packages that are missing."""

import sys
from types import SimpleNamespace

import pytest

from gradflow.runtime.events import RunFailed, UnitDone
from gradflow.runtime.executor import Run
from gradflow.runtime.loggers import TensorBoard, logged, logger_of
from tests.runtime.harness import LOCK, written
from tests.runtime.interrupting import begun, resumed


def scalars(folder):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_what_a_run_told(tmp_path):
    pytest.importorskip("tensorboard")
    events = list(logged(Run(written(LOCK)).events(), "lock", [TensorBoard(tmp_path)]))
    found = scalars(tmp_path)
    units = [event for event in events if isinstance(event, UnitDone)]
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    assert [value for _, value in found["train/loss"]] == pytest.approx([unit.loss for unit in units], rel=1e-6)
    assert [step for step, _ in found["report/accuracy"]] == [0, 6, 12] and found["report/accuracy"][-1][1] > 0.9
    assert "speed/tokens" in found


def test_a_run_that_goes_on_takes_back_what_comes_again(tmp_path):
    pytest.importorskip("tensorboard")
    run, folder = begun(written(LOCK), tmp_path, "cut")
    board = folder.path / "tensorboard"
    for event in folder.record(logged(run.events(), "cut", [TensorBoard(board)])):
        if isinstance(event, UnitDone) and event.tick == 4:
            run.stop()
    run, again = resumed(written(LOCK), folder.path)
    list(again.record(logged(run.events(), "cut", [TensorBoard(board)]), run.resume))
    assert [step for step, _ in scalars(board)["train/loss"]] == list(range(1, 13)) and len(list(board.iterdir())) == 2


def test_a_tracker_is_told_by_its_protocol(monkeypatch):
    heard = []
    package = SimpleNamespace(
        init=lambda **how: heard.append(("init", how["name"], how["config"]["seed"])),
        log=lambda values, step: heard.append((step, sorted(values))), finish=lambda: heard.append("finish"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", package)
    list(logged(Run(written(LOCK)).events(), "mine", [logger_of("trackio", None)]))
    assert heard[0] == ("init", "mine", 0) and heard[-1] == "finish"
    assert heard[1] == (0, ["report/accuracy"]) and heard[2][0] == 1
    assert {"speed/seconds", "speed/tokens", "train/loss", "train/ratio_mean", "train/reward"} <= set(heard[2][1])


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunFailed, match="--log wandb needs the package wandb, which is not installed: pip install wandb"):
        logger_of("wandb", tmp_path)
    with pytest.raises(ValueError, match="there is no logger `slate`"):
        logger_of("slate", tmp_path)


def test_a_logger_that_cannot_write_is_said(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFailed, match="a logger fails: .*cannot be written"):
        list(logged(Run(written(LOCK)).events(), "lock", [TensorBoard(tmp_path / "file")]))

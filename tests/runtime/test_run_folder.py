"""Run folders and checkpoints: all files there, whole, readable, and nothing half-written."""

import json
import os
from datetime import datetime

import pytest
import torch

from gradflow.runtime import checkpoints
from gradflow.runtime.checkpoints import CheckpointError, read_checkpoint, write_checkpoint
from gradflow.runtime.embed import run, run_reports
from gradflow.runtime.events import SCHEMA, Report, RunFailed
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.run_folder import RunFolder
from tests.runtime.harness import LOCK, shipped, written
from tests.runtime.test_executor import DIVERGING, QUADRATIC

NOW = datetime(2026, 3, 4, 5, 6, 7)
KEPT = QUADRATIC.replace("report x = x;", "checkpoint;")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_run_leaves_a_complete_folder(tmp_path):
    program, options = written(KEPT), Options(seed=3)
    folder = RunFolder.create(program, options, tmp_path, artifact=b"plan", now=NOW)
    assert folder.path == tmp_path / "quadratic-20260304-050607"
    events = list(folder.record(Run(program, options, folder=folder.path).events()))
    assert {path.name for path in folder.path.iterdir()} == {
        "spec.gflow", "plan.gfp", "parameters.json", "versions.json", "metrics.jsonl", "summary.json", "checkpoints",
    }  # fmt: skip
    assert (folder.path / "spec.gflow").read_text() == KEPT and (folder.path / "plan.gfp").read_bytes() == b"plan"
    assert json.loads((folder.path / "parameters.json").read_text())["parameters"] == {"lr": 0.1}
    assert json.loads((folder.path / "parameters.json").read_text())["options"]["seed"] == 3
    assert json.loads((folder.path / "versions.json").read_text())["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert json.loads((folder.path / "parameters.json").read_text())["seeds"] == {"run": 3, "phases": [3]}
    hardware = json.loads((folder.path / "versions.json").read_text())["hardware"]
    assert hardware["cores"] == os.cpu_count() and hardware["processor"] and hardware["threads"] == torch.get_num_threads()
    told = lines(folder.path / "metrics.jsonl")
    assert told[0] == {"event": "version", "schema": SCHEMA, "gradflow": "0.1.0"}
    assert [record["event"] for record in told[1:3]] == ["run_started", "report"] and len(told) == 1 + len(events)
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["units"] == 20
    assert summary["learnt"]["loss"]["first"] == 3.0 and summary["learnt"]["loss"]["last"] < 0.01
    assert not [name for _, _, names in os.walk(folder.path) for name in names if name.endswith(".tmp")]


def test_parameters_that_are_no_numbers_are_named(tmp_path):
    folder = RunFolder.create(shipped("baselines/exchanges", "gossip_on_digits"), None, tmp_path)
    kept = json.loads((folder.path / "parameters.json").read_text())["parameters"]
    assert kept["form"] == "adapt_combine" and kept["graph"] == "ring"


def test_runs_of_one_second_get_numbers(tmp_path):
    made = [RunFolder.create(written(QUADRATIC), None, tmp_path, now=NOW).path.name for _ in range(3)]
    assert made == ["quadratic-20260304-050607", "quadratic-20260304-050607-2", "quadratic-20260304-050607-3"]


def test_a_failed_run_says_so_and_raises(tmp_path):
    folder = RunFolder.create(written(DIVERGING), None, tmp_path)
    with pytest.raises(RunFailed):
        list(folder.record(Run(written(DIVERGING)).events()))
    last = lines(folder.path / "metrics.jsonl")[-1]
    summary = json.loads((folder.path / "summary.json").read_text())
    assert last["event"] == "run_failed" and last["span"]["line"] == 6
    assert summary["status"] == "failed" and summary["message"] == last["message"]


def test_a_mistake_of_gradflow_itself_is_a_failure_of_the_run(tmp_path):
    folder = RunFolder.create(written(QUADRATIC), None, tmp_path)

    def broken():
        yield from list(Run(written(QUADRATIC)).events())[:4]
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(folder.record(broken()))
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["message"] == "gradflow failed: KeyError: 'x'"


def test_a_run_that_is_left_alone_has_a_summary_too(tmp_path):
    folder = RunFolder.create(written(QUADRATIC), None, tmp_path)
    stream = folder.record(Run(written(QUADRATIC)).events())
    next(event for event in stream if isinstance(event, Report))
    stream.close()
    assert json.loads((folder.path / "summary.json").read_text())["status"] == "abandoned"


# ---- checkpoints


def test_checkpoints_hold_parameters_states_and_counters(tmp_path):
    text = KEPT.replace("sgd(lr)", "adam(lr)")
    one = Run(written(text), folder=tmp_path)
    list(one.events())
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000015", "00000020"], "the last two"
    tensors, state = read_checkpoint(tmp_path / "checkpoints" / "00000020")
    assert torch.equal(tensors["param/x"], one.store.params["x"])
    assert {name for name in tensors if name.startswith("state/")} == {f"state/flow1/{plan.key}" for plan in one.program.phases[0].actions[0].states}
    assert all(torch.equal(tensors[f"state/{flow}/{key}"], value) for (flow, key), value in one.store.states.items())
    assert state["tick"] == 20 and state["clocks"]["executed"] == {"flow1": 20} and state["program"] == "quadratic"


def test_checkpoints_of_rollouts(tmp_path):
    text = LOCK.replace("report accuracy", "checkpoint; report accuracy")
    list(Run(written(text), folder=tmp_path).events())
    _, state = read_checkpoint(tmp_path / "checkpoints" / "00000012")
    assert state["clocks"]["visit"] == 12 * 6 and state["learnt"]["accuracy"][1] > 0.9


@pytest.mark.parametrize("place", range(4))
def test_a_write_that_fails_leaves_no_half_checkpoint(tmp_path, monkeypatch, place):
    write_checkpoint(tmp_path, 1, {"a": torch.ones(3)}, {"x": 1})
    calls = iter(range(100))
    real = os.fsync

    def failing(handle):
        if next(calls) == place:
            raise OSError("no space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, 2, {"a": torch.zeros(3)}, {"x": 2})
    monkeypatch.undo()
    for folder in (tmp_path / "checkpoints").iterdir():
        if folder.suffix != ".tmp":
            read_checkpoint(folder)
    write_checkpoint(tmp_path, 2, {"a": torch.zeros(3)}, {"x": 2})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000001", "00000002"]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(RunFailed, match="no checkpoint after 5 units: .*00000005.tmp. cannot be written: not a directory"):
        list(Run(written(KEPT), folder=tmp_path).events())


def test_damaged_checkpoints_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path, 1, {"a": torch.ones(3)}, {"x": 1})
    (folder / checkpoints.STATE).write_bytes(b"\xc1 damaged")
    with pytest.raises(CheckpointError, match="damaged: state.msgpack has 9 bytes"):
        read_checkpoint(folder)
    (folder / checkpoints.MANIFEST).write_text('{"version": 99}')
    with pytest.raises(CheckpointError, match="another version"):
        read_checkpoint(folder)
    (folder / checkpoints.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="manifest.json is not there"):
        read_checkpoint(folder)


# ---- from Python


def test_a_run_as_a_value(tmp_path):
    running = run(written(KEPT), folder=tmp_path, steps=10)
    learnt = running.finish()
    assert [t for t, _ in running.reports["loss"]] == [0, 5, 10] and learnt["loss"][1] < learnt["loss"][0]
    assert running.parameters("x")["value"].shape == (3,)
    (folder,) = tmp_path.iterdir()
    assert (folder / "summary.json").exists() and (folder / "checkpoints" / "00000010").is_dir()


def test_reports_stacked_along_time():
    found = run_reports(written(QUADRATIC), {}, "reference")
    assert found["x"].shape == (5, 3) and found["loss"].shape == (5,) and found["loss"][0] == 3

"""A run that goes on is the run that never stopped, bit for bit; what does not fit is refused in one sentence and changes nothing."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from gradflow.runtime import resume as resuming
from gradflow.runtime.checkpoints import checkpoints_of
from gradflow.runtime.events import CheckpointWritten, RunFailed, RunResumed, RunStopped, UnitDone
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.interrupts import stopping_on_interrupt
from gradflow.runtime.run_folder import RunFolder
from tests.runtime.harness import LOCK, of_kind, shipped, written
from tests.runtime.interrupting import assert_same_run, begun, last_tensors, resumed, stopped, told, whole

PHASES = """
pipeline phases {
  data  train, test = digits(batch: 64)
  model net = mlp(64, 16, 10, dropout: 0.25)
  flow net: cross_entropy(net(train.x), train.y) -> backprop -> adam(lr: 1e-3)
  train 3 steps (seed: 5) { every step { report accuracy = accuracy(net(test.x), test.y) }
    report early = accuracy(net(test.x), test.y) }
  train 1 epochs { every 10 steps { report accuracy = accuracy(net(test.x), test.y) }
    report late = accuracy(net(test.x), test.y) }
}
"""
PROGRAMS = {
    "two phases, dropout, final reports": lambda: written(PHASES),
    "rollouts in minibatches": lambda: written(LOCK),
    "exchange with compression": lambda: shipped("methods/14_econtrol", "compressed_digits"),
    "gossip": lambda: shipped("baselines/exchanges", "gossip_on_digits"),
    "low rank, a second model": lambda: shipped("baselines/optimizers", "galore_digits"),
    "objective with state and draws": lambda: shipped("methods/18_sapo", "locks"),
}
SHORT = {"exchange with compression": 12, "gossip": 12, "low rank, a second model": 12, "objective with state and draws": 4}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path, name):
    program, options = PROGRAMS[name](), {"steps": SHORT[name]} if name in SHORT else {}
    expected = whole(program, tmp_path, **options)
    run, folder = begun(program, tmp_path, "cut", **options)
    stopped(run, folder, 1)
    for after in (3, 5, 10**6):
        run, again = resumed(program, folder.path)
        stopped(run, again, after)
    assert_same_run(expected, folder.path)
    assert json.loads((folder.path / "summary.json").read_text())["learnt"] == json.loads((expected / "summary.json").read_text())["learnt"]
    losses = [record["loss"] for record in told(expected) if record["event"] == "unit_done"]
    assert len(set(losses)) == len(losses) > 3, "every unit has another loss"


def test_everything_that_moves_is_kept(tmp_path):
    program = written(PHASES)
    kept = last_tensors(whole(program, tmp_path))
    kinds = {name.partition("/")[0] for name in kept}
    assert {"param", "state", "random"} <= kinds
    states = {f"state/{action.flow}/{state.key}" for phase in Run(program).program.phases for action in phase.actions for state in action.states}
    assert {name for name in kept if name.startswith("state/")} == states and states


def test_without_a_state_the_numbers_would_differ(tmp_path):
    """The comparison can fail: an optimizer state that is lost shows."""
    program = written(PHASES)
    expected = whole(program, tmp_path)
    run, folder = begun(program, tmp_path, "cut")
    stopped(run, folder, 2)
    run, again = resumed(program, folder.path)
    state = next(
        name for name, value in run.resume.tensors.items() if name.startswith("state/") and value.is_floating_point() and value.abs().sum() > 0
    )
    run.resume.tensors[state].zero_()
    stopped(run, again, 10**6)
    with pytest.raises(AssertionError):
        assert_same_run(expected, folder.path)


def test_a_run_that_was_left_in_the_middle_goes_on_from_its_checkpoint(tmp_path):
    program = written(PHASES)
    expected = whole(program, tmp_path)
    run, folder = begun(program, tmp_path, "cut", save_every=0)
    for event in folder.record(run.events()):
        if isinstance(event, UnitDone) and event.tick == 2:
            break
    run, again = resumed(program, folder.path)
    stopped(run, again, 10**6)
    assert_same_run(expected, folder.path)


def test_no_line_of_the_metrics_appears_twice(tmp_path):
    program = written(PHASES)
    run, folder = begun(program, tmp_path, "cut", save_every=0)
    stopped(run, folder, 2)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "unit_done", "tick": 2, "loss": 0.5}\n{"event": "unit_d')
    run, again = resumed(program, folder.path)
    events = []
    for event in again.record(run.events(), run.resume):
        events.append(event)
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    ticks = [line["tick"] for line in lines if line["event"] == "unit_done"]
    assert ticks == [0, 1, 2, 3] and len(of_kind(events, RunResumed)) == 1
    assert [line["event"] for line in lines].count("run_started") == 1 and lines[0]["event"] == "version"


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    program = written(PHASES)
    expected = whole(program, tmp_path)
    run, folder = begun(program, tmp_path, "cut")
    for event in folder.record(run.events()):
        if isinstance(event, UnitDone):
            break
    run, notes = resuming.continued(resuming.reopened(folder.path), program, None)
    assert notes == [f"{folder.path} has no checkpoint yet: the run starts again from its beginning"]
    stopped(run, RunFolder(folder.path), 10**6)
    assert_same_run(expected, folder.path)


def test_checkpoints_come_by_time_too_and_the_last_two_stay(tmp_path):
    program = written(LOCK)
    run, folder = begun(program, tmp_path, "often", save_every=0)
    events = list(folder.record(run.events()))
    assert [event.tick for event in of_kind(events, CheckpointWritten)] == list(range(1, 13))
    assert [path.name for path in checkpoints_of(folder.path)] == ["00000011", "00000012"]
    run, folder = begun(program, tmp_path, "seldom", save_every=3600)
    assert [event.tick for event in of_kind(list(folder.record(run.events())), CheckpointWritten)] == [12], "the end is always kept"


def test_the_numbers_of_torch_itself_go_on(tmp_path):
    """For models of one's own that draw from torch's generator."""
    program = written(PHASES)
    torch.manual_seed(11)
    run, folder = begun(program, tmp_path, "cut")
    stopped(run, folder, 1)
    expected = torch.rand(3)
    torch.manual_seed(12)
    run, again = resumed(program, folder.path)
    stream = again.record(run.events(), run.resume)
    assert isinstance(next(event for event in stream if isinstance(event, RunResumed)), RunResumed)
    assert torch.equal(torch.rand(3), expected)
    stream.close()


# ---- refused


def snapshot_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def cut(tmp_path):
    run, folder = begun(written(LOCK), tmp_path, "cut")
    stopped(run, folder, 2)
    return folder.path


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"precision": "float64"}, "the precision is float64 and was float32"),
        ({"seed": 9}, "the seed is 9 and was 0"),
        ({"steps": 40}, "the counts of the `train` lines are 40 and was 12"),
        ({"optimize": False}, "`optimize` is False and was True"),
        ({"backend": "reference"}, "the backend is reference and was torch"),
    ],
)
def test_another_way_to_run_is_refused_and_named(cut, options, sentence):
    before = snapshot_of(cut)
    kept = resuming.reopened(cut)
    run, _ = resuming.continued(replace(kept, options=Options(**options)), written(LOCK), None)
    with pytest.raises(RunFailed, match="a run goes on only as it began: .*" + sentence.replace("`", ".")):
        list(RunFolder(cut).record(run.events(), run.resume))
    assert snapshot_of(cut) == before, "nothing is lost"


def test_another_device_is_refused(cut, monkeypatch):
    kept = resuming.reopened(cut)
    run, _ = resuming.continued(kept, written(LOCK), None)
    run.resume.state["how"]["device"] = "cuda"
    with pytest.raises(RunFailed, match="the device is cpu and was cuda"):
        list(run.events())


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda one: one.tensors.update({"param/policy": torch.zeros(3)}), r"`param/policy` is \[3\] of float32 there and \[.*\] of float32 here"),
        (lambda one: one.tensors.update({"param/policy": one.tensors["param/policy"].double()}), "of float64 there and"),
        (lambda one: one.tensors.pop("param/policy"), "it has no `param/policy`"),
        (lambda one: one.tensors.update({"param/other": torch.zeros(3)}), "it has a `param/other`, and the run has none"),
        (lambda one: one.state.pop("clocks"), "does not belong to this run: KeyError: 'clocks'"),
        (lambda one: one.state.update(clocks=[1]), "does not belong to this run: TypeError"),
        (lambda one: one.state.update(phase=7), "does not belong to this run: it has no phase 7"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(cut, change, said):
    before = snapshot_of(cut)
    run, folder = resumed(written(LOCK), cut)
    change(run.resume)
    with pytest.raises(RunFailed, match=said):
        list(folder.record(run.events(), run.resume))
    assert snapshot_of(cut) == before


def test_another_program_is_refused_by_its_parameters(tmp_path):
    text = "pipeline p(lr: real > 0 = 0.1, flat: int = 3) { model x = free(1.0)\n flow x: x^2 -> backprop -> sgd(lr)\n train 3 steps }"
    run, folder = begun(written(text), tmp_path, "cut")
    stopped(run, folder, 1)
    kept = resuming.reopened(folder.path)
    resuming.refuse_changes(kept, written(text))
    with pytest.raises(RunFailed, match=r"`lr` is 0\.2 and was 0\.1; leave the spec out"):
        resuming.refuse_changes(kept, written(text.replace("0.1", "0.2")))
    with pytest.raises(RunFailed, match=r"the spec is not what the run .* began with"):
        resuming.refuse_changes(kept, written(text.replace("x^2", "x^4")))
    from gradflow.plan.artifact import encode

    (folder.path / "plan.gfp").write_bytes(encode(written(text)))
    with pytest.raises(RunFailed, match=r"spec\.gflow: ~ .* -> .*; leave the spec out"):
        resuming.refuse_changes(kept, written(text.replace("x^2", "x^4")))
    with pytest.raises(RunFailed, match="its text is different, though not what it means"):
        resuming.refuse_changes(kept, written(text.replace("x^2 ->", "x^2  ->")))
    with pytest.raises(RunFailed, match="one of `p`, not of `q`"):
        resuming.refuse_changes(kept, written(text.replace("pipeline p", "pipeline q")))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFailed, match="there is no run at"):
        resuming.reopened(tmp_path / "nowhere")
    with pytest.raises(RunFailed, match="its run never began"):
        resuming.reopened(tmp_path)
    (tmp_path / "parameters.json").write_text('{"options": {"steps": -4}}')
    with pytest.raises(RunFailed, match="cannot be read"):
        resuming.reopened(tmp_path)


def test_two_processes_do_not_run_one_folder(cut):
    program = written(LOCK)
    run, first = resumed(program, cut)
    stream = first.record(run.events(), run.resume)
    next(stream)
    other, second = resumed(program, cut)
    with pytest.raises(RunFailed, match="another process is running"):
        next(second.record(other.events(), other.resume))
    stream.close()
    next(second.record(other.events(), other.resume))


# ---- signals


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_stops_with_a_checkpoint(tmp_path, number, code):
    run, folder = begun(written(LOCK), tmp_path, "cut")
    with stopping_on_interrupt(run) as interrupts:
        for event in folder.record(run.events()):
            if isinstance(event, UnitDone) and event.tick == 3:
                os.kill(os.getpid(), number)
    assert interrupts.code == code and event == RunStopped(4, True, event.seconds)
    assert [path.name for path in checkpoints_of(folder.path)] == ["00000004"]


def test_the_second_signal_ends_at_once(tmp_path):
    run, folder = begun(written(LOCK), tmp_path, "cut")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), stopping_on_interrupt(run) as interrupts:
        for event in folder.record(run.events()):
            if isinstance(event, UnitDone):
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.code == 143, "the first one counts"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert json.loads((folder.path / "summary.json").read_text())["status"] in ("abandoned", "stopped")

"""Runs that are stopped, killed or broken, and what they are compared with: the run that never was."""

import json
import os

import torch

from gradflow.plan.artifact import encode
from gradflow.runtime.checkpoints import read_checkpoint
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.resume import continued, reopened
from gradflow.runtime.run_folder import RunFolder

CLOCKS = ("seconds", "rate", "path")
OUTSIDE = ("tokens_per_second", "random/")  # speeds, and torch's own generator, which nobody seeds


def begun(program, parent, name, save_every=None, **options):
    """(a run, its new folder)."""
    chosen = Options(**options)
    folder = RunFolder.create(program, chosen, parent, encode(program), name=name)
    return Run(program, chosen, None, folder.path, save_every), folder


def whole(program, parent, **options):
    """The folder of a run that nothing interrupts."""
    run, folder = begun(program, parent, "whole", **options)
    list(folder.record(run.events()))
    return folder.path


def stopped(run, folder, after):
    """Runs until `after` units are done, or more where it ends sooner."""
    for event in folder.record(run.events(), run.resume):
        if isinstance(event, UnitDone) and event.tick + 1 >= after:
            run.stop()


def resumed(program, path, save_every=None):
    """(the run to go on with, its folder)."""
    run, _ = continued(reopened(path), program, save_every)
    return run, RunFolder(path)


def told(path):
    """The events of a run but for clocks, checkpoints and where it went on."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    kept = [record for record in records if record["event"] not in ("run_resumed", "checkpoint_written", "run_stopped")]
    return [{key: value for key, value in record.items() if key not in CLOCKS} for record in kept]


def last_tensors(path):
    """All that the last checkpoint keeps."""
    last = sorted(name for name in os.listdir(path / "checkpoints") if name.isdigit())[-1]
    return read_checkpoint(path / "checkpoints" / last)[0]


def assert_same_run(one, other):
    """The same bits in every tensor at the end, and the same events on the way."""
    first, second = last_tensors(one), last_tensors(other)
    assert first.keys() == second.keys() and any(name.startswith("param/") for name in first)
    for name, value in first.items():
        if any(part in name for part in OUTSIDE):
            continue
        assert value.dtype == second[name].dtype and torch.equal(value.reshape(-1).view(torch.uint8), second[name].reshape(-1).view(torch.uint8)), (
            name
        )
    assert told(one) == told(other)


def assert_goes_on(program, folder, *stops):
    """A run that is stopped after so many units, once or several times, and resumed, is the run that was not."""
    expected = whole(program, folder)
    run, kept = begun(program, folder, "cut")
    for after in stops:
        stopped(run, kept, after)
        run, kept = resumed(program, kept.path)
    list(kept.record(run.events(), run.resume))
    assert_same_run(expected, kept.path)

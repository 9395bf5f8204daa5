"""Every write of a run made to fail once, and checkpoints changed byte by byte: a sentence each time, and nothing that was whole is lost."""

import errno
import json
import os
import shutil
import tracemalloc

import pytest

from gradflow.cli.main import main
from gradflow.runtime import checkpoints, records
from gradflow.runtime.checkpoints import CheckpointError, checkpoints_of, read_checkpoint
from gradflow.runtime.events import RunFailed
from tests.runtime.damaging import damage
from tests.runtime.harness import LOCK, written
from tests.runtime.interrupting import assert_same_run, begun, resumed, stopped, whole

SMALL = """
pipeline small {
  model x = free([entry: 3])
  flow x: sum((x - 1)^2, over: entry) -> backprop -> adam(lr: 0.1)
  train 4 steps { every 2 steps { report x = x } }
}
"""
CALLS = ("open", "write", "fsync", "replace", "mkdir")


class Disk:
    """Counts the calls that change a disk below a folder, and has the k-th one fail."""

    def __init__(self, monkeypatch, failing, number):
        self.left, self.number, self.failed = failing, number, ""
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*arguments, **options):
            if (name == "write" and arguments[0] <= 2) or (name == "open" and not arguments[1] & os.O_CREAT):
                return real(*arguments, **options)
            self.left -= 1
            if self.left == 0:
                self.failed = name
                known = () if isinstance(arguments[0], int) else (str(arguments[0]),)  # as the system does: a name where it was given one
                raise OSError(self.number, os.strerror(self.number), *known)
            return real(*arguments, **options)

        return call


def run_once(monkeypatch, tmp_path, number, failing):
    """(what failed, exit code) of a run whose `failing`-th change of the disk fails."""
    with monkeypatch.context() as patch:
        disk = Disk(patch, failing, number)
        code = main(["run", str(tmp_path / "small.gflow"), "--out", str(tmp_path / "runs"), "--name", "cut", "--quiet", "--checkpoint-every", "0"])
    return disk.failed, code


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_every_write_that_fails_once(tmp_path, monkeypatch, capsys, number):
    spec, expected = tmp_path / "small.gflow", tmp_path / "whole"
    spec.write_text(SMALL)
    assert main(["run", str(spec), "--out", str(tmp_path), "--name", "whole", "--quiet", "--checkpoint-every", "0"]) == 0
    seen, place = [], tmp_path / "runs" / "cut"
    for k in range(1, 1000):
        shutil.rmtree(place.parent, ignore_errors=True)
        capsys.readouterr()
        failed, code = run_once(monkeypatch, tmp_path, number, k)
        said = capsys.readouterr().err
        if not failed:
            break
        seen.append(failed)
        assert code == 3 and "Traceback" not in said and os.strerror(number).lower() in said.lower(), (k, failed, said)
        assert "run failed: " in said and str(tmp_path) in said, "what and where"
        check_what_is_left(place, expected, capsys)
    assert code == 0 and set(seen) == set(CALLS) and len(seen) > 60, seen


def check_what_is_left(place, expected, capsys):
    """Readable always; and once the run has begun, it goes on to the same end."""
    if place.is_dir():
        assert records.read(place).state in ("empty", "failed", "finished", "died", "interrupted")
        assert main(["show", str(place)]) == 0
    capsys.readouterr()
    code = main(["run", "--resume", str(place), "--quiet"])
    said = capsys.readouterr().err
    if code:
        assert code == 3 and not (place / "metrics.jsonl").exists(), (code, said)
        assert "start a new run" in said or "there is no run" in said or "name the spec too" in said, said
    else:
        assert_same_run(expected, place)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, capsys):
    spec = tmp_path / "small.gflow"
    spec.write_text(SMALL)
    (tmp_path / "file").write_text("in the way")
    assert main(["run", str(spec), "--out", str(tmp_path / "file"), "--quiet"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("run failed: ") and "/file` cannot be used" in said and "choose another folder" in said


def test_a_failed_write_of_a_line_leaves_whole_lines(tmp_path, monkeypatch):
    run, folder = begun(written(SMALL), tmp_path, "cut")
    real = os.write

    def half(handle, content):
        if b'"unit_done"' in bytes(content) and b'"tick": 2' in bytes(content):
            monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
            return real(handle, bytes(content)[:7])
        return real(handle, content)

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(RunFailed, match="metrics.jsonl. cannot be written: no space left on device; make room on that disk; then go on with"):
        list(folder.record(run.events()))
    monkeypatch.undo()
    lines = (folder.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert all(line.endswith("\n") and json.loads(line) for line in lines)


# ---- damage


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run folder with two checkpoints, and the run that was never stopped."""
    parent = tmp_path_factory.mktemp("damage")
    expected = whole(written(LOCK), parent)
    run, folder = begun(written(LOCK), parent, "cut", save_every=0)
    stopped(run, folder, 5)
    return folder.path, expected


def test_damaged_checkpoints_are_refused_and_the_one_before_is_used(two):
    tracemalloc.start()
    refused, harmless = damage(two[0], 300, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 250 and harmless < 20 and peak < 16 << 20


def test_content_with_a_right_hash_is_still_checked(two, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "00000005"
    shutil.copytree(checkpoints_of(two[0])[-1], path)
    for name, content in (
        (checkpoints.STATE, b"\xdd\xff\xff\xff\xff"),
        (checkpoints.STATE, b"\x91" * 5000),
        (checkpoints.STATE, checkpoints.packed(6, {})),
        (checkpoints.STATE, b"\x01"),
        (checkpoints.TENSORS, b"\xff" * 64),
        (checkpoints.TENSORS, (5).to_bytes(8, "little") + b"{}   "),
    ):
        shutil.rmtree(path)
        shutil.copytree(checkpoints_of(two[0])[-1], path)
        (path / name).write_bytes(content)
        manifest = json.loads((path / checkpoints.MANIFEST).read_text())
        manifest["files"][name] = {"bytes": len(content), "sha256": checkpoints.hashlib.sha256(content).hexdigest()}
        (path / checkpoints.MANIFEST).write_text(json.dumps(manifest))
        try:
            tensors, _ = read_checkpoint(path)
        except CheckpointError:
            continue
        assert tensors == {}, "an empty file of tensors is one; that they are missing is said when they are put back"


def test_a_run_falls_back_and_says_so(two, tmp_path):
    path = tmp_path / "cut"
    shutil.copytree(two[0], path)
    newest = checkpoints_of(path)[-1]
    (newest / checkpoints.TENSORS).write_bytes((newest / checkpoints.TENSORS).read_bytes()[:-4])
    from gradflow.runtime.resume import continued, reopened

    _, notes = continued(reopened(path), written(LOCK), None)
    assert "is damaged: tensors.safetensors has" in notes[0] and "the one before it is used" in notes[0] and "goes on after 4 units" in notes[1]
    run, folder = resumed(written(LOCK), path)
    stopped(run, folder, 10**6)
    assert_same_run(two[1], path)


def test_a_run_without_a_whole_checkpoint_is_refused(two, tmp_path):
    path = tmp_path / "cut"
    shutil.copytree(two[0], path)
    for one in checkpoints_of(path):
        (one / checkpoints.MANIFEST).write_text("{")
    with pytest.raises(RunFailed, match="no checkpoint of .* can be used, so the run cannot go on: .*; start a new run"):
        resumed(written(LOCK), path)

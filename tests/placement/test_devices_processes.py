"""One model over devices, on real processes: torchrun's launcher, gloo, PyTorch's own collectives. Results are those of one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gradflow.runtime.checkpoints import CheckpointError, checkpoints_of, newest_checkpoint, read_checkpoint
from gradflow.runtime.shard_files import names_of, read_shards
from tests.placement.processes import forked, gradflow, same, tensors
from tests.runtime.harness import PIPELINES

WORDS = ["--quiet", "--precision", "float64"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    done = forked(folder, 1, "run", "devices:spread", "-p", "steps=12", *WORDS, "--name", "run")
    assert done.returncode == 0, done.stderr
    return folder / "runs/run"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_compute_what_one_does(one: Path, tmp_path: Path, count: int) -> None:
    many = forked(tmp_path, count, "run", "devices:spread", "-p", "steps=12", *WORDS, "--name", "run")
    assert many.returncode == 0, many.stderr
    same(one, tmp_path / "runs/run")
    found = tensors(tmp_path / "runs/run")
    assert all((found[name] - value).abs().max() < 1e-12 for name, value in tensors(one).items())


# ---- sharded parameters


def whole(run: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a checkpoint holds, its parts put together by one process."""
    checkpoint, refused = newest_checkpoint(run)
    assert checkpoint is not None and checkpoint.shards is not None, refused
    found = {name: torch.zeros_like(like[name]) for name in names_of(checkpoint.shards)}
    read_shards(checkpoint.shards, found, None, torch.device("cpu"))
    return found


@pytest.mark.parametrize("count", [2, 4])
def test_sharded_parameters_are_those_of_one_process(one: Path, tmp_path: Path, count: int) -> None:
    many = gradflow(tmp_path, "run", "devices:sharded", "-p", "steps=12", *WORDS, "--name", "run", "--nproc", str(count))
    assert many.returncode == 0, many.stderr
    wanted = tensors(one)
    found = whole(tmp_path / "runs/run", wanted)
    assert found.keys() == {name for name in wanted if name.startswith(("param/", "state/"))}
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-10, atol=1e-10)
    files = list((tmp_path / "runs/run").glob("checkpoints/00000012/shards/*.safetensors"))
    assert len(files) == count and all(file.stat().st_size < 1.2 * sum(one.stat().st_size for one in files) / count for file in files)


def cut(run: Path) -> None:
    """Leaves a run as if it had been stopped after its checkpoint in the middle."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    (run / "summary.json").write_text(json.dumps(json.loads((run / "summary.json").read_text()) | {"status": "stopped"}))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (4, 2)])
def test_checkpoints_are_read_by_other_numbers_of_processes(tmp_path: Path, before: int, after: int) -> None:
    text = (PIPELINES / "examples/devices.gflow").read_text().replace("every 20 steps { report", "every 6 steps { checkpoint; report")
    (tmp_path / "devices.gflow").write_text(text)
    words = ["devices.gflow:sharded", "-p", "steps=12", *WORDS]
    first = forked(tmp_path, before, "run", *words, "--name", "cut")
    assert first.returncode == 0, first.stderr
    cut(tmp_path / "runs/cut")
    again = forked(tmp_path, after, "run", "--resume", "cut", "--quiet")
    assert again.returncode == 0 and "goes on after 6 units" in again.stderr, again.stderr
    alone = forked(tmp_path, 1, "run", *words, "--name", "alone")
    assert alone.returncode == 0, alone.stderr
    wanted = tensors(tmp_path / "runs/alone")
    found = tensors(tmp_path / "runs/cut") if after == 1 else whole(tmp_path / "runs/cut", wanted)
    for name in (name for name in wanted if name.startswith(("param/", "state/"))):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-10)


def test_a_part_that_is_damaged_or_missing_is_refused(tmp_path: Path) -> None:
    done = forked(tmp_path, 2, "run", "devices:sharded", "-p", "steps=2", *WORDS, "--name", "run")
    assert done.returncode == 0, done.stderr
    folder = checkpoints_of(tmp_path / "runs/run")[-1]
    part = sorted((folder / "shards").iterdir())[1]
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="does not match its hash"):
        read_checkpoint(folder)
    part.unlink()
    with pytest.raises(CheckpointError, match="is not there"):
        read_checkpoint(folder)
    part.write_bytes(content)
    read_checkpoint(folder)
    (folder / "shards" / "other.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="nothing is said of shards/other"):
        read_checkpoint(folder)


AHEAD = """
projection ahead() {
  return grad(at: param - 0.1 * grad) + 0.5 * grad(at: param, fresh: 1)
}

pipeline looked() {
  data  train, test = digits(batch: 50)
  model net = mlp(64, 24, 10)
  model average = copy(net)
  average <- 0.9 * average + 0.1 * net
  flow net over devices(shard: parameters): cross_entropy(net(train.x), train.y) -> backprop -> ahead() -> (muon() on [row, col] | adamw())
  train 5 steps (seed: 0) { every 5 steps { report accuracy = accuracy(average(test.x), test.y); report size = norm(net) } }
}

pipeline words() {
  data  tasks  = combination_lock(prompts: 8, length: 2, vocabulary: 4)
  model policy = transformer(layers: 2, width: 32)
  samples ~ sample(policy, tasks, group: 8)
  live = score(policy, samples)
  flow policy over devices(shard: parameters): mean(0 - live.logp, over: [sample, token], where: live.mask) -> backprop -> clip_norm(1) -> adamw()
  train 2 rollouts (seed: 0, epochs: 2, minibatches: 2) { every 1 rollouts { report reward = mean(samples.reward, over: sample) } }
}
"""


@pytest.mark.parametrize(("pipeline", "options"), [("looked", []), ("words", []), ("words", ["--micro", "4"])])
def test_other_points_whole_matrices_blocks_and_micro_batches(tmp_path: Path, pipeline: str, options: list[str]) -> None:
    (tmp_path / "more.gflow").write_text(AHEAD)
    words = [f"more.gflow:{pipeline}", *WORDS]
    alone = forked(tmp_path, 1, "run", *words, "--name", "alone")
    assert alone.returncode == 0, alone.stderr
    three = forked(tmp_path, 3, "run", *words, *options, "--name", "three")
    assert three.returncode == 0, three.stderr
    assert "Warning" not in three.stderr
    wanted = tensors(tmp_path / "runs/alone")
    found = whole(tmp_path / "runs/three", wanted)
    assert "param/average" in found or pipeline == "words"
    for name in (name for name in wanted if name.startswith(("param/", "state/"))):
        value = found[name] if name in found else tensors(tmp_path / "runs/three")[name]
        torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")
    reports = [list(reported(tmp_path / "runs" / name)) for name in ("alone", "three")]
    assert len(reports[0]) == len(reports[1]) > 0
    for one_report, other in zip(*reports, strict=True):
        assert other == pytest.approx(one_report, rel=1e-9)


def reported(run: Path) -> Iterator[dict[str, float]]:
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "report":
            yield record["values"]

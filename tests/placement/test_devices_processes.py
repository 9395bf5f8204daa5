"""One model over devices, on real processes: torchrun's launcher, gloo, PyTorch's own collectives. Results are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.placement.test_processes import gradflow, same, tensors

WORDS = ["--quiet", "--precision", "float64"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    done = gradflow(folder, "run", "devices:spread", "-p", "steps=12", *WORDS, "--name", "run")
    assert done.returncode == 0, done.stderr
    return folder / "runs/run"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_compute_what_one_does(one: Path, tmp_path: Path, count: int) -> None:
    many = gradflow(tmp_path, "run", "devices:spread", "-p", "steps=12", *WORDS, "--name", "run", "--nproc", str(count))
    assert many.returncode == 0, many.stderr
    same(one, tmp_path / "runs/run")
    found = tensors(tmp_path / "runs/run")
    assert all((found[name] - value).abs().max() < 1e-12 for name, value in tensors(one).items())

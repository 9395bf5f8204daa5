"""Files to run commands on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gradflow.cli.main import main

GOOD = """update half(lr: real > 0 = 0.1) {
  doc "Half a gradient step."
  param <- param - lr / 2 * grad
}

pipeline valley(lr: real > 0 = 0.1) {
  doc "A parabola."
  model x = free(3.0)
  loss = x^2
  flow x: loss -> backprop -> half(lr: lr)
  train 5 steps (seed: 0) { every step { report x = x } }
}
"""
BAD = GOOD.replace("half(lr: lr)", "haalf(lr: lr)")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.gflow"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.gflow"
    path.write_text(BAD)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return command

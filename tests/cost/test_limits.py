"""`require memory`: what breaks it, what would bring it to fit, and who says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradflow.cli.main import main
from gradflow.cost.estimate import estimate
from gradflow.cost.limits import broken, limits_of
from gradflow.plan.artifact import decode, encode
from gradflow.plan.program import Program
from tests.plan.programs import of

SPEC = """pipeline p(budget: real = 4MB) {
  LIMIT
  data train, test = digits(BATCH)
  model net = mlp(64, 256, 256, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> adam(lr: 1e-3)
  train 2 steps (SETTINGS)
}
"""


def limited(limit: str, settings: str = "seed: 0", batch: str = "") -> Program:
    return of(SPEC.replace("LIMIT", limit).replace("SETTINGS", settings).replace("BATCH", batch))


def test_limits_are_read_from_the_text() -> None:
    (one,) = limits_of(limited("require memory < 4GB"))
    assert (one.bytes, one.sign, one.kind) == (4e9, "<", "require") and one.holds(4e9 - 1) and not one.holds(4e9)
    (other,) = limits_of(limited("prefer memory <= budget"))
    assert (other.bytes, other.kind) == (4e6, "prefer") and other.holds(4e6)
    assert not limits_of(limited("require budget < 5MB"))
    program = limited("require memory < 4GB")
    assert limits_of(decode(encode(program))) == limits_of(program)


def test_a_limit_that_holds() -> None:
    program = limited("require memory < 1GB")
    assert not broken(program, estimate(program))


def test_micro_batches_are_the_cheapest_change() -> None:
    program = limited("require memory < budget")
    (found,) = broken(program, estimate(program))
    assert found.code == "E0608" and found.severity == "error" and found.span.line == 2
    pieces = re.search(r"`micro: (\d+)` in the settings", found.fix)
    assert pieces is not None, found.fix
    mended = limited("require memory < budget", f"micro: {pieces[1]}")
    assert not broken(mended, estimate(mended))
    half = limited("require memory < budget", f"micro: {int(pieces[1]) // 2}")
    assert broken(half, estimate(half))


def test_a_smaller_batch_where_pieces_do_not_help() -> None:
    program = limited("require memory < 3MB", "micro: 32", "batch: 1024")
    (found,) = broken(program, estimate(program))
    batch = re.search(r"`batch: (\d+)` for `train` fits", found.fix)
    assert batch is not None, found.fix
    mended = limited("require memory < 3MB", "micro: 32", f"batch: {batch[1]}")
    assert not broken(mended, estimate(mended))


def test_nothing_fits() -> None:
    (found,) = broken(program := limited('prefer memory < 1.2MB, "small"'), estimate(program))
    assert found.code == "W0302" and found.severity == "warning" and found.message == "small" and found.fix.startswith("neither")


def test_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "p.gflow"
    spec.write_text(SPEC.replace("LIMIT", "require memory < budget").replace("SETTINGS", "seed: 0").replace("BATCH", ""))
    assert main(["check", str(spec)]) == 0  # parameters and states fit
    for words in (["plan", str(spec), "--machine", "laptop"], ["compile", str(spec), "-o", str(tmp_path / "p.gfp")], ["run", str(spec)]):
        capsys.readouterr()
        assert main(words) == 1, words
        assert "error[E0608]" in capsys.readouterr().err
    assert not (tmp_path / "p.gfp").exists()
    assert main(["plan", str(spec), "-p", "budget=100MB", "--machine", "laptop"]) == 0

"""`gradflow claim`: runs in processes of their own, the verdict on stdout, the record in its folder, failures and mistakes in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradflow.cli.main import main

SPEC = """
pipeline descent(lr: real > 0 = 0.1, bend: real = 0) {
  model x = free(1)
  flow x: x^2 + where(bend == 0, 0, log(-1 - x^2)) -> backprop -> sgd(lr)
  train 3 steps { every step { report x = x } }
}
claim faster {
  doc "A larger rate is nearer."
  ours   = descent(lr: 0.3, seeds: 2)
  theirs = descent(seeds: 2)
  expect mean(theirs.x - ours.x, over: seed) > 0
}
claim costs_something {
  ours = descent(seeds: 2)
  expect min(ours.seconds, over: seed) > 0
}
claim broken {
  ours = descent(bend: 1)
  expect ours.x > 0
}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "descent.gflow"
    path.write_text(SPEC)
    return path


def test_a_claim_is_judged_and_written_down(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claim", f"{spec}:faster", "--out", "found", "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("faster: holds\n  A larger rate is nearer.\n") and "each trains 3 steps" in out
    assert "t interval, 95%, 2 seeds" in out
    record = json.loads(Path("found/descent.json").read_text())
    entry = record["claims"]["faster"]
    assert entry["verdict"] == "holds" and entry["trials"]["ours"]["seeds"] == [0, 1]
    assert entry["trials"]["ours"]["reports"]["x"] == pytest.approx([0.4**3] * 2, rel=1e-4)
    assert not Path("runs").exists()


def test_a_claim_may_read_the_time_of_a_unit_which_others_do_not_keep(spec: Path) -> None:
    for name in ("faster", "costs_something"):
        assert main(["claim", f"{spec}:{name}", "--out", "found"]) == 0
    claims = json.loads(Path("found/descent.json").read_text())["claims"]
    assert claims["costs_something"]["verdict"] == "holds"
    assert [set(claims[name]["trials"]["ours"]["reports"]) for name in ("faster", "costs_something")] == [{"x"}, {"x", "seconds"}]


def test_a_run_that_fails_is_said_and_nothing_is_written(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claim", f"{spec}:broken", "--out", "found"]) == 3
    assert "error: ours, seed None: " in capsys.readouterr().err
    assert not Path("found").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "has no claim `nothing`; it has faster, costs_something, broken"),
        (("fastr",), "did you mean `faster`?"),
    ],
)
def test_a_claim_that_is_not_there(spec: Path, capsys: pytest.CaptureFixture[str], words: tuple[str], said: str) -> None:
    assert main(["claim", f"{spec}:{words[0]}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--seeds", "0"), ("--jobs", "0"), ("--confidence", "1")])
def test_options_out_of_range(spec: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]) -> None:
    assert main(["claim", str(spec), *option]) == 2
    assert "at least 1" in capsys.readouterr().err

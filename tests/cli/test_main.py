"""The command line as a whole: finding commands, exit codes, no tracebacks, and what is not imported."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradflow.cli import main as cli
from gradflow.passes.scope import standard_files
from tests.cli.conftest import Run

HEAVY = ("torch", "rich", "pydantic", "typer", "sklearn", "transformers")


def test_overview_and_version(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in cli.COMMANDS)
    assert run()[0] == 2
    code, out, _ = run("--version")
    assert code == 0 and out.startswith("gradflow ")


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0 and out.startswith(f"usage: gradflow {name}")


def test_unknown_commands_and_options_are_usage_errors_with_a_suggestion(run: Run) -> None:
    code, out, err = run("chek", "x.gflow")
    assert (code, out) == (2, "") and "did you mean `check`?" in err
    assert "gradflow check FILE" in run("x.gflow")[2]
    code, _, err = run("check", "x.gflow", "--formt", "json")
    assert code == 2 and "did you mean `--format`?" in err
    code, _, err = run("check", "x.gflow", "--form", "json")  # no abbreviations
    assert code == 2
    assert run("check")[0] == 2


def test_failures_are_sentences_unless_a_traceback_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch, good: Path) -> None:
    def broken(options: object) -> int:
        raise ZeroDivisionError("too small")

    monkeypatch.setattr("gradflow.cli.check.run", broken)
    code, out, err = run("check", good)
    assert (code, out) == (3, "") and "too small" in err and "Traceback" not in err and "--traceback" in err
    code, _, err = run("check", good, "--traceback")
    assert code == 3 and "Traceback" in err


def test_interrupted_before_anything_runs(run: Run, monkeypatch: pytest.MonkeyPatch, good: Path) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradflow.cli.check.run", interrupted)
    assert run("check", good)[0] == 130


def process(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *(["-c", code] if code else ["-m", "gradflow.cli.main"]), *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    "words", [("check",), ("fmt", "--check"), ("explain",), ("list", "stages"), ("plan", "--no-cost", "--format", "json"), ("methods",)]
)
def test_what_only_reads_specs_starts_light(good: Path, words: tuple[str, ...]) -> None:
    given = {"explain": "mean", "list": "models", "methods": "--format=json"}.get(words[0], str(good))
    code = f"import sys; from gradflow.cli.main import main; main(sys.argv[1:]); print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = process(*words, given, code=code)
    assert done.stderr.rstrip().endswith("[]"), done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    script = f"{sys.executable} -m gradflow.cli.main list | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_no_color_where_nobody_looks(bad: Path) -> None:
    assert "\x1b" not in process("check", str(bad)).stdout


def test_cold_start_of_check(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: machines differ."""
    lines = []
    for path in standard_files():
        began = time.perf_counter()
        done = process("check", str(path))
        lines.append(f"{path.stem:<24} {time.perf_counter() - began:.2f} s")
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    with capsys.disabled():
        print("\n" + "\n".join(lines))

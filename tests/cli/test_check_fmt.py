"""`check` and `fmt`: what they print where, and what they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from gradflow.language.format import format_source
from gradflow.language.source import Source
from tests.cli.conftest import BAD, GOOD, Run


def test_a_good_file_and_a_bad_one(run: Run, good: Path, bad: Path) -> None:
    code, out, err = run("check", good)
    assert (code, out) == (0, "") and "no errors" in err
    code, out, err = run("check", good, bad)
    assert code == 1 and "error[E0201]" in out and "did you mean `half`?" in out and err == ""


def test_formats(run: Run, bad: Path, good: Path) -> None:
    found = json.loads(run("check", bad, "--format", "json")[1])
    assert [d["code"] for d in found] == ["E0201"] and found[0]["line"] == 10
    assert run("check", bad, "--format", "concise")[1].startswith(f"{bad}:10:")
    assert json.loads(run("check", bad, "--format", "sarif")[1])["runs"][0]["results"][0]["ruleId"] == "E0201"
    assert run("check", bad, "--format", "github")[1].startswith("::error file=")
    assert json.loads(run("check", good, "--format", "json")[1]) == []
    assert run("check", bad, "--format", "xml")[0] == 2


def test_folders_names_and_nothing(run: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    assert run("check", tmp_path)[0] == 1
    assert run("check", "17_diffgrad")[0] == 0
    (tmp_path / "empty").mkdir()
    assert run("check", tmp_path / "empty")[0] == 2
    code, out, _ = run("check", "missing.gflow")
    assert code == 1 and "E0212" in out
    (tmp_path / "binary.gflow").write_bytes(b"\xff\xfe\x00")
    code, out, _ = run("check", tmp_path / "binary.gflow")
    assert code == 1 and "UTF-8" in out


def test_overrides_point_into_the_command_line(run: Run, good: Path) -> None:
    assert run("check", good, "-p", "lr=0.5")[0] == 0
    code, out, _ = run("check", good, "-p", "lr=-1")
    assert code == 1 and "<command line>:1:4" in out and "lr=-1" in out
    code, out, _ = run("check", good, "-p", "lr=0.5", "-p", "lrr=2")
    assert code == 1 and "did you mean `lr`?" in out and "lrr=2" in out
    assert run("check", good, "-p", "lr")[0] == 1


def test_fix_mends_and_says_so(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mend.gflow"
    path.write_text("function f(x: real) = x ** 2\n")
    os.chmod(path, 0o640)
    code, _, err = run("check", "--fix", path)
    assert code == 0 and "1 change made" in err
    assert path.read_text() == "function f(x: real) = x ^ 2\n" and path.stat().st_mode & 0o777 == 0o640
    assert run("check", "--fix", "17_diffgrad")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["mend.gflow"]


def test_fmt_changes_checks_and_shows(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "loose.gflow"
    loose = GOOD.replace("lr / 2", "lr/2").replace("x^2", "x ^ 2")
    path.write_text(loose)
    code, out, err = run("fmt", "--check", path)
    assert (code, out) == (1, f"{path}\n") and path.read_text() == loose
    code, out, _ = run("fmt", "--diff", path)
    assert code == 1 and "-  param <- param - lr/2 * grad" in out and path.read_text() == loose
    assert run("fmt", path)[0] == 0
    assert path.read_text() == format_source(Source("x", loose))
    assert run("fmt", "--check", path)[:2] == (0, "")


def test_fmt_leaves_what_does_not_parse(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.gflow"
    path.write_text("function f(x: real = x\n")
    code, out, err = run("fmt", path)
    assert code == 1 and out == "" and "error[E01" in err and path.read_text() == "function f(x: real = x\n"


def test_stdin() -> None:
    def piped(*words: str, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "gradflow.cli.main", *words], input=text, capture_output=True, text=True)

    done = piped("fmt", "-", text="function   f(x:real)=x*2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "function f(x: real) = x * 2\n", "")
    done = piped("check", "-", "--format", "concise", text=BAD)
    assert done.returncode == 1 and done.stdout.startswith("<stdin>:10:")

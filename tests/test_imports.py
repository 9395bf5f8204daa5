"""Starting is quick: neither the package nor `gradflow check` imports torch. And everything that is a package is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "sklearn", "transformers", "triton")


def imported(program: str, *words: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after a program."""
    tail = f"\nimport sys\nprint('imported:', *(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program + tail, *words], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_check_sees_torch() -> None:
    assert imported("import torch") == {"torch"}


def test_package() -> None:
    assert not imported("import gradflow")


@pytest.mark.parametrize("words", [["check", "17_diffgrad"], ["check", "pipelines"], ["explain", "adam"], ["list"]], ids=" ".join)
def test_command(words: list[str]) -> None:
    assert not imported("import sys\nfrom gradflow.cli.main import main\nassert main(sys.argv[1:]) == 0", *words)


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    tops = {"gradflow": ROOT / "gradflow", **{f"gradflow.{name}": ROOT / name for name in ("backends", "grammar", "pipelines")}}
    found = set()
    for name, folder in tops.items():
        for init in folder.glob("**/__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(folder).parts]))
    assert found <= set(settings["packages"])


def test_every_text_file_is_installed() -> None:
    """Files beside the code that the code reads: they must be named as package data."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    folders = {"gradflow": ROOT / "gradflow", "gradflow.backends": ROOT / "backends", "gradflow.grammar": ROOT / "grammar"}
    for name, folder in folders.items():
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix in (".toml", ".json", ".lark", ".gflow", ".txt"):
                parts = path.parent.relative_to(folder).parts
                patterns = data.get(".".join([name, *parts]), [])
                assert any(path.match(pattern) for pattern in patterns), path

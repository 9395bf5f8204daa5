"""Commands that tell: `list`, `explain`, `methods`, `verify`, `plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradflow.builtins.functions import BUILTINS
from gradflow.cli import methods
from gradflow.language.codes import PAGES
from gradflow.library.catalogue import catalogue
from gradflow.passes.scope import module, standard_files
from tests.cli.conftest import Run


def test_list_has_everything_once(run: Run) -> None:
    found = json.loads(run("list", "--format", "json")[1])
    names = [entry["name"] for entry in found if entry["kind"] not in ("pipeline", "claim")]
    assert set(BUILTINS) | set(catalogue()) <= set(names)
    defined = {d.name for path in standard_files() for d in module(path).tree.definitions}
    assert defined <= {entry["name"] for entry in found}


def test_list_by_kind(run: Run) -> None:
    code, out, err = run("list", "models")
    assert code == 0 and "mlp(widths.., act = relu" in out and "digits(" not in out and "names" in err
    assert {e["kind"] for e in json.loads(run("list", "stages", "--format", "json")[1])} <= {"estimator", "projection", "exchange", "update"}
    code, _, err = run("list", "stage")
    assert code == 2 and "did you mean `stages`?" in err
    assert all(len(line) <= 100 for line in run("list")[1].splitlines())


NAMES = ["adam", "sapo", "17_diffgrad", "17_diffgrad:valley", "mean", "mlp", "digits", "sample", "E0102", "backprop", "econtrol"]


@pytest.mark.parametrize("name", NAMES)
def test_explain(run: Run, name: str) -> None:
    code, out, err = run("explain", name)
    assert code == 0 and err == "" and name.rpartition(":")[2] in out


def test_explain_says_domains_defaults_and_text(run: Run) -> None:
    out = run("explain", "adam")[1]
    assert "beta1: real in [0, 1) = 0.9" in out and "m, v, peak = 0" in out and "arXiv:1412.6980" in out and "optimizers.gflow:" in out
    assert "param <- param" in out


@pytest.mark.parametrize("name", ["adem", "E9999", "W9999", "no such thing"])
def test_explain_of_nothing(run: Run, name: str) -> None:
    code, out, _ = run("explain", name)
    assert (code, out) == (2, "")


def test_explain_suggests(run: Run) -> None:
    assert "did you mean `adamw`?" in run("explain", "adamww")[2]


def test_every_code_has_a_page_that_prints(run: Run) -> None:
    for code in PAGES:
        status, out, _ = run("explain", code.lower())
        assert status == 0 and out.startswith(f"{code}: {PAGES[code].title}")


def test_methods_come_from_files(run: Run) -> None:
    code, out, err = run("methods", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and [row["name"] for row in rows] == sorted(path.stem for path in standard_files() if path.parent.name == "methods")
    assert all(row["title"] and row["parses"] for row in rows)
    assert run("methods")[1].splitlines()[0].split()[:2] == ["method", "spec"]


VECTORS = {
    "component": "18-sapo.gate",
    "cases": [
        {"name": "one", "params": {"tau": 1.0}, "inputs": {"ratio": {"shape": [2], "dtype": "float64", "data": [1.0, 2.0]}},
         "outputs": {"value": {"shape": [2], "dtype": "float64", "data": [2.0, 2.9242343145200196]}}, "rtol": 1e-6, "atol": 1e-9}
    ],
}  # fmt: skip


def test_verify_agrees_and_does_not(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "18-sapo.gate.json"
    path.write_text(json.dumps(VECTORS))
    code, out, _ = run("verify", "18-sapo.gate", path)
    assert code == 0 and "1 of 1 cases agree" in out
    assert json.loads(run("verify", "18-sapo.gate", path, "--format", "json")[1])["passed"] == 1
    path.write_text(json.dumps(VECTORS).replace("2.9242343145200196", "3.0"))
    code, out, _ = run("verify", "18-sapo.gate", path)
    assert code == 1 and "0 of 1 cases agree" in out and "one: value" in out


def test_verify_of_what_is_not_there(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text(json.dumps(VECTORS))
    assert run("verify", "18-sapo.gte", path)[0] == 1
    assert run("verify", "18-sapo.gate", tmp_path / "none.json")[0] == 2
    assert run("verify", "18-sapo.gate", path, "--backend", "abacus")[0] == 2
    for text in ("{", "[]", '{"cases": []}', '{"cases": [1]}'):
        path.write_text(text)
        assert run("verify", "18-sapo.gate", path)[0] == 2


def test_records_count_until_something_changes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "18-sapo.gate.json"
    path.write_text(json.dumps(VECTORS))
    spec = next(p for p in standard_files() if p.stem == "18_sapo")
    assert not methods.recorded(path, spec)
    assert run("verify", "18-sapo.gate", path, "--record")[0] == 0
    assert methods.recorded(path, spec)
    path.write_text(path.read_text() + " ")
    assert not methods.recorded(path, spec)


def test_plan(run: Run, good: Path, bad: Path) -> None:
    code, out, err = run("plan", good)
    assert code == 0 and err == "" and "half" in out and "train 5 steps" in out
    assert json.loads(run("plan", f"{good}:valley", "--format", "json")[1])["name"] == "valley"
    code, out, err = run("plan", bad)
    assert code == 1 and out == "" and "E0201" in err
    assert run("plan", f"{good}:none")[0] == 1
    assert run("plan", good, "-p", "lr=0")[0] == 1

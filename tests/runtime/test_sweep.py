"""Sweeps: commas, cells, names, and the table's numbers."""

import json
import math

import pytest

from gradflow.runtime.sweep import Cell, cells_of, results_of, rows_of, values_of


@pytest.mark.parametrize(
    "text, values",
    [
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        ("adam(lr: 1e-3, beta1: 0.9)", ["adam(lr: 1e-3, beta1: 0.9)"]),
        ("adam(lr: 1, eps: 2), sgd(lr: 3)", ["adam(lr: 1, eps: 2)", "sgd(lr: 3)"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ('"a,b",c', ['"a,b"', "c"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ('"(",")"', ['"("', '")"']),
        ("topk(10%)", ["topk(10%)"]),
        ("", [""]),
    ],
)
def test_only_commas_outside_of_brackets_and_quotes_separate(text, values):
    assert values_of(text) == values


def test_one_value_is_no_sweep():
    assert cells_of([], None) is None
    assert cells_of(["lr=0.1", "rule=adam(lr: 1, eps: 2)"], None) is None
    assert cells_of(["nonsense"], None) is None, "left to the checker, as it is"


def test_cells_are_the_product_in_order():
    cells = cells_of(["lr=1,2", "rule=f(a: 1, b: 2)", "beta=0.9, 0.99"], 2)
    assert [cell.title for cell in cells] == [
        f"lr={lr}, beta={beta}, seed {seed}" for lr in "12" for beta in ("0.9", "0.99") for seed in (0, 1)
    ]  # fmt: skip
    assert cells[3].overrides == ("lr=1", "rule=f(a: 1, b: 2)", "beta=0.99") and cells[3].point == (("lr", "1"), ("beta", "0.99"))
    assert [cell.seed for cell in cells_of([], 3)] == [0, 1, 2]
    assert len({cell.folder(number) for number, cell in enumerate(cells)}) == 8


def test_names_of_folders_are_safe():
    name = Cell((), (("rule", "../a b/'c'\0" + "x" * 300),), None).folder(7)
    assert name.startswith("007-rule=..") and "/" not in name and " " not in name and len(name) <= 100


def left(path, status, **learnt):
    path.mkdir()
    (path / "summary.json").write_text(json.dumps({"status": status, "learnt": {name: {"first": 0, "last": last} for name, last in learnt.items()}}))
    return path


def test_rows_are_means_and_deviations_of_those_that_finished(tmp_path):
    cells = cells_of(["lr=1,2"], 3)
    folders = [
        left(tmp_path / "a", "finished", x=1.0, y=[1, 2]), left(tmp_path / "b", "finished", x=3.0), left(tmp_path / "c", "failed", x=100.0),
        left(tmp_path / "d", "finished", x="nan"), left(tmp_path / "e", "stopped", x=4.0), tmp_path / "never",
    ]  # fmt: skip
    first, second = rows_of(cells, folders)
    assert (first.finished, first.runs) == (2, 3) and dict(first.metrics) == {"x": (2.0, pytest.approx(math.sqrt(2)))}
    assert (second.finished, second.runs) == (1, 3) and math.isnan(second.metrics["x"][0]) and second.metrics["x"][1] is None
    assert results_of(folders[2]) is None

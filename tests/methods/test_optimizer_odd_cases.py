"""Update rules where options and shapes are odd: means that never move, matrices without rows, bases by default, gradients that are not there."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate

from .policy_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def steps(shape: tuple[int, ...], count: int = 3) -> dict[str, numpy.ndarray]:
    r = numpy.random.default_rng(3)
    return {"param_0": r.normal(size=shape), **{f"grad_{k}": r.normal(size=shape) for k in range(count)}}


@backends
def test_means_that_never_move_leave_adadelta_the_gradient(backend: str) -> None:
    inputs = steps((3,))
    found = evaluate("00-optimizer-baselines.adadelta", {"rho": 1.0, "lr": 0.1}, inputs, backend)
    same(found["param_3"], inputs["param_0"] - 0.1 * sum(inputs[f"grad_{k}"] for k in range(3)))


@backends
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("side", ["std", "full"])
def test_a_matrix_without_entries_has_no_subspace(backend: str, shape: tuple[int, int], side: str) -> None:
    found = evaluate("00-optimizer-baselines.galore_adamw", {"rank": 2, "proj_type": side}, steps(shape), backend)
    assert tuple(found["param_3"].shape) == shape


@backends
@pytest.mark.parametrize(("shape", "side", "basis"), [((5, 4), "auto", "dct3"), ((4, 5), "auto", "dct2"), ((5, 4), "left", "dct2")])
def test_the_basis_of_trion_is_by_default_that_of_its_side(backend: str, shape: tuple[int, int], side: str, basis: str) -> None:
    params: dict[str, Any] = {"rank": 2, "lr": 0.1, "side": side}
    inputs = steps(shape)
    found = evaluate("11-dct-lowrank.trion", params, inputs, backend)
    other = evaluate("11-dct-lowrank.trion", params | {"basis": {"dct2": "dct3", "dct3": "dct2"}[basis]}, inputs, backend)
    for name, value in evaluate("11-dct-lowrank.trion", params | {"basis": basis}, inputs, backend).items():
        same(found[name], value)
    assert not torch.allclose(found["param_3"], other["param_3"])


@backends
def test_a_zero_gradient_keeps_the_columns_and_the_parameter(backend: str) -> None:
    inputs = steps((5, 4)) | {"grad_0": numpy.zeros((5, 4)), "grad_2": numpy.zeros((5, 4))}
    found = evaluate("11-dct-lowrank.dct_adamw", {"rank": 2, "lr": 0.1}, inputs, backend)
    same(found["param_1"], inputs["param_0"])
    assert found["indices_1"].tolist() == [0, 1] and found["indices_3"].tolist() == found["indices_2"].tolist()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"grad_0": [1.0]}, "`param_0` is missing"),
        ({"param_0": [1.0], "grad_1": [1.0]}, "`grad_0` is missing"),
        ({"param_0": [1.0], "grad_0": [1.0, 2.0]}, "`grad_0` is no gradient of this parameter"),
    ],
)
def test_what_is_missing_is_named(inputs: dict[str, list[float]], message: str) -> None:
    with pytest.raises(GradflowError, match=message):
        evaluate("00-optimizer-baselines.sgd", {}, inputs)


def test_the_rank_of_lora_is_that_of_its_factors() -> None:
    r = numpy.random.default_rng(1)
    shapes = {"x": (2, 3), "W0": (4, 3), "A": (2, 3), "B": (4, 2), "grad_y": (2, 4)}
    inputs = {name: r.normal(size=shape) for name, shape in shapes.items()}
    found, same_rank = (evaluate("00-optimizer-baselines.lora", {"alpha": 3.0, **more}, inputs) for more in ({}, {"r": 2}))
    same(found["y"], inputs["x"] @ found["W_merged"].numpy().T)
    same(found["y"], same_rank["y"])
    with pytest.raises(GradflowError, match="A has r rows"):
        evaluate("00-optimizer-baselines.lora", {"alpha": 3.0, "r": 4}, inputs)

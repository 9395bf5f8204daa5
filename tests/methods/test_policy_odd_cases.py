"""Odd inputs of the policy components: whole numbers, no rows and no tokens, equal branches, ratios beyond floating point; odd files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from gradflow.verify import evaluate, verify_file

from .policy_cases import BASE, component, same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
LOSSES = [f"{BASE}.policy_loss", "18-sapo.loss", "29-gppo.loss", "29-gppo.general", "31-ngrpo.loss"]


def record(logp: numpy.ndarray, old: numpy.ndarray, mask: Any = None) -> dict[str, numpy.ndarray]:
    """All that any of the losses asks for."""
    rows = len(logp)
    signs = 1 - 2 * (numpy.arange(rows) % 2)
    mask = numpy.ones(logp.shape, bool) if mask is None else mask
    parts = {"reward": (signs + 1) // 2, "group": numpy.zeros(rows, int), "correct": signs > 0}
    return {"logp": logp, "logp_old": old, "logp_ref": old, "mask": mask, "advantage": signs, **parts}


def asked(name: str, values: dict[str, Any]) -> dict[str, Any]:
    extra = {"31-ngrpo.loss": ["reward", "group"], "29-gppo.general": ["advantage", "correct"], f"{BASE}.policy_loss": ["advantage", "logp_ref"]}
    return {key: values[key] for key in ("logp", "logp_old", "mask", *extra.get(name, ["advantage"]))}


@backends
@pytest.mark.parametrize("name", LOSSES)
def test_whole_numbers_have_the_gradient_of_real_ones(name: str, backend: str) -> None:
    whole = record(numpy.array([[-1, -2, 0], [-3, 0, -1]]), numpy.array([[-1, -1, 0], [-3, -1, -1]]), numpy.array([[1, 1, 0], [1, 1, 1]]))
    real = {key: value if key == "group" else value.astype(float) for key, value in whole.items()}
    found, expected = (evaluate(name, {}, asked(name, values), backend) for values in (whole, real))
    assert sorted(found) == sorted(expected)
    assert float(expected["grad_logp"].abs().max()) > 0.1
    for key in (key for key in expected if key == "grad_logp" or not key.startswith("grad_")):
        assert found[key].dtype == expected[key].dtype
        same(found[key], expected[key])


@backends
def test_derivatives_inside_a_function_too(backend: str) -> None:
    logp = numpy.array([[-1, -2], [0, 0]])
    same(component("kl", {"logp": logp, "logp_ref": 0 * logp}, backend, kl="k2")["grad_logp"], logp)
    same(evaluate("18-sapo.gate", {}, {"ratio": numpy.array([1, 0])}, backend)["weight"], [1, 4 * 0.2689414213699951 * 0.7310585786300049])
    values = {"reward_tok": numpy.array([[0, 1]]), "values": numpy.array([[1, 0]]), "mask": numpy.array([[True, True]])}
    assert all(found.is_floating_point() for found in component("gae", values, backend, whiten=False).values())


@backends
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("name", LOSSES)
def test_without_rows_or_tokens_there_is_no_loss(name: str, shape: tuple[int, int], backend: str) -> None:
    found = evaluate(name, {}, asked(name, record(numpy.zeros(shape), numpy.zeros(shape))), backend)
    assert float(found["loss"]) == 0 and found["grad_logp"].shape == shape


@backends
def test_without_rows_nobody_is_credited(backend: str) -> None:
    inputs = {"reward": numpy.zeros(0), "group": numpy.zeros(0, int)}
    for estimator in ("grpo", "rloo"):
        assert component("advantage", inputs, backend, estimator=estimator)["advantage"].shape == (0,)
    for name in (f"{BASE}.group_filter", "31-ngrpo.group_filter"):
        assert evaluate(name, {}, inputs, backend)["keep"].shape == (0,)
    assert evaluate("31-ngrpo.advantage", {}, inputs, backend)["advantage"].shape == (0,)


@backends
def test_where_two_branches_are_equal_the_gradient_is_shared(backend: str) -> None:
    """A band of no width keeps the token on it; at the dual bound itself half of a bad token's gradient is left."""
    here = {"logp": numpy.zeros((1, 2)), "logp_old": numpy.zeros((1, 2)), "mask": numpy.ones((1, 2)), "advantage": numpy.array([[1.0, -1.0]])}
    for name in (f"{BASE}.policy_loss", "29-gppo.loss"):
        same(evaluate(name, {"eps_low": 0.0, "eps_high": 0.0}, here, backend)["grad_logp"], [[-0.5, 0.5]])
        same(evaluate(name, {"dual_clip_c": 1.0}, here, backend)["grad_logp"], [[-0.5, 0.25]])


@backends
def test_ratios_beyond_floating_point_are_held(backend: str) -> None:
    """Log ratios of 10,000 either way, for good, bad, and neither: within the bound of 20 all is finite, and no gradient is left."""
    logp = 1e4 * numpy.array([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
    credit = numpy.array([[1.0, 1.0, -1.0, -1.0, 0.0, 0.0]])
    inputs = {"logp": logp, "logp_old": 0 * logp, "mask": numpy.ones_like(logp), "advantage": credit}
    for name in (f"{BASE}.policy_loss", "18-sapo.loss"):
        found = evaluate(name, {}, inputs, backend)
        assert numpy.isfinite(float(found["loss"])) and not found["grad_logp"].any()


def test_files_may_write_what_json_cannot_and_one_bad_tensor_fails_its_case_alone(tmp_path: Path) -> None:
    def case(name: str, data: Any, shape: Any, kind: str = "float64", loss: Any = 1.5) -> dict[str, Any]:
        mask = {"shape": [1, 3], "dtype": "bool", "data": [True, True, False]}
        inputs = {"loss_mat": {"shape": shape, "dtype": kind, "data": data}, "mask": mask}
        return {"name": name, "params": {}, "inputs": inputs, "outputs": {"loss": {"shape": [], "dtype": "float64", "data": [loss]}}}

    wide = [1, 3]
    cases = [
        case("words", [1, 2, "NaN"], wide),
        case("infinite", [1, "Infinity", "-inf"], wide, loss="inf"),
        case("half", [1, 2, 3], wide, "bfloat16"),
        case("short", [1, 2], wide),
        case("odd", [1, 2, 3], wide, "complex0"),
    ]
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"component": f"{BASE}.aggregate", "cases": cases}))
    verdict = verify_file(path)
    assert [(failure.case, failure.output) for failure in verdict.failures] == [("short", "loss_mat"), ("odd", "loss_mat")]
    assert all("shape, dtype, data" in failure.message for failure in verdict.failures)

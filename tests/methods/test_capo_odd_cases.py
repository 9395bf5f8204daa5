"""CAPO where shapes and values are odd: moments without steps and steps without moments, ids where no token is, no rows, ratios beyond any float."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate, verify_file

from .policy_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
PARAMS = {"lr": 0.1, "tau_H": 0.05, "tau_F": 0.01, "symmetric": True, "vocab": 5}


def rollout(rows: int = 2, tokens: int = 3) -> dict[str, numpy.ndarray]:
    r = numpy.random.default_rng(7)
    ids = r.uniform(size=(rows, tokens, 5)).argsort(-1)[..., :3]
    return {
        "hidden": r.normal(size=(rows, tokens, 2)), "topk_logits": r.normal(size=(rows, tokens, 3)), "topk_ids": ids,
        "actions": r.integers(0, 5, (rows, tokens)), "advantage": r.normal(size=rows), "mask": numpy.ones((rows, tokens)),
    }  # fmt: skip


def curvature(inputs: dict[str, Any], backend: str = "reference", **params: Any) -> dict[str, torch.Tensor]:
    return evaluate("07-capo.curvature", {**PARAMS, **params}, inputs, backend)


@backends
@pytest.mark.parametrize("t", [0, 7])
def test_without_moments_adam_is_plain_whatever_the_step(backend: str, t: int) -> None:
    plain, adam = (curvature(rollout(), backend, optimizer=one, t=t) for one in ("sgd", "adam"))
    for name, value in plain.items():
        same(adam[name], value)
    same(adam["m_new"], 0.1 * plain["gbar_accepted"])
    assert int(adam["t_new"]) == t + 1


@backends
def test_moments_that_are_given_count_before_the_first_step(backend: str) -> None:
    """Empty ones make of every gradient its sign."""
    inputs, empty = rollout(), numpy.zeros((5, 2))
    found = curvature(inputs | {"m": empty, "v": empty}, backend, optimizer="adam", t=0)
    p = torch.softmax(torch.tensor(inputs["topk_logits"]), -1).numpy()
    s = (inputs["topk_ids"] == inputs["actions"][..., None]) - p
    g = inputs["advantage"][:, None, None, None] * s[..., None] * inputs["hidden"][:, :, None]
    same(found["grad_dot"], numpy.abs(g).sum((-2, -1)), rtol=1e-5)


@backends
def test_where_there_is_no_token_any_id_may_stand(backend: str) -> None:
    inputs = rollout()
    inputs["mask"][0, 1:] = 0
    clean = curvature(inputs, backend)
    for id_ in (-1, 99):
        spoilt = {**inputs, "topk_ids": numpy.where(inputs["mask"][..., None] > 0, inputs["topk_ids"], id_)}
        for name, value in curvature(spoilt, backend).items():
            same(value, clean[name])
    assert clean["accept"].dtype == torch.float64 and not clean["accept"][0, 1:].any()


@backends
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_drawn_remembers_nothing(backend: str, shape: tuple[int, int]) -> None:
    found = curvature(rollout(*shape), backend, optimizer="adam")
    assert tuple(found["m_H"].shape) == shape and tuple(found["m_H_seq"].shape) == shape[:1]
    assert not any(found[name].any() for name in ("m_H_batch", "m_F_batch", "gbar_accepted", "m_new"))


def test_the_vocabulary_has_to_be_told() -> None:
    with pytest.raises(GradflowError, match="needs `vocab`"):
        evaluate("07-capo.curvature", {"lr": 0.1}, rollout())


@backends
def test_a_case_that_cannot_be_computed_does_not_hide_the_others(backend: str, tmp_path: Path) -> None:
    document = json.loads((Path(__file__).parents[1] / "golden/07-capo.curvature.json").read_text())
    document["cases"][0]["inputs"]["topk_ids"]["data"][0] = 99
    document["cases"][1]["params"] |= {"tau_H": "inf", "tau_F": "inf"}
    (tmp_path / "odd.json").write_text(json.dumps(document))
    verdict = verify_file(tmp_path / "odd.json", backend=backend)
    assert {failure.case for failure in verdict.failures} == {document["cases"][i]["name"] for i in (0, 1)}
    assert "99" in verdict.failures[0].message
    assert "accept" in [failure.output for failure in verdict.failures], "a bound of inf takes all tokens"


@backends
def test_a_ratio_beyond_all_floats_has_no_gradient_where_it_is_clipped(backend: str) -> None:
    logp = numpy.array([[-1.0, -1.0, -2.0]])
    inputs = {
        "logp": logp,
        "logp_old": logp - [[1e4, 0.0, -1e4]],
        "advantage": numpy.ones(1),
        "mask": numpy.ones((1, 3)),
        "accept": numpy.ones((1, 3)),
    }
    for norm in ("seq", "constant"):  # without max_len: the padded width
        found = evaluate("07-capo.masked_loss", {"norm": norm}, inputs, backend)
        same(found["loss"], -(1.2 + 1 + 0) / 3)
        same(found["grad_logp"], [[0, -1 / 3, 0]])

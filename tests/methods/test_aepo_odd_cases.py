"""AEPO where values are odd: nothing to take or to put in, ratios beyond any float, whole numbers, the dual clip that each form starts from."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.verify import evaluate

from .policy_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
EXTRA = {"logp_aux": [[-1.0]], "logp_old_aux": [[-1.0]], "mask_aux": [[1.0]], "reward_aux": [1.0]}


def loss(change: float, advantage: float, backend: str, extra: dict[str, Any] | None = None, **params: Any) -> dict[str, torch.Tensor]:
    inputs = {"logp": [[-1.0]], "logp_old": [[-1.0 - change]], "mask": [[1.0]], "advantage": [advantage], **(extra or EXTRA)}
    return evaluate("20-aepo.loss", {"alpha": 0.0, **params}, {name: numpy.array(x, float) for name, x in inputs.items()}, backend)


@backends
def test_replaced_rows_have_a_dual_clip_unless_it_is_off_and_added_ones_none(backend: str) -> None:
    same(loss(2.0, -1.0, backend, mode="replace")["loss"], 3.0)
    same(loss(2.0, -1.0, backend, mode="replace", clip_dual=0.0)["loss"], numpy.exp(2.0))
    same(loss(2.0, -1.0, backend, mode="additive_clip")["loss"], numpy.exp(2.0))


@backends
@pytest.mark.parametrize("mode", ["replace", "additive_clip"])
def test_a_ratio_beyond_all_floats_has_no_gradient_where_it_is_clipped(backend: str, mode: str) -> None:
    for change, value in ((1e4, -1.2), (-1e4, 0.0)):
        found = loss(change, 1.0, backend, mode=mode)
        same(found["loss"], value)
        same(found["grad_logp"], [[0.0]])


@backends
@pytest.mark.parametrize("mode", ["additive_reinforce", "additive_clip"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_without_extra_samples_or_tokens_of_them_it_is_grpo(backend: str, mode: str, shape: tuple[int, int]) -> None:
    empty = {name: numpy.zeros(shape) for name in ("logp_aux", "logp_old_aux", "mask_aux")} | {"reward_aux": numpy.ones(shape[0])}
    found = loss(0.0, 1.0, backend, empty, mode=mode, alpha=1.0)
    same(found["loss"], -1.0)
    assert tuple(found["grad_logp_aux"].shape) == shape


@backends
def test_whole_numbers_are_advantages(backend: str) -> None:
    found = evaluate("20-aepo.compose", {"entropy": 0.1}, {"adv_main": numpy.array([1, -2]), "adv_aux": numpy.array([0, 1])}, backend)
    same(found["advantage"], [1, -2])
    assert found["advantage"].dtype == torch.float64 and found["source_index"].tolist() == [1, 1]


@backends
@pytest.mark.parametrize(("rows", "extra"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_can_take_the_place_of_nothing(backend: str, rows: int, extra: int) -> None:
    found = evaluate("20-aepo.compose", {"entropy": 0.1}, {"adv_main": numpy.ones(rows), "adv_aux": numpy.ones(extra)}, backend)
    assert found["source_index"].tolist() == list(range(rows)) and not found["is_aux"].any()

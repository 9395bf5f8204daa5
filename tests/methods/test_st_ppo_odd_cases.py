"""ST-PPO where batches are odd: words that nobody said, no rows, no tokens, ratios beyond all numbers, and what is not a number behind the mask."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate

from .policy_cases import same

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])
LOSS, BIAS = "27-st-ppo.turn_loss", "27-st-ppo.clip_bias"


def said(actions: list[int], words: int = 5) -> dict[str, numpy.ndarray]:
    """One response, a token a turn, by a policy of so many words."""
    r = numpy.random.default_rng(0)
    row = (1, len(actions))
    return {
        "weight": r.normal(size=(words, 2)), "hidden": r.normal(size=(*row, 2)), "actions": numpy.array([actions]),
        "logp_old": r.normal(size=row) - 1.5, "advantage": r.normal(size=row), "mask": numpy.ones(row), "turn_id": numpy.arange(len(actions))[None],
    }  # fmt: skip


@BACKENDS
@pytest.mark.parametrize("actions", [[3, 3, 2, 0], [1, 1], [4]])
def test_an_action_is_the_place_of_its_word_also_when_other_words_are_not_said(backend: str, actions: list[int]) -> None:
    inputs = said(actions)
    weight = torch.tensor(inputs["weight"], requires_grad=True)
    logp = torch.log_softmax(torch.tensor(inputs["hidden"]) @ weight.T, -1)[0, torch.arange(len(actions)), torch.tensor(actions)]
    (-torch.tensor(inputs["advantage"][0]) * (logp - torch.tensor(inputs["logp_old"][0])).exp()).mean().backward()
    found = evaluate(BIAS, {"clip_low": 0.99, "clip_high": 1e9}, inputs, backend)
    same(found["grad_unclipped_loss"], weight.grad)
    same(found["grad_unclipped_loss"] - found["grad_clipped_loss"], found["clip_bias"])


def test_an_action_beyond_the_words_is_refused() -> None:
    with pytest.raises(GradflowError, match="`actions` points at 1 entries of `word`, which has 5"):
        evaluate(BIAS, {}, said([7, 7]))


@BACKENDS
@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_a_batch_of_nothing_costs_nothing(backend: str, shape: tuple[int, int]) -> None:
    x = numpy.zeros(shape)
    inputs = {"logp_old": x, "advantage": x, "mask": x, "turn_id": x.astype(int)}
    found = evaluate(LOSS, {}, {**inputs, "logp": x}, backend)
    assert float(found["loss"]) == 0 and found["grad_logp"].shape == shape
    policy = {"weight": numpy.ones((3, 2)), "hidden": numpy.zeros((*shape, 2)), "actions": x.astype(int)}
    found = evaluate(BIAS, {}, {**inputs, **policy}, backend)
    assert float(found["scale"]) == 1 and not found["grad_stabilized"].any()


@BACKENDS
def test_a_ratio_beyond_all_numbers_is_clipped(backend: str) -> None:
    change = numpy.array([[1e4, -1e4, -1e4]])
    inputs = {"logp": change, "logp_old": 0 * change, "advantage": [[1.0, 1.0, -1.0]], "mask": [[1, 1, 1]], "turn_id": [[0, 1, 2]]}
    found = evaluate(LOSS, {}, inputs, backend)
    same(found["loss"], (-1.2 + 0 + 0.8) / 3)
    assert not found["grad_logp"].any() and found["clipped"].tolist() == [[1, 0, 1]] and found["clipped"].dtype == torch.float64


@BACKENDS
@pytest.mark.parametrize("level", ["turn", "token"])
def test_what_is_behind_the_mask_does_not_matter(backend: str, level: str) -> None:
    inputs: dict[str, Any] = {"logp": [[-1.0, -2.0, -1.0]], "logp_old": [[-1.1, -2.0, -1.2]], "advantage": [[1.0, 5.0, -1.0]], "mask": [[1, 0, 1]]}
    inputs["turn_id"] = [[0, 0, 0]]
    clean = evaluate(LOSS, {"level": level}, inputs, backend)
    dirty = {name: numpy.where(numpy.array(inputs["mask"]) > 0, x, numpy.nan) for name, x in inputs.items() if name not in ("mask", "turn_id")}
    for name, value in evaluate(LOSS, {"level": level}, {**inputs, **dirty}, backend).items():
        if name in ("loss", "grad_logp", "ratio", "clipped", "clip_fraction"):
            same(value, clean[name])

"""IGPO at the ends of its options: no hints, orders known in part, no updates, places filled by chance."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.language.diagnostics import GradflowError
from gradflow.verify import evaluate

pytestmark = pytest.mark.parametrize("backend", ["reference", "torch"])
NOTHING = numpy.zeros(0, numpy.int64)


def replaced(backend: str, right: Any, perm: Any, **params: Any) -> dict[str, numpy.ndarray]:
    found = evaluate("09-igpo.elastic_replace", params, {"inpaint_correct": numpy.array(right), "perm": numpy.array(perm)}, backend)
    return {name: value.numpy() for name, value in found.items()}


def test_an_order_is_needed_no_further_than_it_is_used(backend: str) -> None:
    for rest in ([-1, -1], [0, -1]):
        found = replaced(backend, [True, True, False, True], [[2, 1, *rest]], group_size=4, max_replacements=2)
        assert found["source"].tolist() == [3, 1, -1, -1] and found["n_replaced"] == 2
        assert found["n_replaced"].dtype == numpy.int64
    found = replaced(backend, [1, 0, 1], [[-1], [-1], [-1]], group_size=1)
    assert found["source"].tolist() == [0, -1, 2] and not found["advantage"].any()


def test_half_a_group_is_refused(backend: str) -> None:
    with pytest.raises(GradflowError, match="whole groups"):
        replaced(backend, [True, False, True], [[-1, -1]], group_size=2)


@pytest.mark.parametrize("last", [False, True])
def test_where_all_is_masked_there_are_no_hints(backend: str, last: bool) -> None:
    options = {"gen_length": 20, "mask_ratio": 1, "min_chunk_size": 2, "max_chunk_size": 3, "mask_id": 9, "free_tail": 4}
    for draws in (NOTHING, numpy.array([3, 3])):
        inputs = {"question": numpy.array([9, 1]), "answer": numpy.arange(6), "chunk_size_draws": draws, "masked_chunks": NOTHING}
        found = evaluate("09-igpo.hint_plan", options | {"inpaint_last_chunk_end": last}, inputs, backend)
        assert found["sequence"].tolist() == [9, 1] + 20 * [9] and found["generate_mask"].tolist() == 2 * [False] + 20 * [True]


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (1, 2, 0)])
def test_no_update_no_answer_no_place(backend: str, shape: tuple[int, ...]) -> None:
    inputs = {"entropy": numpy.zeros(shape), "masked": numpy.zeros(shape, bool), "hint": numpy.zeros(shape[1:], bool)}
    found = evaluate("09-igpo.entropy_filter", {}, inputs, backend)["loss_mask"].numpy()
    assert found.shape == shape and found.dtype == bool


def test_places_may_be_filled_in_any_order(backend: str) -> None:
    """By chance: as many a call as by certainty. What is filled in one call does not depend on the order."""
    r = numpy.random.default_rng(0)
    tables = {name: r.normal(size=(7, 7)) for name in ("S", "Nl", "Nr", "M")} | {"Wpos": r.normal(size=(10, 7)) - 40 * (numpy.arange(7) == 6)}
    canvas = numpy.where(numpy.arange(10) < 2, 1, 6) + numpy.zeros((3, 1), int)
    inputs = tables | {"first_input": canvas, "noise": numpy.zeros((0, 3, 10, 7))}
    how = {"gen_length": 8, "block_length": 8, "mask_id": 6, "eot_id": 5, "prompt_len": 2}
    chance, surest = ({n: v.numpy() for n, v in evaluate("09-igpo.sampler", how | {"steps": 4, "remasking": way}, inputs, backend).items()}
                      for way in ("random", "low_confidence"))  # fmt: skip
    numpy.testing.assert_array_equal(numpy.sort(chance["filled_at_call"]), numpy.sort(surest["filled_at_call"]))
    assert (chance["filled_at_call"] != surest["filled_at_call"]).any() and (chance["tokens"] != 6).all()
    at_once = [evaluate("09-igpo.sampler", how | {"steps": 1, "remasking": way}, inputs, backend)["tokens"] for way in ("random", "low_confidence")]
    numpy.testing.assert_array_equal(*at_once)

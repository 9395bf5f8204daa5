"""Prefix Grouper where rows are odd: what is not a number in padding, heads that share keys, a response without tokens."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings

from gradflow.verify import evaluate

from .cases import close
from .prefix_cases import Groups, groups

BACKENDS = pytest.mark.parametrize("backend", ["reference", "torch"])


def attended(case: Groups, heads: int = 2, shared: int = 2, spare: int = 1) -> dict[str, Any]:
    r = case.random
    count, width = len(case.prompts), max(case.totals) + spare
    mask = case.masked(case.totals, width, "scattered")
    return {
        "q": r.normal(size=(count, heads, width, 3)), "k": r.normal(size=(count, shared, width, 3)), "v": r.normal(size=(count, shared, width, 3)),
        "d_out": r.normal(size=(count, width, heads, 3)), "padding_mask": mask, "prefix_len": numpy.array(case.prompts),
        "group_size": numpy.array([len(group) for group in case.responses]), "suffix_len": numpy.array(case.lengths),
    }  # fmt: skip


def component(inputs: dict[str, Any], backend: str) -> dict[str, numpy.ndarray]:
    return {name: value.numpy() for name, value in evaluate("37-prefix-grouper.attention", {}, inputs, backend).items()}


@BACKENDS
@settings(max_examples=5, deadline=None)
@given(groups())
def test_what_stands_in_padding_goes_nowhere(backend: str, case: Groups) -> None:
    inputs = attended(case)
    filled = inputs["padding_mask"]
    places = {"d_out": filled[:, :, None, None], "q": filled[:, None, :, None], "k": filled[:, None, :, None], "v": filled[:, None, :, None]}
    clean = component(inputs, backend)
    for name, value in component({**inputs, **{n: numpy.where(here, inputs[n], numpy.nan) for n, here in places.items()}}, backend).items():
        close(value, clean[name])


@BACKENDS
@settings(max_examples=5, deadline=None)
@given(groups())
def test_heads_that_share_keys_are_heads_with_equal_keys(backend: str, case: Groups) -> None:
    inputs = attended(case, heads=4, shared=2)
    repeated = {name: numpy.repeat(inputs[name], 2, axis=1) for name in ("k", "v")}
    found, apart = component(inputs, backend), component({**inputs, **repeated}, backend)
    close(found["out"], apart["out"])
    close(found["dq"], apart["dq"])
    for name in ("dk", "dv"):
        close(found[name], apart[name].reshape(*apart[name].shape[:1], 2, 2, *apart[name].shape[2:]).sum(2))


@BACKENDS
def test_a_response_without_tokens_has_the_last_of_its_prompt_alone(backend: str) -> None:
    inputs = {
        "prefix_ids": [[5, 6]], "prefix_mask": [[1, 1]], "suffix_ids": [[0, 0], [7, 0]], "suffix_mask": [[0, 0], [1, 0]],
        "group_size": [2], "hidden": numpy.arange(3.0).reshape(1, 3, 1),
    }  # fmt: skip
    found = evaluate("37-prefix-grouper.layout", {"include_prefix_last": 1}, inputs, backend)
    assert found["suffix_out"][..., 0].tolist() == [[1, 0], [1, 2]] and found["input_ids"].tolist() == [[5, 6, 7]]

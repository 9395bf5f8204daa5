"""Rows of records: choosing, cutting and joining, against the same done by hand on lists of samples."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.library.catalogue import FieldSpec
from gradflow.library.records import RESULT_TYPES, first, join, join_fields, pick, rest

OWN = {
    "reward": (("sample",), None), "group": (("sample",), "prompt"), "mask": (("sample", "token"), None), "ids": (("sample", "place"), "word"),
    "text": (("sample",), None), "prompt_id": (("prompt",), None), "task": (("sample",), "task"), "speed": ((), None),
}  # fmt: skip
few = settings(max_examples=40, deadline=None)


def made(seed: int, prompts: int, tokens: int, width: int) -> dict[str, Any]:
    r = numpy.random.default_rng(seed)
    group = numpy.sort(r.integers(0, max(prompts, 1), size=3 * prompts))
    count = len(group)
    return {
        "reward": torch.as_tensor(r.normal(size=count)), "group": torch.as_tensor(group),
        "mask": torch.as_tensor(r.uniform(size=(count, tokens)) < 0.7),
        "ids": torch.as_tensor(r.integers(1, 9, size=(count, width + tokens))), "text": [f"{seed}.{i}" for i in range(count)],
        "prompt_id": torch.as_tensor(r.integers(0, 99, size=prompts)),
        "task": torch.as_tensor(r.integers(0, 50, size=count)), "speed": torch.tensor(1.0),
    }  # fmt: skip


def rows(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A sample as what it means, wherever it stands and however it is padded."""
    tokens = record["mask"].shape[1]
    found = []
    for i, text in enumerate(record["text"]):
        ids = record["ids"][i].tolist()
        written = [word for word, here in zip(ids[len(ids) - tokens :], record["mask"][i].tolist(), strict=True) if here]
        asked = [word for word in ids[: len(ids) - tokens] if word]
        found.append(
            (text, float(record["reward"][i]), int(record["prompt_id"][record["group"][i]]), tuple(asked), tuple(written), int(record["task"][i]))
        )
    return found


sizes = st.tuples(st.integers(0, 2**31), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))


@few
@given(sizes, st.data())
def test_pick_keeps_what_the_mask_names(size: tuple[int, int, int, int], data: st.DataObject) -> None:
    record = made(*size)
    over = data.draw(st.sampled_from(["sample", "prompt"]))
    count = len(record["text"]) if over == "sample" else len(record["prompt_id"])
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=torch.bool)
    found = pick(record, mask, over, {"record": OWN})
    kept = mask if over == "sample" else mask[record["group"]] if count else mask
    assert rows(found) == [row for row, here in zip(rows(record), kept.tolist(), strict=True) if here]
    assert len(found["prompt_id"]) == (int(mask.sum()) if over == "prompt" else len(record["prompt_id"]))


@few
@given(sizes, st.integers(0, 6), st.sampled_from(["sample", "prompt"]))
def test_first_and_rest_are_the_whole(size: tuple[int, int, int, int], count: int, over: str) -> None:
    record = made(*size)
    a, b = (part(record, count, {"record": OWN}, over) for part in (first, rest))
    assert rows(a) + rows(b) == rows(record)
    assert rows(join(a, b, {"one": OWN, "other": OWN})) == rows(record)


@few
@given(sizes, sizes)
def test_join_changes_no_sample(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> None:
    a, b = made(*one), made(*other)
    found = join(a, b, {"one": OWN, "other": OWN})
    assert rows(found) == rows(a) + rows(b) and len(found["prompt_id"]) == len(a["prompt_id"]) + len(b["prompt_id"])
    assert rows(join(None, a, {"other": OWN})) == rows(join(a, None, {"one": OWN})) == rows(a)


def test_join_refuses_other_fields() -> None:
    a, b = made(0, 2, 2, 2), made(1, 2, 2, 2)
    less = {name: kind for name, kind in OWN.items() if name != "task"}
    with pytest.raises(ValueError, match="the first has `task`, the second has not"):
        join(a, {name: b[name] for name in less}, {"one": OWN, "other": less})


def test_types_of_rows_are_open_and_others_as_long_as_the_longer() -> None:
    fields = {"mask": FieldSpec("bool", (("sample", 4), ("token", 3))), "group": FieldSpec("int", (("sample", 4),), ("prompt", 2))}
    longer = {"mask": FieldSpec("bool", (("sample", 8), ("token", 5))), "group": fields["group"]}
    found = join_fields(fields, longer)
    assert found["mask"].axes == (("sample", None), ("token", 5)) and found["group"].target == ("prompt", None)
    assert RESULT_TYPES["pick"](fields, over="sample")["group"].target == ("prompt", 2)

"""Invariants of Prefix Grouper: what is packed comes back, every token sees what it sees in a plain row, and log-probabilities, losses and all
gradients are those of the layout that repeats the prompt for each response.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradflow.verify import evaluate

from .cases import seeds
from .prefix_cases import Groups, groups, repeated_attention, rows, toy_logp

backends = pytest.mark.parametrize("backend", ["reference", "torch"])
paddings = st.sampled_from(["left", "right", "scattered"])
some = settings(max_examples=15, deadline=None)


def layout(case: Groups, how: str, backend: str = "reference", lead: int = 1, mode: str = "right", spare: int = 1) -> tuple[Any, Any]:
    """The component's outputs for a hidden state that only depends on token and position, and its inputs."""
    inputs = case.inputs(how, spare)
    bare = {**inputs, "hidden": numpy.zeros((len(case.prompts), max(case.totals), 1))}
    first = evaluate("37-prefix-grouper.layout", {"padding_mode": mode, "include_prefix_last": 0}, bare, backend)
    hidden = torch.stack([first["input_ids"].double(), 0.1 + first["position_ids"].double()], -1)
    found = evaluate("37-prefix-grouper.layout", {"padding_mode": mode, "include_prefix_last": lead}, {**inputs, "hidden": hidden}, backend)
    return {name: value.numpy() for name, value in found.items()}, inputs


def taken(values: numpy.ndarray, mask: numpy.ndarray) -> list[list[float]]:
    return [list(row[here]) for row, here in zip(values, mask)]


# ---- the layout


@backends
@some
@given(groups(), paddings, st.sampled_from(["left", "right"]), st.integers(0, 1))
def test_packing_and_splitting_recovers_every_token(backend: str, case: Groups, how: str, mode: str, lead: int) -> None:
    found, inputs = layout(case, how, backend, lead, mode)
    prompts, responses = taken(inputs["prefix_ids"], inputs["prefix_mask"]), taken(inputs["suffix_ids"], inputs["suffix_mask"])
    kept = taken(found["prefix_out"][..., 0], found["prefix_out_mask"])
    assert kept == [prompt[: len(prompt) - lead] for prompt in prompts]
    back = taken(found["suffix_out"][..., 0], found["suffix_out_mask"])
    assert back == [prompts[case.owner[i]][len(prompts[case.owner[i]]) - lead :] + words for i, words in enumerate(responses)]
    places = taken(found["suffix_out"][..., 1] - 0.1, found["suffix_out_mask"])
    starts = [case.prompts[owner] - lead for owner in case.owner]
    assert numpy.allclose([place for row in places for place in row], [start + i for row, start in zip(places, starts) for i in range(len(row))])
    assert (found["suffix_out"][~found["suffix_out_mask"]] == 0).all() and (found["prefix_out"][~found["prefix_out_mask"]] == 0).all()


@some
@given(groups(), paddings)
def test_a_row_holds_its_prompt_once_and_every_response(case: Groups, how: str) -> None:
    found, inputs = layout(case, how)
    filled = found["padding_mask"]
    assert filled.shape == (len(case.prompts), max(case.totals))
    assert filled.sum() == sum(case.prompts) + sum(case.lengths)
    for b, row in enumerate(rows(case)):
        assert filled[b, : len(row)].all() and not filled[b, len(row) :].any()
        assert list(found["position_ids"][b, : len(row)]) == [place + (case.prompts[b] if owner >= 0 else 0) for owner, place in row]
        assert list(found["is_prefix"][b, : len(row)]) == [owner < 0 for owner, _ in row]
    assert (found["is_suffix"] == (filled & ~found["is_prefix"])).all()
    assert (found["input_ids"][~filled] == 0).all() and (found["position_ids"][~filled] == 0).all()
    words = taken(inputs["suffix_ids"], inputs["suffix_mask"])
    padded = numpy.array([row + [0] * (found["suffix_ids_right"].shape[1] - len(row)) for row in words])
    assert (found["suffix_ids_right"] == padded).all()


@some
@given(groups(), paddings)
def test_what_comes_back_does_not_depend_on_where_rows_are_padded(case: Groups, how: str) -> None:
    right, _ = layout(case, how, mode="right")
    left, inputs = layout(case, how, mode="left")
    places = case.masked(case.totals, max(case.totals), "scattered")
    given_ = evaluate(
        "37-prefix-grouper.layout", {"padding_mode": "given", "include_prefix_last": 1},
        {**inputs, "padding_mask": places, "hidden": numpy.zeros((*places.shape, 1))},
    )  # fmt: skip
    assert (given_["padding_mask"].numpy() == places).all()
    assert taken(given_["input_ids"].numpy(), places) == taken(right["input_ids"], right["padding_mask"])
    for name in ("prefix_out", "prefix_out_mask", "suffix_out", "suffix_out_mask", "suffix_ids_right"):
        assert (left[name] == right[name]).all(), name


# ---- attention


def packed_attention(case: Groups, how: str, backend: str, causal: bool = True, heads: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    r = case.random
    mask = case.masked(case.totals, max(case.totals) + (how != "right"), how)
    shape = (len(case.prompts), heads, mask.shape[1], 3)
    q, k, v = (torch.tensor(r.normal(size=shape)) for _ in range(3))
    d_out = torch.tensor(r.normal(size=(shape[0], shape[2], heads, 3)) * mask[..., None, None])
    inputs = {
        "q": q, "k": k, "v": v, "d_out": d_out, "padding_mask": mask, "prefix_len": numpy.array(case.prompts),
        "group_size": numpy.array([len(group) for group in case.responses]), "suffix_len": numpy.array(case.lengths),
    }  # fmt: skip
    return evaluate("37-prefix-grouper.attention", {"causal": causal, "padding_mode": "right"}, inputs, backend), inputs


@backends
@some
@given(groups(), paddings, st.booleans())
def test_attention_and_its_gradients_are_those_of_repeated_prompts(backend: str, case: Groups, how: str, causal: bool) -> None:
    found, inputs = packed_attention(case, how, backend, causal)
    slots = [list(numpy.flatnonzero(row)) for row in inputs["padding_mask"]]
    leaves = [inputs[name].clone().requires_grad_() for name in ("q", "k", "v")]
    out = repeated_attention(*leaves, case, slots, causal)
    torch.testing.assert_close(found["out"], out.detach(), rtol=1e-12, atol=1e-12)
    for name, slope in zip(("dq", "dk", "dv"), torch.autograd.grad((out * inputs["d_out"]).sum(), leaves)):
        torch.testing.assert_close(found[name], slope, rtol=1e-12, atol=1e-12)
    assert all(torch.isfinite(value).all() for value in found.values())


def test_a_group_of_one_is_ordinary_attention() -> None:
    case = Groups((3,), ((2,),), 0)
    found, inputs = packed_attention(case, "right", "reference")
    usual = torch.nn.functional.scaled_dot_product_attention(inputs["q"], inputs["k"], inputs["v"], is_causal=True)
    torch.testing.assert_close(found["out"], usual.transpose(1, 2), rtol=1e-12, atol=1e-12)


# ---- a decoder


def decoder(case: Groups, words: int = 7, width: int = 4, layers: int = 2) -> dict[str, Tensor]:
    r = case.random
    shapes = {"E": (words, width), "P": (max(case.prompts) + max(case.lengths), width), "U": (width, words)}
    shapes |= dict.fromkeys(("Wq", "Wk", "Wv", "Wo", "W1", "W2"), (layers, width, width))
    return {name: torch.tensor(r.normal(size=shape) * 0.7) for name, shape in shapes.items()}


def grpo_inputs(case: Groups, words: int = 7) -> dict[str, Any]:
    r, inputs = case.random, case.inputs("right", spare=0)
    shape = inputs["suffix_mask"].shape
    inputs |= {"prefix_ids": inputs["prefix_ids"] % words, "suffix_ids": inputs["suffix_ids"] % words}
    return {**inputs, "advantage": r.normal(size=len(case.lengths)), "logp_old": r.normal(size=shape) - 2}


@backends
@settings(max_examples=8, deadline=None)
@given(groups(), st.integers(1, 2))
def test_log_probabilities_loss_and_all_gradients_are_those_of_repeated_prompts(backend: str, case: Groups, heads: int) -> None:
    inputs, weights = grpo_inputs(case), decoder(case)
    found = evaluate("37-prefix-grouper.grpo_toy", {"n_heads": heads, "clip_eps": 0.2}, {**inputs, **weights}, backend)
    tracked = {name: value.clone().requires_grad_() for name, value in weights.items()}
    logp = torch.zeros(inputs["suffix_mask"].shape, dtype=torch.float64)
    losses = []
    for i, (owner, length) in enumerate(zip(case.owner, case.lengths)):
        prompt, said = list(inputs["prefix_ids"][owner][: case.prompts[owner]]), list(inputs["suffix_ids"][i][:length])
        table = toy_logp(tracked, prompt + said, heads)
        own = table[len(prompt) - 1 : -1][range(length), said]
        logp[i, :length] = own.detach()
        ratio, a = torch.exp(own - torch.tensor(inputs["logp_old"][i, :length])), float(inputs["advantage"][i])
        losses.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean())
    loss = torch.stack(losses).mean()
    torch.testing.assert_close(found["logp"], logp, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-10, atol=1e-12)
    for name, slope in zip(tracked, torch.autograd.grad(loss, list(tracked.values()))):
        torch.testing.assert_close(found[f"d_{name}"], slope, rtol=1e-9, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(seeds)
def test_permuting_the_responses_permutes_what_comes_out(seed: int) -> None:
    case, order = Groups((3,), ((2, 1, 3),), seed), [2, 0, 1]
    inputs, weights = grpo_inputs(case), decoder(case)
    moved = {name: value[order] if len(value) == 3 and name != "group_size" else value for name, value in inputs.items() if name != "prefix_ids"}
    moved |= {"prefix_ids": inputs["prefix_ids"], "prefix_mask": inputs["prefix_mask"]}
    here, there = (evaluate("37-prefix-grouper.grpo_toy", {"n_heads": 2}, {**one, **weights}) for one in (inputs, moved))
    torch.testing.assert_close(here["logp"][order], there["logp"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(here["d_Wk"], there["d_Wk"], rtol=1e-10, atol=1e-12)

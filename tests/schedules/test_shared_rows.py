"""Shared prefixes at run time: on every model that can be told what it sees, log-probabilities, entropies and gradients are those of plain rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.library.causal_models import PretrainedModel, Transformer, like_gpt
from gradflow.library.networks import build
from gradflow.library.row_attention import attend, blocks_of, eager, fused, written_out
from gradflow.runtime.devices import dropout_of
from gradflow.schedules import rows as module
from gradflow.schedules.rows import RECORD, attach, whole_groups

from .cases import WORDS, program_of, record, rows, scored, shared_prefix

some = settings(max_examples=12, deadline=None)


@st.composite
def shapes(draw: Any) -> tuple[list[int], list[list[int]], int, bool]:
    """Some responses have no token at all, as happens where a response is cut away."""
    count = draw(st.integers(1, 3))
    prompts = [draw(st.integers(1, 5)) for _ in range(count)]
    responses = [draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)) for _ in range(count)]
    return prompts, responses, draw(st.integers(0, 2**31)), draw(st.booleans())


def transformer(heads: int = 2) -> Transformer:
    return build(lambda: Transformer(WORDS, 2, 8, heads, 16, True), 0, like_gpt(2)).double()  # type: ignore[return-value]


def llama(kind: str, attention: str, **more: Any) -> PretrainedModel:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": WORDS, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 6}
    config = getattr(transformers, f"{kind}Config")(**sizes, num_key_value_heads=2, max_position_embeddings=64, head_dim=4, **more)
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    network.set_attn_implementation(attention)
    return PretrainedModel(network, None)  # type: ignore[arg-type]


def compared(policy: Any, samples: dict[str, Any], backend: str, tolerance: float) -> bool:
    """Whether samples were packed; raises where anything differs."""
    weight = torch.rand(samples["mask"].shape, generator=torch.Generator().manual_seed(1), dtype=next(policy.parameters()).dtype) - 0.3
    packed = rows(backend).packed(samples)
    plain, ours = scored(policy, samples, weight), scored(policy, packed, weight)
    for there, here in zip((*plain[:2], *plain[2]), (*ours[:2], *ours[2]), strict=True):
        torch.testing.assert_close(here, there, rtol=tolerance, atol=tolerance * max(1.0, float(there.abs().max())))
    return RECORD in packed


# ---- the small transformer


@pytest.mark.parametrize("backend", ["torch", "reference"])
@some
@given(shapes())
def test_the_small_transformer_gives_the_same_in_double_precision(backend: str, shape: Any) -> None:
    prompts, responses, seed, shuffled = shape
    packed = compared(transformer(), record(prompts, responses, seed, shuffled), backend, 1e-12)
    assert packed == any(len(group) > 1 for group in responses)


def test_a_row_is_shorter_than_what_it_stands_for() -> None:
    samples = record([5, 4], [[3, 4, 4], [2, 4]], 0)
    found = rows().pack(samples)
    assert found is not None
    assert found.word.shape == (2, 5 + 2 + 3 + 3)  # the last token of a response predicts nothing
    assert sum(int(one.real.numel()) for one in found.seen) == (5 + 2 + 3 + 3) + (4 + 1 + 3)
    assert [tuple(one.seen.shape) for one in found.seen] == [(2, 5, 5), (5, 3, 8)]  # prompts by themselves, responses with their prompt


def test_rows_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = record([5, 2, 3], [[3, 4], [1, 4, 2], [2, 2]], 0, shuffled=True)
    whole = rows().pack(samples)
    monkeypatch.setattr(module, "PAIRS", 1)
    parts = rows().pack(samples)
    assert whole is not None and parts is not None
    for one, other in zip(whole.seen, parts.seen, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("queries", "keys", "real", "seen"))


def test_too_many_tokens_for_the_positions_are_refused_as_ever() -> None:
    samples = record([15], [[4, 4]], 0)
    with pytest.raises(ValueError, match="more than the transformer's length"):
        scored(transformer(), rows().packed(samples), torch.ones(samples["mask"].shape))


# ---- networks of transformers


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_networks_of_transformers_give_the_same(kind: str, attention: str) -> None:
    """Queries of several heads ask the same keys; positions are rotations."""
    policy = llama(kind, attention, **({"sliding_window": None} if kind == "Mistral" else {}))
    for seed in range(2):
        assert compared(policy, record([5, 2, 4], [[3, 1, 4], [2], [4, 2]], seed, shuffled=True), "torch", 1e-5)
    assert policy.__dict__["network"].config._attn_implementation == attention


def test_models_whose_attention_sees_otherwise_are_left_alone() -> None:
    from gradflow.library.transformers_models import told_what_to_see

    assert told_what_to_see({"vocab_size": 3}) and told_what_to_see({"model_type": "llama"})
    assert not told_what_to_see({"model_type": "mistral", "sliding_window": 4096})
    assert not told_what_to_see({"model_type": "gpt2"})
    assert told_what_to_see({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False})
    assert not told_what_to_see({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]})


# ---- attention in blocks


@some
@given(st.integers(0, 2**31), st.sampled_from([written_out, eager, fused]))
def test_attention_in_blocks_is_attention(seed: int, kernel: Any) -> None:
    """Whatever is seen, as long as every filled slot sees something; grouped heads; slots without a token give 0."""
    g = torch.Generator().manual_seed(seed)
    batch, slots = 2, 7
    filled = torch.rand(batch, slots, generator=g) < 0.8
    filled[:, 0] = True
    visible = (torch.rand(batch, slots, slots, generator=g) < 0.5) & filled[:, None] | torch.eye(slots).bool()
    piece = torch.randint(-1, 2, (batch, slots), generator=g)
    q, k, v = (torch.randn(batch, heads, slots, 3, generator=g, dtype=torch.float64) for heads in (4, 2, 2))
    full = visible & filled[:, None] & filled[:, :, None]
    found = attend(q, k, v, blocks_of(full, piece, filled), kernel=kernel)
    score = q @ k.repeat_interleave(2, 1).transpose(-1, -2) / 3**0.5
    expected = score.masked_fill(~full[:, None], -torch.inf).softmax(-1).nan_to_num() @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-10, atol=1e-12)
    assert (found[~filled] == 0).all()


# ---- where it is not used


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"group": torch.arange(5)}, "a prompt of its own"),
        ({"group": torch.tensor([0, 0, 0, 0, 1])}, "different prompts"),
        ({"group": None}, "does not say which"),
    ],
)
def test_records_that_share_nothing_are_handed_on(change: dict[str, Any], reason: str) -> None:
    samples: dict[str, Any] = {**record([3, 4], [[2, 2], [1, 3, 2]], 0), **change}
    packer = rows()
    assert packer.packed(samples) is samples
    assert reason in packer.why


def test_a_model_that_drops_out_keeps_its_plain_rows() -> None:
    """A group would share the noise of its prompt."""

    class Runner:
        spec = program_of(TEXT).models["policy"].spec
        rows = None

        def __init__(self, *parts: torch.nn.Module):
            self.module = torch.nn.Sequential(*parts)

    runners = {"policy": Runner(torch.nn.Linear(2, 2)), "other": Runner(torch.nn.Dropout(0.1))}
    assert dropout_of(runners["other"].module[0])
    attach(program_of(TEXT), runners, "torch", torch.device("cpu"))
    assert runners["policy"].rows is not None and runners["other"].rows is None


# ---- cuts


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 6))
def test_micro_batches_hold_whole_groups(group: list[int], count: int) -> None:
    pieces = whole_groups(torch.tensor(group), count)
    assert sorted(torch.cat(pieces).tolist()) == list(range(len(group)))
    assert len(pieces) == min(count, len(set(group))) and all(len(piece) for piece in pieces)
    owners = [set(torch.tensor(group)[piece].tolist()) for piece in pieces]
    assert sum(map(len, owners)) == len(set(group))


TEXT = """
pipeline p {
  data  tasks  = long_prompts(length: 90)
  model policy = transformer(vocabulary: 47, layers: 1, width: 8, heads: 2, length: 96)
  samples ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 6)
  flow policy: grpo(score(policy, samples)) -> backprop -> adam(lr: 1e-3)
  schedule = shared_prefix()
  train 1 rollouts
}
"""


def test_the_plan_is_the_library_s() -> None:
    assert shared_prefix().name == "shared_prefix" and shared_prefix().whole == "group" and shared_prefix().still

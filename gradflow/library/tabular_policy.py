"""The smallest policies, behind the interface of a language model: independent logits for each place of each prompt, or logits that are linear
in features of the prompt, so that prompts share what they learn.

With them the combination lock runs through the same sampling and scoring as a transformer, in milliseconds.

Axes: prompt, token (a place in the response), word (of the vocabulary), feature (of a prompt); B rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import LeafSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random

if TYPE_CHECKING:
    from torch import Tensor


class NumberTokenizer:
    """Questions are numbers of prompts, responses are words separated by blanks: `"3 1 7"`. No end token: the length is fixed."""

    eos_id, pad_id = -1, 0

    def __init__(self, size: int):
        self.size = size

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return " ".join(str(int(word)) for word in ids)

    def chat(self, question: str) -> str:
        return question


@primitive("model", prompts="int >= 1", length="int >= 1", vocabulary="int >= 2", decoy="real")
def table_policy(prompts: int = 64, length: int = 3, vocabulary: int = 8, decoy: float = 0.0) -> ModelSpec:
    """Independent logits theta[prompt, token, word] for every place of every prompt: the smallest policy, for `combination_lock`.

    Starts uniform, or with the logit of word 0 (wrong in every lock) at `decoy`. Offers the interface of a language model whose prompts are
    one id, the prompt's number, and whose responses have exactly `length` words; called with prompt numbers it gives logits [..., token, word].
    """

    def build(seed: int) -> Any:
        import torch

        start = torch.zeros(prompts, length, vocabulary)
        start[..., 0] = decoy
        return _table_module(length, vocabulary, start)

    return ModelSpec(
        "table_policy", (LeafSpec("theta", (prompts, length, vocabulary)),), build, inputs=(), outputs=(("token", length), ("word", vocabulary)),
        index_input=True, methods=("sample", "score"), facts={"prompts": prompts, "length": length, "vocabulary": vocabulary, "width": vocabulary},
    )  # fmt: skip


@primitive(
    "model", prompts="int >= 1", length="int >= 1", vocabulary="int >= 2", features="int >= 1", spread="real >= 0", common="real in [0, 1]",
    decoy="real", seed="int >= 0",
)  # fmt: skip
def linear_policy(
    prompts: int = 256,
    length: int = 1,
    vocabulary: int = 2,
    features: int = 24,
    spread: float = 1.0,
    common: float = 0.0,
    decoy: float = 0.0,
    seed: int = 0,
) -> ModelSpec:
    """Logits that are linear in features of the prompt: with two words and one place, a logistic bandit with shared weights.

    The leaf theta[feature, token, word] starts normal with deviation `spread`; the features [prompt, feature], normal with variance
    1 / features, are drawn from the parameter `seed` and never change. `common`: the share of their square that all prompts have alike, so that
    what helps one helps all; `decoy` is added to the logits of word 0 (wrong in every lock) and is not trained. As `table_policy` otherwise.
    """

    def build(run_seed: int) -> Any:
        import torch

        drawn = random.normal(random.key(seed, "linear_policy"), numpy.arange(prompts * features)).reshape(prompts, features) / features**0.5
        alike = random.normal(random.key(seed, "linear_policy common"), numpy.arange(features)) / features**0.5
        drawn = common**0.5 * alike + (1 - common) ** 0.5 * drawn
        start = random.normal(random.key(run_seed, "theta"), numpy.arange(features * length * vocabulary)).reshape(features, length, vocabulary)
        return _table_module(length, vocabulary, torch.as_tensor(spread * start), torch.as_tensor(drawn), decoy)

    return ModelSpec(
        "linear_policy", (LeafSpec("theta", (features, length, vocabulary)),), build, inputs=(),
        outputs=(("token", length), ("word", vocabulary)), index_input=True, methods=("sample", "score"),
        facts={"prompts": prompts, "length": length, "vocabulary": vocabulary}, flops_per_row=2.0 * features * length * vocabulary,
    )  # fmt: skip


def _table_module(length: int, vocabulary: int, start: Tensor, features: Tensor | None = None, decoy: float = 0.0) -> Any:
    """`start`: theta [prompt, token, word], or [feature, token, word] with the features [prompt, feature] and logits that `decoy` is added to."""
    import torch

    class TablePolicy(torch.nn.Module):
        response_length = length
        tokenizer = NumberTokenizer(vocabulary)

        def __init__(self) -> None:
            super().__init__()
            self.theta = torch.nn.Parameter(start.to(torch.get_default_dtype()))
            self.register_buffer("features", None if features is None else features.to(torch.get_default_dtype()), persistent=False)

        @property
        def head(self) -> Tensor:
            return torch.eye(vocabulary, dtype=self.theta.dtype, device=self.theta.device)

        def table(self, numbers: Tensor) -> Tensor:
            """Logits [.., token, word] of prompts [..]."""
            if self.features is None:
                return self.theta[numbers]
            return torch.tensordot(self.get_buffer("features")[numbers], self.theta, dims=1) + decoy * self.head[0]

        def forward(self, ids: Tensor, attention_mask: Tensor | None = None, cache: Any = None, last: bool = False, headless: bool = False) -> Any:
            return self.table(ids) if cache is None else self.step(ids, cache, attention_mask, last)

        def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.table(ids[:, 0])[:, : ids.shape[1]]

        logits = hidden

        def step(self, ids: Tensor, cache: Any = (), attention_mask: Tensor | None = None, last: bool = False) -> Any:
            number, place = cache[0] if cache else (ids[:, 0], torch.zeros_like(ids[:, 0]))
            row = torch.arange(len(number), device=number.device)
            return self.table(number)[row, place][:, None], ((number, place + 1),)

    return TablePolicy()

"""The tabular policy: independent logits for each place of each prompt, behind the interface of a language model.

With it the combination lock runs through the same sampling and scoring as a transformer, in milliseconds.

Axes: prompt, token (a place in the response), word (of the vocabulary); B rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import LeafSpec, ModelSpec, primitive

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
        return _table_module(prompts, length, vocabulary, decoy)

    return ModelSpec(
        "table_policy", (LeafSpec("theta", (prompts, length, vocabulary)),), build, inputs=(), outputs=(("token", length), ("word", vocabulary)),
        index_input=True, methods=("sample", "score"), facts={"prompts": prompts, "length": length, "vocabulary": vocabulary, "width": vocabulary},
    )  # fmt: skip


def _table_module(prompts: int, length: int, vocabulary: int, decoy: float) -> Any:
    import torch

    class TablePolicy(torch.nn.Module):
        response_length = length
        tokenizer = NumberTokenizer(vocabulary)

        def __init__(self) -> None:
            super().__init__()
            self.theta = torch.nn.Parameter(torch.zeros(prompts, length, vocabulary))
            with torch.no_grad():
                self.theta[..., 0] = decoy

        @property
        def head(self) -> Tensor:
            return torch.eye(vocabulary, dtype=self.theta.dtype, device=self.theta.device)

        def forward(self, ids: Tensor, attention_mask: Tensor | None = None, cache: Any = None, last: bool = False) -> Any:
            return self.theta[ids] if cache is None else self.step(ids, cache, attention_mask, last)

        def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return self.theta[ids[:, 0], : ids.shape[1]]

        logits = hidden

        def step(self, ids: Tensor, cache: Any = (), attention_mask: Tensor | None = None, last: bool = False) -> Any:
            number, place = cache[0] if cache else (ids[:, 0], torch.zeros_like(ids[:, 0]))
            return self.theta[number, place][:, None], ((number, place + 1),)

    return TablePolicy()

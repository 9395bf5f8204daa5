"""What every language model of the library offers: one interface, so that sampling, scoring and training see no difference between the small
transformer of `models.py` and a pretrained model of `transformers_models.py`. Holds the interface, the cache's form and the character
tokenizer; the modules are in `causal_models.py`, sampling is in `rollouts.py`. Nothing here imports torch.

Axes: B samples, T tokens, P tokens already in the cache, V words of the vocabulary, W width, H heads, C channels of a head.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    Cache: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
    """For each layer the keys and values of all tokens so far, each [B, H, P, C]. () is the empty cache. A value: a step returns a new one."""


class Tokenizer(Protocol):
    """Text to ids and back. `decode` leaves out end and padding; `chat` wraps a question as the model was taught to be asked."""

    size: int
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def chat(self, question: str) -> str: ...


class LanguageModel(Protocol):
    """A causal language model; also a torch.nn.Module whose call is `logits`.

    `attention_mask` is [B, P + T], true on real tokens: it covers the tokens of the cache and those given now. None: all are real. Positions
    count real tokens only, so padding on the left changes nothing. What stands at a padded place is finite and means nothing.

    Under other parameters: `torch.func.functional_call(model, parameters, (ids, attention_mask))` are the logits, with `{"headless": True}`
    the hidden states, and with a cache, `(ids, attention_mask, cache, last)`, the empty cache included, it is `step`.
    """

    tokenizer: Tokenizer

    @property
    def head(self) -> Tensor:
        """[V, W]: logits are `hidden @ head.T`."""

    def logits(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """ids [B, T] -> [B, T, V]; logits[:, t] speak of the token at t + 1."""

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """ids [B, T] -> [B, T, W]: what the head reads, for losses that never hold the logits."""

    def step(self, ids: Tensor, cache: Cache = (), attention_mask: Tensor | None = None, last: bool = False) -> tuple[Tensor, Cache]:
        """Logits [B, T, V] of ids [B, T] that follow the cache, and the longer cache; `last`: of the last token only, [B, 1, V].

        The given cache is left as it is, and gradients flow through it.
        """


def cache_rows(cache: Cache, rows: Tensor) -> Cache:
    """The cache of samples `rows` (ids [B'] or a mask [B]): to drop samples that have ended, or to repeat a prompt for its group."""
    return tuple((keys[rows], values[rows]) for keys, values in cache)


class CharacterTokenizer:
    """One id a character: padding, end, digits, space, arithmetic, newline, letters, then the rest of printable ASCII.

    A smaller `size` keeps the first symbols only: 21 are enough for arithmetic. A character it does not know is a ValueError.
    """

    SYMBOLS = "".join(dict.fromkeys(string.digits + " +-*/=()\n" + string.ascii_letters + string.punctuation))
    SIZE = 2 + len(SYMBOLS)

    def __init__(self, size: int = SIZE) -> None:
        self.size, self.pad_id, self.eos_id = size, 0, 1
        self._ids = {symbol: 2 + i for i, symbol in enumerate(self.SYMBOLS[: max(size - 2, 0)])}

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - set(self._ids))
        if unknown:
            raise ValueError(f"a vocabulary of {self.size} characters has no {', '.join(map(repr, unknown))}")
        return [self._ids[c] for c in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.SYMBOLS[i - 2] for i in map(int, ids) if 2 <= i < self.SIZE)

    def chat(self, question: str) -> str:
        return question


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[list[list[int]], list[list[bool]]]:
    """Rows of ids made equally long by padding on the left, and their mask: what `LanguageModel` takes as ids and attention mask."""
    longest = max(map(len, rows), default=0)
    ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[False] * (longest - len(row)) + [True] * len(row) for row in rows]
    return ids, mask

"""The language models as modules: the small transformer, and the wrapper of a pretrained network. Both offer the interface of
`language_models.LanguageModel`, built once here from `run`. Imports torch: loaded only when a model is built.

Axes: B samples, T tokens, P tokens in the cache, S = P + T, V words, W width, H heads, C channels of a head (W = H C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradflow.library.language_models import CharacterTokenizer, Tokenizer
from gradflow.library.networks import normal_
from gradflow.library.row_attention import Blocks, attend, eager, fused

if TYPE_CHECKING:
    from gradflow.library.language_models import Cache

Seen: TypeAlias = tuple[Blocks, ...]
IN_ROWS = "gradflow_rows"  # the name under which `transformers` knows attention in blocks


class CausalModel(nn.Module):
    """Turns `run` and `head` into the interface. Leading axes of `ids` before the tokens are free where there is no cache."""

    tokenizer: Tokenizer

    @property
    def head(self) -> Tensor:
        raise NotImplementedError

    def run(self, ids: Tensor, attention_mask: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        """ids [B, T] -> what the head reads [B, T, W], and the cache with these tokens."""
        raise NotImplementedError

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None = None, cache: Cache | None = None, last: bool = False, headless: bool = False
    ) -> Any:
        """Logits; with a cache (logits, cache); `headless`: what the head reads in place of logits, so that a functional call gets it too."""
        if cache is None:
            hidden = self.hidden(ids, attention_mask)
            return hidden if headless else functional.linear(hidden, self.head)
        hidden, cache = self.run(ids, attention_mask, cache)
        hidden = hidden[:, -1:] if last else hidden
        return hidden if headless else functional.linear(hidden, self.head), cache

    def logits(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self(ids, attention_mask)

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        rows = ids.reshape(-1, ids.shape[-1])
        mask = None if attention_mask is None else attention_mask.reshape(rows.shape)
        hidden, _ = self.run(rows, mask, ())
        return hidden.reshape(*ids.shape, -1)

    def rows(self, ids: Tensor, place: Tensor, seen: Seen) -> Tensor:
        """ids and their positions [B, L] -> what the head reads [B, L, W], each slot attending to those that it sees."""
        raise NotImplementedError

    def step(self, ids: Tensor, cache: Cache = (), attention_mask: Tensor | None = None, last: bool = False) -> tuple[Tensor, Cache]:
        return self(ids, attention_mask, cache, last)


def token_positions(ids: Tensor, attention_mask: Tensor | None, past: int) -> Tensor:
    """[B, T] or [1, T]: how many real tokens stand before each."""
    tokens = ids.shape[-1]
    if attention_mask is None:
        return torch.arange(past, past + tokens, device=ids.device)[None]
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]


class Attention(nn.Module):
    """Causal attention of all heads, written out: it has every derivative that fused kernels lack, and the small transformer is small."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, visible: Tensor | Seen, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        query, key, value = (part(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in (self.query, self.key, self.value))
        if not isinstance(visible, Tensor):
            return self.output(attend(query, key, value, visible).flatten(-2)), (key, value)
        if past is not None:
            key, value = torch.cat((past[0], key), -2), torch.cat((past[1], value), -2)
        score = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weight = score.masked_fill(~visible, -torch.inf).softmax(-1)
        return self.output((weight @ value).transpose(-2, -3).flatten(-2)), (key, value)


class Feedforward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp_norm, self.mlp = nn.LayerNorm(width), Feedforward(width)

    def forward(self, x: Tensor, visible: Tensor | Seen, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, present = self.attention(self.attention_norm(x), visible, past)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), present


def embedding(rows: int, width: int) -> nn.Embedding:
    """Without initial values: those that PyTorch would draw on the device `meta` cost more than a second, for what that imports."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Transformer(CausalModel):
    """A small GPT: learned positions, normalization before each part, no biases in linear layers, head tied to the embedding or not."""

    def __init__(self, vocabulary: int, layers: int, width: int, heads: int, length: int, tied: bool):
        super().__init__()
        self.token, self.position = embedding(vocabulary, width), embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.unembed = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.tokenizer = CharacterTokenizer(vocabulary)

    @property
    def head(self) -> Tensor:
        return self.token.weight if self.unembed is None else self.unembed.weight

    def run(self, ids: Tensor, attention_mask: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        tokens, past = ids.shape[-1], cache[0][0].shape[-2] if cache else 0
        if past + tokens > self.position.num_embeddings:  # padding takes no position
            self.check_length(past + tokens if attention_mask is None else int(attention_mask.sum(-1).max()))
        place = torch.arange(past + tokens, device=ids.device)
        visible = place <= place[past:, None]  # [T, S]
        if attention_mask is not None:
            itself = place == place[past:, None]  # padding sees itself, so that no row of the softmax is empty
            visible = (visible & attention_mask.bool()[:, None, None, :]) | itself  # [B, 1, T, S]
        x = self.token(ids) + self.position(token_positions(ids, attention_mask, past))
        presents = []
        for i, block in enumerate(self.blocks):
            x, present = block(x, visible, cache[i] if cache else None)
            presents.append(present)
        return self.norm(x), tuple(presents)

    def check_length(self, tokens: int) -> None:
        if tokens > self.position.num_embeddings:
            raise ValueError(f"{tokens} tokens are more than the transformer's length, {self.position.num_embeddings}")

    def rows(self, ids: Tensor, place: Tensor, seen: Seen) -> Tensor:
        self.check_length(int(place.max()) + 1)
        x = self.token(ids) + self.position(place)
        for block in self.blocks:
            x, _ = block(x, seen, None)
        return self.norm(x)


class MaskedTransformer(Transformer):
    """The same, looking both ways; the last word is the blank, which no place is said to hold."""

    NEVER = -1e4

    def __init__(self, words: int, layers: int, width: int, heads: int, length: int):
        super().__init__(words, layers, width, heads, length, tied=False)
        self.tokenizer = CharacterTokenizer(words - 1)

    def forward(self, ids: Tensor, *_: Any) -> Any:
        places = ids.shape[-1]
        if places > self.position.num_embeddings:
            raise ValueError(f"{places} places are more than the model's length, {self.position.num_embeddings}")
        x = self.token(ids) + self.position.weight[:places]
        visible = torch.ones(1, places, dtype=torch.bool, device=ids.device)
        for block in self.blocks:
            x, _ = block(x, visible, None)
        logits = functional.linear(self.norm(x), self.head)
        blank = torch.arange(logits.shape[-1], device=ids.device) == logits.shape[-1] - 1
        return logits.masked_fill(blank, self.NEVER)


def like_gpt(layers: int) -> Callable[[nn.Module, torch.Generator], None]:
    """GPT-2's initial values: normal(0.02); what writes into the residual stream divided by sqrt(2 layers)."""
    into_stream = 0.02 / math.sqrt(2 * layers)

    def initialize(part: nn.Module, generator: torch.Generator) -> None:
        if isinstance(part, Transformer):
            for table in (part.token, part.position, part.unembed):
                if table is not None:
                    normal_(table.weight, 0.02, generator)
        elif isinstance(part, nn.LayerNorm):
            part.weight.fill_(1)
            part.bias.zero_()
        elif isinstance(part, Attention):
            for layer in (part.query, part.key, part.value):
                normal_(layer.weight, 0.02, generator)
            normal_(part.output.weight, into_stream, generator)
        elif isinstance(part, Feedforward):
            normal_(part.up.weight, 0.02, generator)
            normal_(part.down.weight, into_stream, generator)

    return initialize


class PretrainedModel(CausalModel):
    """A causal network of `transformers`. Its parts are this module's parts, so that parameters keep the names they have in checkpoints.

    The network itself is held outside the module tree: it shares those parts, and a functional call that swaps their parameters reaches it.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer):
        super().__init__()
        for name, part in network.named_children():
            self.add_module(name, part)
        self.__dict__["network"] = network
        self.tokenizer = tokenizer

    @property
    def head(self) -> Tensor:
        return self.__dict__["network"].get_output_embeddings().weight

    def run(self, ids: Tensor, attention_mask: Tensor | None, cache: Cache) -> tuple[Tensor, Cache]:
        from transformers import DynamicCache

        past = cache[0][0].shape[-2] if cache else 0
        seen = DynamicCache(cache) if cache else DynamicCache()
        answer = self.__dict__["network"].base_model(
            input_ids=ids,
            attention_mask=None if attention_mask is None else attention_mask.long(),
            position_ids=token_positions(ids, attention_mask, past).expand(ids.shape),
            past_key_values=seen,
            use_cache=True,
        )
        return answer.last_hidden_state, tuple((layer.keys, layer.values) for layer in answer.past_key_values.layers)

    def rows(self, ids: Tensor, place: Tensor, seen: Seen) -> Tensor:
        """Only the attention function is another one while this runs; its arithmetic is that of the one it stands for."""
        network = self.__dict__["network"]
        usual = register_rows(network)
        network.config._attn_implementation = IN_ROWS
        try:
            answer = network.base_model(input_ids=ids, position_ids=place, use_cache=False, seen=seen, kernel=eager if usual == "eager" else fused)
        finally:
            network.config._attn_implementation = usual
        return answer.last_hidden_state


def register_rows(network: Any) -> str:
    """Makes attention in blocks known to `transformers`; the name of the attention that the network uses."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IN_ROWS, attend_rows)
    AttentionMaskInterface.register(IN_ROWS, lambda *_, **__: None)  # nobody reads a mask over all pairs of slots
    return network.config._attn_implementation


def attend_rows(
    part: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, seen: Seen, kernel: Any, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    return attend(query, key, value, seen, scaling, kernel), None

"""Drawing responses token by token: the loop behind `sample` and `pass_at_1`, which `rollouts.py` wraps into records.

Prompts are padded on the left and go through the model once each; their cache is then repeated for the responses of the group. A row leaves
the batch when it has ended. Randomness is one uniform number for each (prompt id, copy, place), so a token depends on what it belongs to
and never on what is drawn beside it; the choice of a word is by inverse distribution function on integers, where sums have no order.

Axes: B rows (samples of one call), P prompt width, T tokens of a response, V words, G prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import FieldSpec
from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import cache_rows, pad_left
from gradflow.library.scoring import at_words, entropies, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 128  # rows sampled together: bounds the cache and the [rows, V] tables; the result does not depend on it


@dataclass(frozen=True)
class Decoding:
    """How a token is chosen, and what is kept of the choice.

    `max_tokens` > 0; `temperature` > 0 with 0 meaning the most probable word; `top_p` in (0, 1] and `top_k` (0: all) cut the distribution
    before the draw; `stop`: texts that end a response; `scored_at`: the temperature of the kept log-probabilities; `keep_top`: how many of
    the largest logits are kept with each token; `keep_hidden`: whether what the head read is kept too.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    scored_at: float = 1.0
    keep_top: int = 0
    keep_hidden: bool = False


def generate(policy: Any, prompts: Sequence[Sequence[int]], owner: numpy.ndarray, uniforms: numpy.ndarray | None, how: Decoding) -> dict[str, Tensor]:
    """Responses to `prompts` (ids, G lists); row b answers prompt `owner[b]` (int64 [B], ascending) with the random numbers `uniforms[b]` [T].

    Returns tensors, padded on the right to T = max_tokens: action (int64 [B, T], pad id where there is no token), mask (bool [B, T], true up to
    and with the end token), logp, entropy ([B, T] in nats, 0 where there is no token; float32, float64 for a float64 model), finished (bool [B]:
    ended by the end token, by a stop text, or because the model's answers have a fixed length, and not cut at T), and with `keep_top` K:
    top_logits, top_words [B, T, K] (K at most V); with `keep_hidden`: hidden [B, T, W], what the head read before each token.
    """

    def piece(part: slice, asked: slice, own: numpy.ndarray) -> dict[str, Tensor]:
        return _generate_rows(policy, prompts[asked], own, None if uniforms is None else uniforms[part], how)

    return by_pieces(policy, owner, piece)


def by_pieces(policy: Any, owner: numpy.ndarray, piece: Callable[[slice, slice, numpy.ndarray], dict[str, Tensor]]) -> dict[str, Tensor]:
    """ROWS rows at a time, without gradient and dropout. piece(rows, their prompts, which of these each row belongs to) gives tensors by row."""
    import torch

    training = policy.training
    policy.eval()
    try:
        with torch.no_grad():
            found = []
            for start in range(0, len(owner), ROWS):
                part = slice(start, start + ROWS)
                first, last = int(owner[part][0]), int(owner[part][-1])
                found.append(piece(part, slice(first, last + 1), owner[part] - first))
            return {name: torch.cat([one[name] for one in found]) for name in found[0]}
    finally:
        policy.train(training)


def _generate_rows(
    policy: Any, prompts: Sequence[Sequence[int]], owner: numpy.ndarray, uniforms: numpy.ndarray | None, how: Decoding
) -> dict[str, Tensor]:
    import torch

    tokenizer, device = policy.tokenizer, policy.head.device
    ids, mask = (torch.tensor(rows, device=device) for rows in pad_left(prompts, tokenizer.pad_id))
    logits, hidden, cache = _step(policy, ids, (), mask, how)
    rows = torch.arange(len(owner), device=device)  # the rows still open
    group = torch.as_tensor(owner, device=device)
    logits, cache, seen = logits[group], cache_rows(cache, group), mask[group]
    hidden = None if hidden is None else hidden[group]
    kept = _empty(len(owner), how, tokenizer.pad_id, logits, hidden)
    draws = None if uniforms is None else torch.as_tensor(uniforms, device=device)
    fixed = getattr(policy, "response_length", None)
    longest = min(how.max_tokens, fixed or how.max_tokens)
    for place in range(longest):
        word = choose(logits[:, -1], None if draws is None else draws[rows, place], how)
        _keep(kept, rows, place, word, logits[:, -1], how)
        if hidden is not None:
            kept["hidden"][rows, place] = hidden[:, -1]
        ended = word == tokenizer.eos_id
        for index in _stopped(kept["action"][rows, : place + 1], how.stop, tokenizer):
            ended[index] = True
        if place + 1 == fixed:
            ended[:] = True
        kept["finished"][rows] = ended
        if place + 1 == longest or bool(ended.all()):
            break
        if bool(ended.any()):
            rows, word, seen, cache = rows[~ended], word[~ended], seen[~ended], cache_rows(cache, ~ended)
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        logits, hidden, cache = _step(policy, word[:, None], cache, seen, how)
    return kept


def _step(policy: Any, ids: Tensor, cache: Any, seen: Tensor, how: Decoding) -> tuple[Tensor, Tensor | None, Any]:
    """Logits of the last token, what the head read there (if it is kept), and the cache."""
    if not how.keep_hidden:
        logits, cache = policy.step(ids, cache, seen, last=True)
        return logits, None, cache
    hidden, cache = policy(ids, seen, cache, last=True, headless=True)
    return hidden @ policy.head.T, hidden, cache


def choose(logits: Tensor, draw: Tensor | None, how: Decoding) -> Tensor:
    """The next word of each row: int64 [B] from logits [B, V] and uniform numbers float64 [B] (None: the most probable word).

    Probabilities become integer weights of 2^-53, so that the running sum is exact, equal on every device, and a word of weight 0 (one that
    `top_p` or `top_k` cut away) is never chosen.
    """
    import torch

    if draw is None or how.temperature == 0:
        return logits.argmax(-1)
    weight = (torch.softmax(logits.double() / how.temperature, dim=-1) * 2.0**53).round().long()
    if 0 < how.top_k < weight.shape[-1]:
        weight = weight.where(weight >= weight.topk(how.top_k, dim=-1).values[:, -1:], 0)
    if how.top_p < 1:
        falling = weight.sort(dim=-1, descending=True).values
        before = falling.cumsum(dim=-1) - falling
        stays = before < how.top_p * falling.sum(-1, keepdim=True)
        weight = weight.where(weight >= falling.where(stays, falling[:, :1]).amin(-1, keepdim=True), 0)
    sums = weight.cumsum(dim=-1)
    total = sums[:, -1:]
    target = (draw[:, None] * total.double()).long().minimum(total - 1)
    return torch.searchsorted(sums, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def draws_of(key: random.Key, ids: numpy.ndarray, copies: numpy.ndarray, length: int) -> numpy.ndarray:
    """The uniform numbers of responses: float64 [B, length], a function of the key, the prompt's id, the copy and the place alone."""
    places = numpy.arange(length)[None, :] + (copies[:, None] << 32)
    return random.uniform(key, places, stream=ids[:, None])


def texts(actions: Tensor, mask: Tensor, tokenizer: Any, stop: Sequence[str] = ()) -> list[str]:
    """The responses as text, without the end token and without what begins with a stop text."""
    found = []
    for row, length in zip(actions.tolist(), mask.sum(-1).tolist()):
        text = tokenizer.decode(word for word in row[:length] if word != tokenizer.eos_id)
        cut = min((text.find(mark) for mark in stop if mark in text), default=len(text))
        found.append(text[:cut])
    return found


def _stopped(actions: Tensor, stop: Sequence[str], tokenizer: Any) -> list[int]:
    """The rows whose text so far holds a stop text."""
    if not stop:
        return []
    return [index for index, row in enumerate(actions.tolist()) if any(mark in tokenizer.decode(row) for mark in stop)]


def _empty(count: int, how: Decoding, pad_id: int, logits: Tensor, hidden: Tensor | None) -> dict[str, Tensor]:
    import torch

    shape, device = (count, how.max_tokens), logits.device
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    kept = {
        "action": torch.full(shape, pad_id, device=device),
        "mask": torch.zeros(shape, dtype=torch.bool, device=device),
        "logp": torch.zeros(shape, dtype=real, device=device),
        "entropy": torch.zeros(shape, dtype=real, device=device),
        "finished": torch.zeros(count, dtype=torch.bool, device=device),
    }
    if how.keep_top:
        top = min(how.keep_top, logits.shape[-1])
        kept["top_logits"] = torch.zeros((*shape, top), dtype=real, device=device)
        kept["top_words"] = torch.zeros((*shape, top), dtype=torch.int64, device=device)
    if hidden is not None:
        kept["hidden"] = torch.zeros((*shape, hidden.shape[-1]), dtype=real, device=device)
    return kept


def _keep(kept: dict[str, Tensor], rows: Tensor, place: int, word: Tensor, logits: Tensor, how: Decoding) -> None:
    kept["action"][rows, place] = word
    kept["mask"][rows, place] = True
    table = log_probabilities(logits, how.scored_at)
    kept["logp"][rows, place], kept["entropy"][rows, place] = at_words(table, word), entropies(table)
    if how.keep_top:
        top = kept["top_logits"].shape[-1]
        kept["top_logits"][rows, place], kept["top_words"][rows, place] = logits.to(kept["top_logits"].dtype).topk(top, dim=-1)


def response_fields(sample: tuple[str, int | None], token: tuple[str, int | None], word: tuple[str, int | None]) -> dict[str, FieldSpec]:
    """What a record of responses holds whoever asked for them: the prompt's words, and what was written with its statistics."""
    return {
        "ids": FieldSpec("int", (sample, ("place", None)), target=word, padded=True),
        "prompt_mask": FieldSpec("bool", (sample, ("place", None))),
        "mask": FieldSpec("bool", (sample, token)),
        "action": FieldSpec("int", (sample, token), target=word, padded=True),
        "logp_old": FieldSpec("real", (sample, token), padded=True),
        "entropy_old": FieldSpec("real", (sample, token), padded=True),
        "length": FieldSpec("int", (sample,)),
        "finished": FieldSpec("bool", (sample,)),
    }

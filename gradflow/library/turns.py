"""Responses with tool calls, token by token: the loop behind `agent`, `continue_paths` and `agent_pass_at_1`, which `agents.py` wraps into records.

A response is a sequence of turns, each what the policy writes between two answers of a tool. All rows of a batch go through the model together, a
token at a time and with one cache: while a row reads an answer its next token is given, while it writes it is drawn, so that no row waits for another
and the cache has no holes. A token's random number belongs to (prompt id, copy, place in the response) alone, as in `sampling.py`; where the places
of tokens are the same, it does not matter in how many pieces a response was drawn, or beside which others.

Axes: B rows, T tokens of a response (the policy's and the tools', in order), V words, G prompts, K likeliest words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradflow.library.deferred import numpy, random
from gradflow.library.language_models import cache_rows, pad_left
from gradflow.library.sampling import Decoding, by_pieces, choose
from gradflow.library.scoring import at_words, entropies, log_probabilities
from gradflow.library.tools import Tool

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Turns:
    """Where one row stands: the turn it writes or reads up to, its own tokens of that turn, calls answered, tokens still to be read, and for how
    many tokens there is room (None: as many as are asked for)."""

    turn: int = 0
    calls: int = 0
    said: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    open: bool = True  # may go on
    asked: str | None = None  # the call that the turn ended in
    room: int | None = None

    def reads(self, tokens: list[int]) -> None:
        """A call is answered: these tokens come next, then a new turn."""
        self.pending, self.said, self.asked = list(tokens), [], None
        self.calls, self.turn = self.calls + 1, self.turn + 1

    def counts(self) -> None:
        """One more token stands; where the room is used up, nothing follows."""
        if self.room is not None:
            self.room -= 1
            self.open = self.open and self.room > 0


@dataclass(frozen=True)
class Rules:
    """How long an episode may be. `calls`: answered calls a response; `once`: stop at the first call or end, without answering it."""

    tool: Tool
    calls: int
    once: bool = False


def play(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    owner: numpy.ndarray,
    turns: Sequence[Turns],
    draws: numpy.ndarray | None,
    how: Decoding,
    rules: Rules,
) -> dict[str, Tensor]:
    """Goes on with rows that begin with `prompts` (ids, G lists; row b with `prompts[owner[b]]`, int64 [B] ascending), for up to how.max_tokens
    tokens.

    `turns` [B] says where the rows stand and is brought up to date; `draws` float64 [B, T] are the tokens' random numbers (None: the likeliest
    words). Returns tensors [B, T], padded on the right: action int64; here bool (a token stands here); mask bool (the policy wrote it); turn int64
    (-1 where mask is false); logp, entropy (0 where mask is false); with how.keep_top K also likely [B, T, K], the largest log-probabilities, 0 where
    mask is false; and finished bool [B]: ended by the end token or a stop text.
    """

    def piece(part: slice, asked: slice, own: numpy.ndarray) -> dict[str, Tensor]:
        return _play_rows(policy, prompts[asked], own, turns[part], None if draws is None else draws[part], how, rules)

    return by_pieces(policy, owner, piece)


def _play_rows(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    owner: numpy.ndarray,
    turns: Sequence[Turns],
    draws: numpy.ndarray | None,
    how: Decoding,
    rules: Rules,
) -> dict[str, Tensor]:
    import torch

    device = policy.head.device
    ids, mask = (torch.tensor(rows, device=device) for rows in pad_left(prompts, policy.tokenizer.pad_id))
    logits, cache = policy.step(ids, (), mask, last=True)
    group = torch.as_tensor(owner, device=device)
    logits, cache, seen = logits[group], cache_rows(cache, group), mask[group]
    kept = empty(len(owner), how, policy.tokenizer.pad_id, logits)
    numbers = None if draws is None else torch.as_tensor(draws, device=device)
    alive = [row for row, one in enumerate(turns) if one.open]
    if len(alive) < len(turns):
        rows = torch.tensor(alive, dtype=torch.int64, device=device)
        logits, cache, seen = logits[rows], cache_rows(cache, rows), seen[rows]
    for place in range(how.max_tokens):
        if not alive:
            break
        rows = torch.tensor(alive, device=device)
        drawn = choose(logits[:, -1], None if numbers is None else numbers[rows, place], how)
        words, wrote = _next_words(drawn.tolist(), [turns[row] for row in alive])
        word = torch.tensor(words, device=device)
        keep(kept, rows, place, word, torch.tensor(wrote, device=device), [turns[row].turn for row in alive], logits[:, -1], how)
        for row, one, own in zip(alive, words, wrote, strict=True):
            if own:
                kept["finished"][row] = _written(turns[row], one, policy.tokenizer, how, rules)
            turns[row].counts()
        stays = [turns[row].open for row in alive]
        if place + 1 == how.max_tokens:
            break
        if not all(stays):
            on = torch.tensor(stays, device=device)
            word, seen, cache = word[on], seen[on], cache_rows(cache, on)
            alive = [row for row, stay in zip(alive, stays, strict=True) if stay]
        if alive:
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
            logits, cache = policy.step(word[:, None], cache, seen, last=True)
    return kept


def _next_words(drawn: list[int], turns: list[Turns]) -> tuple[list[int], list[bool]]:
    """The word of each row, and whether the policy writes it: what a tool said comes first."""
    words, wrote = [], []
    for one, state in zip(drawn, turns, strict=True):
        wrote.append(not state.pending)
        words.append(state.pending.pop(0) if state.pending else one)
    return words, wrote


def _written(state: Turns, word: int, tokenizer: Any, how: Decoding, rules: Rules) -> bool:
    """A row has written a word: whether that ends the response well. A call in it is answered, or ends the response where no more are allowed."""
    if word == tokenizer.eos_id:
        state.open = False
        return True
    state.said.append(word)
    closing = rules.tool.closes[-1] in tokenizer.decode([word])
    text = tokenizer.decode(state.said) if closing or how.stop else ""
    if any(mark in text for mark in how.stop):
        state.open = False
        return True
    state.asked = rules.tool.call_in(text) if closing else None
    if state.asked is not None and (rules.once or state.calls >= rules.calls):
        state.open = False
    elif state.asked is not None:
        state.reads(tokenizer.encode(rules.tool.observation(state.asked)))
    return False


def empty(count: int, how: Decoding, pad_id: int, logits: Tensor) -> dict[str, Tensor]:
    """What `play` returns, with no token in it."""
    import torch

    shape, device = (count, how.max_tokens), logits.device
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    kept = {
        "action": torch.full(shape, pad_id, device=device),
        "here": torch.zeros(shape, dtype=torch.bool, device=device),
        "mask": torch.zeros(shape, dtype=torch.bool, device=device),
        "turn": torch.full(shape, -1, device=device),
        "logp": torch.zeros(shape, dtype=real, device=device),
        "entropy": torch.zeros(shape, dtype=real, device=device),
        "finished": torch.zeros(count, dtype=torch.bool, device=device),
    }
    if how.keep_top:
        kept["likely"] = torch.zeros((*shape, how.keep_top), dtype=real, device=device)
    return kept


def keep(kept: dict[str, Tensor], rows: Tensor, place: int, word: Tensor, wrote: Tensor, turn: list[int], logits: Tensor, how: Decoding) -> None:
    kept["action"][rows, place] = word
    kept["here"][rows, place] = True
    kept["mask"][rows, place] = wrote
    own = rows[wrote]
    if not len(own):
        return
    table = log_probabilities(logits[wrote], how.scored_at)
    kept["turn"][own, place] = wrote.new_tensor(turn, dtype=kept["turn"].dtype)[wrote]
    kept["logp"][own, place], kept["entropy"][own, place] = at_words(table, word[wrote]), entropies(table)
    if how.keep_top:
        top = min(how.keep_top, table.shape[-1])
        kept["likely"][own, place, :top] = table.topk(top, dim=-1).values.to(kept["likely"].dtype)


def numbers_of(key: random.Key, ids: numpy.ndarray, copies: numpy.ndarray, first: numpy.ndarray, length: int) -> numpy.ndarray:
    """The random numbers of `length` tokens from place `first` on: float64 [B, length], those of `sampling.draws_of` at these places."""
    places = first[:, None] + numpy.arange(length)[None, :] + (copies[:, None] << 32)
    return random.uniform(key, places, stream=ids[:, None])

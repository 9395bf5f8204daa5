"""Live log-probabilities of drawn responses: what `score` computes, at the response's tokens only.

The prompt goes through the model, for attention, but never through the head: the hidden states that predict a drawn token are gathered
first, so the table of logits has one row for each token that counts. Columns that are padding in every row are cut away beforehand.

Axes: B rows, L places of prompt and response, P prompt width, T tokens of a response, N drawn tokens of all rows, W width, V words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) along V, [N, V]: in float32, or in float64 for float64 logits."""
    import torch

    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def at_words(table: Tensor, word: Tensor) -> Tensor:
    """The entry of each row [N, V] at its word, int64 [N]: [N]."""
    return table.gather(-1, word[:, None])[:, 0]


def entropies(table: Tensor) -> Tensor:
    """The entropy of each row of log-probabilities [N, V], in nats: [N]."""
    return -(table.exp() * table).sum(-1)


def response_hidden(policy: Any, samples: Mapping[str, Any]) -> Tensor:
    """What the head reads at each place that predicts a drawn token: [N, W], rows in the order of `samples["mask"]`.

    Needs the fields ids [B, L], prompt_mask [B, L], mask [B, T], length [B]. Attention sees the response up to its length; `mask` may hold
    fewer tokens (some chosen ones, or only those that the policy wrote). With `policy.head` [V, W] this is the input of a fused loss that
    never holds the logits.
    """
    import torch

    if "rows" in samples:  # packed by a schedule
        return samples["rows"].hidden(policy, samples["mask"])
    ids, prompt_mask, mask, length = (samples[name] for name in ("ids", "prompt_mask", "mask", "length"))
    width = ids.shape[1] - mask.shape[1]
    first = int(prompt_mask.any(0).long().argmax())  # columns before it hold no prompt token in any row
    last = max(int(length.max()), 1)
    places = torch.arange(last - 1, device=ids.device)  # the last token predicts nothing
    seen = torch.cat([prompt_mask[:, first:width], places < length[:, None]], dim=1)
    hidden = policy.hidden(ids[:, first : width + last - 1], seen)
    return hidden[:, width - first - 1 :][mask[:, :last]]


def live_statistics(policy: Any, samples: Mapping[str, Any], temperature: float = 1.0, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """logp and entropy [B, T] of the drawn tokens under the present parameters, with gradient; 0 where there is no token."""
    mask = samples["mask"]
    if not len(mask):  # no sample at all
        nothing = policy.head.new_zeros(mask.shape)
        return nothing, nothing if entropy else None
    table = log_probabilities(response_hidden(policy, samples) @ policy.head.T, temperature)
    logp = at_words(table, samples["action"][mask])
    zeros = logp.new_zeros(mask.shape)
    return zeros.masked_scatter(mask, logp), zeros.masked_scatter(mask, entropies(table)) if entropy else None


def token_values(model: Any, head: Any, samples: Mapping[str, Any]) -> Tensor:
    """What `head` (W -> 1) makes of the state before each drawn token: [B, T], 0 where there is no token."""
    mask = samples["mask"]
    if not len(mask):
        return model.head.new_zeros(mask.shape)
    value = head(response_hidden(model, samples))
    return value.new_zeros(mask.shape).masked_scatter(mask, value)


def class_logits(model: Any, head: Any, samples: Mapping[str, Any]) -> Tensor:
    """What `head` (W -> classes) makes of the last token of each response, or of its prompt where there is none: [B, classes], [B] for one."""
    import torch

    ids, prompt_mask, mask, length = (samples[name] for name in ("ids", "prompt_mask", "mask", "length"))
    if not len(mask):
        return head(model.head.new_zeros(0, model.head.shape[1]))
    width = ids.shape[1] - mask.shape[1]
    first = int(prompt_mask.any(0).long().argmax())
    last = int(length.max())
    seen = torch.cat([prompt_mask[:, first:width], torch.arange(last, device=ids.device) < length[:, None]], dim=1)
    hidden = model.hidden(ids[:, first : width + last], seen)
    place = (width - first - 1 + length).clamp(max=hidden.shape[1] - 1)
    return head(hidden[torch.arange(len(ids), device=ids.device), place])

"""Rollouts: drawing responses from a policy, scoring them under the present parameters, measuring accuracy.

A record is a plain dictionary of tensors with the fields of `sample_fields`. The loops are in `sampling.py` and `scoring.py`, tasks and their
verifiers in `text_tasks.py`. Parameters of a primitive without a declared domain are the runtime's: they place the draw (seed, tick, ...) or
ask for a field that costs extra. What a primitive returns, before torch is there, is said by the functions in `RESULT_TYPES`.

Axes: prompt (the tick's tasks), sample (a response; a prompt's responses stand together), token (a place in the response, padded on the right),
place (a place in prompt and response: the prompt padded on the left, then the tokens), word (of the vocabulary), top (the likeliest words).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradflow.library.agent_tests import RESULT_TYPES as AGENT_TYPES
from gradflow.library.answer_pairs import answer_pairs_fields
from gradflow.library.answers import RESULT_TYPES as ANSWER_TYPES
from gradflow.library.asking import ask, copies_of
from gradflow.library.catalogue import DataSpec, FieldSpec, ModelSpec, primitive
from gradflow.library.deferred import numpy, random
from gradflow.library.episodes import episode_fields, generate_fields
from gradflow.library.heads import head_fields, read_head
from gradflow.library.language_models import pad_left
from gradflow.library.paths import RESULT_TYPES as PATH_TYPES
from gradflow.library.records import RESULT_TYPES as RECORD_TYPES
from gradflow.library.rewards import RESULT_TYPES as REWARD_TYPES
from gradflow.library.sampling import Decoding, draws_of, generate, response_fields, texts
from gradflow.library.scoring import live_statistics
from gradflow.library.text_tasks import Tasks

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]

# ---- sample


@primitive(
    "call", policy="model", tasks="data", group="int >= 0", prompts="int >= 1", max_tokens="int >= 1", temperature="real > 0",
    top_p="real in (0, 1]", top_k="int >= 0", stop="text", scored_at="real > 0", keep_top="int >= 0", keep_hidden="bool",
)  # fmt: skip
def sample(
    policy: Any,
    tasks: Tasks,
    group: int | Sequence[int] = 8,
    prompts: int | None = None,
    max_tokens: int = 24,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] = "",
    scored_at: float = 1.0,
    keep_top: int = 0,
    keep_hidden: bool = False,
    *,
    seed: int,
    tick: int,
    site: tuple[int | str, ...] = (),
    visit: int | None = None,
) -> Record:
    """Draws `group` responses to each of `prompts` tasks and has them verified.

    `group`: responses a prompt, one number or one for each prompt (0 is none); `prompts`: how many tasks (default: the data set's `batch`, else
    all; ignored where `tasks.rows` says which); `max_tokens`: longest response; `temperature`, `top_p`, `top_k` (0: all) shape the draw;
    `stop`: a text that ends a response, or several; `scored_at`: the temperature at which `logp_old` is taken, of the full distribution;
    `keep_top`: how many of the largest logits to keep; `keep_hidden`: whether to keep what the output layer read before each token.
    `seed`, `tick` (from 0) and `site` (the place in the text, loop indices) key the draw, with prompt id, copy and place in the response; `visit`
    (default `tick`) counts the batches of prompts, which are drawn without replacement within an epoch.
    Returns a record, on the policy's device. Of each response: reward, correct, length, finished [sample], text; group [sample -> prompt] and task
    [sample -> task], which it answers; copy, which of its group it is. Of its tokens: mask (those there are), action (the words), logp_old and
    entropy_old [sample, token]. Of prompts: ids, prompt_mask [sample, place], prompt_id [prompt]. With `keep_top` logits_old, word [sample, token,
    top]. `gradflow explain samples.mask` says what a field is. Raises ValueError where there are fewer tasks than `prompts`, or where no response
    is asked for.
    """
    began = time.perf_counter()
    tasks = tasks.of_tick(seed, tick if visit is None else visit, prompts)
    asked, ids = ask(policy, tasks)
    owner, copies = copies_of(group, len(asked))
    marks = tuple(filter(None, [stop] if isinstance(stop, str) else stop))
    how = Decoding(max_tokens, float(temperature), float(top_p), top_k, marks, float(scored_at), keep_top, keep_hidden)
    draws = draws_of(random.key(seed, "sample", tick, *site), ids[owner], copies, max_tokens)
    drawn = generate(policy, asked, owner, draws, how)
    answers = texts(drawn["action"], drawn["mask"], policy.tokenizer, marks)
    reward = tasks.verify(ids[owner], answers)
    record = record_of(drawn, pad_left(asked, policy.tokenizer.pad_id), ids, owner, copies, reward)
    record |= {"prompt_id": record["group"].new_tensor(ids), "text": answers}
    record["tokens_per_second"] = int(record["mask"].sum()) / (time.perf_counter() - began)
    return record


def record_of(drawn: dict[str, Tensor], asked: Any, ids: Any, owner: numpy.ndarray, copies: numpy.ndarray, reward: numpy.ndarray) -> Record:
    """The fields along `sample` of responses (action, mask, logp, entropy, finished) to padded prompts: whose, the how manieth, and their worth."""
    import torch

    device = drawn["mask"].device
    group = torch.as_tensor(owner, device=device)
    prompt, prompt_mask = (torch.tensor(rows, device=device)[group] for rows in asked)
    record = {
        "ids": torch.cat([prompt, drawn["action"]], dim=1),
        "prompt_mask": torch.cat([prompt_mask, torch.zeros_like(drawn["mask"])], dim=1),
        "mask": drawn["mask"],
        "action": drawn["action"],
        "logp_old": drawn["logp"],
        "entropy_old": drawn["entropy"],
        "length": drawn["mask"].sum(-1),
        "finished": drawn["finished"],
        "reward": torch.as_tensor(reward, dtype=drawn["logp"].dtype, device=device),
        "correct": torch.as_tensor(reward >= 1, device=device),
        "group": group,
        "task": torch.as_tensor(ids, device=device)[group],
        "copy": torch.as_tensor(copies, device=device),
    }
    if "top_logits" in drawn:
        record |= {"logits_old": drawn["top_logits"], "word": drawn["top_words"]}
    if "hidden" in drawn:
        record["hidden_old"] = drawn["hidden"]
    return record


def sample_fields(
    policy: ModelSpec,
    tasks: DataSpec,
    group: Any = 8,
    prompts: Any = None,
    max_tokens: Any = 24,
    keep_top: Any = 0,
    keep_hidden: Any = False,
    **options: Any,
) -> Mapping[str, FieldSpec]:
    """The record of `sample`. Sizes that are not plain numbers at compile time stay open; `options` do not matter to the type."""
    whole = tasks.fields[tasks.splits[0]]["question"].axes[0][1]
    drawn = tasks.facts.get("drawn")  # rows that were chosen before: their number, -1 where it is open
    asked = (drawn if drawn != -1 else None) if isinstance(drawn, int) else _number(prompts) if prompts is not None else tasks.batch or whole
    each = _number(group)
    size = asked * each if asked is not None and each is not None else None
    sample, prompt, token = ("sample", size), ("prompt", asked), ("token", _number(max_tokens))
    word = ("word", _number(policy.facts.get("vocabulary")))
    fields = {
        **response_fields(sample, token, word),
        "reward": FieldSpec("real", (sample,)),
        "correct": FieldSpec("bool", (sample,)),
        "group": FieldSpec("int", (sample,), target=prompt),
        "task": FieldSpec("int", (sample,), target=("task", tasks.tasks)),
        "copy": FieldSpec("int", (sample,)),
        "prompt_id": FieldSpec("int", (prompt,)),
        "text": FieldSpec("text", (sample,)),
        "tokens_per_second": FieldSpec("real", ()),
    }
    if keep_top != 0:
        top = ("top", min(keep_top, word[1] or keep_top) if isinstance(keep_top, int) else None)
        fields["logits_old"] = FieldSpec("real", (sample, token, top), padded=True)
        fields["word"] = FieldSpec("int", (sample, token, top), target=word, padded=True)
    if keep_hidden:
        fields["hidden_old"] = FieldSpec("real", (sample, token, ("dim", _number(policy.facts.get("width")))), padded=True)
    return fields


def given_fields(policy: ModelSpec, tasks: DataSpec, group: Any = 1, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `demonstrations`: that of `sample`, of responses that nobody had to draw."""
    fields = dict(sample_fields(policy, tasks, group, **options))
    del fields["tokens_per_second"]
    return fields


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


# ---- score


@primitive("call", policy="model", samples="record", reference="model", temperature="real > 0")
def score(policy: Any, samples: Mapping[str, Any], reference: Any = None, temperature: float = 1.0, entropy: bool = False, head: str = "") -> Record:
    """The record of `sample` with the log-probability of each drawn token under the present parameters, through which the gradient flows.

    Adds `logp` [sample, token] = log softmax(logits / temperature) at the token, 0 where there is none; with `entropy` also `entropy`
    [sample, token] of the distribution, in nats; with `reference`, a model that gets no gradient, each again as `logp_ref`, `entropy_ref`.
    A model with a head has what that reads: `value` [sample, token] and `value_old`, which is `value` as it was when the unit began
    (`value_head`), `logit` [sample] or [sample, class] (`classifier`); with `head` the field of that name is all that is added.
    Works on any rows of a record. Equal to `logp_old` before the policy has moved, for `temperature` = `scored_at`.
    """
    import torch

    record = dict(samples)
    if head:
        return record | {head: read_head(policy, samples, head)}
    record["logp"], spread = live_statistics(policy, samples, float(temperature), entropy)
    if entropy:
        record["entropy"] = spread
    if reference is not None:
        with torch.no_grad():
            record["logp_ref"], spread = live_statistics(reference, samples, float(temperature), entropy)
        if entropy:
            record["entropy_ref"] = spread
    return record


def score_fields(policy: ModelSpec, samples: Mapping[str, FieldSpec], reference: Any = None, **options: Any) -> Mapping[str, FieldSpec]:
    """The record of `score`; `entropy` is there for whoever asks, the runtime then passes `entropy=True`."""
    axes = samples["mask"].axes
    fields = dict(samples)
    for name in ("logp", "entropy"):
        fields[name] = FieldSpec("real", axes, padded=True, live=True)
        if reference is not None:
            fields[name + "_ref"] = FieldSpec("real", axes, padded=True)
    return fields | head_fields(policy, samples)


# ---- accuracy


@primitive("call", policy="model", tasks="data", max_tokens="int >= 1", greedy="bool")
def pass_at_1(policy: Any, tasks: Tasks, max_tokens: int = 24, greedy: bool = True, seed: int = 0) -> Tensor:
    """The share of a split's tasks (or of `tasks.rows`) whose one response earns the full reward, 1.

    `greedy`: always the likeliest word; else one draw at temperature 1, the same for every call with this seed. Returns a float64 scalar.
    """
    import torch

    asked, ids = ask(policy, tasks)
    draws = None if greedy else draws_of(random.key(seed, "pass_at_1"), ids, numpy.zeros_like(ids), max_tokens)
    drawn = generate(policy, asked, numpy.arange(len(asked)), draws, Decoding(max_tokens))
    reward = tasks.verify(ids, texts(drawn["action"], drawn["mask"], policy.tokenizer))
    return torch.tensor(float(numpy.mean(reward >= 1)), dtype=torch.float64)


def pass_at_1_fields(policy: ModelSpec, tasks: DataSpec, **options: Any) -> FieldSpec:
    """A number."""
    return FieldSpec("real", ())


RESULT_TYPES: Mapping[str, Callable[..., Mapping[str, FieldSpec] | FieldSpec]] = {
    "sample": sample_fields,
    "score": score_fields,
    "pass_at_1": pass_at_1_fields,
    "answer_pairs": answer_pairs_fields,
    **AGENT_TYPES,
    **PATH_TYPES,
    "episode": episode_fields,
    "generate": generate_fields,
    **RECORD_TYPES,
    **REWARD_TYPES,
    "demonstrations": given_fields,
    **ANSWER_TYPES,
}

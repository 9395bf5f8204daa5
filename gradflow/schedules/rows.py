"""A schedule carried out: the record of some samples to the rows that a model is called with, and back.

`Rows` sits on the runner of a model and packs the record of every call of `score`. Where packing would gain nothing or not be exact, the record is
handed on as it is, and `why` says the reason of the last time. Micro-batches are cut so that the samples of a group stay together.

Axes: B samples, P prompts (rows), L slots of a row, T tokens of a response, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from gradflow.library.row_attention import Blocks, blocks_of
from gradflow.schedules.gain import sampled
from gradflow.schedules.plan import HOOK, SchedulePlan

PAIRS = 1 << 26  # pairs of slots whose visibility is looked at together: bounds the memory for it
RECORD = "rows"  # the key under which a packed record travels with the plain one

Lower = Callable[[Any], Callable[[Mapping[tuple[str, ...], Any]], Mapping[str, Any]]]


@dataclass(frozen=True)
class Packed:
    """`word`, `place` [P, L]; `seen`: what attends to what; `read` [B, T']: among P L slots the one that predicts a token."""

    word: Tensor
    place: Tensor
    seen: tuple[Blocks, ...]
    read: Tensor

    def hidden(self, policy: Any, mask: Tensor) -> Tensor:
        """What the head reads at each place that predicts a token of `mask` [B, T]: [N, W]."""
        found = policy.rows(self.word, self.place, self.seen)
        return found.flatten(0, 1).index_select(0, self.read[mask[:, : self.read.shape[1]]])


class Rows:
    """`whole`: the field whose groups a micro-batch holds whole."""

    def __init__(self, plan: SchedulePlan, lower: Lower, distinct: Callable[[int], int]):
        self.plan, self.whole = plan, plan.whole
        self.distinct = distinct  # how many prompts stand behind so many samples, where nothing has a value
        self.prompt = 0  # columns of the longest prompt so far
        self._lower = lower
        self._lowered: tuple[Any, Any] | None = None
        self.why = ""

    def cut(self, group: Tensor, count: int) -> list[Tensor]:
        """The rows of each micro-batch."""
        if isinstance(group, FakeTensor):
            return list(torch.arange(len(group)).tensor_split(count))
        return whole_groups(group, count)

    def packed(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with its rows, or as it is."""
        found = self.pack(record)
        return record if found is None else {**record, RECORD: found}

    def pack(self, record: Mapping[str, Any]) -> Packed | None:
        group = record.get("group")
        if group is None:
            self.why = "the record does not say which samples share a prompt"
            return None
        self.prompt = max(self.prompt, record["ids"].shape[1] - record["mask"].shape[1])
        if isinstance(group, FakeTensor):
            return stand_in(record, self.distinct(len(group)))
        prompts, group = group.unique(return_inverse=True)
        if len(prompts) == len(group):
            self.why = "every sample has a prompt of its own"
            return None
        fields = shared_fields(record, group, len(prompts))
        if fields is None:
            self.why = "samples of one group answer different prompts"
            return None
        self.why = ""
        layout, sees = self._regions()
        rows = layout(as_inputs(fields))
        slots = rows["word"].shape[1]
        seen = self._seen(sees, fields, len(prompts), slots)
        blocks = blocks_of(seen, rows["piece"], rows["filled"])
        return Packed(rows["word"], rows["place"], blocks, group[:, None] * slots + rows["slot"])

    def _regions(self) -> tuple[Any, Any]:
        if self._lowered is None:
            self._lowered = self._lower(self.plan.layout), self._lower(self.plan.sees)
        return self._lowered

    def _seen(self, sees: Any, fields: Mapping[str, Tensor], prompts: int, slots: int) -> Tensor:
        """Which slot sees which, [P, L, L]; of so many rows at once that the pairs are not too many. Rows are padded on the right."""
        step = max(PAIRS // max(slots * slots, 1), 1)
        if step >= prompts:
            return sees(as_inputs(fields))["visible"]
        found = torch.zeros(prompts, slots, slots, dtype=torch.bool, device=fields["group"].device)
        for start in range(0, prompts, step):
            stop = min(start + step, prompts)
            inside = (fields["group"] >= start) & (fields["group"] < stop)
            own = {name: value[inside] if name in ("response", "response_mask") else value[start:stop] for name, value in fields.items()}
            part = sees(as_inputs({**own, "group": fields["group"][inside] - start}))["visible"]
            found[start:stop, : part.shape[1], : part.shape[2]] = part
        return found


def stand_in(record: Mapping[str, Tensor], prompts: int) -> Packed | None:
    """Rows without values, of the sizes that they would have if all responses were as long as they may be."""
    (samples, tokens), width = record["mask"].shape, record["ids"].shape[1] - record["mask"].shape[1]
    if prompts >= samples:
        return None
    index = record["ids"].new_zeros
    slots = width + -(-samples // prompts) * tokens
    sizes = ((prompts, width, width), (samples, tokens, width + tokens))
    blocks = tuple(Blocks(index(n, q), index(n, k), index(n * q), index(n, q, k, dtype=torch.bool)) for n, q, k in sizes)
    return Packed(index(prompts, slots), index(prompts, slots), blocks, index(samples, tokens))


def as_inputs(fields: Mapping[str, Tensor]) -> dict[tuple[str, ...], Tensor]:
    return {("input", name): value for name, value in fields.items()}


def shared_fields(record: Mapping[str, Tensor], group: Tensor, prompts: int) -> dict[str, Tensor] | None:
    """The fields of a record that a schedule reads; None where the samples of a group do not share their prompt.

    The last token of a response predicts nothing and takes no place.
    """
    ids, prompt_mask, mask, length = (record[name] for name in ("ids", "prompt_mask", "mask", "length"))
    width, tokens = ids.shape[1] - mask.shape[1], max(int(length.max()) - 1, 1)
    prompt, real = ids[:, :width], prompt_mask[:, :width]
    samples = torch.arange(len(group), device=group.device)
    first = torch.full((prompts,), len(group), device=group.device).scatter_reduce(0, group, samples, "amin")
    own = first[group]
    if not bool(((real == real[own]) & ((prompt == prompt[own]) | ~real)).all()):
        return None
    cut = int(real.any(0).long().argmax())  # columns before it hold no prompt token in any row
    return {
        "prefix": prompt[first, cut:],
        "prefix_mask": real[first, cut:],
        "response": ids[:, width : width + tokens],
        "response_mask": torch.arange(tokens, device=ids.device) < length[:, None] - 1,
        "group": group,
    }


def whole_groups(group: Tensor, count: int) -> list[Tensor]:
    """The samples in `count` pieces of about equally many groups, none of them cut, or in as many as there are groups: indices."""
    names, own = group.unique(return_inverse=True)
    piece = own * min(count, len(names)) // len(names)
    return [(piece == number).nonzero()[:, 0] for number in range(min(count, len(names)))]


def attach(program: Any, runners: Mapping[str, Any], backend: str, device: torch.device) -> None:
    """Puts the schedule of a program to work on the models that can use it."""
    from gradflow.runtime.devices import dropout_of

    plan: SchedulePlan | None = program.schedule
    if plan is None:
        return
    drawn = sampled(program)
    idle = {name for name, _ in plan.idle}
    for name, runner in runners.items():
        if runner.rows is None and name not in idle and HOOK in runner.spec.methods and not any(map(dropout_of, runner.module.modules())):
            runner.rows = Rows(plan, lowering(backend, device), drawn[0].distinct if drawn else lambda samples: samples)


def lowering(backend: str, device: torch.device) -> Lower:
    """Regions of whole numbers lowered by a backend, with tensors going in and out."""
    if backend != "reference":
        from gradflow.backends.torch import lower

        return lambda region: lower(region, device=device, dtype=torch.float64)
    from gradflow.backends.reference import lower as exact

    def lowered(region: Any) -> Callable[[Mapping[tuple[str, ...], Any]], Mapping[str, Any]]:
        run = exact(region)
        return lambda given: {
            name: torch.as_tensor(value, device=device) for name, value in run({key: x.cpu().numpy() for key, x in given.items()}).items()
        }

    return lowered

"""Carries out what acts: calls with what is computed for them, held values, loops. Formulas are regions, which the run evaluates.

Held values go to `held`, records of calls and what loops carry to the world's `records`, states to the store. Texts stay with the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradflow.graph.graph import Region
from gradflow.language.source import Span
from gradflow.procedures.acts import Act, Draw, Hold, Loop
from gradflow.runtime.clocks import Clocks
from gradflow.runtime.state import Store, dtype_of
from gradflow.runtime.world import World

Evaluate = Callable[[Region, Span], Mapping[str, Tensor]]


class Carrier:
    """`evaluate` runs a region where its sources are read as the run reads them. `blind`: no value is known to decide by, so loops are done once."""

    blind = False

    def __init__(self, world: World, store: Store, clocks: Clocks, held: dict[tuple[str, ...], Tensor], evaluate: Evaluate):
        self.world, self.store, self.clocks, self.held, self.evaluate = world, store, clocks, held, evaluate

    def do(self, act: Act, passes: tuple[int, ...] = ()) -> None:
        if isinstance(act, Hold):
            self._hold(act)
        elif isinstance(act, Draw):
            self._draw(act, passes)
        else:
            self._loop(act, passes)

    def _hold(self, act: Hold) -> None:
        results = self.evaluate(act.region, act.span)
        self.held.update({tuple(name.split("/")[1:]): value.clone() for name, value in results.items() if name.startswith("held/")})
        self.store.write({name: value for name, value in results.items() if name.startswith("state/")})  # behind what may be a view of them
        found = {tuple(name.split("/")): self.world.texts[text.path] for name, text in act.texts.items()}
        self.world.texts.update(found)

    def _draw(self, act: Draw, passes: tuple[int, ...]) -> None:
        call = act.call
        given = {name: value.clone() for name, value in self.evaluate(call.inputs, call.span).items()} if call.inputs is not None else {}
        record = self.world.call(call, self.clocks.seed, self.clocks.tick, given, passes)
        if act.name:
            self.held.update({(act.name, name): value for name, value in record.items()})
            texts = {("held", act.name, name): ("world", call.id, name) for name, spec in call.fields.items() if spec.base == "text"}
            self.world.texts.update({path: self.world.texts[known] for path, known in texts.items() if known in self.world.texts})

    def _loop(self, act: Loop, passes: tuple[int, ...]) -> None:
        record = self.world.records[act.id] = {name: self._nothing(type_) for name, type_ in act.empty.items()}
        self._carry(act, act.start, 0)
        for number in range(min(act.count, 1) if self.blind else act.count):
            record["pass"] = torch.tensor(number, device=self.store.device)
            if act.until is not None and not self.blind and bool(self.evaluate(act.until, act.span)["until"]):
                break
            for one in act.actions:
                self.do(one, (*passes, number))
            self._carry(act, act.next, 1)

    def _carry(self, act: Loop, region: Region, which: int) -> None:
        found = {name.split("/", 2)[2]: value.clone() for name, value in self.evaluate(region, act.span).items()}
        known = {name: pair[which] for name, pair in act.texts.items()}
        texts = {name: self.world.texts[text.path] if text is not None else [] for name, text in known.items()}
        self.world.records[act.id].update(found)
        self.world.texts.update({("world", act.id, name): value for name, value in texts.items()})

    def _nothing(self, type_: Any) -> Tensor:
        shape = [axis.size or 0 for axis in type_.axes]
        return torch.zeros(shape, dtype=dtype_of("int" if type_.target is not None else type_.base, self.store.real), device=self.store.device)


__all__ = ["Carrier"]

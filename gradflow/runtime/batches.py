"""Rows for updates: data sets on the device, and which of their rows an update sees.

`visit` counts updates over the run. An epoch is floor(rows / batch) visits; within it no row is drawn twice, and every epoch has an order of
its own, a permutation keyed by (seed, data, epoch). All flows and values of one update see the same batch; a fresh batch (`fresh` = 1, 2, ..)
is drawn the same way from orders of its own. With nodes, each node draws from the rows that it owns, keyed by its number.

Axes: sample (rows of a split), node (owners of rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from gradflow.graph.graph import Node
from gradflow.plan.program import DataPlan, Program
from gradflow.runtime import random
from gradflow.runtime.events import RunFailed
from gradflow.runtime.state import dtype_of

Path = tuple[str, ...]


class Batches:
    """The data of a program. `at` moves to an update; `read` gives the value of a source. `own`: the nodes whose rows are wanted; None: all."""

    def __init__(self, program: Program, device: torch.device, real: torch.dtype, own: tuple[int, ...] | None = None):
        self.plans = program.data
        self.device = device
        self.real = real
        self.nodes = own
        self.seed = 0
        self.visit = 0
        self._loaded: dict[str, Mapping[str, Mapping[str, Any]]] = {}
        self._whole: dict[Path, Tensor] = {}
        self._owned: dict[str, numpy.ndarray] = {}
        self._orders: dict[tuple[Any, ...], numpy.ndarray] = {}
        self._fixed: dict[Path, Tensor] = {}
        self._drawn: dict[Path, Tensor] = {}
        self._rows: dict[Path, Tensor] = {}

    def at(self, seed: int, visit: int) -> None:
        if (seed, visit) != (self.seed, self.visit):
            self.seed, self.visit = seed, visit
            self._drawn.clear()
            self._rows.clear()

    # ---- values

    def read(self, path: Path) -> Tensor:
        """data/NAME/SPLIT/FIELD/MODE[/FRESH]."""
        name, split, field, mode, *fresh = path
        if mode == "full":
            return self.whole(name, split, field)
        plan = self.plans[name]
        if mode == "node" and plan.spec.batch is None:
            if path not in self._fixed:
                self._fixed[path] = self.whole(name, split, field)[torch.as_tensor(self.owned(plan)[self.present(plan)], device=self.device)]
            return self._fixed[path]
        if path not in self._drawn:
            self._drawn[path] = self.whole(name, split, field)[self.rows(plan, mode, int(fresh[0]) if fresh else 0)]
        return self._drawn[path]

    def whole(self, name: str, split: str, field: str) -> Tensor:
        """A whole split's field on the device."""
        key = (name, split, field)
        if key not in self._whole:
            spec = self.plans[name].spec.fields[split][field]
            base = "int" if spec.target is not None else spec.base
            self._whole[key] = torch.as_tensor(self.loaded(name)[split][field], dtype=dtype_of(base, self.real), device=self.device)
        return self._whole[key]

    def loaded(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        if name not in self._loaded:
            plan = self.plans[name]
            try:
                self._loaded[name] = plan.spec.load()
            except (OSError, ImportError, ValueError) as error:
                raise RunFailed(f"the data `{name}` cannot be read: {error}", plan.span) from error
        return self._loaded[name]

    # ---- rows

    def rows(self, plan: DataPlan, mode: str, fresh: int = 0) -> Tensor:
        """The row numbers of this update's batch: [sample], or [node, sample]."""
        key = (plan.name, mode, str(fresh))
        if key not in self._rows:
            self._rows[key] = torch.as_tensor(self._draw(plan, mode, fresh), device=self.device)
        return self._rows[key]

    def _draw(self, plan: DataPlan, mode: str, fresh: int) -> numpy.ndarray:
        if mode == "node":
            owned = self.owned(plan)
            return numpy.stack([owned[node][self._stretch(plan, owned.shape[1], fresh, node)] for node in self.present(plan)])
        return self._stretch(plan, self.count(plan), fresh)

    def _stretch(self, plan: DataPlan, rows: int, fresh: int, node: int | None = None) -> numpy.ndarray:
        """This visit's places in the epoch's order of `rows` rows."""
        batch = plan.spec.batch or rows
        if batch > rows:
            owner = "" if node is None else " a node owns"
            raise RunFailed(f"`{plan.name}` draws {batch} rows for an update, there are {rows}{owner}", plan.span)
        epoch, place = divmod(self.visit, rows // batch)
        key = (self.seed, plan.name, fresh, node, epoch)
        if key not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old[-1] == epoch or old[1] != plan.name}
            words = ("batch", plan.name, epoch, *(("fresh", fresh) if fresh else ()), *(() if node is None else ("node", node)))
            self._orders[key] = random.permutation(random.key(self.seed, *words), rows)
        return self._orders[key][place * batch : (place + 1) * batch]

    def owned(self, plan: DataPlan) -> numpy.ndarray:
        """The rows of each node: int64 [node, sample]."""
        if plan.name not in self._owned:
            if plan.spec.divide is None or plan.nodes is None:
                raise RunFailed(f"the rows of `{plan.name}` are not divided among nodes", plan.span)
            try:
                self._owned[plan.name] = numpy.stack(plan.spec.divide(plan.nodes))
            except ValueError as error:
                raise RunFailed(f"`{plan.name}` cannot be divided among {plan.nodes} nodes: {error}", plan.span) from error
        return self._owned[plan.name]

    def present(self, plan: DataPlan) -> list[int]:
        """The nodes whose rows are wanted."""
        return list(self.nodes) if self.nodes is not None else list(range(plan.nodes or 0))

    def count(self, plan: DataPlan) -> int:
        """Rows of the training split."""
        split = plan.spec.splits[0]
        return next(len(column) for column in self.loaded(plan.name)[split].values())

    # ---- epochs

    def updates_per_epoch(self, sources: list[Node]) -> int:
        """How many updates one pass over the training rows takes: by the first data set that is drawn in batches; 1 where none is."""
        modes = {(source["path"][0], source["path"][3]) for source in sources if source["kind"] == "data" and source["path"][3] != "full"}
        for name, plan in self.plans.items():
            if plan.spec.batch is not None and (name, "batch") in modes:
                return max(self.count(plan) // plan.spec.batch, 1)
            if plan.spec.batch is not None and (name, "node") in modes:
                return max(self.owned(plan).shape[1] // plan.spec.batch, 1)
        return 1

    def rows_per_update(self, sources: list[Node]) -> int:
        """How many rows the sources of an update cover, for the rate: those of the first data set among them."""
        for source in sources:
            if source["kind"] == "data" and source["path"][1] == self.plans[source["path"][0]].spec.splits[0]:
                plan, mode = self.plans[source["path"][0]], source["path"][3]
                if mode == "node":
                    nodes, share = self.owned(plan).shape
                    return nodes * (plan.spec.batch or share)
                return plan.spec.batch if mode == "batch" and plan.spec.batch else self.count(plan)
        return 0

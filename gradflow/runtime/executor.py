"""The loop: carries out a `Program` unit by unit and tells what happens as events. Nothing here prints, and nothing here knows the language.

A unit of `train` is one update (steps, rounds), a pass over the training rows (epochs), or draws followed by updates on what was drawn
(rollouts: `epochs` passes over it in `minibatches` pieces). Actions run in the order of the program; flows that stand together share the
batches of a unit. Where values live is said by `state.py` (parameters, states), `batches.py` (rows), `world.py` (what was drawn) and
`clocks.py`; regions are pure and know none of it.

Axes: sample (of a batch or of a drawn record), lifted axes and param as in `state.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

import gradflow
from gradflow.analyses.arrows import known_of_gradient
from gradflow.events.runner import EventRunner, check_data
from gradflow.events.traffic import talks_of
from gradflow.graph.graph import Node, Region
from gradflow.language.source import Span
from gradflow.library.catalogue import MissingExtra
from gradflow.network.counting import counted
from gradflow.network.ledger import sending_of
from gradflow.placement.programs import sparse
from gradflow.plan.program import Assign, ModelPlan, Periodic, Program, Update
from gradflow.plan.rewriting import optimized
from gradflow.privacy.guard import Guard, guard_of
from gradflow.procedures.acts import Act, Draw
from gradflow.procedures.asked import asked
from gradflow.procedures.figures import rollout_figures
from gradflow.procedures.running import Carrier
from gradflow.runtime import random
from gradflow.runtime.batches import Batches
from gradflow.runtime.checkpoints import Checkpoint
from gradflow.runtime.clocks import Clocks
from gradflow.runtime.cuts import Cut, cut_together, grouping, minibatches
from gradflow.runtime.devices import deterministic, dropout_of, pick_device, seeded
from gradflow.runtime.events import (
    SCHEMA,
    Event,
    Learnt,
    Report,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    UnitDone,
)
from gradflow.runtime.finite import FiniteWatch
from gradflow.runtime.options import PLAIN, Options
from gradflow.runtime.phases import PhasePlan, plan_phase, regions_of
from gradflow.runtime.ranks import Ranks
from gradflow.runtime.reading import reader, samples_of
from gradflow.runtime.regions import Lowered, Regions, failures, sources_of
from gradflow.runtime.saving import Saver
from gradflow.runtime.snapshots import put_back
from gradflow.runtime.state import PRECISIONS, Store
from gradflow.runtime.tally import Tally
from gradflow.runtime.world import World
from gradflow.schedules.rows import attach


def execute(program: Program, options: Options = PLAIN, listener: Callable[[Event], None] | None = None, **more: Any) -> Iterator[Event]:
    """Runs a program: its events, one by one; `listener` hears each first. `more` is what `Run` takes. Raises RunFailed."""
    for event in Run(program, options, **more).events():
        if listener is not None:
            listener(event)
        yield event


class Run:
    """One run. `inputs`: values of the pipeline's inputs, or functions of the tick; `folder`: where checkpoints go (none are written without).

    Checkpoints are written where the spec asks for one, when the run is stopped, at its end, and after the unit during which `save_every` seconds
    have gone by since the last one. `resume`: one to go on from, bit for bit. `ranks`: the other processes of the run.
    """

    counting = True  # what crosses the network

    def __init__(
        self,
        program: Program,
        options: Options = PLAIN,
        inputs: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        save_every: float | None = None,
        resume: Checkpoint | None = None,
        ranks: Ranks | None = None,
    ):
        self.original = program
        self.guard: Guard | None = None
        self.ranks = ranks or Ranks()
        program, sent = counted(program) if self.counting else (program, {})
        program = optimized(program) if options.optimize and options.backend != "reference" else program
        program = self.ranks.place(program, options.deterministic)
        self.program = program = sparse(program) if options.optimize and options.backend != "reference" and self.ranks.count == 1 else program
        self.options, self.folder = options, folder
        self.inputs = dict(inputs or {})
        self.device = pick_device(options.device)
        settings = program.phases[0].settings if program.phases else {}
        default = "float32" if options.backend == "torch" else "float64"
        self.precision = default if options.backend == "reference" else options.precision or settings.get("precision", default)
        self.seed = options.seed if options.seed is not None else settings.get("seed", 0)
        real = PRECISIONS[self.precision]
        self.sending = sending_of(sent, real.itemsize, options.network, talks_of(self.original, real.itemsize))
        self.store = Store(self.device, real)
        self.store.shards = self.ranks.shards
        self.batches = Batches(self.program, self.device, real, self.ranks.own)
        self.world = World(self.program, self.store, self.batches)
        self.regions = Regions(options.backend, self.store.runners, self.device, real, options.compile, options.optimize)
        self.clocks = Clocks()
        self.watch = FiniteWatch()
        self.learnt = Learnt()
        self.held: dict[tuple[str, ...], Tensor] = {}
        self.taken: dict[str, dict[str, Tensor]] = {}
        self.ticking: dict[str, EventRunner] = {}  # of the phase at hand, the flows whose nodes act at events
        self.looked: dict[str, Tensor] = {}  # what their nodes hold at the moment of a report
        self.stopping = self._halted = False  # this process was asked to stop; all processes do
        self.resume = resume
        self.saver = Saver(self, save_every)
        self.phase, self.closed = 0, False  # the phase at hand, and whether its last report was made
        self.told = 0  # events so far, without the head of a run that goes on
        self.seconds = 0.0  # spent before this process took over
        self._began = time.perf_counter()
        self._within = resume is not None  # the first phase to carry out has begun already
        self._available: dict[int, Region] = {}

    def stop(self) -> None:
        """Asks the run to end after the unit at hand; safe to call from a signal handler."""
        self.stopping = True

    @property
    def halted(self) -> bool:
        """Whether the run is to end here: alone at once, with others once all of them know."""
        return self._halted or (self.stopping and self.ranks.count == 1)

    def parameters(self, model: str) -> dict[str, Tensor]:
        """A model's present tensors by leaf name; views that go on changing while the run does."""
        return self.store.leaves(self.program.models[model])

    # ---- the run

    def events(self) -> Iterator[Event]:
        """What happens, as it happens. Raises RunFailed."""
        for event in self._events():
            self.told += not (isinstance(event, RunStarted) and self.resume is not None)
            yield event

    def _events(self) -> Iterator[Event]:
        self._began = time.perf_counter()
        with deterministic(self.options.deterministic):
            try:
                plans = self._prepare()
                yield self._started(plans)
                if self.resume is not None:
                    put_back(self, plans, self.resume)
                    self.resume.tensors.clear()  # the run has its own by now
                    self.saver.begin(plans)
                    yield RunResumed(self.clocks.tick, str(self.resume.path), self.told)
                self.saver.at = time.perf_counter()
                for plan in plans[self.phase :]:
                    yield from self._phase(plan, plans)
                    if self.halted and (plan is not plans[-1] or self.clocks.t < plan.count):
                        yield from self.saver.write(plans)
                        yield RunStopped(self.clocks.tick, True, self.elapsed(), self.sending.totals())
                        return
                yield from self.saver.write(plans)
            except MissingExtra as error:
                raise RunFailed(str(error)) from None
            except KeyboardInterrupt:
                yield RunStopped(self.clocks.tick, False, self.elapsed(), self.sending.totals())
                return
            spent: Mapping[str, float] = self.guard.spent(self.clocks.executed) if self.guard is not None else {}
            yield RunFinished(self.clocks.tick, self.elapsed(), dict(self.learnt.values), spent, self.sending.totals())

    def elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._began

    def _prepare(self) -> list[PhasePlan]:
        for region, span in regions_of(self.program):
            for source in sources_of(region):
                if source["kind"] == "input" and source["path"][0] not in self.inputs:
                    raise RunFailed(f"the input `{source['path'][0]}` of `{self.program.name}` is not given", span)
        self.clocks.seed = self.seed
        self.store.build(self.program, self.seed, self._start)
        self.ranks.refuse(self.program, self.store.runners)
        self._dropping = any(dropout_of(part) for runner in self.store.runners.values() for part in runner.module.modules())
        plans = [plan_phase(i, phase, self.options.steps, self.batches) for i, phase in enumerate(self.program.phases)]
        self.acts = Carrier(self.world, self.store, self.clocks, self.held, self._run)
        self.units = sum(plan.count for plan in plans)
        self.clocks.plan((plan.phase, plan.count * plan.updates) for plan in plans)
        self.guard = guard_of(self.original, self.clocks.planned)
        return plans

    def _start(self, plan: ModelPlan) -> Tensor:
        assert plan.start is not None
        return self._run(plan.start, plan.span)["start"]

    def _started(self, plans: list[PhasePlan]) -> RunStarted:
        program = self.program
        models = {
            name: {"parameters": plan.spec.size, "leaves": len(plan.spec.leaves), "axes": [axis.name for axis in plan.lifted]}
            for name, plan in program.models.items()
        }
        flows = {a.flow: a.stages for plan in plans for a in plan.phase.actions if isinstance(a, Update)}
        phases = tuple({"count": plan.count, "unit": plan.phase.unit, **plan.phase.settings} for plan in plans)
        units = sum(plan.count for plan in plans)
        return RunStarted(
            SCHEMA, gradflow.__version__, program.name, program.source, self.options.backend, str(self.device), self.precision, self.seed, units,
            models, flows, phases, {a.flow: known for plan in plans for a in plan.flows if (known := known_of_gradient(a, program))},
        )  # fmt: skip

    # ---- a phase

    def _phase(self, plan: PhasePlan, plans: list[PhasePlan]) -> Iterator[Event]:
        """One phase from its start, or from where a checkpoint was taken."""
        within, self._within = self._within, False
        if not within:
            self.phase, self.closed = plan.index, False
            own = plan.phase.settings.get("seed", self.seed)
            self.clocks.begin(self.options.seed if self.options.seed is not None else own, plan.count)
        self.store.bear(self.program, plan.index, self.seed, self._start)
        attach(self.program, self.store.runners, self.options.backend, self.device)
        for runner in self.store.runners.values():
            runner.micro = self.options.micro or plan.phase.settings.get("micro")
            if self._dropping and (runner.micro or 1) > 1:
                raise RunFailed("dropout cannot be cut into micro-batches: every pass over a piece would drop others", plan.phase.span)
        for one in plan.keepers:
            self.store.add_states(one)
        self._tick(plan)
        if not within:
            for every in plan.periodic:
                yield from self._report(plan, every.periodic, first=True)
        while self.clocks.t < plan.count:
            if self.halted:
                return
            over = self.guard and self.guard.stop(self.clocks.executed, {flow.flow: plan.updates for flow in plan.flows})
            if over:
                yield from self.saver.write(plans)
                raise over
            self.clocks.t += plan.stride
            yield from self._unit(plan)
            wanted = any(every.periodic.checkpoint and plan.fired(every, self.clocks.t) for every in plan.periodic)
            with failures(plan.phase.span):
                self._halted, due = self.ranks.agree(self.stopping, wanted or self.saver.overdue)
            if due:
                yield from self.saver.write(plans)
        if plan.phase.final is not None and not self.closed:
            yield from self._report(plan, plan.phase.final)
        self.closed = True

    def _tick(self, plan: PhasePlan) -> None:
        """The clocks of the flows whose nodes act at events, put to where the phase is."""
        self.ticking = {}
        for update in plan.flows:
            if update.events is None:
                continue
            check_data(update, self.program)
            read, unit = reader(self, update.flow, None, False), plan.phase.unit
            runner = self.ticking[update.flow] = self.ranks.events(update, self.regions, self.store, read, self.clocks.seed, plan.index, unit)
            if self.clocks.t:
                runner.rewind(self.clocks.t, self.clocks.t == self.clocks.t_end)
            elif not self.clocks.executed.get(update.flow):
                runner.begin()

    def _unit(self, plan: PhasePlan) -> Iterator[Event]:
        began, tokens = time.perf_counter(), self.world.tokens
        tally = Tally(plan.labels)
        first = self.clocks.visit
        for group in plan.groups:
            self.clocks.visit = first
            if isinstance(group, Act):
                self._hold(group)
                continue
            for number, cut in enumerate(self._cuts(plan, group)):
                self.clocks.visit = first + number
                self.batches.at(self.clocks.seed, self.clocks.visit)
                for action in group:
                    with cut_together(plan.minibatches, action, self.held):
                        self._change(action, cut, tally)
                if group is plan.last_group:
                    for every in plan.due(self.clocks.t, number + 1):
                        yield from self._report(plan, every.periodic)
        self.clocks.visit = first + plan.updates
        seconds = time.perf_counter() - began
        drawn = self.world.tokens - tokens
        amount, what = (drawn, "tokens") if drawn else (plan.rows * plan.updates, "samples")
        loss, metrics = tally.totals()
        metrics = {**rollout_figures(self.held, plan.drawn), **metrics} if drawn and self.guard is None else metrics
        clocks = self.clocks
        if self.guard is not None:
            metrics |= self.guard.metrics(clocks.executed, clocks.tick, self.units)
        yield UnitDone(
            clocks.tick, plan.index, clocks.t, clocks.t_end, plan.phase.unit, loss, metrics, seconds,
            amount / seconds if amount else None, what if amount else "", self.sending.unit(),
        )  # fmt: skip
        for every in plan.due_after(clocks.t):
            yield from self._report(plan, every.periodic)
        clocks.tick += plan.stride

    # ---- draws and updates

    def _hold(self, action: Act) -> None:
        self.acts.do(action)

    def _cuts(self, plan: PhasePlan, group: tuple[Update | Assign, ...]) -> Iterator[Cut | None]:
        """For each update of the unit the samples that it sees of what was drawn; None: all. What is taken once a rollout is taken here."""
        for action in group:
            if isinstance(action, Update) and action.rollout is not None:
                with cut_together(plan.minibatches, action, self.held):
                    results = self._run(action.rollout, action.span, action.flow)
                self.taken[action.flow] = {name.split("/")[1]: value.clone() for name, value in results.items()}
        readers: dict[int, list[Update | Assign]] = {}
        for action in group if plan.minibatches > 1 else ():
            for samples in samples_of(self, action):
                readers.setdefault(samples, []).append(action)
        if readers:
            owners = {samples: self._owner(plan, tuple(found)) for samples, found in readers.items()}
            yield from minibatches(plan, owners, self.clocks, self.device)
        else:
            yield from [None] * plan.updates

    def _owner(self, plan: PhasePlan, group: tuple[Update | Assign, ...]) -> Tensor | None:
        """The group of each sample, numbered through, where one of these updates sums by group or whole groups are asked for."""
        index = grouping((action.region for action in group), plan.phase.settings.get("whole", ""), self.held)
        return None if index is None else self.held[index].unique(return_inverse=True)[1]

    def _change(self, action: Update | Assign, cut: Cut | None, tally: Tally) -> None:
        """One update of one flow, or one assignment to a model."""
        flow = action.flow if isinstance(action, Update) else ""
        if flow in self.ticking:
            self.clocks.executed[flow] = self.clocks.executed.get(flow, 0) + self.ticking[flow].advance(self.clocks.t) - 1
            self.sending.happened(flow, *self.ticking[flow].latest)
            if self.clocks.t == self.clocks.t_end and self.ticking[flow].unit == "time":
                self.ticking[flow].settle()
        lowered = self.regions.lowered(action.region, True, action.span)
        with self._dropout(flow):
            results = self.regions.run(lowered, reader(self, flow, cut, True), action.span)
        kept = {name: value for name, value in results.items() if name.startswith(("param/", "state/"))}
        if isinstance(action, Assign):
            self.store.write(kept)
            return
        executed = "executed" not in results or bool(results["executed"])
        loss = float(results["loss"]) if "loss" in results else None
        if executed:
            self.clocks.executed[flow] = self.clocks.executed.get(flow, 0) + 1
            self.watch.check(action, self.clocks.executed[flow], loss, kept)
            self.sending.add({name: value for name, value in results.items() if name.startswith("sent/")})
        self.store.write(kept)
        self.held |= {tuple(name.split("/")[1:]): value.clone() for name, value in results.items() if name.startswith("held/")}
        tally.add(flow, loss, {name: value for name, value in results.items() if name.startswith("report/")})

    def _dropout(self, flow: str) -> AbstractContextManager[Any]:
        return seeded(random.key(self.clocks.seed, "dropout", self.clocks.visit, flow), self.device) if self._dropping else nullcontext()

    # ---- reading

    def _run(self, region: Region, span: Span | None = None, flow: str = "") -> dict[str, Tensor]:
        lowered: Lowered = self.regions.lowered(region, span=span) if span else self.regions.lowered(region)
        return self.regions.run(lowered, reader(self, flow, None, False), *((span,) if span else ()))

    # ---- reports

    def _report(self, plan: PhasePlan, block: Periodic, first: bool = False) -> Iterator[Event]:
        """Evaluates reports with the models as they are used, not trained (no dropout). `first`: only what can be known before any draw."""
        region = self._known(block) if first else block.region
        if not region.results:
            return
        modules = [runner.module for runner in self.store.runners.values()]
        training = [module.training for module in modules]
        for module in modules:
            module.eval()
        try:
            for call in asked(region.sources(), block.calls)[0]:
                self.acts.do(Draw("", call))
            self.looked = {name: value for one in self.ticking.values() if one.unit == "time" for name, value in one.settled().items()}
            results = self._run(region, block.span)
        finally:
            self.looked = {}
            for module, mode in zip(modules, training, strict=True):
                module.train(mode)
        values = {name: value.tolist() for name, value in results.items()}
        self.learnt.add(values)
        yield Report(self.clocks.tick, plan.index, self.clocks.t, plan.phase.unit, values, block is plan.phase.final, self.sending.seconds)

    def _known(self, block: Periodic) -> Region:
        """The reports that do not wait for something to be drawn."""
        region = block.region

        def known(node: Node) -> bool:
            read = asked(Region((("", node),)).sources(), block.calls)[1]
            return all(kind != "held" or tuple(path) in self.held or (kind, *path) in self.world.texts for kind, *path in read)

        key = id(region)
        if key not in self._available:
            results = tuple((name, node) for name, node in region.results if known(node))
            self._available[key] = region if len(results) == len(region.results) else Region(results, (), region.name)
        return self._available[key]

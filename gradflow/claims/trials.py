"""Runs the trials of a claim: one pipeline with one seed after another, in processes of their own, and keeps what each reported last."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gradflow.claims.design import SECONDS, Claim, Trial, find_claim, program_of, read_of
from gradflow.plan.program import Program


@dataclass(frozen=True)
class Task:
    """One run: what another process needs to make it again. `seed` None: the pipeline's own."""

    path: str
    claim: str
    trial: str
    seed: int | None
    backend: str


@dataclass(frozen=True)
class Outcome:
    """Last values of all reports of one run; `failure` says in a sentence why there are none."""

    task: Task
    reports: dict[str, Any]
    seconds: float
    budget: str
    failure: str = ""


def tasks_of(claim: Claim, seeds: int | None, backend: str) -> list[Task]:
    """Every run of a claim; `seeds` replaces the number that the claim says, where it says one. Trials take turns, seed by seed."""
    counts = {trial.name: None if trial.seeds is None else seeds or trial.seeds for trial in claim.trials}
    most = max((count or 1) for count in counts.values())
    path = claim.home.source.name
    return [
        Task(path, claim.name, name, None if count is None else seed, backend)
        for seed in range(most)
        for name, count in counts.items()
        if seed < (count or 1)
    ]


def run_all(tasks: list[Task], jobs: int) -> Iterator[Outcome]:
    """The outcomes as they come. Each process computes on its share of the cores, so that a run's numbers do not depend on who runs beside it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=None) as pool:
        waiting = [pool.submit(run_one, task) for task in tasks]
        for done in as_completed(waiting):
            yield done.result()


def run_one(task: Task) -> Outcome:
    import torch

    from gradflow.language.diagnostics import GradflowError
    from gradflow.library.catalogue import MissingExtra
    from gradflow.passes.scope import module
    from gradflow.runtime.embed import run
    from gradflow.runtime.events import RunFailed, RunStarted, UnitDone

    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        claim = find_claim(module(Path(task.path)), task.claim)
        trial = next(one for one in claim.trials if one.name == task.trial)
        program = program_of(claim, trial)
        running, stamps = run(program, seed=task.seed, backend=task.backend), list[float]()
        for event in running:
            stamps += [time.process_time()] if isinstance(event, RunStarted | UnitDone) else []
        last = {name: values[-1][1] for name, values in running.reports.items()}
        if SECONDS in read_of(claim, task.trial):
            last.setdefault(SECONDS, statistics.median(after - before for before, after in pairwise(stamps)))
    except (RunFailed, GradflowError, MissingExtra, ValueError) as error:
        return Outcome(task, {}, time.perf_counter() - start, "", str(error))
    return Outcome(task, last, time.perf_counter() - start, budget(program))


def budget(program: Program) -> str:
    """How long a run trains: what trials of a claim should share."""
    phases = []
    for phase in program.phases:
        cuts = [f"{phase.settings[name]} {name}" for name in ("epochs", "minibatches") if name in phase.settings]
        phases.append(f"{phase.count:,} {phase.unit}" + (f" of {' and '.join(cuts)}" if cuts else ""))
    return ", then ".join(phases)


def by_trial(outcomes: list[Outcome], trial: Trial) -> list[Outcome]:
    """The outcomes of one trial in the order of seeds."""
    return sorted((one for one in outcomes if one.task.trial == trial.name), key=lambda one: one.task.seed or 0)

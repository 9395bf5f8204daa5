"""Run what a method promises against its baseline, over seeds, and print the verdict: holds, not shown, or contradicted.

NAME is a spec; `NAME:claim` is one claim of it. Intervals are over seeds (Student's t where a mean is judged, else a bootstrap); the verdict looks
at the whole interval. The outcome is written to FOLDER/NAME.json with a fingerprint of the definitions behind it. Exit code 0 whatever the
verdict, 3 if a run failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.cli.terminal import FAILED, FINE, UsageError, say

if TYPE_CHECKING:
    from gradflow.claims.design import Claim
    from gradflow.claims.trials import Outcome
    from gradflow.claims.verdicts import Judged

RECORDS = Path("docs/claims")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[:CLAIM]")
    parser.add_argument("--seeds", type=int, metavar="N", help="instead of the number that the claim says")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time, a core each (default: 1)")
    parser.add_argument("--backend", choices=("torch", "reference"), default="torch")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where outcomes are kept (default: {RECORDS}, where that folder is)")


def run(options: argparse.Namespace) -> int:
    if options.seeds is not None and options.seeds < 1 or options.jobs < 1 or not 0 < options.confidence < 1:
        raise UsageError("--seeds and --jobs are at least 1, --confidence lies between 0 and 1")
    from gradflow import compiler
    from gradflow.claims.design import claims_of, find_claim
    from gradflow.claims.records import record, write
    from gradflow.claims.verdicts import judge
    from gradflow.language.diagnostics import nearest

    home, named = compiler.load(options.name)
    names = claims_of(home)
    if not names or (named is not None and named not in names):
        hint = nearest(named or "", names) or (f"it has {', '.join(names)}" if names else "a claim is written `claim name { .. }`")
        raise UsageError(f"`{home.source.name}` has no claim{f' `{named}`' if named else ''}; {hint}")
    entries: dict[str, Any] = {}
    for name in [named] if named is not None else names:
        claim = find_claim(home, name)
        outcomes = measured(claim, options)
        failed = [one for one in outcomes if one.failure]
        if failed:
            say(f"error: {failed[0].task.trial}, seed {failed[0].task.seed}: {failed[0].failure}")
            return FAILED
        judged = judge(claim, gathered(claim, outcomes), options.confidence)
        print("\n".join(told(claim, outcomes, judged)), flush=True)
        entries[name] = record(claim, outcomes, judged, options.confidence)
        folder = options.out or (RECORDS if RECORDS.is_dir() else None)
        if folder is not None:
            say(f"written to {write(entries, Path(home.source.name).stem, folder)}")
    return FINE


def measured(claim: Claim, options: argparse.Namespace) -> list[Outcome]:
    """All runs of a claim, with a line of progress on stderr."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gradflow.claims.trials import run_all, tasks_of

    tasks = tasks_of(claim, options.seeds, options.backend)
    outcomes = []
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        line = progress.add_task(f"{claim.name}: runs", total=len(tasks))
        for outcome in run_all(tasks, options.jobs):
            outcomes.append(outcome)
            progress.advance(line)
            if outcome.failure:
                break
    return outcomes


def gathered(claim: Claim, outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """Trial -> report -> array, with seeds along the first axis where the trial has several."""
    import numpy

    from gradflow.claims.trials import by_trial

    found = {}
    for trial in claim.trials:
        rows = [one.reports for one in by_trial(outcomes, trial)]
        arrays = {name: numpy.array([row[name] for row in rows], numpy.float64) for name in rows[0]}
        found[trial.name] = arrays if trial.seeds is not None else {name: array[0] for name, array in arrays.items()}
    return found


def told(claim: Claim, outcomes: list[Outcome], judged: list[Judged]) -> list[str]:
    """The verdict and what it rests on."""
    from gradflow.claims.trials import by_trial
    from gradflow.claims.verdicts import overall

    lines = [f"{claim.name}: {overall(judged)}", *(f"  {claim.definition.text('doc')}" for _ in [0] if claim.definition.text("doc"))]
    budgets = set()
    width = max(len(trial.name) for trial in claim.trials)
    for trial in claim.trials:
        rows = by_trial(outcomes, trial)
        budgets.add(rows[0].budget)
        lines.append(f"  {trial.name:<{width}}  {trial.text}{f', {len(rows)} seeds' if trial.seeds else ''}: {', '.join(_means(rows))}")
    budget = f"each trains {budgets.pop()}" if len(budgets) == 1 else f"budgets differ: {'; '.join(sorted(budgets))}"
    lines.append(f"  {budget}")
    for one in judged:
        interval = f" [{one.low:.4g}, {one.high:.4g}]" if one.low is not None and one.high is not None else ""
        lines.append(f"  {one.verdict}: {one.text}")
        lines.append(f"    margin {one.margin:.4g}{interval}, {one.method}")
    return lines


def _means(rows: list[Outcome]) -> list[str]:
    import numpy

    texts = []
    for name in rows[0].reports:
        values = numpy.array([row.reports[name] for row in rows], numpy.float64)
        if values.ndim == 1:
            spread = f" +- {values.std(ddof=1):.2g}" if len(values) > 1 else ""
            texts.append(f"{name} {values.mean():.4g}{spread}")
    return texts

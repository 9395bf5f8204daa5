"""What the trials say about each expectation: an estimate of the margin, an interval for it over seeds, and a verdict.

An expectation `a > b` has the margin a - b, `a < b` the margin b - a; conjunctions are judged part by part. Where the side that varies is a mean
over seeds, the interval is Student's t interval of that mean; else it is a percentile bootstrap over seeds, all trials resampled together, since
they share their seeds. A margin whose whole interval is positive holds; one whose whole interval is negative is contradicted; anything between is
not shown. Without seeds there is one run and no interval: the margin's sign decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from gradflow.claims.design import Claim
from gradflow.graph.graph import Node, Region
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import GradflowError, Mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.words import expression_text

HOLDS, NOT_SHOWN, CONTRADICTED = "holds", "not shown", "contradicted"
ORDER = (CONTRADICTED, NOT_SHOWN, HOLDS)
RESAMPLES = 10_000
Reports = Mapping[str, Mapping[str, numpy.ndarray]]  # trial -> report -> [seed, ...], or without seeds [...]


@dataclass(frozen=True)
class Judged:
    """One expectation. `margin` is how far it is met (negative: missed); `low` and `high` bound it, None where there is no interval."""

    text: str
    margin: float
    low: float | None
    high: float | None
    method: str
    verdict: str


def overall(judged: list[Judged]) -> str:
    """The worst verdict is the claim's."""
    return min((one.verdict for one in judged), key=ORDER.index)


def judge(claim: Claim, reports: Reports, confidence: float = 0.95) -> list[Judged]:
    """Raises GradflowError where an expectation cannot be computed from the reports."""
    seeded = {trial.name for trial in claim.trials if trial.seeds is not None}
    found = []
    for statement in claim.expectations:
        for part in conjuncts(statement.value):
            try:
                found.append(_judge(claim, part, reports, seeded, confidence))
            except Mistake as error:
                raise GradflowError([error.diagnostic]) from None
    return found


def conjuncts(tree: s.Expr) -> Iterator[s.Expr]:
    if isinstance(tree, s.Binary) and tree.op == "and":
        yield from conjuncts(tree.left)
        yield from conjuncts(tree.right)
    elif isinstance(tree, s.Group) and len(tree.items) == 1:
        yield from conjuncts(tree.items[0].value)
    else:
        yield tree


def _judge(claim: Claim, tree: s.Expr, reports: Reports, seeded: set[str], confidence: float) -> Judged:
    text = expression_text(tree)
    sides = _sides(tree)
    if sides is None:
        true = bool(_function(claim, [tree], reports, seeded)[0](None)[0])
        return Judged(text, math.inf if true else -math.inf, None, None, "a condition of its own, no interval", HOLDS if true else CONTRADICTED)
    more, less = sides
    margin_of, count = _function(claim, [more, less], reports, seeded)

    def margin(rows: Any) -> float:
        a, b = margin_of(rows)
        return float(a) - float(b)

    value = margin(None)
    if not math.isfinite(value):
        return Judged(text, value, None, None, "the margin is not finite", NOT_SHOWN if math.isnan(value) or value < 0 else HOLDS)
    if count < 2:
        return Judged(text, value, None, None, "one run, no interval", HOLDS if value > 0 else CONTRADICTED)
    low, high, method = _interval(claim, more, less, margin, count, (reports, seeded), confidence)
    return Judged(text, value, low, high, method, HOLDS if low > 0 else CONTRADICTED if high < 0 else NOT_SHOWN)


def _sides(tree: s.Expr) -> tuple[s.Expr, s.Expr] | None:
    """(what should be larger, what should be smaller)."""
    if not isinstance(tree, s.Compare) or len(tree.ops) != 1 or tree.ops[0] not in ("<", "<=", ">", ">="):
        return None
    left, right = tree.operands
    return (left, right) if tree.ops[0].startswith(">") else (right, left)


def _interval(
    claim: Claim, more: s.Expr, less: s.Expr, margin: Callable[[Any], float], count: int, given: tuple[Reports, set[str]], confidence: float
) -> tuple[float, float, str]:
    from scipy import stats

    for side, other in ((more, less), (less, more)):
        inner = _mean_over_seeds(side)
        if inner is not None and not _reads(claim, other):
            each, _ = _function(claim, [inner], *given)
            values = numpy.asarray(each(None)[0], numpy.float64).reshape(-1)
            spread = values.std(ddof=1) / math.sqrt(len(values))
            half = float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * spread)
            center = margin(None)
            return center - half, center + half, f"t interval, {confidence:.0%}, {len(values)} seeds"
    found = stats.bootstrap(
        (numpy.arange(count),), margin, vectorized=False, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile",
        rng=numpy.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high), f"percentile bootstrap, {confidence:.0%}, {count} seeds, {RESAMPLES} resamples"


def _mean_over_seeds(tree: s.Expr) -> s.Expr | None:
    """The operand of `mean(.., over: seed)`."""
    if not isinstance(tree, s.Call) or not isinstance(tree.callee, s.Name) or tree.callee.id != "mean" or len(tree.args) != 2:
        return None
    first, over = tree.args
    plain = first.name is None and over.name == "over" and isinstance(over.value, s.Name) and over.value.id == "seed"
    return first.value if plain else None


def _reads(claim: Claim, tree: s.Expr) -> bool:
    names = {trial.name for trial in claim.trials} | {one.targets[0].name for one in claim.formulas}
    return any(isinstance(node, s.Name) and node.id in names for node in s.walk(tree))


def _function(claim: Claim, trees: list[s.Expr], reports: Reports, seeded: set[str]) -> tuple[Callable[[Any], list[Any]], int]:
    """The expressions as a function of the rows (seeds) that are taken, None for all of them; and how many seeds there are."""
    from gradflow.backends.reference import lower

    e = Elaborator(None, claim.home.source.name)
    scope = claim.home.scope().child(claim.name)
    arrays: dict[tuple[str, ...], Any] = {}
    counts = {len(x) for name in seeded for x in reports[name].values()}
    count = min(counts, default=1)
    for trial, values in reports.items():
        fields: dict[str, Node] = {}
        for name, array in values.items():
            axes = [Axis("seed", count)] if trial in seeded else []
            axes += [Axis(f"entry{i}", n) for i, n in enumerate(array.shape[len(axes) :])]
            fields[name] = e.ops.source(Type("real", tuple(axes)), "input", trial, name)
            arrays["input", trial, name] = array[:count] if trial in seeded else array
        scope.names[trial] = v.Record(fields, trial)
    for statement in claim.formulas:
        scope.names[statement.targets[0].name] = e.evaluate(statement.value, scope)
    results = tuple((str(i), e.ops.constant(e.tensor(e.evaluate(tree, scope), tree))) for i, tree in enumerate(trees))
    run = lower(Region(results))

    def at(rows: Any) -> list[Any]:
        taken = arrays if rows is None else {key: x[rows] if key[1] in seeded else x for key, x in arrays.items()}
        found = run(taken)
        return [found[name] for name, _ in results]

    return at, count

"""A claim as written: its trials (calls of pipelines, each over some seeds), its formulas, and what it expects of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, GradflowError, Mistake, Report, mistake
from gradflow.passes import values as v
from gradflow.passes.check import not_a_pipeline
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Module
from gradflow.passes.suggestions import head, listed, suggestion
from gradflow.passes.words import expression_text
from gradflow.plan.program import Program

SEEDS = "seeds"


@dataclass(frozen=True)
class Trial:
    """`name = pipeline(.., seeds: n)`. `seeds` is None where the pipeline is run once, with the seed of its `train` line."""

    name: str
    call: s.Call
    seeds: int | None

    @property
    def text(self) -> str:
        return expression_text(self.call)


SECONDS = "seconds"  # of the processor for a unit, the median of a run: what every run tells beside its reports


@dataclass(frozen=True)
class Claim:
    definition: s.Definition
    home: Module
    trials: tuple[Trial, ...]
    formulas: tuple[s.Bind, ...]
    expectations: tuple[s.Require, ...]

    @property
    def name(self) -> str:
        return self.definition.name


def claims_of(home: Module) -> list[str]:
    return [definition.name for definition in home.tree.definitions if definition.kind == "claim"]


def read_claim(definition: s.Definition, home: Module) -> Claim:
    """Raises Mistake where a statement has no place in a claim, or nothing is expected."""
    trials: list[Trial] = []
    formulas: list[s.Bind] = []
    expectations: list[s.Require] = []
    for statement in definition.body or ():
        if isinstance(statement, s.Bind) and statement.op == "=" and len(statement.targets) == 1:
            if _names_pipeline(statement.value, home):
                assert isinstance(statement.value, s.Call)
                trials.append(_trial(statement.targets[0].name, statement.value))
            else:
                formulas.append(statement)
        elif isinstance(statement, s.Require) and statement.kind == "expect":
            expectations.append(statement)
        elif not isinstance(statement, s.Doc):
            raise mistake(
                "E0501", statement.span, "this has no place in a claim", why="it holds runs, formulas and `expect`",
                fix="name a run of a pipeline: `ours = digits(seeds: 5)`",
            )  # fmt: skip
    if not trials or not expectations:
        lacking = "runs nothing" if not trials else "expects nothing"
        raise mistake(
            "E0528", definition.name_span, f"`{definition.name}` {lacking}", why="a claim runs pipelines of its file and says what it expects",
            fix="`ours = digits(seeds: 5)`" if not trials else "`expect mean(ours.accuracy - theirs.accuracy, over: seed) > 0`",
        )  # fmt: skip
    return Claim(definition, home, tuple(trials), tuple(formulas), tuple(expectations))


def _names_pipeline(tree: s.Expr, home: Module) -> bool:
    found = home.definitions.get(tree.callee.id) if isinstance(tree, s.Call) and isinstance(tree.callee, s.Name) else None
    return found is not None and found.kind == "pipeline"


def _trial(name: str, call: s.Call) -> Trial:
    seeds = next((arg for arg in call.args if arg.name == SEEDS), None)
    if seeds is None:
        return Trial(name, call, None)
    value = seeds.value
    if not isinstance(value, s.Number) or not isinstance(value.value, int) or value.value < 1:
        raise mistake(
            "E0402", value.span, "`seeds` must be a whole number, at least 1", why="the pipeline is run with the seeds 0, 1, ..", fix="`seeds: 5`",
        )  # fmt: skip
    return Trial(name, replace(call, args=tuple(arg for arg in call.args if arg is not seeds)), value.value)


def pipeline_value(trial: Trial, home: Module, e: Elaborator) -> v.Pipeline:
    """The pipeline with its parameters, behind aliases. Raises Mistake."""
    value = e.evaluate(trial.call, home.scope())
    while isinstance(value, v.Pipeline) and value.definition.value is not None:
        scope = value.scope.inside(value.definition, value.bound)
        value = e.evaluate(value.definition.value, scope)
    if not isinstance(value, v.Pipeline):
        raise not_a_pipeline(trial.call.span, value)
    return value


def program_of(claim: Claim, trial: Trial) -> Program:
    """The program of one trial. Raises GradflowError."""
    from gradflow.passes.pipelines import PipelineElaborator

    report = Report()
    e = Elaborator(report, claim.home.source.name)
    try:
        value = pipeline_value(trial, claim.home, e)
        program = PipelineElaborator(value.definition, value.scope, dict(value.bound), e).program()
    except Mistake as error:
        raise GradflowError([error.diagnostic]) from None
    report.raise_errors()
    return program


# ---- checking


def check_claim(definition: s.Definition, home: Module, e: Elaborator) -> None:
    """Adds to the elaborator's report what is wrong with a claim: pipelines, their parameters, reports that do not exist."""
    claim = read_claim(definition, home)
    reported: dict[str, tuple[str, ...]] = {}
    for trial in claim.trials:
        with e.collecting():
            reported[trial.name] = tuple(reports_of(pipeline_value(trial, home, e).definition))
    for tree in (*(one.value for one in claim.formulas), *(one.value for one in claim.expectations)):
        for node in s.walk(tree):
            if isinstance(node, s.Field) and isinstance(node.value, s.Name) and node.value.id in reported:
                known = reported[node.value.id]
                if node.name not in known and node.name != SECONDS:
                    e.report.add(_no_report(node, node.value.id, known))


def read_of(claim: Claim, trial: str) -> set[str]:
    """The values of a trial that a claim reads."""
    trees = (*(one.value for one in claim.formulas), *(one.value for one in claim.expectations))
    fields = (node for tree in trees for node in s.walk(tree) if isinstance(node, s.Field))
    return {node.name for node in fields if isinstance(node.value, s.Name) and node.value.id == trial}


def reports_of(pipeline: s.Definition) -> Iterator[str]:
    """The names that a pipeline reports while it trains or at the end."""
    for statement in pipeline.body or ():
        if isinstance(statement, s.Train):
            yield from (one.name for one in s.walk(statement) if isinstance(one, s.ReportAs))


def _no_report(node: s.Field, name: str, known: tuple[str, ...]) -> Diagnostic:
    return Diagnostic(
        "E0202", f"`{name}` reports no `{node.name}`", node.name_span, why=f"its pipeline reports {listed(dict.fromkeys(known)) or 'nothing'}",
        **suggestion(head(node.name_span, node.name), node.name, known, "report it in the pipeline's `train` block"),
    )  # fmt: skip


def find_claim(home: Module, name: str) -> Any:
    """A claim of a file by name. Raises GradflowError."""
    definition = home.definitions[name]
    try:
        return read_claim(definition, home)
    except Mistake as error:
        raise GradflowError([error.diagnostic]) from None

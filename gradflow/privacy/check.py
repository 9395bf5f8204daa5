"""The pass over a whole program: nothing private leaves without a release, every release hides what it declares, and the budget is kept.

What a flow would show by itself, the loss on private rows, is left out of it; what the spec asks to be shown is a mistake, with its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gradflow.graph.graph import Node
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, Mistake, mistake
from gradflow.language.source import NOWHERE, Span
from gradflow.library.catalogue import MissingExtra
from gradflow.passes.expressions import Elaborator
from gradflow.plan.program import Phase, Program, Update
from gradflow.privacy.accountant import course
from gradflow.privacy.flow import Leak, Private, leaks
from gradflow.privacy.mechanisms import Mechanism, NotKnown
from gradflow.privacy.plan import Spending, from_outside, mechanisms, private_of, spending
from gradflow.privacy.program import Budget, said_in
from gradflow.privacy.sensitivity import Declared, checked, number

MORE = "give a multiplier above 0, or do not declare the data private"


def private_program(e: Elaborator, program: Program, definition: s.Definition) -> Program:
    """The program without what would show private rows; mistakes go to the report."""
    with e.collecting():
        found = said_in(definition, program.parameters)
        if not found.data:
            for budget in found.budgets:
                raise mistake(
                    "E0706", budget.span, "a budget of privacy, and no data is private", why="it limits what releases of private data spend",
                    fix="declare the data so: `data train, test = private(digits(), unit: record)`",
                )  # fmt: skip
            return program
        private = private_of(program, found)
        leaking = list(leaks(program, private))
        for leak in leaking:
            e.report.add(told(leak, found.data, definition).diagnostic)
        wrong = [error for action in _updates(program) for error in problems(mechanisms(action.region, private), action.span)]
        for error in wrong:
            e.report.add(error.diagnostic)
        if not leaking and not wrong:
            spends = spending(program, known=found)
            for course_ in spends.courses:
                for one, levels in course_.levels:
                    if min(levels, default=1.0) <= 0:
                        raise bad(one, f"there is no noise in update {next(i for i, x in enumerate(levels, 1) if x <= 0)}: the multiplier is 0", MORE)
            for budget in found.budgets:
                within(e, spends, budget)
        return _without_losses(program, private)
    return program


def _updates(program: Program) -> Iterator[Update]:
    seen: set[str] = set()
    for phase in program.phases:
        for action in phase.actions:
            if isinstance(action, Update) and action.flow not in seen:
                seen.add(action.flow)
                yield action


def told(leak: Leak, data: Iterable[str], definition: s.Definition) -> Mistake:
    """A leak with its path, line by line; of a report the line that asks for it."""
    asked = (one for one in s.walk(definition) if isinstance(one, s.ReportAs) and leak.what == f"the report `{one.name}`")
    leak = replace(leak, span=next((one.span for one in asked), leak.span))
    names = ", ".join(f"`{name}`" for name in data)
    labels = []
    for place, node in enumerate(leak.path):
        if node.span != NOWHERE and node.span != leak.span:
            labels.append(Label(node.span, f"{place + 1}. {step(node)}"))
    return mistake(
        "E0702", leak.span, f"private records reach {leak.what} without a release", label="from here everybody sees it", secondary=tuple(labels),
        why=f"{names} is private: what is computed of its records may leave only with noise that hides each of them",
        fix="put a release on the way, `dp_sgd(..)` say, or report on held-out data",
    )  # fmt: skip


def step(node: Node) -> str:
    if node.op == "source":
        return f"private: `{node['path'][2]}` of `{node['path'][0]}`" if node["kind"] == "data" else "private: it was held or drawn from private data"
    return "computed of it"


# ---- mechanisms


def problems(ones: list[Mechanism], flow: Span) -> Iterator[Mistake]:
    """What is wrong with the releases of one flow; those of the library are told at the flow."""
    for error in _problems(ones):
        told = error.diagnostic
        if told.span.file != flow.file:
            inside = Label(told.span, told.label or "the release")
            error = Mistake(replace(told, span=flow, label="", secondary=(inside, *told.secondary)))
        yield error


def _problems(ones: list[Mechanism]) -> Iterator[Mistake]:
    noises: dict[int, Mechanism] = {}
    kinds: dict[bool, Mechanism] = {}
    for one in ones:
        if any(from_outside(node) for node in (one.multiplier, one.sensitivity, one.clean)):
            continue  # a number that a caller gives is checked when it is there
        try:
            yield from _noise(one, noises)
            course("", [one], 1)
            if number(one.multiplier) is not None and number(one.multiplier) <= 0:  # type: ignore[operator]
                yield bad(one, "there is no noise: the multiplier is 0", MORE)
            done = checked(one)
            kinds.setdefault(done.sampling.kind == "poisson", done)
        except NotKnown as error:
            yield bad(
                one, "the multiplier of the noise cannot be known before the run", "let it depend on parameters, `t` and `t_end` alone",
                (Label(error.node.span, "this is known only in the run"),),
            )  # fmt: skip
        except Declared as error:
            what = "the sensitivity that this release declares is too small" if error.least else "the records of this release are not drawn so"
            fix = f"declare {error.least}, or more" if error.least else "draw them anew in every update, by a coin each: `by_coin(rate: ..)`"
            why = "noise hides a record only if it is in proportion to what that record can move"
            yield mistake("E0704", one.span, what, label=error.what, why=why, fix=fix)
    if len(kinds) == 2:
        yield bad(kinds[True], "releases of Poisson samples and of all records cannot be added up", "sample in both, or in none",
                  (Label(kinds[False].span, "here neighbors replace a record, there they add or remove one"),))  # fmt: skip


def _noise(one: Mechanism, noises: dict[int, Mechanism]) -> Iterator[Mistake]:
    drawn = one.noise
    while drawn.op == "rename":
        drawn = drawn.inputs[0]
    if drawn.op != "draw" or drawn["dist"] != "normal" or not set(one.clean.type.names) <= set(one.noise.type.names):
        yield bad(one, "the noise of this release is not standard normal noise for every entry", "`xi ~ normal([x])`, and `noise: xi`",
                  (Label(one.noise.span, "this is taken for noise"),))  # fmt: skip
    elif drawn.id in noises:
        yield bad(one, "two releases take the same noise", "draw noise for each", (Label(noises[drawn.id].span, "and here"),))
    noises[drawn.id] = one


def bad(one: Mechanism, message: str, fix: str, labels: tuple[Label, ...] = ()) -> Mistake:
    return mistake("E0705", one.span, message, secondary=labels, why="what a release costs must be known, and its noise must be noise", fix=fix)


# ---- budgets


def within(e: Elaborator, spends: Spending, budget: Budget) -> None:
    """A plan that is over the budget is a mistake; over what is only preferred, a warning."""
    try:
        needed = spends.epsilon(delta=budget.delta)
    except MissingExtra as error:
        sentence, _, command = str(error).partition(": ")
        raise mistake("E0209", budget.span, sentence, why="it belongs to an optional part of gradflow", fix=command) from None
    if needed <= budget.epsilon or not spends.courses:
        return
    longest = max(spends.courses, key=lambda one: one.updates)
    most = spends.most(longest, budget)
    message = f"{longest.updates:,} updates spend epsilon {needed:.4g}, the budget is {budget.epsilon:g} at delta {budget.delta:g}"
    fix = f"{most:,} updates fit at this noise; or use more noise" if most else "not one update fits at this noise: use more"
    why = "every release of private data spends, and what was spent adds up"
    if budget.kind == "prefer":
        e.warn("W0304", budget.span, message, why=why, fix=fix + "; the run stops there")
        return
    raise mistake("E0703", budget.span, message, why=why, fix=fix)


def _without_losses(program: Program, private: Private) -> Program:
    """Flows do not show their loss where it is taken on private rows."""

    def update(action: Update) -> Update:
        found = private.below(action.region)
        kept = tuple((name, node) for name, node in action.region.results if name != "loss" or node.id not in found)
        return action if len(kept) == len(action.region.results) else replace(action, region=replace(action.region, results=kept))

    def phase(one: Phase) -> Phase:
        return replace(one, actions=tuple(update(action) if isinstance(action, Update) else action for action in one.actions))

    return replace(program, phases=tuple(map(phase, program.phases)))

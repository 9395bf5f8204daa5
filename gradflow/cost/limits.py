"""`require memory < 4GB` in a pipeline: the limit itself, what is known to break it without running anything, and what would bring it to fit.

`gradflow check` knows parameters and states, which are kept whatever else happens; that they alone are too much is an error there. Everything
else is known once the program has been walked through, which `gradflow plan`, `compile` and `run` do for a pipeline that has a limit.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gradflow.cost.estimate import WIDTHS, estimate, parameter_bytes, precision_of, state_bytes
from gradflow.cost.figures import Cost
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Diagnostic, GradflowError
from gradflow.language.source import Source, Span
from gradflow.plan.program import DataPlan, Program

COMPARISONS = {"<": operator.lt, "<=": operator.le}
PIECES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Limit:
    """A limit in bytes, whether it only warns, and where it stands."""

    bytes: float
    sign: str
    kind: str
    span: Span
    message: str | None = None

    def holds(self, size: float) -> bool:
        return bool(COMPARISONS[self.sign](size, self.bytes))


def limits_of(program: Program) -> list[Limit]:
    """The limits of a program's pipeline, read from its text, which artifacts carry too."""
    if "memory" not in program.text:
        return []
    from gradflow.language.parser import parse

    tree = parse(Source(program.source, program.text))
    definition = next((one for one in tree.definitions if one.name == program.name and one.kind == "pipeline"), None)
    return list(limits_in(definition, program.parameters)) if definition is not None else []


def limits_in(definition: s.Definition, parameters: Mapping[str, Any]) -> Iterator[Limit]:
    """Statements like `require memory < 4GB`, `prefer memory <= budget`; what is no plain size or parameter is left alone."""
    for statement in definition.body or ():
        tree = statement.value if isinstance(statement, s.Require) else None
        if not isinstance(tree, s.Compare) or not isinstance(statement, s.Require) or len(tree.operands) != 2:
            continue
        left, right = tree.operands
        if not isinstance(left, s.Name) or left.id != "memory" or tree.ops[0] not in COMPARISONS:
            continue
        size = right.value if isinstance(right, s.Number) else parameters.get(right.id) if isinstance(right, s.Name) else None
        if isinstance(size, int | float) and not isinstance(size, bool):
            yield Limit(float(size), tree.ops[0], statement.kind, tree.span, statement.message)


# ---- what breaks them


def kept_too_large(program: Program, definition: s.Definition) -> Iterator[Diagnostic]:
    """What is known without running anything: parameters and states alone are over the limit."""
    for limit in limits_in(definition, program.parameters):
        kept = parameter_bytes(program) + state_bytes(program)
        if not limit.holds(kept):
            text = f"parameters and states alone take {readable(kept)}, and {readable(limit.bytes)} are allowed"
            yield _diagnostic(limit, text, _smaller_kept(program))


def _smaller_kept(program: Program) -> str:
    other = f"; in bfloat16 (`precision: bfloat16`) they are {readable((parameter_bytes(program) + state_bytes(program)) // 2)}"
    return f"a smaller model, or an update with fewer states{other if precision_of(program) == 'float32' else ''}"


def broken(program: Program, cost: Cost, accelerator: bool = False) -> list[Diagnostic]:
    """The limits that the predicted peak breaks, each with the cheapest change that would fit."""
    found = []
    for limit in limits_of(program):
        if not limit.holds(cost.peak):
            held = ", ".join(f"{name} {readable(size)}" for name, size in list(cost.at_peak.items())[:3])
            text = f"the peak is {readable(cost.peak)}, in {cost.peak_place} ({held}), and {readable(limit.bytes)} are allowed"
            found.append(_diagnostic(limit, text, change_that_fits(program, limit, accelerator)))
    return found


def _diagnostic(limit: Limit, why: str, fix: str) -> Diagnostic:
    severity = "warning" if limit.kind == "prefer" else "error"
    code = "W0302" if severity == "warning" else "E0608"
    return Diagnostic(code, limit.message or "this takes more memory than is allowed", limit.span, why=why, fix=fix)


def change_that_fits(program: Program, limit: Limit, accelerator: bool = False) -> str:
    """The first of the changes, cheapest first, whose predicted peak fits: more micro-batches, a smaller batch, bfloat16."""
    cut = max((int(phase.settings.get("micro", 1)) for phase in program.phases), default=1)
    for pieces in PIECES:
        if pieces > cut and limit.holds(estimate(program, accelerator, micro=pieces).peak):
            return f"`micro: {pieces}` in the settings of `train` fits, and changes no value: it costs a second forward pass"
    for name, plan in program.data.items():
        for batch in _smaller(plan):
            other = with_batch(program, name, batch)
            if other is not None and limit.holds(estimate(other, accelerator).peak):
                return f"`batch: {batch}` for `{name}` fits; the gradient then sees fewer rows"
    if precision_of(program) != "bfloat16" and limit.holds(estimate(program, accelerator, precision="bfloat16").peak):
        return "`precision: bfloat16` fits; values then have 8 significant bits"
    return "neither more micro-batches nor a smaller batch nor bfloat16 fits: use a smaller model, or an update with fewer states"


def with_batch(program: Program, data: str, batch: int) -> Program | None:
    """The program of the same text with another batch: sizes are part of every type, so it is compiled anew. None where that fails."""
    from gradflow.compiler import build
    from gradflow.language.parser import parse
    from gradflow.passes.scope import Module

    source = Source(program.source, program.text)
    definition = next((one for one in parse(source).definitions if one.name == program.name), None)
    declared = [n for n in s.walk(definition) if isinstance(n, s.Declare) and n.kind == "data" and data in n.names] if definition else []
    call = next((node for one in declared for node in s.walk(one) if isinstance(node, s.Call)), None)
    if call is None:
        return None
    said = next((arg.value.span for arg in call.args if arg.name == "batch"), None)
    start, end, text = (said.offset, said.end, str(batch)) if said is not None else (call.span.end - 1, call.span.end - 1, f", batch: {batch}")
    text = text if call.args else text.removeprefix(", ")
    changed = Source(program.source, program.text[:start] + text + program.text[end:])
    try:
        return build(Module.of(changed), program.name, bind=dict(program.parameters))[0]
    except (GradflowError, OSError):
        return None


def _smaller(plan: DataPlan) -> Iterator[int]:
    rows = next((size for field in plan.spec.fields[plan.spec.splits[0]].values() for _, size in field.axes[:1]), None)
    batch = plan.spec.batch or rows or 1
    while plan.spec.verify is None and batch > 1:
        batch //= 2
        yield batch


def readable(count: float) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


__all__ = ["WIDTHS", "Limit", "broken", "change_that_fits", "kept_too_large", "limits_in", "limits_of", "readable"]

"""The cost of a program: sizes that its types give, and everything else from a walk through it (`trial.py`).

Where the walk meets a value that nobody can know, what is kept (parameters, states, data) is still right; the cost says that it is not complete,
and why.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from gradflow.cost.figures import ActionCost, Cost, PhaseCost, Work
from gradflow.cost.traffic import messages_of
from gradflow.plan.program import Program, Update
from gradflow.procedures.acts import Hold
from gradflow.schedules.gain import predicted

if TYPE_CHECKING:
    from gradflow.cost.trial import Done, Trial

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2}


def precision_of(program: Program) -> str:
    return str(program.phases[0].settings.get("precision", "float32")) if program.phases else "float32"


def parameter_bytes(program: Program) -> int:
    """Bytes of all parameters, copies included, as far as their number is known."""
    width = WIDTHS[precision_of(program)]
    reals = sum(plan.spec.size * math.prod(axis.size or 1 for axis in plan.lifted) * width for plan in program.models.values())
    return reals + packed_bytes(program)


def packed_bytes(program: Program) -> int:
    """Bytes of the whole numbers that formats keep."""
    return sum(one.packed_bytes for plan in program.models.values() for one in plan.stored)


def state_bytes(program: Program) -> int:
    """Bytes of all states, as far as their sizes are known."""
    width = WIDTHS[precision_of(program)]
    found: dict[tuple[str, str], int] = {}
    for one in (action for phase in program.phases for action in phase.actions if isinstance(action, Update | Hold)):
        for state in one.states:
            entries = math.prod(axis.size or 1 for axis in state.type.axes)
            found[one.flow, state.key] = entries * {"bool": 1, "int": 8}.get(state.type.base, width)
    return sum(found.values())


def estimate(program: Program, accelerator: bool = False, precision: str | None = None, micro: int | None = None) -> Cost:
    """What the program will need. `precision`, `micro`: in place of what its `train` lines say."""
    from gradflow.cost.trial import walk
    from gradflow.runtime.executor import Options

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on fake tensors, which nobody asked to hear about
            trial = walk(program, Options(precision=precision, micro=micro), accelerator)
    except Exception as error:  # whatever a model, a data set or torch says about tensors without values
        return _kept(program, error)
    return _cost(program, trial, precision or precision_of(program))


def _kept(program: Program, error: Exception) -> Cost:
    parameters, states = parameter_bytes(program), state_bytes(program)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    note = f"only what is kept could be counted: {reason}"
    held = {"parameters": parameters, "states": states}
    size = sum(plan.spec.size for plan in program.models.values())
    return Cost(size, parameters, states, 0, 0, parameters + states, held, "what is kept", notes=(note,), complete=False)


def _cost(program: Program, trial: Trial, precision: str) -> Cost:
    ledger = trial.ledger
    phases = tuple(_phase(program, trial, index, WIDTHS[precision]) for index in range(len(program.phases)))
    activations = max((done.activations for done in trial.done), default=0)
    parameters = trial.kept["parameters"] + packed_bytes(program)
    return Cost(
        sum(plan.spec.size for plan in program.models.values()), parameters, trial.kept["states"], trial.kept["data"], activations,
        ledger.peak, dict(sorted(ledger.at_peak.items(), key=lambda item: -item[1])), ledger.peak_place, phases, _merged(trial.fusion),
        tuple(trial.notes), scheduled=tuple(predicted(program, dict(trial.prompts))),
    )  # fmt: skip


def _merged(notes: list[tuple[str, bool, str, str]]) -> tuple[tuple[str, bool, str, str], ...]:
    return tuple(dict.fromkeys(notes))


def _phase(program: Program, trial: Trial, index: int, width: int) -> PhaseCost:
    plan = trial.plans[index]
    found: dict[str, Done] = {}
    for done in trial.done:  # the last time of each: the first unit often takes another way
        if done.phase == index:
            found[done.name] = done
    flows = {f"flow {', '.join(a.models)} ({a.flow})": a for a in plan.phase.actions if isinstance(a, Update)}
    actions = []
    for done in found.values():
        if done.kind == "rollout" and not done.steps:
            continue
        messages = messages_of(flows[done.name], program, width, plan.phase.unit) if done.name in flows else ()
        times = _times(done, plan)
        actions.append(ActionCost(done.name, done.kind, times, Work(tuple(done.steps)), done.peak, done.activations, messages))
    return PhaseCost(plan.phase.count, plan.phase.unit, plan.updates, tuple(actions))


def _times(done: Done, plan: Any) -> float:
    """How often a unit does it; of a report, per unit of its own."""
    if done.kind in ("flow", "assign"):
        return float(plan.updates)
    return 1.0

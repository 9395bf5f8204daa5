"""What a schedule gains, before anything runs: how many samples share a prompt in one call, and the work of both ways by the lengths.

Per prompt of p tokens with g responses of r tokens, d wide, n layers deep, c floating-point operations a token outside of attention:

    attention    without: g (p + r)^2 d n        with: (p^2 + g r (2 p + r)) d n      counted as full squares, as in arXiv:2506.05433
    the rest     without: g (p + r) c            with: (p + g r) c

The head reads response tokens alone in both. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradflow.library.catalogue import ModelSpec
from gradflow.plan import program as p
from gradflow.procedures.acts import acts_in, regions_in
from gradflow.procedures.shown import draws_of
from gradflow.schedules.plan import HOOK, SCORE, SchedulePlan

WORTH = 1.1  # below this gain the rows cost about as much as they save
PRODUCTS = 4  # floating-point operations for each pair, channel and layer: two products, each a multiplication and an addition


@dataclass(frozen=True)
class Sampled:
    """A record of samples as a phase uses it: `prompts` with `group` samples each, `tokens` the longest response, in calls of `rows` samples."""

    name: str
    policy: str
    data: str
    prompts: int
    group: int
    tokens: int
    rows: int
    whole: bool

    @property
    def shared(self) -> float:
        """How many samples of one call have one prompt, on average."""
        return self.rows / max(self.distinct(self.rows), 1)

    def distinct(self, rows: int) -> int:
        """How many prompts stand behind so many samples: drawn at random, or whole groups."""
        samples = self.prompts * self.group
        if rows >= samples:
            return self.prompts
        if self.whole:
            return max(round(rows / self.group), 1)
        missed = math.exp(sum(math.log((samples - self.group - i) / (samples - i)) if samples - self.group > i else -math.inf for i in range(rows)))
        return max(round(self.prompts * (1 - missed)), 1)


def sampled(program: p.Program) -> list[Sampled]:
    """The records that are drawn, of phases that say how many."""
    found = []
    for phase in program.phases:
        pieces = phase.settings.get("minibatches", 1) if phase.unit == "rollouts" else 1
        whole = bool(phase.settings.get("whole"))
        for name, call, _ in draws_of(phase.actions):
            fields = call.fields
            if not {"group", "mask"} <= set(fields):
                continue
            samples, prompts = fields["group"].axes[0][1], fields["group"].target[1] if fields["group"].target is not None else None
            tokens = fields["mask"].axes[1][1]
            if samples and prompts and tokens:
                names = call.models.get("policy", ""), call.data.get("tasks", ("", ""))[0]
                found.append(Sampled(name, *names, prompts, samples // prompts, tokens, samples // pieces, whole))
    return found


def scored(program: p.Program) -> list[str]:
    """The models whose log-probabilities are asked for, in the order in which they are declared."""
    names: set[str] = set()
    for phase in program.phases:
        updates = [action for action in phase.actions if isinstance(action, p.Update)]
        holds = [region for act in acts_in(phase.actions) for region in regions_in(act)]
        for region in (*holds, *(r for update in updates for r in (update.region, update.rollout) if r is not None)):
            names |= {node["model"] for node in region.nodes() if node.op in ("model", "model_vjp") and node["method"] == SCORE}
    return [name for name in program.models if name in names]


def idle_models(plan: SchedulePlan, program: p.Program) -> Iterator[tuple[str, str]]:
    """Models that are computed as without the schedule, and why."""
    alone = [one for one in sampled(program) if one.group == 1]
    for name in scored(program):
        spec = program.models[name].spec
        if HOOK not in spec.methods:
            yield name, f"the attention of `{spec.name}` cannot be told what it sees"
        elif spec.facts.get("dropout", 0):
            yield name, plan.still or "it drops out at random"
        elif alone and len(alone) == len(sampled(program)):
            yield name, "every sample has a prompt of its own"


def with_idle(plan: SchedulePlan, program: p.Program) -> SchedulePlan:
    return replace(plan, idle=tuple(idle_models(plan, program)))


# ---- work


def works(spec: ModelSpec, prompt: int, response: int, group: float) -> tuple[float, float] | None:
    """Floating-point operations of `score` for one prompt and its responses, without and with shared prompts; None where the model is not known."""
    facts = {name: spec.facts.get(name) for name in ("width", "layers", "vocabulary")}
    if not spec.flops_per_row or not all(isinstance(value, int | float) for value in facts.values()):
        return None
    width, layers, vocabulary = (float(value or 0) for value in facts.values())
    head = 2.0 * vocabulary * width
    rest, pairs, read = max(spec.flops_per_row - head, 0.0), PRODUCTS * width * layers, group * response * head
    whole = prompt + response
    without = group * whole * whole * pairs + group * whole * rest + read
    together = (prompt * prompt + group * response * (2 * prompt + response)) * pairs + (prompt + group * response) * rest + read
    return without, together


def gain(spec: ModelSpec, prompt: int, response: int, group: float) -> float | None:
    found = works(spec, prompt, response, group)
    return None if found is None else found[0] / found[1]


def prompt_length(program: p.Program, one: Sampled) -> int | None:
    """Tokens of the longest prompt, where the data set states its characters and the model reads one a token."""
    facts = program.data[one.data].spec.facts if one.data in program.data else {}
    model = program.models.get(one.policy)
    known = facts.get("characters")
    return int(known) if model is not None and model.spec.name == "transformer" and isinstance(known, int | float) else None


def predicted(program: p.Program, lengths: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """For each record and each model that scores it: how much is shared, and the gain in work. `lengths`: tokens of prompts by policy."""
    if program.schedule is None:
        return []
    found = []
    idle = dict(program.schedule.idle)
    for one in sampled(program):
        length = (lengths or {}).get(one.policy) or prompt_length(program, one)
        for name in scored(program):
            if name in idle:
                continue
            ratio = gain(program.models[name].spec, length, one.tokens, one.shared) if length else None
            rows = one.distinct(one.rows)
            found.append(
                {
                    "samples": one.name, "model": name, "prompt": length, "response": one.tokens, "shared": one.shared, "rows": rows,
                    "calls_of": one.rows, "gain": ratio,
                    "positions": (rows * length + one.rows * one.tokens) / (one.rows * (length + one.tokens)) if length else None,
                }
            )  # fmt: skip
    return found


# ---- what is said of it


def used_where_it_can(e: Any, program: p.Program) -> p.Program:
    """The program whose schedule knows the models that cannot use it. W0121: it is not used; W0122: it cannot pay."""
    plan = with_idle(program.schedule, program)
    program = replace(program, schedule=plan)
    used = scored(program)
    if not used:
        e.warn(
            "W0121", plan.span, f"`{plan.name}` has nothing to do here", why="no log-probabilities of samples are asked for: there is no `score(..)`",
            fix="leave the line out",
        )  # fmt: skip
    for name, why in plan.idle:
        e.warn(
            "W0121", plan.span, f"`{plan.name}` is not used for `{name}`", why=f"{why}; it is computed as without the schedule",
            fix="leave the line out, or train a model and draw groups that share their prompts",
        )  # fmt: skip
    for one in predicted(program):
        if one["gain"] is not None and one["gain"] < WORTH:
            e.warn(
                "W0122", plan.span, f"`{plan.name}` cannot pay here: the predicted gain is {one['gain']:.2f}",
                why=f"{one['shared']:.3g} responses of up to {one['response']} tokens share a prompt of {one['prompt']}: there is little to share",
                fix="leave the line out; it pays where prompts are long against responses, groups are large, and mini-batches hold whole groups",
            )  # fmt: skip
    return program


def rows_for_people(schedule: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lines of `gradflow plan`."""
    head = schedule["name"] + (f", groups of `{schedule['whole']}` kept whole in micro-batches" if schedule["whole"] else "")
    yield "schedule", head
    for name, why in schedule["idle"]:
        yield "", f"not used for {name}: {why}"
    for one in schedule["predicted"]:
        shared = f"{one['model']} reads {one['calls_of']} samples in {one['rows']} rows, {one['shared']:.3g} to a prompt"
        if one["gain"] is None:
            yield "", f"{shared}; the gain depends on the length of prompts, which is not known before"
        else:
            lengths = f"prompts of {one['prompt']} tokens, responses of up to {one['response']}"
            yield "", f"{shared}: {lengths}; {one['positions']:.2g} of the positions, about {one['gain']:.2g} times less work"
            if one["gain"] < WORTH:
                yield "", "it cannot pay: prompts are short against responses, or hardly shared"


def summary(program: p.Program, found: Any = None) -> dict[str, Any] | None:
    """What `gradflow plan` shows of the schedule; `found`: what the walk predicted, else what is known without one."""
    plan = program.schedule
    if plan is None:
        return None
    return {"name": plan.name, "whole": plan.whole, "idle": list(plan.idle), "predicted": predicted(program) if found is None else found}

"""Schedules in pipelines: the same run with and without, what is told before it, and what is refused because it would change the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gradflow.cost.estimate import estimate
from gradflow.language.source import Source
from gradflow.passes.scope import Module, standard_folder
from gradflow.plan.artifact import load, save
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, Run
from gradflow.schedules.gain import gain, predicted, sampled
from gradflow.views.plan import render, summary

from .cases import program_of, warnings_of

PIPELINE = """
objective odd {
  input logp, logp_old, entropy : [sample, token]
  input mask                    : bool[sample, token]
  input copy                    : [sample]
  minimize -sequence_mean(logp * (1 + position(token)) * (copy - 1) + 0.01 * entropy, mask)
  minimize mean((logp - logp_old)^2, where: mask)
}

pipeline p(how: schedule | none = shared_prefix(), minibatches: int = 1, group: int = 4) {
  data  tasks  = arithmetic(digits: 2, size: 80, test: 20)
  model policy = transformer(vocabulary: 22, layers: 2, width: 16, heads: 4, length: 24)
  model frozen = copy(policy)
  samples ~ sample(policy, tasks, group: group, prompts: 6, max_tokens: 5)
  live    = score(policy, samples, reference: frozen)
  flow policy: odd(live) + 0.1 * mean((live.logp - live.logp_ref)^2, where: samples.mask) -> backprop -> adam(lr: 1e-2)
  schedule = how
  train 2 rollouts (seed: 0, epochs: 2, minibatches: minibatches, precision: float64WHOLE) {
    every 2 rollouts { report entropy = mean(live.entropy, where: samples.mask) }
  }
}
"""


def text(whole: bool = False) -> str:
    return PIPELINE.replace("WHOLE", ", whole: group" if whole else "")


def ran(how: str, backend: str = "torch", micro: int | None = None, whole: bool = False, **parameters: int) -> tuple[list[Any], torch.Tensor, Run]:
    overrides = [f"how={how}", *(f"{name}={value}" for name, value in parameters.items())]
    run = Run(program_of(text(whole), "p", *overrides), Options(backend=backend, micro=micro))
    events = list(run.events())
    told = [event.loss for event in events if isinstance(event, UnitDone)]
    told += [value for event in events if isinstance(event, Report) for value in event.values.values()]
    return told, run.store.params["policy"].clone(), run


# ---- the same run


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(("micro", "whole", "minibatches"), [(None, False, 1), (3, False, 1), (None, False, 3), (2, True, 3), (5, True, 2)])
def test_a_run_is_the_same_with_and_without(backend: str, micro: int | None, whole: bool, minibatches: int) -> None:
    """Losses, reports and parameters: with mini-batches that cut through groups and such that do not, cut into micro-batches or not."""
    plain, before, _ = ran("none", backend, micro, whole, minibatches=minibatches)
    ours, after, run = ran("shared_prefix()", backend, micro, whole, minibatches=minibatches)
    assert len(set(plain)) > 1 and plain == pytest.approx(ours, rel=1e-11)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)
    packers = [runner.rows for runner in run.store.runners.values()]
    assert len(packers) == 2 and all(packer is not None and packer.prompt and not packer.why for packer in packers)


def test_mini_batches_of_whole_groups_are_other_ones() -> None:
    """So asking for them is a setting of its own: a schedule never decides which samples meet."""
    assert ran("none", minibatches=3)[0] != ran("none", minibatches=3, whole=True)[0]


def test_whole_groups_share_more() -> None:
    shared = {}
    for whole in (False, True):
        run = Run(program_of(text(whole), "p", "minibatches=3"), Options())
        rows: list[int] = []
        for event in run.events():
            if not rows and isinstance(event, UnitDone):
                break
        packer = run.store.runners["policy"].rows
        assert packer is not None
        one = sampled(run.program)[0]
        shared[whole] = one.shared
        assert packer.distinct(24) == 6 and packer.distinct(8) == one.distinct(8)
    assert shared[True] == 4 and 1 < shared[False] < 2.1


# ---- what is told


def test_the_plan_tells_the_gain(tmp_path: Path) -> None:
    program = program_of(LONG)
    shown = render(program, 200)
    assert "shared_prefix, groups of `group` kept whole" in shown
    assert "policy reads 8 samples in 2 rows, 4 to a prompt: prompts of 300 tokens, responses of up to 10" in shown
    (one,) = summary(program)["schedule"]["predicted"]
    assert 3 < one["gain"] < 4 and one["positions"] == pytest.approx((2 * 300 + 8 * 10) / (8 * 310))
    cost = estimate(program)
    assert cost.complete and cost.scheduled[0]["gain"] == pytest.approx(one["gain"])


def test_what_is_predicted_to_be_done_falls_as_the_gain_says() -> None:
    """Products counted by walking through both: the head and the lead of responses are in neither formula exactly."""

    def flops(how: str) -> float:
        actions = [one for one in estimate(program_of(LONG, None, f"how={how}")).phases[0].actions if one.kind == "flow"]
        return sum(one.work.contractions for one in actions)

    (one,) = predicted(program_of(LONG))
    assert flops("none") / flops("shared_prefix()") == pytest.approx(one["gain"], rel=0.25)


@pytest.mark.parametrize(("lengths", "found"), [((256, 32, 8), 4.07), ((512, 32, 8), 5.1), ((512, 64, 4), 2.74), ((64, 64, 8), 1.68)])
def test_the_gain_is_the_card_s_formula(lengths: tuple[int, int, int], found: float) -> None:
    spec = program_of(LONG.replace("vocabulary: 47", "vocabulary: 64")).models["policy"].spec
    p, r, g = lengths
    d, n = 128, 4
    c, head = 2 * 12 * n * d * d, 2 * 64 * d
    without = 4 * g * (p + r) ** 2 * d * n + g * (p + r) * c + g * r * head
    together = 4 * (p**2 + g * r * (2 * p + r)) * d * n + (p + g * r) * c + g * r * head
    assert gain(spec, p, r, g) == pytest.approx(without / together) and without / together == pytest.approx(found, abs=0.06)
    assert gain(spec, 10**5, 1, g) == pytest.approx(g, rel=0.01)  # towards G where prompts are long


LONG = """
pipeline p(how: schedule | none = shared_prefix()) {
  data  tasks  = long_prompts(length: 300)
  model policy = transformer(vocabulary: 47, layers: 4, width: 128, heads: 4, length: 310)
  samples ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 10)
  flow policy: grpo(score(policy, samples)) -> backprop -> adam(lr: 1e-3)
  schedule = how
  train 2 rollouts (minibatches: 2, whole: group)
}
"""


def test_nothing_is_said_where_it_pays_or_is_not_asked_for() -> None:
    assert warnings_of(LONG) == [] and warnings_of(LONG, "how=none") == []


def test_the_model_that_cannot_use_it_is_named() -> None:
    program = program_of(LONG.replace("group: 4", "group: 1").replace("grpo(", "reinforce("))
    assert program.schedule.idle == (("policy", "every sample has a prompt of its own"),)
    assert "not used for policy: every sample has a prompt of its own" in render(program, 200)


# ---- artifacts


def test_a_compiled_plan_carries_its_schedule(tmp_path: Path) -> None:
    program = program_of(text(), "p", "minibatches=2")
    path = tmp_path / "p.gfp"
    save(program, path)
    read = load(path)
    assert read.schedule.name == "shared_prefix" and read.schedule.whole == "group"
    run = Run(read, Options())
    told = [event.loss for event in run.events() if isinstance(event, UnitDone)]
    assert told == [event for event in ran("shared_prefix()", minibatches=2)[0] if event in told] and len(told) == 2
    assert json.dumps(summary(read)["schedule"]["name"]) == '"shared_prefix"'


# ---- exactness is decided, not believed

SPEC = (standard_folder() / "methods" / "37_prefix_grouper.gflow").read_text(encoding="utf-8").partition("pipeline ")[0]
CHANGES = {
    "the first token is not predicted by the prompt": ("lead: 1", "lead: 0"),
    "later tokens are seen": (" and place[j] <= place[i]", ""),
    "tokens do not see themselves": ("place[j] <= place[i]", "place[j] < place[i]"),
    "siblings are seen": ("(shared[j] or owner[j] == owner[i])", "true"),
    "the prompt is not seen": ("(shared[j] or owner[j] == owner[i])", "owner[j] == owner[i]"),
    "padding is seen": ("filled[j] and ", ""),
    "responses start at zero": ("place  = packed.place", "place  = packed.offset"),
    "positions cannot be computed": ("place: place, filled", "place: max(prefix, over: [prompt, place]), filled"),
    "positions count on": ("place  = packed.place", "place  = packed.place + where(packed.shared, 0, 1)"),
    "tokens are mixed up": ("word: packed.word", "word: packed.word + where(packed.owner > 0, 1, 0)"),
    "answers are read elsewhere": ("slot: back.slot", "slot: max(back.slot - 1, 0)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_schedule_that_changes_the_result_is_refused(change: str) -> None:
    from gradflow.compiler import check_source

    old, new = CHANGES[change]
    assert SPEC.count(old) == 1
    assert not check_source(Source("<test>", SPEC))
    assert [one.code for one in check_source(Source("<test>", SPEC.replace(old, new)))] == ["E0562"]


def test_the_definition_is_as_short_as_a_method_s() -> None:
    (definition,) = Module.of(Source("<test>", SPEC)).definitions.values()
    assert definition.kind == "schedule" and definition.name == "shared_prefix"

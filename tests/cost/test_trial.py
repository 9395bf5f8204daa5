"""The walk through a program without data: its memory is that of the real run, its work that of the formulas by hand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gradflow.cost.estimate import estimate, parameter_bytes, state_bytes
from gradflow.cost.figures import Cost, as_record, of_unit
from gradflow.cost.ledger import Ledger
from gradflow.plan.program import Program
from gradflow.runtime.executor import Options, Run
from tests.plan.programs import looped, of, shipped

NET = """pipeline p(batch: int = 64, lr: real = 1e-3) {
  data train, test = digits(batch: batch)
  model net = mlp(64, 256, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> adam(lr)
  train 4 steps (SETTINGS) { report accuracy = accuracy(net(test.x), test.y) }
}
"""


def net(settings: str = "seed: 0") -> Program:
    return of(NET.replace("SETTINGS", settings))


@cache
def cost_of(name: str) -> Cost:
    return estimate(shipped()[name])


def measured_peak(program: Program) -> int:
    """What torch's allocator held at most in two units, and what tensors share with numpy."""
    run = Run(program, Options(steps=2))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in run.events():
            pass
    live = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    columns = [(tensor, run.batches.loaded(name)[split][field]) for (name, split, field), tensor in run.batches._whole.items()]
    return peak + sum(t.numel() * t.element_size() for t, column in columns if torch.from_numpy(column).data_ptr() == t.data_ptr())


@pytest.mark.parametrize("name", ["14_econtrol:compressed_digits", "exchanges:federated", "17_diffgrad:digits", "11_dct_lowrank:digits_trion"])
def test_the_peak_is_that_of_the_run(name: str) -> None:
    cost = cost_of(name)
    assert cost.complete and not cost.notes
    assert cost.peak == pytest.approx(measured_peak(shipped()[name]), rel=0.02)


@pytest.mark.parametrize("settings", ["seed: 0", "micro: 4", "precision: float64", "precision: bfloat16"])
def test_the_peak_follows_the_settings(settings: str) -> None:
    program = net(settings)
    assert estimate(program).peak == pytest.approx(measured_peak(program), rel=0.02)


def test_a_policy_that_draws() -> None:
    cost = cost_of("18_sapo:arithmetic")
    assert cost.complete
    assert cost.peak == pytest.approx(measured_peak(shipped()["18_sapo:arithmetic"]), rel=0.1)


def pretrained(program: Program) -> bool:
    """Whether a model takes its weights from a package that need not be installed here; with codes instead of weights it is small all the same."""
    return any(plan.spec.name == "smollm2" or plan.spec.size >= 10**8 for plan in program.models.values())


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_pipeline_can_be_walked_through(name: str) -> None:
    program = shipped()[name]
    if pretrained(program):
        pytest.skip("its weights need not be installed here")
    cost = cost_of(name)
    assert cost.complete, cost.notes
    assert cost.peak >= parameter_bytes(program) + state_bytes(program)
    assert cost.parameter_bytes == parameter_bytes(program) and cost.state_bytes == state_bytes(program)
    assert sum(cost.at_peak.values()) == cost.peak and cost.peak_place
    assert [phase.count for phase in cost.phases] == [phase.count for phase in program.phases]


def test_flops_are_those_of_the_matrix_products() -> None:
    (phase,) = estimate(net()).phases
    forward = 2 * 64 * (64 * 256 + 256 * 10)
    to_weights, to_hidden = forward, 2 * 64 * 256 * 10
    assert of_unit(phase)[0] == forward + to_weights + to_hidden
    report = next(action for action in phase.actions if action.kind == "report")
    assert report.work.contractions == 2 * 359 * (64 * 256 + 256 * 10)


def test_a_kernel_moves_its_operands_once() -> None:
    """The update reads gradient, parameters and both moments, and writes three of them."""
    (phase,) = estimate(net()).phases
    size = 4 * (64 * 256 + 256 + 256 * 10 + 10)
    assert 7 * size in {step.bytes for action in phase.actions if action.kind == "flow" for step in action.work.steps}


def test_micro_batches_hold_less() -> None:
    whole, cut = estimate(net()), estimate(net(), micro=8)
    assert cut.activation_bytes < whole.activation_bytes and cut.peak < whole.peak


def test_an_accelerator_works_on_whole_tensors() -> None:
    here, there = estimate(net()), estimate(net(), accelerator=True)
    passes = [len([s for a in cost.phases[0].actions if a.kind == "flow" for s in a.work.steps]) for cost in (here, there)]
    assert there.complete and passes[1] > passes[0]


def test_what_cannot_be_walked_through_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a value is needed\nand more")

    monkeypatch.setattr("gradflow.cost.trial.walk", broken)
    cost = estimate(looped())
    assert not cost.complete and cost.peak == parameter_bytes(looped()) + state_bytes(looped()) > 0
    assert cost.notes == ("only what is kept could be counted: a value is needed",)


def test_inputs_of_unknown_length_are_said() -> None:
    program = of(
        "pipeline p {\n  input x : [row]\n  model w = free(1.0)\n  flow w: mean((w - x)^2) -> backprop -> sgd(lr: 0.1)\n  train 2 steps\n}\n"
    )
    cost = estimate(program)
    assert cost.complete and any("`x`" in note and "64 is assumed" in note for note in cost.notes)


def test_the_record_is_plain_data() -> None:
    import json

    found = json.loads(json.dumps(as_record(cost_of("14_econtrol:compressed_digits"))))
    assert found["complete"] and found["phases"][0]["a_unit"]["messages"] == 30
    assert {note["fused"] for note in found["fusion"]} == {True, False}


# ---- the ledger


def test_the_ledger_forgets_what_nobody_holds() -> None:
    with Ledger(1) as ledger:
        a = torch.ones(1000)
        b = a.view(10, 100)
        assert ledger.live == 4000
        del a
        assert ledger.live == 4000
        c = b + b
        assert ledger.live == 8000 and [step.bytes for step in ledger.steps] == [4000, 8000]
        del b, c
        assert ledger.live == 0 and ledger.peak == 8000


def test_the_ledger_sees_what_the_tape_keeps() -> None:
    with Ledger(1) as ledger:
        x = torch.ones(100, 100, requires_grad=True)
        before = ledger.live
        y = (x.exp().sin()).sum()
        kept = ledger.live - before
        assert kept == 40_000 + 4
        del y
        assert ledger.live == before


def test_labels_divide_the_peak() -> None:
    with Ledger(1) as ledger:
        with ledger.labelled("states"):
            a = torch.ones(100)
        b = torch.ones(50)
    assert ledger.at_peak == {"states": 400, "temporaries": 200} and a.sum() + b.sum() == 150

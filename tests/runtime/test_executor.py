"""The loop: shipped pipelines against their cards, clocks, order, determinism, both backends, micro-batches, rollouts, failures, stopping."""

import json
import math
from pathlib import Path

import numpy
import pytest
import torch

from gradflow.language.source import NOWHERE
from gradflow.runtime import events as ev
from gradflow.runtime.executor import Options, Run, execute
from tests.runtime.harness import LOCK, of_kind, ran, series, shipped, written

GOLDEN = Path(__file__).parents[1] / "golden"
TRAINED = [  # every shipped pipeline that runs in seconds
    ("methods/17_diffgrad", "digits"),
    ("methods/11_dct_lowrank", "digits"),
    ("methods/11_dct_lowrank", "digits_trion"),
    ("methods/14_econtrol", "compressed_digits"),
    ("baselines/optimizers", "galore_digits"),
    ("baselines/optimizers", "muon_digits"),
    ("baselines/exchanges", "gossip_on_digits"),
    ("baselines/exchanges", "federated"),
]

QUADRATIC = """
pipeline quadratic(lr: real > 0 = 0.1) {
  model x = free([entry: 3])
  loss = sum((x - 1)^2, over: entry)
  flow x: loss -> backprop -> sgd(lr)
  train 20 steps { every 5 steps { report x = x; report loss = loss } }
}
"""


def final(run):
    return {name: value.double().cpu().numpy() for name, value in run.store.params.items()}


# ---- what the methods are known to do


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_valley_follows_the_authors_notebook(backend):
    cases = json.loads((GOLDEN / "17-diffgrad.toy.json").read_text())["cases"]
    expected = next(case for case in cases if case["name"] == "F1_paper")["outputs"]
    for name, values in (("diffgrad", expected["x_diffgrad"]["data"]), ("adam", expected["x_adam"]["data"])):
        _, events = ran(shipped("methods/17_diffgrad", "valley"), backend=backend, precision="float64", steps=len(values) - 1)
        numpy.testing.assert_allclose(series(events, name), values, rtol=1e-5, atol=1e-7)


def test_valley_ends_where_the_card_says():
    run, events = ran(shipped("methods/17_diffgrad", "valley"))
    assert float(run.store.params["y"]) == pytest.approx(0.2, abs=2e-3), "Adam stays in the local minimum"
    assert float(run.store.params["x"]) == pytest.approx(-0.3, abs=2e-3), "diffGrad reaches the global one"
    learnt = events[-1].learnt
    assert learnt["diffgrad"] == (-1.0, pytest.approx(-0.3, abs=2e-3))
    assert len(of_kind(events, ev.UnitDone)) == 300 and len(series(events, "adam")) == 301


def test_digits_are_learnt():
    _, events = ran(shipped("methods/17_diffgrad", "digits"))
    accuracy = series(events, "accuracy")
    assert len(accuracy) == 6 and accuracy[0] < 0.3 and accuracy[-1] > 0.7


def test_lock_is_opened_by_minibatches_of_rollouts():
    run, events = ran(written(LOCK))
    assert series(events, "accuracy")[0] < 0.5 < 0.9 < series(events, "accuracy")[-1]
    assert run.clocks.executed == run.clocks.planned == {"flow1": 12 * 2 * 3}
    units = of_kind(events, ev.UnitDone)
    assert all(unit.rate_unit == "tokens" and unit.rate > 0 for unit in units)
    assert {"ratio_mean", "reward", "pass_at_8", "clip_high", "entropy"} <= set(units[0].metrics) and units[-1].metrics["ratio_mean"] != 1


# ---- both backends, seeds, micro-batches


@pytest.mark.parametrize("name, pipeline", TRAINED)
def test_torch_in_float64_equals_the_reference(name, pipeline):
    program = shipped(name, pipeline)
    steps = 1 if "epochs" in {phase.unit for phase in program.phases} else 3
    first, told = ran(program, backend="reference", steps=steps)
    second, told_too = ran(program, backend="torch", precision="float64", steps=steps)
    for model, value in final(first).items():
        assert numpy.ptp(value) > 0 and numpy.isfinite(value).all()
        numpy.testing.assert_allclose(final(second)[model], value, rtol=1e-8, atol=1e-10)
    for one, other in zip(of_kind(told, ev.UnitDone), of_kind(told_too, ev.UnitDone), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)


def test_rollouts_are_the_same_on_both_backends():
    first, _ = ran(written(LOCK), backend="reference", steps=3)
    second, _ = ran(written(LOCK), precision="float64", steps=3)
    numpy.testing.assert_allclose(final(second)["policy"], final(first)["policy"], rtol=1e-9)


@pytest.mark.parametrize("program", [("baselines/optimizers", "galore_digits"), ("baselines/exchanges", "gossip_on_digits"), None])
def test_same_seed_same_bits_and_another_seed_others(program):
    program = shipped(*program) if program else written(LOCK)
    one, two, other = (final(ran(program, steps=3, seed=seed)[0]) for seed in (5, 5, 6))
    assert all((one[model] == two[model]).all() for model in one)
    if "gossip" not in program.name:  # all rows, zeros to start with: nothing is drawn
        assert any((one[model] != other[model]).any() for model in one)


def test_the_option_overrules_the_seed_of_the_spec():
    program = shipped("baselines/optimizers", "galore_digits")
    assert program.phases[0].settings["seed"] == 0
    assert (final(ran(program, steps=2)[0])["net"] == final(ran(program, steps=2, seed=0)[0])["net"]).all()


@pytest.mark.parametrize("name, pipeline", [*TRAINED[:2], ("lock", "lock")])
@pytest.mark.parametrize("micro", [2, 5])
def test_the_cut_into_micro_batches_moves_no_value(name, pipeline, micro):
    program = written(LOCK) if name == "lock" else shipped(name, pipeline)
    steps = 1 if program.phases[0].unit == "epochs" else 2
    whole, cut = (final(ran(program, steps=steps, precision="float64", micro=pieces)[0]) for pieces in (None, micro))
    for model in whole:
        numpy.testing.assert_allclose(cut[model], whole[model], rtol=1e-9, atol=1e-12)


# ---- clocks and order


def test_clocks_count_units_and_executed_updates():
    text = """
    update steps_of(rate: real) { report t = t; report rate = rate; param <- param - 0 * grad + progress }
    pipeline clocks {
      model x = free(0.0)
      flow x: x^2 -> backprop -> steps_of(rate: t / t_end)
      train 4 steps { every 2 steps { report x = x; report t = t; report progress = progress } }
    }
    """
    run, events = ran(written(text), precision="float64")
    units = of_kind(events, ev.UnitDone)
    assert [unit.t for unit in units] == [1, 2, 3, 4] and [unit.tick for unit in units] == [0, 1, 2, 3]
    assert [unit.metrics["steps_of.t"] for unit in units] == [1, 2, 3, 4]
    assert series(events, "t") == [0, 2, 4] and series(events, "progress") == [0, 0.5, 1]
    assert series(events, "x")[-1] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert run.clocks.tick == 4


def test_states_and_clocks_of_a_flow_go_on_over_phases():
    text = """
    update fading_adam = fading -> adam(lr: 0.1)
    projection fading { param <- param + (1 - progress) * step(grad) }
    pipeline whole  { data train, test = digits(batch: 32)
      model net = softmax_regression(64, 10)
      flow net: cross_entropy(net(train.x), train.y) -> backprop -> fading_adam()
      train 6 steps }
    pipeline phased { data train, test = digits(batch: 32)
      model net = softmax_regression(64, 10)
      flow net: cross_entropy(net(train.x), train.y) -> backprop -> fading_adam()
      train 2 steps
      train 4 steps }
    """
    whole, _ = ran(written(text, "whole"))
    phased, events = ran(written(text, "phased"))
    assert phased.clocks.planned == {"flow1": 6}
    assert (final(whole)["net"] == final(phased)["net"]).all()
    assert [(e.phase, e.t, e.tick) for e in of_kind(events, ev.UnitDone)] == [(0, 1, 0), (0, 2, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4), (1, 4, 5)]


def test_a_skipped_update_does_not_count():
    text = """
    projection sometimes { when param < 2.5 { return grad } }
    update forward { param <- param + 1 + 0 * grad + 0 * t }
    pipeline skipping {
      model x = free(0.0)
      flow x: x^2 -> backprop -> sometimes -> forward
      train 6 steps { every step { report x = x } }
    }
    """
    run, events = ran(written(text))
    assert series(events, "x") == [0, 1, 2, 3, 3, 3, 3]
    assert run.clocks.executed == {"flow1": 3}


def test_the_second_flow_sees_what_the_first_did():
    text = """
    estimator step_to(value: real) { return value }
    pipeline two {
      model x, y = free(1.0)
      flow x: step_to(x) -> sgd(lr: 0.5)
      flow y: step_to(y - x) -> sgd(lr: 1)
      train 2 steps { every step { report x = x; report y = y } }
    }
    """
    _, events = ran(written(text))
    assert series(events, "x") == [1, 0.5, 0.25] and series(events, "y") == [1, 0.5, 0.25]


def test_epochs_are_passes_over_the_rows():
    program = shipped("methods/17_diffgrad", "digits")
    run, events = ran(program, steps=2)
    updates = 1438 // 128
    assert run.clocks.executed == run.clocks.planned == {"flow1": 2 * updates}
    assert run.clocks.visit == 2 * updates and run.clocks.tick == 2
    assert len(of_kind(events, ev.Report)) == 3


def test_a_period_in_steps_inside_epochs():
    text = """
    pipeline counted {
      data  train, test = digits(batch: 400)
      model net = softmax_regression(64, 10)
      flow  net: cross_entropy(net(train.x), train.y) -> backprop -> sgd(lr: 0.1)
      train 3 epochs { every 2 steps { report loss = cross_entropy(net(test.x), test.y) } }
    }
    """
    _, events = ran(written(text))
    losses = series(events, "loss")  # 3 updates an epoch: before, after 2, 4, 6, 8 and at the end, after 9
    assert len(losses) == 6 and losses == sorted(losses, reverse=True) and len(set(losses)) == 6


def test_reports_of_what_is_drawn_wait_for_the_first_draw():
    _, events = ran(written(LOCK), steps=6)
    first, second = of_kind(events, ev.Report)
    assert set(first.values) == {"accuracy"} and set(second.values) == {"accuracy", "reward"}


def test_what_a_function_makes_of_a_draw_is_held():
    text = """
    function doubled(policy, tasks) { drawn ~ sample(policy, tasks, group: 4); return (mask: drawn.mask, reward: 2 * drawn.reward) }
    pipeline held {
      data  tasks  = combination_lock(prompts: 8, length: 1, vocabulary: 3)
      model policy = table_policy(prompts: 8, length: 1, vocabulary: 3)
      samples ~ doubled(policy, tasks)
      half    ~ samples.reward / 2
      flow policy: sum(policy^2) -> backprop -> sgd(lr: 0.1)
      train 6 rollouts (minibatches: 2) {
        every rollout { report twice = mean(samples.reward, over: sample); report once = mean(half, over: sample) }
      }
    }
    """
    _, events = ran(written(text, "held"))
    once, twice = series(events, "once"), series(events, "twice")
    assert len(once) == 6 and max(once) > 0 and twice == [2 * value for value in once]


def test_reports_at_the_end():
    text = QUADRATIC.replace("report loss = loss } }", "report loss = loss }\n report distance = norm(x - 1) }")
    _, events = ran(written(text), steps=7)
    last = of_kind(events, ev.Report)[-1]
    assert last.final and set(last.values) == {"distance"} and last.values["distance"] > 0
    assert [event.t for event in of_kind(events, ev.Report)] == [0, 5, 7, 7]


def test_reports_with_axes_are_lists():
    _, events = ran(written(QUADRATIC), steps=5)
    assert series(events, "x")[0] == [0.0, 0.0, 0.0] and len(set(series(events, "x")[-1])) == 1
    assert series(events, "loss")[0] == 3.0


# ---- copies, dropout, inputs


def test_a_copy_starts_where_its_model_does():
    program = shipped("baselines/optimizers", "galore_digits")
    run, _ = ran(program, steps=0)
    assert torch.equal(run.store.params["net"], run.store.params["average"])
    run, _ = ran(program, steps=2)
    gap = (run.store.params["net"] - run.store.params["average"]).abs().max()
    assert 0 < gap < 0.01
    assert set(run.parameters("net")) == {leaf.name for leaf in program.models["net"].spec.leaves}
    assert run.store.runners["net"].module.state_dict()["layers.0.weight"].data_ptr() == run.store.params["net"].data_ptr()


def test_dropout_is_keyed_and_reports_do_without():
    text = """
    pipeline dropping {
      data  train, test = digits(batch: 64)
      model net = mlp(64, 32, 10, dropout: 0.5)
      flow  net: cross_entropy(net(train.x), train.y) -> backprop -> sgd(lr: 0.5)
      train 3 steps { every step { report one = cross_entropy(net(test.x), test.y); report same = cross_entropy(net(test.x + 0), test.y) } }
    }
    """
    torch.manual_seed(1)
    one, events = ran(written(text))
    state = torch.get_rng_state()
    two, _ = ran(written(text))
    assert (final(one)["net"] == final(two)["net"]).all() and torch.equal(state, torch.get_rng_state())
    assert series(events, "one") == pytest.approx(series(events, "same"), rel=1e-5)
    assert one.store.runners["net"].module.training
    with pytest.raises(ev.RunFailed, match="dropout cannot be cut"):
        ran(written(text), micro=2)


def test_inputs_are_given_or_asked_of_a_function_of_the_tick():
    text = """
    pipeline driven {
      input goal : real
      model x = free(0.0)
      flow x: (x - goal)^2 -> backprop -> sgd(lr: 0.5)
      train 3 steps { every step { report x = x } }
    }
    """
    _, events = ran(written(text), inputs={"goal": 2.0})
    assert series(events, "x") == [0, 2, 2, 2]
    _, events = ran(written(text), inputs={"goal": lambda tick: float(tick)})
    assert series(events, "x") == [0, 0, 1, 2]
    with pytest.raises(ev.RunFailed, match="the input `goal` of `driven` is not given"):
        ran(written(text))


# ---- events


def test_events_come_in_order_and_are_json():
    heard = []
    events = list(execute(shipped("baselines/exchanges", "gossip_on_digits"), Options(steps=2), heard.append))
    assert heard == events
    kinds = [ev.kind_of(event) for event in events]
    assert kinds == ["run_started", "report", "unit_done", "unit_done", "report", "run_finished"]
    for event in events:
        record = json.loads(json.dumps(ev.as_record(event), allow_nan=False))
        assert record["event"] == ev.kind_of(event)
    started = events[0]
    assert started.version == ev.SCHEMA and started.units == 2 and started.models["net"]["axes"] == ["node"]
    assert events[2].rate_unit == "samples" and events[2].seconds > 0


def test_numbers_that_json_lacks_are_named():
    record = ev.as_record(ev.Report(0, 0, 0, "steps", {"a": math.nan, "b": [math.inf, 1.0]}))
    assert record["values"] == {"a": "nan", "b": ["inf", 1.0]}


# ---- failures


DIVERGING = """
pipeline diverging {
  data  train, test = digits(batch: 64)
  model net = softmax_regression(64, 10)
  loss = sum(net^2)
  flow net: loss + cross_entropy(net(train.x), train.y)
    -> backprop -> sgd(lr: 1e6)
  train 100 steps
}
"""


def test_a_diverging_run_names_the_objective_and_its_line():
    with pytest.raises(ev.RunFailed) as failure:
        ran(written(DIVERGING))
    error = failure.value
    assert error.span.line == 6 and error.span.file == "inline.gflow"
    assert "the loss is" in error.message and "finite" in error.message and error.stage.startswith("loss + cross_entropy")
    record = ev.failure_record(error)
    assert json.loads(json.dumps(record))["span"]["line"] == 6


@pytest.mark.parametrize("rule, stage", [("adam(lr: 0.1)", "adam"), ("sgd(lr: 1)", "sgd")])
def test_parameters_that_break_first_name_the_stage(rule, stage):
    text = f"""
    pipeline breaking {{
      model x = free(1.0)
      flow x: x -> backprop -> given_slope -> {rule}
      train 5 steps
    }}
    projection given_slope {{ return exp(100 * grad) }}
    """
    with pytest.raises(ev.RunFailed) as failure:
        ran(written(text))
    assert failure.value.span.line == 4 and failure.value.stage == stage
    assert "the parameters of `x` are not finite after update 1" in failure.value.message


def test_a_loss_that_a_stage_takes_care_of_is_no_failure():
    text = """
    pipeline guarded {
      model x = free(0.0)
      flow x: sqrt(x) -> backprop -> skip_nonfinite -> sgd(lr: 1)
      train 2 steps { every step { report x = x } }
    }
    """
    run, events = ran(written(text))
    assert series(events, "x") == [0, 0, 0] and run.clocks.executed.get("flow1", 0) == 0


def test_too_few_rows_for_a_batch_is_said_with_the_place():
    text = """
    pipeline scarce {
      data  train, test = digits(batch: 100, split: by_label)
      model net = softmax_regression(64, 10)
      flow  net over ring(16): cross_entropy(net(train.x), train.y) -> backprop -> gossip() -> sgd(lr: 0.1)
      train 2 rounds
    }
    """
    with pytest.raises(ev.RunFailed, match="draws 100 rows for an update, there are 89 a node owns") as failure:
        ran(written(text))
    assert failure.value.span.line == 3


def test_options_and_devices_that_do_not_exist():
    with pytest.raises(ValueError, match="no backend"):
        Options(backend="jax")
    with pytest.raises(ValueError, match="precision"):
        Options(precision="float8")
    with pytest.raises(ValueError, match="micro"):
        Options(micro=0)
    with pytest.raises(ev.RunFailed, match="cannot be used") as failure:
        Run(written(QUADRATIC), Options(device="nonsense"))
    assert failure.value.span == NOWHERE


# ---- stopping and checkpoints


def test_a_run_stops_after_the_unit_at_hand(tmp_path):
    run = Run(written(QUADRATIC), Options(), folder=tmp_path)
    events = []
    for event in run.events():
        events.append(event)
        if isinstance(event, ev.UnitDone) and event.t == 3:
            run.stop()
    assert isinstance(events[-1], ev.RunStopped) and events[-1].whole and events[-1].tick == 3
    assert isinstance(events[-2], ev.CheckpointWritten) and (tmp_path / "checkpoints" / "00000003").is_dir()


def test_an_interrupt_in_the_middle_ends_with_an_event(monkeypatch):
    run = Run(written(QUADRATIC), Options())
    change = run._change

    def interrupted(*arguments):
        if run.clocks.tick == 2:
            raise KeyboardInterrupt
        change(*arguments)

    monkeypatch.setattr(run, "_change", interrupted)
    events = list(run.events())
    assert isinstance(events[-1], ev.RunStopped) and not events[-1].whole and events[-1].tick == 2


def test_the_deterministic_mode_ends_with_the_run():
    ran(written(QUADRATIC), steps=1, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()

"""Where private values may go, what releases must declare, and the budget: in specs that leak, and in runs that are stopped and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradflow import compiler
from gradflow.cli.main import main
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan import artifact
from gradflow.plan.program import Update
from gradflow.plan.rewriting import optimized
from gradflow.privacy.guard import guard_of
from gradflow.privacy.plan import rows, spending, summary
from gradflow.runtime.events import RunFailed, RunFinished, UnitDone
from tests.runtime.harness import of_kind, ran, series, written
from tests.runtime.interrupting import begun, resumed

PLAIN = """
pipeline p {{
  data  train, test = private(digits(size: 60), unit: record)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y)
  {flow}
  {budget}
  train {count} rounds (seed: 0) {{ {inside} }}
}}
"""
GD = "flow net over star(3): loss -> backprop -> dp_gd(radius: 1, multiplier: 10) -> sgd(lr: 0.1)"


def text(flow: str = GD, inside: str = "", budget: str = "", count: int = 20, before: str = "") -> str:
    return before + PLAIN.format(flow=flow, inside=inside, budget=budget, count=count)


def codes(spec: str) -> list[str]:
    return [one.code for one in compiler.check_source(Source("<test>", spec))]


def stage(name: str, body: str) -> str:
    return f"exchange {name}() over central {{\n  each = grad(per: sample)\n{body}\n}}\n"


def flow_of(name: str) -> str:
    return f"flow net over star(3): loss -> backprop -> {name} -> sgd(lr: 0.1)"


def test_a_release_makes_public_and_held_out_rows_may_be_shown() -> None:
    assert codes(text(inside="every 5 rounds { report a = accuracy(net(test.x), test.y) }")) == []


LEAKS = {
    "the parameters": text("flow net over star(3): loss -> backprop -> average() -> sgd(lr: 0.1)"),
    "a report": text(inside="report a = accuracy(net(train.x), train.y)"),
    "a report of a formula": text(inside="report n = max(train.x)"),
    "a report of a stage": text(flow_of("a()"), before=stage("a", """  report n = mean(norm(each, over: param), over: [node, sample])
  xi ~ normal([param])
  return release(mean(mean(clip_records(x: each, radius: 1), over: sample), over: node), sensitivity: 2 / 60, multiplier: 9, noise: xi)""")),
    "what a stage bound": text("rule = dp_gd(radius: 1, multiplier: 9)\n  " + flow_of("rule"), inside="report n = mean(rule.each)"),
    "a state": text(flow_of("a()"), before=stage("a", """  state kept : [param] = 0
  kept <- kept + mean(mean(each, over: sample), over: node)
  xi ~ normal([param])
  return release(kept, sensitivity: 1, multiplier: 9, noise: xi)""")),
    "a sensitivity made of the data": text(flow_of("a()"), before=stage("a", """  xi ~ normal([param])
  whole = mean(mean(each, over: sample), over: node)
  return release(whole, sensitivity: norm(whole), multiplier: 9, noise: xi)""")),
    "part of it beside the release": text(flow_of("a()"), before=stage("a", """  xi ~ normal([param])
  whole = mean(mean(clip_records(x: each, radius: 1), over: sample), over: node)
  return release(whole, sensitivity: 2 / 60, multiplier: 9, noise: xi) + 1e-9 * whole""")),
    "neighbors": text("flow net over ring(3): loss -> backprop -> gossip() -> sgd(lr: 0.1)"),
    "the start of a model": text(GD + "\n  model other = free(mean(train.x))"),
    "a release that nobody counts": text(GD + "\n  xi ~ normal([feature: 64])", inside="every 2 rounds { report a = "
        "release(mean(train.x, over: sample), sensitivity: 1, multiplier: 9, noise: xi) }"),
    "an assignment": text(GD + "\n  model other = free(0.0)", inside="other <- mean(train.x)"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_what_leaks_is_an_error(name: str) -> None:
    found = codes(LEAKS[name])
    assert found and set(found) == {"E0702"}


def test_the_path_is_told_from_the_data_on() -> None:
    spec = text("flow net: loss -> backprop -> sgd(lr: 0.1)")
    (found,) = compiler.check_source(Source("<test>", spec))
    here = [label for label in found.secondary if label.span.file == "<test>"]
    assert here[0].text == "1. private: `x` of `train`" and spec[here[0].span.offset : here[0].span.end] == "train.x"


def test_without_the_declaration_everything_may_be_shown() -> None:
    spec = text("flow net: loss -> backprop -> sgd(lr: 0.1)", inside="report l = loss").replace("private(digits(size: 60), unit: record)", "digits()")
    assert codes(spec) == []


NOISE = "\n  xi ~ normal([param])\n  return "
WHOLE = "mean(mean(clip_records(x: each, radius: 1), over: sample), over: node)"
DECLARED = {
    "too small": (WHOLE, "sensitivity: 1.99 / 60, multiplier: 9, noise: xi", "E0704"),
    "just enough": (WHOLE, "sensitivity: 2 / 60, multiplier: 9, noise: xi", None),
    "no clipping: as declared": ("mean(mean(each, over: sample), over: node)", "sensitivity: 1e-9, multiplier: 9, noise: xi", None),
    "no noise": (WHOLE, "sensitivity: 2 / 60, multiplier: 0, noise: xi", "E0705"),
    "no noise later on": (WHOLE, "sensitivity: 2 / 60, multiplier: max(5 - t, 0), noise: xi", "E0705"),
    "less and less noise": (WHOLE, "sensitivity: 2 / 60, multiplier: 9 / sqrt(t), noise: xi", None),
    "noise that is none": (WHOLE, "sensitivity: 2 / 60, multiplier: 9, noise: 0 * xi", "E0705"),
    "smaller noise": (WHOLE, "sensitivity: 2 / 60, multiplier: 9, noise: 0.1 * xi", "E0705"),
    "a multiplier that is not known": (WHOLE, "sensitivity: 2 / 60, multiplier: 1 + norm(param), noise: xi", "E0705"),
    "sampling that is none": (WHOLE, "sensitivity: 2 / 60, multiplier: 9, noise: xi, sampled: 0.1", "E0704"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_release_declares(name: str) -> None:
    value, options, code = DECLARED[name]
    assert codes(text(flow_of("a()"), before=stage("a", f"{NOISE}release({value}, {options})"))) == ([code] if code else [])


def mechanism(value: str, options: str) -> dict[str, Any]:
    program = written(text(flow_of("a()"), before=stage("a", f"{NOISE}release({value}, {options})")), "p")
    found = summary(program)
    assert found is not None
    return found["flows"][0]["mechanisms"][0]


OPTIONS = "sensitivity: 2 / 60, multiplier: 9, noise: xi"
CUT = "clip_records(x: {0}, radius: 1)"
NOT_DERIVED = {
    "rows that see each other": f"mean(mean({CUT.format('each - mean(each, over: sample)')}, over: sample), over: node)",
    "rows that are chosen by all of them": f"mean(mean(where(norm(each, over: param) < mean(norm(each, over: param), over: sample), "
    f"{CUT.format('each')}, 0), over: sample), over: node)",
    "rows longer than clipped": f"mean(mean({CUT.format('each')} + each, over: sample), over: node)",
    "another norm": "mean(mean(each * min(1, 1 / max(norm(each, over: param, order: inf), 1e-30)), over: sample), over: node)",
}  # fmt: skip


def test_a_sensitivity_is_derived_only_where_it_is_sure() -> None:
    assert mechanism(WHOLE, OPTIONS)["sensitivity"] == "derived"
    assert mechanism(f"-2 * {WHOLE} / 2", OPTIONS)["sensitivity"] == "derived"
    for name, value in NOT_DERIVED.items():
        assert mechanism(value, OPTIONS)["sensitivity"] == "declared", name


def test_a_poisson_sample_that_takes_more_than_it_says() -> None:
    body = stage("a", """  take = by_coin(like: norm(each, over: param), rate: 0.5)
  xi ~ normal([param])
  return release(sum(sum(take * clip_records(x: each, radius: 1), over: sample), over: node) / 30,
                 sensitivity: 1 / 30, multiplier: 9, noise: xi, sampled: SHARE)""")  # fmt: skip
    assert codes(text(flow_of("a()"), before=body.replace("SHARE", "0.5"))) == []
    assert codes(text(flow_of("a()"), before=body.replace("SHARE", "0.4"))) == ["E0704"]


def test_local_steps_of_diff2_are_accounted_for() -> None:
    pytest.importorskip("dp_accounting")
    program = written(text(flow_of("diff2(full: 1, lipschitz: 1, restart: 5, steps: 3, batch: 4, z_local: 2)")), "p")
    found = summary(program)
    assert found is not None
    first, *local = sorted(found["flows"][0]["mechanisms"], key=lambda one: one["records"])
    assert first["records"] == "all" and [one["records"] for one in local] == ["subset", "subset"]
    assert all(one["sensitivity"] == "derived" and one["share"] == pytest.approx(4 / 20) for one in local)
    assert found["epsilon"] > first["epsilon"] > 0
    assert any("a share of 0.2" in row[1] for row in rows(found))


# ---- budgets

BUDGET = "require privacy <= (epsilon: 3, delta: 1e-5)"


def test_the_plan_names_the_rounds_that_fit() -> None:
    pytest.importorskip("dp_accounting")
    (found,) = compiler.check_source(Source("<test>", text(budget=BUDGET, count=1000)))
    assert found.code == "E0703"
    fits = int(found.fix.split(" ")[0])
    assert codes(text(budget=BUDGET, count=fits)) == [] and codes(text(budget=BUDGET, count=fits + 1)) == ["E0703"]


@pytest.mark.parametrize("budget", ["require privacy <= 3", "require privacy < (epsilon: 3, delta: 1e-5)", "require privacy <= (epsilon: 3)"])
def test_a_budget_is_an_epsilon_and_a_delta(budget: str) -> None:
    assert codes(text(budget=budget)) == ["E0402"]


@pytest.mark.parametrize("data", ["private()", "private(digits(), unit: node)", "private(digits(), units: record)", "private(mlp(64, 10))"])
def test_a_declaration_that_is_none(data: str) -> None:
    found = codes(text().replace("private(digits(size: 60), unit: record)", data))
    assert len(found) == 1 and found[0].startswith(("E04", "E02"))


def preferred(count: int = 60) -> str:
    return text(budget="prefer privacy <= (epsilon: 3, delta: 1e-5)", count=count)


def test_a_run_stops_hard_at_the_budget() -> None:
    pytest.importorskip("dp_accounting")
    program = written(preferred(), "p")
    done: list[Any] = []
    from gradflow.runtime.executor import Run

    with pytest.raises(RunFailed, match="the budget of privacy is spent: 44 updates cost epsilon 2.9") as error:
        done.extend(event for event in Run(program).events())
    assert error.value.span.line == program.text[: program.text.index("prefer")].count("\n") + 1
    guard = guard_of(program, {"flow1": 60})
    assert guard is not None and guard.stop({"flow1": 43}, {"flow1": 1}) is None and guard.stop({"flow1": 44}, {"flow1": 1}) is not None


def test_the_command_ends_with_3(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("dp_accounting")
    spec = tmp_path / "a.gflow"
    spec.write_text(preferred(), encoding="utf-8")
    assert main(["run", str(spec), "--out", str(tmp_path), "--quiet"]) == 3
    assert "the budget of privacy is spent" in capsys.readouterr().err


def test_what_was_spent_is_told() -> None:
    pytest.importorskip("dp_accounting")
    program = written(text(count=12), "p")
    _, events = ran(program)
    (end,) = of_kind(events, RunFinished)
    costs = [event.metrics["privacy.epsilon"] for event in of_kind(events, UnitDone)]
    assert costs == sorted(costs) and len(set(costs)) == 12
    assert end.privacy == {"epsilon": costs[-1], "delta": 1e-5} and costs[-1] == spending(program).epsilon()
    assert all(event.loss is None for event in of_kind(events, UnitDone)), "the loss on private rows is not shown"


def test_a_run_that_goes_on_has_spent_what_it_had(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    spec = text(inside="every 2 rounds { report a = accuracy(net(test.x), test.y) }", count=12)
    program = written(spec, "p")
    _, events = ran(program)
    run, folder = begun(program, tmp_path, "cut")
    for event in folder.record(run.events()):
        if isinstance(event, UnitDone) and event.t == 5:
            run.stop()
    again, other = resumed(program, folder.path)
    rest = list(other.record(again.events(), again.resume))
    (end,) = of_kind(rest, RunFinished)
    assert end.privacy == of_kind(events, RunFinished)[0].privacy
    assert of_kind(rest, UnitDone)[0].metrics["privacy.epsilon"] == of_kind(events, UnitDone)[5].metrics["privacy.epsilon"]
    assert series(rest, "a") == series(events, "a")[3:]


def test_an_artifact_keeps_the_books() -> None:
    pytest.importorskip("dp_accounting")
    program = written(text(budget=BUDGET, count=30), "p")
    again = artifact.decode(artifact.encode(program))
    assert summary(again) == summary(program)


def test_the_rewritten_program_releases_the_same() -> None:
    """What is optimized away is no mechanism: the books are kept by the program as it was written."""
    program = written(text(count=3), "p")
    before = [n for p in program.phases for a in p.actions if isinstance(a, Update) for n in a.region.nodes() if n.get("release") is not None]
    after = [
        n for p in optimized(program).phases for a in p.actions if isinstance(a, Update) for n in a.region.nodes() if n.get("release") is not None
    ]
    assert len(before) == len(after) == 1


def test_the_extra_is_named_where_it_is_missing(monkeypatch: Any) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "dp_accounting" else object())
    (found,) = compiler.check_source(Source("<test>", text(budget=BUDGET)))
    assert found.code == "E0209" and "gradflow[privacy]" in found.fix
    with pytest.raises(RunFailed, match="privacy"):
        ran(written(text(count=2), "p"))


@pytest.mark.parametrize("parameters", [[], ["epsilon=1"], ["epsilon=0.1"]])
def test_the_shipped_pipeline_keeps_its_budget(parameters: list[str]) -> None:
    pytest.importorskip("dp_accounting")
    program, diagnostics = compiler.build(compiler.load("25_diff2")[0], "private_digits", parameters)
    assert program is not None and not diagnostics
    limit = float(parameters[0].split("=")[1]) if parameters else 3.0
    assert 0.5 * limit < spending(program).epsilon() <= limit


def test_checking_a_private_spec_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from gradflow.cli.main import main; main(['check', '25_diff2']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_one_machine_needs_no_topology() -> None:
    """Batches, a regularizer, an update with a memory, and a whole epoch that would go over the budget."""
    pytest.importorskip("dp_accounting")
    rule = """
    estimator hidden() {
      each = grad(per: sample)
      xi ~ normal([param])
      whole = mean(clip_records(x: each, radius: 1), over: sample)
      return release(whole, sensitivity: 2 / count(each, over: sample), multiplier: 10, noise: xi)
    }
    """
    flow = "flow net: loss + 1e-4 * sum(net^2) -> hidden() -> adamw(lr: 0.01)"
    spec = text(flow, before=rule, count=5, budget="prefer privacy <= (epsilon: 1, delta: 1e-5)").replace("size: 60", "batch: 20, size: 60")
    program = written(spec.replace("rounds (", "epochs ("), "p")
    found = summary(program)
    assert found is not None and found["flows"][0]["updates"] == 15 and found["flows"][0]["mechanisms"][0]["sensitivity"] == "derived"
    with pytest.raises(RunFailed, match="6 updates cost epsilon 0.9.*, and the next 3 together would go over 1"):
        ran(program)


def test_every_budget_counts_at_its_own_delta() -> None:
    pytest.importorskip("dp_accounting")
    second = "require privacy <= (epsilon: 3, delta: 1e-9)"
    assert codes(text(budget=BUDGET, count=40)) == []
    assert codes(text(budget=f"{BUDGET}\n  {second}", count=40)) == ["E0703"]


def test_a_budget_that_a_caller_gives_is_checked_when_it_is_there() -> None:
    pytest.importorskip("dp_accounting")
    spec = text(budget="require privacy <= (epsilon: eps, delta: 1e-5)").replace("pipeline p {", "pipeline p(eps: real) {")
    assert codes(spec) == []
    home = Module.of(Source("<test>", spec))
    assert [one.code for one in compiler.build(home, "p", ["eps=0.1"])[1]] == ["E0703"]


def test_what_a_caller_gives_is_checked_when_it_is_there() -> None:
    spec = text(flow_of("dp_gd(radius: 1, multiplier: z)")).replace("pipeline p {", "pipeline p(z: real) {")
    assert codes(spec) == []
    home = Module.of(Source("<test>", spec))
    assert [one.code for one in compiler.build(home, "p", ["z=0"])[1]] == ["E0705"]

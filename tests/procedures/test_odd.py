"""Odd functions that act, on both backends and from a compiled plan: what they return, and that what is wrong with one is a sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gradflow.compiler import build, check_source
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan.artifact import decode, encode
from gradflow.runtime.events import Report, RunFailed, UnitDone
from gradflow.runtime.executor import Options, execute
from tests.runtime.interrupting import assert_same_run, begun, resumed, stopped, whole

CASES = {one["name"]: one for one in tomllib.loads((Path(__file__).parent / "odd.toml").read_text(encoding="utf-8"))["case"]}
HEAD = """
  data  tasks  = combination_lock(prompts: 8, length: 2, vocabulary: 4)
  model policy = table_policy(prompts: 8, length: 2, vocabulary: 4)
"""
DRAWN = "  x ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 2)\n  return x"
COUNTING = """
function g {
  input policy : model
  input tasks  : data
  state a = 0
  a <- a + 1
  x ~ sample(policy, tasks, group: 2, prompts: 2)
  return extend(x, a: a)
}
"""


def cases(key: str) -> list[str]:
    return [name for name, one in CASES.items() if key in one]


def spec(body: str, report: str = "1", units: int = 2, more: str = "", settings: str = "", loss: str = "grpo(score(policy, samples))") -> str:
    return f"""{COUNTING if " g(" in body else ""}
function f {{
  input policy : model
  input tasks  : data
{body}
}}
pipeline p {{{HEAD}
  samples ~ f(policy, tasks)
{more}
  flow policy: {loss} -> backprop -> sgd(lr: 1)
  train {units} rollouts (seed: 0{settings}) {{ every rollout {{ report n = {report}; checkpoint }} }}
}}
"""


def program(text: str) -> Any:
    found, diagnostics = build(Module.of(Source("inline.gflow", text)), None)
    assert found is not None, [d.message for d in diagnostics]
    return found


def reported(one: Any, backend: str = "torch") -> list[Any]:
    """What is reported at the end of each unit."""
    values: list[Any] = []
    for event in execute(one, Options(backend=backend, precision="float64")):
        if isinstance(event, Report):
            values.append(event.values["n"])
    return values[-one.phases[0].count :]


@pytest.mark.parametrize("name", cases("units"))
def test_odd_functions(name: str) -> None:
    case = CASES[name]
    one = program(spec(case["body"], case["report"], len(case["units"])))
    assert reported(one, "reference") == pytest.approx(case["units"])
    assert reported(decode(encode(one))) == pytest.approx(case["units"])


@pytest.mark.parametrize("name", cases("code"))
def test_what_is_wrong_is_told(name: str) -> None:
    case = CASES[name]
    found = [(one.code, one.message) for one in check_source(Source("inline.gflow", spec(case["body"])))]
    assert any(code == case["code"] and case["words"] in message for code, message in found), found


@pytest.mark.parametrize("name", cases("fails"))
def test_what_fails_is_told(name: str) -> None:
    with pytest.raises(RunFailed, match=CASES[name]["fails"]):
        reported(program(spec(CASES[name]["body"])))


@pytest.mark.parametrize(
    ("more", "report", "loss", "words"),
    [
        ("", "1", "grpo(score(policy, f(policy, tasks)))", "`sample` acts"),
        ("  z = sample(policy, tasks)", "1", "grpo(score(policy, z))", "`sample` acts"),
        ("", "1", "grpo(score(policy, samples[samples.reward > 0]))", "choosing rows of a record acts"),
        ("  model slow = copy(policy)\n  slow <- mean(sample(policy, tasks).reward) * slow", "1", "grpo(score(policy, samples))", "`sample` acts"),
    ],
)
def test_formulas_do_not_act(more: str, report: str, loss: str, words: str) -> None:
    found = check_source(Source("inline.gflow", spec(DRAWN, report, more=more, loss=loss)))
    assert any(one.code == "E0510" and words in one.message for one in found), found


def test_a_loop_of_formulas_has_no_records() -> None:
    body = "  repeat r: 2 with kept = none until size(kept, over: sample) > 3 { y ~ sample(policy, tasks)\n kept <- join(kept, y) }\n  return kept"
    found = check_source(Source("inline.gflow", spec(body, "size(f(policy, tasks), over: sample)")))
    assert any(one.code == "E0510" and "carries numbers" in one.message for one in found), found


def test_reports_make_calls_of_calls() -> None:
    """Rows that are chosen of what a report draws, and options that are computed for it."""
    assert reported(program(spec(DRAWN, "size(f(policy, tasks)[samples.copy > 1], over: sample)"))) == [8, 8]
    assert reported(program(spec(DRAWN, "mean(sample(policy, tasks, prompts: 1 + t, group: 1).length * 0 + 1)"))) == [1, 1]
    assert reported(program(spec(DRAWN, "size(sample(policy, tasks, prompts: 1 + t, group: 3), over: sample)"))) == [6, 9]


def test_several_names_on_the_left() -> None:
    text = spec(DRAWN.replace("return x", "return (a: mean(x.length), b: 2)"), "u + 10 * w", loss="norm(policy)^2").replace("samples ~", "u, w ~")
    assert reported(program(text.replace("lr: 1", "lr: 0.1"))) == [22, 22]


COUNTED = """
objective counted {
  input logp : [sample, token]
  input mask : bool[sample, token]
  report n = size(sample)
  minimize 0 * mean(logp, where: mask)
}
"""


@pytest.mark.parametrize("settings", [", minibatches: 2", ", minibatches: 2, whole: group"])
def test_flows_with_other_numbers_of_samples_are_cut_for_themselves(settings: str) -> None:
    more = "  model other = copy(policy)\n  few ~ first(samples, 2, over: prompt)\n  flow other: counted(score(other, few)) -> backprop -> sgd(lr: 1)"
    one = program(COUNTED + spec(DRAWN, more=more, settings=settings, loss="counted(score(policy, samples))"))
    metrics = [event.metrics for event in execute(one) if isinstance(event, UnitDone)]
    assert [(found["policy.n"], found["other.n"]) for found in metrics] == [(8, 4), (8, 4)]


def test_one_flow_has_one_number_of_samples() -> None:
    loss = "grpo(score(policy, samples)) + grpo(score(policy, few))"
    one = program(spec(DRAWN, more="  few ~ first(samples, 2, over: prompt)", settings=", minibatches: 2", loss=loss))
    with pytest.raises(RunFailed, match="`few` has 8, `samples` has 16"):
        reported(one)


LONG = """  state n : [task] = 0
  repeat r: 3 with kept = none until size(kept, over: sample) > 20 {
    y ~ g(policy, tasks)
    luck ~ uniform(0, 1, [y.reward])
    when mean(luck) > 0.5 { z ~ sample(policy, tasks, group: 4, prompts: 4)
      y <- extend(z, a: y.a + mean(luck)) }
    kept <- join(kept, y)
    level = mean(luck)
  }
  when count(by: kept.task) > 0 { n <- n + 1 }
  return extend(kept, level: sum(level), seen: sum(n))"""
SAID = "samples.level + samples.seen + samples.a + sum(samples.reward)"


@pytest.mark.parametrize("settings", ["", ", minibatches: 2, epochs: 2", ", minibatches: 2, micro: 3"])
def test_choices_and_states_resume(settings: str, tmp_path: Path) -> None:
    one = program(spec(LONG, SAID, 4, settings=settings))
    path = whole(one, tmp_path)
    run, folder = begun(one, tmp_path, "cut")
    stopped(run, folder, 2)
    again, folder = resumed(one, folder.path)
    list(folder.record(again.events(), again.resume))
    assert_same_run(path, folder.path)


def test_the_seed_is_all_that_a_run_depends_on() -> None:
    one, other = (program(spec(LONG, SAID, 4).replace("seed: 0", f"seed: {seed}")) for seed in (0, 1))
    first = reported(one)
    assert first == reported(one) == pytest.approx(reported(one, "reference")) and first != reported(other) and len(set(first)) == 4

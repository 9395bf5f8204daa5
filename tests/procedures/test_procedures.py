"""Functions that act: dynamic sampling, state from unit to unit, computed options; the same on both backends, resumed, and from a compiled plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gradflow import compiler
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan.artifact import decode, encode
from gradflow.runtime.events import Report
from gradflow.runtime.executor import Options, execute
from gradflow.views.plan import summary
from tests.runtime.harness import written
from tests.runtime.interrupting import assert_goes_on

from .specs import DYNAMIC, HEAD, LOOPED, STATEFUL


def program(text: str, *overrides: str) -> Any:
    found, diagnostics = compiler.build(Module.of(Source("inline.gflow", text)), None, overrides)
    assert found is not None, [d.message for d in diagnostics]
    return found


def reports(one: Any, **options: Any) -> list[dict[str, Any]]:
    return [event.values for event in execute(one, Options(**options)) if isinstance(event, Report)]


def mistakes(text: str) -> list[tuple[str, str]]:
    return [(d.code, d.message) for d in compiler.check_source(Source("inline.gflow", text))]


def test_dynamic_sampling_draws_until_there_are_enough() -> None:
    found = reports(program(DYNAMIC))
    assert [values["prompts"] for values in found] == [8, 8, 8]
    assert all(values["samples"] == 32 and values["spread"] > 0 and values["group"] == 7 for values in found)


def test_dynamic_sampling_ends_with_what_there_is() -> None:
    first = reports(program(DYNAMIC, "batches=1"))[0]
    assert 0 < first["prompts"] < 8 and first["samples"] == 4 * first["prompts"]


@pytest.mark.parametrize("text", [DYNAMIC, STATEFUL, LOOPED])
def test_both_backends_agree(text: str) -> None:
    one, other = (reports(program(text), backend=backend, precision="float64") for backend in ("reference", "torch"))
    assert len(one) == len(other) > 2
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    assert len({str(values) for values in one}) == len(one)  # every unit is another


def test_names_of_the_outside_are_carried_and_draws_belong_to_their_pass() -> None:
    found = reports(program(LOOPED))
    assert [(values["total"], values["heat"]) for values in found] == [(24, 2.5)] * 3
    means = [values["luck"] for values in found]
    assert len(set(means)) == 3 and all(0.02 < mean < 0.5 for mean in means)
    one = next(event for event in execute(program(LOOPED, "rounds=1")) if isinstance(event, Report))
    assert one.values["luck"] ** 3 != pytest.approx(means[0])  # not the same draw three times


def test_state_is_what_the_unit_before_left() -> None:
    found = reports(program(STATEFUL))
    assert [values["heat"] for values in found] == pytest.approx([0, *(values["level"] for values in found[:-1])], rel=1e-6)
    assert [values["visits"] for values in found] == [8 * unit for unit in range(1, len(found) + 1)]
    assert [values["n"] for values in found] == [40] * 10 + [32] * 4  # all 80 prompts were seen once after ten units


@pytest.mark.parametrize("text", [DYNAMIC, STATEFUL, LOOPED])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(text: str, tmp_path: Path) -> None:
    assert_goes_on(program(text), tmp_path, 2)


@pytest.mark.parametrize("text", [DYNAMIC, STATEFUL, LOOPED])
def test_a_compiled_plan_does_the_same(text: str) -> None:
    one = program(text)
    assert reports(decode(encode(one))) == reports(one)


def test_the_plan_tells_of_draws_and_states() -> None:
    dynamic, stateful = (summary(program(text))["phases"][0] for text in (DYNAMIC, STATEFUL))
    assert [(draw["name"], draw["call"], draw["times"]) for draw in dynamic["draws"]] == [("samples", "sample", 10)]
    assert [draw["name"] for draw in stateful["draws"]] == ["samples", "samples", "warm"]
    assert stateful["draws"][-1]["options"]["temperature"] == "computed"
    kept = {state["name"]: state["bytes"] for state in stateful["kept"]}
    assert kept == {"samples: allocated.seen": 100, "credit: visited.visits": 400, "credit: visited.level": 400, "heat: before.held": 4}


def used(body: str, pipeline: str) -> str:
    return f"function f {{\n  input policy : model\n  input tasks : data\n{body}\n}}\npipeline p {{{HEAD}{pipeline}\n}}"


DRAWN = "\n  samples ~ f(policy, tasks)\n  flow policy: grpo(score(policy, samples)) -> backprop -> adamw()\n  train 1 rollouts"
LOOP = "  repeat with n = 0 until n > 1 {\n    x ~ sample(policy, tasks)\n    n <- n + 1\n  }\n  return n"
WRONG: Sequence[tuple[str, str, str, str]] = [
    ("  state a = 0\n  a <- a + 1\n  return a", "\n  x = f(policy, tasks)\n  train 1 rollouts { report x = x }", "E0501", "`state` has no place"),
    ("  state a : [unknown] = 0\n  x ~ sample(policy, tasks)\n  return x", DRAWN, "E0303", "size of axis `unknown`"),
    (LOOP, DRAWN, "E0507", "has a number of passes"),
    ("  x ~ sample(policy, tasks)\n  return x[x.reward]", DRAWN, "E0310", "rows of a record"),
    ("  x ~ sample(policy, tasks)\n  return x.nothing", DRAWN, "E0202", "has no field `nothing`"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "pipeline", "code", "words"), WRONG)
def test_mistakes_are_told(body: str, pipeline: str, code: str, words: str) -> None:
    found = mistakes(used(body, pipeline))
    assert any(one == code and words in message for one, message in found), found


def test_the_harness_takes_the_specs() -> None:
    assert written(DYNAMIC).name == "dynamic" and written(STATEFUL).name == "stateful"

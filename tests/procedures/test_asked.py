"""Reports make the calls that they need and wait for what these read; sums of objectives report what their terms do."""

from __future__ import annotations

import gradflow
from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan.program import Update
from gradflow.runtime.events import Report

HEAD = """  data  tasks  = arithmetic(digits: 1)
  model policy = transformer(layers: 1, width: 8, heads: 2, length: 16)
"""
REPORTED = f"""pipeline p {{
{HEAD}
  train 2 rollouts (seed: 0) {{
    samples ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 2)
    drawn   ~ matches(samples, "[^=]*")
    asked   = matches(samples, "[^=]*")
    chosen  = matches(samples[samples.reward == 0], "[^=]*")
    flow policy: grpo(score(policy, samples)) -> backprop -> sgd(lr: 1e-3)
    every 1 rollouts {{ report drawn = mean(drawn); report asked = mean(asked); report chosen = mean(chosen) }}
    every 2 rollouts {{ report again = mean(asked) }}
  }}
}}
"""
SUMMED = f"""pipeline p(beta: real = 0.1) {{
{HEAD}
  model frozen = copy(policy)
  samples ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 2)
  scored  = score(policy, samples, reference: frozen)
  loss    = grpo(scored) + beta * reference_kl(scored)
  flow policy: loss -> backprop -> sgd(lr: 1e-3)
  train 2 rollouts {{ report distance = loss.kl }}
}}
"""


def test_reports_make_their_calls() -> None:
    found = [event.values for event in gradflow.compile(REPORTED).run() if isinstance(event, Report)]
    assert [sorted(values) for values in found] == [["asked", "chosen", "drawn"]] * 2 + [["again"]]  # nothing is known before the first draw
    assert all(values["asked"] == values["drawn"] > 0 and values["chosen"] > 0 for values in found[:2])
    assert found[2]["again"] == found[1]["asked"]


def reported(*overrides: str) -> set[str]:
    program, wrong = build(Module.of(Source("p.gflow", SUMMED)), None, list(overrides))
    assert program is not None and all(one.severity == "warning" for one in wrong)
    (update,) = (action for action in program.phases[0].actions if isinstance(action, Update))
    return {name for name, _ in update.region.results if name.startswith("report/")}


def test_sums_report_what_their_terms_do() -> None:
    assert {"report/kl", "report/clip_low", "report/ratio_mean"} <= reported()


def test_what_weighs_nothing_does_not_report() -> None:
    assert "report/kl" not in reported("beta=0") and "report/clip_low" in reported("beta=0")

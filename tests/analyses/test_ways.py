"""Knobs of how samples were drawn are seen whichever way the samples come: every diagnostic by every way, and what is right by none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from gradflow.compiler import check_source
from gradflow.language.diagnostics import Diagnostic
from gradflow.language.source import Source

CALL = "sample(policy, tasks, prompts: 8{inner})"
GOT = f"  got ~ {CALL}\n  return "
WAYS = {  # (the `~` of the pipeline, the body of the function `once`)
    "direct": ("samples ~ sample(policy, tasks, prompts: 8{options})", ""),
    "function": ("samples ~ once(policy, tasks{options})", GOT + "got"),
    "joined": (
        "samples ~ once(policy, tasks{options})",
        "  repeat round: 3 with kept = none until size(kept, over: prompt) >= 8 {{\n"
        f"    fresh ~ {CALL}\n    kept <- join(kept, fresh[fresh.length > 1])\n  }}}}\n"
        "  return first(kept, 8, over: prompt)",
    ),
    "nested": ("samples ~ twice(policy, tasks{options})", GOT + "rest(got, 1, over: prompt)"),
    "selected": ("drawn ~ sample(policy, tasks, prompts: 8{options})\n  samples ~ drawn[drawn.finished]", ""),
    "extended": ("drawn ~ sample(policy, tasks, prompts: 8{options})\n  samples ~ extend(drawn, luck: 2 * drawn.reward)", ""),
    "extending": ("samples ~ once(policy, tasks{options})", GOT + "extend(got, luck: got.length, before: got.logp_old)"),
    "tasks": (
        "samples ~ once(policy, tasks{options})",
        "  batch ~ draw(tasks, prompts: 8)\n  got ~ sample(policy, batch{inner})\n  return join(got[got.length > 1], none)",
    ),
    "literal": ("samples ~ once(policy, tasks)", "  got ~ sample(policy, tasks, prompts: 8{options})\n  return got"),
    "default": ("samples ~ once(policy, tasks)", GOT + "got"),
    "in_a_train_line": ("", GOT + "got"),
}
DOMAINS = {"group": "int >= 1", "temperature": "real > 0", "scored_at": "real > 0", "max_tokens": "int >= 1"}
ONCE = """
function once({params}) {{
  input policy : model
  input tasks  : data
{body}
}}
"""
TWICE = """
function twice({params}) {{
  input policy : model
  input tasks  : data
  a ~ once(policy, tasks{inner})
  b ~ once(policy, tasks{inner})
  return join(a, b)
}}
"""
SPEC = """{functions}
pipeline p {{
  data  tasks  = {data}
  model policy = {model}
  model frozen = copy(policy)
{outside}
  train 20 rollouts{train} {{
{inside}
    every 10 rollouts {{ report reward = mean(samples.reward) }}
  }}
}}
"""


@dataclass(frozen=True)
class Case:
    loss: str
    options: dict[str, float] = field(default_factory=dict)
    train: str = " (minibatches: 2)"
    more: str = ""
    record: str = "samples"
    data: str = "arithmetic(size: 60)"
    model: str = "transformer()"


KL = "grpo(scored) + 0.1 * reference_kl(scored)"
CLIPPED = f"{KL} + policy_gradient(scored, surrogate: clipped(low: 0.1))"
KEPT = "kept ~ samples[instructive(samples.reward, samples.group)]"
SHARED = "schedule = shared_prefix()"
LONG = {"data": "long_prompts(length: 90)", "model": "transformer(vocabulary: 47, length: 590)"}
CASES = {
    "W0107": Case(CLIPPED, train=""),
    "W0109": Case("grpo(scored) + 0 * reference_kl(scored)"),
    "W0112": Case(KL, {"group": 1}),
    "W0117": Case(f"{KL} + entropy_bonus(scored, weight: 0)"),
    "W0118": Case(KL, {"temperature": 0.6}),
    "E0408": Case(KL, {"temperature": 0.6, "scored_at": 0.6}),
    "W0119": Case(KL, more=KEPT, record="kept", data='reasoning_gym("basic_arithmetic", size: 60)'),
    "W0120": Case("ngrpo(scored) + 0.1 * reference_kl(scored)", more=KEPT, record="kept"),
    "W0121": Case("reinforce(scored) + 0.1 * reference_kl(scored)", {"group": 1}, more=SHARED, **LONG),
    "W0122": Case(KL, {"group": 2, "max_tokens": 500}, " (minibatches: 4)", SHARED, **LONG),
    "W0123": Case(f"{KL} - mean(scored.logp * samples.reward)"),
}  # fmt: skip
RIGHT = {
    "W0107": replace(CASES["W0107"], train=" (epochs: 2)"),
    "W0109": Case(KL),
    "W0112": Case(KL, {"group": 4}),
    "W0117": Case(f"{KL} + entropy_bonus(scored, weight: 0.1)"),
    "W0118": Case(KL, {"temperature": 1}),
    "E0408": replace(CASES["E0408"], record="samples, temperature: 0.6"),
    "W0119": replace(CASES["W0119"], data="arithmetic(size: 60)"),
    "W0120": replace(CASES["W0120"], loss=KL),
    "W0123": Case(f"{KL} - mean(scored.logp * samples.reward, where: samples.mask)"),
}


def found(case: Case, way: str) -> list[Diagnostic]:
    """What is said of the case, but for names that nobody uses."""
    draw, body = WAYS[way]
    options = "".join(f", {name}: {value}" for name, value in case.options.items())
    inner = "".join(f", {name}: {name}" for name in case.options)
    params = ", ".join(f"{name}: {DOMAINS[name]} = {value if way == 'default' else 1}" for name, value in case.options.items())
    words = {"options": options, "inner": inner, "params": params}
    functions = (ONCE if body else "") + (TWICE if way == "nested" else "")
    functions = functions.format(body=body.format(**words), **words)
    if way == "in_a_train_line":
        draw = "samples ~ once(policy, tasks{options})"
    lines = [
        draw.format(**words),
        case.more,
        f"scored = score(policy, {case.record}, reference: frozen)",
        f"flow policy: {case.loss} -> backprop -> adam()",
    ]
    outside = [line for line in lines if way != "in_a_train_line" or line.startswith("schedule")]
    inside = [line for line in lines if line not in outside]
    text = SPEC.format(functions=functions, data=case.data, model=case.model, train=case.train, outside="\n".join(outside), inside="\n".join(inside))
    return [one for one in check_source(Source("a.gflow", text)) if one.code not in ("W0101", "W0102")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", CASES)
def test_a_knob_is_seen_whichever_way_samples_come(code: str, way: str) -> None:
    diagnostics = found(CASES[code], way)
    assert {one.code for one in diagnostics} == {code}


@pytest.mark.parametrize("way", ("direct", "joined", "nested", "extending"))
@pytest.mark.parametrize("code", RIGHT)
def test_what_is_right_is_right_whichever_way_samples_come(code: str, way: str) -> None:
    assert found(RIGHT[code], way) == []

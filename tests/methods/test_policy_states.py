"""What policy methods remember from rollout to rollout: DCPO's table of prompts, AEPO's last entropy, CAPO's moments; kept where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.plan.program import Program
from gradflow.runtime.events import Report
from gradflow.runtime.executor import Options, execute
from gradflow.verify import evaluate
from tests.runtime.interrupting import assert_goes_on, last_tensors, whole

backends = pytest.mark.parametrize("backend", ["reference", "torch"])

DCPO = """
pipeline visited {
  data  tasks  = combination_lock(prompts: 8, length: 2, vocabulary: 3)
  model policy = table_policy(prompts: 8, length: 2, vocabulary: 3)
  samples ~ sample(policy, tasks, group: 4, prompts: 3, max_tokens: 2)
  worth   ~ smooth_standardize(samples)
  flow policy: dcpo(score(policy, samples), advantage: worth) -> backprop -> adam(lr: 0.1)
  train 9 rollouts (seed: 0) {
    every rollout { report reward = samples.reward; report task = samples.task; report worth = worth; checkpoint }
  }
}
"""

MODEL = """
  data  tasks  = last_digits(length: 2, scored: 1)
  model policy = transformer(vocabulary: 12, layers: 1, width: 8, heads: 2, length: 6, tied: false)
"""

AEPO = f"""
pipeline tempered_rollouts {{ {MODEL}
  mixed ~ tempered(policy, tasks, target: 2.2, low: 0.5, high: 2, most: 4, group: 4, prompts: 5, again: 2, max_tokens: 2)
  flow policy: ppo(score(policy, mixed)) -> backprop -> adam(lr: 0.03)
  train 5 rollouts (seed: 1) {{
    every rollout {{
      report heat  = mixed.heat
      report drawn = mean(-mixed.logp_old, where: mixed.mask)
      report taken = mixed.taken
      report worth = mixed.advantage
      report right = mixed.reward
      checkpoint
    }}
  }}
}}
"""

KEPT = "report {0} = samples.{0}"
CAPO = f"""
pipeline trusted_tokens {{ {MODEL}
  samples ~ sample(policy, tasks, group: 4, prompts: 5, max_tokens: 2, keep_top: 3, keep_hidden: true)
  credit = group_norm(samples, scale: "none")
  taken ~ trusted(samples, advantage: credit + 0.1, lr: 0.1, tau_h: 0.004, tau_f: 0.002)
  flow policy: policy_gradient(score(policy, samples), advantage: credit, mask: taken) -> backprop -> adam(lr: 0.01)
  train 4 rollouts (seed: 0) {{
    every rollout {{
      report taken = where(taken, 1, 0)
      report mask  = where(samples.mask, 1, 0)
      {"; ".join(KEPT.format(name) for name in ("hidden_old", "logits_old", "word", "action"))}
      report advantage = credit + 0.1
      checkpoint
    }}
  }}
}}
"""


def program(text: str) -> Program:
    found, diagnostics = build(Module.of(Source("<test>", text)))
    assert found is not None, diagnostics
    return found


def told(text: str, **options: Any) -> list[dict[str, numpy.ndarray]]:
    """What each unit reports."""
    events = execute(program(text), Options(precision="float64", **options))
    return [{name: numpy.asarray(x) for name, x in event.values.items()} for event in events if isinstance(event, Report)]


def units(text: str, backend: str) -> list[dict[str, numpy.ndarray]]:
    return [one for one in told(text, backend=backend) if any(value.ndim for value in one.values())]


@backends
def test_dcpo_keeps_a_table_of_the_data_set(backend: str) -> None:
    """By the place of the prompt in the data set, not in the rollout; the advantages are those of the vectors' component, visit by visit."""
    table: dict[int, tuple[float, float, float]] = {}
    again = 0
    for unit in units(DCPO, backend):
        rows = [table.get(int(task), (0.0, 0.0, 0.0)) for task in unit["task"]]
        again += sum(row[0] > 0 for row in rows)
        count, mean, std = numpy.array(rows).T
        inputs = {"group": unit["task"], "count0": count, "mean0": mean, "std0": std, "reward_0": unit["reward"]}
        found = evaluate("22-dcpo.sas_advantage", {"steps": 1}, inputs)
        numpy.testing.assert_allclose(unit["worth"], found["advantage_0"].numpy(), atol=1e-12)
        for task, n, m, s in zip(unit["task"], count, found["mean_0"].numpy(), found["std_0"].numpy()):
            table[int(task)] = (n + 1, float(m), float(s))
    assert again > 40, "prompts come again, or nothing was remembered"


@backends
def test_aepo_sets_the_temperature_by_the_rollout_before(backend: str) -> None:
    found = units(AEPO, backend)
    before = [0.0, *(float(unit["drawn"]) for unit in found[:-1])]
    numpy.testing.assert_allclose([unit["heat"] for unit in found], numpy.clip(1 + 2.2 - numpy.array(before), 0.5, 2), rtol=1e-9)
    assert sum(float(unit["taken"]) for unit in found) > 0
    for unit in found:
        n = int(unit["taken"])
        assert len(unit["worth"]) == 20 and (unit["worth"][:n] == 1).all() and (unit["right"][:n] == 1).all()


@backends
def test_capo_follows_the_moments_of_the_tokens_taken(backend: str) -> None:
    m, v, rejected = numpy.zeros((12, 8)), numpy.zeros((12, 8)), 0
    for t, unit in enumerate(units(CAPO, backend)):
        inputs = {"hidden": unit["hidden_old"], "topk_logits": unit["logits_old"], "topk_ids": unit["word"].astype(int)}
        inputs |= {"m": m, "v": v} if t else {}  # before the first step there are none
        inputs |= {"actions": unit["action"].astype(int), "advantage": unit["advantage"], "mask": unit["mask"]}
        expected = evaluate("07-capo.curvature", {"vocab": 12, "lr": 0.1, "tau_H": 0.004, "tau_F": 0.002, "t": t}, inputs)
        numpy.testing.assert_array_equal(unit["taken"], expected["accept"].numpy())
        m, v = expected["m_new"].numpy(), expected["v_new"].numpy()
        rejected += int((unit["mask"] - unit["taken"]).sum())
    assert rejected > 0 and numpy.abs(m).sum() > 0


@pytest.mark.parametrize("text", [DCPO, AEPO, CAPO], ids=["dcpo", "aepo", "capo"])
def test_a_run_that_was_cut_goes_on_with_what_it_remembered(text: str, tmp_path: Path) -> None:
    assert_goes_on(program(text), tmp_path, 2)


def test_the_table_is_in_the_checkpoint(tmp_path: Path) -> None:
    found = {name: value for name, value in last_tensors(whole(program(DCPO), tmp_path)).items() if "visits" in name}
    ((_, visits),) = found.items()
    assert visits.shape == (16,), "both splits of the lock"
    assert visits.sum() == 27 and (visits[:8] > 0).all() and (visits[8:] == 0).all()

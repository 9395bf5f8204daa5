"""What the start of a run of a small policy does not load: each of these takes longer than the first rollouts."""

from __future__ import annotations

import subprocess
import sys

SPEC = """pipeline p {
  data  tasks  = arithmetic(digits: 1)
  model policy = transformer(layers: 1, width: 8, heads: 2, length: 16)
  samples ~ sample(policy, tasks, group: 2, prompts: 2, max_tokens: 2)
  flow policy: reinforce(score(policy, samples)) -> backprop -> sgd(lr: 1e-3)
  train 1 rollouts
}
"""
PROGRAM = f"""import sys, gradflow
for event in gradflow.compile('''{SPEC}''').run(): pass
print(*(name for name in ("torch._dynamo", "scipy.sparse", "sklearn", "transformers", "networkx") if name in sys.modules))
"""


def test_nothing_heavy_is_loaded_for_a_small_policy() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

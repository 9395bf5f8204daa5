"""How much memory a step of fine-tuning SmolLM2-135M takes: by backpropagation, by probes of its float weights, by probes of quantized scales.

    python benchmarks/zeroth_order_memory.py [--prompts 4] [--steps 3] [--json]

Each way runs in a process of its own. After the first step the kernel's mark of the largest resident size is set back, so that what is reported
is the peak of the steps that follow, not of loading the model; the size of the process before anything is loaded is taken off. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SPEC = """
pipeline tuned(prompts: int >= 1 = 4, steps: int >= 1 = 3) {
  data  tasks = reasoning_gym("letter_counting", size: 200, test: 1, options: "min_words=3, max_words=5")
  model net = smollm2()STORED
  answers ~ answer_pairs(net, tasks, prompts: prompts)
  live = score(net, answers)
  nll  = -mean(live.logp, over: [sample, token], where: live.mask and live.good)
  flow TARGET: nll -> RULE
  train steps steps (seed: 0)
}
"""
WAYS = {
    "backprop, AdamW": ("", "net", "backprop -> adamw(lr: 1e-6)"),
    "backprop, SGD": ("", "net", "backprop -> sgd(lr: 1e-6)"),
    "MeZO, float32": ("", "net", "spsa() -> sgd(lr: 1e-9)"),
    "QZO, 4 bits": (" as (symmetric(bits: 4, group: 64) on [row, col] | float32)", "net.scale", "spsa() -> at_least(1e-7) -> sgd(lr: 1e-9)"),
}  # fmt: skip


def resident(key: str) -> int:
    """VmRSS (now) or VmHWM (the peak), bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def measure(way: str, prompts: int, steps: int) -> dict[str, Any]:
    """In this process: peak bytes of the steps after the first, and seconds a step."""
    import torch  # noqa: F401  (its libraries are not what is measured)

    import gradflow

    before = resident("VmRSS")
    stored, target, rule = WAYS[way]
    text = SPEC.replace("STORED", stored).replace("TARGET", target).replace("RULE", rule)
    running = gradflow.compile(text, prompts=prompts, steps=steps + 1).run()
    seconds: list[float] = []
    kept = 0
    for event in running:
        if type(event).__name__ == "UnitDone":
            seconds.append(event.seconds)  # type: ignore[attr-defined]
            if len(seconds) == 1:
                kept = resident("VmRSS") - before
                Path("/proc/self/clear_refs").write_text("5")
    return {"way": way, "peak": resident("VmHWM") - before, "kept": kept, "seconds": sum(seconds[1:]) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="one of them, in this process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.prompts, options.steps)))
        return
    rows = []
    for way in WAYS:
        words = [sys.executable, __file__, "--way", way, "--prompts", str(options.prompts), "--steps", str(options.steps)]
        found = subprocess.run(words, check=True, capture_output=True, text=True)
        rows.append(json.loads(found.stdout.splitlines()[-1]))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':20}{'peak MB':>10}{'kept MB':>10}{'s a step':>10}")
    for row in rows:
        print(f"{row['way']:20}{row['peak'] / 1e6:>10.0f}{row['kept'] / 1e6:>10.0f}{row['seconds']:>10.2f}")


if __name__ == "__main__":
    main()

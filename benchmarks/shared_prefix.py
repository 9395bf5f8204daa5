"""How much faster log-probabilities and their gradients are when a group of responses shares its prompt, beside what the plan predicts.

    python benchmarks/shared_prefix.py [--model transformer|smollm2] [--shapes 256,32,8 ..] [--prompts 1] [--repeats 7] [--threads 1] [--json]

A shape is (tokens of the prompt, tokens of a response, responses). Both ways are timed in turn in one process, forward and backward through `score`,
on the same samples; packing the record and laying out its blocks is part of the schedule's time. The numbers are medians, the ratio is the median of
the ratios within a repeat. The differences are the largest of the log-probabilities, and of the gradient over its own largest entry. Defaults are the
card's: a decoder of 4 layers and 128 channels, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradflow.compiler import build, load
from gradflow.library.models import transformer
from gradflow.library.rollouts import score
from gradflow.library.transformers_models import smollm2
from gradflow.schedules.gain import gain
from gradflow.schedules.rows import Rows, lowering

CARD = ("256,32,8", "512,32,8", "512,64,4", "64,64,8")
LARGE = ("400,32,8",)


def samples(prompt: int, response: int, group: int, prompts: int, words: int) -> dict[str, Tensor]:
    """A record of responses of full length to prompts of full length."""
    draw = torch.Generator().manual_seed(0)
    owner = torch.arange(prompts).repeat_interleave(group)
    asked = torch.randint(2, words, (prompts, prompt), generator=draw)[owner]
    action = torch.randint(2, words, (len(owner), response), generator=draw)
    mask = torch.ones_like(action, dtype=torch.bool)
    return {
        "ids": torch.cat([asked, action], 1), "prompt_mask": torch.cat([torch.ones_like(asked, dtype=torch.bool), ~mask], 1), "mask": mask,
        "action": action, "length": mask.sum(1), "group": owner,
    }  # fmt: skip


def timed(policy: Any, record: Mapping[str, Any], packer: Rows | None) -> tuple[float, Tensor, Tensor]:
    """Seconds of forward and backward, the log-probabilities, and the gradient laid side by side."""
    policy.zero_grad()
    begin = time.perf_counter()
    logp = score(policy, packer.packed(dict(record)) if packer is not None else record)["logp"]
    logp.mean().backward()
    took = time.perf_counter() - begin
    return took, logp.detach(), torch.cat([p.grad.reshape(-1) for p in policy.parameters() if p.grad is not None])


def measured(policy: Any, spec: Any, packer: Rows, shape: tuple[int, int, int], prompts: int, repeats: int) -> dict[str, Any]:
    words = int(spec.facts["vocabulary"])
    record = samples(*shape, prompts, words)
    _, logp, slope = timed(policy, record, None)
    _, ours, pull = timed(policy, record, packer)
    apart = {"logp": float((logp - ours).abs().max()), "gradient": float((slope - pull).abs().max() / slope.abs().max())}
    pairs = [(timed(policy, record, None)[0], timed(policy, record, packer)[0]) for _ in range(repeats)]
    return {
        "shape": shape, "predicted": gain(spec, *shape), "measured": statistics.median(a / b for a, b in pairs),
        "repeated_s": statistics.median(a for a, _ in pairs), "shared_s": statistics.median(b for _, b in pairs), **apart,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("transformer", "smollm2"), default="transformer")
    parser.add_argument("--shapes", nargs="*")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shapes = [tuple(map(int, text.split(","))) for text in options.shapes or (CARD if options.model == "transformer" else LARGE)]
    longest = max(prompt + response for prompt, response, _ in shapes)
    small = {"vocabulary": 64, "layers": 4, "width": 128, "heads": 4, "length": longest}
    spec: Any = transformer.function(**small) if options.model == "transformer" else smollm2.function()
    policy = spec.build(0)
    program, _ = build(load("37_prefix_grouper")[0], "same")
    assert program is not None
    packer = Rows(program.schedule, lowering("torch", torch.device("cpu")), lambda count: count)
    found = [measured(policy, spec, packer, shape, options.prompts, options.repeats) for shape in shapes]
    if options.json:
        json.dump(found, sys.stdout, indent=2)
        return 0
    print("| prompt, response, group | repeated s | shared s | ratio | predicted | log-probabilities apart | gradients apart |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in found:
        numbers = f"{one['repeated_s']:.3f} | {one['shared_s']:.3f} | {one['measured']:.2f} | {one['predicted']:.2f}"
        print(f"| {', '.join(map(str, one['shape']))} | {numbers} | {one['logp']:.1e} | {one['gradient']:.1e} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

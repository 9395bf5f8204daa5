"""How near a round of gossip among many nodes comes to the machine's memory bandwidth, in one process.

    python benchmarks/ring_gossip.py [--nodes 10000] [--dim 1000] [--repeats 15] [--compile] [--json]

A round of `examples/many_nodes` reads the parameters and the targets of all nodes and writes the parameters: three streams of nodes x dim numbers,
the floor. A triad (a = b + s * c) moves as much and is timed in turn with the update as it is lowered, in the same process; so is the product with
the weights alone, beside a copy. Medians, and ratios as medians of the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from gradflow.backends.torch.mixing import mix
from gradflow.cli.plan import program_of
from gradflow.plan.program import Update
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.memory import keep_freed
from gradflow.runtime.reading import reader


def prepared(nodes: int, dim: int, compiled: bool) -> tuple[Callable[[], Any], Any, torch.Tensor]:
    """One round as the run makes it, the weights of its product, and the parameters."""
    program = program_of("many_nodes", [f"n={nodes}", f"dim={dim}"])
    assert program is not None
    run = Run(program, Options(compile=compiled, steps=2))
    for _ in run.events():
        pass
    update = next(action for action in run.program.phases[0].actions if isinstance(action, Update))
    lowered = run.regions.lowered(update.region, True, update.span)
    inputs = {(source["kind"], *source["path"]): reader(run, update.flow, None, True)(source) for source in lowered.sources}
    weights = next(node["weights"] for node in update.region.nodes() if node.op == "mix")
    return lambda: lowered.call(inputs), weights, run.store.params["x"]


def timed(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed()  # as `gradflow run` does
    begin = time.perf_counter()
    step, weights, x = prepared(options.nodes, options.dim, options.compile)
    start = time.perf_counter() - begin
    a, b = torch.empty_like(x), torch.ones_like(x)
    actions = {
        "round": step,
        "triad": lambda: torch.add(x, b, alpha=0.5, out=a),
        "product": lambda: mix(weights, x, out=a, compiled=options.compile),
        "copy": lambda: a.copy_(x),
    }
    for action in actions.values():
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(options.repeats):
        for name, action in actions.items():
            times[name].append(timed(action))
    medians = {name: statistics.median(found) * 1e3 for name, found in times.items()}
    ratios = {
        "round / triad": statistics.median(r / t for r, t in zip(times["round"], times["triad"], strict=True)),
        "product / copy": statistics.median(r / t for r, t in zip(times["product"], times["copy"], strict=True)),
    }
    if options.json:
        print(json.dumps({"ms": medians, "ratios": ratios, "seconds to prepare": start}))
        return 0
    size = x.numel() * x.element_size() / 1e6
    print(f"{options.nodes} nodes x {options.dim}, {size:.0f} MB of parameters, {torch.get_num_threads()} threads; ready after {start:.1f} s")
    for name, value in medians.items():
        print(f"  {name:8} {value:8.2f} ms")
    for name, value in ratios.items():
        print(f"  {name:14} {value:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

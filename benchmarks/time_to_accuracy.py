"""How long methods take to reach a loss, in seconds of a described network: gossip over three topologies, local steps, compression, all-reduce.

    python benchmarks/time_to_accuracy.py [--loss 0.5] [--rounds 600] [--rates 1,2,4,8,16]

Sixteen nodes hold the digits by label, a softmax regression is trained from the same start. Every method runs once for each rate; what it sends
is counted, and the clocks of `lan` and `wan` (gradflow/network/networks.toml) run beside it. The loss is that of the mean of the nodes' models on
the test digits, looked at every five rounds. Of each method the rate that is there first on `wan` counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.network.description import network_of
from gradflow.network.ledger import Ledger
from gradflow.passes.scope import Module
from gradflow.plan.program import Program
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, Run

NETWORKS = ("lan", "wan")
SPEC = """pipeline p {
  data  train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y) + 5e-4 * sum(net^2)
  flow  net over GRAPH: loss -> backprop -> RULE
  train 10 rounds (seed: 0) { every 5 rounds { report loss = cross_entropy(MODEL(test.x), test.y) } }
}
"""
METHODS = {
    "gossip, ring": ("ring(16)", "gossip() -> sgd(lr: RATE)", "mean(net, over: node)"),
    "gossip, exponential": ("exponential(16)", "gossip() -> sgd(lr: RATE)", "mean(net, over: node)"),
    "gossip, complete": ("complete(16)", "gossip() -> sgd(lr: RATE)", "mean(net, over: node)"),
    "all-reduce": ("star(16)", "average() -> sgd(lr: RATE)", "net"),
    "local steps, H = 5": ("star(16)", "local_steps(local: sgd(lr: RATE), steps: 5) -> sgd(lr: 1)", "net"),
    "econtrol, top 10%": ("star(16)", "econtrol(eta: 0.1, compress: topk(10%)) -> sgd(lr: RATE)", "net"),
}  # fmt: skip


@dataclass(frozen=True)
class Reached:
    """When a run was there: rounds, bytes and seconds by network."""

    rate: str
    rounds: int
    bytes: int
    seconds: Mapping[str, float]


def program_of(method: str, rate: str) -> Program:
    graph, rule, model = METHODS[method]
    text = SPEC.replace("GRAPH", graph).replace("RULE", rule).replace("MODEL", model).replace("RATE", rate)
    program, diagnostics = build(Module.of(Source(f"{method} at {rate}", text)))
    if program is None:
        raise SystemExit("\n".join(map(str, diagnostics)))
    return program


def reached(method: str, rate: str, loss: float, rounds: int) -> Reached | None:
    """Where the run's loss was first at or below the one asked for."""
    run = Run(program_of(method, rate), Options(steps=rounds, network=network_of(NETWORKS[0]).text()))
    ledgers = {NETWORKS[0]: run.sending, **{name: Ledger(run.sending.counted, run.sending.width, network_of(name)) for name in NETWORKS[1:]}}
    first = run.sending.add

    def add(results: Mapping[str, Any]) -> None:
        first(results)
        for name in NETWORKS[1:]:
            ledgers[name].add(results)

    run.sending.add = add  # type: ignore[method-assign]
    sent = 0
    for event in run.events():
        if isinstance(event, UnitDone):
            sent += int(event.sent["bytes"])  # type: ignore[arg-type]
        elif isinstance(event, Report) and float(event.values["loss"]) <= loss:  # type: ignore[arg-type]
            return Reached(rate, event.t, sent, {name: ledger.seconds or 0.0 for name, ledger in ledgers.items()})
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--rates", default="1,2,4,8,16")
    options = parser.parse_args()
    print("| method | rate | rounds | sent | lan | wan |\n| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for method in METHODS:
        found = [one for rate in options.rates.split(",") if (one := reached(method, rate, options.loss, options.rounds)) is not None]
        if not found:
            print(f"| {method} | | not within {options.rounds} | | | |", flush=True)
            continue
        best = min(found, key=lambda one: one.seconds["wan"])
        times = " | ".join(f"{best.seconds[name]:.3g} s" for name in NETWORKS)
        print(f"| {method} | {best.rate} | {best.rounds} | {best.bytes / 1e6:.3g} MB | {times} |", flush=True)


if __name__ == "__main__":
    main()

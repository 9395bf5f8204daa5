"""Predicted against measured: peak memory and bytes of shipped pipelines at several sizes. `python benchmarks/plan_prediction.py [--write]`.

Every row runs in a process of its own. The prediction walks through the program without data (`gradflow/cost`). The measurement runs two units of
it on the CPU under torch's own memory profiler, which hears every allocation and release of torch's allocator, and takes the largest sum; what
tensors share with numpy's memory (integer columns of a data set) torch did not allocate, and it is added. Memory of Python, of the libraries
and of data sets before they become tensors is in neither figure.

Bytes of an update are predicted as the streams that cannot be avoided: of a fused kernel only what it reads and writes once. Beside it stands what
goes in and out of every operation that ran on real tensors, a kernel's scratch in the cache included; so that is an upper bound and no measurement
of memory traffic, and the difference grows with what was fused. With --write the table goes to docs/plan_prediction.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "plan_prediction.md"
NET = """pipeline sized(batch: int = 256, hidden: int = 512, rule: update = adam(lr: 1e-3)) {{
  data train, test = digits(batch: batch)
  model net = mlp(64, hidden, hidden, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> {rule}
  train 2 steps ({settings}) {{ report accuracy = accuracy(net(test.x), test.y) }}
}}
"""
LANGUAGE = """pipeline worded {{
  data  tasks  = arithmetic(digits: 1, size: 80, test: 20)
  model policy = transformer(vocabulary: 22, layers: {layers}, width: {width}, heads: 4, length: 24)
  samples ~ sample(policy, tasks, group: 8, prompts: {prompts}, max_tokens: 3)
  flow policy: sapo(score(policy, samples)) -> backprop -> clip_norm(1) -> adamw(lr: 1e-3)
  train 2 rollouts (epochs: 2, minibatches: 2)
}}
"""
SHIPPED = (
    "exchanges:gossip_on_digits", "exchanges:federated", "optimizers:galore_digits", "optimizers:muon_digits", "11_dct_lowrank:digits",
    "11_dct_lowrank:digits_trion", "14_econtrol:compressed_digits", "14_econtrol:quadratics", "17_diffgrad:digits", "18_sapo:locks",
    "18_sapo:arithmetic",
)  # fmt: skip


def cases() -> dict[str, str]:
    """Titles with a reference or a text."""
    found = {name: name for name in SHIPPED}
    for hidden in (256, 1024, 2048):
        for batch in (64, 1024):
            found[f"mlp 64-{hidden}-{hidden}-10, batch {batch}, adam"] = (
                NET.format(rule="rule", settings="seed: 0").replace("512, rule", f"{hidden}, rule").replace("= 256, hidden", f"= {batch}, hidden")
            )
    for rule, settings in (("sgd(lr: 0.1)", "seed: 0"), ("muon(lr: 1e-3) on [row, col] | adam(lr: 1e-3)", "seed: 0"), ("rule", "micro: 4")):
        chain = f"({rule})" if "|" in rule else rule
        title = settings if rule == "rule" else rule.partition("(")[0]
        found[f"mlp 64-512-512-10, batch 256, {title}"] = NET.format(rule=chain, settings=settings)
    for layers, width, prompts in ((2, 64, 16), (4, 128, 32), (4, 256, 60)):
        found[f"transformer, {layers} layers of {width}, {8 * prompts} samples"] = LANGUAGE.format(layers=layers, width=width, prompts=prompts)
    return found


def program_of(case: str) -> Any:
    from gradflow import compiler
    from gradflow.language.source import Source
    from gradflow.passes.scope import Module

    module, pipeline = (Module.of(Source("<benchmark>", case)), None) if "{" in case else compiler.load(case)
    program, diagnostics = compiler.build(module, pipeline)
    if program is None:
        raise SystemExit("\n".join(map(str, diagnostics)))
    return program


# ---- one row, in a process of its own


def predicted(case: str) -> dict[str, float]:
    from gradflow.cost.estimate import estimate

    cost = estimate(program_of(case))
    moved = sum(action.work.bytes for phase in cost.phases for action in phase.actions if action.kind == "flow")
    return {"peak": cost.peak if cost.complete else 0, "bytes": moved}


def measured(case: str) -> dict[str, float]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from gradflow.cost.ledger import Ledger
    from gradflow.runtime.executor import Options, Run

    run = Run(program_of(case), Options(steps=2))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in run.events():
            pass
    live = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    shared = 0
    for (name, split, field), tensor in run.batches._whole.items():
        column = run.batches.loaded(name)[split][field]
        if torch.from_numpy(column).data_ptr() == tensor.data_ptr():
            shared += tensor.numel() * tensor.element_size()
    return {"peak": peak + shared, "bytes": moved_by(Run(program_of(case), Options(steps=2)), Ledger(1))}


def moved_by(run: Any, ledger: Any) -> float:
    """What the operations of the last update of each flow really took in and gave out, counted on real tensors."""
    last: dict[str, float] = {}
    change = run._change

    def counted(action: Any, *more: Any) -> Any:
        before = len(ledger.steps)
        with ledger:
            found = change(action, *more)
        if hasattr(action, "flow"):
            last[action.flow] = sum(step.bytes for step in ledger.steps[before:])
        return found

    run._change = counted
    for _ in run.events():
        pass
    return sum(last.values())


# ---- the table


def row(title: str, case: str) -> dict[str, Any]:
    found: dict[str, Any] = {"title": title}
    for side in ("predicted", "measured"):
        command = [sys.executable, __file__, "--side", side]
        done = subprocess.run(command, input=case, capture_output=True, text=True, cwd=ROOT, timeout=600)
        if done.returncode:
            found["failed"] = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{side}: exit code {done.returncode}"
            return found
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| pipeline | peak, predicted | measured | error | bytes an update, predicted | through all operations | difference |",
        "| --- " * 7 + "|",
    ]
    for one in rows:
        if "failed" in one:
            lines.append(f"| {one['title']} | {one['failed'].replace('|', ' ')} | | | | | |")
            continue
        cells = [one["title"]]
        for key in ("peak", "bytes"):
            first, second = one["predicted"][key], one["measured"][key]
            cells += [size(first), size(second), f"{100 * (first / second - 1):+.1f} %" if second else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size(count: float) -> str:
    return f"{count / 1e6:.3f} MB" if count < 1e9 else f"{count / 1e9:.3f} GB"


def page(rows: list[dict[str, Any]]) -> str:
    import torch

    errors = [abs(one["predicted"]["peak"] / one["measured"]["peak"] - 1) for one in rows if "failed" not in one]
    largest, mean = 100 * max(errors), 100 * sum(errors) / len(errors)
    known = f"{len(errors)} of {len(rows)} rows; the largest error of the peak is {largest:.1f} %, the mean {mean:.2f} %."
    text = (__doc__ or "").partition("\n\n")[2].strip().partition(" With --write")[0]
    return "\n".join(
        [
            "# How well `gradflow plan` predicts", "", "Made by `python benchmarks/plan_prediction.py --write`.", "", text, "",
            f"On torch {torch.__version__}: {known}", "", table(rows), "", NOTES, "",
        ]
    )  # fmt: skip


NOTES = """What the peak leaves out: workspaces inside of torch's own operations (a sort's, a decomposition's), what a policy holds while it draws
responses, and memory of the libraries. Masks are taken to select everything, and responses to be as long as they may be, so a run whose
responses end early stays below the prediction."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/plan_prediction.md")
    parser.add_argument("--only", default="", help="rows whose title holds this")
    parser.add_argument("--side", choices=("predicted", "measured"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps({"predicted": predicted, "measured": measured}[options.side](sys.stdin.read())))
        return
    rows = []
    for title, case in cases().items():
        if options.only in title:
            rows.append(row(title, case))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if options.write:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

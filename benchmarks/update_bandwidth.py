"""How near parameter updates come to the machine's memory bandwidth.

    python benchmarks/update_bandwidth.py --size 20000000 [--compile] [--json]

The shipped `adamw` and `diffgrad` are elaborated for one flat tensor and lowered by the torch backend with donated buffers. Each is measured in
one process with a triad (a = b + s * c), torch.optim.AdamW(fused=True) and the same update as a plain loop of torch expressions; the candidates
take turns within each repeat, and medians are reported, ratios as medians of the ratios within a repeat. Bytes are those an update cannot avoid:
every stream read or written once (AdamW reads param, grad, m, v and writes param, m, v; diffGrad also reads and writes the previous gradient;
the triad 2 + 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradflow.backends.torch import lower
from gradflow.embedding import update_stage
from gradflow.graph.graph import Region
from gradflow.graph.types import Axis
from gradflow.passes.expressions import Elaborator
from gradflow.passes.stages import Leaf
from gradflow.passes.standalone import FLOW, step_region

STREAMS = {"triad": 3, "adamw": 7, "diffgrad": 9}
BLOCKS = (1 << 16, 1 << 18, 1 << 20)  # entries of a block tried for the blocked triad
Candidate = tuple[str, Callable[[], Any]]  # streams counted for it, what is timed


def update(name: str, size: int) -> tuple[Region, dict[tuple[str, ...], Any]]:
    """A shipped update on one tensor of `size` entries, and buffers for everything it reads."""
    e = Elaborator()
    region, flow = step_region(e, update_stage(name, {}, e, ()), (Leaf("p", (Axis("dim0", size),)),))
    region = Region(tuple((key, node) for key, node in region.results if not key.startswith("report/")))
    generator = torch.Generator().manual_seed(0)
    buffers: dict[tuple[str, ...], Any] = {key: torch.randn(size, generator=generator) for key in (("param", "leaf"), ("input", "grad"))}
    for slot in flow.states.values():
        if slot.write is not None:
            buffers["state", FLOW, slot.key] = torch.rand(size, generator=generator)
    return region, buffers | {("clock", "t", FLOW): 3, ("clock", "t_end", FLOW): 100, ("clock", "tick"): 2, ("clock", "seed"): 0}


def eager(size: int, friction: bool) -> Callable[[], None]:
    """The same update as one would write it in torch."""
    param, grad, m, v, previous = (torch.rand(size) for _ in range(5))

    def step() -> None:
        m.mul_(0.9).add_(grad, alpha=0.1)
        v.mul_(0.999).addcmul_(grad, grad, value=0.001)
        denominator = (v / (1 - 0.999**3)).sqrt().add_(1e-8)
        moved = m / (1 - 0.9**3)
        if friction:
            moved *= torch.sigmoid(torch.abs(previous - grad))
            previous.copy_(grad)
        else:
            param.mul_(1 - 1e-5)
        param.addcdiv_(moved, denominator, value=-1e-3)

    return step


def triads(size: int) -> dict[str, Candidate]:
    a, b, c = (torch.ones(size) for _ in range(3))

    def blocked(entries: int) -> None:
        for x, y, z in zip(a.split(entries), b.split(entries), c.split(entries), strict=True):
            torch.add(y, z, alpha=0.5, out=x)

    found: dict[str, Candidate] = {"triad": ("triad", lambda: torch.add(b, c, alpha=0.5, out=a))}
    return found | {f"triad in blocks of {n}": ("triad", lambda n=n: blocked(n)) for n in BLOCKS if n < size}


def candidates(size: int, compiled: bool) -> dict[str, Candidate]:
    found = triads(size)
    param: Tensor = torch.nn.Parameter(torch.randn(size))
    param.grad = torch.randn(size)
    found["AdamW(fused=True)"] = ("adamw", torch.optim.AdamW([param], lr=1e-3, fused=True).step)
    for name in ("adamw", "diffgrad"):
        region, buffers = update(name, size)
        lowered = lower(region, donate=True)
        found[f"{name}: gradflow"] = (name, partial(lowered, buffers))
        if compiled:
            fast = lower(region, donate=True, compile=True)
            found[f"{name}: gradflow compiled"] = (name, partial(fast, buffers))
        found[f"{name}: eager"] = (name, eager(size, name == "diffgrad"))
    return found


def measure(found: dict[str, Candidate], repeats: int) -> dict[str, list[float]]:
    """Seconds of each candidate in each repeat; they take turns."""
    for _, function in found.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, (_, function) in found.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def summary(found: dict[str, Candidate], times: dict[str, list[float]], size: int) -> list[dict[str, Any]]:
    """One row a candidate: GB/s, its share of the best triad, its time against fused AdamW and the eager loop of its kind."""
    triad = [min(row) for row in zip(*(seconds for name, seconds in times.items() if found[name][0] == "triad"), strict=True)]
    rows = []
    for name, (kind, _) in found.items():
        volume = STREAMS[kind] * 4 * size
        row: dict[str, Any] = {"name": name, "seconds": statistics.median(times[name]), "GB/s": volume / statistics.median(times[name]) / 1e9}
        row["share of triad"] = statistics.median(
            (volume / s) / (STREAMS["triad"] * 4 * size / best) for s, best in zip(times[name], triad, strict=True)
        )
        for column, other in (("times AdamW(fused)", "AdamW(fused=True)"), ("times eager", f"{kind}: eager")):
            if kind != "triad" and other in times:
                row[column] = statistics.median(s / o for s, o in zip(times[name], times[other], strict=True))
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("seconds", "GB/s", "share of triad", "times AdamW(fused)", "times eager")
    print(f"{'':28}" + "".join(f"{column:>20}" for column in columns))
    for row in rows:
        print(f"{row['name']:28}" + "".join(f"{row[column]:>20.3f}" if column in row else f"{'':>20}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=int, default=20_000_000, help="parameters")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also under torch.compile")
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    options = parser.parse_args()
    found = candidates(options.size, options.compile)
    rows = summary(found, measure(found, options.repeats), options.size)
    if options.json:
        json.dump({"size": options.size, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, sys.stdout, indent=2)
        print()
    else:
        show(rows)


if __name__ == "__main__":
    main()

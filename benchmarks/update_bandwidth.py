"""How near parameter updates come to the machine's memory bandwidth.

    python benchmarks/update_bandwidth.py --size 20000000 [--compile] [--json]

Adam and diffGrad are built as graphs and lowered by the torch backend with donated buffers. Each is measured in one process with a triad
(a = b + s * c), torch.optim.AdamW(fused=True) and the same update as a plain loop of torch expressions; the candidates take turns within each
repeat, and medians are reported, ratios as medians of the ratios within a repeat. Bytes are those an update cannot avoid: every stream read or
written once (Adam reads param, grad, m, v and writes param, m, v; diffGrad also reads and writes the previous gradient; the triad 2 + 1).
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
from torch import Tensor

from gradflow.backends.torch import lower
from gradflow.graph.graph import Graph, Region
from gradflow.graph.operations import Operations
from gradflow.graph.types import INT, Axis, Type

STREAMS = {"triad": 3, "adam": 7, "diffgrad": 9}
BLOCKS = (1 << 16, 1 << 18, 1 << 20)  # entries of a block tried for the blocked triad
Candidate = tuple[str, Callable[[], Any]]  # streams counted for it, what is timed


def update(size: int, friction: bool) -> Region:
    """Adam, or with friction diffGrad, as a graph."""
    o = Operations(Graph())
    e = o.elementwise
    flat = Type("real", (Axis("param", size),))
    param, grad, m, v = (o.source(flat, *name) for name in (("param", "net"), ("input", "grad"), ("state", "m"), ("state", "v")))
    t = o.source(INT, "clock", "t")
    m_next = e("add", e("mul", 0.9, m), e("mul", 0.1, grad))
    v_next = e("add", e("mul", 0.999, v), e("mul", 0.001, e("pow", grad, 2)))
    size_of_step = e("div", m_next, e("sub", 1.0, e("pow", 0.9, t)))
    step = e("div", size_of_step, e("add", e("sqrt", e("div", v_next, e("sub", 1.0, e("pow", 0.999, t)))), 1e-8))
    results = {"state/m": m_next, "state/v": v_next}
    if friction:
        previous = o.source(flat, "state", "previous")
        step = e("mul", e("sigmoid", e("abs", e("sub", previous, grad))), step)
        results["state/previous"] = grad
    results["param/net"] = e("sub", param, e("mul", 1e-3, step))
    return Region(tuple((name, o.constant(node)) for name, node in results.items()), (), "update")


def eager(buffers: dict[tuple[str, ...], Any], friction: bool) -> Callable[[], None]:
    """The same update as one would write it in torch."""
    param, grad, m, v, previous = (
        buffers[key] for key in (("param", "net"), ("input", "grad"), ("state", "m"), ("state", "v"), ("state", "previous"))
    )

    def step() -> None:
        m.mul_(0.9).add_(grad, alpha=0.1)
        v.mul_(0.999).addcmul_(grad, grad, value=0.001)
        denominator = (v / (1 - 0.999**3)).sqrt().add_(1e-8)
        moved = m / (1 - 0.9**3)
        if friction:
            moved *= torch.sigmoid(torch.abs(previous - grad))
            previous.copy_(grad)
        param.addcdiv_(moved, denominator, value=-1e-3)

    return step


def buffers_of(size: int) -> dict[tuple[str, ...], Any]:
    generator = torch.Generator().manual_seed(0)
    keys = (("param", "net"), ("input", "grad"), ("state", "m"), ("state", "v"), ("state", "previous"))
    found: dict[tuple[str, ...], Any] = {key: torch.randn(size, generator=generator) for key in keys}
    found["state", "v"].abs_()
    return found | {("clock", "t"): 3}


def triads(size: int) -> dict[str, Candidate]:
    a, b, c = (torch.ones(size) for _ in range(3))

    def blocked(entries: int) -> None:
        for x, y, z in zip(a.split(entries), b.split(entries), c.split(entries), strict=True):
            torch.add(y, z, alpha=0.5, out=x)

    found: dict[str, Candidate] = {"triad": ("triad", lambda: torch.add(b, c, alpha=0.5, out=a))}
    return found | {f"triad in blocks of {n}": ("triad", lambda n=n: blocked(n)) for n in BLOCKS if n < size}


def candidates(size: int, compiled: bool) -> dict[str, Candidate]:
    buffers = buffers_of(size)
    found = triads(size)
    param: Tensor = torch.nn.Parameter(torch.randn(size))
    param.grad = torch.randn(size)
    found["AdamW(fused=True)"] = ("adam", torch.optim.AdamW([param], lr=1e-3, fused=True).step)
    for name in ("adam", "diffgrad"):
        region = update(size, friction=name == "diffgrad")
        lowered = lower(region, donate=True)
        found[f"{name}: gradflow"] = (name, lambda f=lowered: f(buffers))
        if compiled:
            fast = lower(region, donate=True, compile=True)
            found[f"{name}: gradflow compiled"] = (name, lambda f=fast: f(buffers))
        found[f"{name}: eager"] = (name, eager(buffers, name == "diffgrad"))
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

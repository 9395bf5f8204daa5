"""The Gaussian mechanism: noise in proportion to what one record can move, and the mark that what comes out is public.

The mark is a `stop` with the attribute `release`; below it stands x + (multiplier * sensitivity) * noise, unfolded, so that who follows private
values through the graph (`gradflow/privacy`) finds the parts. `sampled` is the share of the records that takes part, -1 where all do.
"""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.graph.types import Type, union


@builtin(
    "release(x, sensitivity: r, multiplier: z, noise: xi, sampled: q)",
    "x + z r xi, which is public where x is private: r bounds what one record can move in x, xi is standard normal noise; "
    "q is the share of records that takes part, if it is drawn anew each time.",
    "privacy",
)
def release(a: Arguments) -> Any:
    ops, x = a.e.ops, a.node(0)
    reach, level, noise = (ops.constant(a.e.tensor(a.e.evaluate(a.needed(name).value, a.scope))) for name in ("sensitivity", "multiplier", "noise"))
    share = ops.constant(a.quantity("sampled", -1.0))

    def made(op: str, one: Node, other: Node) -> Node:
        return ops.make(op, (one, other), Type("real", union(one.type.axes, other.type.axes)))

    noisy = made("add", x, made("mul", made("mul", level, reach), noise))
    rate = share["value"] if share.op == "const" else -2.0
    return ops.make("stop", (noisy,), noisy.type, release=a.scope.owner, sampled=float(rate))

"""What is derived of how an objective bends, what is taken as stated, and what is contradicted."""

from __future__ import annotations

from typing import Any

import pytest

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module

TEXT = """
exchange asking(mu: real >= 0, L: real > 0) over connected {
  require connected
  require strongly_convex(objective, mu)
  require smooth(objective, L)
  on each node(i) ~ poisson(1) { param <- param - grad / L }
}
pipeline p {
  data  train = random_least_squares(nodes: 4, dim: 3)
  model x = free([coordinate: 3])
  loss = LOSS
  flow x over GRAPH: loss -> backprop -> asking(MU, BIG)
  train 1 time
}
"""


def stated(loss: str, mu: float, big: float, graph: str = "ring(4)") -> Any:
    text = TEXT.replace("LOSS", loss).replace("MU", str(mu)).replace("BIG", str(big)).replace("GRAPH", graph)
    found, diagnostics = build(Module.of(Source("<test>", text)), "p")
    errors = [one for one in diagnostics if one.code.startswith("E")]
    if found is None:
        return [(one.code, one.why) for one in errors]
    return list(found.phases[0].actions[0].facts["stated"])


SQUARES = "sum((dot(train.a, x, over: coordinate) - train.b)^2, over: row)"
DERIVED, STATED = "derived from its terms", "stated, not derived"


@pytest.mark.parametrize(
    ("loss", "mu", "big", "first", "second"),
    [
        (SQUARES, 0.1, 10.0, STATED, STATED),
        (f"{SQUARES} + 0.05 * sum(x^2, over: coordinate)", 0.1, 10.0, DERIVED, STATED),
        (f"{SQUARES} + 0.04 * sum(x^2, over: coordinate)", 0.1, 10.0, STATED, STATED),
        ("3 * sum(x * x, over: coordinate) / 2 + sum(x, over: coordinate)", 3.0, 3.0, DERIVED, DERIVED),
        ("sum(softplus(x), over: coordinate) + 0.5 * sum(x^2, over: coordinate)", 1.0, 2.0, DERIVED, STATED),
        ("sum(x^2, over: coordinate) - sum(abs(x), over: coordinate)", 1.0, 2.0, STATED, STATED),
        ("sum(x[coordinate: 0 .. 2]^2, over: coordinate)", 1.0, 2.0, STATED, STATED),
        ("sum(x^4, over: coordinate) + sum(x^2, over: coordinate)", 2.0, 9.0, STATED, STATED),
    ],
)
def test_what_is_derived(loss: str, mu: float, big: float, first: str, second: str) -> None:
    assert stated(loss, mu, big) == [f"strongly_convex({mu:g}): {first}", f"smooth({big:g}): {second}"]


def test_what_is_contradicted() -> None:
    assert stated("sum(x, over: coordinate)", 0.1, 1.0) == [("E0602", "it does not bend: it is affine in what is trained")]
    assert stated("0.5 * sum(x^2, over: coordinate)", 2.0, 3.0) == [("E0602", "it bends by 1 at most")]
    assert stated(f"{SQUARES} + sum(x^2, over: coordinate)", 0.1, 1.0) == [("E0602", "the squares of the parameters alone bend it by 2")]

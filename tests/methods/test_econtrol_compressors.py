"""What every shipped compressor says of itself holds: contraction, in every draw or in the mean over draws, or no bias and the variance stated.

Statements about means are tested on 1000 draws by Hoeffding's inequality; the bound of each would fail by chance with probability 1e-6.
"""

from __future__ import annotations

import numpy
import pytest

from tests.methods.harness import evaluate_text

ROWS, COLS, NODES, ROUNDS = 5, 4, 20, 50
SIZE, DRAWS = ROWS * COLS, NODES * ROUNDS
ALARM = 1e-6
TEXT = """
exchange observed(compress: projection) over central {
  seen = compress(grad)
  says = STATED + 0 * sum(mean(seen, over: node), over: param)
  return mean(seen, over: node)
}
pipeline p {
  input g : [node, row, col]
  model x = free([row: 5, col: 4])
  rule = observed(COMPRESS)
  flow x over star(size(node)): sum(g * x, over: [row, col]) -> backprop -> rule -> sgd(0)
  train 50 rounds (seed: 4) { every round { report seen = arrange(rule.seen, [node, param]) }; report says = rule.says }
}
"""


def drawn(compress: str, fact: str, x: numpy.ndarray) -> tuple[numpy.ndarray, float]:
    """What the compressor made of x [row, col], draw by draw, flat; and the number that it states of itself."""
    text = (
        TEXT.replace("ORDER", "[node, row, col]" if "rank" in compress else "[node, param]")
        .replace("COMPRESS", compress)
        .replace("STATED", f"compress.{fact}" if fact else "0")
    )
    found = evaluate_text(text, "p", {}, {"g": numpy.tile(x, (NODES, 1, 1))})
    return found["seen"][-ROUNDS:].reshape(DRAWS, SIZE), float(found["says"])


def values(seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(size=(ROWS, COLS)) * numpy.geomspace(0.01, 3, ROWS)[:, None]


def errors(seen: numpy.ndarray, x: numpy.ndarray) -> numpy.ndarray:
    return ((seen - x.reshape(-1)) ** 2).sum(1) / (x**2).sum()


CASES = [values(), values(1), numpy.ones((ROWS, COLS)), numpy.eye(ROWS, COLS)]


@pytest.mark.parametrize("compress", ["topk(30%)", "topk(1%)", "sign_l1()", "low_rank(1)", "low_rank(3)"])
def test_contracts_in_every_draw(compress: str) -> None:
    for x in CASES:
        seen, delta = drawn(compress, "" if "rank" in compress else "delta", x)
        delta = int(compress[-2]) / COLS if "rank" in compress else delta  # of a leaf; here the only one
        assert 0 < delta < 1 and (errors(seen, x) <= 1 - delta + 1e-12).all()
        assert numpy.abs(seen).max() > 0


def test_random_entries_contract_in_the_mean() -> None:
    """Of a share of the entries, kept as they are, the mean error is exactly 1 - delta; all nodes keep the same, so there are 50 draws."""
    for x in CASES:
        seen, delta = drawn("randk(30%)", "delta", x)
        assert delta == 6 / SIZE
        kept = seen != 0
        numpy.testing.assert_array_equal(seen[kept], numpy.broadcast_to(x.reshape(-1), seen.shape)[kept])
        assert (kept.sum(1) <= 6).all() and (kept == kept.reshape(ROUNDS, NODES, SIZE)[:, :1].repeat(NODES, 1).reshape(DRAWS, SIZE)).all()
        assert abs(errors(seen, x).mean() - (1 - delta)) < (numpy.log(2 / ALARM) / (2 * ROUNDS)) ** 0.5


def test_scaled_up_random_entries_have_no_bias() -> None:
    """As many entries are kept as in `randk`, in a set drawn evenly; scaled down again by 1 + omega they are as they were."""
    for x in CASES:
        seen, omega = drawn("randk_unbiased(30%)", "omega", x)
        assert omega == pytest.approx(SIZE / 6 - 1)
        kept = seen != 0
        numpy.testing.assert_allclose(seen[kept], (SIZE / 6 * numpy.broadcast_to(x.reshape(-1), seen.shape))[kept])
        assert (kept.sum(1) <= 6).all() and kept.sum() > 0
        less, delta = drawn("scaled(randk_unbiased(30%))", "delta", x)
        assert delta == pytest.approx(6 / SIZE)
        numpy.testing.assert_allclose(less[less != 0], numpy.broadcast_to(x.reshape(-1), less.shape)[less != 0])


@pytest.mark.parametrize("compress", ["dither(1)", "dither(4)", "natural()"])
def test_without_bias_and_with_the_variance_stated(compress: str) -> None:
    """Rounding errors lie in an interval of length |x| / levels, or of |x_j|: the mean of so many is near 0, that of their squares below omega."""
    for x in CASES:
        seen, omega = drawn(compress, "omega", x)
        gap = seen - x.reshape(-1)
        width = numpy.linalg.norm(x) / int(compress[-2]) * numpy.ones(SIZE) if "dither" in compress else numpy.abs(x).reshape(-1)
        assert (numpy.abs(gap) <= width + 1e-12).all()
        assert (numpy.abs(gap.mean(0)) <= width * (numpy.log(2 * SIZE / ALARM) / (2 * DRAWS)) ** 0.5 + 1e-12).all()
        most = (width**2).sum() / (x**2).sum()
        assert omega > 0 and errors(seen, x).mean() <= omega + most * (numpy.log(1 / ALARM) / (2 * DRAWS)) ** 0.5


@pytest.mark.parametrize("levels", [1, 4])
def test_scaled_down_it_contracts_in_the_mean(levels: int) -> None:
    for x in CASES:
        seen, delta = drawn(f"scaled(dither({levels}))", "delta", x)
        omega = min(SIZE / levels**2, SIZE**0.5 / levels)
        assert delta == pytest.approx(1 / (1 + omega))
        most = ((SIZE**0.5 / levels + omega) / (1 + omega)) ** 2
        assert errors(seen, x).mean() <= 1 - delta + most * (numpy.log(1 / ALARM) / (2 * DRAWS)) ** 0.5


def test_what_contracts_not_is_told_apart() -> None:
    """The bounds above bind: a dither of one level is no contraction, and the largest entries are no unbiased estimate."""
    x = CASES[0]
    assert errors(drawn("dither(1)", "omega", numpy.ones((ROWS, COLS)))[0], numpy.ones((ROWS, COLS))).mean() > 1
    assert numpy.abs(drawn("topk(30%)", "delta", x)[0].mean(0) - x.reshape(-1)).max() > 0.01

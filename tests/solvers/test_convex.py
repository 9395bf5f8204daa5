"""Problems as values: solutions with absolute anchors, several kinds of conditions, and what has no solution."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import pytest

from gradflow.language.diagnostics import GradflowError
from tests.methods.harness import evaluate_text

cvxpy = pytest.importorskip("cvxpy")
BACKENDS = ("reference", "torch")


def found(
    body: str, inputs: dict[str, Any], result: str = "(x: best.x, value: best.value, status: best.status)", backend: str = "reference", **more: Any
) -> Any:
    declared = "\n".join(f"  input {name} : {'[' + ', '.join(axes) + ']' if axes else 'real'}" for name, (axes, _) in inputs.items())
    text = f"""
objective least {{
{declared}
{body}
}}
function solved {{
{declared}
  best = solve(least({", ".join(f"{name}: {name}" for name in inputs)}), by: {more.get("by", "clarabel()")})
  return {result}
}}
"""
    return evaluate_text(text, "solved", {}, {name: numpy.asarray(value, float) for name, (_, value) in inputs.items()}, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_least_squares(backend: str) -> None:
    random = numpy.random.default_rng(0)
    a, b = random.normal(size=(7, 3)), random.normal(size=7)
    body = "  vary x : [col: 3]\n  minimize sum((dot(a, x, over: col) - b)^2, over: row)"
    got = found(body, {"a": (("row", "col"), a), "b": (("row",), b)}, backend=backend)
    expected, residual, _, _ = numpy.linalg.lstsq(a, b, rcond=None)
    numpy.testing.assert_allclose(got["x"], expected, rtol=1e-6)
    numpy.testing.assert_allclose(got["value"], residual[0], rtol=1e-7)
    assert got["status"] == 0


@pytest.mark.parametrize("form", ["sum(g * g, over: col)", "dot(g, g, over: col)", "norm(g, over: col)", "sum(g^2, over: col)"])
def test_forms_of_a_square(form: str) -> None:
    """The nearest point of a half-space, in every way that a distance is written."""
    p = numpy.array([1.0, 2.0, 2.0])
    body = f"  vary x : [col: 3]\n  g = x - p\n  minimize {form}\n  subject to sum(x, over: col) <= 2"
    numpy.testing.assert_allclose(found(body, {"p": (("col",), p)}, "(x: best.x)")["x"], p - 1, atol=1e-5)


def test_a_linear_program_over_named_axes() -> None:
    """An assignment: each worker one task, at the least cost; the vertex of the polytope is a permutation."""
    from scipy.optimize import linear_sum_assignment

    cost = numpy.random.default_rng(3).uniform(size=(5, 5))
    body = """
  vary x : [worker: 5, task: 5] in [0, 1]
  minimize sum(sum(cost * x, over: task), over: worker)
  subject to busy: sum(x, over: task) == 1
  subject to done: sum(x, over: worker) == 1"""
    got = found(body, {"cost": (("worker", "task"), cost)})
    rows, columns = linear_sum_assignment(cost)
    numpy.testing.assert_allclose(got["value"], cost[rows, columns].sum(), rtol=1e-6)
    numpy.testing.assert_allclose(got["x"][rows, columns], 1, atol=1e-5)


def test_the_largest_eigenvalue_is_a_semidefinite_program() -> None:
    m = numpy.random.default_rng(1).normal(size=(4, 4))
    m = m + m.T
    body = "  vary x : real\n  minimize x\n  subject to psd(x * one - m)"
    got = found(body, {"m": (("row", "col"), m), "one": (("row", "col"), numpy.eye(4))})
    numpy.testing.assert_allclose(got["x"], numpy.linalg.eigvalsh(m)[-1], rtol=1e-6)


def test_blocks_one_for_each_entry() -> None:
    """[[m, v], [v, x]] without negative eigenvalues: x is at least v' m^-1 v, for the worst of several v (Schur)."""
    random = numpy.random.default_rng(2)
    m = random.normal(size=(3, 3))
    m = m @ m.T + numpy.eye(3)
    v = random.normal(size=(4, 3))
    body = "  vary x : real\n  minimize x\n  subject to psd([[m, v], [v, x]])"
    got = found(body, {"m": (("row", "col"), m), "v": (("case", "row"), v)})
    numpy.testing.assert_allclose(got["x"], numpy.einsum("ci,ij,cj->c", v, numpy.linalg.inv(m), v).max(), rtol=1e-6)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("minimize 2 * max(x, over: col) - min(x, over: col)", 3.0),
        ("minimize sum(abs(x), over: col)", 4.0),
        ("minimize sum(exp(x), over: col)", numpy.exp(3) + numpy.exp(1)),
        ("minimize -sum(log(x), over: col) + sum(x, over: col) / 2", 2.0 - numpy.log(3) - numpy.log(2) + 0.5),
        ("minimize sum(max(x, 2), over: col)", 5.0),
        ("minimize sum(where(half, x, 3 * x), over: col)", 6.0),
        ("minimize sum(softplus(x), over: col)", numpy.log1p(numpy.exp(3)) + numpy.log1p(numpy.exp(1))),
    ],
)
def test_functions(line: str, expected: float) -> None:
    body = f"  vary x : [col: 2] in [1, inf)\n  half = low > 2\n  {line}\n  subject to low <= x"
    got = found(body, {"low": (("col",), [3.0, 0.5])})
    numpy.testing.assert_allclose(got["value"], expected, atol=1e-5)


def test_another_solver() -> None:
    body = "  vary x : real\n  minimize (x - p)^2\n  subject to x >= p + 1"
    numpy.testing.assert_allclose(found(body, {"p": ((), 2.0)}, by="scs()")["x"], 3.0, atol=1e-3)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("  vary x : real in [0, 1]\n  minimize x\n  subject to x >= p", "nothing fulfils"),
        ("  vary x : real\n  minimize x - p", "no minimum"),
        ("  vary x : real\n  minimize -(x - p)^2", "not convex"),
        ("  vary x, y : real\n  minimize x * y + p", "cannot be part"),
        ("  vary x : real\n  minimize sin(x - p)", "cannot be part"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_solution(body: str, word: str, backend: str) -> None:
    with pytest.raises(Exception, match=word):
        found(body, {"p": ((), 2.0)}, "(value: best.value)", backend)


def test_mistakes_are_told_before() -> None:
    with pytest.raises(GradflowError, match="never|minimizes nothing|no number"):
        found("  vary x : [col: 2]\n  minimize x + p", {"p": ((), 1.0)})


def test_check_solves_nothing() -> None:
    """`gradflow check` does not even import the solver."""
    program = "import sys\nfrom gradflow.cli.main import main\nassert main(['check', '13_dadao']) == 0\nassert 'cvxpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradflow.library.catalogue import MissingExtra

    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MissingExtra, match=r"gradflow\[opt\]"):
        found("  vary x : real\n  minimize (x - p)^2", {"p": ((), 12345.0)})

"""Gradients by record, against automatic differentiation of one record after another, in float64.

Axes: S records, D coordinates of the parameter, N nodes.
"""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from gradflow.graph.graph import Graph, Node
from gradflow.graph.operations import Operations
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import GradflowError
from gradflow.passes.differentiate import gradient
from gradflow.privacy.per_sample import NotPerSample, per_sample
from tests.methods.harness import evaluate_text

HEAD = """
exchange look() over central {
  each  = grad(per: sample)
  whole = mean(each, over: sample, where: present(sample))
  plain = grad
  far   = grad(at: 2 * param, per: sample)
  return mean(grad, over: node)
}
"""

LOSSES = {
    "least squares": ("mean(0.5 * (a - b)^2, over: sample)", lambda z, y, x: 0.5 * (z @ x - y) ** 2),
    "a regularizer counts once for every record": (
        "mean(softplus(a) - b * a, over: sample) + 0.3 * sum(x^2, over: entry)",
        lambda z, y, x: torch.nn.functional.softplus(z @ x) - y * (z @ x) + 0.3 * (x**2).sum(),
    ),
    "terms are subtracted, scaled and divided": (
        "(mean(sin(a) * sum(x, over: entry), over: sample) - 2 * mean(b * exp(x[entry: 0] * a), over: sample)) / 4 - tanh(x[entry: 1])",
        lambda z, y, x: (torch.sin(z @ x) * x.sum() - 2 * y * torch.exp(x[0] * (z @ x))) / 4 - torch.tanh(x[1]),
    ),
    "a mean over records and entries at once": (
        "mean((data_z * x - b)^2, over: [sample, entry])", lambda z, y, x: ((z * x - y) ** 2).mean(),
    ),
    "a product over records": ("dot(a, b, over: sample) / size(record)", lambda z, y, x: (z @ x) * y),
    "a sum weighs every record by their number": ("sum(a^2, over: sample)", lambda z, y, x: 6 * (z @ x) ** 2),
}  # fmt: skip


def pipeline(loss: str, where: str = "") -> str:
    return (
        HEAD
        + f"""
pipeline p {{
  input Z  : [record, entry]
  input y  : [record]
  input x0 : [entry]
  model x = free(x0)
  data_z = rename(Z, record: sample)
  b      = rename(y, record: sample)
  {where}
  a      = dot(data_z, x, over: entry)
  rule   = look()
  flow x over star(2): {loss} -> backprop -> rule -> sgd(lr: 0.1)
  train 1 rounds {{ report each = rule.each; report whole = rule.whole; report plain = rule.plain; report far = rule.far }}
}}
"""
    )


def inputs(seed: int = 0) -> dict[str, numpy.ndarray]:
    r = numpy.random.default_rng(seed)
    return {"Z": r.normal(size=(6, 3)), "y": r.normal(size=6), "x0": 0.5 * r.normal(size=3)}


def one_by_one(given: dict[str, numpy.ndarray], loss: Any, scale: float = 1.0) -> numpy.ndarray:
    found = []
    for z, y in zip(torch.tensor(given["Z"]), torch.tensor(given["y"]), strict=True):
        x = (scale * torch.tensor(given["x0"])).requires_grad_()
        found.append(torch.autograd.grad(loss(z, y, x), x)[0].numpy())
    return numpy.stack(found)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_record_by_itself(name: str, backend: str) -> None:
    text, loss = LOSSES[name]
    given = inputs()
    found = evaluate_text(pipeline(text), "p", {}, given, backend)
    expected = one_by_one(given, loss)
    assert found["each"].shape == (2, 6, 3) and numpy.abs(expected).min() > 1e-6
    for node in range(2):
        numpy.testing.assert_allclose(found["each"][node], expected, rtol=1e-10, atol=1e-12)
        numpy.testing.assert_allclose(found["far"][node], one_by_one(given, loss, 2.0), rtol=1e-10, atol=1e-12)
    numpy.testing.assert_allclose(found["whole"], found["plain"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_nodes_of_different_sizes(backend: str) -> None:
    text = "mean(0.5 * (a - b)^2, over: sample, where: mine) + 0.1 * sum(x^2, over: entry)"
    where = "mine = where(range([node: 2]) == 0, range([sample: 6]) < 2, range([sample: 6]) >= 2)"
    given = inputs(1)
    found = evaluate_text(pipeline(text, where), "p", {}, given, backend)
    expected = one_by_one(given, lambda z, y, x: 0.5 * (z @ x - y) ** 2 + 0.1 * (x**2).sum())
    for node, rows in enumerate((slice(0, 2), slice(2, 6))):
        numpy.testing.assert_allclose(found["each"][node, rows], expected[rows], rtol=1e-10)
        numpy.testing.assert_allclose(found["whole"][node], expected[rows].mean(0), rtol=1e-10)
    numpy.testing.assert_allclose(found["whole"], found["plain"], rtol=1e-10)


def test_a_network_of_the_library() -> None:
    """Through the module: the rows that `torch.func` gives for one record after another."""
    from gradflow.compiler import build
    from gradflow.language.source import Source
    from gradflow.passes.scope import Module
    from gradflow.runtime.executor import Options, Run

    text = (
        HEAD
        + """
    pipeline p {
      data  train, test = digits(size: 12)
      model net = mlp(64, 5, 10)
      rule = look()
      flow net over star(3): cross_entropy(net(train.x), train.y) -> backprop -> rule -> sgd(lr: 1e-9)
      train 1 rounds { report each = rule.each; report plain = rule.plain }
    }
    """
    )
    program, diagnostics = build(Module.of(Source("<test>", text)), "p")
    assert program is not None, diagnostics
    run = Run(program, Options(precision="float64", seed=1))
    events = list(run.events())
    each = numpy.array(next(event.values["each"] for event in reversed(events) if "each" in getattr(event, "values", {})))
    plain = numpy.array(next(event.values["plain"] for event in reversed(events) if "plain" in getattr(event, "values", {})))
    assert each.shape == (3, 4, 64 * 5 + 5 + 5 * 10 + 10)
    numpy.testing.assert_allclose(each.mean(1), plain, rtol=1e-9, atol=1e-12)
    x, y = (run.batches.read(("train", "train", field, "node")) for field in ("x", "y"))
    runner = next(iter(run.store.runners.values()))
    leaves = {name: value.detach().clone() for name, value in run.parameters("net").items()}
    for node, record in ((0, 0), (2, 3)):
        tracked = {runner.names[name]: value.clone().requires_grad_() for name, value in leaves.items()}
        logits = torch.func.functional_call(runner.module, tracked, (x[node, record][None],))
        slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y[node, record][None]), list(tracked.values()))
        flat = torch.cat([slope.reshape(-1) for slope in slopes]).numpy()
        numpy.testing.assert_allclose(each[node, record], flat, rtol=1e-5, atol=1e-8)
        assert numpy.abs(flat).max() > 1e-3


REFUSED = {
    "sqrt(mean(a^2, over: sample))": "sqrt",
    "mean((a - mean(a, over: sample))^2, over: sample)": "twice",
    "sum(x^2, over: entry)": "no mean over",
    "mean(a, over: sample) * mean(a^2, over: sample)": "mul",
    "max(a, over: sample)": "max",
    "mean(a^2, over: sample, where: b > 0) + mean(a, over: sample)": "different entries",
}


@pytest.mark.parametrize("loss", REFUSED)
def test_what_does_not_fall_apart_is_refused(loss: str) -> None:
    with pytest.raises(GradflowError) as error:
        evaluate_text(pipeline(loss), "p", {}, inputs())
    assert error.value.diagnostics[0].code == "E0701"
    assert REFUSED[loss] in "".join(label.text for label in error.value.diagnostics[0].secondary)


def test_a_graph_that_looks_across_records_is_refused() -> None:
    ops = Operations(Graph())
    point = ops.source(Type("real", (Axis("param", 3),)), "param", "x")
    rows = ops.source(Type("real", (Axis("sample", 4), Axis("param", 3))), "input", "z")
    scores = ops.dot(rows, point, ["param"])
    running = ops.scan_sum(scores, "sample")
    loss = ops.constant(ops.reduce("sum", running, ["sample"]))
    assert isinstance(gradient(ops, loss, [point])[0], Node)
    with pytest.raises(NotPerSample):
        per_sample(ops, loss, point, "sample")

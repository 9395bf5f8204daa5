"""QZO and MeZO: what a probe measures, what clipping does to its mean, and what is stored of a quantized model."""

import math
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow import compiler
from gradflow.formats.storage import Stored, pack, store, unpack
from gradflow.passes.scope import module
from gradflow.plan import artifact
from gradflow.plan.program import bits_of
from tests.runtime.harness import ran, series, written

SPEC = Path(compiler.__file__).parents[1] / "pipelines/methods/15_qzo.gflow"
SLOPE = numpy.array([0.5, -1.0, 2.0])

PROBED = """
pipeline probed(eps: real > 0 = 1e-3, limit: real >= 0 = inf, lr: real >= 0 = 0, steps: int >= 1 = 50, bend: real = 0) {
  model x = free(range([entry: 3]) / 2)
  place = range([entry: 3])
  tilt  = where(place == 0, 0.5, where(place == 1, -1, 2))
  loss = sum(tilt * x + bend * x^3, over: entry)
  probe = spsa(eps, limit: limit)
  flow x: loss -> probe -> skip_nonfinite -> sgd(lr)
  train steps steps {
    every step { report x = x; report z = probe.z[probe: 0]; report slope = probe.slope[probe: 0]; report kept = probe.kept[probe: 0] }
  }
}
"""


def probed(**options):
    from gradflow.language.source import Source
    from gradflow.passes.scope import Module

    home = Module.of(Source("inline.gflow", PROBED))
    program, diagnostics = compiler.build(home, "probed", [f"{name}={value}" for name, value in options.items()])
    assert program is not None, diagnostics
    _, events = ran(program, backend="reference", seed=3)
    return {name: numpy.array(series(events, name)) for name in ("x", "z", "slope", "kept")}


def test_the_slope_is_the_gradient_along_the_direction_to_second_order():
    x = numpy.arange(3) / 2
    gradient = SLOPE + 3 * 0.7 * x**2
    errors = []
    for eps in (1e-2, 1e-3):
        found = probed(eps=eps, bend=0.7, steps=5)
        errors.append(numpy.abs(found["slope"] - found["z"] @ gradient).max())
    assert errors[0] > 0 and errors[1] < errors[0] / 50, "a tenth of the step, a hundredth of the error"


def test_clipping_shortens_the_mean_and_keeps_its_direction():
    """E[clip(d, -C, C) z] = P(|d| < C) g = erf(C / (sqrt 2 |g|)) g. Five standard errors: a false alarm in about a million runs."""
    limit, steps = 1.5, 2500
    found = probed(limit=limit, steps=steps)
    estimates = found["kept"][:, None] * found["z"]
    expected = math.erf(limit / (math.sqrt(2) * numpy.linalg.norm(SLOPE))) * SLOPE
    error = estimates.std(0) / math.sqrt(steps)
    assert (numpy.abs(estimates.mean(0) - expected) < 5 * error).all()
    assert (numpy.abs(estimates.mean(0) - SLOPE) > 5 * error).any(), "the test would see a mean that is not shortened"


def test_nothing_moves_where_the_limit_is_zero():
    found = probed(limit=0, lr=0.1, steps=5)
    assert (found["x"] == found["x"][0]).all() and (found["slope"] != 0).all()


def test_a_step_is_the_slope_along_the_direction():
    found = probed(lr=0.1, steps=8)
    numpy.testing.assert_allclose(found["x"][1:] - found["x"][:-1], -0.1 * found["slope"][:, None] * found["z"], rtol=1e-9)


def test_a_loss_that_is_not_finite_moves_nothing():
    text = PROBED.replace("sum(tilt * x + bend * x^3, over: entry)", "sum(x, over: entry) + where(t == 2, log(-1 - x[entry: 0]^2), 0)")
    _, events = ran(written(text.replace("lr: real >= 0 = 0", "lr: real >= 0 = 0.1").replace("steps: int >= 1 = 50", "steps: int >= 1 = 3")))
    x = numpy.array(series(events, "x"))
    assert (x[1] != x[0]).any() and (x[2] == x[1]).all() and (x[3] != x[2]).any()


# ---- what is stored


@given(st.integers(-128, 100).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, min(low + 255, 255)))), st.integers(0, 40), st.randoms())
def test_packing_loses_nothing(domain, count, draw):
    low, high = domain
    values = torch.tensor([draw.randint(low, high) for _ in range(count)], dtype=torch.int64)
    bits = bits_of(low, high)
    packed = pack(values, low, bits)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(count * bits / 8)
    assert unpack(packed, low, bits, count).tolist() == values.tolist()


def quantized(**overrides):
    program, diagnostics = compiler.build(module(SPEC), "quantized_digits", [f"{name}={value}" for name, value in overrides.items()])
    assert program is not None, diagnostics
    return program


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_stored_value_is_at_most_half_a_step_away(bits):
    plan = quantized(bits=bits).models["net"].stored[0]
    kept = Stored(plan, torch.float64)
    weights = torch.randn(plan.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = kept.right_inverse(weights)
    steps = scale[:, None].expand(-1, 16).reshape(plan.shape)
    gap = (kept(scale) - weights).abs() / steps
    assert gap.max() <= 0.5 + 1e-9 and gap.max() > 0.3
    assert kept.q.numel() == plan.packed_bytes
    assert kept.q.numel() * 8 // {2: 2, 3: 4, 4: 4, 8: 8}[bits] == weights.numel()


def test_the_gradient_of_a_scale_is_summed_over_its_group():
    plan = quantized().models["net"].stored[0]
    kept = Stored(plan, torch.float64)
    scale = kept.right_inverse(torch.randn(plan.shape, dtype=torch.float64)).requires_grad_()
    cotangent = torch.randn(plan.shape, dtype=torch.float64)
    (kept(scale) * cotangent).sum().backward()
    q = kept(torch.ones_like(scale)).detach()
    torch.testing.assert_close(scale.grad, (cotangent * q).reshape(-1, 16).sum(1))


def test_a_tied_tensor_is_stored_once():
    plan = quantized().models["net"].stored[0]
    first, second = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    both = torch.nn.ModuleDict({"a": first, "b": second})
    from dataclasses import replace

    names = store(both, (replace(plan, leaf="a.weight", shape=(64, 64)),), torch.float32)
    assert len(list(both.parameters())) == 1 and names == {"a.weight.scale": "a.parametrizations.weight.original"}
    assert torch.equal(both["a"].weight, both["b"].weight)


def test_only_scales_move_and_whole_numbers_never():
    program = quantized(steps=4, lr=1e-3)
    assert sum(leaf.name.endswith(".scale") for leaf in program.models["net"].spec.leaves) == 2
    from gradflow.runtime.executor import Options, Run

    run = Run(program, Options())
    packed: dict[str, torch.Tensor] = {}
    first: dict[str, torch.Tensor] = {}
    for _ in run.events():
        if "net" in run.store.params and not packed:
            packed = {name: buffer.clone() for name, buffer in run.store.runners["net"].module.named_buffers()}
            first = {name: leaf.clone() for name, leaf in run.parameters("net").items()}
    last = run.parameters("net")
    assert packed and all(torch.equal(buffer, packed[name]) for name, buffer in run.store.runners["net"].module.named_buffers())
    for name, leaf in last.items():
        assert torch.equal(leaf, first[name]) != name.endswith(".scale"), name


def test_a_quantized_model_survives_the_artifact(tmp_path):
    program = quantized(steps=3)
    artifact.save(program, tmp_path / "q.gfp")
    runs = [ran(one)[0] for one in (program, artifact.load(tmp_path / "q.gfp"))]
    for name, leaf in runs[0].parameters("net").items():
        assert torch.equal(leaf, runs[1].parameters("net")[name])


def test_a_copy_made_between_phases_starts_where_the_other_is_by_then():
    text = """
pipeline later {
  model a = free([entry: 2])
  loss = sum((a - 1)^2, over: entry)
  train 3 steps { flow a: loss -> backprop -> sgd(0.1) }
  model b = copy(a)
  train 1 steps { flow b: sum(b^2, over: entry) -> backprop -> sgd(0); report gap = sum((a - b)^2, over: entry); report b = sum(b, over: entry) }
}
"""
    _, events = ran(written(text))
    assert series(events, "gap") == [0.0] and series(events, "b")[0] == pytest.approx(2 * (1 - 0.8**3), rel=1e-5)

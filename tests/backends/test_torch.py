"""The torch backend against the reference, in every mode; kernels in place; lazy choices; models; what the source looks like."""

from __future__ import annotations

import re
import shutil
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from gradflow.backends import reference
from gradflow.backends import torch as backend
from gradflow.backends.torch import Lowered, draws, kernels, lower
from gradflow.graph.graph import Region
from gradflow.graph.types import Axis, Type
from gradflow.language.source import Span
from gradflow.library.catalogue import LeafSpec, ModelSpec
from gradflow.runtime.models import ModelRunner
from tests.backends import operation_cases, operation_extra
from tests.backends.operation_cases import PARAM, A, B, Case, Maker
from tests.backends.operation_extra import NODE, WIDE

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}
SMALL, LARGE = operation_cases.CASES, operation_extra.CASES


def tensors(inputs: dict[Any, Any], dtype: torch.dtype) -> dict[Any, Any]:
    """Fresh tensors, so that a run may write into them."""

    def made(value: Any) -> Any:
        if not isinstance(value, numpy.ndarray):
            return value
        found = torch.tensor(value)
        return found.to(dtype) if found.is_floating_point() else found

    return {key: made(value) for key, value in inputs.items()}


def agree(got: dict[str, Tensor], want: dict[str, Any], dtype: torch.dtype) -> None:
    kinds = {"f": dtype, "i": torch.int64, "b": torch.bool}
    assert set(got) == set(want)
    for name, value in want.items():
        assert got[name].dtype == kinds[value.dtype.kind], name
        assert tuple(got[name].shape) == value.shape, name
        tolerance = TOLERANCE[dtype]
        numpy.testing.assert_allclose(got[name].double().numpy(), value.astype(float), rtol=tolerance, atol=tolerance, err_msg=name)


# ---- values


@pytest.mark.parametrize("optimize", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", SMALL)
def test_every_operation_means_what_the_reference_says(name: str, dtype: torch.dtype, optimize: bool) -> None:
    region, inputs = SMALL[name]()
    want = reference.lower(region)(inputs)
    assert len({v.tobytes() for v in want.values()}) > 1, "the compared values are not all the same"
    agree(lower(region, dtype=dtype, optimize=optimize)(tensors(inputs, dtype)), want, dtype)


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("block", [7, 512, 1 << 15])
@pytest.mark.parametrize("mode", ["blocked", "whole"])
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.filterwarnings("error")
def test_kernels(name: str, mode: str, block: int, donate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked as whole, in place as anew; where a result replaces an input, it is the input's own memory, other inputs stay as they were."""
    monkeypatch.setattr(kernels, "block_entries", lambda arrays, itemsize: block)
    monkeypatch.setattr(backend, "_mode", lambda *given: mode)
    region, inputs = LARGE[name]()
    want = reference.lower(region)(inputs)
    for dtype in (torch.float64, torch.float32):
        given = tensors(inputs, dtype)
        got = lower(region, dtype=dtype, donate=donate)(given)
        agree(got, want, dtype)
        replaced = {key for key in given if "/".join(key) in want}
        assert not donate or all(got["/".join(key)] is given[key] for key in replaced)
        for key, value in tensors(inputs, dtype).items():
            if isinstance(value, Tensor) and (key not in replaced or not donate):
                assert torch.equal(given[key], value), f"{key} was changed"


@pytest.mark.skipif(not any(shutil.which(name) for name in backend.COMPILERS), reason="no C++ compiler")
def test_compiled_kernels_do_not_compile_anew_when_the_clock_moves() -> None:
    region, inputs = LARGE["optimizer"]()
    compiled = lower(region, compile=True, donate=True)
    given = tensors(inputs, torch.float32)
    from torch._dynamo.utils import counters

    counters.clear()
    for t in (3, 4, 5):
        before = {key: value.clone().double().numpy() if isinstance(value, Tensor) else value for key, value in given.items()} | {("clock", "t"): t}
        want = reference.lower(region)(before)
        agree(compiled(given | {("clock", "t"): t}), want, torch.float32)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    region, inputs = LARGE["adam"]()
    lowered = lower(region, compile=True)
    assert any("no C++ compiler" in note.reason and not note.fused for note in lowered.fusion)
    agree(lowered(tensors(inputs, torch.float32)), reference.lower(region)(inputs), torch.float32)


# ---- what became of it


def lowered_case(name: str, **options: Any) -> Lowered:
    return lower((SMALL | LARGE)[name]()[0], **options)


def test_one_kernel_reads_and_writes_every_stream_once() -> None:
    source = lowered_case("optimizer", donate=True).source
    kernel, run = source.split("def run")
    assert "update_" not in kernel.split("def update_1")[0] and kernel.count("def update_") == 1
    assert "fresh(" not in kernel, "in place there is nothing to allocate"
    assert {"torch.lerp", "torch.addcmul", "torch.addcdiv"} <= set(re.findall(r"torch\.\w+", kernel))
    assert kernel.count("torch.") + kernel.count(".copy_(") <= 13
    assert "torch." not in run


def test_notes_say_what_was_fused_and_what_was_not() -> None:
    assert [note.fused for note in lowered_case("optimizer").fusion] == [True]
    split = [note for note in lowered_case("by_node").fusion if not note.fused]
    assert any("`sum`" in note.reason and "whole values" in note.reason for note in split)
    short = [note for note in lowered_case("where_rows").fusion if not note.fused]
    assert any("only 24 entries" in note.reason for note in short)
    kept = [note for note in lowered_case("old_value", donate=True).fusion if not note.fused]
    assert any(note.what == "param/net" and "`before`" in note.reason for note in kept)
    assert not lowered_case("optimizer", optimize=False).fusion


def test_clock_arithmetic_stays_python() -> None:
    m = Maker()
    t, progress, x, e = m.clock("t", 3), m.clock("progress", 0.25), m.data("x", A), m.ops.elementwise
    warm = m.ops.where(e("lt", t, 10), e("div", t, 10), 1.0)
    rate = e("mul", e("mul", 1e-3, warm), e("add", 1.0, e("cos", e("mul", 3.14, progress))))
    lowered = lower(Region((("y", e("mul", x, rate)), ("rate", rate))), dtype=torch.float64)
    lines = [line for line in lowered.source.splitlines() if re.search(r"_(div|where|cos|lt|add) = ", line)]
    assert len(lines) == 5 and not any("torch" in line for line in lines)
    got = lowered(tensors(m.inputs, torch.float64))
    want = 1e-3 * 0.3 * (1 + numpy.cos(3.14 * 0.25))
    assert got["rate"].dtype == torch.float64 and float(got["rate"]) == pytest.approx(want, rel=1e-12)


def test_division_by_a_clock_that_is_zero_is_infinite_as_in_tensors() -> None:
    m = Maker()
    t, x = m.clock("t", 0), m.data("x", A)
    lowered = lower(Region((("y", m.ops.constant(m.ops.elementwise("mul", x, m.ops.elementwise("div", 1.0, t)))),)))
    assert bool(torch.isinf(lowered(tensors(m.inputs, torch.float32))["y"]).all())


@pytest.mark.parametrize("host", [True, False])
def test_a_lazy_choice_computes_only_what_it_takes(host: bool) -> None:
    """The branch not taken holds a decomposition of something that has none; shared work is done once, under one condition."""
    m = Maker()
    x, bad, e = m.data("x", A, B), m.data("bad", A, A), m.ops.elementwise
    m.inputs["input", "bad"][:] = numpy.nan
    condition = e("gt", m.clock("t", 3), 5) if host else e("gt", m.data("c"), 5.0)
    costly = m.ops.make("linalg", (bad,), Type("real", (Axis("eigen", 5),)), name="eigenvalues", options=())
    shared = m.ops.reduce("sum", costly, ["eigen"])
    region = Region((("a", m.ops.choose(condition, e("mul", x, shared), x)), ("b", m.ops.choose(condition, e("add", x, shared), e("neg", x)))))
    lowered = lower(region, dtype=torch.float64)
    assert lowered.source.count("linalg(") == 1 and len(re.findall(r"if .*:", lowered.source)) <= 2
    got = lowered(tensors(m.inputs, torch.float64))
    assert torch.equal(got["b"], -got["a"])
    with pytest.raises(ValueError, match="`eigenvalues` of a matrix with entries that are not finite"):
        lowered(tensors(m.inputs, torch.float64) | {("clock", "t"): 6, ("input", "c"): 6.0})


def test_spec_lines_stand_in_the_source() -> None:
    m = Maker()
    x = m.data("x", A)
    m.ops.span = Span("a.gflow", 10, 3, 7, 5)
    first = m.ops.elementwise("exp", x)
    m.ops.span = Span("a.gflow", 20, 3, 9, 5)
    source = lower(Region((("y", m.ops.constant(m.ops.elementwise("sin", first))),))).source
    assert source.index("# a.gflow:7") < source.index("exp()") < source.index("# a.gflow:9") < source.index("sin()")


def test_large_values_are_given_back() -> None:
    m = Maker()
    x, row, col = m.data("x", PARAM), Axis("row", 300), Axis("col", 300)
    big = m.ops.expand(m.data("r", row), (row, col))
    total = m.ops.reduce("sum", m.ops.sort(big, "col", True), ["row"])
    source = lower(Region((("y", total), ("x", m.ops.constant(m.ops.elementwise("neg", x)))))).source
    assert re.search(r"del v\d+_sort", source) and re.search(r"del v\d+_expand", source)


def test_what_depends_on_nothing_is_computed_once() -> None:
    m = Maker()
    x, e = m.data("x", A, B), m.ops.elementwise
    basis = e("cos", e("mul", e("mul", 0.5, m.ops.range(A)), m.ops.range(Axis("k", 4))))
    lowered = lower(Region((("y", m.ops.dot(basis, x, ["a"])),)), dtype=torch.float64)
    before, run = lowered.source.split("def run")
    assert ".cos()" in before and ".cos()" not in run
    want = numpy.cos(0.5 * numpy.outer(numpy.arange(5), numpy.arange(4))).T @ m.inputs["input", "x"]
    for _ in range(2):
        numpy.testing.assert_allclose(lowered(tensors(m.inputs, torch.float64))["y"].numpy(), want)


def test_a_buffer_that_cannot_be_written_is_refused() -> None:
    region, inputs = LARGE["adam"]()
    given = tensors(inputs, torch.float32)
    lowered = lower(region, donate=True)
    with pytest.raises(ValueError, match="param/net.*contiguous"):
        lowered(given | {("param", "net"): torch.zeros(WIDE.size, 2)[:, 0]})
    with pytest.raises(ValueError, match="param/net.*float32"):
        lowered(given | {("param", "net"): given["param", "net"].double()})


def test_unknown_sizes_are_an_error_when_lowered() -> None:
    m = Maker()
    with pytest.raises(ValueError, match="size of axis `nowhere`"):
        lower(Region((("y", m.ops.expand(1.0, (Axis("nowhere"),))),)))


def test_leaves_of_two_models_are_not_mixed_up() -> None:
    """Two flat values of different lengths both have the axis `param`."""
    m = Maker()
    e, parts = m.ops.elementwise, [m.data(name, Axis("param", size)) for name, size in (("one", 5003), ("two", 600))]
    region, inputs = m.region(**{f"y{i}": e("mul", e("exp", p), e("sin", p)) for i, p in enumerate(parts)})
    agree(lower(region)(tensors(inputs, torch.float32)), reference.lower(region)(inputs), torch.float32)


# ---- models


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(torch.tanh(self.first(x)))


def net(micro: int | None = None) -> ModelRunner:
    module = Net()
    leaves = tuple(LeafSpec(name, tuple(p.shape)) for name, p in module.named_parameters())
    spec = ModelSpec("net", leaves, lambda seed: Net(), inputs=(4,), outputs=(("class", 3),))
    return ModelRunner(spec, module, dtype=torch.float64, micro=micro)


def training_step(m: Maker, lifted: bool) -> Case:
    """A model, its loss, the gradient by hand, and a step of gradient descent; x has its axes in an unusual order."""
    sample, feature, out = Axis("sample", 7), Axis("feature", 4), Axis("class", 3)
    axes = (NODE,) if lifted else ()
    flat = m.data("net", *axes, Axis("param", 43), kind="param", low=-0.5, high=0.5)
    x, label = m.data("x", sample, *axes, feature), m.data("label", sample, *axes, out)
    kept = tuple(a for a in x.type.axes if a is not feature)
    e, common = m.ops.elementwise, {"model": "net", "method": "call", "fields": ("x",), "options": ()}
    y = m.ops.make("model", (flat, x), Type("real", (*axes, *(a for a in kept if a not in axes), out)), output="value", **common)
    gap = e("sub", y, label)
    loss = m.ops.reduce("sum", e("mul", gap, gap), ["sample", "class"])
    cotangent = e("mul", 2.0, gap)
    by_params = m.ops.make("model_vjp", (flat, x, cotangent), flat.type, outputs=("value",), wrt="params", **common)
    by_x = m.ops.make(
        "model_vjp",
        (flat, x, m.ops.transpose(m.ops.constant(cotangent), [a.name for a in (out, *kept)])),
        x.type,
        outputs=("value",),
        wrt="x",
        **common,
    )
    return m.region(**{"loss": loss, "gradient": by_params, "by_x": by_x, "param/net": e("sub", flat, e("mul", 0.1, by_params))})


@pytest.mark.parametrize("micro", [None, 1, 3, 7])
@pytest.mark.parametrize("lifted", [False, True])
def test_a_training_step(lifted: bool, micro: int | None) -> None:
    region, inputs = training_step(Maker(), lifted)
    runner = net(micro)
    given = tensors(inputs, torch.float64)
    start = given["param", "net"].clone()
    got = lower(region, {"net": runner}, dtype=torch.float64, donate=True)(given)
    p, x = start.clone().requires_grad_(), torch.tensor(inputs["input", "x"]).requires_grad_()
    label = torch.tensor(inputs["input", "label"])

    def apply(flat: Tensor, rows: Tensor) -> Tensor:
        w1, b1, w2, b2 = flat.split([20, 5, 15, 3])
        return torch.tanh(rows @ w1.reshape(5, 4).T + b1) @ w2.reshape(3, 5).T + b2

    y = torch.stack([apply(p[i], x[:, i]) for i in range(3)], 1) if lifted else apply(p, x)
    loss = (y - label).square().sum((0, 2)) if lifted else (y - label).square().sum()
    gradient, by_x = torch.autograd.grad(loss.sum(), [p, x])
    torch.testing.assert_close(got["loss"], loss.detach())
    torch.testing.assert_close(got["gradient"], gradient)
    torch.testing.assert_close(got["by_x"], by_x)
    torch.testing.assert_close(got["param/net"], start - 0.1 * gradient)
    assert got["param/net"] is given["param", "net"] and not runner._tapes
    assert runner.module.calls == (1 if micro in (None, 1) else 3 * micro)


def test_a_model_that_is_not_there_is_named() -> None:
    region, _ = training_step(Maker(), False)
    with pytest.raises(ValueError, match="no model `net`"):
        lower(region)


def test_outputs_of_one_call_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`score` asked for the log-probability and, with an option, for the entropy: one forward pass."""
    seen: list[dict[str, Any]] = []

    def score(policy: nn.Module, record: dict[str, Tensor], temperature: float = 1.0, entropy: bool = False) -> dict[str, Tensor]:
        seen.append({"temperature": temperature, "entropy": entropy})
        table = torch.log_softmax(policy(record["x"]) / temperature, -1)
        return dict(record) | {"logp": table[:, 0]} | ({"entropy": -(table.exp() * table).sum(-1)} if entropy else {})

    monkeypatch.setattr("gradflow.runtime.models.catalogue", lambda: {"score": score})
    m = Maker()
    flat, x = m.data("net", Axis("param", 43), kind="param"), m.data("x", Axis("sample", 7), Axis("feature", 4))
    common = {"model": "net", "method": "score", "fields": ("x",)}
    type_ = Type("real", (Axis("sample", 7),))
    plain, more = (("temperature", 2.0),), (("entropy", True), ("temperature", 2.0))
    logp = m.ops.make("model", (flat, x), type_, output="logp", options=plain, **common)
    entropy = m.ops.make("model", (flat, x), type_, output="entropy", options=more, **common)
    gradient = m.ops.make("model_vjp", (flat, x, entropy), flat.type, outputs=("logp",), wrt="params", options=plain, **common)
    region, inputs = m.region(logp=logp, entropy=entropy, gradient=gradient)
    got = lower(region, {"net": net()}, dtype=torch.float64)(tensors(inputs, torch.float64))
    assert seen == [{"temperature": 2.0, "entropy": True}]
    assert float(got["gradient"].abs().max()) > 0 and float(got["entropy"].min()) > 0


@pytest.mark.parametrize("dist", ["normal", "uniform"])
def test_a_large_draw_made_in_pieces_is_the_same(dist: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, how = (3, 1, "here"), {"dtype": torch.float32, "device": torch.device("cpu")}
    whole = draws.draw(dist, words, (7, 11), (), **how)  # type: ignore[arg-type]
    monkeypatch.setattr(draws, "PIECE", 10)
    assert torch.equal(draws.draw(dist, words, (7, 11), (), **how), whole)  # type: ignore[arg-type]

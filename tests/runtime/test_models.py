"""ModelRunner against plain torch: values, gradients, lifted axes, micro-batches, the tape, library methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradflow.library.catalogue import LeafSpec, ModelSpec
from gradflow.runtime import models
from gradflow.runtime.models import ModelRunner

SAMPLE, FEATURE = "sample", "feature"


class Counting(nn.Module):
    """A small perceptron that counts its calls; the last leaf is frozen in the spec."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.second(torch.tanh(self.first(x)))


def spec_of(module: nn.Module, frozen: str = "", inputs: tuple[int | None, ...] = (4,)) -> ModelSpec:
    leaves = tuple(LeafSpec(name, tuple(p.shape), name != frozen) for name, p in module.named_parameters())
    return ModelSpec("net", leaves, lambda seed: module, inputs=inputs, outputs=(("class", 3),))


def runner(micro: int | None = None, frozen: str = "") -> ModelRunner:
    torch.manual_seed(0)
    module = Counting()
    return ModelRunner(spec_of(module, frozen), module, dtype=torch.float64, micro=micro)


def call(flat: Tensor, x: Tensor) -> Tensor:
    """The perceptron written out on a flat tensor."""
    w1, b1, w2, b2 = flat.split([20, 5, 15, 3], dim=-1)
    return torch.tanh(x @ w1.reshape(5, 4).T + b1) @ w2.reshape(3, 5).T + b2


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_call_and_gradients_equal_plain_torch(batch: Tensor) -> None:
    run, cotangent = runner(), torch.randn(7, 3, dtype=torch.float64)
    flat = run.flat()
    args = {"x": (batch, (SAMPLE, FEATURE))}
    got = run.forward("call", flat, args, {}, ("param",), tape=("params", "x"))[models.OUTPUT]
    by_params = run.vjp("call", flat, args, {models.OUTPUT: cotangent}, "params", {}, ("param",))
    by_x = run.vjp("call", flat, args, {models.OUTPUT: cotangent}, "x", {}, ("param",), last=True)
    p, x = flat.clone().requires_grad_(), batch.clone().requires_grad_()
    want = call(p, x)
    grads = torch.autograd.grad(want, [p, x], cotangent)
    assert not got.requires_grad and float(grads[0].abs().max()) > 0.1
    torch.testing.assert_close(got, want.detach())
    torch.testing.assert_close(by_params, grads[0])
    torch.testing.assert_close(by_x, grads[1])
    assert run.module.calls == 1, "one forward serves both backward calls"


def test_the_tape_belongs_to_its_tensors_and_goes_with_release(batch: Tensor) -> None:
    run = runner()
    flat, other = run.flat(), run.flat() * 2
    args, cotangent = {"x": (batch, (SAMPLE, FEATURE))}, {models.OUTPUT: torch.ones(7, 3, dtype=torch.float64)}
    run.forward("call", flat, args, {}, ("param",))
    first = run.vjp("call", flat, args, cotangent, "params", {}, ("param",))
    second = run.vjp("call", other, args, cotangent, "params", {}, ("param",))
    assert run.module.calls == 2 and not torch.allclose(first, second)
    run.release()
    assert not run._tapes
    torch.testing.assert_close(run.vjp("call", flat, args, cotangent, "params", {}, ("param",)), first)
    flat.mul_(2)  # changed in place: what was recorded no longer holds
    torch.testing.assert_close(run.vjp("call", flat, args, cotangent, "params", {}, ("param",)), second)


def test_a_forward_call_without_backward_keeps_no_tape(batch: Tensor) -> None:
    run = runner()
    run.forward("call", run.flat(), {"x": (batch, (SAMPLE, FEATURE))}, {}, ("param",), tape=())
    assert not run._tapes


@pytest.mark.parametrize("in_params", [True, False])
@pytest.mark.parametrize("axes", [("node", SAMPLE, FEATURE), (SAMPLE, "node", FEATURE), (SAMPLE, FEATURE)])
def test_lifted_axes_are_matched_by_name(axes: tuple[str, ...], in_params: bool) -> None:
    run = runner()
    flat = torch.randn(3, 43, dtype=torch.float64) if in_params else run.flat()
    x = torch.randn([{"node": 3, SAMPLE: 7, FEATURE: 4}[a] for a in axes], dtype=torch.float64)
    params_axes = ("node", "param") if in_params else ("param",)
    got = run.forward("call", flat, {"x": (x, axes)}, {}, params_axes)[models.OUTPUT]
    cotangent = torch.randn_like(got)
    gradient = run.vjp("call", flat, {"x": (x, axes)}, {models.OUTPUT: cotangent}, "params", {}, params_axes)
    p = flat.clone().requires_grad_()
    if in_params:
        rows = [call(p[i], x.select(axes.index("node"), i) if "node" in axes else x) for i in range(3)]
        want = torch.stack(rows)
    else:
        want = call(p, x)
    torch.testing.assert_close(got, want.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(want, p, cotangent)[0])


def test_two_lifted_axes() -> None:
    run = runner()
    flat, x = torch.randn(2, 3, 43, dtype=torch.float64), torch.randn(7, 3, 4, dtype=torch.float64)
    got = run.forward("call", flat, {"x": (x, (SAMPLE, "node", FEATURE))}, {}, ("seed", "node", "param"))[models.OUTPUT]
    want = torch.stack([torch.stack([call(flat[s, n], x[:, n]) for n in range(3)]) for s in range(2)])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("pieces", [2, 3, 7, 50])
@pytest.mark.parametrize("lifted", [False, True])
def test_cutting_the_batch_moves_nothing(pieces: int, lifted: bool, batch: Tensor) -> None:
    whole, cut = runner(), runner(micro=pieces)
    flat = torch.randn(3, 43, dtype=torch.float64) if lifted else whole.flat()
    axes = ("node", "param") if lifted else ("param",)
    x, names = (torch.randn(7, 3, 4, dtype=torch.float64), (SAMPLE, "node", FEATURE)) if lifted else (batch, (SAMPLE, FEATURE))
    want = whole.forward("call", flat, {"x": (x, names)}, {}, axes)[models.OUTPUT]
    got = cut.forward("call", flat, {"x": (x, names)}, {}, axes)[models.OUTPUT]
    assert not cut._tapes
    torch.testing.assert_close(got, want)
    cotangents = {models.OUTPUT: torch.randn_like(want)}
    for wrt in ("params", "x"):
        pulled = [r.vjp("call", flat, {"x": (x, names)}, cotangents, wrt, {}, axes) for r in (whole, cut)]
        torch.testing.assert_close(pulled[1], pulled[0])
    assert cut.module.calls == (1 + 2) * min(pieces, 7)


def test_frozen_leaves_get_no_gradient(batch: Tensor) -> None:
    run = runner(frozen="second.bias")
    flat = run.flat()
    gradient = run.vjp(
        "call", flat, {"x": (batch, (SAMPLE, FEATURE))}, {models.OUTPUT: torch.ones(7, 3, dtype=torch.float64)}, "params", {}, ("param",)
    )
    assert float(gradient[-3:].abs().max()) == 0 and float(gradient[:-3].abs().min()) > 0


def test_attached_parameters_are_used_where_they_stand(batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner()
    flat = run.flat()
    args, cotangent = {"x": (batch, (SAMPLE, FEATURE))}, {models.OUTPUT: torch.ones(7, 3, dtype=torch.float64)}
    before = run.vjp("call", flat, args, cotangent, "params", {}, ("param",))
    run.release()
    run.attach(flat)
    monkeypatch.setattr(models, "functional_call", lambda *a: pytest.fail("the parameters are there already"))
    run.forward("call", flat, args, {}, ("param",))
    torch.testing.assert_close(run.vjp("call", flat, args, cotangent, "params", {}, ("param",), last=True), before)
    flat.mul_(0.5)  # an update in place is an update of the module
    torch.testing.assert_close(run.forward("call", flat, args, {}, ("param",), tape=())[models.OUTPUT], call(flat, batch))


def test_images_are_seen_as_one_batch() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).double()
    run = ModelRunner(spec_of(module, inputs=(1, 4, 4)), module, dtype=torch.float64)
    x = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    got = run.forward("call", run.flat(), {"x": (x, ("node", SAMPLE, "color", "y", "x"))}, {}, ("param",))[models.OUTPUT]
    torch.testing.assert_close(got, torch.stack([module(x[0]), module(x[1])]).detach())


def test_library_methods_run_with_the_given_parameters(monkeypatch: pytest.MonkeyPatch, batch: Tensor) -> None:
    """A primitive sees the module with the flat tensor's values, live fields come back, micro-batches and lifted axes included."""

    def scored(policy: nn.Module, record: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
        return dict(record) | {"logp": policy(record["x"]).log_softmax(-1)[:, 0] * scale, "text": ["no tensor"]}  # type: ignore[dict-item]

    monkeypatch.setattr(models, "catalogue", lambda: {"scored": scored})
    whole, cut = runner(), runner(micro=3)
    args = {"x": (batch, (SAMPLE, FEATURE)), "y": (torch.arange(3), ("class",))}
    flat = whole.flat() * 1.5
    want = call(flat, batch).log_softmax(-1)[:, 0] * 2
    p = flat.clone().requires_grad_()
    gradient = torch.autograd.grad((call(p, batch).log_softmax(-1)[:, 0] * 2).sum(), p)[0]
    for run in (whole, cut):
        got = run.forward("scored", flat, args, {"scale": 2.0}, ("param",))
        torch.testing.assert_close(got["logp"], want)
        assert got["y"].shape == (3,) and "text" not in got
        pulled = run.vjp("scored", flat, args, {"logp": torch.ones(7, dtype=torch.float64)}, "params", {"scale": 2.0}, ("param",))
        torch.testing.assert_close(pulled, gradient)
    several = whole.forward("scored", torch.stack([flat, flat * 0.5]), args, {"scale": 2.0}, ("node", "param"))["logp"]
    torch.testing.assert_close(several[0], want)

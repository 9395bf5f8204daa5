"""Derivatives against two independent witnesses: torch.autograd on the same mathematics, and finite differences of the reference backend.

Every case runs with sizes known to the graph and again without, since the rules differ where a size is only known when it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.backends.reference import lower
from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import ELEMENTWISE, Operations
from gradflow.graph.spec import verify
from gradflow.graph.types import Axis, Type
from gradflow.passes.derivatives import RULES, VARIADIC
from gradflow.passes.differentiate import NotDifferentiable, gradient, pull

F = torch.nn.functional


def source(ops: Operations, name: str, axes: str, array: numpy.ndarray, known: bool = True, target: Axis | None = None) -> Node:
    base = {"f": "real", "i": "int", "b": "bool"}[array.dtype.kind]
    sizes = [Axis(axis, size if known else None) for axis, size in zip(axes, array.shape, strict=True)]
    return ops.source(Type(base, tuple(sizes), target), "input", name)


def evaluate(nodes: dict[str, Node], inputs: dict[str, numpy.ndarray], models: Any = None) -> dict[str, numpy.ndarray]:
    region = Region(tuple(nodes.items()))
    verify(region, "differentiate")
    return lower(region, models)({("input", name): array for name, array in inputs.items()})


def check(
    build: Callable[..., Any], mathematics: Callable[..., torch.Tensor], spec: dict[str, str], arrays: Sequence[numpy.ndarray], known: bool,
    differences: bool = True, wrt: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """The value and the gradients of `build` equal those of `mathematics`; inputs by name with one letter an axis."""
    ops = Operations(Graph())
    inputs = dict(zip(spec, arrays, strict=True))
    nodes = {name: source(ops, name, axes, inputs[name], known, Axis("g", 4) if name == "i" else None) for name, axes in spec.items()}
    root = ops.constant(build(ops, *nodes.values()))
    wanted = [n for n in spec if inputs[n].dtype.kind == "f"] if wrt is None else list(wrt)
    weights = numpy.random.default_rng(0).normal(size=evaluate({"y": root}, inputs)["y"].shape)
    seed = ops.source(root.type, "input", "seed")
    inputs["seed"] = weights
    found = gradient(ops, root, [nodes[n] for n in wanted], seed)
    for name, node in zip(wanted, found, strict=True):
        assert node.type.names == nodes[name].type.names
    got = evaluate({"value": root} | {n: f for n, f in zip(wanted, found, strict=True)}, inputs)
    tensors = {n: torch.tensor(inputs[n], requires_grad=n in wanted) for n in spec}
    value = mathematics(*tensors.values())
    numpy.testing.assert_allclose(got["value"], value.detach().numpy(), rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad((value * torch.tensor(weights)).sum(), [tensors[n] for n in wanted], allow_unused=True)
    for name, gold in zip(wanted, expected, strict=True):
        gold_array = numpy.zeros_like(inputs[name]) if gold is None else gold.numpy()
        numpy.testing.assert_allclose(got[name], gold_array, rtol=1e-8, atol=1e-10, err_msg=name)
        if differences:
            numpy.testing.assert_allclose(got[name], differenced(root, inputs, name, weights), rtol=2e-5, atol=2e-6, err_msg=name)


def differenced(root: Node, inputs: dict[str, numpy.ndarray], name: str, weights: numpy.ndarray, step: float = 1e-5) -> numpy.ndarray:
    result = numpy.zeros_like(inputs[name])
    run = lower(Region((("y", root),)))
    for place in numpy.ndindex(*result.shape):
        values = []
        for sign in (1, -1):
            moved = inputs[name].copy()
            moved[place] += sign * step
            values.append(float((run({("input", n): a for n, a in (inputs | {name: moved}).items()})["y"] * weights).sum()))
        result[place] = (values[0] - values[1]) / (2 * step)
    return result


def random(*shape: int, seed: int = 1, low: float | None = None, high: float = 2.0) -> numpy.ndarray:
    generator = numpy.random.default_rng(seed)
    return generator.normal(size=shape) if low is None else generator.uniform(low, high, size=shape)


KNOWN = pytest.mark.parametrize("known", [True, False], ids=["sized", "unsized"])

UNARY = {
    "neg": (torch.neg, None), "abs": (torch.abs, None), "exp": (torch.exp, None), "log": (torch.log, 0.2), "log2": (torch.log2, 0.2),
    "log1mexp": (lambda x: torch.log(-torch.expm1(x)), -3.0), "sqrt": (torch.sqrt, 0.2), "sin": (torch.sin, None), "cos": (torch.cos, None),
    "tanh": (torch.tanh, None), "sigmoid": (torch.sigmoid, None), "softplus": (F.softplus, None),
}  # fmt: skip
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "mod": torch.remainder,
    "minimum": torch.minimum, "maximum": torch.maximum,
}  # fmt: skip
FLAT = {"sign", "floor", "ceil", "truncate", "round", "isfinite", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "stop"}


def test_every_operation_has_a_rule_or_is_known_to_be_flat() -> None:
    assert set(ELEMENTWISE) == (set(UNARY) | set(BINARY) | FLAT)
    assert set(UNARY) | set(BINARY) <= set(RULES)
    assert not FLAT & (set(RULES) | set(VARIADIC))


@KNOWN
@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str, known: bool) -> None:
    function, low = UNARY[op]
    x = random(2, 3) if low is None else random(2, 3, low=low, high=-0.1 if low < 0 else 2.0)
    check(lambda ops, x: ops.elementwise(op, x), function, {"x": "ab"}, [x], known)


@KNOWN
@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("shapes", [("ab", "ab"), ("ab", "b"), ("a", "ba"), ("", "ab"), ("a", "b")])
def test_binary(op: str, shapes: tuple[str, str], known: bool) -> None:
    sizes = {"a": 2, "b": 3}
    names = list(dict.fromkeys("".join(shapes)))
    arrays = [random(*(sizes[axis] for axis in axes), low=0.3, seed=i + 1) for i, axes in enumerate(shapes)]

    def mathematics(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return BINARY[op](aligned(x, shapes[0], names), aligned(y, shapes[1], names))

    check(lambda ops, x, y: ops.elementwise(op, x, y), mathematics, {"x": shapes[0], "y": shapes[1]}, arrays, known)


def aligned(x: torch.Tensor, axes: str, names: Sequence[str]) -> torch.Tensor:
    x = x.permute([axes.index(name) for name in names if name in axes])
    return x[tuple(slice(None) if name in axes else None for name in names)]


@KNOWN
@pytest.mark.parametrize("op", ["minimum", "maximum"])
def test_ties_are_shared_half_and_half(op: str, known: bool) -> None:
    x, y = numpy.array([1.0, 2.0, 3.0]), numpy.array([1.0, 0.0, 3.0])
    check(lambda ops, x, y: ops.elementwise(op, x, y), BINARY[op], {"x": "a", "y": "a"}, [x, y], known, differences=False)


@KNOWN
@pytest.mark.parametrize("op", ["max", "min"])
def test_ties_of_an_extreme_are_shared_evenly(op: str, known: bool) -> None:
    x = numpy.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    amax = torch.amax if op == "max" else torch.amin
    check(lambda ops, x: ops.reduce(op, x, ["b"]), lambda x: amax(x, 1), {"x": "ab"}, [x], known, differences=False)
    check(lambda ops, x: ops.reduce(op, x, ["a", "b"]), lambda x: amax(x, (0, 1)), {"x": "ab"}, [x], known, differences=False)


@KNOWN
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -2.5, 2.0])
def test_constant_powers(exponent: float, known: bool) -> None:
    check(lambda ops, x: ops.make("pow", (x, exponent), x.type), lambda x: x**exponent, {"x": "a"}, [random(3, low=0.5)], known)


def test_powers_of_zero() -> None:
    check(lambda ops, x, y: ops.elementwise("pow", x, y), torch.pow, {"x": "a", "y": "a"},
          [numpy.array([0.0, 0.0, 0.0, 2.0]), numpy.array([2.0, 1.0, 0.0, 0.0])], True, differences=False)  # fmt: skip
    check(lambda ops, x: ops.elementwise("pow", x, 2), lambda x: x**2, {"x": "a"}, [numpy.array([0.0, -1.0])], True)
    check(lambda ops, x: ops.elementwise("pow", x, 3), lambda x: x**3, {"x": "a"}, [numpy.array([0.0, -1.0])], True)


REDUCTIONS = {
    "sum": lambda x: x.sum((0, 2)), "prod": lambda x: x.prod(2).prod(0), "max": lambda x: x.amax((0, 2)), "min": lambda x: x.amin((0, 2))
}  # fmt: skip


@KNOWN
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str, known: bool) -> None:
    check(lambda ops, x: ops.reduce(op, x, ["a", "c"]), REDUCTIONS[op], {"x": "abc"}, [random(2, 3, 2)], known)


@KNOWN
@pytest.mark.parametrize("zeros", [[], [1], [0, 2]])
def test_product_with_zeros(zeros: list[int], known: bool) -> None:
    x = random(4)
    x[zeros] = 0
    check(lambda ops, x: ops.reduce("prod", x, ["a"]), lambda x: x.prod(0), {"x": "a"}, [x], known)


@KNOWN
def test_axes(known: bool) -> None:
    x, y = random(2, 3), random(3, seed=2)
    check(lambda ops, x: ops.scan_sum(x, "b"), lambda x: x.cumsum(1), {"x": "ab"}, [x], known)
    check(lambda ops, x: ops.rename(x, {"a": "c"}), lambda x: x * 1, {"x": "ab"}, [x], known)
    check(lambda ops, x: ops.elementwise("mul", ops.rename(x, {"a": "b", "b": "a"}), x), lambda x: x * x.T, {"x": "ab"}, [random(3, 3)], known)
    check(lambda ops, x: ops.dot(ops.rename(x, {"a": "c"}), x, ["b"]), lambda x: x @ x.T, {"x": "ab"}, [x], known)
    check(lambda ops, y, x: ops.elementwise("mul", ops.expand(y, x.type.axes), x), lambda y, x: y * x, {"y": "b", "x": "ab"}, [y, x], known)
    check(lambda ops, x: ops.transpose(x, ["b", "a"]), lambda x: x.T + 0, {"x": "ab"}, [x], known)
    check(lambda ops, x, y: ops.stack([x, y, ops.elementwise("mul", y, y)], "s"), lambda x, y: torch.stack([x, y.expand(2, 3), (y * y).expand(2, 3)]),
          {"x": "ab", "y": "b"}, [x, y], known)  # fmt: skip
    for descending in (False, True):
        check(lambda ops, x: ops.sort(x, "b", descending), lambda x: x.sort(1, descending=descending).values, {"x": "ab"}, [x], known)  # noqa: B023


@KNOWN
@pytest.mark.parametrize("bounds", [(0, 2), (1, None), (-2, None), (0, -1), (-2, -1), (2, 2), (0, 9)])
def test_slices(bounds: tuple[int, int | None], known: bool) -> None:
    if not known and bounds == (2, 2):
        pytest.skip("an empty slice of an axis without size")
    check(lambda ops, x: ops.slice(x, "b", *bounds), lambda x: x[:, slice(*bounds)] * 1, {"x": "ab"}, [random(2, 4)], known)


DOTS = [("ab", "b", "b", "ab,b->a"), ("ab", "bc", "b", "ab,bc->ac"), ("xab", "xbc", "b", "xab,xbc->xac"), ("ab", "ab", "ab", "ab,ab->"),
        ("ab", "a", "b", "ab,a->a"), ("a", "b", "ab", "a,b->"), ("ab", "", "a", "ab,->b")]  # fmt: skip


@KNOWN
@pytest.mark.parametrize(("left", "right", "over", "formula"), DOTS)
def test_dot(left: str, right: str, over: str, formula: str, known: bool) -> None:
    sizes = {"a": 2, "b": 3, "c": 4, "x": 2}
    arrays = [random(*(sizes[axis] for axis in axes), seed=i + 1) for i, axes in enumerate((left, right))]
    check(lambda ops, x, y: ops.dot(x, y, list(over)), lambda x, y: torch.einsum(formula, x, y), {"x": left, "y": right}, arrays, known)


@KNOWN
def test_gather_and_scatter(known: bool) -> None:
    x, b = random(3, 4), numpy.arange(3)
    i = numpy.array([0, 2, 2, 1, -1])
    check(lambda ops, x, i: ops.gather(x, i, "g"), lambda x, i: x[:, i], {"x": "ag", "i": "k"}, [x, i], known)
    check(lambda ops, x, j: ops.gather(x, j, "g"), lambda x, j: x[:, j], {"x": "ag", "j": "k"}, [x, i], known)
    batched = numpy.array([1, 3, 0])
    check(lambda ops, x, i: ops.gather(x, i, "g"), lambda x, i: x[b, i], {"x": "ag", "i": "a"}, [x, batched], known)
    own = numpy.array([[1, 3, 0], [1, 1, 1], [0, 2, 2]])
    check(lambda ops, x, i: ops.gather(x, i, "g"), lambda x, i: x.gather(1, i), {"x": "ag", "i": "ag"}, [x, own], known)
    check(lambda ops, x, i: ops.gather(x, i, "g"), lambda x, i: x[:, i], {"x": "ag", "i": ""}, [x, numpy.array(2)], known)
    check(lambda ops, x: ops.gather(x, ops.constant(-1), "g"), lambda x: x[:, -1], {"x": "ag"}, [x], known)
    check(
        lambda ops, x, i: ops.scatter_add(x, i, Axis("g", 4), (Axis("a", 3), Axis("g", 4))),
        lambda x, i: torch.zeros(3, 4, dtype=torch.float64).index_add(1, i % 4, x), {"x": "ak", "i": "k"}, [random(3, 5), i], True,
    )  # fmt: skip


@KNOWN
@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_segments(op: str, known: bool) -> None:
    x, i = random(2, 5), numpy.array([0, 2, 2, 0, 3])
    x[0, 1] = x[0, 2]

    def mathematics(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        if op == "sum":
            return torch.zeros(2, 4, dtype=torch.float64).index_add(1, i, x)
        amax = torch.amax if op == "max" else torch.amin
        return torch.stack([amax(x[:, i == k], 1) for k in (0, 2, 3)], 1)

    def build(ops: Operations, x: Node, i: Node) -> Node:
        y = ops.segment(op, x, i, ["k"])
        return y if op == "sum" else ops.gather(y, ops.stack([0, 2, 3], "m"), "g")

    check(build, mathematics, {"x": "ak", "i": "k"}, [x, i], known, differences=op == "sum")


@KNOWN
def test_values_one_behind_the_other(known: bool) -> None:
    def mathematics(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.T, y[None], (x**2).T])

    def build(ops: Operations, x: Node, y: Node) -> Node:
        return ops.concat([x, y, ops.elementwise("pow", x, 2)], "b")

    check(build, mathematics, {"x": "ab", "y": "a"}, [random(2, 4), random(2)], known)


def test_leaves_of_a_flat_parameter_become_one_pack() -> None:
    ops = Operations(Graph())
    flat = ops.source(Type("real", (Axis("node", 2), Axis("param", 11))), "input", "p")
    w = ops.leaf(flat, 1, (Axis("a", 2), Axis("b", 3)))
    again = ops.leaf(flat, 1, (Axis("b", 2), Axis("a", 3)))
    c = ops.leaf(flat, 8, (Axis("a", 2),))
    root = ops.elementwise("add", ops.reduce("sum", ops.elementwise("mul", w, c), "ab"), ops.reduce("sum", ops.elementwise("exp", again), "ab"))
    found = gradient(ops, root, [flat])[0]
    assert [node.op for node in Region((("g", found),)).nodes()].count("pack") == 1
    p = random(2, 11)
    t = torch.tensor(p, requires_grad=True)
    v = t[:, 1:7].reshape(2, 2, 3)
    gold = torch.autograd.grad((v * t[:, 8:10, None]).sum() + v.exp().sum(), t)[0]
    numpy.testing.assert_allclose(evaluate({"g": found}, {"p": p})["g"], gold.numpy(), rtol=1e-10)


def test_pack_sends_each_leaf_its_part() -> None:
    layouts = [(Axis("a", 2), Axis("b", 3)), (Axis("c", 2),)]

    def build(ops: Operations, x: Node, y: Node) -> Node:
        return ops.elementwise("mul", ops.pack([x, y], layouts), ops.range(Axis("param", 8)))

    def mathematics(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.reshape(2, 6), y.expand(2, 2)], 1) * torch.arange(8)

    check(build, mathematics, {"x": "nab", "y": "c"}, [random(2, 2, 3), random(2)], True)


# ---- what is not selected


def test_nothing_comes_back_from_what_a_where_leaves_out() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 4),)), "input", "x")
    y = ops.source(Type("real", (Axis("a", 4),)), "input", "y")
    positive = ops.elementwise("gt", x, 0)
    for op in ("sqrt", "log", "log2", "exp"):
        shared = ops.constant(ops.elementwise(op, x))
        inside = ops.elementwise("div", ops.elementwise("mul", shared, shared), ops.elementwise("mul", x, ops.elementwise("mul", y, y)))
        for other in (0.0, shared):
            root = ops.where(positive, inside, 0.0)
            if other is shared:
                root = ops.elementwise("add", root, ops.where(positive, ops.elementwise("mul", shared, y), x))
            found = gradient(ops, ops.constant(root), [x, y])
            x0 = numpy.array([0.0, -1.0, 2.0, -numpy.inf if op != "exp" else numpy.nan])
            got = evaluate({"v": ops.constant(root), "x": found[0], "y": found[1]}, {"x": x0, "y": numpy.array([1.0, numpy.nan, 2.0, 0.0])})
            assert numpy.isfinite(got["x"]).all() and numpy.isfinite(got["y"]).all(), (op, got)
            assert got["x"][2] != 0 and got["y"][2] != 0
            numpy.testing.assert_array_equal(got["x"][[0, 1, 3]], 0.0 if other == 0.0 else 1.0)
            numpy.testing.assert_array_equal(got["y"][[0, 1, 3]], 0.0)


def test_where_gradients_and_second_derivatives_at_zero() -> None:
    c = numpy.array([True, False, True])
    check(
        lambda ops, c, x, y: ops.where(c, ops.elementwise("mul", x, y), ops.elementwise("exp", y)),
        lambda c, x, y: torch.where(c[:, None], x * y, y.exp()), {"c": "a", "x": "ab", "y": "b"}, [c, random(3, 2), random(2)], True,
    )  # fmt: skip
    ops = Operations(Graph())
    x = ops.source(Type("real"), "input", "x")
    y = ops.elementwise("pow", ops.elementwise("div", x, ops.source(Type("real"), "input", "b")), 2)
    second = gradient(ops, gradient(ops, ops.constant(y), [x])[0], [x])[0]
    assert evaluate({"h": second}, {"x": numpy.array(0.0), "b": numpy.array(4.0)})["h"] == pytest.approx(2 / 16)


def test_square_root_at_zero_with_cotangent_zero() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 2),)), "input", "x")
    root = ops.elementwise("mul", ops.elementwise("sqrt", x), ops.source(x.type, "input", "m"))
    found = gradient(ops, ops.constant(root), [x])[0]
    numpy.testing.assert_array_equal(evaluate({"g": found}, {"x": numpy.array([0.0, 4.0]), "m": numpy.array([0.0, 1.0])})["g"], [0.0, 0.25])


@KNOWN
@pytest.mark.parametrize("taken", [True, False])
def test_choose_is_lazy_on_the_way_back(taken: bool, known: bool) -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 3 if known else None),)), "input", "x")
    missing = ops.source(Type("real"), "input", "missing")
    c = ops.elementwise("gt", ops.source(Type("real"), "input", "c"), 0)
    left = ops.elementwise("mul", ops.elementwise("exp", ops.elementwise("mul", x, missing)), missing)
    right = ops.elementwise("mul", ops.elementwise("sin", x), x)
    root = ops.elementwise("mul", ops.choose(c, left, right), x)
    found = gradient(ops, ops.constant(root), [x])[0]
    given = {"x": random(3), "c": numpy.array(1.0 if taken else -1.0)} | ({"missing": numpy.array(0.5)} if taken else {})
    got = evaluate({"g": found}, given)["g"]
    t = torch.tensor(given["x"], requires_grad=True)
    value = ((0.5 * t).exp() * 0.5 if taken else t.sin() * t) * t
    numpy.testing.assert_allclose(got, torch.autograd.grad(value.sum(), t)[0].numpy(), rtol=1e-10)


def test_a_long_chain_of_choices_stays_linear() -> None:
    ops = Operations(Graph())
    x = y = ops.source(Type("real"), "input", "x")
    for k in range(60):
        c = ops.elementwise("gt", y, 0.1 * k - 3)
        y = ops.constant(ops.choose(c, ops.elementwise("sin", ops.elementwise("mul", y, 1.5)), ops.elementwise("add", y, 0.1)))
    found = gradient(ops, y, [x])[0]
    assert len(Region((("g", found),)).nodes()) < 2000
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    z = t
    for k in range(60):
        z = torch.sin(z * 1.5) if z > 0.1 * k - 3 else z + 0.1
    assert evaluate({"g": found}, {"x": numpy.array(0.7)})["g"] == pytest.approx(float(torch.autograd.grad(z, t)[0]), rel=1e-9)


def test_deep_graphs_do_not_recurse() -> None:
    ops = Operations(Graph())
    x = y = ops.source(Type("real"), "input", "x")
    for _ in range(5000):
        y = ops.constant(ops.elementwise("sin", y))
    got = evaluate({"g": gradient(ops, y, [x])[0]}, {"x": numpy.array(0.5)})["g"]
    assert 0 < got < 1


# ---- activity


def test_what_does_not_depend_gets_zeros_of_its_type() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 3), Axis("b", None))), "input", "x")
    y = ops.source(Type("real", (Axis("b", None),)), "input", "y")
    i = ops.source(Type("int", (Axis("b", None),)), "input", "i")
    root = ops.constant(ops.elementwise("mul", ops.elementwise("stop", x), ops.elementwise("mul", y, y)))
    found = gradient(ops, root, [x, i, y])
    got = evaluate({"x": found[0], "i": found[1], "y": found[2]}, {"x": random(3, 2), "y": random(2), "i": numpy.array([1, 2])})
    assert got["x"].shape == (3, 2) and not got["x"].any()
    assert got["i"].shape == (2,) and not got["i"].any()
    assert got["y"].all()


def test_a_root_with_axes_is_summed_and_a_root_may_be_what_is_asked_for() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 3),)), "input", "x")
    got = evaluate({"g": gradient(ops, x, [x])[0]}, {"x": random(3)})["g"]
    numpy.testing.assert_array_equal(got, 1.0)
    h = ops.constant(ops.elementwise("exp", x))
    both = gradient(ops, ops.constant(ops.elementwise("mul", h, h)), [h, x])
    got = evaluate({"h": both[0], "x": both[1]}, {"x": random(3)})
    numpy.testing.assert_allclose(got["h"], 2 * numpy.exp(random(3)))
    numpy.testing.assert_allclose(got["x"], 2 * numpy.exp(2 * random(3)))


def test_what_has_no_derivative_says_so() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real", (Axis("a", 3), Axis("b", 3))), "input", "x")
    norm = ops.make("linalg", (x,), Type("real"), name="spectral_norm", options=())
    with pytest.raises(NotDifferentiable, match="spectral_norm"):
        gradient(ops, norm, [x])
    assert len(gradient(ops, norm, [ops.source(Type("real"), "input", "z")])) == 1


# ---- random expressions


@st.composite
def expression(draw: Any) -> list[tuple[str, tuple[int, ...]]]:
    steps = []
    for k in range(draw(st.integers(3, 12))):
        op = draw(st.sampled_from([*UNARY, *BINARY, "where", "sum", "max", "stop"]))
        count = {"where": 3}.get(op, 2 if op in BINARY else 1)
        steps.append((op, tuple(draw(st.integers(0, k + 2)) for _ in range(count))))
    return steps


POSITIVE = {"log", "log2", "sqrt"}


def grown(ops: Operations, pool: list[tuple[Node, torch.Tensor]], op: str, places: tuple[int, ...]) -> tuple[Node, torch.Tensor]:
    """One more expression of those before, as a node and as a tensor; arguments are brought into the domain on both sides alike."""
    (x, u), *rest = [pool[place] for place in places]
    names = list(dict.fromkeys(name for n, _ in [(x, u), *rest] for name in n.type.names))

    def both(node: Node, tensor: torch.Tensor) -> torch.Tensor:
        return aligned(tensor, "".join(node.type.names), names)

    def squash(node: Node, tensor: torch.Tensor) -> tuple[Node, torch.Tensor]:
        return ops.constant(ops.elementwise("add", ops.elementwise("sigmoid", node), 0.3)), torch.sigmoid(tensor) + 0.3

    if op == "stop":
        return ops.constant(ops.elementwise("stop", x)), u.detach()
    if op in ("sum", "max"):
        over = [n for n in x.type.names if n != "b"]
        dims = [x.type.names.index(n) for n in over]
        return ops.constant(ops.reduce(op, x, over)), (u.sum(dims) if op == "sum" else u.amax(dims)) if dims else u
    if op == "where":
        (y, v), (z, w) = rest
        condition = ops.elementwise("gt", x, 0.1)
        return ops.constant(ops.where(condition, y, z)), torch.where(both(x, u) > 0.1, both(y, v), both(z, w))
    if op in UNARY:
        if op in POSITIVE or op == "exp":
            x, u = squash(x, u)
        if op == "log1mexp":
            x, u = squash(x, u)
            x, u = ops.constant(ops.elementwise("neg", x)), -u
        return ops.constant(ops.elementwise(op, x)), UNARY[op][0](u)
    (y, v) = rest[0]
    if op in ("div", "mod", "pow"):
        (x, u), (y, v) = squash(x, u), squash(y, v)
    return ops.constant(ops.elementwise(op, x, y)), BINARY[op](both(x, u), both(y, v))


@settings(max_examples=150, deadline=None)
@given(expression(), st.integers(0, 2**32 - 1))
def test_random_expressions(steps: list[tuple[str, tuple[int, ...]]], seed: int) -> None:
    generator = numpy.random.default_rng(seed)
    shapes = {"x": ("ab", (2, 3)), "y": ("bc", (3, 2)), "z": ("c", (2,))}
    arrays = {name: generator.normal(size=shape) for name, (_, shape) in shapes.items()}
    ops = Operations(Graph())
    pool = [(source(ops, n, axes, arrays[n]), torch.tensor(arrays[n], requires_grad=True)) for n, (axes, _) in shapes.items()]
    inputs = list(pool)
    for op, places in steps:
        pool.append(grown(ops, pool, op, places))
    root, value = pool[-1]
    if not value.isfinite().all() or float(value.detach().abs().max()) > 1e8:
        return
    found = gradient(ops, root, [node for node, _ in inputs])
    got = evaluate({"value": root} | {n: f for n, f in zip(shapes, found, strict=True)}, arrays)
    numpy.testing.assert_allclose(got["value"], value.detach().numpy(), rtol=1e-9, atol=1e-12)
    if not value.requires_grad:
        assert not any(got[n].any() for n in shapes)
        return
    for name, gold, (_, t) in zip(shapes, torch.autograd.grad(value.sum(), [t for _, t in inputs], allow_unused=True), inputs, strict=True):
        gold = torch.zeros_like(t) if gold is None else gold
        if gold.isfinite().all():
            numpy.testing.assert_allclose(got[name], gold.numpy(), rtol=1e-7, atol=1e-8 * max(1.0, float(gold.abs().max())), err_msg=name)


# ---- loops


def scan(ops: Operations, known: bool, backward: bool, count: int = 4) -> tuple[dict[str, Node], dict[str, numpy.ndarray], list[Node]]:
    """h <- tanh(w h + x_t) * n_t, n <- n + 1; stacks h * h and exp(x_t); the first h, the sequence x and the matrix w are given."""
    arrays = {"h": random(3), "x": random(count, 3, seed=2), "w": random(3, 3, seed=3), "skip": random(count, seed=4)}
    nodes = {n: source(ops, n, axes, arrays[n], known) for n, axes in (("h", "a"), ("x", "ta"), ("w", "ab"), ("skip", "t"))}
    h, n = ops.graph.fresh("element", nodes["h"].type), ops.graph.fresh("element", Type("real"))
    x, s = ops.graph.fresh("element", Type("real", nodes["x"].type.axes[1:])), ops.graph.fresh("element", Type("real"))
    w = ops.graph.fresh("element", nodes["w"].type)
    product = ops.dot(w, ops.rename(h, {"a": "b"}), ["b"])
    following = ops.elementwise("mul", ops.elementwise("tanh", ops.elementwise("add", product, x)), n)
    results = [following, ops.elementwise("add", n, 1.0), ops.elementwise("mul", ops.elementwise("mul", h, h), s), ops.elementwise("exp", x)]
    region = Region(tuple((str(k), ops.constant(r)) for k, r in enumerate(results)), (h, n, x, s, w), "t")
    inputs = (nodes["h"], 1.0, nodes["x"], nodes["skip"], nodes["w"])
    loop = ops.make("scan", inputs, Type("real"), region, carries=2, sequences=2, axis="t", backward=backward)
    t = nodes["x"].type.axes[0]
    types = [h.type, Type("real"), Type("real", (t, *h.type.axes)), Type("real", (t, *h.type.axes))]
    return nodes, arrays, [ops.make("item", (loop,), type_, index=k) for k, type_ in enumerate(types)]


def looped(t: dict[str, torch.Tensor], backward: bool) -> list[torch.Tensor]:
    h, n, count = t["h"], 1.0, t["x"].shape[0]
    squares: list[Any] = [None] * count
    for k in reversed(range(count)) if backward else range(count):
        squares[k] = h * h * t["skip"][k]
        h, n = torch.tanh(t["w"] @ h + t["x"][k]) * n, n + 1
    return [h, torch.tensor(n), torch.stack(squares), t["x"].exp()]


@KNOWN
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("used", [(0,), (2,), (0, 2), (0, 2, 3), (3,), (0, 1, 2, 3)])
def test_loops(known: bool, backward: bool, used: tuple[int, ...]) -> None:
    ops = Operations(Graph())
    nodes, arrays, items = scan(ops, known, backward)
    root: Any = 0.0
    for k in used:
        root = ops.elementwise("add", root, ops.reduce("sum", ops.elementwise("sin", items[k]), items[k].type.names) if k != 1 else items[1])
    found = gradient(ops, ops.constant(root), list(nodes.values()))
    got = evaluate({"value": ops.constant(root)} | dict(zip(nodes, found, strict=True)), arrays)
    tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    values = looped(tensors, backward)
    value = sum((torch.sin(values[k]).sum() if k != 1 else values[1] for k in used), torch.tensor(0.0, dtype=torch.float64))
    assert got["value"] == pytest.approx(value.item(), rel=1e-10)
    gold = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    for name, g in zip(arrays, gold, strict=True):
        numpy.testing.assert_allclose(got[name], numpy.zeros_like(arrays[name]) if g is None else g.numpy(), rtol=1e-8, atol=1e-12, err_msg=name)


def test_loops_of_no_pass_and_second_derivatives() -> None:
    ops = Operations(Graph())
    nodes, arrays, items = scan(ops, False, False, count=0)
    root = ops.reduce("sum", items[0], "a")
    found = gradient(ops, ops.constant(root), [nodes["h"], nodes["w"], nodes["x"]])
    got = evaluate({"h": found[0], "w": found[1], "x": found[2]}, arrays)
    assert (got["h"] == 1).all() and not got["w"].any() and got["x"].shape == (0, 3)
    ops = Operations(Graph())
    nodes, arrays, items = scan(ops, True, False)
    first = gradient(ops, ops.constant(ops.reduce("sum", items[0], "a")), [nodes["h"]])[0]
    second = gradient(ops, ops.constant(ops.reduce("sum", ops.elementwise("mul", first, first), "a")), [nodes["w"], nodes["x"]])
    tensors = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    g = torch.autograd.grad(looped(tensors, False)[0].sum(), tensors["h"], create_graph=True)[0]
    gold = torch.autograd.grad((g * g).sum(), [tensors["w"], tensors["x"]])
    got = evaluate({"w": second[0], "x": second[1]}, arrays)
    numpy.testing.assert_allclose(got["w"], gold[0].numpy(), rtol=1e-8)
    numpy.testing.assert_allclose(got["x"], gold[1].numpy(), rtol=1e-8)


# ---- models


class Affine:
    """A stand-in for a model runner: outputs `y` = W x + c and `norm` = |W|^2 for params (W, c)."""

    dtype = torch.float64

    def __init__(self) -> None:
        self.pulled: list[tuple[str, ...]] = []

    def compute(self, params: torch.Tensor, args: dict[str, Any]) -> dict[str, torch.Tensor]:
        w, c = params[:6].reshape(2, 3), params[6:]
        return {"y": args["x"][0] @ w.T + c, "norm": (w * w).sum()}

    def forward(self, method: str, params: torch.Tensor, args: Any, options: Any, params_axes: Any) -> dict[str, torch.Tensor]:
        assert method == "call" and dict(options) == {"deep": 1} and params_axes == ("param",) and args["x"][1] == ("s", "in")
        return self.compute(params, args)

    def vjp(self, method: str, params: torch.Tensor, args: Any, cotangents: Any, wrt: str, options: Any, params_axes: Any) -> torch.Tensor:
        self.pulled.append((wrt, *cotangents))
        params, x = params.clone().requires_grad_(), args["x"][0].clone().requires_grad_()
        outputs = self.compute(params, {"x": (x, ())})
        total = sum((outputs[name] * g).sum() for name, g in cotangents.items())
        found = torch.autograd.grad(total, params if wrt == "params" else x, allow_unused=True)[0]
        return torch.zeros_like(params if wrt == "params" else x) if found is None else found


def test_one_model_vjp_for_each_input_of_a_call() -> None:
    ops = Operations(Graph())
    p = ops.source(Type("real", (Axis("param", 8),)), "input", "p")
    x = ops.source(Type("real", (Axis("s", 5), Axis("in", 3))), "input", "x")
    attrs: dict[str, Any] = {"model": "net", "method": "call", "fields": ("x",), "options": (("deep", 1),)}
    y = ops.make("model", (p, x), Type("real", (Axis("s", 5), Axis("out", 2))), output="y", **attrs)
    norm = ops.make("model", (p, x), Type("real"), output="norm", **attrs)
    root = ops.elementwise("add", ops.reduce("sum", ops.elementwise("sin", y), ["s", "out"]), ops.elementwise("mul", norm, norm))
    found = gradient(ops, ops.constant(root), [p, x])
    arrays = {"p": random(8), "x": random(5, 3, seed=2)}
    net = Affine()
    got = evaluate({"v": ops.constant(root), "p": found[0], "x": found[1]}, arrays, {"net": net})
    assert sorted(net.pulled) == [("params", "norm", "y"), ("x", "norm", "y")]
    t = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    outputs = net.compute(t["p"], {"x": (t["x"], ())})
    gold = torch.autograd.grad(torch.sin(outputs["y"]).sum() + outputs["norm"] ** 2, list(t.values()))
    numpy.testing.assert_allclose(got["p"], gold[0].numpy(), rtol=1e-10)
    numpy.testing.assert_allclose(got["x"], gold[1].numpy(), rtol=1e-10)
    only = gradient(ops, ops.constant(ops.reduce("sum", y, ["s", "out"])), [p])[0]
    assert [node["outputs"] for node in Region((("g", only),)).nodes() if node.op == "model_vjp"] == [("y",)]


def test_pulling_several_roots_at_once() -> None:
    ops = Operations(Graph())
    x = ops.source(Type("real"), "input", "x")
    found = pull(ops, [(ops.constant(ops.elementwise("exp", x)), 2.0), (ops.constant(ops.elementwise("sin", x)), 3.0)], [x])[0]
    got = evaluate({"g": found}, {"x": numpy.array(0.5)})["g"]
    assert got == pytest.approx(2 * math.exp(0.5) + 3 * math.cos(0.5))

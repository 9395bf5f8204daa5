"""The reference backend: every operation against a straightforward expression in numpy or torch, at awkward shapes too."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch

from gradflow.backends import reference
from gradflow.backends.reference import EvaluationError, lower
from gradflow.backends.reference.draws import DISTRIBUTIONS
from gradflow.backends.reference.interpreter import SPECIAL
from gradflow.backends.reference.linalg import LINALG
from gradflow.backends.reference.operations import OPERATIONS, align
from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import Operations
from gradflow.graph.spec import ARITY
from gradflow.graph.types import Axis, Type
from gradflow.language.source import Span
from gradflow.runtime import random as keyed

Array = numpy.ndarray


@pytest.fixture
def ops() -> Operations:
    return Operations(Graph())


def run(nodes: dict[str, Node], **inputs: Any) -> dict[str, Array]:
    return lower(Region(tuple(nodes.items())))({("input", name): value for name, value in inputs.items()})


def value(node: Node | Any, **inputs: Any) -> Array:
    return run({"y": node}, **inputs)["y"]


def real(ops: Operations, axes: str, name: str = "x", base: str = "real", target: str | None = None, **sizes: int) -> Node:
    return ops.source(Type(base, tuple(Axis(a, sizes.get(a)) for a in axes), Axis(target, sizes.get(target)) if target else None), "input", name)


def normal(*shape: int, seed: int = 1) -> Array:
    return numpy.random.default_rng(seed).normal(size=shape)


def same(got: Array, expected: Any, rtol: float = 1e-12) -> None:
    expected = numpy.asarray(expected)
    assert got.shape == expected.shape
    numpy.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-14)


def test_every_operation_of_the_contract_is_here() -> None:
    elsewhere = {*SPECIAL, "scan", "draw", "linalg", "hole", "element"}
    assert set(ARITY) == set(OPERATIONS) | elsewhere
    assert reference.name == "reference"


def test_align() -> None:
    x = normal(2, 3)
    assert align(x, "ab", "bca").shape == (3, 1, 2)
    with pytest.raises(ValueError, match="axis `a`"):
        align(x, "ab", "bc")


# ---- elementwise

POINTS = numpy.array([-3.5, -2.5, -1.0, -0.5, -0.0, 0.0, 0.49999999999999994, 0.5, 1.0, 1.5, 2.5, 40.0])
UNARY = {
    "neg": lambda x: -x, "abs": numpy.abs, "sign": numpy.sign, "exp": numpy.exp, "sin": numpy.sin, "cos": numpy.cos, "tanh": numpy.tanh,
    "sigmoid": lambda x: torch.sigmoid(torch.tensor(x)).numpy(), "softplus": lambda x: torch.logaddexp(torch.tensor(x), torch.tensor(0.0)).numpy(),
    "floor": numpy.floor, "ceil": numpy.ceil, "truncate": numpy.trunc, "round": lambda x: numpy.floor(x + 0.5), "isfinite": numpy.isfinite,
    "stop": lambda x: x,
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(ops: Operations, op: str) -> None:
    same(value(ops.elementwise(op, real(ops, "a")), x=POINTS), UNARY[op](POINTS))


@pytest.mark.parametrize("op", ["sqrt", "log", "log2"])
def test_domains(ops: Operations, op: str) -> None:
    x = numpy.array([0.0, 1e-300, 0.25, 1e300, numpy.inf])
    with numpy.errstate(all="ignore"):
        same(value(ops.elementwise(op, real(ops, "a")), x=x), getattr(numpy, op)(x))
    assert math.isnan(value(ops.elementwise(op, real(ops, "")), x=-1.0))


def test_stable_forms(ops: Operations) -> None:
    x = real(ops, "a")
    far = numpy.array([-1000.0, -40.0, 40.0, 1000.0])
    same(value(ops.elementwise("sigmoid", x), x=far), [0.0, math.exp(-40) / (1 + math.exp(-40)), 1 / (1 + math.exp(-40)), 1.0])
    same(value(ops.elementwise("softplus", x), x=far), [0.0, math.log1p(math.exp(-40)), 40.0 + math.log1p(math.exp(-40)), 1000.0])
    near = numpy.array([-1e-12, -1e-3, -0.7, -2.0, -50.0, -numpy.inf])
    expected = [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in near]
    same(value(ops.elementwise("log1mexp", x), x=near), expected)
    assert value(ops.elementwise("sign", x), x=[math.nan]) == 0


BINARY = {
    "add": numpy.add, "sub": numpy.subtract, "mul": numpy.multiply, "div": numpy.divide, "mod": numpy.mod, "minimum": numpy.minimum,
    "maximum": numpy.maximum, "lt": numpy.less, "le": numpy.less_equal, "gt": numpy.greater, "ge": numpy.greater_equal, "eq": numpy.equal,
    "ne": numpy.not_equal,
}  # fmt: skip


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(("left", "right"), [("ab", "ab"), ("ab", "ba"), ("ab", "b"), ("b", "ab"), ("", "ab"), ("a", "b")])
def test_binary_by_name(ops: Operations, op: str, left: str, right: str) -> None:
    sizes = {"a": 2, "b": 3}
    x, y = (numpy.round(normal(*(sizes[n] for n in axes), seed=k)) for k, axes in enumerate((left, right)))
    node = ops.elementwise(op, real(ops, left), real(ops, right, "y"))
    with numpy.errstate(all="ignore"):
        same(value(node, x=x, y=y), BINARY[op](align(x, left, node.type.names), align(y, right, node.type.names)))


def test_powers(ops: Operations) -> None:
    x, y = real(ops, "a"), real(ops, "a", "y")
    base, exponent = [0.0, 0.0, 2.0, -2.0, -8.0], [0.0, 2.0, -1.0, 3.0, 1 / 3]
    with numpy.errstate(all="ignore"):
        same(value(ops.elementwise("pow", x, y), x=base, y=exponent), numpy.power(base, exponent))
    same(value(ops.elementwise("pow", real(ops, "a", "i", "int"), -1), i=[2, -4]), [0.5, -0.25])


def test_bases(ops: Operations) -> None:
    flag, whole = real(ops, "a", "b", "bool"), real(ops, "a", "i", "int")
    got = run({"sum": ops.elementwise("add", flag, flag), "div": ops.elementwise("div", whole, 2), "neg": ops.elementwise("neg", flag),
               "min": ops.elementwise("minimum", flag, whole), "max": ops.elementwise("maximum", whole, 0.5), "mod": ops.elementwise("mod", whole, 3),
               "and": ops.elementwise("and", flag, whole), "or": ops.elementwise("or", flag, flag), "not": ops.elementwise("not", flag)},
              b=[True, False], i=[-2, 5])  # fmt: skip
    expected: dict[str, Any] = {"sum": [2, 0], "div": [-1.0, 2.5], "neg": [-1, 0], "min": [-2, 0], "max": [0.5, 5.0], "mod": [1, 2],
                                "and": [True, False], "or": [True, False], "not": [False, True]}  # fmt: skip
    for name, array in got.items():
        same(array, expected[name])
        assert array.dtype == numpy.asarray(expected[name]).dtype, name


def test_where_keeps_out_what_it_does_not_take(ops: Operations) -> None:
    x = real(ops, "a")
    safe = ops.where(ops.elementwise("gt", x, 0), ops.elementwise("div", 1.0, ops.elementwise("sqrt", x)), 0)
    same(value(safe, x=[4.0, 0.0, -1.0, math.nan]), [0.5, 0.0, 0.0, 0.0])
    c = real(ops, "a", "c", "bool")
    same(value(ops.where(c, real(ops, "ab", "y"), x), c=[True, False], y=normal(2, 3), x=[7.0, 8.0]),
         numpy.stack([normal(2, 3)[0], numpy.full(3, 8.0)]))  # fmt: skip


def test_a_length_of_one_never_stretches(ops: Operations) -> None:
    x, y = real(ops, "a"), real(ops, "a", "y")
    for op in ("add", "mul", "lt"):
        with pytest.raises(EvaluationError, match="axis `a` has 1 entries on one side and 3"):
            value(ops.elementwise(op, x, y), x=[1.0], y=[1.0, 2.0, 3.0])
    with pytest.raises(EvaluationError, match="axis `a`"):
        value(ops.dot(x, y, ["a"]), x=[1.0], y=[1.0, 2.0, 3.0])
    with pytest.raises(EvaluationError, match="axis `a`"):
        value(ops.stack([x, y], "k"), x=[1.0], y=[1.0, 2.0, 3.0])


# ---- axes


def test_axes(ops: Operations) -> None:
    x, array = real(ops, "ab"), normal(2, 3)
    same(value(ops.transpose(x, ["b", "a"]), x=array), array.T)
    wide = ops.expand(x, (Axis("b", None), Axis("c", 4), Axis("a", 2)))
    same(value(wide, x=array), numpy.broadcast_to(array.T[:, None, :], (3, 4, 2)))
    same(value(ops.rename(x, {"a": "b", "b": "a"}), x=array), array)
    assert value(ops.constant(ops.axis_size("b", x)), x=array) == 3
    same(value(ops.range(Axis("n", 4))), numpy.arange(4))
    same(value(ops.range(Axis("b"), x), x=array), numpy.arange(3))
    for start, stop in ((0, 2), (1, None), (-2, None), (0, -1), (2, 1), (0, 99)):
        same(value(ops.slice(x, "b", start, stop), x=array), array[:, start:stop])
    same(value(ops.stack([x, real(ops, "b", "y"), 2], "k"), x=array, y=array[0]), numpy.stack([array, [array[0]] * 2, numpy.full((2, 3), 2.0)]))
    index = real(ops, "b", "i", "int")
    same(value(ops.one_hot(index, Axis("k", 4)), i=[0, 3, 1]), numpy.eye(4)[[0, 3, 1]])
    same(value(ops.one_hot(index, Axis("k")), i=[0, 2, 1]), numpy.eye(3)[[0, 2, 1]])


def test_sizes_that_only_the_data_knows(ops: Operations) -> None:
    x, i = real(ops, "a"), real(ops, "a", "i", "int", "g")
    nodes = {"x": ops.elementwise("mul", x, x), "e": ops.expand(1.0, (Axis("a"),)), "g": ops.expand(2.0, (Axis("g"),)), "i": i}
    got = run(nodes, x=normal(5), i=[0, 2, 2, 1, 0])
    assert got["e"].shape == (5,) and got["g"].shape == (3,)
    with pytest.raises(EvaluationError, match="size of axis `z` is not known"):
        value(ops.expand(1.0, (Axis("z"),)))


# ---- reductions


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 1), (2, 0, 3)])
@pytest.mark.parametrize("over", [["a"], ["c", "a"], ["a", "b", "c"]])
def test_reductions(ops: Operations, shape: tuple[int, ...], over: list[str]) -> None:
    x, dims = normal(*shape), tuple("abc".index(n) for n in over)
    node = real(ops, "abc")
    same(value(ops.reduce("sum", node, over), x=x), x.sum(dims))
    same(value(ops.reduce("prod", node, over), x=x), x.prod(dims))
    same(value(ops.reduce("max", node, over), x=x), x.max(dims, initial=-math.inf))
    same(value(ops.reduce("min", node, over), x=x), x.min(dims, initial=math.inf))
    mask = ops.elementwise("gt", node, 0)
    same(value(ops.reduce("any", mask, over), x=x), (x > 0).any(dims))
    same(value(ops.reduce("all", mask, over), x=x), (x > 0).all(dims))
    same(value(ops.reduce("sum", mask, over), x=x), (x > 0).sum(dims))


def test_places_of_extremes_are_the_first(ops: Operations) -> None:
    x, node = numpy.array([[1.0, 3.0, 3.0], [0.0, 0.0, -1.0]]), real(ops, "ab")
    same(value(ops.arg_reduce("argmax", node, "b"), x=x), [1, 0])
    same(value(ops.arg_reduce("argmin", node, "a"), x=x), [1, 1, 1])
    same(value(ops.scan_sum(node, "a"), x=x), x.cumsum(0))
    same(value(ops.scan_sum(node, "b"), x=numpy.zeros((2, 0))), numpy.zeros((2, 0)))


DOTS = [("ab", "b", "b", "ab,b->a"), ("ab", "bc", "b", "ab,bc->ac"), ("xab", "bxc", "b", "xab,bxc->xac"), ("ab", "ab", "ab", "ab,ab->"),
        ("ab", "a", "b", "ab,a->a"), ("a", "b", "ab", "a,b->"), ("ab", "", "a", "ab,->b"), ("ab", "bc", "", "ab,bc->abc")]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "over", "formula"), DOTS)
@pytest.mark.parametrize("inner", [3, 1, 0])
def test_dot(ops: Operations, left: str, right: str, over: str, formula: str, inner: int) -> None:
    sizes = {"a": 2, "b": inner, "c": 4, "x": 3}
    x, y = (normal(*(sizes[n] for n in axes), seed=k) for k, axes in enumerate((left, right)))
    same(value(ops.dot(real(ops, left), real(ops, right, "y"), list(over)), x=x, y=y), numpy.einsum(formula, x, y))


# ---- groups


def test_segments(ops: Operations) -> None:
    x, index = normal(2, 5), numpy.array([0, 2, 2, 0, 2])
    node, groups = real(ops, "ak"), real(ops, "k", "i", "int", "g", g=4)
    for op, function, empty in (("sum", numpy.sum, 0.0), ("max", numpy.max, -math.inf), ("min", numpy.min, math.inf)):
        expected = numpy.full((2, 4), empty)
        for g in (0, 2):
            expected[:, g] = function(x[:, index == g], axis=1)
        same(value(ops.segment(op, node, groups, ["k"]), x=x, i=index), expected)
        unsized = ops.segment(op, node, real(ops, "k", "i", "int", "g"), ["k"])
        same(value(unsized, x=x, i=index), expected[:, :3])
    both = real(ops, "ak", "i", "int", "g", g=3)
    table = numpy.array([[0, 1, 1, 0, 2], [2, 2, 2, 2, 2]])
    expected = numpy.array([[x[r][table[r] == g].sum() for g in range(3)] for r in range(2)])
    same(value(ops.segment("sum", node, both, ["k"]), x=x, i=table), expected)
    same(value(ops.segment("sum", node, both, ["a", "k"]), x=x, i=table), expected.sum(0))
    same(value(ops.segment("sum", 1, groups, ["k"]), i=index), [2, 0, 3, 0])
    same(value(ops.segment("max", node, groups, ["k"]), x=numpy.zeros((2, 0)), i=numpy.zeros(0, int)), numpy.full((2, 4), -math.inf))
    with pytest.raises(EvaluationError, match="index into axis `g` is -1"):
        value(ops.segment("sum", node, groups, ["k"]), x=x, i=[0, 1, 2, 3, -1])


# ---- indexing


def test_gather(ops: Operations) -> None:
    x, node = normal(3, 4), real(ops, "ag")
    i = numpy.array([[0, 3], [1, -1], [2, 2]])
    same(value(ops.gather(node, real(ops, "k", "i", "int"), "g"), x=x, i=[3, 0, 0]), x[:, [3, 0, 0]])
    same(value(ops.gather(node, real(ops, "k", "i", "int"), "a"), x=x, i=[2, 0]), x[[2, 0]])
    same(value(ops.gather(node, real(ops, "km", "i", "int"), "a"), x=x, i=i % 3), x[i % 3])
    same(value(ops.gather(node, real(ops, "ak", "i", "int"), "g"), x=x, i=i), numpy.take_along_axis(x, i, 1))
    same(value(ops.gather(node, real(ops, "ka", "i", "int"), "g"), x=x, i=i.T), numpy.take_along_axis(x, i, 1).T[:, :].T)
    same(value(ops.gather(node, real(ops, "a", "i", "int"), "g"), x=x, i=[0, 1, 3]), x[numpy.arange(3), [0, 1, 3]])
    same(value(ops.gather(node, real(ops, "ag", "i", "int"), "g"), x=x, i=i), numpy.take_along_axis(x, i, 1))
    same(value(ops.gather(node, real(ops, "", "i", "int"), "g"), x=x, i=-1), x[:, -1])
    same(value(ops.gather(real(ops, "g"), real(ops, "k", "i", "int"), "g"), x=x[0], i=numpy.zeros(0, int)), numpy.zeros(0))
    with pytest.raises(EvaluationError, match="index into axis `g`"):
        value(ops.gather(node, real(ops, "", "i", "int"), "g"), x=x, i=4)
    with pytest.raises(EvaluationError, match="axis `a` has 3 entries in the value and 2"):
        value(ops.gather(node, real(ops, "a", "i", "int"), "g"), x=x, i=[0, 1])


def test_scatter_is_the_transpose_of_gather(ops: Operations) -> None:
    like = (Axis("a", 3), Axis("g", 4), Axis("b", 2))
    for axes, shape in (("k", (5,)), ("ka", (5, 3)), ("", ()), ("ag", (3, 5))):
        index = numpy.random.default_rng(0).integers(-4, 4, shape)
        i = real(ops, axes, "i", "int")
        x = ops.source(Type("real", like), "input", "x")
        read = ops.gather(x, i, "g")
        y = ops.source(read.type, "input", "y")
        back = ops.scatter_add(y, i, like[1], like)
        x0 = normal(3, 4, 2)
        forward = value(read, x=x0, i=index)
        y0 = normal(*forward.shape, seed=2)
        assert float((value(back, y=y0, i=index) * x0).sum()) == pytest.approx(float((forward * y0).sum()))
    spread = ops.scatter_add(real(ops, "k", "z"), real(ops, "k", "i", "int"), like[1], (like[0], like[1]))
    same(value(spread, z=[1.0, 2.0, 4.0], i=[0, 0, 2]), [[3.0, 0.0, 4.0, 0.0]] * 3)


# ---- order


def test_order(ops: Operations) -> None:
    x, node = numpy.array([[2.0, 1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), real(ops, "ab")
    same(value(ops.sort(node, "b", False), x=x), numpy.sort(x, 1))
    same(value(ops.sort(node, "b", True), x=x), -numpy.sort(-x, 1))
    same(value(ops.rank(node, ("b",), False), x=x), [[2, 1, 3, 0], [0, 1, 2, 3]])
    same(value(ops.rank(node, ("b",), True), x=x), [[0, 2, 1, 3], [0, 1, 2, 3]])
    same(value(ops.rank(node, ("a", "b"), False), x=x), [[6, 1, 7, 0], [2, 3, 4, 5]])
    same(value(ops.rank(node, ("b", "a"), False), x=x), [[6, 2, 7, 0], [1, 3, 4, 5]])
    same(value(ops.top(node, 2, "b", "k"), x=x), [[0, 2], [0, 1]])
    same(value(ops.top(real(ops, "ab", b=4), 9, "b", "k"), x=x), [[0, 2, 1, 3], [0, 1, 2, 3]])
    with pytest.raises(EvaluationError, match="the 9 largest were asked for"):
        value(ops.top(node, 9, "b", "k"), x=x)
    same(value(ops.top(node, 1, "a", "k"), x=x), [[0], [0], [0], [1]])
    same(value(ops.sort(node, "b", False), x=numpy.zeros((2, 0))), numpy.zeros((2, 0)))


def test_leaves(ops: Operations) -> None:
    flat, p = ops.source(Type("real", (Axis("param", 10), Axis("node", 2))), "input", "p"), normal(10, 2)
    leaf = ops.leaf(flat, 1, (Axis("a", 2), Axis("b", 3)))
    same(value(leaf, p=p), p.T[:, 1:7].reshape(2, 2, 3))
    scalar = ops.leaf(flat, 9, ())
    same(value(scalar, p=p), p[9])
    packed = ops.make("pack", (leaf, scalar), Type("real", (Axis("node", 2), Axis("param", 7))), offsets=(0, 6))
    same(value(packed, p=p), numpy.concatenate([p.T[:, 1:7], p.T[:, 9:]], 1))
    assert ops.pack([ops.leaf(flat, 0, (Axis("a", 4),)), ops.leaf(flat, 4, (Axis("b", 6),))], [(Axis("a", 4),), (Axis("b", 6),)]) is flat


# ---- choices and loops


def test_a_choice_computes_only_what_it_takes(ops: Operations) -> None:
    c, missing = real(ops, "", "c"), real(ops, "a", "missing")
    node = ops.choose(ops.elementwise("gt", c, 0), missing, real(ops, "a"))
    same(value(node, c=-1.0, x=[1.0, 2.0]), [1.0, 2.0])
    with pytest.raises(EvaluationError, match="nothing was given for input missing"):
        value(node, c=1.0, x=[1.0, 2.0])


def test_deep_graphs(ops: Operations) -> None:
    node = real(ops, "")
    for k in range(20000):
        node = ops.constant(ops.elementwise("add", node, 1.0) if k % 2 else ops.choose(ops.elementwise("gt", node, -1), node, 0.0))
    assert value(node, x=0.0) == 10000


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("count", [3, 1, 0])
def test_scan(ops: Operations, backward: bool, count: int) -> None:
    h, e, w = (ops.graph.fresh("element", Type("real", axes)) for axes in ((Axis("a"),), (Axis("a"),), ()))
    following = ops.elementwise("add", ops.elementwise("mul", h, w), e)
    results = (("0", ops.constant(following)), ("1", ops.constant(ops.elementwise("sub", e, h))))
    region = Region(results, (h, e, w), "t")
    inputs = (ops.source(Type("int", (Axis("a"),)), "input", "h"), real(ops, "at", "x"), real(ops, "", "w"))
    loop = ops.make("scan", inputs, Type("real"), region, carries=1, sequences=1, axis="t", backward=backward)
    final = ops.make("item", (loop,), Type("real", (Axis("a"),)), index=0)
    rows = ops.make("item", (loop,), Type("real", (Axis("t"), Axis("a"))), index=1)
    x, state = normal(2, count), numpy.array([1.0, 2.0])
    expected = numpy.zeros((count, 2))
    for k in reversed(range(count)) if backward else range(count):
        expected[k] = x[:, k] - state
        state = state * 0.5 + x[:, k]
    got = run({"final": final, "rows": rows}, h=[1, 2], x=x, w=0.5)
    same(got["final"], state)
    same(got["rows"], expected)


def test_sources_of_every_kind_of_caller(ops: Operations) -> None:
    x, i = real(ops, "a", a=2), real(ops, "a", "i", "int", "g")
    got = run({"x": x, "i": i}, x=torch.tensor([1.5, 2.5], dtype=torch.bfloat16), i=torch.tensor([4, 1]))
    assert got["x"].dtype == numpy.float64 and got["i"].dtype == numpy.int64 and list(got["i"]) == [4, 1]
    for wrong in ([1.0, 2.0, 3.0], [[1.0, 2.0]]):
        with pytest.raises(EvaluationError):
            value(x, x=wrong)


def test_an_error_knows_its_place(ops: Operations) -> None:
    ops.span = Span("a.gflow", 10, 5, 3, 7)
    node = ops.elementwise("add", real(ops, "a"), real(ops, "a", "y"))
    with pytest.raises(EvaluationError, match="a.gflow:3:7: `add`") as caught:
        value(node, x=[1.0], y=[1.0, 2.0])
    assert caught.value.span.line == 3 and caught.value.op == "add"


# ---- draws


def draw(ops: Operations, dist: str, axes: str, *inputs: Any, place: str = "p", base: str = "real", **options: Any) -> Node:
    sizes = {"a": 40, "b": 50, "s": None}
    type_ = Type(base, tuple(Axis(a, sizes[a]) for a in axes))
    clock = (real(ops, "", "seed", "int"), real(ops, "", "tick", "int"))
    return ops.make("draw", (*clock, *inputs), type_, dist=dist, place=place, options=tuple(sorted(options.items())))


def test_draws_are_keyed_and_counted(ops: Operations) -> None:
    node = draw(ops, "uniform", "ab")
    got = value(node, seed=3, tick=7)
    numpy.testing.assert_array_equal(got, keyed.uniform(keyed.key(3, 7, "p"), numpy.arange(2000).reshape(40, 50)))
    assert (value(node, seed=3, tick=8) != got).any() and (value(draw(ops, "uniform", "ab", place="q"), seed=3, tick=7) != got).any()
    normals = value(draw(ops, "normal", "ab"), seed=3, tick=7)
    numpy.testing.assert_array_equal(normals, keyed.normal(keyed.key(3, 7, "p"), numpy.arange(2000).reshape(40, 50)))
    assert abs(normals.mean()) < 0.1 and abs(normals.std() - 1) < 0.1
    seeds = real(ops, "s", "seed", "int")
    many = ops.make("draw", (seeds, real(ops, "", "tick", "int")), Type("real", (Axis("a", 40), Axis("s"))), dist="uniform", place="p", options=())
    several = value(many, seed=[3, 5], tick=7)
    for column, seed in zip(several.T, (3, 5), strict=True):
        numpy.testing.assert_array_equal(column, keyed.uniform(keyed.key(seed, 7, "p"), numpy.arange(40)))


def test_distributions(ops: Operations) -> None:
    assert set(DISTRIBUTIONS) == {"uniform", "normal", "uniform_int", "bernoulli", "categorical", "subset"}
    u = value(draw(ops, "uniform", "ab"), seed=1, tick=0)
    same(value(draw(ops, "uniform", "ab", ops.constant(-1.0), ops.constant(3.0)), seed=1, tick=0), -1 + 4 * u)
    whole = value(draw(ops, "uniform_int", "ab", ops.constant(-2), ops.constant(3), base="int"), seed=1, tick=0)
    same(whole, numpy.floor(u * 5) - 2)
    assert set(whole.ravel()) == {-2, -1, 0, 1, 2}
    p = real(ops, "b")
    same(value(draw(ops, "bernoulli", "ab", p, base="bool"), seed=1, tick=0, x=numpy.full(50, 0.3)), u < 0.3)
    chosen = value(draw(ops, "subset", "ab", base="bool", axis="b", count=7), seed=1, tick=0)
    assert (chosen.sum(1) == 7).all() and (u[chosen].reshape(40, 7).max(1) < numpy.where(chosen, 2, u).min(1)).all()
    none = value(draw(ops, "subset", "ab", real(ops, "", "k", "int"), base="bool", axis="b"), seed=1, tick=0, k=0)
    assert not none.any()


def test_categorical(ops: Operations) -> None:
    law = numpy.array([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    node = draw(ops, "categorical", "ab", real(ops, "j"), base="int", axis="j")
    u = value(draw(ops, "uniform", "ab"), seed=1, tick=0)
    for scale in (1.0, 8.0):
        got = value(node, seed=1, tick=0, x=law * scale)
        same(got, numpy.searchsorted([0.0, 0.2, 0.2, 0.7, 1.0], u, side="right"))
    assert set(got.ravel()) == {1, 3, 4}
    rows = value(draw(ops, "categorical", "a", real(ops, "ja"), base="int", axis="j"), seed=1, tick=0, x=numpy.eye(40)[:, ::-1])
    same(rows, numpy.arange(40)[::-1])
    with pytest.raises(EvaluationError, match="positive sum"):
        value(node, seed=1, tick=0, x=numpy.zeros(6))


# ---- linear algebra


def linalg(ops: Operations, name: str, axes: str, x: Node, *others: Node, **options: Any) -> Node:
    return ops.make("linalg", (x, *others), Type("real", tuple(Axis(a) for a in axes)), name=name, options=tuple(sorted(options.items())))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 4), (1, 1, 1)])
def test_singular_value_decomposition(ops: Operations, shape: tuple[int, ...]) -> None:
    node, x = real(ops, "lij"), normal(*shape)
    small = min(shape[1:])
    u, s, v = (value(linalg(ops, "svd", axes, node, part=part), x=x) for part, axes in (("u", "lir"), ("s", "lr"), ("v", "ljr")))
    same(numpy.einsum("lir,lr,ljr->lij", u, s, v), x, 1e-9)
    same(s, numpy.linalg.svd(x, compute_uv=False), 1e-9)
    largest = numpy.take_along_axis(u, numpy.abs(u).argmax(1)[:, None], 1)
    assert (largest > 0).all()
    for top in (1, small, 99):
        k = min(top, small)
        same(value(linalg(ops, "singular_vectors", "lir", node, of="i", top=top), x=x), u[..., :k])
        same(value(linalg(ops, "singular_vectors", "rjl", node, of="j", top=top), x=x), v[..., :k].transpose(2, 1, 0))
    same(value(linalg(ops, "spectral_norm", "l", node), x=x), s[:, 0], 1e-9)
    pinv = numpy.linalg.pinv(x)
    same(value(linalg(ops, "pseudo_inverse", "lij", node), x=x), pinv.transpose(0, 2, 1), 1e-9)


def test_symmetric_spectra(ops: Operations) -> None:
    x = normal(2, 4, 4)
    x = x + x.transpose(0, 2, 1)
    node, expected = real(ops, "lij"), numpy.linalg.eigvalsh(x)
    same(value(linalg(ops, "eigenvalues", "le", node), x=x), expected)
    same(value(linalg(ops, "eigenvalues", "le", node, descending=True), x=x), expected[:, ::-1])
    same(value(linalg(ops, "eigenvalue", "l", node, k=2), x=x), expected[:, 1])
    same(value(linalg(ops, "eigenvalue", "l", node, k=-1), x=x), expected[:, -1])
    same(value(linalg(ops, "moduli", "le", node), x=x), -numpy.sort(-numpy.abs(expected)))
    turn = numpy.array([[0.0, 2.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # not symmetric: 2i, -2i, -1
    same(value(linalg(ops, "moduli", "e", real(ops, "ij")), x=turn), [2.0, 2.0, 1.0])
    vectors = value(linalg(ops, "eigenvectors", "lie", node), x=x)
    same(numpy.einsum("lie,le,lje->lij", vectors, expected, vectors), x, 1e-9)
    assert (numpy.take_along_axis(vectors, numpy.abs(vectors).argmax(1)[:, None], 1) > 0).all()
    with pytest.raises(EvaluationError, match="eigenvalue 5"):
        value(linalg(ops, "eigenvalue", "l", node, k=5), x=x)


def test_graph_matrices(ops: Operations) -> None:
    p = numpy.abs(normal(2, 4, 4))
    p /= p.sum(-1, keepdims=True)
    law = value(linalg(ops, "stationary", "li", real(ops, "lij")), x=p)
    same(numpy.einsum("li,lij->lj", law, p), law)
    same(law.sum(1), [1.0, 1.0])
    ring = numpy.roll(numpy.eye(4), 1, 1)  # periodic, still irreducible
    same(value(linalg(ops, "stationary", "i", real(ops, "ij")), x=ring), numpy.full(4, 0.25))
    d = real(ops, "j", "d")
    got = value(linalg(ops, "with_diagonal", "lij", real(ops, "lij"), d), x=p, d=[1.0, 2.0, 3.0, 4.0])
    same(got, p * (1 - numpy.eye(4)) + numpy.diag([1.0, 2.0, 3.0, 4.0]))
    same(value(linalg(ops, "identity", "ij", real(ops, "ij")), x=ring), numpy.eye(4))
    a, b = normal(2, 3, 3), normal(2, 3, 5)
    same(value(linalg(ops, "solve", "ljk", real(ops, "lij"), real(ops, "lik", "b")), x=a, b=b), numpy.linalg.solve(a, b), 1e-9)
    one = b[0, :, 0]
    got = value(linalg(ops, "solve", "lj", real(ops, "lij"), real(ops, "i", "b")), x=a, b=one)
    same(got, numpy.linalg.solve(a, one[None, :, None])[..., 0], 1e-9)
    turn = numpy.array([[0.0, numpy.pi / 2], [-numpy.pi / 2, 0.0]])
    got = value(linalg(ops, "matrix_exponential", "lij", real(ops, "lij")), x=numpy.stack([turn, 0 * turn]))
    same(got, [[[0, 1], [-1, 0]], [[1, 0], [0, 1]]], 1e-12)
    with pytest.raises(EvaluationError, match="linalg"):
        value(linalg(ops, "solve", "j", real(ops, "ij"), real(ops, "i", "b")), x=numpy.zeros((2, 2)), b=[1.0, 2.0])
    with pytest.raises(EvaluationError, match="nonsense"):
        value(linalg(ops, "nonsense", "j", real(ops, "ij")), x=a[0])
    assert set(LINALG) == {"singular_vectors", "svd", "eigenvalues", "eigenvectors", "eigenvalue", "moduli", "spectral_norm", "identity",
                           "pseudo_inverse", "stationary", "with_diagonal", "sylvester", "matrix_exponential", "optimum", "solve", "solve_spd",
                           "least_squares", "orthonormalize"}  # fmt: skip


# ---- models


def test_a_call_is_made_once_and_models_are_released(ops: Operations) -> None:
    class Runner:
        dtype = torch.float64
        calls = released = 0

        def forward(self, method: str, params: Any, args: Any, options: Any, params_axes: Any) -> dict[str, Any]:
            self.calls += 1
            assert params.dtype == torch.float64 and args["token"][0].dtype == torch.int64 and params_axes == ("node", "param")
            return {"y": params.sum(-1, keepdim=True) * args["token"][0], "z": params.mean()}

        def release(self) -> None:
            self.released += 1

    p, token = ops.source(Type("real", (Axis("node", 2), Axis("param", 3))), "param", "net"), real(ops, "s", "i", "int")
    attrs: dict[str, Any] = {"model": "net", "method": "call", "fields": ("token",), "options": ()}
    y = ops.make("model", (p, token), Type("real", (Axis("node", 2), Axis("s"))), output="y", **attrs)
    z = ops.make("model", (p, token), Type("real"), output="z", **attrs)
    region, runner, params = Region((("y", y), ("z", z))), Runner(), normal(2, 3)
    got = lower(region, {"net": runner})({("param", "net"): params, ("input", "i"): [1, 2]})
    same(got["y"], params.sum(1, keepdims=True) * [1, 2])
    same(got["z"], params.mean())
    assert runner.calls == 1 and runner.released == 1
    with pytest.raises(EvaluationError, match="no model `net`"):
        lower(region)({("param", "net"): params, ("input", "i"): [1, 2]})

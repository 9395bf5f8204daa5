"""Simplification: each rule where it fits and where it must not, and random graphs that keep their values and gradients."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.backends.reference import lower
from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import Operations
from gradflow.graph.spec import verify
from gradflow.graph.types import Axis, Type
from gradflow.passes.differentiate import gradient
from gradflow.passes.simplify import RULES, Trace, simplify

A, B, N = Axis("a", 3), Axis("b", 2), Axis("n", None)
ELEMENTWISE_UNARY = ["neg", "abs", "exp", "sin", "tanh", "sigmoid", "softplus", "sqrt", "log", "sign", "floor", "round", "stop"]
ELEMENTWISE_BINARY = ["add", "sub", "mul", "div", "minimum", "maximum", "pow", "mod"]


def raw(ops: Operations, op: str, *inputs: Any) -> Node:
    """An elementwise node that no constructor simplified on its way."""
    nodes = [ops.constant(value) for value in inputs]
    names = dict.fromkeys(axis for node in nodes for axis in node.type.axes)
    base = "bool" if op in ("not", "and", "or", "gt") else "int" if op in ("floor", "round") else "real"
    return ops.make(op, nodes, Type(base, tuple(names)))


@pytest.fixture
def ops() -> Operations:
    return Operations(Graph())


def only(ops: Operations, node: Node) -> tuple[Node, list[str]]:
    trace: Trace = []
    result = simplify(ops, Region((("y", node),)), trace).roots[0]
    assert result.type == node.type or result.type.names == node.type.names
    return result, [name for name, _, _ in trace]


def x_of(ops: Operations, *axes: Axis, base: str = "real", name: str = "x") -> Node:
    return ops.source(Type(base, axes), "input", name)


def test_neutral_operands(ops: Operations) -> None:
    x = x_of(ops, A)
    for node in (raw(ops, "mul", x, 1.0), raw(ops, "mul", 1.0, x), raw(ops, "add", 0.0, x), raw(ops, "sub", x, 0.0), raw(ops, "div", x, 1.0),
                 raw(ops, "pow", x, 1.0), raw(ops, "minimum", x, float("inf")), raw(ops, "neg", raw(ops, "neg", x))):  # fmt: skip
        assert only(ops, node)[0] is x, node
    assert only(ops, raw(ops, "mul", x, 0.0))[0].op == "mul"
    whole = x_of(ops, A, base="int", name="i")
    assert only(ops, raw(ops, "mul", whole, 1.0))[0].op == "mul"  # it also makes the whole number real


def test_numbers(ops: Operations) -> None:
    node = raw(ops, "add", raw(ops, "mul", 2.0, 3.0), raw(ops, "exp", 0.0))
    assert only(ops, node)[0] is ops.constant(7.0)
    assert only(ops, raw(ops, "floor", 2.5))[0] is ops.constant(2)
    assert only(ops, raw(ops, "div", 0.0, 0.0))[0].op == "div"  # NaN stays where it is made


def test_signs(ops: Operations) -> None:
    x, y = x_of(ops, A), x_of(ops, B, name="y")
    minus_x, minus_y = raw(ops, "neg", x), raw(ops, "neg", y)
    assert only(ops, raw(ops, "add", x, minus_y))[0].op == "sub"
    turned = only(ops, raw(ops, "add", minus_x, y))[0]
    assert turned.op == "sub" and turned.inputs == (y, x) and turned.type.names == ("a", "b")
    assert only(ops, raw(ops, "sub", x, minus_y))[0].op == "add"
    assert only(ops, raw(ops, "mul", minus_x, minus_y))[0].inputs == (x, y)
    assert only(ops, raw(ops, "mul", -1.0, x))[0] is minus_x
    assert only(ops, raw(ops, "div", x, -1.0))[0] is minus_x
    assert only(ops, raw(ops, "neg", raw(ops, "sub", x, y)))[0].inputs == (y, x)


def test_choices(ops: Operations) -> None:
    x, y, z = (x_of(ops, A, name=name) for name in "xyz")
    c = raw(ops, "gt", x, 0.0)

    def where(*values: Any) -> Node:
        return ops.make("where", values, Type("real", (A,)))

    assert only(ops, where(True, x, y))[0] is x
    assert only(ops, where(c, x, x))[0] is x
    assert only(ops, where(raw(ops, "not", c), x, y))[0].inputs == (c, y, x)
    assert only(ops, where(c, where(c, x, y), z))[0].inputs == (c, x, z)
    assert only(ops, where(c, x, where(c, y, z)))[0].inputs == (c, x, z)
    assert only(ops, where(c, 1.0, 1.0))[0].op == "where"  # it also repeats
    flag = raw(ops, "gt", x_of(ops, name="s"), 0.0)
    assert only(ops, ops.make("choose", (raw(ops, "not", flag), x, y), x.type))[0].inputs == (flag, y, x)


def test_repetitions(ops: Operations) -> None:
    x, y, free = x_of(ops, A), x_of(ops, A, B, name="y"), x_of(ops, N, name="n")
    assert only(ops, raw(ops, "mul", ops.expand(x, (B, A)), y))[0].inputs == (x, y)
    kept = only(ops, raw(ops, "exp", ops.expand(x, (B, A))))[0]
    assert kept.inputs[0].op == "expand"
    twice = ops.make("expand", (ops.make("expand", (x,), Type("real", (B, A))),), Type("real", (A, B)))
    assert only(ops, twice)[0].inputs == (x,)
    along = ops.make("ge", (ops.range(N, free), 0), Type("bool", (N,)))
    spread = ops.make("where", (along, x, x), Type("real", (N, A)))
    assert only(ops, raw(ops, "mul", spread, free))[0].inputs == (x, free)
    assert only(ops, ops.make("expand", (spread,), Type("real", (A, N))))[0].inputs == (spread,)


def test_structure(ops: Operations) -> None:
    x = x_of(ops, A, B)
    renamed = ops.make("rename", (ops.make("rename", (x,), Type("real", (Axis("c", 3), B))),), x.type)
    assert only(ops, renamed)[0] is x
    assert only(ops, ops.make("axis_size", (x,), Type("int"), axis="a"))[0] is ops.constant(3)
    assert only(ops, ops.make("axis_size", (x_of(ops, N, name="n"),), Type("int"), axis="n"))[0].op == "axis_size"
    stacked = ops.stack([x, raw(ops, "exp", x)], "k")
    assert only(ops, ops.gather(stacked, ops.constant(0), "k"))[0] is x
    assert only(ops, ops.gather(stacked, ops.constant(-1), "k"))[0].op == "exp"
    packed = ops.pack([x, x_of(ops, A, name="v")], [(A, B), (A,)])
    assert only(ops, ops.make("leaf", (packed,), x.type, offset=0))[0] is x
    assert only(ops, ops.make("leaf", (packed,), Type("real", (B,)), offset=6))[0].op == "leaf"
    c = raw(ops, "gt", x, 0.0)
    assert only(ops, raw(ops, "not", raw(ops, "not", c)))[0] is c
    assert only(ops, raw(ops, "and", c, c))[0] is c


def test_every_rule_has_a_name_of_its_own_and_is_traced(ops: Operations) -> None:
    assert len({name for name, _, _ in RULES}) == len(RULES)
    x = x_of(ops, A)
    node = raw(ops, "add", raw(ops, "mul", x, 1.0), raw(ops, "neg", x))
    trace: Trace = []
    simplify(ops, Region((("y", node),)), trace)
    assert [name for name, _, _ in trace] == ["a number computed now, or a neutral operand", "sum with a negation"]
    assert all(before is not after for _, before, after in trace)


def loop(ops: Operations, stacked: int) -> tuple[Node, list[Node], Node]:
    x = ops.source(Type("real", (Axis("t", 4),)), "input", "x")
    h, e, w = (ops.graph.fresh("element", Type("real")) for _ in range(3))
    results = [raw(ops, "mul", raw(ops, "mul", raw(ops, "sin", h), w), raw(ops, "mul", e, 1.0)), raw(ops, "exp", h), raw(ops, "cos", e)]
    region = Region(tuple((str(k), r) for k, r in enumerate(results[: 1 + stacked])), (h, e, w), "t")
    start, weight = ops.source(Type("real"), "input", "h"), ops.source(Type("real"), "input", "w")
    scan = ops.make("scan", (start, x, weight), Type("real"), region, carries=1, sequences=1, axis="t", backward=False)
    items = [ops.make("item", (scan,), Type("real", (Axis("t", 4),) if k else ()), index=k) for k in range(1 + stacked)]
    return start, items, weight


def test_loops_are_merged_pruned_and_simplified_inside(ops: Operations) -> None:
    start, items, weight = loop(ops, 2)
    root = ops.constant(ops.elementwise("add", items[0], ops.reduce("sum", items[2], ["t"])))
    found = gradient(ops, root, [start, weight])
    region = Region((("v", root), ("h", found[0]), ("w", found[1])))
    scans = [node for node in region.nodes() if node.op == "scan"]
    assert len(scans) == 3  # the loop, the loop with its carries, the loop backward
    after = simplify(ops, region)
    verify(after, "simplify")
    scans = [node for node in after.nodes() if node.op == "scan"]
    assert len(scans) == 2
    forward = next(node for node in scans if not node["backward"])
    assert forward.body is not None and len(forward.body.results) == 3  # the carry, cos, the carry saved; exp is read by nobody
    assert not any(node.op == "const" for node in forward.body.nodes())
    inputs = {("input", "x"): numpy.array([0.1, -0.4, 0.7, 1.3]), ("input", "h"): 0.3, ("input", "w"): 1.7}
    before, now = lower(region)(inputs), lower(after)(inputs)
    for name, value in before.items():
        numpy.testing.assert_array_equal(now[name], value)


@st.composite
def program(draw: Any) -> list[tuple[Any, ...]]:
    steps: list[tuple[Any, ...]] = []
    for k in range(draw(st.integers(3, 14))):
        kind = draw(st.sampled_from(["unary", "binary", "binary", "constant", "where", "expand", "rename", "sum", "choose"]))
        places = tuple(draw(st.integers(0, k + 2)) for _ in range(3))
        op = draw(st.sampled_from(ELEMENTWISE_UNARY if kind == "unary" else ELEMENTWISE_BINARY))
        steps.append((kind, op, places, draw(st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5])), draw(st.booleans())))
    return steps


def step(ops: Operations, pool: list[Node], kind: str, op: str, places: tuple[int, ...], number: float, flag: bool) -> Node:
    x, y, z = (pool[place] for place in places)
    if kind == "unary":
        base = "int" if op in ("floor", "round") else x.type.base if op in ("stop", "neg", "abs", "sign") else "real"
        return ops.make(op, (x,), Type(base, x.type.axes))
    if kind == "binary":
        return raw(ops, op, x, y)
    if kind == "constant":
        return raw(ops, op, x, number) if flag else raw(ops, op, number, x)
    if kind in ("where", "choose"):
        condition = raw(ops, "gt", x if kind == "where" else ops.constant(ops.reduce("sum", x, x.type.names)), number)
        condition = raw(ops, "not", condition) if flag else condition
        return ops.constant(ops.where(condition, y, z) if kind == "where" else ops.choose(condition, y, z))
    if kind == "expand":
        return ops.make("expand", (x,), Type(x.type.base, (Axis("c", 2), A, B) if flag else (B, A, Axis("c", 2)), x.type.target))
    if kind == "rename" and x.type.names == ("a", "b"):
        return ops.make("rename", (x,), Type(x.type.base, (A, Axis("c", 2))))
    return ops.constant(ops.reduce("sum", x, ["a"]))


@settings(max_examples=200, deadline=None)
@given(program(), st.integers(0, 2**32 - 1))
def test_random_graphs_keep_their_values(steps: list[tuple[Any, ...]], seed: int) -> None:
    ops = Operations(Graph())
    generator = numpy.random.default_rng(seed)
    pool = [ops.source(Type("real", (A, B)), "input", "x"), ops.source(Type("real", (B,)), "input", "y"), ops.source(Type("real"), "input", "z")]
    inputs = {("input", "x"): generator.normal(size=(3, 2)), ("input", "y"): generator.normal(size=2), ("input", "z"): generator.normal()}
    for one in steps:
        pool.append(step(ops, pool, *one))
    found = gradient(ops, pool[-1], pool[:2]) if pool[-1].type.base == "real" else []
    region = Region((*((str(k), node) for k, node in enumerate(pool)), *((f"g{k}", node) for k, node in enumerate(found))))
    verify(region, "differentiate")
    after = simplify(ops, region)
    verify(after, "simplify")
    assert len(after.nodes()) <= len(region.nodes())
    assert simplify(ops, after).roots == after.roots
    plain, simple = lower(region)(inputs), lower(after)(inputs)
    for (name, before), (_, node) in zip(region.results, after.results, strict=True):
        assert node.type.names == before.type.names and node.type.base == before.type.base
        if numpy.isfinite(plain[name]).all():
            numpy.testing.assert_array_equal(simple[name], plain[name], err_msg=name)

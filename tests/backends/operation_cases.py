"""Small regions, one an operation or a combination worth having, with inputs: what every backend is compared on.

Axes: a 5, b 4, c 3, token 6, group (how many is known only at run time), param 24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from gradflow.graph.graph import Graph, Node, Region
from gradflow.graph.operations import ELEMENTWISE, Operations
from gradflow.graph.types import Axis, Type

A, B, C, PARAM = Axis("a", 5), Axis("b", 4), Axis("c", 3), Axis("param", 24)
GROUP, TOKEN = Axis("group"), Axis("token")
Inputs = dict[tuple[str, ...], Any]
Case = tuple[Region, Inputs]


class Maker:
    """Builds one region; `data` is a source with random content."""

    def __init__(self, seed: int = 0):
        self.ops = Operations(Graph())
        self.random = numpy.random.default_rng(seed)
        self.inputs: Inputs = {}

    def data(
        self, name: str, *axes: Axis, base: str = "real", low: float = -2.0, high: float = 2.0, target: Axis | None = None, kind: str = "input"
    ) -> Node:
        shape = tuple(axis.size or {"token": 6, "group": 3}[axis.name] for axis in axes)
        if base == "real":
            value: Any = self.random.uniform(low, high, shape)
        elif base == "bool":
            value = self.random.uniform(size=shape) < 0.5
        else:
            value = self.random.integers(int(low), int(high), shape)
        self.inputs[kind, name] = value
        return self.ops.source(Type(base, axes, target), kind, name)

    def clock(self, name: str, value: Any) -> Node:
        self.inputs["clock", name] = value
        return self.ops.source(Type("int" if isinstance(value, int) else "real"), "clock", name)

    def index(self, name: str, target: Axis, *axes: Axis, size: int | None = None) -> Node:
        return self.data(name, *axes, base="int", low=0, high=size or target.size or 3, target=target)

    def region(self, **results: Any) -> Case:
        return Region(tuple((name, self.ops.constant(node)) for name, node in results.items()), (), "case"), self.inputs


CASES: dict[str, Callable[[], Case]] = {}


def case(function: Callable[[Maker], Case]) -> Callable[[Maker], Case]:
    CASES[function.__name__] = lambda: function(Maker())
    return function


def _elementwise(op: str) -> Callable[[], Case]:
    """The operation on equal axes, on crossed axes, with a number on either side, on a large axis (in a kernel)."""

    def make() -> Case:
        m = Maker()
        count = ELEMENTWISE[op][1].__code__.co_argcount if hasattr(ELEMENTWISE[op][1], "__code__") else 2 if op in ("minimum", "maximum") else 1
        low, high = {"log": (0.1, 3), "log2": (0.1, 3), "sqrt": (0.1, 3), "log1mexp": (-3, -0.1), "pow": (0.1, 2)}.get(op, (-2, 2))
        base = "bool" if op in ("and", "or", "not") else "real"
        results: dict[str, Any] = {}
        for name, first, second in (
            ("same", (A, B), (A, B)),
            ("crossed", (B, A), (C, B)),
            ("flat", (PARAM,), (PARAM,)),
            ("rows", (C, PARAM), (C,)),
            ("last", (C, PARAM), (PARAM,)),
        ):
            x = m.data(f"x_{name}", *first, base=base, low=low, high=high)
            if op == "isfinite":
                m.inputs["input", f"x_{name}"].flat[:2] = (numpy.nan, numpy.inf)
            if count == 1:
                results[name] = m.ops.elementwise(op, x)
                continue
            y = m.data(f"y_{name}", *second, base=base, low=low, high=high)
            results[name] = m.ops.elementwise(op, x, y)
            results[f"{name}_turned"] = m.ops.elementwise(op, y, x)
            if base == "real":
                results[f"{name}_right"] = m.ops.elementwise(op, x, 0.7)
                results[f"{name}_left"] = m.ops.elementwise(op, 0.7, x)
        if base == "real" and count == 2:
            n, k = m.data("n", A, base="int", low=1, high=5), m.data("k", A, base="int", low=1, high=5)
            t = m.clock("t", 3)
            results |= {
                "whole": m.ops.elementwise(op, n, k),
                "whole_number": m.ops.elementwise(op, n, 2),
                "mixed": m.ops.elementwise(op, n, m.data("r", A, low=0.5)),
            }
            results |= {"host": m.ops.elementwise(op, t, 0.3), "clock": m.ops.elementwise(op, m.data("z", A, low=0.5), t)}
        return m.region(**results)

    return make


CASES |= {f"elementwise_{op}": _elementwise(op) for op in ELEMENTWISE}


@case
def where_choices(m: Maker) -> Case:
    c, x, y = m.data("c", A, base="bool"), m.data("x", A, B), m.data("y", B)
    n, t = m.data("n", A, base="int", low=0, high=9), m.clock("t", 3)
    bad = m.ops.elementwise("log", m.ops.elementwise("sub", x, 5.0))
    flag = m.ops.elementwise("gt", t, 2)
    return m.region(
        both=m.ops.where(c, x, y),
        numbers=m.ops.where(c, 1.0, 0.0),
        whole=m.ops.where(c, n, 0),
        mixed=m.ops.where(c, n, 0.5),
        selected=m.ops.where(m.ops.elementwise("gt", x, 9.0), bad, 0.0),
        truth=m.ops.where(c, c, False),
        by_clock=m.ops.where(flag, x, y),
        flat=m.ops.where(m.data("f", PARAM, base="bool"), m.ops.elementwise("exp", m.data("p", PARAM)), 2.0),
    )


@case
def where_rows(m: Maker) -> Case:
    x, c = m.data("x", C, PARAM), m.data("c", C, base="bool")
    return m.region(rows=m.ops.where(c, m.ops.elementwise("mul", x, 2.0), x), number=m.ops.where(c, m.ops.elementwise("exp", x), 0.0))


@case
def reductions(m: Maker) -> Case:
    x, flag, n = m.data("x", A, B, C), m.data("flag", A, B, base="bool"), m.data("n", A, B, base="int", low=-3, high=4)
    empty = m.ops.slice(m.data("e", A, TOKEN), "token", 0, 0)
    results = {f"{op}_{''.join(over)}": m.ops.reduce(op, x, over) for op in ("sum", "prod", "max", "min") for over in ("a", "b", "ac", "abc")}
    results |= {f"{op}_n": m.ops.reduce(op, n, ["b"]) for op in ("sum", "prod", "max", "min", "any", "all")}
    results |= {f"{op}_flag": m.ops.reduce(op, flag, ["a"]) for op in ("sum", "prod", "max", "min", "any", "all")}
    results |= {f"{op}_empty": m.ops.reduce(op, empty, ["token"]) for op in ("sum", "max", "min")}
    results |= {
        "argmax": m.ops.arg_reduce("argmax", x, "b"),
        "argmin": m.ops.arg_reduce("argmin", n, "a"),
        "argflag": m.ops.arg_reduce("argmax", flag, "b"),
    }
    results |= {"cumsum": m.ops.scan_sum(x, "b"), "counts": m.ops.scan_sum(flag, "a")}
    return m.region(**results)


@case
def sums_of_products(m: Maker) -> Case:
    x, y, z = m.data("x", PARAM), m.data("y", PARAM), m.data("z", C, PARAM)
    e, r = m.ops.elementwise, m.ops.reduce
    return m.region(
        norm=e("sqrt", r("sum", e("mul", x, x), ["param"])),
        square=r("sum", e("pow", y, 2), ["param"]),
        product=r("sum", e("mul", x, y), ["param"]),
        absolute=r("sum", e("abs", z), ["param"]),
        rows=r("sum", e("mul", z, z), ["param"]),
        columns=r("sum", e("mul", z, z), ["c"]),
    )


@case
def contractions(m: Maker) -> Case:
    x, y, z, u, v = m.data("x", A, B), m.data("y", B, C), m.data("z", C, A, B), m.data("u", B), m.data("v", B)
    n, s = m.data("n", B, A, base="int", low=0, high=5), m.data("s", C)
    dot = m.ops.dot
    return m.region(
        product=dot(x, y, ["b"]),
        turned=dot(y, x, ["b"]),
        vector=dot(x, u, ["b"]),
        left=dot(u, y, ["b"]),
        inner=dot(u, v, ["b"]),
        outer=dot(u, s, []),
        batched=dot(x, z, ["b"]),
        both=dot(x, z, ["a", "b"]),
        whole=dot(n, x, ["a", "b"]),
        shared=dot(x, u, []),
        alone=dot(x, s, ["a", "c"]),
    )


@case
def axes(m: Maker) -> Case:
    x, n, k = m.data("x", A, B), m.data("n", TOKEN, base="int", low=0, high=3), m.data("k", TOKEN, A)
    t = m.clock("t", 4)
    unknown = m.ops.expand(2.5, (TOKEN,))
    return m.region(
        turned=m.ops.transpose(x, ["b", "a"]),
        repeated=m.ops.expand(x, (C, B, A)),
        number=m.ops.expand(1.5, (A, C)),
        clock=m.ops.expand(t, (B,)),
        renamed=m.ops.elementwise("add", m.ops.rename(x, {"a": "c2"}), x),
        size=m.ops.axis_size("token", n),
        range=m.ops.range(TOKEN, k),
        table=m.ops.table([0.5, -1.0, 2.0, 4.0, 0.25, 3.0, 1.0, 7.0], Type("real", (Axis("four", 4), Axis("two", 2)))),
        places=m.ops.gather(x, m.ops.table([1, 0, 1], Type("int", (Axis("three", 3),), A)), "a"),
        truths=m.ops.where(m.ops.table([True, False], Type("bool", (Axis("two", 2),))), 1.0, t),
        like=m.ops.elementwise("mul", unknown, k),
        alone=unknown,
        counted=m.ops.elementwise("div", m.ops.reduce("sum", k, ["token"]), m.ops.axis_size("token", n)),
        slice=m.ops.slice(x, "b", 1, 3),
        tail=m.ops.slice(x, "a", -2, None),
        fixed=m.ops.range(A),
        hot=m.ops.one_hot(m.index("i", C, A), C),
        hot_open=m.ops.one_hot(n, GROUP),
        concat=m.ops.concat([x, m.data("more", Axis("b", 2), A), 1.0], "b"),
        concat_open=m.ops.concat([k, n, k], "token"),
        stack=m.ops.stack([x, 1.0, m.data("w", B)], "d"),
        numbers=m.ops.stack([1.0, t, 0.5], "d"),
    )


@case
def places(m: Maker) -> Case:
    x, y = m.data("x", A, B, C), m.data("y", B)
    i, j, k = m.index("i", B, Axis("d", 7)), m.index("j", B, A, Axis("d", 7)), m.index("k", B, A)
    own, point = m.index("own", B, B), m.index("point", B)
    t, g = m.clock("t", 2), m.ops.gather
    d, like = m.data("d", A, Axis("d", 7), C), (A, B, C)
    return m.region(
        plain=g(x, i, "b"),
        shared=g(x, j, "b"),
        label=g(x, k, "b"),
        vector=g(y, i, "b"),
        own=g(x, own, "b"),
        point=g(x, point, "b"),
        point_vector=g(y, point, "b"),
        clock=g(x, t, "b"),
        last=g(x, m.ops.constant(-1), "b"),
        scatter=m.ops.scatter_add(d, i, B, like),
        scatter_shared=m.ops.scatter_add(d, j, B, like),
        scatter_label=m.ops.scatter_add(m.data("e", A, C), k, B, like),
        scatter_vector=m.ops.scatter_add(m.data("f", Axis("d", 7)), i, B, (B,)),
        scatter_narrow=m.ops.scatter_add(m.data("h", A), j, B, like),
        scatter_clock=m.ops.scatter_add(m.data("l", A, C), t, B, like),
        turned=m.ops.scatter_add(d, j, B, (C, B, A)),
        rowwise=g(m.data("table", A, B), j, "b"),
        rowwise_back=m.ops.scatter_add(m.data("o", A, Axis("d", 7)), j, B, (A, B)),
    )


@case
def groups(m: Maker) -> Case:
    x, n = m.data("x", A, TOKEN), m.data("n", TOKEN, base="int", low=-5, high=5)
    by, wide, flag = m.index("by", GROUP, TOKEN), m.index("wide", C, A, TOKEN), m.data("flag", TOKEN, base="bool")
    results: dict[str, Any] = {}
    for op in ("sum", "max", "min"):
        results |= {f"{op}_open": m.ops.segment(op, x, by, ["token"]), f"{op}_wide": m.ops.segment(op, x, wide, ["a", "token"])}
        results |= {f"{op}_kept": m.ops.segment(op, x, wide, ["token"]), f"{op}_whole": m.ops.segment(op, n, by, ["token"])}
    results |= {"count": m.ops.segment("sum", 1.0, by, ["token"]), "flags": m.ops.segment("sum", flag, by, ["token"])}
    mean = m.ops.elementwise("div", results["sum_open"], results["count"])
    return m.region(
        **results, mean=mean, back=m.ops.elementwise("sub", x, m.ops.gather(mean, by, "group")), over_more=m.ops.segment("sum", x, by, ["a", "token"])
    )


@case
def order(m: Maker) -> Case:
    x, n, flag = m.data("x", A, B), m.data("n", Axis("d", 9), base="int", low=0, high=4), m.data("flag", Axis("d", 9), base="bool")
    results: dict[str, Any] = {}
    for down in (True, False):
        results |= {f"sort_{down}": m.ops.sort(x, "b", down), f"sort_n_{down}": m.ops.sort(n, "d", down), f"rank_{down}": m.ops.rank(n, ("d",), down)}
        results |= {
            f"rank_all_{down}": m.ops.rank(x, ("b", "a"), down),
            f"rank_a_{down}": m.ops.rank(x, ("a",), down),
            f"rank_flag_{down}": m.ops.rank(flag, ("d",), down),
        }
    long = m.ops.elementwise("floor", m.data("long", Axis("e", 1 << 15), high=5))
    return m.region(**results, top=m.ops.top(n, 3, "d", "k"), top_a=m.ops.top(x, 2, "a", "k"), top_long=m.ops.top(long, 20, "e", "k"))


@case
def nothing(m: Maker) -> Case:
    """Of no rows, along an axis without entries."""
    x, by = m.data("x", TOKEN, A), m.index("by", Axis("kind", 3), TOKEN)
    some, index, columns = m.ops.slice(x, "token", 0, 0), m.ops.slice(by, "token", 0, 0), m.ops.slice(m.data("y", TOKEN, A), "a", 0, 0)
    none = m.ops.slice(some, "a", 0, 0)
    results = {f"{op}_none": m.ops.arg_reduce(op, none, "a") for op in ("argmax", "argmin")}
    results |= {
        "argmax_rows": m.ops.arg_reduce("argmax", some, "a"),
        "rank": m.ops.rank(some, ("a",), False),
        "rank_none": m.ops.rank(none, ("a",), True),
    }
    results |= {f"{op}_rows": m.ops.segment(op, some, index, ["token"]) for op in ("sum", "max")}
    results |= {"sum": m.ops.reduce("sum", some, ["token"]), "all_of_it": m.ops.reduce("sum", x, ["token"])}
    return m.region(**results, sum_columns=m.ops.segment("sum", columns, by, ["token"]), places=m.ops.gather(columns, by, "token"))


@case
def leaves(m: Maker) -> Case:
    flat, lifted = m.data("flat", PARAM, kind="param"), m.data("lifted", C, PARAM)
    row, col = Axis("row", 4), Axis("col", 5)
    first, second, dot = m.ops.leaf(flat, 0, (row, col)), m.ops.leaf(flat, 20, (Axis("out", 3),)), m.ops.leaf(flat, 23, ())
    changed = m.ops.pack(
        [m.ops.elementwise("mul", first, 2.0), m.ops.elementwise("neg", second), m.ops.elementwise("add", dot, 1.0)],
        [(row, col), (Axis("out", 3),), ()],
    )
    one, two = m.ops.leaf(lifted, 0, (row, col)), m.ops.leaf(lifted, 20, (Axis("rest", 4),))
    back = m.ops.pack([m.ops.elementwise("exp", m.ops.transpose(one, ["col", "row", "c"])), two], [(row, col), (Axis("rest", 4),)])
    return m.region(first=first, second=second, dot=dot, changed=changed, one=one, back=back)


@case
def linear_algebra(m: Maker) -> Case:
    x, lifted, square = m.data("x", A, B), m.data("l", C, A, B), m.data("s", Axis("n", 4), Axis("n2", 4))
    e, r = m.ops.elementwise, Axis("r", 2)
    symmetric = e("add", square, m.ops.rename(m.ops.transpose(square, ["n2", "n"]), {"n2": "n", "n": "n2"}))
    positive = e("exp", square)
    chain = e("div", positive, m.ops.reduce("sum", positive, ["n2"]))
    size = square.type.axes

    def call(name: str, axes: tuple[Axis, ...], *inputs: Any, **options: Any) -> Node:
        return m.ops.make("linalg", inputs, Type("real", axes), name=name, options=tuple(sorted(options.items())))

    results = {f"svd_{part}": call("svd", axes, x, part=part, top=2) for part, axes in (("u", (A, r)), ("s", (r,)), ("v", (B, r)))}
    results |= {f"side_{of.name}": call("singular_vectors", (of, r), x, of=of.name, top=2) for of in (A, B)}
    results |= {"many": call("singular_vectors", (C, B, r), lifted, of="b", top=2), "turned": call("svd", (r, C, A), lifted, part="u", top=2)}
    results |= {
        "eigen": call("eigenvalues", (Axis("e", 4),), symmetric),
        "descending": call("eigenvalues", (Axis("e", 4),), symmetric, descending=True),
    }
    results |= {"vectors": call("eigenvectors", (size[0], Axis("e", 4)), symmetric), "third": call("eigenvalue", (), symmetric, k=3)}
    results |= {
        "last": call("eigenvalue", (), symmetric, k=-1),
        "norm": call("spectral_norm", (C,), lifted),
        "moduli": call("moduli", (Axis("e", 4),), square),
        "inverse": call("pseudo_inverse", (A, B), x),
    }
    results |= {"stationary": call("stationary", size[:1], chain), "diagonal": call("with_diagonal", size, square, m.data("d", size[1]))}
    results |= {"zero": call("with_diagonal", size, square, 0.0), "solve": call("solve", (size[1], A), square, m.data("rhs", size[0], A))}
    results |= {"identity": call("identity", size, symmetric)}
    left, right = m.data("left", A, Axis("a2", 5)), m.data("right", Axis("b2", 4), B)
    results |= {"sylvester": call("sylvester", (A, B), x, left, right), "turned_sylvester": call("sylvester", (B, A), x, left, right)}
    spread = m.ops.dot(square, m.ops.rename(square, {"n": "n3"}), ["n2"])
    spread = e("add", spread, call("identity", spread.type.axes, spread))
    results |= {"spd": call("solve_spd", (spread.type.axes[1], A), spread, m.data("rhs", size[0], A))}
    results |= {"least": call("least_squares", (A, C), m.ops.transpose(x, ["b", "a"]), m.data("few", B, C))}
    results |= {"frame": call("orthonormalize", (A, B), x), "frames": call("orthonormalize", (C, A, B), lifted)}
    cube = m.data("cube", C, *size, low=-0.5, high=0.5)
    results |= {"flow": call("matrix_exponential", size, square), "flows": call("matrix_exponential", (size[1], C, size[0]), cube)}
    return m.region(**results)


@case
def draws(m: Maker) -> Case:
    seed, tick = m.clock("seed", 7), m.clock("tick", 3)

    def draw(dist: str, base: str, axes: tuple[Axis, ...], *inputs: Any, **options: Any) -> Node:
        return m.ops.make(
            "draw", (seed, tick, *inputs), Type(base, axes), dist=dist, place=f"flow.{dist}.{len(inputs)}", options=tuple(sorted(options.items()))
        )

    p, low = m.data("p", A, C, low=0, high=1), m.data("low", A, low=0, high=1)
    return m.region(
        uniform=draw("uniform", "real", (A, B)),
        between=draw("uniform", "real", (A, B), low, 3.0),
        normal=draw("normal", "real", (A, B)),
        number=draw("normal", "real", ()),
        scaled=draw("normal", "real", (B, A), low, 0.1),
        whole=draw("uniform_int", "int", (A, B), 2, 9),
        coin=draw("bernoulli", "bool", (A, B), low),
        category=draw("categorical", "int", (A,), p, axis="c"),
        many=draw("categorical", "int", (A, B), p, axis="c"),
        subset=draw("subset", "bool", (A, B), axis="a", count=2),
        counted=draw("subset", "bool", (A, B), m.ops.constant(3), axis="b"),
        by_size=m.ops.elementwise("add", draw("normal", "real", (TOKEN,)), m.data("x", TOKEN)),
    )


@case
def loops(m: Maker) -> Case:
    x, start, rate = m.data("x", A, TOKEN), m.data("start", A), m.data("rate")
    results: dict[str, Any] = {}
    for backward in (False, True):
        g, e = m.ops.graph, m.ops.elementwise
        carry, element, outer = g.fresh("element", start.type), g.fresh("element", Type("real", (A,))), g.fresh("element", rate.type)
        following = e("add", e("mul", carry, outer), element)
        invariant = e("exp", e("mul", rate, 3.0))
        body = Region((("0", following), ("1", e("mul", following, invariant)), ("2", e("gt", element, 0.0))), (carry, element, outer))
        loop = m.ops.make("scan", (start, x, rate), Type("real"), body, carries=1, sequences=1, axis="token", backward=backward)
        results |= {
            f"final_{backward}": m.ops.make("item", (loop,), start.type, index=0),
            f"stacked_{backward}": m.ops.make("item", (loop,), Type("real", (TOKEN, A)), index=1),
            f"flags_{backward}": m.ops.make("item", (loop,), Type("bool", (TOKEN, A)), index=2),
        }
    return m.region(**results)


@case
def nested_loops(m: Maker) -> Case:
    g, e = m.ops.graph, m.ops.elementwise
    table, t = m.data("table", A, B), m.clock("t", 2)
    total, row, scale = g.fresh("element", Type("real")), g.fresh("element", Type("real", (B,))), g.fresh("element", Type("int"))
    inner_total, entry, inner_scale = g.fresh("element", Type("real")), g.fresh("element", Type("real")), g.fresh("element", Type("int"))
    more = e("add", e("mul", inner_total, 0.5), e("mul", entry, inner_scale))
    inner = m.ops.make(
        "scan",
        (total, row, scale),
        Type("real"),
        Region((("0", more),), (inner_total, entry, inner_scale)),
        carries=1,
        sequences=1,
        axis="b",
        backward=False,
    )
    found = m.ops.make("item", (inner,), Type("real"), index=0)
    big = e("gt", found, 0.0)
    chosen = m.ops.choose(big, e("sqrt", found), e("neg", found))
    outer = m.ops.make(
        "scan",
        (0.0, table, t),
        Type("real"),
        Region((("0", chosen), ("1", found)), (total, row, scale)),
        carries=1,
        sequences=1,
        axis="a",
        backward=False,
    )
    return m.region(final=m.ops.make("item", (outer,), Type("real"), index=0), each=m.ops.make("item", (outer,), Type("real", (A,)), index=1))

"""Regions of several operations: lazy choices, an update with everything in it, and what the kernels are tried on.

The kernels' sizes are no multiples of a block.
"""

from __future__ import annotations

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from tests.backends.operation_cases import PARAM, A, B, Case, Maker, case

WIDE = Axis("param", 5003)
NODE = Axis("node", 3)


def optimizer(m: Maker, axes: tuple[Axis, ...] = (WIDE,), friction: bool = True) -> Case:
    """diffGrad: two moments, bias correction, a friction term, and a state that becomes the gradient."""
    p, g = m.data("net", *axes, kind="param"), m.data("grad", *axes)
    first, second, previous = m.data("m", *axes, kind="state"), m.data("v", *axes, kind="state", low=0), m.data("previous", *axes, kind="state")
    t, e = m.clock("t", 3), m.ops.elementwise
    m1 = e("add", e("mul", 0.9, first), e("mul", 0.1, g))
    v1 = e("add", e("mul", 0.999, second), e("mul", 0.001, e("pow", g, 2)))
    hat = e("div", m1, e("sub", 1.0, e("pow", 0.9, t)))
    step = e("div", hat, e("add", e("sqrt", e("div", v1, e("sub", 1.0, e("pow", 0.999, t)))), 1e-8))
    results = {"state/m": m1, "state/v": v1}
    if friction:
        step = e("mul", e("sigmoid", e("abs", e("sub", previous, g))), step)
        results["state/previous"] = g
    return m.region(**results, **{"param/net": e("sub", p, e("mul", 0.001, step))})


def by_node(m: Maker) -> Case:
    """An update over nodes: a rate for each node, a direction shared by all, a mixing step that ends the first kernel."""
    p, g = m.data("net", NODE, WIDE, kind="param"), m.data("grad", NODE, WIDE)
    rate, shared, flag = m.data("rate", NODE), m.data("shared", WIDE), m.data("flag", NODE, base="bool")
    e = m.ops.elementwise
    moved = e("sub", p, e("mul", rate, e("add", g, e("mul", 0.5, shared))))
    mean = m.ops.reduce("sum", moved, ["node"])
    mixed = e("add", e("mul", 0.5, moved), e("mul", 0.5, e("div", mean, 3.0)))
    return m.region(**{"param/net": m.ops.where(flag, mixed, p), "mean": mean})


def swapped(m: Maker) -> Case:
    """Two states change places; a third is read after its new value is there."""
    a, b, c = (m.data(n, WIDE, kind="state") for n in "abc")
    e = m.ops.elementwise
    c1 = e("add", e("mul", c, 0.5), a)
    return m.region(**{"state/a": b, "state/b": a, "state/c": c1, "gap": e("sub", c1, c), "sum": e("add", a, b)})


def lazy_state(m: Maker) -> Case:
    """A state that changes every third step only; another that is kept as long as a flag of the data says so."""
    p, g, s, r = m.data("net", WIDE, kind="param"), m.data("grad", WIDE), m.data("s", WIDE, kind="state"), m.data("r", WIDE, kind="state")
    t, flag, e = m.clock("t", 3), m.data("flag", base="bool"), m.ops.elementwise
    due = e("eq", e("mod", t, 3), 0)
    s1 = m.ops.choose(due, e("add", e("mul", s, 0.5), e("mul", g, g)), s)
    r1 = m.ops.choose(flag, r, e("sub", e("mul", r, 0.25), g))
    return m.region(**{"state/s": s1, "state/r": r1, "param/net": e("sub", p, e("mul", s1, r1))})


def old_value(m: Maker) -> Case:
    """The old parameters are asked for beside the new ones, and read by a sum that also reads the new ones."""
    p, g, e = m.data("net", WIDE, kind="param"), m.data("grad", WIDE), m.ops.elementwise
    new = e("sub", p, e("mul", 0.1, e("tanh", g)))
    moved = m.ops.reduce("max", e("abs", e("sub", new, p)), ["param"])
    return m.region(**{"param/net": new, "before": p, "moved": moved})


def view_of_state(m: Maker) -> Case:
    """A leaf of the old state is read by a contraction, which therefore comes before the update."""
    p, g, e = m.data("net", WIDE, kind="param"), m.data("grad", WIDE), m.ops.elementwise
    leaf: Node = m.ops.leaf(p, 0, (Axis("row", 50), Axis("col", 100)))
    first = e("mul", e("add", g, 1.0), 0.5)
    return m.region(
        **{"param/net": e("sub", p, first), "product": m.ops.dot(leaf, leaf, ["col"])}
        | {"tail": m.ops.reduce("sum", m.ops.leaf(p, 5000, (Axis("rest", 3),)), ["rest"])}
    )


def mixed_types(m: Maker) -> Case:
    """Ints and bools among reals, in every position that a kernel allows."""
    x, y, n, flag = m.data("x", WIDE), m.data("y", WIDE), m.data("n", WIDE, base="int", low=-4, high=5), m.data("flag", WIDE, base="bool")
    e, w = m.ops.elementwise, m.ops.where
    signs = e("sign", e("sub", x, y))
    levels = e("round", e("mul", x, 7.0))
    chosen = w(e("and", flag, e("gt", x, y)), n, e("neg", n))
    return m.region(
        quantized=e("div", levels, 7.0),
        levels=levels,
        masked=e("mul", x, flag),
        counted=e("add", e("mul", n, 2), 1),
        chosen=chosen,
        signs=signs,
        mixed=e("add", e("mul", 0.5, n), e("mul", x, y)),
        logic=e("or", e("not", flag), e("le", n, 1)),
        less=e("lt", n, x),
        soft=e("softplus", e("minimum", x, 1.0)),
        turned=e("sub", 1.0, e("exp", x)),
        inverse=e("div", 1.0, e("add", 3.0, y)),
        power=e("pow", 2.0, x),
        rest=e("mod", x, 0.75),
        held=e("mul", e("floor", x), y),
        quotient=e("sub", x, e("div", e("mul", 0.3, y), e("mul", e("add", x, 5.0), e("add", y, 7.0)))),
        three=e("add", x, e("mul", e("mul", x, y), e("exp", x))),
        negated=e("sub", e("neg", e("mul", x, y)), e("neg", x)),
        lerp_like=e("add", e("mul", 0.3, x), e("mul", 0.8, y)),
        same=e("add", x, x),
        stopped=e("stop", e("sin", x)),
        clamped=e("maximum", 0.25, e("minimum", e("cos", x), 0.75)),
        largest=e("maximum", x, y),
        whole=e("minimum", n, 3),
        signed=w(flag, 1, -1),
        truth=w(flag, e("gt", x, 0.0), False),
    )


@case
def lazy(m: Maker) -> Case:
    x, y, t, flag = m.data("x", A, B), m.data("y", A, B), m.clock("t", 5), m.data("flag", base="bool")
    e = m.ops.elementwise
    first = e("eq", e("mod", t, 5), 0)
    shared = e("exp", x)
    a = m.ops.choose(first, e("mul", shared, 2.0), y)
    b = m.ops.choose(first, e("add", shared, 1.0), e("sub", y, 1.0))
    nested = m.ops.choose(flag, m.ops.choose(first, e("log", e("abs", x)), y), e("sin", y))
    after = m.ops.choose(first, e("mul", a, 3.0), e("mul", a, 5.0))
    number = m.ops.choose(first, e("mul", t, 2), 1)
    return m.region(a=a, b=b, nested=nested, after=after, number=e("mul", x, number), mixed=m.ops.choose(flag, x, 0.0), clock=number)


@case
def adaptive_step(m: Maker) -> Case:
    """Every pattern of the kernels at once: interpolation, products, quotients, clipping by a norm, selection, rounding."""
    p, g, first, second = (m.data(n, PARAM, kind=kind) for n, kind in (("p", "param"), ("g", "input"), ("m", "state"), ("v", "state")))
    m.inputs["state", "v"] = abs(m.inputs["state", "v"])
    t, e, lr = m.clock("t", 4), m.ops.elementwise, m.data("lr", low=0.01, high=0.1)
    norm = e("sqrt", m.ops.reduce("sum", e("mul", g, g), ["param"]))
    clipped = e("mul", g, e("minimum", 1.0, e("div", 1.0, norm)))
    m1 = e("add", e("mul", 0.9, first), e("mul", 0.1, clipped))
    v1 = e("add", e("mul", 0.99, second), e("mul", 0.01, e("pow", clipped, 2)))
    hat = e("div", m1, e("sub", 1.0, e("pow", 0.9, t)))
    step = e("div", hat, e("add", e("sqrt", v1), 1e-8))
    gate = m.ops.where(e("gt", e("mul", hat, clipped), 0.0), 1.0, 0.5)
    whole = e("div", e("floor", e("add", e("mul", step, 64.0), 0.5)), 64.0)
    after = e("sub", e("mul", p, e("sub", 1.0, e("mul", lr, 0.01))), e("mul", lr, e("mul", gate, whole)))
    return m.region(**{"param/p": after, "state/m": m1, "state/v": v1, "norm": norm})


def turned(m: Maker) -> Case:
    """The first operand of a kernel lies in memory with its dimensions the other way round."""
    x, e = m.data("x", WIDE, NODE), m.ops.elementwise
    y = m.ops.transpose(x, ["node", "param"])
    return m.region(sine=e("sin", e("mul", y, 2.0)), gap=e("sub", e("exp", y), m.data("z", NODE, WIDE)))


CASES = {
    "turned": lambda: turned(Maker()),
    "optimizer": lambda: optimizer(Maker()),
    "optimizer_by_node": lambda: optimizer(Maker(), (NODE, WIDE)),
    "adam": lambda: optimizer(Maker(), friction=False),
    "by_node": lambda: by_node(Maker()),
    "swapped": lambda: swapped(Maker()),
    "lazy_state": lambda: lazy_state(Maker()),
    "old_value": lambda: old_value(Maker()),
    "view_of_state": lambda: view_of_state(Maker()),
    "mixed_types": lambda: mixed_types(Maker()),
}

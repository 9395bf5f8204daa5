"""The softmax family and what is trained or judged with it."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.reductions import averaged, one_axis
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator


def log_normalizer(e: Elaborator, x: Node, axis: str) -> Any:
    peak = e.ops.elementwise("stop", e.ops.reduce("max", x, [axis]))
    total = e.ops.reduce("sum", e.ops.elementwise("exp", e.ops.elementwise("sub", x, peak)), [axis])
    return e.ops.elementwise("add", e.ops.elementwise("log", total), peak)


@builtin("softmax(x, over: axis)", "exp(x) / sum(exp(x)), without overflow.", "losses")
def softmax(a: Arguments) -> Any:
    return a.e.ops.elementwise("exp", log_softmax(a))


@builtin("log_softmax(x, over: axis)", "x - log(sum(exp(x))), without overflow.", "losses")
def log_softmax(a: Arguments) -> Any:
    x = a.node(0)
    return a.e.ops.elementwise("sub", x, log_normalizer(a.e, x, one_axis(a, x)))


@builtin(
    "cross_entropy(logits, label, over: axis)",
    "-log softmax at the label. Without `over:` its mean; with it one value for each entry.",
    "losses",
    2,
    2,
)
def cross_entropy(a: Arguments) -> Any:
    x, label = a.node(0), a.node(1)
    if label.type.target is None:
        raise mistake(
            "E0310", a.places[1].span, f"labels must be an index map, this is {v.kind_name(label)}",
            why="`[sample -> class]` says which class each sample has",
            fix="pass the labels second: `cross_entropy(net(train.x), train.y)`",
        )  # fmt: skip
    axis = a.over(x)[0] if a.has("over") else label.type.target.name
    if not x.type.has(axis):
        raise mistake(
            "E0303", a.places[0].span, f"the logits have no axis `{axis}`", why=f"they are {v.kind_name(x)}",
            fix=f"the model's output axis must be `{axis}`",
        )  # fmt: skip
    loss = a.e.ops.elementwise("sub", log_normalizer(a.e, x, axis), a.e.ops.gather(x, label, axis))
    if a.has("over"):
        return loss
    return averaged(a, loss, None, tuple(n for n in a.e.tensor(loss).type.names if n != "node"))


@builtin("squared_error(x, y)", "The mean of (x - y)^2.", "losses", 2, 2)
def squared_error(a: Arguments) -> Any:
    gap = a.e.ops.elementwise("sub", *a.aligned(a.tensor(0), a.tensor(1)))
    return averaged(a, a.e.ops.elementwise("mul", gap, gap), None, a.over(gap))


@builtin("accuracy(logits, label)", "The share of entries whose largest logit is at the label.", "losses", 2, 2)
def accuracy(a: Arguments) -> Any:
    x, label = a.node(0), a.node(1)
    if label.type.target is None or not x.type.has(label.type.target.name):
        raise mistake(
            "E0310", a.places[1].span, "labels must be an index map into an axis of the logits",
            why=f"the labels are {v.kind_name(label)}, the logits {v.kind_name(x)}",
            fix="`accuracy(net(test.x), test.y)`",
        )  # fmt: skip
    best = a.e.ops.arg_reduce("argmax", x, label.type.target.name)
    same = a.e.ops.constant(a.e.ops.elementwise("eq", best, label))
    return averaged(a, same, None, tuple(n for n in same.type.names if n != "node"))

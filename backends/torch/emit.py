"""From a node to the text of a torch expression: one table, op -> function(writer, node) -> text.

`Writer` knows how each value is called in the source that is being written, which values are plain Python numbers there, and how a value is
brought to other axes: a permutation or an inserted dimension is written only where the order at hand does not fit. A tensor's dimensions are
always in the order of `node.type.axes`. Loops and calls of models are more than an expression; they are in `program.py` and `calls.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gradflow.backends.torch import templates
from gradflow.graph.graph import Node
from gradflow.graph.operations import ELEMENTWISE, REDUCTIONS

DTYPES = {"real": "real", "int": "torch.int64", "bool": "torch.bool"}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class UnknownSize(ValueError):
    """No value in reach has the axis whose length is needed."""


class Writer:
    """Names of values. `constants` are objects that the source refers to by name because they have no literal."""

    def __init__(self, users: Mapping[int, list[Node]], kept: Iterable[int], witnesses: Mapping[tuple[int, str], Node], outer: Writer | None = None):
        self.names: dict[int, str] = dict(outer.names) if outer else {}
        self.hosts: set[int] = set(outer.hosts) if outer else set()
        self.constants: dict[str, Any] = outer.constants if outer else {}
        self.users = users
        self.kept = set(kept)
        self.witnesses = witnesses
        self.pointers: Mapping[str, list[Node]] = outer.pointers if outer else {}
        self.lengths: dict[str, str] = outer.lengths if outer else {}  # sizes that are read off once, before everything else
        self.plain = False  # nothing is read through anything else

    def is_host(self, node: Node) -> bool:
        return node.op == "const" or node.id in self.hosts

    def ref(self, node: Node) -> str:
        """The value's name; a constant's literal."""
        return literal(node["value"]) if node.op == "const" else self.names[node.id]

    def constant(self, value: Any, prefix: str) -> str:
        """The text of a static value: its literal where it has one, else a name under which it is handed over."""
        if plain(value):
            return repr(value) if not isinstance(value, float) else literal(value)
        name = next((n for n, known in self.constants.items() if known is value), f"{prefix}_{len(self.constants)}")
        self.constants[name] = value
        return name

    def tensor(self, node: Node, base: str | None = None) -> str:
        """The value as a tensor, of this base."""
        if self.is_host(node):
            return f"torch.tensor({self.ref(node)}, dtype={DTYPES[base or node.type.base]}, device=device)"
        return self.cast(node, self.ref(node), base)

    def cast(self, node: Node, text: str, base: str | None) -> str:
        if base is None or node.type.base == base or self.is_host(node):
            return text
        return f"{text}.to({DTYPES[base]})"

    def align(self, node: Node, names: Sequence[str], base: str | None = None) -> str:
        """The value with dimensions in the order of `names`, length 1 for those it lacks (left out where they lead)."""
        if self.is_host(node):
            return self.ref(node)
        return self.cast(node, aligned(self.ref(node), node.type.names, names), base)

    def full(self, node: Node, names: Sequence[str], sizes: Callable[[str], str], base: str | None = None) -> str:
        """The value with exactly the axes `names`, repeated along those it lacks."""
        if self.is_host(node):
            return f"torch.full({shape(sizes(n) for n in names)}, {self.ref(node)}, dtype={DTYPES[base or node.type.base]}, device=device)"
        text = self.align(node, names, base)
        if set(names) == set(node.type.names):
            return text
        return f"{text}.expand({', '.join(sizes(n) if n not in node.type.names else '-1' for n in names)})"

    def size(self, node: Node, name: str) -> str:
        """The length of an axis of the node's result, as text."""
        size = node.type.axis(name).size if node.type.has(name) else None
        if size is not None:
            return str(size)
        for below in node.inputs:
            if below.type.has(name) and not self.is_host(below) and below.op != "scan":
                return self.size_of(below, name)
        witness = self.witnesses.get((node.id, name))
        if witness is not None:
            return self.size_of(witness, name)
        if name in self.pointers:
            text = f"entries({', '.join(self.ref(source) for source in self.pointers[name])})"
            return self.lengths.setdefault(text, f"size{len(self.lengths) + 1}")
        raise UnknownSize(f"the size of axis `{name}` is not known: {node!r} (from {node.span})")

    def size_of(self, node: Node, name: str) -> str:
        size = node.type.axis(name).size
        return str(size) if size is not None else f"{self.ref(node)}.shape[{node.type.names.index(name)}]"


# ---- text


def plain(value: Any) -> bool:
    """Whether `repr` of a value is source that makes it again."""
    if isinstance(value, tuple):
        return all(plain(v) for v in value)
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return repr(value)


def shape(sizes: Iterable[str]) -> str:
    sizes = list(sizes)
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def permuted(text: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    """All axes, in another order."""
    if tuple(names) == tuple(wanted):
        return text
    return f"{text}.permute({', '.join(str(list(names).index(n)) for n in wanted)})"


def aligned(text: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    kept = [n for n in wanted if n in names]
    text = permuted(text, names, kept)
    if not kept:
        return text
    marks = [":" if n in names else "None" for n in wanted[list(wanted).index(kept[0]) :]]
    if "None" not in marks:
        return text
    if len(marks) > 3 and set(marks[: len(kept)]) == {":"}:
        return f"{text}[..., {', '.join(marks[len(kept) :])}]"
    return f"{text}[{', '.join(marks)}]"


def positions(node: Node, names: Sequence[str]) -> str:
    return shape(str(node.type.names.index(n)) for n in names)


# ---- elementwise


def elementwise(w: Writer, node: Node) -> str:
    if w.is_host(node):
        texts = [w.ref(below) for below in node.inputs]
        template = templates.NUMBERS.get(node.op, f"number_{node.op}({', '.join(f'{{{i}}}' for i in range(len(texts)))})")
        return template.format(*texts)
    if node.op in templates.TO_WHOLE and node.inputs[0].type.base != "real":
        return w.tensor(node.inputs[0], "int")
    texts = [w.align(below, node.type.names, base) for below, base in zip(node.inputs, operand_bases(w, node), strict=True)]
    if node.op in templates.LOGIC:
        texts = [text if below.type.base == "bool" else f"({text} != 0)" for text, below in zip(texts, node.inputs, strict=True)]
    numbers = [i for i, below in enumerate(node.inputs) if w.is_host(below)]
    if len(numbers) == len(texts):  # static operands of a value that must be a tensor
        texts[0] = w.tensor(node.inputs[0], node.type.base)
        numbers = numbers[1:]
    special = templates.WITH_NUMBER.get((node.op, numbers[0])) if numbers else None
    text = (special or templates.EXPRESSIONS[node.op]).format(*texts)
    return f"{text}.to(torch.int64)" if node.op in templates.TO_WHOLE else text


def operand_bases(w: Writer, node: Node) -> list[str | None]:
    """To what each operand is converted first, so that torch gives the result's type: real before an operation on ints, int on bools."""
    below, op = node.inputs, node.op
    if op in templates.COMPARISONS or op in templates.LOGIC or op in templates.TO_WHOLE or op in ("isfinite", "stop"):
        return [None] * len(below)
    if node.type.base == "real" and any(b.type.base == "real" and not w.is_host(b) for b in below):
        return [None] * len(below)
    return [node.type.base] * len(below)


def where(w: Writer, node: Node) -> str:
    condition, a, b = node.inputs
    if w.is_host(node):
        return f"{w.ref(a)} if {w.ref(condition)} else {w.ref(b)}"
    texts = [w.align(x, node.type.names, node.type.base) for x in (a, b)]
    if w.is_host(a) and w.is_host(b):
        texts[0] = w.tensor(a, node.type.base)
    chosen = w.tensor(condition, "bool") if w.is_host(condition) else w.align(condition, node.type.names, "bool")
    return f"torch.where({chosen}, {texts[0]}, {texts[1]})"


# ---- reductions


def reduction(w: Writer, node: Node) -> str:
    below, over = node.inputs[0], node["over"]
    dims = positions(below, over)
    known = all(below.type.axis(n).size for n in over)
    products = sum_of_products(w, node)
    if products is not None:
        return products
    if node.op in ("any", "all"):
        return f"{w.cast(below, w.ref(below), 'bool')}.{node.op}({dims})"
    text = w.cast(below, w.ref(below), node.type.base)
    if node.op == "sum":
        return f"{text}.sum({dims})"
    if node.op == "prod":
        return f"product({text}, {dims})"
    return f"{text}.a{node.op}({dims})" if known else f"extreme({node.op!r}, {text}, {dims})"


def sum_of_products(w: Writer, node: Node) -> str | None:
    """sum(a * b), sum(a^2) and sum(abs(a)) without the product in memory, where nothing else reads it (see `absorbed`)."""
    inner = absorbed(w, node)
    if inner is None:
        return None
    over = node["over"]
    if inner.op == "abs":
        return f"torch.linalg.vector_norm({w.ref(inner.inputs[0])}, 1, {positions(inner, over)})"
    a, b = inner.inputs[0], inner.inputs[-1] if inner.op == "mul" else inner.inputs[0]
    if a is b:
        return f"torch.linalg.vector_norm({w.ref(a)}, 2, {positions(inner, over)}).square()"
    return contraction(w, a, b, node.type.names)


def absorbed(w: Writer, node: Node) -> Node | None:
    """The operand of a sum that is better not computed on its own."""
    if w.plain or node.op != "sum" or node.type.base != "real":
        return None
    inner = node.inputs[0]
    if inner.id in w.kept or len(w.users.get(inner.id, ())) != 1 or inner.op not in ("mul", "pow", "abs"):
        return None
    if inner.op == "pow" and not (inner.inputs[1].op == "const" and inner.inputs[1]["value"] == 2):
        return None
    used = inner.inputs[:1] if inner.op == "pow" else inner.inputs
    return inner if all(x.type.base == "real" and x.type.names == inner.type.names for x in used) else None


def arg_extreme(w: Writer, node: Node) -> str:
    below, over = node.inputs[0], node["over"]
    text = w.cast(below, w.ref(below), "int") if below.type.base == "bool" else w.ref(below)
    dim = below.type.names.index(over)
    return f"{text}.{node.op}({dim})" if below.type.axis(over).size else f"arg_extreme({node.op!r}, {text}, {dim})"


def cumsum(w: Writer, node: Node) -> str:
    below = node.inputs[0]
    return f"{w.cast(below, w.ref(below), node.type.base)}.cumsum({below.type.names.index(node['over'])})"


def dot(w: Writer, node: Node) -> str:
    a, b = node.inputs
    return contraction(w, a, b, node.type.names)


def contraction(w: Writer, a: Node, b: Node, result: Sequence[str]) -> str:
    """Sum of products over the axes that the result lacks: as a matrix product where it is one, else by einsum."""
    left, right = w.tensor(a, "real"), w.tensor(b, "real")
    names, others = a.type.names, b.type.names
    if len(names) == len(others) == 1 and names == others and not result:
        return f"torch.dot({left}, {right})"
    shared = [n for n in names if n in others]
    if len(shared) == 1 and shared[0] not in result and max(len(names), len(others)) <= 2 and len(names) + len(others) > 2:
        first = tuple(n for n in names if n in result)
        second = tuple(n for n in others if n in result)
        if tuple(result) == (*second, *first) and first and second:
            first, second, left, right, names, others = second, first, right, left, others, names
        if tuple(result) == (*first, *second):
            return f"{matrix(left, names, (*first, shared[0]))} @ {matrix(right, others, (shared[0], *second))}"
    letters = {n: LETTERS[i] for i, n in enumerate(dict.fromkeys((*names, *others)))}
    formula = f"{''.join(letters[n] for n in names)},{''.join(letters[n] for n in others)}->{''.join(letters[n] for n in result)}"
    return f"torch.einsum({formula!r}, {left}, {right})"


def matrix(text: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    return text if tuple(names) == tuple(wanted) else f"{text}.T"


OPERATIONS: dict[str, Callable[[Writer, Node], str]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCTIONS, reduction),
    "where": where, "argmax": arg_extreme, "argmin": arg_extreme, "cumsum": cumsum, "dot": dot,
}  # fmt: skip

"""From the nodes of one kernel to a list of torch calls that write into given memory.

Sums and products are put together before they become calls: a chain of products and quotients is one coefficient (known before the loop),
tensor factors and divisors, so that `x + c * y`, `x + c * y * z`, `x + c * y / z` and `a * x + (1 - a) * y` are one call each (`add` with
`alpha`, `addcmul`, `addcdiv`, `lerp`). The value changes by rounding only.

Values are the ids of nodes; negative ids are intermediate results. `Step.template` names its operands {0}, {1}, .. and its result {out}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gradflow.backends.torch import templates
from gradflow.backends.torch.emit import DTYPES, literal
from gradflow.backends.torch.fuse import Group, source_of
from gradflow.graph.graph import Node

NEARLY = 1e-12  # how far coefficients may be from summing to 1 in an interpolation: rounding of 1 - beta


@dataclass(frozen=True)
class Step:
    """One call. `base` is the type of what it writes."""

    template: str
    operands: tuple[int, ...]
    out: int
    base: str


@dataclass
class Product:
    """coefficient * factors / divisors; the coefficient is text of (number, is it a divisor)."""

    sign: int = 1
    numbers: list[tuple[Node, bool]] = field(default_factory=list)
    factors: list[Node] = field(default_factory=list)
    divisors: list[Node] = field(default_factory=list)


class Selector:
    """Chooses the calls for one group. `is_number`: values that are Python numbers inside the kernel; `name` gives their text."""

    def __init__(self, group: Group, outputs: set[int], is_number: Callable[[Node], bool], name: Callable[[Node], str]):
        self.group, self.outputs, self.is_number, self.name = group, outputs, is_number, name
        self.own = {node.id: node for node in group.nodes}
        self.uses: dict[int, int] = {}
        for node in group.nodes:
            for below in node.inputs:
                self.uses[below.id] = self.uses.get(below.id, 0) + 1
        self.steps: list[Step] = []
        self.prologue: dict[str, str] = {}  # text of a coefficient or 0-d tensor -> its name
        self.alias: dict[int, int] = {}
        self.held: set[int] = set()  # whole numbers that are left as reals
        self.fresh = 0

    def select(self, order: list[Node]) -> list[Step]:
        chained = {b.id for node in order for b in self._absorbed(node)}
        for node in order:
            if node.id not in chained:
                self._node(node)
        return self.steps

    # ---- values

    def origin(self, node: Node) -> Node:
        """The value an operand stands for: itself, or the smaller one that it repeats."""
        return node if node.id in self.own else source_of(node, self.group.names)

    def number(self, node: Node) -> bool:
        return self.is_number(self.origin(node))

    def value(self, node: Node) -> int:
        node = self.origin(node)
        return self.alias.get(node.id, node.id)

    def real(self, node: Node) -> int:
        """The value as a real one."""
        node = self.origin(node)
        return self.value(node) if node.type.base == "real" or node.id in self.held else self._step("{out}.copy_({0})", (self.value(node),), "real")

    def _step(self, template: str, operands: tuple[int, ...], base: str, out: int | None = None) -> int:
        if out is None:
            self.fresh -= 1
            out = self.fresh
        self.steps.append(Step(template, operands, out, base))
        return out

    def _before(self, text: str, prefix: str) -> str:
        """A name for something that is worked out once, before the loop."""
        return self.prologue.setdefault(text, f"{prefix}{len(self.prologue) + 1}")

    def scalar(self, node: Node, base: str) -> str:
        """A number as a 0-d tensor, for calls that take only tensors."""
        return self._before(f"torch.tensor({self.text(node)}, dtype={DTYPES[base]}, device=device)", "k")

    def text(self, node: Node) -> str:
        node = self.origin(node)
        return literal(node["value"]) if node.op == "const" else self.name(node)

    # ---- one node

    def _node(self, node: Node) -> None:
        if node.op == "stop":
            if node.id in self.outputs:
                self._step("{out}.copy_({0})", (self.value(node.inputs[0]),), node.type.base, node.id)
            else:
                self.alias[node.id] = self.value(node.inputs[0])
        elif node.type.base == "real" and node.op in ("add", "sub"):
            self._sum(node)
        elif node.type.base == "real" and node.op in ("mul", "div", "neg"):
            self._product(self.product(node), node.id)
        elif node.op == "pow" and self._is_square(node):
            self._step("torch.mul({0}, {0}, out={out})", (self.real(node.inputs[0]),), "real", node.id)
        elif node.op in templates.TO_WHOLE:
            self._whole(node)
        else:
            self._call(node)

    def _is_square(self, node: Node) -> bool:
        exponent = node.inputs[1]
        return node.type.base == "real" and exponent.op == "const" and exponent["value"] == 2

    def _whole(self, node: Node) -> None:
        """floor, round, ..: left as a real where only real arithmetic reads it, which spares a conversion there and back."""
        readers = [n for n in self.group.nodes if node in n.inputs]
        stays = node.id not in self.outputs and all(r.type.base == "real" and r.op != "where" for r in readers)
        out = node.id if stays else None
        if stays:
            self.held.add(node.id)
        calls = templates.CALLS[node.op]
        assert calls is not None
        operands: tuple[int, ...] = (self.real(node.inputs[0]),)
        for call in calls:
            last = self._step(call.replace("{out}, out", "{0}, out"), operands, "real", out if call is calls[-1] else None)
            operands = (last,)
        if not stays:
            self._step("{out}.copy_({0})", operands, "int", node.id)

    def _call(self, node: Node) -> None:
        """An operation without a pattern of its own, operands converted where the types differ."""
        op, below = node.op, list(node.inputs)
        if self.number(below[0]) and op in templates.SWAPPED:
            op, below = templates.SWAPPED[op], below[::-1]
        tensors = [b for b in below if not self.number(b)]
        mixed = {b.type.base for b in (tensors[1:] if op == "where" and not self.number(below[0]) else tensors)}
        base = node.type.base if op == "where" or node.type.base == "real" else "real" if len(mixed) != 1 else next(iter(mixed))
        calls = templates.CALLS[op]
        assert calls is not None
        template = calls[0]
        numbers = [b for b in below if self.number(b)]
        if op in ("minimum", "maximum") and numbers:
            template = f"torch.clamp({{0}}, {'max' if op == 'minimum' else 'min'}={self.text(numbers[0])}, out={{out}})"
            below = tensors
        operands: list[int] = []
        for i, b in enumerate(below):
            if self.number(b):
                wanted = "bool" if op == "where" and i == 0 else base
                template = template.replace(f"@{i}", self.scalar(b, wanted)).replace(f"{{{i}}}", self.text(b))
            else:
                template = template.replace(f"@{i}", f"{{{i}}}").replace(f"{{{i}}}", f"{{{len(operands)}}}")
                operands.append(self.real(b) if base == "real" and not (op == "where" and i == 0) else self.value(b))
        if "@zero" in template:
            template = template.replace("@zero", self._before("torch.zeros((), dtype=real, device=device)", "k"))
        self._step(template, tuple(operands), node.type.base, node.id)

    # ---- products

    def _chain(self, node: Node) -> bool:
        """Whether a node may vanish into the chain of its only reader."""
        inner = node.id in self.own and self.uses.get(node.id) == 1 and node.id not in self.outputs and node.type.base == "real"
        return inner and (node.op in ("mul", "div", "neg") or (node.op == "pow" and self._is_square(node)))

    def _absorbed(self, node: Node) -> list[Node]:
        """The operands that become part of this node's own chain."""
        if node.type.base != "real" or node.op not in ("add", "sub", "mul", "div", "neg"):
            return []
        if node.op in ("add", "sub"):
            roots = [side for side in self._sides(node) if side is not None]
            return [n for root in roots for n in (root, *self._absorbed_below(root))]
        return self._absorbed_below(node)

    def _absorbed_below(self, node: Node) -> list[Node]:
        if node.op == "pow":
            return []
        inner = [b for b in node.inputs if self._chain(b)]
        return [n for b in inner for n in (b, *self._absorbed_below(b))]

    def product(self, node: Node, into: Product | None = None, divides: bool = False) -> Product:
        """A chain of mul, div, neg and squares as one product."""
        p = into if into is not None else Product()
        if node.op == "pow":
            (p.divisors if divides else p.factors).extend([node.inputs[0]] * 2)
            return p
        if node.op == "neg":
            p.sign = -p.sign
        for i, below in enumerate(node.inputs):
            under = divides != (node.op == "div" and i == 1)
            if self.number(below):
                p.numbers.append((self.origin(below), under))
            elif self._chain(below):
                self.product(below, p, under)
            else:
                (p.divisors if under else p.factors).append(below)
        return p

    def coefficient(self, p: Product, negated: bool = False) -> str | None:
        """The text of a product's coefficient; None where it is 1. Worked out here where all of it is known."""
        sign = -p.sign if negated else p.sign
        known = self._static(p)
        if known is not None:
            return None if sign * known == 1.0 else literal(sign * known)
        text = ""
        for node, under in sorted(p.numbers, key=lambda item: item[1]):
            if under:
                divisor = node["value"] if node.op == "const" else 0
                text = f"{text or '1.0'} / {self.text(node)}" if divisor else f"number_div({text or '1.0'}, {self.text(node)})"
            else:
                text = f"{text} * {self.text(node)}" if text else self.text(node)
        return self._before(f"-({text})" if sign < 0 else text, "c") if sign < 0 or not text.isidentifier() else text

    def _static(self, p: Product) -> float | None:
        value = 1.0
        for node, under in p.numbers:
            if node.op != "const" or (under and not node["value"]):
                return None
            value = value / node["value"] if under else value * node["value"]
        return value

    def _multiplied(self, nodes: list[Node], out: int | None = None) -> int:
        """The product of tensors, in as many calls as it takes."""
        value = self.real(nodes[0])
        for i, node in enumerate(nodes[1:], 2):
            value = self._step("torch.mul({0}, {1}, out={out})", (value, self.real(node)), "real", out if i == len(nodes) else None)
        return value

    def _product(self, p: Product, out: int) -> None:
        """A product on its own."""
        c = self.coefficient(p)
        calls: list[tuple[str, tuple[int, ...]]] = []
        if p.factors:
            value = self.real(p.factors[0])
            calls = [("torch.mul({0}, {1}, out={out})", (self.real(f),)) for f in p.factors[1:]]
            calls += [(f"torch.mul({{0}}, {c}, out={{out}})", ())] if c is not None else []
        else:
            value, top = self.real(p.divisors[0]), self._before(f"torch.tensor({c or 1.0}, dtype=real, device=device)", "k")
            calls, p = [(f"torch.div({top}, {{0}}, out={{out}})", ())], Product(divisors=p.divisors[1:])
        calls += [("torch.div({0}, {1}, out={out})", (self.real(d),)) for d in p.divisors]
        calls = calls or [("{out}.copy_({0})", ())]
        for i, (template, more) in enumerate(calls, 1):
            value = self._step(template, (value, *more), "real", out if i == len(calls) else None)

    # ---- sums

    def _sides(self, node: Node) -> tuple[Node | None, Node | None]:
        """(kept as it is or part of an interpolation, added with a coefficient): which operands of a sum vanish into it."""
        a, b = node.inputs
        chains = [self._chain(x) and bool(self.product(x).factors) for x in (a, b)]
        if all(chains) and self._interpolates(node):
            return a, b
        if chains[1] and not self.number(a):
            return None, b
        if chains[0] and node.op == "add" and not self.number(b):
            return None, a
        return None, None

    def _interpolates(self, node: Node) -> bool:
        """a * x + (1 - a) * y."""
        if node.op != "add":
            return False
        p, q = (self.product(x) for x in node.inputs)
        if any(len(x.factors) != 1 or x.divisors or x.sign < 0 or len(x.numbers) != 1 or x.numbers[0][1] for x in (p, q)):
            return False
        first, second = p.numbers[0][0], q.numbers[0][0]
        if first.op == second.op == "const":
            return abs(first["value"] + second["value"] - 1) < NEARLY
        return any(
            u.op == "sub" and u.inputs[0].op == "const" and u.inputs[0]["value"] == 1 and u.inputs[1] is v
            for u, v in ((first, second), (second, first))
        )

    def _sum(self, node: Node) -> None:
        lerped, added = self._sides(node)
        if lerped is not None and added is not None:
            p, q = self.product(lerped), self.product(added)
            weight = self.coefficient(q)
            operands = self.real(p.factors[0]), self.real(q.factors[0])
            self._step(f"torch.lerp({{0}}, {{1}}, {weight or 1.0}, out={{out}})", operands, "real", node.id)
            return
        if added is None:
            self._plain_sum(node)
            return
        other = node.inputs[0] if node.inputs[1] is added else node.inputs[1]
        p = self.product(added)
        self._add_product(self.real(other), p, self.coefficient(p, negated=node.op == "sub"), node.id)

    def _add_product(self, base: int, p: Product, c: str | None, out: int) -> None:
        scale = f", value={c}" if c is not None else ""
        if not p.divisors and len(p.factors) == 1:
            alpha = f", alpha={c}" if c is not None else ""
            self._step(f"torch.add({{0}}, {{1}}{alpha}, out={{out}})", (base, self.real(p.factors[0])), "real", out)
        elif not p.divisors:
            operands = (base, self._multiplied(p.factors[:-1]), self.real(p.factors[-1]))
            self._step(f"torch.addcmul({{0}}, {{1}}, {{2}}{scale}, out={{out}})", operands, "real", out)
        else:
            top = self._multiplied(p.factors)
            for divisor in p.divisors[:-1]:
                top = self._step("torch.div({0}, {1}, out={out})", (top, self.real(divisor)), "real")
            self._step(f"torch.addcdiv({{0}}, {{1}}, {{2}}{scale}, out={{out}})", (base, top, self.real(p.divisors[-1])), "real", out)

    def _plain_sum(self, node: Node) -> None:
        a, b = node.inputs
        if self.number(a) and node.op == "sub":
            self._step(f"torch.sub({self.scalar(a, 'real')}, {{0}}, out={{out}})", (self.real(b),), "real", node.id)
        elif self.number(a) or self.number(b):
            tensor, number = (b, a) if self.number(a) else (a, b)
            self._step(f"torch.{node.op}({{0}}, {self.text(number)}, out={{out}})", (self.real(tensor),), "real", node.id)
        else:
            self._step(f"torch.{node.op}({{0}}, {{1}}, out={{out}})", (self.real(a), self.real(b)), "real", node.id)

"""What a flow trains: models, or those of their leaves that its targets name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.passes.formulas import force
from gradflow.passes.scope import Scope
from gradflow.passes.stages import Leaf
from gradflow.passes.suggestions import listed, suggestion


@dataclass(frozen=True)
class Trained:
    """What a flow trains of one model: all leaves, or those at the given places (`flow net.scale: ..`)."""

    model: v.Model
    places: tuple[int, ...] | None = None

    def layouts(self) -> list[tuple[str, tuple[Axis, ...]]]:
        """Names and axes of all leaves of the model."""
        if self.model.free is not None:
            return [(self.model.name, self.model.free)]
        return [(leaf.name, tuple(Axis(f"dim{i}", n) for i, n in enumerate(leaf.shape))) for leaf in self.model.spec.leaves]

    def leaves(self, prefix: str) -> list[Leaf]:
        layouts = self.layouts()
        return [Leaf(prefix + layouts[i][0], layouts[i][1]) for i in (range(len(layouts)) if self.places is None else self.places)]

    def taken(self, e: Elaborator, flat: Node) -> Node:
        """What is trained, out of all parameters of the model."""
        if self.places is None:
            return flat
        layouts, offsets = self.layouts(), self.offsets()
        pieces = [e.ops.leaf(flat, offsets[i], layouts[i][1]) for i in self.places]
        return e.ops.pack(pieces, [layouts[i][1] for i in self.places])

    def put(self, e: Elaborator, flat: Node) -> Node:
        """All parameters of the model with what is trained at `flat`."""
        if self.places is None:
            return flat
        layouts, offsets, whole = self.layouts(), self.offsets(), e.parameters_of(self.model)
        pieces, at = [], 0
        for i, (_, axes) in enumerate(layouts):
            own = i in self.places
            pieces.append(e.ops.leaf(flat, at, axes) if own else e.ops.leaf(whole, offsets[i], axes))
            at += Leaf("", axes).size if own else 0
        return e.ops.pack(pieces, [axes for _, axes in layouts])

    def offsets(self) -> list[int]:
        sizes = [Leaf(name, axes).size for name, axes in self.layouts()]
        return [sum(sizes[:i]) for i in range(len(sizes))]

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in self.leaves(""))


def leaves_of(parts: tuple[Trained, ...]) -> tuple[Leaf, ...]:
    """The leaves that a flow trains; of several models each leaf's name begins with its model's."""
    return tuple(leaf for part in parts for leaf in part.leaves(f"{part.model.name}." if len(parts) > 1 else ""))


def all_trained(targets: tuple[s.Target, ...], scope: Scope) -> tuple[Trained, ...]:
    """The flow's targets, each model once, in the order in which they are named."""
    found: dict[str, Trained] = {}
    for target in targets:
        one = trained(target, scope)
        known = found.get(one.model.name, one)
        places = None if known.places is None or one.places is None else tuple(sorted({*known.places, *one.places}))
        found[one.model.name] = replace(one, places=places)
    return tuple(found.values())


def trained(target: s.Target, scope: Scope) -> Trained:
    """The model that a flow's target names, and which of its leaves: `net`, or `net.scale` for those whose name ends so. Raises Mistake."""
    head_, _, rest = target.name.partition(".")
    found, value = scope.local(head_)
    value = force(value) if found else None
    if not isinstance(value, v.Model):
        known = [n for n in scope.locals() if isinstance(scope.local(n)[1], v.Model)]
        why = f"here it is {v.kind_name(value)}" if found else f"the models are {listed(known)}" if known else "the pipeline declares no model"
        otherwise = f"train a model: `flow {known[0]}: ..`" if known and found else f"declare it: `model {target.name} = mlp(..)`"
        raise mistake(
            "E0524", target.span, f"`{target.name}` is no model: a flow trains models", why=why,
            **suggestion(target.span, target.name, known, otherwise),
        )  # fmt: skip
    if not rest:
        return Trained(value)
    names = [name for name, _ in Trained(value).layouts()]
    places = tuple(i for i, name in enumerate(names) if name == rest or name.endswith(f".{rest}") or name.startswith(f"{rest}."))
    if not places:
        ends = dict.fromkeys(name.rpartition(".")[2] for name in names)
        raise mistake(
            "E0524", target.span, f"`{head_}` has no leaf `{rest}`", why=f"its leaves end in {listed(ends)}",
            **suggestion(target.span, rest, [*ends, *names], "name leaves by how their names end or begin"),
        )  # fmt: skip
    return Trained(value, places)

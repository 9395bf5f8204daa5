"""Flows: a chain of stages over a bundle of leaves, from the gradient down to the update and back up as one change of the parameters.

Gradients go down the chain, the step comes back up it. Each stage is elaborated with what comes from upstream as a function (so that
`grad(at: ..)` can ask again elsewhere) and with the rest of the chain as a continuation `below`. A stage that works leaf by leaf runs once
for each leaf that its pattern fits; where the leaves meet again, the step that comes back is a hole until the rest is known.

Axes: `param` is all coordinates of the bundle, flat; `node` stands before it where every node has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, AxisConflict, Type
from gradflow.language.diagnostics import mistake
from gradflow.language.source import NOWHERE, Span
from gradflow.passes import values as v
from gradflow.passes.calls import applied
from gradflow.passes.expressions import Elaborator, two_sizes
from gradflow.passes.patterns import match
from gradflow.passes.stages import Below, Bundle, Change, Flow, Leaf, Upstream, elsewhere, flatten, stage_value


class FlowBuilder:
    """Elaborates the chain of one flow."""

    def __init__(self, e: Elaborator, flow: Flow):
        self.e = e
        self.flow = flow

    def chain(self, stages: list[Any], up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        if not stages:
            return below(up, bundle)

        def rest(upstream: Upstream, inner: Bundle) -> Change:
            return self.chain(stages[1:], upstream, inner, below, path)

        return self.stage(stages[0], up, bundle, rest, f"{path}{len(stages)}")

    def noted(self, up: Upstream, bundle: Bundle, path: str) -> Upstream:
        """The same; the type of what arrives at a stage, and how many coordinates it has, are kept for views."""

        def at(point: Node | None, fresh: int) -> Node:
            value = up.at(point, fresh)
            self.flow.stage_notes.setdefault(path, (value.type, bundle.size))
            return value

        return replace(up, at=at)

    def stage(self, stage: Any, up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        span: Span = self.e.places.get(id(stage)) or getattr(stage, "span", None) or NOWHERE
        with self.e.anchoring(span):
            try:
                return self.one(stage, up, bundle, below, path)
            except AxisConflict as conflict:
                raise two_sizes(span if span is not NOWHERE else self.e.ops.span, conflict) from None

    def one(self, stage: Any, up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        up = self.noted(up, bundle, path)
        if isinstance(stage, v.ChainOf):
            return self.chain(flatten(stage), up, bundle, below, path + ".")
        if isinstance(stage, v.Live):
            return self.one(stage_value(self.e, stage.tree, stage.scope), up, bundle, below, path)
        if isinstance(stage, v.BuiltinStage):
            return below(up, bundle)
        if isinstance(stage, v.FirstFitting):
            return self.alternatives(stage, up, bundle, below, path)
        if isinstance(stage, v.OnlyOn):
            return self.alternatives(v.FirstFitting((stage,)), up, bundle, below, path)
        if stage.definition.pattern is not None:
            return self.leafwise(stage, up, bundle, below, path)
        return self.body(stage, up, bundle, below, f"{path}.{stage.name}", None)

    def body(self, stage: v.Stage, up: Upstream, bundle: Bundle, below: Below, path: str, leaf: Leaf | None) -> Change:
        from gradflow.passes.stage_bodies import StageBody

        return StageBody(self, stage, up, bundle, below, path, leaf).change()

    # ---- leaves apart and together

    def leafwise(self, stage: v.Stage, up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        groups: list[tuple[tuple[int, ...], Callable[[Upstream, Bundle, Below], Change]]] = []
        rest: list[int] = []
        fitting: list[Leaf] = []
        for place, leaf in enumerate(bundle.leaves):
            axes = match(self.e, stage.definition.pattern, leaf.name, leaf.axes, stage.scope.inside(stage.definition, stage.bound), stage.bound)
            if axes is None:
                rest.append(place)
                continue
            named = replace(leaf, axes=axes)
            fitting.append(named)

            def run(u: Upstream, b: Bundle, k: Below, named: Leaf = named) -> Change:
                return self.body(stage, u, Bundle((named,), b.param), k, f"{path}.{stage.name}.{named.name}", named)

            groups.append(((place,), run))
        if self.e.world is not None:
            from gradflow.analyses.knobs import clamped_rank

            clamped_rank(self.e, stage, fitting)
        if rest:
            if stage.kind == "update":
                self.no_update(stage, bundle, rest)
            groups.append((tuple(rest), lambda u, b, k: k(u, b)))
        return self.split(groups, up, bundle, below, path)

    def no_update(self, stage: v.Stage, bundle: Bundle, rest: list[int]) -> None:
        names = ", ".join(f"`{bundle.leaves[i].name}` [{', '.join(str(a.size) for a in bundle.leaves[i].axes)}]" for i in rest[:4])
        raise mistake(
            "E0513", stage.span, f"`{stage.name}` does not fit every leaf, and nothing else updates the others",
            label=f"leaves {names} stay where they are",
            why="a leaf with no update is trained by nobody", fix=f"give them another rule: `({stage.name}(..) on [row, col] | adamw())`",
        )  # fmt: skip

    def alternatives(self, stage: v.FirstFitting, up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        taken: dict[int, list[int]] = {}
        rest: list[int] = []
        named: dict[int, tuple[Axis, ...]] = {}
        for place, leaf in enumerate(bundle.leaves):
            for index, option in enumerate(stage.options):
                guarded = isinstance(option, v.OnlyOn)
                axes = match(self.e, option.pattern, leaf.name, leaf.axes, option.scope, {}) if guarded else leaf.axes
                if axes is not None:
                    named[place] = axes
                    taken.setdefault(index, []).append(place)
                    break
            else:
                rest.append(place)
        groups: list[tuple[tuple[int, ...], Callable[[Upstream, Bundle, Below], Change]]] = []
        for index, places in sorted(taken.items()):
            option = stage.options[index]
            inner = applied(self.e, option.stage if isinstance(option, v.OnlyOn) else option, stage.span)

            def run(u: Upstream, b: Bundle, k: Below, inner: Any = inner, index: int = index, places: list[int] = places) -> Change:
                leaves = tuple(replace(leaf, axes=named[place]) for leaf, place in zip(b.leaves, places, strict=True))
                return self.chain(flatten(inner), u, Bundle(leaves, b.param), k, f"{path}|{index}.")

            groups.append((tuple(places), run))
        if rest:
            groups.append((tuple(rest), lambda u, b, k: k(u, b)))
        return self.split(groups, up, bundle, below, path)

    def split(self, groups: list[Any], up: Upstream, bundle: Bundle, below: Below, path: str) -> Change:
        """Runs each group of leaves on its own; those that reach the rest of the chain go through it together."""
        if len(groups) == 1 and len(groups[0][0]) == len(bundle.leaves) and len(bundle.leaves) != 1:
            return groups[0][1](up, bundle, below)
        met: list[tuple[tuple[int, ...], Upstream, Bundle, Node]] = []
        changes: list[tuple[tuple[int, ...], Bundle, Change]] = []
        for number, (places, run) in enumerate(groups):
            part = self.part(bundle, places)

            def meet(u: Upstream, b: Bundle, places: tuple[int, ...] = places, number: int = number) -> Change:
                key = f"{path}#{number}"
                known = self.flow.types.setdefault(key, Type("real", (b.axis,)))
                hole = self.e.ops.hole(known)
                met.append((places, u, b, hole))
                return Change(hole)

            changes.append((places, part, run(self.part_upstream(up, bundle, places), part, meet)))
        if met:
            self.together(met, below, path)
        return self.joined(bundle, changes)

    def part(self, bundle: Bundle, places: tuple[int, ...]) -> Bundle:
        flat = self.cut(bundle, bundle.param, places) if bundle.param is not None else None
        return Bundle(tuple(bundle.leaves[i] for i in places), flat)

    def cut(self, bundle: Bundle, flat: Node, places: tuple[int, ...]) -> Node:
        pieces = [self.e.ops.leaf(flat, bundle.offset(i), bundle.leaves[i].axes) for i in places]
        return self.e.ops.pack(pieces, [bundle.leaves[i].axes for i in places])

    def part_upstream(self, up: Upstream, bundle: Bundle, places: tuple[int, ...]) -> Upstream:
        def at(point: Node | None, fresh: int) -> Node:
            if point is not None:
                raise elsewhere(point.span, "a stage before this one works leaf by leaf")
            return self.cut(bundle, up.at(None, fresh), places)

        return Upstream(at, up.fields)

    def together(self, met: list[tuple[tuple[int, ...], Upstream, Bundle, Node]], below: Below, path: str) -> None:
        """The rest of the chain over all leaves that reached it, in their old order."""
        entries = sorted((place, group, i) for group, (places, _, _, _) in enumerate(met) for i, place in enumerate(places))
        leaves = tuple(met[group][2].leaves[i] for _, group, i in entries)

        def at(point: Node | None, fresh: int) -> Node:
            if point is not None:
                raise elsewhere(point.span, "a stage before this one works leaf by leaf")
            flats = [u.at(None, fresh) for _, u, _, _ in met]
            pieces = [self.e.ops.leaf(flats[group], met[group][2].offset(i), met[group][2].leaves[i].axes) for _, group, i in entries]
            return self.e.ops.pack(pieces, [leaf.axes for leaf in leaves])

        param = None
        if all(b.param is not None for _, _, b, _ in met):
            values = [self.e.ops.leaf(met[g][2].param, met[g][2].offset(i), met[g][2].leaves[i].axes) for _, g, i in entries]  # type: ignore[arg-type]
            param = self.e.ops.pack(values, [leaf.axes for leaf in leaves])
        inner = Bundle(leaves, param)
        delta = self.difference(below(Upstream(at, met[0][1].fields), inner), inner)
        for group, (_, _, own, hole) in enumerate(met):
            places = [k for k, (_, g, _) in enumerate(entries) if g == group]
            piece = self.cut(inner, delta, tuple(places))
            self.flow.settle(f"{path}#{group}", piece.type)
            self.flow.holes[hole.id] = piece
            assert own.size == piece.type.axis("param").size

    def joined(self, bundle: Bundle, changes: list[tuple[tuple[int, ...], Bundle, Change]]) -> Change:
        absolute = all(change.absolute for _, _, change in changes)
        by_place: dict[int, Node] = {}
        for places, part, change in changes:
            flat = change.value if absolute else self.difference(change, part)
            for i, place in enumerate(places):
                by_place[place] = self.e.ops.leaf(flat, part.offset(i), bundle.leaves[place].axes)
        order = sorted(by_place)
        return Change(self.e.ops.pack([by_place[i] for i in order], [bundle.leaves[i].axes for i in order]), absolute)

    def difference(self, change: Change, bundle: Bundle) -> Node:
        if not change.absolute:
            return change.value
        if bundle.param is None:
            raise mistake(
                "E0512", change.value.span, "`param` cannot be read behind a change of coordinates",
                why="what flows here is not shaped like the parameters any more",
                fix="put this stage before the projection",
            )  # fmt: skip
        return self.e.ops.constant(self.e.ops.elementwise("sub", change.value, bundle.param))

"""One flow statement: objective, gradient, chain of stages, and the region that a step of it is.

The chain is elaborated again until the types of states, holes and the parameter stop growing (who owns the parameter is inferred: it gets
the axis `node` when a node-dependent change is written to it).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gradflow.builtins.devices import unexchanged
from gradflow.graph.graph import Node, ordered, substitute
from gradflow.graph.types import Axis, Type, union
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.language.source import Span
from gradflow.passes import properties
from gradflow.passes import values as v
from gradflow.passes.chains import FlowBuilder
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Scope
from gradflow.passes.stages import Bundle, Change, Flow, Upstream, flatten
from gradflow.passes.suggestions import listed, unbuilt
from gradflow.passes.trained import Trained, all_trained, leaves_of
from gradflow.plan.program import StatePlan
from gradflow.topologies.needs import check_over

ROUNDS = 6


@dataclass(frozen=True)
class ElaboratedFlow:
    """Results by name: param/MODEL, state/FLOW/KEY, loss, report/NAME, held/FLOW/KEY (what reports read of it), executed."""

    name: str
    models: tuple[v.Model, ...]
    results: tuple[tuple[str, Node], ...]
    states: tuple[StatePlan, ...]
    stages: tuple[str, ...]
    topology: v.Topology | None
    span: Span
    notes: tuple[tuple[str, str, str, str], ...] = ()
    events: Any = None
    stated: tuple[str, ...] = ()
    spread: str = ""


def no_objective(first: Any, span: Span, word: str) -> Mistake:
    return mistake(
        "E0521", getattr(first, "span", span), f"this flow has no objective to take the {'gradient' if word == 'grad' else 'value'} of",
        label="the flow begins here", why=f"a stage of it reads `{word}`", fix="begin it with an objective: `flow net: loss -> backprop -> ..`",
    )  # fmt: skip


class FlowElaborator:
    def __init__(self, e: Elaborator, name: str, parts: tuple[Trained, ...], chain: list[Any], topology: v.Topology | None, scope: Scope, span: Span):
        self.e, self.name, self.parts, self.chain, self.topology, self.scope, self.span = e, name, parts, chain, topology, scope, span
        self.models = tuple(part.model for part in parts)
        self.leaves = leaves_of(parts)
        self.size = sum(leaf.size for leaf in self.leaves)
        self.memo: dict[Any, Any] = {}
        self.losses: dict[Any, Any] = {}
        self.looked: dict[Any, Any] = {}  # losses that a stage looked at, or at whose gradient

    # ---- the head: parameters, loss, gradient

    def parameter(self) -> Node:
        flats = [part.taken(self.e, self.e.parameters_of(part.model)) for part in self.parts]
        flat = flats[0] if len(flats) == 1 else self.e.ops.pack(flats, [(Axis("param", part.size),) for part in self.parts])
        if len(flats) == 1 and self.parts[0].places is None:
            return flat
        return self.e.ops.make("expand", (flat,), flat.type)  # one value of its own, so that derivatives are taken of it, not of its parts

    def placed(self, point: Node | None) -> Node:
        """The point at which the objective is evaluated: with the axis `node` where nodes have objectives of their own."""
        flat = point if point is not None else self.parameter()
        lifted = flat.type.without(["param"])
        if self.topology is not None and not flat.type.has("node"):
            lifted = (Axis("node", self.topology.nodes), *lifted)
        return self.e.ops.expand(flat, (*lifted, flat.type.axis("param")))

    def split(self, flat: Node) -> dict[str, Node]:
        offset = 0
        found = {}
        for part in self.parts:
            found[part.model.name] = part.put(self.e, self.e.ops.leaf(flat, offset, (Axis("param", part.size),)))
            offset += part.size
        return found

    def loss(self, point: Node | None, fresh: int) -> tuple[Any, Node, Any]:
        """(loss, the point's node, reports) at a point."""
        key = (point.id if point is not None else None, fresh, tuple(sorted(self.e.model_axes)))
        if key not in self.losses:
            flat = self.placed(point)
            head = self.chain[0]
            nodes = self.topology.nodes if self.topology is not None else None
            with (
                self.e.at(parameters={**self.e.context.parameters, **self.split(flat)}, nodes=nodes, fresh=fresh, flow="", batch=True),
                self.e.placed(None),
            ):
                value = self.e.evaluate(head.tree, head.scope)
                loss = self.e.tensor(value, head.tree)
            reports = {name: x for name, x in value.fields.items() if name not in value.quiet} if isinstance(value, v.Record) else {}
            self.losses[key] = (loss, flat, reports)
        return self.losses[key]

    def gradient(self, point: Node | None, fresh: int) -> Node:
        if not isinstance(self.chain[0], v.Live):
            raise no_objective(self.chain[0], self.span, "grad")
        loss, flat, _ = self.loss(point, fresh)
        key = (flat.id, fresh)
        self.looked[key] = loss
        if key not in self.memo:
            self.check_loss(loss, flat)
            from gradflow.builtins.derivatives import derivative

            self.memo[key] = derivative(self.e, loss, flat, self.chain[0].tree.span)
        return self.memo[key]

    def per(self, point: Node | None, fresh: int, axis: str) -> tuple[Node, Any]:
        """The gradient for every entry of an axis, and which entries there are."""
        from gradflow.privacy.stages import gradients

        return gradients(self, point, fresh, axis)

    def value(self, point: Node | None, fresh: int) -> Any:
        """What is minimized, at a point: for estimators that look at values alone."""
        if not isinstance(self.chain[0], v.Live):
            raise no_objective(self.chain[0], self.span, "value")
        loss, flat, _ = self.loss(point, fresh)
        self.check_loss(loss, flat)
        for name in (shown := loss).type.without(["node"]):  # many points at once: their mean is what a run shows
            shown = self.e.ops.elementwise("div", self.e.ops.reduce("sum", shown, [name.name]), self.e.ops.axis_size(name.name, loss))
        self.looked[flat.id, fresh] = shown
        return loss

    def check_loss(self, loss: Any, point: Node) -> None:
        span = self.chain[0].tree.span
        if not isinstance(loss, Node) or not any(node is point for node in ordered([loss])):
            raise mistake(
                "E0522", span, "the objective does not depend on what the flow trains", why="its gradient is zero", fix="use the model in the loss",
            )  # fmt: skip
        extra = [name for name in loss.type.names if name != "node" and (name == "param" or not point.type.has(name))]
        if extra:
            raise mistake(
                "E0523", span, f"the objective is no number: it still has the ax{'es' if len(extra) > 1 else 'is'} {listed(extra)}",
                why="how a loss is averaged is always written",
                fix=f"`mean(.., over: {extra[0] if len(extra) == 1 else '[' + ', '.join(extra) + ']'})`",
            )  # fmt: skip

    # ---- rounds

    def run(self) -> ElaboratedFlow:
        types: dict[str, Type] = {}
        for _ in range(ROUNDS):
            flow = Flow(self.name, self.topology)
            flow.types = types
            self.memo.clear()
            self.losses.clear()
            self.looked.clear()
            result, reports = self.round(flow)
            types = flow.types
            if not flow.dirty:
                return self.finish(flow, result, reports)
        raise mistake(
            "E0511", self.span, "the states of this flow change their axes from step to step",
            why="a state has the same axes before and after every step",
            fix="declare the state with all its axes: `state s : [grad] = 0`",
        )  # fmt: skip

    def round(self, flow: Flow) -> tuple[Node, dict[str, Any]]:
        builder = FlowBuilder(self.e, flow)
        param = self.parameter()
        bundle = Bundle(self.leaves, param)
        stages = self.chain[1:] if isinstance(self.chain[0], v.Live) else self.chain
        reports = self.loss(None, 0)[2] if isinstance(self.chain[0], v.Live) else {}
        change = builder.chain(stages, Upstream(self.gradient, value=self.value, per=self.per), bundle, self.bottom, "")
        value = change.value if change.absolute else self.e.ops.constant(self.e.ops.elementwise("add", param, change.value))
        self.own_parameter(flow, value)
        return value, reports

    def bottom(self, up: Upstream, bundle: Bundle) -> Change:
        last = self.chain[-1]
        span = last.tree.span if isinstance(last, v.Live) else getattr(last, "span", self.span)
        raise mistake(
            "E0513", span if span.file == self.span.file else self.span, "nothing updates the parameters at the end of this flow",
            label=f"leaves {listed((leaf.name for leaf in bundle.leaves), 4)} stay where they are", why="a flow ends in an update",
            fix="end it with one: `-> sgd(lr: 0.1)`, say",
        )  # fmt: skip

    def own_parameter(self, flow: Flow, value: Node) -> None:
        """A change that differs by node means that every node owns a copy."""
        lifted = tuple(axis for axis in value.type.axes if axis.name != "param")
        for model in self.models:
            known = self.e.model_axes.get(model.name, ())
            if set(a.name for a in lifted) - {a.name for a in known}:
                self.e.model_axes[model.name] = union(known, lifted)
                flow.dirty = True

    def finish(self, flow: Flow, value: Node, reports: dict[str, Any]) -> ElaboratedFlow:
        from gradflow.analyses import queries

        results: list[tuple[str, Node]] = []
        lifted = self.e.model_axes.get(self.models[0].name, ())
        whole = self.e.ops.expand(value, (*lifted, Axis("param", self.size)))
        for name, piece in self.split(whole).items():
            results.append((f"param/{name}", piece))
        states = []
        for slot in flow.states.values():
            if slot.write is None:
                continue
            results.append((f"state/{self.name}/{slot.key}", slot.write))
            states.append(StatePlan(slot.key, slot.write.type, slot.init if slot.init is not None else 0.0, slot.key.rsplit(".", 1)[0]))
        states += queries.count_queries(self.e, flow, self.chain, results)
        if flow.events is not None:
            states += [StatePlan(key, type_, init, key.rsplit(".", 1)[0]) for key, type_, init in flow.events.last_of(self.chain).states]
        if isinstance(self.chain[0], v.Live):
            loss = self.e.ops.constant(self.shown_loss() if flow.events is None else self.loss(None, 0)[0])
            if loss.type.has("node"):
                loss = self.e.ops.constant(
                    self.e.ops.elementwise("div", self.e.ops.reduce("sum", loss, ["node"]), self.e.ops.axis_size("node", loss))
                )
            results.append(("loss", loss))
        for name, one in (*reports.items(), *flow.reports.items()):
            if isinstance(one, Node | int | float):
                results.append((f"report/{name}", self.e.ops.constant(one)))
        results += [(f"held/{self.name}/{key}", node) for key, node in flow.shown.items()]
        if flow.executed is not None:
            results.append(("executed", flow.executed))
        mapping = substitute(self.e.graph, [node for _, node in results], flow.holes) if flow.holes else {node.id: node for _, node in results}
        closed = [(name, mapping[node.id]) for name, node in results]
        return ElaboratedFlow(
            self.name,
            self.models,
            tuple(closed),
            tuple(states),
            tuple(describe(stage) for stage in self.chain),
            self.topology,
            self.span,
            self.notes(flow),
            flow.events.plan if flow.events is not None else None,
            tuple(f"{asked}: {how}" for asked, how in flow.stated.items()),
        )

    def shown_loss(self) -> Any:
        """The loss at the parameters; where no stage looks there (two-sided probes), the mean of those that were looked at, which costs nothing."""
        here, at_hand, ops = self.loss(None, 0)[0], list(self.looked.values()), self.e.ops
        if not at_hand or any(one is here for one in at_hand):
            return here
        total = at_hand[0]
        for one in at_hand[1:]:
            total = ops.elementwise("add", total, one)
        return ops.elementwise("div", total, len(at_hand))

    def notes(self, flow: Flow) -> tuple[tuple[str, str, str, str], ...]:
        """For views, of each stage: its name, its kind, the type of what arrives there, and what it says it gives."""
        from gradflow.analyses import queries

        found = []
        for place, stage in enumerate(self.chain):
            live = isinstance(stage, v.Live)
            kind = "objective" if live else "estimator" if isinstance(stage, v.BuiltinStage) else getattr(stage, "kind", "stages")
            type_, size = flow.stage_notes.get(str(len(self.chain) - place), (None, self.size))
            gives = queries.shown(flow) if live else self.gives(stage, _Coordinates(size, flow))
            found.append((describe(stage), kind, str(type_) if type_ is not None else "", gives))
        return tuple(found)

    def gives(self, stage: Any, frame: Any) -> str:
        """What a stage states, and what the stages that are its parameters do: `compress: contractive(delta: 0.1)`."""
        inner = [(name, value) for name, value in getattr(stage, "bound", {}).items() if isinstance(value, v.STAGES)]
        texts = []
        for name, value in [("", stage), *inner]:
            with suppress(Mistake):
                told = ", ".join(map(str, properties.given(self.e, value, frame)))
                texts += [f"{name}: {told}" if name else told] if told else []
        return "; ".join(texts)


@dataclass(frozen=True)
class _Coordinates:
    """Stands in for a stage's frame where only the number of coordinates that arrive is asked for."""

    size: int
    flow: Flow

    def coordinates(self) -> int:
        return self.size


def describe(stage: Any) -> str:
    """A stage by name, for views."""
    if isinstance(stage, v.Live):
        from gradflow.passes.words import expression_text

        return expression_text(stage.tree)
    if isinstance(stage, v.OnlyOn):
        return describe(stage.stage)
    if isinstance(stage, v.FirstFitting):
        return " | ".join(describe(option) for option in stage.options)
    if isinstance(stage, v.ChainOf):
        return " -> ".join(describe(one) for one in stage.stages)
    return stage.name


def named_here(e: Elaborator, value: Any) -> None:
    """Remembers for the stages of a library's chain where this file names the chain, since a flow forgets which chain they came in."""
    for stage in value.stages if isinstance(value, v.ChainOf) else ():
        if getattr(stage, "span", value.span).file != e.home:
            e.places[id(stage)] = e.places.get(id(value)) or value.span
        named_here(e, stage)


def elaborate_flow(e: Elaborator, statement: s.Flow, scope: Scope, name: str) -> ElaboratedFlow:
    if statement.per is not None:
        raise unbuilt(statement.targets[0].span, "`flow .. per axis` cannot run yet", f"leave out `per {statement.per}`")
    parts = all_trained(statement.targets, scope)
    topology: Any = None
    spread = ""
    if statement.over is not None:
        topology = e.evaluate(statement.over, scope)
        if isinstance(topology, v.Devices):
            topology, spread = None, topology.shard
        elif not isinstance(topology, v.Topology):
            raise mistake(
                "E0301", statement.over.span, f"a flow runs over a topology, this is {v.kind_name(topology)}",
                why="`over` says which nodes there are and who is linked to whom",
                fix="`flow net over ring(16): ..`",
            )  # fmt: skip
    value = e.evaluate(statement.value, scope)
    named_here(e, value)
    chain = flatten(value) if isinstance(value, v.ChainOf) else [value]
    for stage in chain:
        if isinstance(stage, v.Stage) and stage.kind == "exchange":
            if spread:
                raise unexchanged(stage, statement.over.span if statement.over is not None else statement.span)
            check_over(e, stage, topology, statement.over.span if statement.over is not None else statement.span)
    if topology is not None and not any(isinstance(stage, v.Stage) and stage.kind == "exchange" for stage in chain):
        place = statement.over.span if statement.over is not None else statement.span
        raise mistake(
            "E0607", place, "this flow runs over a topology but exchanges nothing", why="the nodes would drift apart",
            fix="put an exchange before the update: `average()`, `gossip()`, ..",
        )  # fmt: skip
    for stage in chain:
        if isinstance(stage, (v.Live, *v.STAGES)):
            continue
        raise mistake(
            "E0515", getattr(stage, "span", statement.value.span), f"{v.kind_name(stage)} cannot stand in a flow",
            why="a flow is an objective, then an estimator, projections, an exchange and an update",
            fix="`flow net: loss -> backprop -> sgd(lr: 0.1)`",
        )  # fmt: skip
    from gradflow.gradients.flow import elaborator_of

    return replace(elaborator_of(e, chain[0])(e, name, parts, chain, topology, scope, statement.span).run(), spread=spread)

"""A program as plain data for the artifact: nodes numbered in an order in which inputs come first, types and spans in tables of their own.

What only the compiler can hold (callables, scopes) is left out: models and data sets go as the primitive call that declares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gradflow.events import plan as events
from gradflow.graph.graph import Node, Region, ordered
from gradflow.graph.types import Type
from gradflow.language.source import Span
from gradflow.library.catalogue import FieldSpec
from gradflow.plan import program as p
from gradflow.plan.header import ArtifactError
from gradflow.plan.schema import Described
from gradflow.procedures import acts
from gradflow.procedures import documents as procedures
from gradflow.schedules import plan as schedules


def document(program: p.Program) -> dict[str, Any]:
    """The program as dictionaries, tuples, numbers and texts (`schema.ProgramDoc`). Raises ArtifactError for what has no such form."""
    writer = Writer()
    models = {name: writer.model(plan) for name, plan in program.models.items()}
    data = {name: writer.data(plan) for name, plan in program.data.items()}
    phases = tuple(writer.phase(phase) for phase in program.phases)
    inputs = {name: writer.type(type_) for name, type_ in program.inputs.items()}
    schedule = schedules.document(program.schedule, writer)
    return {
        "versions": {"gradflow": _version()}, "name": program.name, "doc": program.doc, "source": program.source, "text": program.text,
        "files": tuple(writer.files), "spans": tuple(writer.spans), "types": tuple(writer.types.values()), "nodes": tuple(writer.nodes),
        "models": models, "data": data, "phases": phases, "parameters": {k: _parameter(x) for k, x in program.parameters.items()}, "inputs": inputs,
        **({"schedule": schedule} if schedule is not None else {}),
    }  # fmt: skip


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gradflow")
    except PackageNotFoundError:
        return "unknown"


def _parameter(value: Any) -> dict[str, Any]:
    from gradflow.passes.values import NONE, kind_name

    if value is NONE or isinstance(value, Described):
        return {"value": None, "text": None if value is NONE else str(value)}
    try:
        return {"value": plain(value, "a parameter"), "text": None}
    except ArtifactError:
        return {"value": None, "text": kind_name(value)}


def plain(value: Any, what: str) -> Any:
    """Numbers, words, none, lists and tuples of them (as tuples). Raises ArtifactError for anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(plain(item, what) for item in value)
    from gradflow.passes.values import NONE, kind_name

    if value is NONE:
        return None
    raise ArtifactError(f"{what} holds {kind_name(value)}, which an artifact cannot hold: it keeps numbers, words and lists of them")


def _table(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {name: plain(value, f"`{name}` of {what}") for name, value in values.items()}


@dataclass
class Writer:
    """The tables as they grow. Nodes and spans are known by identity, since graphs of one program share both."""

    files: list[str] = field(default_factory=list)
    spans: list[tuple[int, ...]] = field(default_factory=list)
    types: dict[Type, dict[str, Any]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    kept: list[Node] = field(default_factory=list)
    places: dict[Span, int] = field(default_factory=dict)
    kinds: dict[Type, int] = field(default_factory=dict)

    # ---- tables

    def span(self, span: Span) -> int:
        if span not in self.places:
            if span.file not in self.files:
                self.files.append(span.file)
            self.places[span] = len(self.spans)
            self.spans.append((self.files.index(span.file), span.offset, span.length, span.line, span.column))
        return self.places[span]

    def type(self, type_: Type) -> int:
        if type_ not in self.kinds:
            self.kinds[type_] = len(self.types)
            target = tuple(type_.target) if type_.target is not None else None
            self.types[type_] = {"base": type_.base, "axes": tuple(tuple(axis) for axis in type_.axes), "target": target}
        return self.kinds[type_]

    def node(self, node: Node) -> int:
        """The number of a node whose inputs have theirs."""
        if id(node) not in self.numbers:
            body = self.region(node.body) if node.body is not None else None
            entry = {
                "op": node.op, "inputs": tuple(self.numbers[id(below)] for below in node.inputs),
                "attrs": {name: plain(value, f"`{name}` of the operation {node.op}") for name, value in node.attrs},
                "type": self.type(node.type), "span": self.span(node.span), "body": body,
            }  # fmt: skip
            self.numbers[id(node)] = len(self.nodes)
            self.nodes.append(entry)
            self.kept.append(node)
        return self.numbers[id(node)]

    def region(self, region: Region) -> dict[str, Any]:
        for node in ordered([*region.parameters, *region.roots]):
            self.node(node)
        results = tuple((name, self.numbers[id(node)]) for name, node in region.results)
        return {"name": region.name, "results": results, "parameters": tuple(self.numbers[id(node)] for node in region.parameters)}

    def optional(self, region: Region | None) -> dict[str, Any] | None:
        return self.region(region) if region is not None else None

    # ---- declarations

    def declaration(self, plan: p.ModelPlan | p.DataPlan, head: Any = None) -> dict[str, Any]:
        declared = head or plan.declaration
        if declared is None:
            raise ArtifactError(f"`{plan.name}` was bound from Python, so an artifact cannot say how to make it; declare it in the spec")
        primitive, places, options = declared
        return {"primitive": primitive, "places": plain(places, f"`{plan.name}`"), "options": _table(dict(options), f"`{plan.name}`")}

    def model(self, plan: p.ModelPlan) -> dict[str, Any]:
        free = plan.free and plan.copy_of is None
        declared = plan.copy_of is None and not plan.free
        return {
            "declaration": self.declaration(plan) if declared else None, "shape": plan.spec.leaves[0].shape if free else None, "size": plan.spec.size,
            "lifted": tuple(tuple(axis) for axis in plan.lifted), "copy_of": plan.copy_of, "start": self.optional(plan.start), "free": plan.free,
            "stored": tuple(map(self.stored, plan.stored)), "born": plan.born, "span": self.span(plan.span),
            **({"head": self.declaration(plan, plan.head)} if plan.head is not None else {}),
        }  # fmt: skip

    def stored(self, one: p.LeafStorage) -> dict[str, Any]:
        return {
            "leaf": one.leaf, "shape": one.shape, "axes": tuple(map(tuple, one.axes)),
            "states": {name: tuple(map(tuple, axes)) for name, (axes, _) in one.states.items()},
            "domains": {name: bounds for name, (_, bounds) in one.states.items() if bounds is not None},
            "encode": self.region(one.encode), "decode": self.region(one.decode), "pull": self.region(one.pull),
        }  # fmt: skip

    def data(self, plan: p.DataPlan) -> dict[str, Any]:
        return {"declaration": self.declaration(plan), "nodes": plan.nodes, "span": self.span(plan.span)}

    # ---- phases

    def phase(self, phase: p.Phase) -> dict[str, Any]:
        final = self.periodic(phase.final) if phase.final is not None else None
        return {
            "count": phase.count, "unit": phase.unit, "settings": _table(phase.settings, "train"),
            "actions": tuple(self.action(action) for action in phase.actions),
            "periodic": tuple(self.periodic(one) for one in phase.periodic), "span": self.span(phase.span), "final": final,
        }  # fmt: skip

    def action(self, action: p.Action) -> dict[str, Any]:
        if isinstance(action, acts.Act):
            return procedures.document(action, self)
        if isinstance(action, p.Assign):
            return {"kind": "assign", "model": action.model, "region": self.region(action.region), "span": self.span(action.span)}
        return self.update(action)

    def update(self, action: p.Update) -> dict[str, Any]:
        facts = {name: value for name, value in action.facts.items() if name != "topology"}
        found = p.asked_for(action.facts.get("topology"))
        shown = asdict(found) if found is not None else None
        states = tuple({"key": s.key, "type": self.type(s.type), "init": s.init, "stage": s.stage} for s in action.states)
        return {
            "kind": "update", "flow": action.flow, "models": action.models, "region": self.region(action.region),
            "rollout": self.optional(action.rollout), "states": states, "stages": action.stages,
            "topology": self.topology(action.topology), "sliced": action.sliced,
            "span": self.span(action.span), "facts": _table(facts, f"`{action.flow}`"), "topology_facts": shown,
            "events": events.document(action.events, self),
            **({"spread": action.spread} if action.spread else {}),
        }  # fmt: skip

    def topology(self, topology: Any) -> dict[str, Any] | None:
        if topology is None:
            return None
        weights = topology.weights if topology.weights is not None else topology.options.get("weights")
        results = (("adjacency", topology.adjacency), *((("weights", weights),) if isinstance(weights, Node) else ()))
        return {
            "name": topology.name, "nodes": topology.nodes, "directed": topology.directed, "constant": topology.constant,
            "region": self.region(Region(results, (), "topology")),
        }  # fmt: skip

    def periodic(self, one: p.Periodic) -> dict[str, Any]:
        return {
            "count": one.count, "unit": one.unit, "region": self.region(one.region), "calls": tuple(self.call(c) for c in one.calls),
            "checkpoint": one.checkpoint, "span": self.span(one.span),
        }  # fmt: skip

    def call(self, call: acts.WorldCall) -> dict[str, Any]:
        return {
            "id": call.id, "primitive": call.primitive, "models": dict(call.models), "data": {k: tuple(x) for k, x in call.data.items()},
            "options": _table(call.options, f"the call of `{call.primitive}`"), "fields": {k: _field(x) for k, x in call.fields.items()},
            "scalar": call.scalar, "span": self.span(call.span), **procedures.call_inputs(call, self),
        }  # fmt: skip


def _field(spec: FieldSpec) -> dict[str, Any]:
    target = tuple(spec.target) if spec.target is not None else None
    return {"base": spec.base, "axes": tuple(tuple(axis) for axis in spec.axes), "target": target, "padded": spec.padded, "live": spec.live}

"""From a validated document back to a program: every number must refer to something, every node must be legal, every spec is made anew.

Nothing that the artifact carries is executed. Models and data sets come from the catalogue's own functions, called with arguments that are
checked against the same domains as in a spec; a model that no longer has the size that the graph was typed with is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradflow.events.plan import undocumented
from gradflow.graph.graph import Node, Region
from gradflow.graph.spec import ARITY, IllegalGraph, verify
from gradflow.graph.types import Axis, Type
from gradflow.language.diagnostics import Mistake
from gradflow.language.source import NOWHERE, Span
from gradflow.library.catalogue import DataSpec, FieldSpec, LeafSpec, MissingExtra, ModelSpec, catalogue
from gradflow.library.python_models import python_object
from gradflow.plan import program as p
from gradflow.plan import schema as d
from gradflow.plan.header import ArtifactError
from gradflow.plan.schema import Described
from gradflow.procedures import acts
from gradflow.procedures import documents as procedures
from gradflow.schedules import plan as schedules

MOST_LOOPS = 1000

# The attributes that an operation cannot do without, with the Python types of their values.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "const": {"value": bool | int | float}, "source": {"kind": str, "path": tuple}, "axis_size": {"axis": str}, "argmax": {"over": str},
    "argmin": {"over": str}, "cumsum": {"over": str}, "dot": {"over": tuple}, "gather": {"axis": str}, "scatter_add": {"axis": str},
    "one_hot": {"axis": str}, "range": {"axis": str}, "slice": {"axis": str, "start": int | None, "stop": int | None}, "stack": {"axis": str},
    "concat": {"axis": str}, "table": {"values": tuple},
    "sort": {"over": str, "descending": bool}, "rank": {"over": tuple, "descending": bool}, "top": {"over": str, "count": int, "named": str},
    "leaf": {"offset": int}, "pack": {"offsets": tuple}, "scan": {"carries": int, "sequences": int, "axis": str, "backward": bool},
    "item": {"index": int}, "draw": {"dist": str, "place": str, "options": tuple}, "linalg": {"name": str, "options": tuple},
    "model": {"model": str, "method": str, "fields": tuple, "output": str, "options": tuple},
    "model_vjp": {"model": str, "method": str, "fields": tuple, "outputs": tuple, "wrt": str, "options": tuple},
    **{f"segment_{op}": {"over": tuple} for op in ("sum", "max", "min")},
    **{op: {"over": tuple} for op in ("sum", "prod", "max", "min", "any", "all")},
}  # fmt: skip


def program_of(doc: d.ProgramDoc) -> p.Program:
    """The program that a document describes. Raises ArtifactError."""
    return Reader(doc).program()


class Reader:
    def __init__(self, doc: d.ProgramDoc):
        self.doc = doc
        self.spans = [self._span(one) for one in doc.spans]
        self.types = [Type(t.base, tuple(Axis(*a) for a in t.axes), Axis(*t.target) if t.target is not None else None) for t in doc.types]
        self.nodes: list[Node] = []
        self.loops = 0
        for number, node in enumerate(doc.nodes):
            self.nodes.append(self._node(number, node))

    def program(self) -> p.Program:
        doc = self.doc
        models: dict[str, p.ModelPlan] = {}
        for name, model in doc.models.items():
            models[name] = self._model(name, model, models)
        data = {name: self._data(name, one) for name, one in doc.data.items()}
        self._check_sources(models, data)
        phases = tuple(self._phase(one, models, data) for one in doc.phases)
        parameters = {name: _parameter(one) for name, one in doc.parameters.items()}
        inputs = {name: _pick(self.types, index, "type") for name, index in doc.inputs.items()}
        return p.Program(
            doc.name, doc.doc, models, data, phases, parameters, inputs, doc.source, doc.text, schedules.undocumented(doc.schedule, self)
        )

    # ---- tables

    def _span(self, one: tuple[int, int, int, int, int]) -> Span:
        return Span(_pick(self.doc.files, one[0], "file"), *one[1:])

    def span(self, index: int) -> Span:
        return _pick(self.spans, index, "span")

    def _node(self, number: int, doc: d.NodeDoc) -> Node:
        what = f"node {number} (`{doc.op}`)"
        if doc.op not in ARITY or doc.op == "hole":
            raise ArtifactError(f"node {number} has the unknown operation `{doc.op}`")
        for below in doc.inputs:
            if below >= number:
                raise ArtifactError(f"{what} reads node {below}, which does not stand before it")
        _check_attributes(what, doc)
        body = self.region(doc.body, number) if doc.body is not None else None
        inputs = tuple(self.nodes[below] for below in doc.inputs)
        node = Node(number + 1, doc.op, inputs, tuple(sorted(doc.attrs.items())), _pick(self.types, doc.type, "type"), self.span(doc.span), body)
        self._check_loop(what, node)
        self._check_legal(what, node)
        return node

    def _check_loop(self, what: str, node: Node) -> None:
        if (node.op == "scan") != (node.body is not None):
            raise ArtifactError(f"{what} {'lacks the body of its loop' if node.op == 'scan' else 'has a body, and is no loop'}")
        if node.op == "item" and (node.inputs[0].op != "scan" or not 0 <= node["index"] < len(node.inputs[0].body.results)):  # type: ignore[union-attr]
            raise ArtifactError(f"{what} picks a result that its loop does not have")
        if node.body is None:
            return
        self.loops += 1
        if self.loops > MOST_LOOPS:
            raise ArtifactError(f"it has more than {MOST_LOOPS} loops")
        carries, sequences = node["carries"], node["sequences"]
        bound_all = len(node.body.parameters) == len(node.inputs) and carries <= len(node.body.results)
        if min(carries, sequences) < 0 or carries + sequences > len(node.inputs) or not bound_all:
            raise ArtifactError(f"{what} does not bind the parameters of its body")
        if any(not node.inputs[i].type.has(node["axis"]) for i in range(carries, carries + sequences)):
            raise ArtifactError(f"{what} walks along an axis that its sequences do not have")
        bound = {id(parameter) for parameter in node.body.parameters}
        if any(below.op == "element" and id(below) not in bound for below in node.body.nodes()):
            raise ArtifactError(f"{what} has a body that reads what the loop does not bind")

    def _check_legal(self, what: str, node: Node) -> None:
        """The written table of what is legal, for this node alone: its inputs are stood in for by sources of their types."""
        stands = tuple(Node(-1 - i, "source", (), (), below.type) for i, below in enumerate(node.inputs))
        try:
            verify(Region((("value", replace(node, inputs=stands, body=None)),)), "loading")
        except IllegalGraph as error:
            raise ArtifactError(f"{what} is not legal: {str(error).removeprefix('after loading: ').partition(': %')[0]}") from None

    def region(self, doc: d.RegionDoc, before: int | None = None) -> Region:
        """A region over nodes that stand in the table, before the node `before` if it is a body."""
        limit = len(self.nodes) if before is None else before
        for index in (*(index for _, index in doc.results), *doc.parameters):
            if index >= limit:
                raise ArtifactError(f"the region `{doc.name}` refers to node {index}, which is not there")
        names = [name for name, _ in doc.results]
        if len(set(names)) != len(names):
            raise ArtifactError(f"the region `{doc.name}` has a result twice")
        parameters = tuple(self.nodes[index] for index in doc.parameters)
        if any(node.op != "element" for node in parameters) or len({id(node) for node in parameters}) != len(parameters):
            raise ArtifactError(f"the region `{doc.name}` binds what is no element of a loop")
        return Region(tuple((name, self.nodes[index]) for name, index in doc.results), parameters, doc.name)

    def outer(self, doc: d.RegionDoc, *results: str) -> Region:
        """A region that stands by itself: it reads no element of a loop. `results` are the names that it must have."""
        region = self.region(doc)
        if region.parameters or any(node.op == "element" for node in region.nodes()):
            raise ArtifactError(f"the region `{doc.name}` reads an element of a loop from outside of it")
        missing = set(results) - {name for name, _ in region.results}
        if missing:
            raise ArtifactError(f"the region `{doc.name}` lacks the result `{min(missing)}`")
        return region

    # ---- declarations

    def _model(self, name: str, doc: d.ModelDoc, known: Mapping[str, p.ModelPlan]) -> p.ModelPlan:
        declaration = None
        if doc.copy_of is not None:
            if doc.copy_of not in known:
                raise ArtifactError(f"the model `{name}` copies `{doc.copy_of}`, which is not declared before it")
            spec = known[doc.copy_of].spec
        elif doc.free:
            if doc.shape is None or doc.start is None:
                raise ArtifactError(f"the tensor `{name}` has no shape or no start")
            spec = ModelSpec("free", (LeafSpec("value", doc.shape),), _no_module)
        else:
            spec, declaration = _declared(name, "model", doc.declaration)
        head = None
        if doc.head is not None:
            spec, head = _declared(name, "model", doc.head, spec)
        stored = tuple(map(self._stored, doc.stored))
        spec = p.stored_spec(spec, stored)
        if spec.size != doc.size:
            raise ArtifactError(f"the model `{name}` has {spec.size} parameters here, the plan was made for {doc.size}")
        start = self.outer(doc.start, "start") if doc.start is not None else None
        lifted = tuple(Axis(*axis) for axis in doc.lifted)
        return p.ModelPlan(name, spec, lifted, doc.copy_of, start, doc.free, self.span(doc.span), declaration, stored, doc.born, head)

    def _stored(self, doc: d.StoredDoc) -> p.LeafStorage:
        def axes(found: d.Axes) -> tuple[Axis, ...]:
            return tuple(Axis(*axis) for axis in found)

        trained = [name for name in doc.states if name not in doc.domains]
        if not set(doc.domains) <= set(doc.states) or any(low > high for low, high in doc.domains.values()):
            raise ArtifactError(f"what is stored of `{doc.leaf}` has a domain that does not fit")
        states = {name: (axes(found), doc.domains.get(name)) for name, found in doc.states.items()}
        encode, decode = self.outer(doc.encode, *doc.states), self.outer(doc.decode, "value")
        return p.LeafStorage(doc.leaf, doc.shape, axes(doc.axes), states, encode, decode, self.outer(doc.pull, *trained))

    def _data(self, name: str, doc: d.DataDoc) -> p.DataPlan:
        spec, declaration = _declared(name, "data", doc.declaration)
        return p.DataPlan(name, spec, doc.nodes, self.span(doc.span), declaration)

    def _check_sources(self, models: Mapping[str, p.ModelPlan], data: Mapping[str, p.DataPlan]) -> None:
        """Sources name declared models and data, with the sizes that these have here."""
        for node in self.nodes:
            if node.op in ("model", "model_vjp") and node["model"] not in models:
                raise ArtifactError(f"the graph calls the model `{node['model']}`, which is not declared")
            if node.op != "source":
                continue
            kind, path = node["kind"], node["path"]
            if not path or any(not isinstance(part, str) for part in path):
                raise ArtifactError(f"a source of kind `{kind}` has no name")
            if kind == "param":
                sizes = [axis.size for axis in node.type.axes if axis.name == "param"]
                if path[0] not in models or sizes != [models[path[0]].spec.size]:
                    raise ArtifactError(f"the graph reads the parameters of `{path[0]}`, which are not declared like that")
            if kind == "data":
                split = data[path[0]].spec.fields.get(path[1], {}) if path[0] in data and len(path) >= 4 else {}
                if len(path) < 4 or path[2] not in split:
                    raise ArtifactError(f"the graph reads `{'.'.join(path[:3])}`, which no data set has")

    # ---- phases

    def _phase(self, doc: d.PhaseDoc, models: Mapping[str, Any], data: Mapping[str, Any]) -> p.Phase:
        actions = tuple(self._action(one, models, data) for one in doc.actions)
        periodic = tuple(self._periodic(one, models, data) for one in doc.periodic)
        if any(one.count < 1 for one in periodic):
            raise ArtifactError("a report is due every 0 units")
        final = self._periodic(doc.final, models, data) if doc.final is not None else None
        return p.Phase(doc.count, doc.unit, dict(doc.settings), actions, periodic, self.span(doc.span), final)

    def _periodic(self, doc: d.PeriodicDoc, models: Mapping[str, Any], data: Mapping[str, Any]) -> p.Periodic:
        calls = tuple(self.call(one, models, data) for one in doc.calls)
        return p.Periodic(doc.count, doc.unit, self.outer(doc.region), calls, doc.checkpoint, self.span(doc.span))

    def _action(self, doc: Any, models: Mapping[str, Any], data: Mapping[str, Any]) -> p.Action:
        if isinstance(doc, d.DrawDoc | d.HoldDoc | d.LoopDoc):
            return procedures.undocumented(doc, self, models, data)
        if isinstance(doc, d.AssignDoc):
            _known(doc.model, models)
            return p.Assign(doc.model, self.outer(doc.region, f"param/{doc.model}"), self.span(doc.span))
        for name in doc.models:
            _known(name, models)
        own = [f"state/{doc.flow}/{state.key}" for state in doc.states] if doc.events is None else []
        region = self.outer(doc.region, *(f"param/{name}" for name in doc.models), *own)
        states = tuple(p.StatePlan(s.key, _pick(self.types, s.type, "type"), s.init, s.stage) for s in doc.states)
        facts: dict[str, Any] = dict(doc.facts)
        if doc.topology is not None:
            facts["topology"] = _facts(doc.topology_facts)
        rollout = self.outer(doc.rollout) if doc.rollout is not None else None
        topology, events = self._topology(doc.topology), undocumented(doc.events, self, models)
        where = self.span(doc.span)
        return p.Update(doc.flow, doc.models, region, rollout, states, doc.stages, topology, doc.sliced, where, facts, events, doc.spread)

    def _topology(self, doc: d.TopologyDoc | None) -> Any:
        if doc is None:
            return None
        from gradflow.passes.values import Topology

        found = dict(self.outer(doc.region, "adjacency").results)
        return Topology(doc.name, doc.nodes, found["adjacency"], found.get("weights"), doc.directed, {}, doc.constant)

    def call(self, doc: d.CallDoc, models: Mapping[str, Any], data: Mapping[str, Any]) -> acts.WorldCall:
        found = catalogue().get(doc.primitive)
        if found is None or found.kind != "call":
            raise ArtifactError(f"there is no library call `{doc.primitive}`")
        for name in doc.models.values():
            _known(name, models)
        for name, split in doc.data.values():
            if name not in data or split not in data[name].spec.splits:
                raise ArtifactError(f"`{doc.primitive}` takes the data `{name}.{split}`, which is not declared")
        given = {*doc.models, *doc.data, *doc.options}
        unknown = given - set(found.signature.parameters)
        if unknown:
            raise ArtifactError(f"`{doc.primitive}` has no parameter `{min(unknown)}`")
        if "where" in doc.options:  # code of the user's own, which has to be allowed here too
            try:
                python_object(str(doc.options["where"]))
            except ValueError as error:
                raise ArtifactError(f"`{doc.primitive}`: {error}") from None
        fields = {k: FieldSpec(f.base, f.axes, f.target, f.padded, f.live) for k, f in doc.fields.items()}
        inputs, texts = procedures.inputs_of(doc, self)
        known = dict(doc.models), dict(doc.data), dict(doc.options)
        return acts.WorldCall(doc.id, doc.primitive, *known, fields, doc.scalar, self.span(doc.span), inputs, texts)


def _pick(table: Any, index: int, what: str) -> Any:
    if index >= len(table):
        raise ArtifactError(f"it refers to {what} {index}, and has {len(table)}")
    return table[index]


def _known(name: str, models: Mapping[str, Any]) -> None:
    if name not in models:
        raise ArtifactError(f"it trains the model `{name}`, which is not declared")


def _check_attributes(what: str, doc: d.NodeDoc) -> None:
    for name, kind in ATTRIBUTES.get(doc.op, {}).items():
        if name not in doc.attrs or not isinstance(doc.attrs[name], kind):
            raise ArtifactError(f"{what} lacks the attribute `{name}`, or it is of the wrong kind")
    for name, value in doc.attrs.items():
        if doc.op != "const" and _has_nan(value):
            raise ArtifactError(f"{what} has NaN as its attribute `{name}`")


def _has_nan(value: Any) -> bool:
    return any(map(_has_nan, value)) if isinstance(value, tuple) else value != value


def _parameter(doc: d.ParameterDoc) -> Any:
    from gradflow.passes.values import NONE

    return Described(doc.text) if doc.text is not None else NONE if doc.value is None else doc.value


def _facts(doc: d.FactsDoc | None) -> Any:
    from gradflow.topologies.facts import Facts

    return None if doc is None else Facts(**doc.model_dump())


def _declared(
    name: str, kind: str, doc: d.DeclarationDoc | None, of: ModelSpec | None = None
) -> tuple[Any, tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]]]:
    """The spec that a declaration makes (of a head: on the model `of`), its arguments checked as in a spec's text. Raises ArtifactError."""
    found = catalogue().get(doc.primitive) if doc is not None else None
    if doc is None or found is None or found.kind != kind:
        raise ArtifactError(f"`{name}` is declared by no {kind} of the library")
    _check_domains(name, doc, found)
    try:
        spec = found.function(*doc.places, **doc.options, **({"of": of} if of is not None else {}))
    except (MissingExtra, ValueError, OSError, TypeError, OverflowError) as error:
        raise ArtifactError(f"`{name}` cannot be made by `{doc.primitive}`: {error}") from None
    if not isinstance(spec, ModelSpec if kind == "model" else DataSpec):
        raise ArtifactError(f"`{doc.primitive}` makes no {kind}")
    return spec, (doc.primitive, doc.places, tuple(doc.options.items()))


def _check_domains(name: str, doc: d.DeclarationDoc, primitive: Any) -> None:
    from gradflow.language.source import Source
    from gradflow.passes.expressions import Elaborator
    from gradflow.passes.parameters import check_domain
    from gradflow.passes.primitives import parameters_of
    from gradflow.passes.scope import Module
    from gradflow.passes.values import NONE

    params = parameters_of(primitive)
    variadic = [key for key, param in params.items() if param.variadic]
    if doc.places and not variadic:
        raise ArtifactError(f"`{name}`: `{doc.primitive}` takes its arguments by name")
    scope = Module.of(Source("<artifact>", "")).scope()
    for key, value in (*((variadic[0], value) for value in doc.places), *doc.options.items()):
        if key not in params or params[key].hidden:
            raise ArtifactError(f"`{name}`: `{doc.primitive}` has no parameter `{key}`")
        try:
            check_domain(Elaborator(), params[key].param, NONE if value is None else value, NOWHERE, scope)
        except Mistake as error:
            raise ArtifactError(f"`{name}`: {error.diagnostic.message}; {error.diagnostic.why}") from None


def _no_module(seed: int) -> Any:
    raise RuntimeError("a free tensor has no module")


__all__ = ["ATTRIBUTES", "program_of"]

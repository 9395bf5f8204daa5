"""What acts, in compiled plans: calls, held values and loops as plain data, and read back with every reference checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradflow.library.catalogue import catalogue
from gradflow.library.tools import made
from gradflow.plan import program as p
from gradflow.plan.header import ArtifactError
from gradflow.procedures import acts


def document(act: acts.Act, writer: Any) -> dict[str, Any]:
    if isinstance(act, acts.Draw):
        return {"kind": "draw", "name": act.name, "call": writer.call(act.call)}
    if isinstance(act, acts.Hold):
        states = tuple({"key": s.key, "type": writer.type(s.type), "init": s.init, "stage": s.stage} for s in act.states)
        more = {"texts": _texts(act.texts), "states": states, "flow": act.flow, "span": writer.span(act.span)} if act.texts or act.states else {}
        return {"kind": "hold", "region": writer.region(act.region), **more}
    texts = {name: (tuple(before) if before is not None else None, tuple(after)) for name, (before, after) in act.texts.items()}
    return {
        "kind": "loop", "id": act.id, "count": act.count, "actions": tuple(document(one, writer) for one in act.actions),
        "start": writer.region(act.start), "next": writer.region(act.next), "until": writer.optional(act.until), "texts": texts,
        "empty": {name: writer.type(type_) for name, type_ in act.empty.items()}, "span": writer.span(act.span),
    }  # fmt: skip


def call_inputs(call: acts.WorldCall, writer: Any) -> dict[str, Any]:
    """The part of a call's document that most calls do not have."""
    inputs = {"inputs": writer.region(call.inputs)} if call.inputs is not None else {}
    return inputs | ({"texts": _texts(call.texts)} if call.texts else {})


def _texts(texts: Mapping[str, acts.Text]) -> dict[str, Any]:
    return {name: tuple(text) for name, text in texts.items()}


def undocumented(doc: Any, reader: Any, models: Mapping[str, Any], data: Mapping[str, Any]) -> acts.Act:
    """Raises ArtifactError where something that it refers to is not there."""
    if doc.kind == "draw":
        return acts.Draw(doc.name, reader.call(doc.call, models, data))
    if doc.kind == "hold":
        states = tuple(p.StatePlan(s.key, _type(reader, s.type), s.init, s.stage) for s in doc.states)
        region = reader.outer(doc.region, *(f"state/{doc.flow}/{state.key}" for state in states))
        return acts.Hold(region, texts_of(doc.texts), states, doc.flow, reader.span(doc.span) if doc.span is not None else p.NOWHERE)
    inside: Any = tuple(undocumented(one, reader, models, data) for one in doc.actions)
    if any(isinstance(one, acts.Hold) for one in inside):
        raise ArtifactError("a loop holds values before it has ended")
    until = reader.outer(doc.until, "until") if doc.until is not None else None
    empty = {name: _type(reader, index) for name, index in doc.empty.items()}
    start, following = reader.outer(doc.start), reader.outer(doc.next)
    carried = {name for name, _ in following.results}
    if carried != {name for name, _ in start.results} | {f"world/{doc.id}/{name}" for name in empty}:
        raise ArtifactError("what a loop carries does not start, or does not go on")
    texts = {name: (acts.Text(*before) if before is not None else None, acts.Text(*after)) for name, (before, after) in doc.texts.items()}
    return acts.Loop(doc.id, doc.count, inside, start, following, until, texts, empty, reader.span(doc.span))


def texts_of(texts: Mapping[str, Any]) -> dict[str, acts.Text]:
    return {name: acts.Text(*text) for name, text in texts.items()}


def inputs_of(doc: Any, reader: Any) -> tuple[Any, dict[str, acts.Text]]:
    """What is computed for a call. Raises ArtifactError where the primitive has no such parameter."""
    known = catalogue()[doc.primitive].signature.parameters
    region = reader.outer(doc.inputs) if doc.inputs is not None else None
    given = {name.partition("/")[0] for name in (*(name for name, _ in (region.results if region is not None else ())), *doc.texts)}
    if given - set(known):
        raise ArtifactError(f"`{doc.primitive}` has no parameter `{min(given - set(known))}`")
    for name, value in doc.options.items():
        if catalogue()[doc.primitive].domains.get(name) == "tools":
            try:
                made(value)  # a tool of the user's own is allowed where the plan is loaded, or not at all
            except (ValueError, TypeError) as error:
                raise ArtifactError(f"`{name}` of `{doc.primitive}` is no tool: {error}") from None
    return region, texts_of(doc.texts)


def _type(reader: Any, index: int) -> Any:
    if index >= len(reader.types):
        raise ArtifactError(f"there is no type {index}")
    return reader.types[index]

"""`score(policy, samples)`: the record of the samples with what a model makes of them now, each live field a use of one model call."""

from __future__ import annotations

from typing import Any

from gradflow.graph.graph import Node
from gradflow.graph.types import Axis, Type
from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.library.heads import head_axes
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator

READ = ("ids", "prompt_mask", "mask", "action", "length")


def scored(e: Elaborator, node: s.Call, arguments: dict[str, Any]) -> v.Record:
    """Every field of the record, and the live ones: of the policy, of the reference (without gradient), and what the policy's heads read."""
    policy, samples, reference = arguments["policy"], arguments["samples"], arguments.get("reference")
    if not isinstance(samples, v.Record) or "mask" not in samples.fields:
        raise mistake(
            "E0206", node.span, "`score` needs a record of samples", why=f"its second argument is {v.kind_name(samples)}",
            fix="draw them: `samples ~ sample(policy, tasks, ..)`",
        )  # fmt: skip
    shared = ("group",) if e.constants.get("scheduled") else ()  # what a schedule reads beside the rest
    names = tuple(n for n in (*READ, *shared) if n in samples.fields)
    options = {k: x for k, x in arguments.items() if k not in ("policy", "samples", "reference")}
    fields = dict(samples.fields)
    axes = samples.fields["mask"].type.axes

    def live(model: v.Model, output: str, type_: Type, **more: Any) -> Node:
        own = tuple(sorted({**options, **more}.items()))
        inputs = (e.parameters_of(model), *(samples.fields[n] for n in names))
        return e.ops.make("model", inputs, type_, model=model.name, method="score", fields=names, output=output, options=own)

    for output, more in (("logp", {}), ("entropy", {"entropy": True})):
        fields[output] = live(policy, output, Type("real", axes), **more)
        if reference is not None:
            fields[f"{output}_ref"] = e.ops.constant(e.ops.elementwise("stop", live(reference, output, Type("real", axes), **more)))
    for output, (kept, own) in head_axes(policy.spec).items():
        type_ = Type("real", (*(axis for axis in axes if axis.name in kept), *(Axis(*axis) for axis in own)))
        fields[output] = live(policy, output, type_, head=output)
        if output == "value":
            with e.at(parameters={}):  # also where a flow asks for its objective at other parameters
                fields["value_old"] = e.ops.make("stop", (live(policy, output, type_, head=output),), type_, held=True)
            e.remember(fields["value_old"])
    return v.Record(fields, "score", None, samples.texts)

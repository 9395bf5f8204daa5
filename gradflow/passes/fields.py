"""What stands behind a dot: fields of records and data sets, facts of models and topologies, states and properties of stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.names import definition_value
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import listed, suggestion

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator


def field_value(e: Elaborator, node: s.Field, scope: Scope) -> Any:
    """What `value.name` is worth; behind the name of an imported file stand its definitions."""
    if isinstance(node.value, s.Name) and not scope.local(node.value.id)[0]:
        imported = scope.imported(node.value.id, node)
        if imported is not None:
            found, value = definition_value(node.name, imported.scope(), node)
            if found:
                return value
    return field_of(e, e.evaluate(node.value, scope), node, scope)


def field_of(e: Elaborator, value: Any, node: s.Field, scope: Scope) -> Any:
    fields = fields_of(e, value, node, scope)
    if node.name in fields:
        found = fields[node.name]
        return found() if callable(found) and not isinstance(found, type) else found
    raise mistake(
        "E0202", node.name_span, f"{v.kind_name(value)} has no field `{node.name}`", why=f"it has {listed(sorted(fields)) or 'no fields at all'}",
        **suggestion(node.name_span, node.name, fields, "use one of its fields" if fields else "use the value itself, without `.`"),
    )  # fmt: skip


def fields_of(e: Elaborator, value: Any, node: s.Field, scope: Scope) -> dict[str, Any]:
    """What stands behind the dot. Values may be callables: made only when asked for."""
    if isinstance(value, v.Record):
        return {**value.fields, **value.texts}
    if isinstance(value, v.StageCall):
        return value.fields
    if isinstance(value, v.Data):
        from gradflow.passes.models import data_fields

        return data_fields(e, value)
    if isinstance(value, v.Model):
        return dict(value.spec.facts)
    if isinstance(value, v.Topology):
        from gradflow.topologies.links import topology_fields

        return topology_fields(e, value, scope)
    if isinstance(value, v.STAGES):
        from gradflow.passes.properties import property_fields

        called: dict[str, Any] = {n: e.ops.source(t, kind, f, k) for n, (kind, f, k, t) in e.stage_values.get(id(value), {}).items()}
        if scope.frame is not None and scope.frame.flow is not None:
            called = scope.frame.flow.called.get(f"#{id(value)}", {})
        return called | property_fields(e, value, scope.frame)
    other = getattr(value, "fields", None)
    if callable(other):
        return other()
    raise mistake(
        "E0202", node.name_span, f"{v.kind_name(value)} has no fields", why="records, data sets, topologies and stages have fields",
        fix="use the value itself, without `.`",
    )  # fmt: skip

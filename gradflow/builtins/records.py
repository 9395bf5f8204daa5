"""Records as values: their sizes, and fields put beside those they have. Choosing and joining rows acts: see `gradflow/library/records.py`."""

from __future__ import annotations

from typing import Any

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.graph.graph import Node
from gradflow.language.diagnostics import mistake
from gradflow.passes import values as v
from gradflow.passes.axes import axis_names
from gradflow.passes.suggestions import listed


def rows_of(a: Arguments, record: Any) -> Any:
    """How many entries a record has along an axis; `none` has none."""
    if record is v.NONE:
        return 0
    names = axis_names(a.needed("over").value)
    nodes = [x for x in record.fields.values() if isinstance(x, Node)]
    holder = next((x for x in nodes if x.type.has(names[0])), None)
    if holder is None:
        axes = sorted({name for x in nodes for name in x.type.names})
        raise mistake(
            "E0303", a.call.span, f"no field of this record has an axis `{names[0]}`", why=f"its axes are {listed(axes) or 'none'}",
            fix="name one of them: `size(samples, over: sample)`",
        )  # fmt: skip
    return a.e.ops.axis_size(names[0], holder)


@builtin("extend(record, field: value)", "The record with fields added, or put in the place of those of the same name.", "records")
def extend(a: Arguments) -> Any:
    from dataclasses import replace

    record = a.raw(0)
    if not isinstance(record, v.Record) or record.value is not None:
        raise mistake(
            "E0206", a.call.span, f"`extend` adds fields to a record, this is {v.kind_name(record)}", why="only records have fields",
            fix="make one: `(name: value, ..)`",
        )  # fmt: skip
    more = {name: a.e.evaluate(arg.value, a.scope) for name, arg in a.named.items()}
    texts = {n: x for n, x in more.items() if isinstance(x, Node) and x.type.base == "text"}
    fields = {n: a.e.tensor(x, a.named[n].value) for n, x in more.items() if n not in texts}
    kept = {n: x for n, x in record.fields.items() if n not in more}
    return replace(record, fields={**kept, **fields}, texts={**{n: x for n, x in record.texts.items() if n not in more}, **texts})

"""`devices(..)`: the processes of the run, as a flow runs over them with one model."""

from __future__ import annotations

from gradflow.builtins.arguments import Arguments
from gradflow.builtins.table import builtin
from gradflow.language import syntax as s
from gradflow.language.diagnostics import Label, Mistake, mistake
from gradflow.language.source import Span
from gradflow.passes import values as v

SHARDS = ("none", "parameters")
DOC = (
    "The processes of a run (`gradflow run --nproc N`), in place of a topology: `flow net over devices(): ..`. Each takes some rows of the "
    "batch; with `shard: parameters` each also keeps only its part of the parameters, gradients and states. Alone, a process does all of it."
)


@builtin("devices(shard: none | parameters)", DOC, "devices", 0, 0)
def devices(a: Arguments) -> v.Devices:
    arg = a.named.get("shard")
    if arg is None:
        return v.Devices()
    word = arg.value.id if isinstance(arg.value, s.Name) and not a.scope.local(arg.value.id)[0] else None
    value = word if word is not None else a.option("shard")
    value = "none" if value is v.NONE else value
    if value not in SHARDS:
        raise mistake(
            "E0402", arg.value.span, f"`shard` is none or parameters, this is {v.kind_name(value)}",
            why="the rows of a batch are always spread; parameters, gradients and states may be too", fix="`devices(shard: parameters)`",
        )  # fmt: skip
    return v.Devices(value)


def unexchanged(stage: v.Stage, over: Span) -> Mistake:
    return mistake(
        "E0614", stage.span, f"`{stage.name}` exchanges between nodes, and devices are none", secondary=(Label(over, "one model, not many nodes"),),
        why="the processes of a run share one model and one batch: there is nobody to exchange with",
        fix="leave the exchange out, or run over nodes: `flow net over star(16): ..`",
    )  # fmt: skip

"""Who has what is missed: an option that a definition does not take (a part of it, another call of the library), a field of a record, a name that is
bound further down."""

from __future__ import annotations

from typing import Any

from gradflow.language import syntax as s

FIELDS = {
    "logp": "the record of `score(policy, samples)` has it",
    "entropy": "the record of `score(policy, samples)` has it",
    "value": "the record of `score(critic, samples)` has it, where `critic` is a `value_head(..)`",
    "value_old": "the record of `score(critic, samples)` has it, where `critic` is a `value_head(..)`",
    "logit": "the record of `score(rater, samples)` has it, where `rater` is a `classifier(..)`",
}


def supplier(name: str) -> str:
    """Where a field of records comes from that an objective misses. One sentence, or nothing."""
    if name.endswith("_ref"):
        return "score with a reference: `score(policy, samples, reference: frozen)`, where `model frozen = copy(policy)`"
    return FIELDS.get(name, "")


def bound_below(definition: s.Definition | None, node: s.Name) -> dict[str, Any]:
    """The fix where a name is bound further down in the same definition."""
    binds = (one for one in s.walk(definition) if isinstance(one, s.Bind)) if definition is not None else ()
    below = next((target for one in binds for target in one.targets if target.name == node.id and target.span.offset > node.span.offset), None)
    return {"fix": f"it is bound in line {below.span.line}: statements run from top to bottom, so bind it before this line"} if below else {}


def part_with(definition: s.Definition, name: str) -> str:
    """Where `name` is an option of a part: of what a parameter of the definition has by default. One sentence, or nothing."""
    from gradflow.passes.scope import module, standard_index

    for param in definition.params:
        part = param.default.callee.id if isinstance(param.default, s.Call) and isinstance(param.default.callee, s.Name) else ""
        path = standard_index().get(part)
        if path is not None and any(one.name == name for one in module(path).definitions[part].params):
            return f"it is an option of a part: `{param.name}: {part}({name}: ..)`"
    return ""


def call_with(name: str) -> str:
    """Which calls of the library take `name`. One sentence, or nothing."""
    from gradflow.library.catalogue import catalogue

    calls = [one for one, known in catalogue().items() if known.kind == "call" and name in known.domains]
    return f"it is an option of {' and '.join(f'`{one}(..)`' for one in calls)}" if 0 < len(calls) <= 2 else ""

"""Models with a head in a pipeline: `model critic = value_head(transformer(..))`, `value_head(copy(policy))`.

What the head stands on is itself a declaration, and makes the model under the same name; the head is then put on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradflow.language import syntax as s
from gradflow.language.diagnostics import mistake
from gradflow.library.catalogue import catalogue
from gradflow.passes import values as v
from gradflow.passes.formulas import force
from gradflow.passes.models import bind_primitive
from gradflow.passes.scope import Scope
from gradflow.passes.suggestions import unmade

if TYPE_CHECKING:
    from gradflow.passes.declarations import Declarations

BASE = "#of"


def is_head(name: str) -> bool:
    """Whether a primitive of the library makes a model out of another one."""
    found = catalogue().get(name)
    return found is not None and found.kind == "model" and found.domains.get("of") == "model"


def with_head(declared: Declarations, name: str, tree: s.Call, statement: s.Declare, scope: Scope) -> v.Model:
    """Declares the model that the first argument of `tree` makes, with the head on it. Raises Mistake."""
    head = tree.callee.id if isinstance(tree.callee, s.Name) else ""
    base = next((arg for arg in tree.args if arg.name in (None, "of")), None)
    known, value = scope.local(base.value.id) if base is not None and isinstance(base.value, s.Name) else (False, None)
    if base is None or isinstance(force(value) if known else None, v.Model):
        shown = base.value.id if base is not None and isinstance(base.value, s.Name) else "policy"
        raise mistake(
            "E0407", tree.span if base is None else base.span, f"`{head}` stands on a model of its own",
            why="two models that share parameters would both be trained where one is" if base is not None else "it reads the hidden states of one",
            fix=f"a copy, `{head}(copy({shown}))`, or a new one, `{head}(transformer(..))`",
        )  # fmt: skip
    trunk = declared.model(name, replace(statement, value=base.value, storage=None), scope)
    inner = scope.child()
    inner.names[BASE] = trunk
    call = replace(tree, args=tuple(replace(arg, value=s.Name(arg.value.span, BASE)) if arg is base else arg for arg in tree.args))
    options = {key: value for key, value in bind_primitive(declared.e, head, call, inner).items() if key != "of"}
    try:
        spec = catalogue()[head].function(trunk.spec, **options)
    except ValueError as error:
        raise unmade(head, tree.span, error) from None
    spec, kept = declared.in_storage(spec, statement, scope)
    plan = declared.models[name]
    declared.models[name] = replace(plan, spec=spec, stored=kept, span=statement.span, head=(head, (), tuple(options.items())))
    return v.Model(name, spec, statement.span, None, None, trunk.copy_of)

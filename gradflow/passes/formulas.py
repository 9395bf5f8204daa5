"""Live formulas: names of a pipeline that are evaluated for whoever reads them, at the parameters and on the batch of the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradflow.language import syntax as s
from gradflow.language.diagnostics import Mistake, mistake
from gradflow.passes import values as v
from gradflow.passes.scope import Scope

if TYPE_CHECKING:
    from gradflow.passes.expressions import Elaborator


@dataclass(eq=False)
class Formula:
    """A live name of a pipeline. Read again, it is evaluated again unless nothing about the moment has changed."""

    e: Elaborator
    tree: s.Expr
    scope: Scope
    name: str
    memo: dict[Any, Any] = field(default_factory=dict)
    busy: bool = False

    def read(self) -> Any:
        if None in self.memo:
            return self.memo[None]
        c = self.e.context
        axes = tuple(sorted((k, tuple(a.name for a in x)) for k, x in self.e.model_axes.items()))
        key = (tuple(sorted((k, n.id) for k, n in c.parameters.items())), c.nodes, c.fresh, c.batch, axes)
        if key not in self.memo:
            if self.busy:
                raise mistake(
                    "E0210", self.tree.span, f"`{self.name}` is defined by itself", why="formulas cannot go round in a circle",
                    fix="break the circle: what carries over from step to step is `state`, in a stage",
                )  # fmt: skip
            self.busy = True
            try:
                value = self.e.evaluate(self.tree, self.scope)
            finally:
                self.busy = False
            self.e.remember(value)
            if isinstance(value, v.STAGES):
                self.memo[None] = value
            self.memo[key] = value
            return value
        return self.memo[key]


def force(value: Any) -> Any:
    """What a name is bound to: a live formula is evaluated, and what a mistake left behind fails by that mistake."""
    if isinstance(value, v.Broken):
        raise Mistake(value.diagnostic)
    return value.read() if isinstance(value, Formula) else value

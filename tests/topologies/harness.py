"""A topology out of one line of the language, with its facts and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy

from gradflow.language import syntax as s
from gradflow.language.source import Source
from gradflow.passes.calls import applied
from gradflow.passes.constants import compute
from gradflow.passes.expressions import Elaborator
from gradflow.passes.scope import Module
from gradflow.topologies.facts import Facts, facts


class Graph:
    """`text` is an expression such as `ring(8)`; `more` defines what it uses; `folder` is where files are looked for."""

    def __init__(self, text: str, more: str = "", folder: Path | None = None):
        name = str((folder or Path("<test>")) / "spec.gflow")
        self.e = Elaborator()
        home = Module.of(Source(name, f"{more}\ntopology it = {text}\n"))
        self.scope = home.scope()
        self.value: Any = applied(self.e, self.e.evaluate(home.definitions["it"].value, self.scope), home.definitions["it"].span)  # type: ignore[arg-type]
        self.scope.names["graph"] = self.value

    @property
    def facts(self) -> Facts:
        found = facts(self.e, self.value)
        assert found is not None
        return found

    def get(self, text: str) -> Any:
        """The value of an expression that reads `graph`."""
        tree = Module.of(Source("<test>", f"function f = {text}")).definitions["f"].value
        assert isinstance(tree, s.Expr)
        value = self.e.tensor(self.e.evaluate(tree, self.scope))
        return numpy.asarray(compute(self.e.ops.constant(value))[0])

"""Where the text says what a call of a compiled program was given: in the call itself, or in the calls of the functions around it.

A diagnostic of an option points into the file that is checked. A draw inside of a function of the library is made for the sake of one `~` of the
pipeline, and what it was given was given on the way from there: the chain of calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gradflow.analyses.origins import Origins
from gradflow.language import syntax as s
from gradflow.language.source import Span
from gradflow.passes.scope import Module, Scope
from gradflow.procedures import acts


@dataclass(frozen=True)
class Step:
    """A call as it is written, in the definition around it (of the pipeline itself: None)."""

    node: Any
    definition: s.Definition | None


Chain = tuple[Step, ...]  # from the `~` of the pipeline to the call that acts


@dataclass(frozen=True)
class Places:
    """The text of a pipeline, `home` the name of its file."""

    pipeline: s.Definition
    scope: Scope
    home: str

    def chains(self, call: acts.WorldCall, origins: Origins) -> list[Chain]:
        """The ways in the text from the `~` that makes a call to the call; more than one where a function is called more than once in it."""
        name = origins.filled.get(call.id)
        binds = [node for node in s.walk(self.pipeline) if isinstance(node, s.Bind) and node.op == "~" and node.targets[0].name == name]
        return [chain for bind in binds for chain in _ways(bind.value, None, self.scope.module, call.span, ())] or [
            (Step(bind.value, None),) for bind in binds
        ]

    def of_call(self, call: acts.WorldCall, origins: Origins) -> Span | None:
        """Where this file makes the call: itself, or the innermost function that does."""
        for chain in self.chains(call, origins):
            return next((step.node.span for step in reversed(chain) if step.node.span.file == self.home), None)
        return None

    def of_option(self, call: acts.WorldCall, name: str, origins: Origins, value: Any) -> tuple[Span, Any] | None:
        """Where this file says an option of the call, and the expression that says it: the one that is this value, where there are several."""
        found = [said for chain in self.chains(call, origins) if (said := self._said(chain, name)) is not None]
        same = [one for one in found if isinstance(one[1], s.Number) and one[1].value == value]
        return next(iter(same or found), None)

    def says(self, call: acts.WorldCall, name: str, origins: Origins) -> bool:
        """Whether something on the way to a call gives the option itself, not a parameter of the function around it."""
        steps = [step for chain in self.chains(call, origins) for step in chain]
        return any(arg.name == name and not isinstance(arg.value, s.Name) for step in steps for arg in getattr(step.node, "args", ()))

    def _said(self, chain: Chain, name: str) -> tuple[Span, Any] | None:
        """Up the chain, as long as an option is a parameter of the function around it."""
        default = None
        for step in reversed(chain):
            given = next((arg for arg in getattr(step.node, "args", ()) if arg.name == name), None)
            params = {param.name: param for param in (step.definition.params if step.definition is not None else ())}
            if given is None:
                break
            if not isinstance(given.value, s.Name) or given.value.id not in params:
                return (given.span, given.value) if given.span.file == self.home else None
            name, default = given.value.id, params[given.value.id].default
        return None if default is None or default.span.file != self.home else (default.span, default)


def _ways(tree: Any, definition: s.Definition | None, module: Module, span: Span, above: Chain) -> Iterator[Chain]:
    """Chains through the calls in a tree to the call at `span`."""
    for node in s.walk(tree):
        if isinstance(node, s.Call | s.Index) and node.span == span:
            yield (*above, Step(node, definition))
        elif isinstance(node, s.Call) and isinstance(node.callee, s.Name):
            found = Scope({}, None, module).find(node.callee.id, definition)
            if found is not None and found[0].kind == "function" and all(step.definition is not found[0] for step in above):
                yield from _ways(found[0], found[0], found[1], span, (*above, Step(node, definition)))


def arguments(definitions: Iterable[s.Definition], wanted: Iterable[tuple[str, str]]) -> Iterator[Span]:
    """Where definitions give one of these arguments to its callee, in this order."""
    calls = [node for one in definitions for node in s.walk(one) if isinstance(node, s.Call) and isinstance(node.callee, s.Name)]
    for callee, name in wanted:
        yield from (arg.span for call in calls if getattr(call.callee, "id", "") == callee for arg in call.args if arg.name == name)

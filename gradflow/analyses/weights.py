"""What counts in a program: what parameters, states, reports and calls depend on, and what of it only stands behind a product with 0.

Held values, what loops carry and what is taken once per rollout count where something that counts reads them; so a term that a function makes and a
flow multiplies by 0 is as weightless as one in the flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradflow.analyses.origins import Origins
from gradflow.graph.graph import Node, ordered
from gradflow.library.records import MOVERS
from gradflow.plan import program as p
from gradflow.procedures import acts

KEEPING = {"div", "neg", "abs", "stop", "sum", "expand", "rename", "gather", "leaf", "slice", "scatter_add", "segment_sum"}  # 0 where the first is


def counting(program: p.Program, weights: bool = True) -> list[Node]:
    """The nodes that count in any phase. Without `weights` a product with 0 is one like any other."""
    found: dict[int, Node] = {}
    for phase in program.phases:
        own = {id(action): Origins(program_actions(program, phase), action) for action in phase.actions if isinstance(action, p.Update)}
        plain = Origins(program_actions(program, phase))
        for action in phase.actions:
            if isinstance(action, p.Update):
                found |= below(action.region.roots, own[id(action)], weights)
        others = [node for action in phase.actions if isinstance(action, p.Assign) for node in action.region.roots]
        for one in (*phase.periodic, *filter(None, [phase.final])):
            others += [*one.region.roots, *(node for call in one.calls if call.inputs is not None for node in call.inputs.roots)]
        others += acting_roots(acts.acts_in(phase.actions))
        found |= below(others, plain, weights)
    return list(found.values())


def program_actions(program: p.Program, phase: p.Phase) -> list[p.Action]:
    """The actions of a phase and of those before it, whose last draws stay held."""
    place = next(i for i, one in enumerate(program.phases) if one is phase)
    return [action for one in program.phases[: place + 1] for action in one.actions]


def acting_roots(actions: Iterable[acts.Act]) -> Iterator[Node]:
    """What is computed for its own sake: options and conditions of calls, when loops end, what functions keep. Rows that only move are not."""
    for act in actions:
        if isinstance(act, acts.Draw):
            results = act.call.inputs.results if act.call.inputs is not None else ()
            yield from (node for name, node in results if "/" not in name or act.call.primitive not in MOVERS)
        elif isinstance(act, acts.Hold):
            yield from (node for name, node in act.region.results if name.startswith("state/"))
        elif act.until is not None:
            yield from act.until.roots


def below(roots: Iterable[Node], origins: Origins, weights: bool = True) -> dict[int, Node]:
    """By id, what the roots depend on, through what functions and loops made; with `weights`, what is 0 whatever it reads hides what it reads."""
    found: dict[int, Node] = {}
    stack = list(roots)
    zero = zeros(stack) if weights else set()
    while stack:
        node = stack.pop()
        if node.id in found or node.id in zero:
            continue
        found[node.id] = node
        further = origins.of_source(node)[1] if node.op == "source" else []
        if further and weights:
            zero |= zeros(further)
        stack += [*node.inputs, *further]
    return found


def zeros(roots: Iterable[Node]) -> set[int]:
    """The nodes that are 0 whatever they read."""
    zero: set[int] = set()
    for node in ordered(roots):
        inputs = [one.id in zero for one in node.inputs]
        sides = inputs[1:] if node.op in ("where", "choose") else inputs
        one = node.op == "const" and node["value"] == 0 or node.op in ("mul", "dot") and any(inputs) or node.op in KEEPING and inputs[0]
        if one or node.op in ("add", "sub", "where", "choose", "pack") and all(sides):
            zero.add(node.id)
    return zero

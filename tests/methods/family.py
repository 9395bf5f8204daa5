"""The family of policy objectives, found in the shipped specs: which objectives, advantages and aggregations there are, and a small pipeline of any
of them. What a definition takes is read off its inputs, so that a new one is in every table by being there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from gradflow import compiler
from gradflow.language import syntax as s
from gradflow.language.source import Source
from gradflow.passes.scope import Module, module, standard_files

FILES = ("policy", "policy_variants")
METHODS = ("07", "09", "10", "18", "20", "22", "27", "28", "29", "31", "32", "36")
NEEDED = {"dr_grpo": "longest: 3", "d3s": "n: 6", "pods": "n: 2", "copo": "answer: samples.action[token: 0]"}
ROWS, TOKENS = ("sample",), ("sample", "token")


@dataclass(frozen=True)
class Taken:
    """What a definition takes: names and axes of its inputs, and its parameters."""

    name: str
    kind: str
    inputs: dict[str, tuple[str, ...] | None]
    parameters: tuple[str, ...]
    optional: tuple[str, ...]


@cache
def library() -> dict[str, s.Definition]:
    """Functions and objectives of the family by name."""
    found: dict[str, s.Definition] = {}
    for path in standard_files():
        if path.stem in FILES or path.parent.name == "methods" and path.stem[:2] in METHODS:
            own = module(path).definitions
            found |= {name: own[name] for name in own if own[name].kind in ("function", "objective")}
    return found


def taken(name: str) -> Taken | None:
    """None where it is an expression of its own parameters."""
    definition = library()[name]
    parameters = tuple(param.name for param in definition.params)
    if definition.value is not None:
        callee = getattr(definition.value, "callee", None)
        below = taken(callee.id) if isinstance(callee, s.Name) and callee.id in library() and callee.id != name else None
        return None if below is None else Taken(name, definition.kind, below.inputs, (*parameters, *below.parameters), below.optional)
    inputs: dict[str, tuple[str, ...] | None] = {}
    optional: list[str] = []
    for one in (statement for statement in definition.body or () if isinstance(statement, s.Input)):
        axes = one.type.options[0].axes
        for input_ in one.names:
            inputs[input_] = None if axes is None else tuple(item.name for item in axes.items)
            optional += [input_] if one.default is not None else []
    return Taken(name, definition.kind, inputs, parameters, tuple(optional))


@cache
def all_taken() -> tuple[Taken, ...]:
    return tuple(found for found in map(taken, library()) if found is not None)


RECORD = {"logp", "logp_old", "mask", "reward", "group", "advantage", "entropy", "entropy_old", "action", "length", "logp_ref", "task"}


def objectives() -> list[str]:
    """Those that `score(policy, samples, reference)` supplies with all that they need, but for what `NEEDED` adds."""
    more = {"copo": {"answer"}}
    found = [x for x in all_taken() if x.kind == "objective" and "logp" in x.inputs]
    return [x.name for x in found if set(x.inputs) - set(x.optional) <= (RECORD - {"advantage"}) | more.get(x.name, set())]


def advantages() -> list[str]:
    """Functions whose result is one number a sample or token, made of rewards and what else a record holds; they draw and keep nothing."""
    other = ("instructive", "less_kl", "token_reward", "at_end", "shortened")  # masks, and rewards in place of rewards
    known = RECORD - {"logp", "advantage"}
    found = [x for x in all_taken() if x.kind == "function" and x.inputs.get("reward") == ROWS and set(x.inputs) - set(x.optional) <= known]
    kept = [x.name for x in found if not any(isinstance(part, s.State) for part in s.walk(library()[x.name]))]
    return [name for name in kept if name not in other]


def aggregations() -> list[str]:
    """Functions of one number a token and the mask alone."""
    found = [x for x in all_taken() if x.kind == "function" and x.inputs == {"x": TOKENS, "mask": TOKENS}]
    return [x.name for x in found if not x.name.startswith("whiten")]


SELECTIONS = {
    "all": "samples.mask",
    "finished": "samples.mask and samples.finished",
    "teaching": "samples.mask and instructive(samples)[samples.group]",
    "unsure": "samples.mask and samples.entropy_old >= 0.5",
}

SPEC = """
pipeline swapped {{
  data  tasks  = combination_lock(prompts: 6, length: 3, vocabulary: 4)
  model policy = table_policy(prompts: 6, length: 3, vocabulary: 4)
  model anchor = copy(policy)
  drawn   ~ sample(policy, tasks, group: 4, max_tokens: 3)
  samples = extend(drawn, reward: where(drawn.action[token: 0] == 1, 1, 0), correct: drawn.action[token: 0] == 1)  # right by chance, often enough
  scored  = extend(score(policy, samples, anchor), turn: floor(range([token: 3]) / 2) + 0 * samples.action)
  flow policy{over}: {loss} -> backprop -> sgd(lr: 0.5)
  train {units} rollouts (seed: {seed}{settings})
}}
"""


def called(objective: str, **more: str) -> str:
    """The call of an objective on the scored record, with what it must be given."""
    own = dict(part.split(": ", 1) for part in filter(None, [NEEDED.get(objective, "")]))
    return f"{objective}(scored{''.join(f', {name}: {value}' for name, value in {**own, **more}.items())})"


def program(loss: str, units: int = 2, seed: int = 0, settings: str = ", epochs: 2, minibatches: 2", over: str = "") -> tuple[Any, list[Any]]:
    """(the program or None, diagnostics)."""
    text = SPEC.format(loss=loss, units=units, seed=seed, settings=settings, over=over)
    return compiler.build(Module.of(Source("swapped.gflow", text)), None)

"""What is known of a gradient on every arrow of a flow: its bias, its support, and whether it is each node's own.

Bias: exact where the loss reads whole data sets, unbiased where it reads a batch of them or draws noise; a stage that says what it gives changes
that, one that says nothing and may bend a gradient (a projection, an exchange) ends what is known. Support: dense, which is the most there can
be, or what a stage gives.
What an exchange gives of a part of it (`compress: ..`) is about that part and not about what leaves it. Behind an update a step flows, not a
gradient, and nothing is claimed of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradflow.graph.graph import ordered
from gradflow.plan.program import Program, Update

BIAS = ("exact", "unbiased", "contractive", "biased")
SUPPORT = ("dense", "sparse", "lowrank", "scalar")
KEPT = ("bounded", "private", "bits")
PROPERTY = re.compile(r"(\w+)(\([^)]*\))?")


def known_of_gradient(action: Update, program: Program) -> tuple[str, ...]:
    """The stages of a flow behind which something is known of the gradient: `backprop: unbiased, dense`. () for a program without its notes."""
    notes = action.facts.get("stages", ())
    return tuple(f"{note[0]}: {text}" for note, text in zip(notes, arrow_properties(action, program, notes), strict=True) if text)


def arrow_properties(action: Update, program: Program, stages: Sequence[tuple[str, str, str, str]]) -> list[str]:
    """For each stage the properties of what leaves it, in the order bias, support, others; empty before there is a gradient."""
    found: list[str] = []
    bias, support, rest = "", "", list[str]()
    for place, (name, kind, _, gives) in enumerate(stages):
        if kind == "objective":
            found.append("")
            continue
        given = {word: word + more for word, more in PROPERTY.findall(gives) if word in (*BIAS, *SUPPORT, *KEPT)} if ": " not in _heads(gives) else {}
        if kind == "estimator":
            bias, support, rest = _start(action, program) if name == "backprop" else "", "dense", []
        elif kind != "update" and name != "nothing":
            bias, support, rest = "", "dense", []
        elif kind == "update":
            bias, support, rest = "", "", []
        bias = next((given[word] for word in BIAS if word in given), bias)
        support = next((given[word] for word in SUPPORT if word in given), support)
        rest += [text for word, text in given.items() if word in KEPT]
        following = stages[place + 1][2] if place + 1 < len(stages) else ""
        local = ["local"] if "node" in following else []
        found.append(", ".join(part for part in (bias, support, *rest, *local) if part))
    return found


def _heads(gives: str) -> str:
    """The text without what stands in brackets: `compress: ..` names a part, `sparse(k: 65)` an argument."""
    return re.sub(r"\([^)]*\)", "", gives)


def _start(action: Update, program: Program) -> str:
    """Whether the loss is taken on all the data there is. Of samples that a model drew nothing is said: that depends on the objective."""
    loss = dict(action.region.results).get("loss")
    below = ordered([loss] if loss is not None else action.region.roots)
    sources = [node for node in below if node.op == "source"]
    if any(source["kind"] in ("held", "rollout", "input") for source in sources):
        return ""
    read = [source["path"] for source in sources if source["kind"] == "data"]
    cut = any(path[3] != "full" and program.data[path[0]].spec.batch is not None for path in read)
    return "unbiased" if cut or any(node.op == "draw" for node in below) else "exact"

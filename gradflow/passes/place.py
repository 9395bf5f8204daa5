"""When things are computed: what is taken once per rollout is separated from what every mini-batch does.

A formula of an objective (or an input's default) that involves no live value belongs to the whole rollout, and so does a live value that is
held as it was when the unit began (`value_old`); nothing else does: counts and normalizers inside live formulas are those of the mini-batch.
The update reads what was taken before as the source rollout/ID, cut along `sample` where it has that axis.
"""

from __future__ import annotations

from gradflow.graph.graph import Node, Region, depends, rebuild
from gradflow.passes.bodies import is_live
from gradflow.passes.expressions import Elaborator


def split_rollout(e: Elaborator, region: Region) -> tuple[Region | None, Region]:
    """(what is taken once per rollout, what every update does). The first is None where nothing was drawn or nothing is taken."""
    nodes = region.nodes()
    held = any(n.op == "source" and n["kind"] == "held" for n in nodes)
    if not held:
        return None, region
    live = depends(region.roots, is_live, unless=is_held)
    wet = depends(region.roots, lambda n: n.op == "source" and n["kind"] in ("held", "world"))
    clocked = depends(region.roots, lambda n: n.op in ("draw",) or (n.op == "source" and n["kind"] in ("state", "clock", "data")))
    taken = {n.id: n for n in nodes if n.id in e.formulas and n.id in wet and n.id not in live and n.id not in clocked and n.op != "source"}
    if not taken:
        return None, region
    names = {key: str(i) for i, key in enumerate(sorted(taken))}

    def replace(node, inputs):  # type: ignore[no-untyped-def]
        if node.id in names:
            return e.ops.source(node.type, "rollout", names[node.id])
        return None

    new = rebuild(e.graph, region.roots, replace)
    update = Region(tuple((name, new[node.id]) for name, node in region.results), (), region.name)
    used = {source["path"][0] for source in update.sources() if source["kind"] == "rollout"}
    results = tuple((f"rollout/{names[key]}", node) for key, node in sorted(taken.items()) if names[key] in used)
    return (Region(results, (), "rollout") if results else None), update


def is_held(node: Node) -> bool:
    """A live value as it was when the unit began. Where there is no rollout, that is now."""
    return node.op == "stop" and node.get("held") is True

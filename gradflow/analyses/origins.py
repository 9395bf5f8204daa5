"""Where held values come from: the calls that drew them, through rows that are chosen and joined, loops, and formulas that are held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gradflow.graph.graph import Node, ordered
from gradflow.procedures import acts

Path = tuple[str, ...]  # of a source: (kind, owner, field)


class Origins:
    """The calls of a phase behind each source, and the field of their result."""

    def __init__(self, actions: Iterable[Any]):
        self.drawn: dict[tuple[str, str], acts.WorldCall] = {}
        self.made: dict[str, list[Node]] = {}
        for act in acts.acts_in(actions):
            if isinstance(act, acts.Draw):
                self.drawn |= {("held", act.name): act.call, ("world", act.call.id): act.call}
            for region in acts.regions_in(act) if not isinstance(act, acts.Draw) else ():
                for name, node in region.results:
                    self.made.setdefault(name, []).append(node)

    def behind(self, kind: str, path: Path, seen: frozenset[Path] = frozenset()) -> list[acts.WorldCall]:
        """The calls that a field was drawn by; a call that only moves rows stands for what went into it."""
        key, field = (kind, *path), path[-1].rpartition(".")[2]
        if key in seen:
            return []
        call = self.drawn.get((kind, path[0]))
        nodes = self.made.get("/".join(key), [])
        if call is not None:
            moved = [node for name, node in (call.inputs.results if call.inputs is not None else ()) if name.endswith(f"/{field}")]
            if not moved:
                return [call]
            nodes = moved
        found: dict[int, acts.WorldCall] = {}
        for source in self.sources(nodes, field):
            found |= {id(one): one for one in self.behind(source["kind"], source["path"], seen | {key})}
        return list(found.values())

    def sources(self, nodes: Iterable[Node], field: str) -> list[Node]:
        """What nodes read of the world: fields of this name if there are any (conditions on other fields choose among them), else all."""
        read = [node for node in ordered(list(nodes)) if node.op == "source" and node["kind"] in ("held", "world")]
        return [node for node in read if node["path"][-1].rpartition(".")[2] == field] or read

    def calls(self, name: str) -> list[acts.WorldCall]:
        """The calls of a primitive, each once."""
        return list({id(call): call for call in self.drawn.values() if call.primitive == name}.values())

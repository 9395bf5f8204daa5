"""Topologies out of files and networkx's own graphs. The format is told by the file's name; self-loops, weights and attributes are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradflow.language.diagnostics import mistake
from gradflow.language.source import Span
from gradflow.passes import values as v
from gradflow.passes.expressions import Elaborator
from gradflow.topologies.sequences import listed

LARGEST = 64 * 1024**2  # bytes of a file
FORMATS = (".edgelist", ".edges", ".txt", ".csv", ".adjlist", ".gml", ".graphml", ".json")


def karate_club(e: Elaborator) -> v.Topology:
    import networkx

    return topology_of(e, "karate_club", networkx.karate_club_graph())


def from_file(e: Elaborator, path: Any, span: Span) -> v.Topology:
    """Raises Mistake where the file cannot be read as what its name says."""
    if not isinstance(path, str):
        raise mistake(
            "E0301", span, f"the name of a file is needed here, this is {v.kind_name(path)}", why="a graph is read out of a file",
            fix='write it in quotes: `read_graph("friends.gml")`',
        )  # fmt: skip
    place = Path(span.file).parent / path
    ending = place.suffix.lower()
    if ending not in FORMATS:
        raise mistake(
            "E0621", span, f"`{path}` has no ending that tells its format", why=f"formats are {', '.join(FORMATS)}",
            fix="rename it; two nodes a line are an edge list",
        )  # fmt: skip
    try:
        if place.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST // 1024**2} MB")
        graph = _read(place, ending)
        if not graph:
            raise ValueError("it has no nodes")
    except Exception as error:  # readers of networkx raise what they like: KeyError, TypeError, ParseError, NetworkXError, ..
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split()) or type(error).__name__
        raise mistake(
            "E0621", span, f"cannot read the graph `{path}`", why=reason[:200],
            fix=f"the path is relative to the spec; as {ending} it holds " + CONTENTS[ending],
        ) from None  # fmt: skip
    return topology_of(e, place.stem, graph)


CONTENTS = {
    **dict.fromkeys((".edgelist", ".edges", ".txt"), "two nodes a line"), ".csv": "two nodes a line, a comma between them",
    ".adjlist": "a node and its neighbors a line", ".gml": "a graph in GML", ".graphml": "a graph in GraphML",
    ".json": "networkx's node-link form: `nodes` and `links` or `edges`",
}  # fmt: skip


def _read(place: Path, ending: str) -> Any:
    import networkx

    if ending in (".edgelist", ".edges", ".txt"):
        return networkx.read_edgelist(place, data=False)
    if ending == ".csv":
        return networkx.read_edgelist(place, data=False, delimiter=",")
    if ending == ".adjlist":
        return networkx.read_adjlist(place)
    if ending == ".gml":
        return networkx.read_gml(place, label="id")
    if ending == ".graphml":
        text = place.read_text(encoding="utf-8")
        if "<!ENTITY" in text:
            raise ValueError("it defines entities of its own, which a graph does not need")
        return networkx.parse_graphml(text, force_multigraph=False)
    data = json.loads(place.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "nodes" not in data:
        raise ValueError("it has no `nodes`")
    return networkx.node_link_graph(data, edges="links" if "links" in data else "edges")


def topology_of(e: Elaborator, name: str, graph: Any) -> v.Topology:
    """Nodes that are whole numbers (in text too) are numbered in their order, others in that of the graph; a link goes from its sender."""
    import numpy

    nodes = list(graph.nodes)
    try:
        nodes.sort(key=int)
    except (TypeError, ValueError):
        nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    pairs = {(place[a], place[b]) for a, b in graph.edges() if a != b}
    if not graph.is_directed():
        pairs |= {(b, a) for a, b in pairs}
    arcs = numpy.array(sorted(pairs), dtype=numpy.int64).reshape(-1, 2)
    return listed(e, name, len(nodes), (arcs[:, 0], arcs[:, 1]), graph.is_directed())

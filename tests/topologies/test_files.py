"""Graphs out of files: every format gives the graph that was written, and what cannot be read is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import numpy
import pytest

from gradflow.language.diagnostics import Mistake
from tests.topologies.harness import Graph


def node_link(graph: Any, path: Path) -> None:
    path.write_text(json.dumps(networkx.node_link_data(graph, edges="links")))


def node_link_edges(graph: Any, path: Path) -> None:
    path.write_text(json.dumps(networkx.node_link_data(graph, edges="edges")))


WRITERS = {
    "a.edgelist": lambda g, path: networkx.write_edgelist(g, path), "a.edges": lambda g, path: networkx.write_edgelist(g, path, data=False),
    "a.txt": lambda g, path: networkx.write_edgelist(g, path, data=False),
    "a.csv": lambda g, path: networkx.write_edgelist(g, path, delimiter=",", data=False),
    "a.adjlist": networkx.write_adjlist, "a.gml": networkx.write_gml, "a.graphml": networkx.write_graphml,
    "a.json": node_link, "b.json": node_link_edges,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    reference = networkx.connected_watts_strogatz_graph(12, 4, 0.4, seed=3)
    reference.add_edge(5, 5)
    WRITERS[name](reference, tmp_path / name)
    graph = Graph(f'read_graph("{name}")', folder=tmp_path)
    reference.remove_edge(5, 5)
    assert (graph.get("graph.adjacency") == networkx.to_numpy_array(reference, nodelist=range(12)).astype(bool)).all()
    assert graph.value.name == name[0] and not graph.value.directed and graph.facts.connected


@pytest.mark.parametrize("name", ["a.gml", "a.graphml", "a.json"])
def test_arcs_go_from_sender_to_receiver(name: str, tmp_path: Path) -> None:
    WRITERS[name](networkx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)]), tmp_path / name)
    graph = Graph(f'read_graph("{name}", weights: uniform_weights())', folder=tmp_path)
    assert graph.value.directed and graph.get("graph.adjacency")[2].tolist() == [True, True, False]
    assert graph.facts.edges == ((0, 1), (0, 2), (1, 2), (2, 0)) and graph.facts.weights == "uniform_weights"


def test_names_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "friends.txt").write_text("# who knows whom\nmia leo\nleo zoe\n")
    assert Graph('read_graph("friends.txt")', folder=tmp_path).facts.edges == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.gml", "graph [ node [ id 0 ", "."), ("a.graphml", "<graphml", "."), ("a.json", "[1, 2]", "no `nodes`"), ("a.json", "{", "Expecting"),
        ("a.graphml", '<!DOCTYPE g [<!ENTITY a "b">]><graphml/>', "entities"), ("a.edgelist", "0\n", "no nodes"), ("a.edgelist", "", "no nodes"),
        ("a.json", '{"nodes": [{"id": 0}], "links": [{"source": 0}]}', "."), ("a.xls", "", "no ending"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(name: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Mistake) as told:
        Graph(f'read_graph("{name}")', folder=tmp_path)
    found = told.value.diagnostic
    assert found.code == "E0621" and (reason == "." or reason in f"{found.message} {found.why}") and found.why and found.fix


def test_karate_club() -> None:
    graph, reference = Graph("karate_club()"), networkx.karate_club_graph()
    assert (graph.get("graph.adjacency") == (networkx.to_numpy_array(reference) > 0)).all()
    assert (graph.facts.nodes, graph.facts.links) == (34, 78)
    numpy.testing.assert_allclose(graph.get("graph.degree"), [d for _, d in reference.degree])

"""Pictures of topologies: in the terminal at two widths, as SVG, and what is said of graphs that are too large to draw."""

from __future__ import annotations

import re
import xml.etree.ElementTree as tree
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gradflow.views.plan import render, summary
from gradflow.views.topology import MOST, drawing, facts_line, is_drawn, places, svg
from tests.plan.programs import of

SNAPSHOT = Path(__file__).parent / "snapshots" / "topologies.txt"
GRAPHS = {
    "ring(12)": 12, "torus(3, 5)": 15, "grid(2, 4)": 8, "hypercube(3)": 8, "star(9)": 9, "exponential(8)": 8, "complete(6)": 6, "path(2)": 2,
    "ring(1)": 1, "cycle(ring(6), complete(6))": 6, "star(7, hub: trusted)": 7,
}  # fmt: skip
SPEC = """pipeline p {{
  data  train, test = digits(split: by_label)
  model net         = softmax_regression(64, 10)
  loss              = cross_entropy(net(train.x), train.y)
  flow  net over {}: loss -> backprop -> {}() -> sgd(lr: 0.5)
  train 3 rounds (seed: 0)
}}
"""


@cache
def program(graph: str) -> Any:
    return of(SPEC.format(graph, "average" if "hub" in graph else "gossip"))


@cache
def topology(graph: str) -> dict[str, Any]:
    return summary(program(graph))["phases"][0]["flows"][0]["topology"]


def shown() -> str:
    parts = []
    for graph in GRAPHS:
        for width in (80, 200):
            picture = drawing(topology(graph), width) if is_drawn(topology(graph)) else ["(not drawn)"]
            parts += [f"---- {graph} at {width}", *picture, facts_line(topology(graph)), ""]
    return "\n".join(parts)


def test_snapshot() -> None:
    """Recorded by `python -m tests.views.test_topology`."""
    assert shown() == SNAPSHOT.read_text(encoding="utf-8")


@pytest.mark.parametrize("graph", [*GRAPHS, "karate_club()", "barbell(20)", "erdos_renyi(20, 0.2)", "erdos_renyi(12, 0.05)", "ring(60)"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_number_can_be_read(graph: str, width: int) -> None:
    try:
        one = topology(graph)
    except AssertionError:
        pytest.skip("the random graph falls into parts, which gossip refuses")
    if not is_drawn(one):
        assert one["nodes"] == 1
        return
    lines = drawing(one, width)
    assert max(map(len, lines)) <= width
    if width >= 80:
        numbers = [int(text) for line in lines for text in re.findall(r"\d+", line)]
        assert sorted(numbers) == list(range(one["nodes"]))


def test_a_layout_is_the_same_every_time() -> None:
    one = topology("karate_club()")
    assert places(one) == places(one) and all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places(one))


def test_large_graphs_are_told_and_not_drawn() -> None:
    one = topology(f"ring({MOST + 1})")
    assert not is_drawn(one) and not one["edges"]
    text = render(program(f"ring({MOST + 1})"), 100)
    assert f"{MOST + 1} nodes, {MOST + 1} links" in text and "⠉" not in text


def test_svg_has_every_link_and_arrows_where_directed() -> None:
    for graph, lines in (("ring(12)", 12), ("exponential(8)", 24), ("torus(3, 5)", 30 + 5 + 3)):  # links around the border are two stubs
        root = tree.fromstring(svg(topology(graph)))
        names = [element.tag.rpartition("}")[2] for element in root.iter()]
        assert names.count("circle") == GRAPHS[graph] and names.count("line") == lines
        assert ("marker-end" in svg(topology(graph))) == topology(graph)["directed"]


@pytest.mark.parametrize("graph", ["ring(12)", "exponential(8)"])
def test_exports_hold_the_picture_once(graph: str) -> None:
    page, picture = render(program(graph), 100, form="html"), render(program(graph), 100, form="svg")
    assert page.count("<figure>") == 1 and page.count("<circle") == GRAPHS[graph]
    root = tree.fromstring(picture)
    assert sum(element.tag.endswith("}circle") and element.get("stroke") is None for element in root.iter()) >= GRAPHS[graph]
    assert "⠉" not in page and "⠉" not in picture
    _, _, _, height = map(float, root.get("viewBox", "").split())
    inner = [element for element in root if element.tag.endswith("}svg")]
    assert len(inner) == 2 and float(inner[1].get("y", 0)) + float(inner[1].get("height", 0)) == height


def test_data_for_other_programs() -> None:
    one = topology("ring(12)")
    assert one["edges"] == ((0, 1), (0, 11), (1, 2), *((i, i + 1) for i in range(2, 11)))
    assert one["degree"] == (2, 2) and one["weights"] == "metropolis" and abs(one["chi_2"] - 12 * (11 / 12) / 2) < 1e-9


if __name__ == "__main__":
    SNAPSHOT.write_text(shown(), encoding="utf-8")

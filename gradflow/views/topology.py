"""A topology as a picture: in the terminal (links in braille dots, nodes by their numbers) and as SVG. Up to `MOST` nodes; larger ones are told.

Where nodes stand follows from who is linked to whom: a circle where turning it by one node changes nothing (ring, complete, exponential), a hub
in the middle of its star, rows and columns for products (links around the border are stubs), a projected cube, else networkx's Kamada-Kawai
layout (of parts: a spring layout with a fixed seed). Places are x, y in [0, 1], y downward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

MOST = 60
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
ARROWS = "→↘↓↙←↖↑↗"  # by eighths of a turn, y downward
CUBE = ((1.0, 0.0), (0.0, 1.0), (0.42, 0.3), (-0.27, 0.4), (0.17, -0.12), (0.1, 0.19))  # where the sides of a projected cube point
Place = tuple[float, float]
Point = tuple[int, int]


def is_drawn(topology: Mapping[str, Any] | None) -> bool:
    return topology is not None and bool(topology.get("edges") or topology.get("hub")) and topology["nodes"] <= MOST


# ---- where nodes stand


def places(topology: Mapping[str, Any]) -> list[Place]:
    n, edges, factors = topology["nodes"], topology["edges"], topology["factors"]
    if topology["hub"]:
        return _circle(n)
    if len(factors) == 2 and min(factors) > 1:
        return [_cell(factors, node) for node in range(n)]
    if len(factors) > 2 and set(factors) == {2} and len(factors) <= len(CUBE):
        return _fitted([_corner(len(factors), node) for node in range(n)])
    hub = _hub(n, edges)
    if hub is not None:
        ring = iter(_circle(n - 1))
        return [(0.5, 0.5) if node == hub else next(ring) for node in range(n)]
    if is_circulant(n, edges, topology["directed"]):
        return _circle(n)
    return _fitted(_spread(n, edges, topology["components"] > 1))


def _circle(n: int) -> list[Place]:
    return [(0.5 + math.sin(2 * math.pi * i / n) / 2, 0.5 - math.cos(2 * math.pi * i / n) / 2) for i in range(n)]


def _cell(factors: tuple[int, ...], node: int) -> Place:
    rows, columns = factors
    return (node % columns + 0.5) / columns, (node // columns + 0.5) / rows


def _corner(sides: int, node: int) -> Place:
    bits = [node >> k & 1 for k in range(sides)]
    return sum(b * x for b, (x, _) in zip(bits, CUBE)), -sum(b * y for b, (_, y) in zip(bits, CUBE))


def _hub(n: int, edges: Any) -> int | None:
    """The center of a star of more than two nodes."""
    found = set.intersection(*({a, b} for a, b in edges))
    return min(found) if len(found) == 1 and len(edges) == n - 1 and n > 2 else None


def is_circulant(n: int, edges: Any, directed: bool) -> bool:
    arcs = {(a, b) for a, b in edges} | (set() if directed else {(b, a) for a, b in edges})
    return all(((a + 1) % n, (b + 1) % n) in arcs for a, b in arcs)


def _spread(n: int, edges: Any, parts: bool) -> list[Place]:
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(map(tuple, edges))
    found = networkx.spring_layout(graph, seed=0) if parts else networkx.kamada_kawai_layout(graph)
    return [(float(found[node][0]), float(found[node][1])) for node in range(n)]


def _fitted(found: list[Place]) -> list[Place]:
    """Into the unit square, to a thousandth: layouts of different machines differ in the last digits."""
    ranges = [(min(p[k] for p in found), max(p[k] for p in found)) for k in (0, 1)]
    return [tuple(round((p[k] - low) / ((high - low) or 1), 3) for k, (low, high) in enumerate(ranges)) for p in found]  # type: ignore[misc]


def strokes(topology: Mapping[str, Any], where: list[Place]) -> Iterator[tuple[int, int, Place, Place]]:
    """(from, to, start, end) of every line; a link around the border of a grid is two stubs that leave it."""
    factors = topology["factors"]
    yield from ((node, node, where[node], (0.5, 0.5)) for node in range(topology["nodes"] if topology["hub"] else 0))
    for a, b in topology["edges"]:
        start, end = where[a], where[b]
        steps = (abs(a % factors[1] - b % factors[1]), abs(a // factors[1] - b // factors[1])) if len(factors) == 2 and min(factors) > 1 else (0, 0)
        axis = 0 if steps[0] > 1 else 1 if steps[1] > 1 else None
        if axis is None:
            yield a, b, start, end
            continue
        low, high = (a, b) if where[a][axis] < where[b][axis] else (b, a)
        for node, edge in ((low, 0.0), (high, 1.0)):
            out = (edge, where[node][1]) if axis == 0 else (where[node][0], edge)
            yield (node, b, where[node], out) if node == a else (a, node, out, where[node])


# ---- in the terminal


def drawing(topology: Mapping[str, Any], width: int) -> list[str]:
    """Lines of at most `width` columns. Numbers stand where nodes are; of a directed graph an arrow stands where a link arrives."""
    where, n = places(topology), topology["nodes"]
    digits = len(str(n - 1))
    rows = min(9 + n // 2, 31) if len(topology["factors"]) != 2 else min(4 * topology["factors"][0] - 1, 31)
    columns = max(min(width - digits, 3 * rows + 6, 100), 8)
    dots: dict[Point, int] = {}

    def dot(place: Place) -> Point:
        return round(place[0] * (2 * columns - 1)), round(place[1] * (4 * rows - 1))

    centers = [(x // 2, y // 4) for x, y in map(dot, where)]
    arrows: dict[Point, str] = {}
    for _, b, start, end in strokes(topology, where):
        line = list(_line(dot(start), dot(end)))
        for x, y in line:
            dots[x // 2, y // 4] = dots.get((x // 2, y // 4), 0) | DOTS[y % 4][x % 2]
        if topology["directed"] and b < n:
            _point(arrows, line, centers[b], digits)
    lines = [[chr(0x2800 + dots[x, y]) if (x, y) in dots else " " for x in range(columns + digits)] for y in range(rows)]
    for (x, y), sign in arrows.items():
        lines[y][x] = sign
    if topology["hub"]:
        lines[2 * rows // 4][columns // 2] = "*"
    taken = {(x - len(str(node)) // 2 + i, y) for node, (x, y) in enumerate(centers) for i in range(len(str(node)))}
    for node, (x, y) in enumerate(centers):
        text = str(node)
        first = min(max(x - len(text) // 2, 0), columns + digits - len(text))
        for offset, sign in enumerate(f" {text} ", -1):
            if 0 <= first + offset < columns + digits and (sign != " " or ((first + offset, y) not in taken and (first + offset, y) not in arrows)):
                lines[y][first + offset] = sign
    return ["".join(line).rstrip() for line in lines]


def _line(start: Point, end: Point) -> Iterator[Point]:
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(count + 1):
        yield round(start[0] + (end[0] - start[0]) * step / count), round(start[1] + (end[1] - start[1]) * step / count)


def _point(arrows: dict[Point, str], line: list[Point], center: Point, digits: int) -> None:
    """An arrow in the last character of a line before the number of the node that it leads to."""
    x, y = next(((x, y) for x, y in reversed(line) if abs(x // 2 - center[0]) > digits or y // 4 != center[1]), line[0])
    turn = math.atan2(line[-1][1] - line[0][1], line[-1][0] - line[0][0]) / (2 * math.pi)
    arrows[x // 2, y // 4] = ARROWS[round(turn * 8) % 8]


# ---- as SVG


def svg(topology: Mapping[str, Any], size: int = 480, y: int = 0) -> str:
    """A picture of its own: lines, an arrowhead on each where the graph is directed, and numbered circles."""
    where, n = places(topology), topology["nodes"]
    radius, margin = (14 if n <= 30 else 10), 24
    span = size - 2 * margin
    at = [(margin + px * span, margin + py * span) for px, py in where]
    lines = []
    for a, b, start, end in strokes(topology, where):
        (x1, y1), (x2, y2) = ((margin + p[0] * span, margin + p[1] * span) for p in (start, end))
        length = math.hypot(x2 - x1, y2 - y1) or 1
        back = (radius + 5) / length if topology["directed"] and end == where[b] else 0
        arrow = ' marker-end="url(#arrow)"' if topology["directed"] and end == where[b] else ""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2 - (x2 - x1) * back:.1f}" y2="{y2 - (y2 - y1) * back:.1f}"'
        lines.append(f"<line {ends}{arrow}><title>{a} {'to' if topology['directed'] else 'and'} {b}</title></line>")
    shown = '<text fill="#222" stroke="none" '
    nodes = [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius}"/>{shown}x="{px:.1f}" y="{py:.1f}">{node}</text>' for node, (px, py) in enumerate(at)]
    shape = 'viewBox="0 0 8 8" refX="4" refY="4" markerWidth="6" markerHeight="6" orient="auto"'
    head = f'<marker id="arrow" {shape}><path d="M0 0L8 4L0 8z" fill="#888"/></marker>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" y="{y}" width="{size}" height="{size}" viewBox="0 0 {size} {size}" role="img">'
        f"<title>{escape(topology['name'])}</title><defs>{head}</defs>"
        f'<rect width="100%" height="100%" fill="#fff"/><g stroke="#888" stroke-width="1.2">{"".join(lines)}</g>'
        f'<g fill="#eef3fb" stroke="#34568b" font-family="sans-serif" font-size="{radius - 2}" text-anchor="middle" dominant-baseline="central">'
        f"{''.join(nodes)}</g></svg>"
    )  # fmt: skip


# ---- in words


def facts_line(topology: Mapping[str, Any]) -> str:
    if topology["changes"]:
        return f"{topology['name']}: {topology['nodes'] or '?'} nodes; its links depend on the clock or on data"
    if topology["hub"]:
        return f"{topology['nodes']:,} nodes around a hub that is none of them"
    links = topology["links"]
    low, high = topology["degree"]
    facts = [f"{topology['nodes']:,} nodes", f"{links:,} link{'s' * (links != 1)}"]
    facts += [f"diameter {topology['diameter']}"] if topology["diameter"] is not None else []
    facts += [f"degree {low}" if low == high else f"degree {low} to {high}"]
    facts += ["not connected"] * (not topology["connected"])
    facts += [f"repeats after {topology['rounds']} rounds"] if topology["rounds"] > 1 else []
    named = (("spectral gap", "spectral_gap"), ("chi_1", "chi_1"), ("chi_2", "chi_2"))
    facts += [f"{word} {topology[key]:.3g}" for word, key in named if topology[key] is not None]
    facts += ["directed"] * topology["directed"] + ["not doubly stochastic"] * (not topology["doubly_stochastic"])
    return ", ".join([*facts, f"weights: {topology['weights']}"])

"""A run as one HTML page that needs nothing else: numbers as tables, every series as a plot in SVG, the spec's text. No script, no network.

A plot is a pure function of its points: `ticks` chooses round numbers, `chart` places everything in a fixed box of WIDTH by HEIGHT.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gradflow.runtime.loggers import mean_of
from gradflow.runtime.records import RunRecord
from gradflow.views.report import advice, facts_of, numeric, state_of, text_of
from gradflow.views.run import shown

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 30
MOST_POINTS = 1200
STYLE = """
:root { --paper: #fff; --ink: #1c2430; --faint: #69748a; --line: #d9dee7; --mark: #2563b8; --box: #f6f8fb }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e4e8ef; --faint: #93a0b5; --line: #2d3644; --mark: #74aef0; --box: #1b212b } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
.state { color: var(--faint) } table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top }
th { font-weight: 600; color: var(--faint) } td.n { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr)); gap: 1rem } figure { margin: 0 }
figcaption { font-weight: 600 } svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: var(--faint) }
.grid { stroke: var(--line) } .curve { fill: none; stroke: var(--mark); stroke-width: 1.6 } .dot { fill: var(--mark) }
pre { background: var(--box); padding: 1rem; overflow-x: auto; font-size: .85rem }
"""


def page(record: RunRecord) -> str:
    """The whole page."""
    name = html.escape(record.name)
    parts = [f"<h1>{name}</h1>", f'<p class="state">{html.escape(state_of(record))}</p>', _pairs(facts_of(record))]
    if advice(record):
        parts.append(f"<p>To go on: <code>{html.escape(advice(record))}</code></p>")
    if record.learnt:
        rows = [(one, shown(numeric(first)), shown(numeric(last))) for one, (first, last) in record.learnt.items()]
        parts += ["<h2>What was learnt</h2>", _table(("report", "before", "after"), rows)]
    if record.series:
        parts += ["<h2>The course</h2>", '<div class="plots">', *(_figure(record, one) for one in record.series), "</div>"]
    if record.timed:
        parts += ["<h2>Over the seconds of the network</h2>", '<div class="plots">', *(_timed(record, one) for one in record.timed), "</div>"]
    options = [(one, text_of(value)) for one, value in record.about.get("options", {}).items()]
    versions = [(one, text_of(value)) for one, value in record.versions.items() if one != "hardware"]
    parts += ["<h2>Options</h2>", _pairs(options), "<h2>Versions</h2>", _pairs(versions)]
    with suppress(OSError, UnicodeDecodeError):
        parts += ["<h2>The spec</h2>", f"<pre>{html.escape((record.path / 'spec.gflow').read_text())}</pre>"]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def default_path(record: RunRecord) -> Path:
    return record.path / "report.html"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return f"<table>{cells}</table>" if rows else "<p>not known</p>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        f"<tr><td>{html.escape(row[0])}</td>" + "".join(f'<td class="n">{html.escape(one)}</td>' for one in row[1:]) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _figure(record: RunRecord, name: str) -> str:
    points = [(float(tick), mean_of(numeric(value))) for tick, value in record.series[name]]
    kind = "report, " if name in record.reports else ""
    last = record.series[name][-1][1]
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{chart(points)}<span>{kind}last {html.escape(shown(numeric(last)))}</span></figure>"


def _timed(record: RunRecord, name: str) -> str:
    points = [(seconds, mean_of(numeric(value))) for seconds, value in record.timed[name]]
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{chart(points)}<span>over virtual seconds</span></figure>"


# ---- plots


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: of every stretch its least and its largest, so that no peak goes."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(len(points) / (most // 2))
    found = []
    for begin in range(0, len(points), stretch):
        piece = points[begin : begin + stretch]
        finite = [one for one in piece if math.isfinite(one[1])] or piece[:1]
        found += sorted({min(finite, key=lambda one: one[1]), max(finite, key=lambda one: one[1])})
    return found


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers inside low .. high: 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    if step == 0 or low + step == low:
        return [low]
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, first + most + 2) if k * step <= high + 1e-9 * span]


def chart(points: Sequence[tuple[float, float]]) -> str:
    """A line chart in SVG; where a value is not finite the line breaks."""
    finite = [point for point in points if math.isfinite(point[1])]
    if not finite:
        return "<p>no finite value</p>"
    x0, x1 = min(x for x, _ in finite), max(x for x, _ in finite)
    y0, y1 = min(y for _, y in finite), max(y for _, y in finite)
    pad = (y1 - y0) * 0.04
    if not pad or not math.isfinite(pad):
        pad = abs(y0) * 0.05 or 1.0
    y0, y1 = max(y0 - pad, -1.7e308), min(y1 + pad, 1.7e308)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) if x1 > x0 else 0.5
        up = (y / 2 - y0 / 2) / (y1 / 2 - y0 / 2)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for value in ticks(y0, y1):
        _, y = at(x0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in ticks(x0, x1):
        x, _ = at(value, y0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.6g}</text>')
    for line in pieces(thinned(points)):
        places = [at(x, y) for x, y in line]
        if len(places) == 1:
            parts.append(f'<circle class="dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.5"/>')
        else:
            parts.append('<polyline class="curve" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + '"/>')
    return "".join([*parts, "</svg>"])


def pieces(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points in stretches of finite values."""
    found: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]

"""The plan for other programs: HTML and SVG as rich draws them, and a flowchart in Mermaid's language."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from gradflow.views.topology import facts_line, svg

if TYPE_CHECKING:
    from rich.console import RenderableType

SIDE = 480  # of a topology's picture


def export(parts: Sequence[RenderableType], title: str, width: int, form: str, topologies: Sequence[Mapping[str, Any]] = ()) -> str:
    """The parts as an `html` page or an `svg` picture, pictures of the topologies below."""
    from io import StringIO

    from rich.console import Console

    console = Console(record=True, file=StringIO(), width=width, highlight=False, force_terminal=True)
    for part in parts:
        console.print(part, soft_wrap=False)
    if form == "html":
        figures = "".join(f"<figure>{svg(one)}<figcaption>{escape(facts_line(one))}</figcaption></figure>" for one in topologies)
        return console.export_html(inline_styles=True).replace("</body>", f"{figures}</body>")
    return below(console.export_svg(title=title, unique_id="plan"), topologies)


def below(picture: str, topologies: Sequence[Mapping[str, Any]]) -> str:
    """One picture over those of the topologies."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)
    if not topologies or size is None:
        return picture
    wide, high = float(size[1]), math.ceil(float(size[2]))
    outer = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high + SIDE * len(topologies)}">'
    whole = re.sub(r"<svg ", f'<svg width="{wide:g}" height="{high}" ', picture, count=1)
    return f"{outer}{whole}{''.join(svg(one, SIDE, high + SIDE * place) for place, one in enumerate(topologies))}</svg>"


def mermaid(plan: Mapping[str, Any]) -> str:
    """A flowchart: one subgraph a `train` line, one chain a flow, types and properties on the arrows, models as what they end in."""
    lines = ["flowchart LR", *(f"  {_model(model)}" for model in plan["models"])]
    for number, phase in enumerate(plan["phases"]):
        lines.append(f"  subgraph phase{number}[{_text('train {count:,} {unit}'.format(**phase))}]")
        lines += [f"    draw{number}_{i}([{_text('{name} ~ {call}'.format(**draw))}])" for i, draw in enumerate(phase["draws"])]
        for i, flow in enumerate(phase["flows"]):
            lines += [f"    {line}" for line in _chain(flow, f"p{number}f{i}")]
        lines.append("  end")
        lines += [f"  {line}" for i, flow in enumerate(phase["flows"]) for line in _ends(flow, f"p{number}f{i}", len(phase["draws"]), number)]
    return "\n".join(lines)


def _model(model: Mapping[str, Any]) -> str:
    return f"model_{model['name']}[({_text('{name}: {parameters:,} parameters'.format(**model))})]"


def _chain(flow: Mapping[str, Any], name: str) -> Iterator[str]:
    stages = flow["stages"]
    for i, stage in enumerate(stages):
        kind = f" ({stage['kind']})" if stage["kind"] else ""
        yield f"{name}s{i}[{_text(stage['stage'] + kind)}]"
    for i in range(1, len(stages)):
        text = "<br>".join(part for part in (stages[i]["arrives"] if stages[i - 1]["kind"] != "objective" else "", stages[i - 1]["leaves"]) if part)
        yield f"{name}s{i - 1} -->{f'|{_text(text)}|' if text else ''} {name}s{i}"


def _ends(flow: Mapping[str, Any], name: str, draws: int, number: int) -> Iterator[str]:
    last = len(flow["stages"]) - 1
    yield from (f"{name}s{last} --> model_{model}" for model in flow["trains"])
    yield from (f"draw{number}_{i} --> {name}s0" for i in range(draws))


def _text(text: str) -> str:
    """A label in quotes; what Mermaid would read as its own is written as an entity."""
    for sign, entity in (("&", "#amp;"), ('"', "#quot;"), ("<br>", "\0"), ("<", "#lt;"), (">", "#gt;"), ("\0", "<br>")):
        text = text.replace(sign, entity)
    return f'"{text}"'

"""The plan for other programs: HTML and SVG as rich draws them, and a flowchart in Mermaid's language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


def export(parts: Sequence[RenderableType], title: str, width: int, form: str) -> str:
    """The parts as an `html` page or an `svg` picture."""
    from io import StringIO

    from rich.console import Console

    console = Console(record=True, file=StringIO(), width=width, highlight=False, force_terminal=True)
    for part in parts:
        console.print(part, soft_wrap=False)
    return console.export_html(inline_styles=True) if form == "html" else console.export_svg(title=title, unique_id="plan")


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

"""The pictures of the README, made by running what they show: `python -m docs.screens` writes docs/screens/{plan,run,diff,nodes}.svg.

The spec is the one that stands in the README. Runs take time and print times, so the pictures differ a little every time and no test compares them.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from docs.generate import BLOCK, HERE, ROOT

FOLDER = HERE / "screens"
COLUMNS = 100


def spec_text() -> str:
    """The spec of the README's first screen."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return next(body for kind, file, body in blocks if kind == "gflow" and file)


def console() -> Console:
    return Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard", legacy_windows=False)


def plan(spec: Path) -> str:
    from gradflow import compiler
    from gradflow.cli.plan import costed, machine_of
    from gradflow.views.plan import render

    program, _ = compiler.build(*compiler.load(str(spec)))
    assert program is not None
    cost, against, _ = costed(program, machine_of("laptop"))
    return render(program, COLUMNS, True, cost, against, "svg")


def run(spec: Path) -> str:
    """The live view as it stands when the run is over."""
    from gradflow import compiler
    from gradflow.runtime.embed import run as begin
    from gradflow.views.run import Board

    program, _ = compiler.build(*compiler.load(str(spec)))
    assert program is not None
    screen = console()
    board = Board(screen)
    for event in begin(program):
        board.tell(event)
    screen.print(board)
    return screen.export_svg(title=f"gradflow run {spec.name}", unique_id="run")


def diff(spec: Path) -> str:
    """The spec beside one with another rate and a weaker compressor."""
    from gradflow.cli.diff import cost_of, program_at
    from gradflow.views.diff import changes, lines

    other = spec.with_name("denser.gflow")
    other.write_text(spec.read_text().replace("topk(10%)", "topk(25%)").replace("sgd(lr: 0.1)", "sgd(lr: 0.05)"))
    before, after = program_at(str(spec), []), program_at(str(other), [])
    assert before is not None and after is not None
    screen = console()
    for line in lines(changes(before, after, (cost_of(before), cost_of(after)))):
        screen.print(Text(line, style="red" if line.lstrip().startswith("-") else "green" if line.lstrip().startswith("+") else ""))
    return screen.export_svg(title=f"gradflow diff {spec.name} {other.name}", unique_id="diff")


GRAPHS = ("ring(16)", "torus(4, 4)", "exponential(16)", "complete(16)")
HETEROGENEOUS = "exchanges:gossip_on_digits"


def nodes(spec: Path) -> str:
    """Sixteen nodes that hold one digit or two each, on four graphs: what they learn together, and what it sends."""
    from rich.columns import Columns
    from rich.table import Table

    from gradflow.cli.plan import program_of
    from gradflow.runtime.embed import run as begin
    from gradflow.runtime.events import RunFinished
    from gradflow.views.plan import summary
    from gradflow.views.topology import drawing, facts_line

    screen, table = console(), Table(box=None, pad_edge=False, padding=(0, 3))
    for name in ("graph", "test loss", "disagreement", "sent"):
        table.add_column(name, justify="left" if name == "graph" else "right")
    pictures = []
    for graph in GRAPHS:
        program = program_of(HETEROGENEOUS, [f"graph={graph}"])
        assert program is not None
        topology = summary(program)["phases"][0]["flows"][0]["topology"]
        if graph != GRAPHS[-1]:
            pictures.append(Text("\n".join([facts_line(topology).partition(",")[0], *drawing(topology, 30)])))
        last = [event for event in begin(program) if isinstance(event, RunFinished)][-1]
        (_, loss), (_, distance) = last.learnt["loss"], last.learnt["distance"]
        table.add_row(graph, f"{loss:.3f}", f"{distance:.1e}", f"{last.sent['bytes'] / 1e6:.0f} MB")
    screen.print(Columns(pictures, padding=(0, 3)))
    screen.print(table)
    return screen.export_svg(title=f"gradflow run {HETEROGENEOUS} -p graph=..", unique_id="nodes")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        spec = Path("sparse.gflow")
        spec.write_text(spec_text())
        for picture in (plan, run, diff, nodes):
            (FOLDER / f"{picture.__name__}.svg").write_text(picture(spec), encoding="utf-8")
            print(f"docs/screens/{picture.__name__}.svg written")


if __name__ == "__main__":
    main()

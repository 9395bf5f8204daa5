"""A sweep from the command line: every cell checked first, then run in a process of its own, at most `--jobs` at a time; one table at the end.

No command of its own: `gradflow run` comes here where several values or seeds are given. The sweep's folder holds one run folder a cell, each
cell's talk beside it, and sweep.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gradflow.cli.terminal import ERRORS, FAILED, FINE, colored, say, width

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.sweep import Cell

PROCESS = 400_000_000  # bytes of Python and its libraries
FLAGS = {
    "steps": "--steps", "device": "--device", "backend": "--backend", "precision": "--precision", "micro": "--micro", "passes": "--passes",
    "network": "--network",
}  # fmt: skip
SWITCHES = {"compile": "--compile", "deterministic": "--deterministic", "allow_python": "--allow-python"}


class Sweep:
    """The processes of the cells: those that wait, run, and are over. `stop` hands a signal on and starts no more."""

    def __init__(self, commands: Sequence[list[str]], logs: Sequence[Path], jobs: int):
        self.commands, self.logs, self.jobs = commands, logs, jobs
        self.codes: dict[int, int] = {}
        self.running: dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        self.stopping = False

    def stop(self) -> None:
        self.stopping = True
        for process, _ in self.running.values():
            process.terminate()

    def carry_out(self, titles: Sequence[str]) -> None:
        """Until all are over; says of each how it ended."""
        waiting = list(range(len(self.commands)))
        while self.running or (waiting and not self.stopping):
            while waiting and len(self.running) < self.jobs and not self.stopping:
                self._start(waiting.pop(0))
            for number, (process, log) in list(self.running.items()):
                code = process.poll()
                if code is not None:
                    log.close()
                    del self.running[number]
                    self.codes[number] = code
                    say(f"[{len(self.codes)}/{len(self.commands)}] {titles[number]}: {self.ended(number)}")
            time.sleep(0.02)

    def _start(self, number: int) -> None:
        log = self.logs[number].open("wb")
        process = subprocess.Popen(self.commands[number], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.running[number] = (process, log)

    def ended(self, number: int) -> str:
        """finished, interrupted, not run, or what its last line says."""
        if number not in self.codes:
            return "not run"
        code = self.codes[number]
        if code in (FINE, 130, 143):
            return "finished" if code == FINE else "interrupted"
        lines = [line for line in self.logs[number].read_text(errors="replace").splitlines() if line.strip() and not line.startswith("run folder")]
        return f"failed: {lines[0] if lines else f'its process ended with {code}'}"

    def kill(self) -> None:
        for process, _ in self.running.values():
            process.kill()
            process.wait()


def fitting(program: Program, jobs: int) -> int:
    """How many runs like this one fit into the memory that is free, at most `jobs`; says so where it is fewer. The last cell stands for all."""
    from gradflow.cost.estimate import estimate
    from gradflow.runtime.memory import free

    available = free()
    if available is None:
        return jobs
    each = estimate(program).peak + PROCESS
    most = max(min(jobs, available // each), 1)
    if most < jobs:
        say(f"note: {most} at a time, not {jobs}: a run takes about {each / 1e9:.2g} GB, and {available / 1e9:.2g} GB are free")
    return most


def swept(cells: Sequence[Cell], options: argparse.Namespace) -> int:
    """Runs all cells; exit code 3 if one failed, 130 or 143 if interrupted, 1 if a spec has errors (nothing is run then)."""
    from gradflow.cli.run import built, chosen
    from gradflow.cli.running import told
    from gradflow.runtime.interrupts import stopping_on_interrupt

    chosen(options)
    programs = {cell.overrides: None for cell in cells}
    program = None
    for overrides in programs:
        program = built(options.file, list(overrides), options.allow_python)
        if program is None:
            return ERRORS
    assert program is not None
    with told(None) as outcome:
        folder = new_folder(program, cells, options)
        names = [cell.folder(number) for number, cell in enumerate(cells)]
        base = options.seed if options.seed is not None else first_seed(program)
        commands = [command(cell, folder, name, base, options) for cell, name in zip(cells, names)]
        jobs = fitting(program, options.jobs) if options.jobs > 1 and options.device == "cpu" else options.jobs
        sweep = Sweep(commands, [folder / f"{name}.log" for name in names], jobs)
        say(f"sweep folder: {folder}, {len(cells)} runs")
        with stopping_on_interrupt(sweep) as interrupts:
            try:
                sweep.carry_out([cell.title for cell in cells])
            finally:
                sweep.kill()
        show(cells, [folder / name for name in names], sweep, options.json)
        failed = any(code not in (FINE, 130, 143) for code in sweep.codes.values())
        outcome.code = interrupts.code if interrupts.number else FAILED if failed else FINE
    return outcome.code


def new_folder(program: Program, cells: Sequence[Cell], options: argparse.Namespace) -> Path:
    """The sweep's own folder, with what it is going to do. Raises OSError."""
    from gradflow.runtime.files import write_atomically
    from gradflow.runtime.run_folder import _new_folder

    name = options.name or f"{program.name[:64]}-sweep-{datetime.now():%Y%m%d-%H%M%S}"
    folder = _new_folder(options.out, name)
    rows = [{"folder": cell.folder(number), "point": dict(cell.point), "seed": cell.seed} for number, cell in enumerate(cells)]
    write_atomically(folder / "sweep.json", (json.dumps({"version": 1, "file": options.file, "cells": rows}, indent=2) + "\n").encode())
    return folder


def first_seed(program: Program) -> int:
    settings = program.phases[0].settings if program.phases else {}
    return int(settings.get("seed", 0))


def command(cell: Cell, folder: Path, name: str, base: int, options: argparse.Namespace) -> list[str]:
    """The command line of one cell."""
    words = [sys.executable, "-m", "gradflow.cli.main", "run", options.file, "--out", str(folder), "--name", name, "--quiet"]
    words += ["--checkpoint-every", str(options.checkpoint_every)]
    for text in cell.overrides:
        words += ["-p", text]
    if cell.seed is not None or options.seed is not None:
        words.append(f"--seed={base + (cell.seed or 0)}")
    for attribute, flag in FLAGS.items():
        if getattr(options, attribute) is not None:
            words += [flag, str(getattr(options, attribute))]
    words += [flag for attribute, flag in SWITCHES.items() if getattr(options, attribute)]
    return words + [word for where in options.log for word in ("--log", where)]


def show(cells: Sequence[Cell], folders: Sequence[Path], sweep: Sweep, as_json: bool) -> None:
    """The table, or one JSON object a point after the version; then every cell that did not finish."""
    from gradflow.runtime.events import line_of, plain, version_record
    from gradflow.runtime.sweep import rows_of

    rows = rows_of(cells, folders)
    if as_json:
        sys.stdout.write(line_of(version_record()))
        for row in rows:
            metrics = {name: {"mean": mean, "deviation": deviation} for name, (mean, deviation) in row.metrics.items()}
            record = {"event": "sweep_row", "point": dict(row.point), "runs": row.runs, "finished": row.finished, "metrics": metrics}
            sys.stdout.write(line_of(plain(record)))
    else:
        from rich.console import Console

        from gradflow.views.report import sweep_table

        Console(width=width(sys.stdout), no_color=not colored(sys.stdout), highlight=False).print(sweep_table(rows))
    for number, (cell, folder) in enumerate(zip(cells, folders)):
        if sweep.codes.get(number) != FINE:
            say(f"{cell.title}: {sweep.ended(number)} ({folder})")

"""Train: run a spec file, a shipped spec by name, or a compiled artifact; or go on with a run (--resume RUN).

A live view is shown on a terminal, plain lines elsewhere, one JSON object a line with --json. The run folder (spec, plan, metrics, checkpoints)
is made below --out. Ctrl-C or SIGTERM ends the run after the unit at hand with a checkpoint, a second one at once: exit code 130 or 143; a run
that fails: 3. Several values, `-p lr=1e-4,3e-4`, or --seeds N make a sweep: every combination in a run of its own, and one table at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.cli.plan import program_of
from gradflow.cli.ranked import joined, launched, under_torchrun
from gradflow.cli.terminal import ERRORS, FINE, UsageError, say

if TYPE_CHECKING:
    from gradflow.plan.program import Program
    from gradflow.runtime.options import Options
    from gradflow.runtime.ranks import Ranks
    from gradflow.runtime.resume import Kept

HOW = ("seed", "steps", "device", "backend", "precision", "micro", "compile", "deterministic", "network")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE[:PIPELINE]", nargs="?", help="a path, the name of a shipped spec, or a compiled artifact")
    parser.add_argument(
        "-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a parameter; several values, by comma: a sweep"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder, bit for bit")
    parser.add_argument("--checkpoint-every", type=seconds, default=300.0, metavar="SECONDS", help="how often to save unasked (default: 300)")
    parser.add_argument("--seed", type=int, help="in place of the spec's seed")
    parser.add_argument("--seeds", type=positive, metavar="N", help="a sweep over N seeds, from --seed or the spec's on")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs of a sweep at a time, where memory allows (default: 1)")
    parser.add_argument("--nproc", type=positive, metavar="N", help="spread the nodes of a topology, or a model over devices, on N processes")
    parser.add_argument("--elastic", action="store_true", help="with --nproc: when a process is lost, go on from the newest checkpoint")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the count of every `train` line")
    parser.add_argument("--device", help="a torch device, or auto for the accelerator if there is one (default: cpu)")
    parser.add_argument("--backend", help="torch (the default) or reference")
    parser.add_argument("--precision", help="float32, float64 or bfloat16, in place of the spec's")
    parser.add_argument("--micro", type=int, metavar="N", help="pieces that a batch is cut into")
    parser.add_argument("--compile", action="store_const", const=True, help="kernels under torch.compile")
    parser.add_argument("--deterministic", action="store_const", const=True, help="only algorithms that give the same bits every time")
    parser.add_argument("--passes", choices=("all", "none"), help="which optimizations to make (default: all)")
    parser.add_argument("--network", metavar="NAME|FILE", help="how late it would be on a described network: lan, wan, or a .toml file")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    parser.add_argument("--quiet", action="store_true", help="show nothing while it runs")
    parser.add_argument("--show", action="append", metavar="NAME", help="show this metric only; may be said several times")
    parser.add_argument("--log", action="append", default=[], metavar="WHERE", help="also log to tensorboard, trackio or wandb")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="where the run folder is made (default: runs)")
    parser.add_argument("--name", help="the run folder's name, in place of the pipeline's and the time")
    parser.add_argument("--allow-python", action="store_true", help="let the spec call Python code of yours (`python(..)`)")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def run(options: argparse.Namespace) -> int:
    _check(options)
    if options.resume is not None:
        return resume(options)
    from gradflow.runtime.sweep import cells_of

    cells = cells_of(options.overrides, options.seeds)
    if cells is not None:
        from gradflow.cli.sweep import swept

        if options.nproc is not None or under_torchrun():
            raise UsageError("a sweep runs each of its cells in one process: leave --nproc out, or give every parameter and the seed one value")

        return swept(cells, options)
    program = built(options.file, options.overrides, options.allow_python)
    if program is None:
        return ERRORS
    fitting_network(program, options.network)
    return launched(options, program) if options.nproc is not None else begin(program, options)


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for what does not go together."""
    from gradflow.runtime.loggers import NAMES

    if options.json and options.quiet:
        raise UsageError("--json and --quiet exclude each other")
    if options.file is None and options.resume is None:
        raise UsageError("say what to run: a spec file, the name of a shipped spec, a compiled artifact, or --resume RUN")
    if options.resume is not None and (options.seeds or options.name):
        raise UsageError(f"--resume goes on with one run: leave {'--seeds' if options.seeds else '--name'} out")
    if options.overrides and options.file is None:
        raise UsageError("a run goes on with the parameters that it began with: leave -p out, or start a new run")
    if options.name is not None and (Path(options.name).name != options.name or options.name in (".", "..")):
        raise UsageError(f"`{options.name}` is no name of a folder; where it is made is said by --out")
    if options.elastic and options.nproc is None:
        raise UsageError("--elastic starts lost processes again: say how many there are, --nproc N")
    if options.nproc is not None and under_torchrun():
        raise UsageError("torchrun has started the processes already: leave --nproc out")
    for name in options.log:
        if name not in NAMES:
            raise UsageError(f"there is no logger `{name}`; there are: {', '.join(NAMES)}")
    if options.network is not None:
        options.network = network_text(options.network)


def network_text(reference: str) -> str:
    """What a run keeps of a network. Raises UsageError."""
    from gradflow.network.description import BadNetwork, network_of

    try:
        return network_of(reference).text()
    except BadNetwork as error:
        raise UsageError(str(error)) from None


def fitting_network(program: Program, text: str | None) -> None:
    """Raises UsageError for a network that speaks of nodes that the program does not have."""
    from gradflow.network.description import BadNetwork, read
    from gradflow.network.prediction import links_of

    try:
        if text is not None:
            links_of(program, read(text))
    except BadNetwork as error:
        raise UsageError(str(error)) from None


def built(file: str, overrides: list[str], allow_python: bool) -> Program | None:
    """The program; None if the spec has errors, which were told."""
    from gradflow.library.python_models import python_allowed

    with python_allowed(allow_python):
        return program_of(file, overrides)


def asked_for(options: argparse.Namespace) -> dict[str, Any]:
    """The executor's options as far as the command line says them, None for the others."""
    said = {name: getattr(options, name) for name in HOW}
    return said | {"optimize": None if options.passes is None else options.passes == "all"}


def chosen(options: argparse.Namespace) -> Options:
    """The executor's options. Raises UsageError for values that it does not take."""
    from gradflow.runtime.options import Options

    try:
        return Options(**{name: value for name, value in asked_for(options).items() if value is not None})
    except ValueError as error:
        raise UsageError(str(error)) from None


def begin(program: Program, options: argparse.Namespace) -> int:
    """A new run in a new folder; on the ranks that torchrun has started again, the run that they were at."""
    from gradflow.cli.running import artifact_of, carried_out, followed, told
    from gradflow.runtime.executor import Run
    from gradflow.runtime.loggers import logger_of
    from gradflow.runtime.resume import reopened
    from gradflow.runtime.run_folder import RunFolder

    settings = chosen(options)
    command = {
        "file": options.file, "overrides": options.overrides, "allow_python": options.allow_python, "log": options.log,
        "checkpoint_every": options.checkpoint_every,
    }  # fmt: skip
    with told(program) as outcome, joined(program, settings) as ranks:
        before = ranks.folder_before()
        if before is not None:
            outcome.code = went_on(reopened(before), program, options, ranks)
            return outcome.code
        one = Run(program, settings, save_every=options.checkpoint_every, ranks=ranks)
        if ranks.rank:
            one.folder = ranks.folder()
            outcome.code = followed(one)
            return outcome.code
        for name in options.log:
            logger_of(name, options.out)  # a missing package is said before there is a folder
        folder = RunFolder.create(program, settings, options.out, artifact_of(program), name=options.name, command=command)
        one.folder = folder.path
        ranks.tell_folder(folder.path)
        say(f"run folder: {folder.path}")
        outcome.code = carried_out(one, folder, options, options.log)
    return outcome.code


def resume(options: argparse.Namespace) -> int:
    """A run out of its folder, from its newest whole checkpoint."""
    from gradflow.cli.running import told
    from gradflow.runtime import records
    from gradflow.runtime.resume import refuse_options, reopened

    path = options.resume if options.resume.exists() else options.out / options.resume
    with told(None) as outcome:
        kept = reopened(path if path.exists() else options.resume)
        refuse_options(kept, asked_for(options))
        if records.glance(kept.path).state == "finished":
            say(f"{kept.path} is finished: there is nothing to go on with; `gradflow show {kept.path}` shows it")
            return FINE
        program = _program(kept, options)
        if program is None:
            return ERRORS
        if options.nproc is not None:
            return launched(options, program)
        outcome.program = program
        with joined(program, kept.options) as ranks:
            outcome.code = went_on(kept, program, options, ranks)
    return outcome.code


def went_on(kept: Kept, program: Program, options: argparse.Namespace, ranks: Ranks) -> int:
    from gradflow.cli.running import carried_out, followed
    from gradflow.runtime.resume import continued

    if ranks.rank:
        return followed(continued(kept, program, options.checkpoint_every, ranks=ranks)[0])
    with kept.folder:
        one, notes = continued(kept, program, options.checkpoint_every, ranks=ranks)
        for note in notes:
            say(note)
        return carried_out(one, kept.folder, options, options.log or list(kept.command.get("log", [])))


def _program(kept: Kept, options: argparse.Namespace) -> Program | None:
    """What ran: as the folder has it, or of the spec that is named, if that is the same; None if the spec has errors. Raises RunFailed."""
    from gradflow.runtime.events import RunFailed
    from gradflow.runtime.resume import program_kept, refuse_changes

    program = None if options.file is not None else program_kept(kept)
    if program is not None:
        return program
    file = options.file or kept.command.get("file")
    if file is None:
        raise RunFailed(f"{kept.path} holds no plan.gfp: name the spec too, `gradflow run SPEC --resume {kept.path}`")
    overrides = options.overrides if options.file is not None else list(kept.command.get("overrides", []))
    program = built(str(file), overrides, options.allow_python)
    if program is not None:
        refuse_changes(kept, program)
    return program

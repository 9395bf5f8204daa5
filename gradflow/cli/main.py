"""`gradflow COMMAND ..`: finds the command, imports that one module, runs it, and turns what goes wrong into a sentence and an exit code.

A command is a module of this folder with `arguments(parser)`, which declares its options, and `run(options)`, which returns an exit code.
Only the module of the command asked for is imported, so that `gradflow check` starts without torch, numpy or rich. The options are read by
argparse because it starts in 5 ms, where typer needs 100 (it imports pydantic); unknown options are errors with a suggestion.

Data goes to stdout, talk to stderr. Exit codes: 0 fine; 1 the spec has errors (or a file is not formatted, a vector does not match);
2 wrong usage; 3 a run failed, or gradflow itself did; 130 interrupted; 141 whoever read stdout is gone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gradflow.cli.terminal import CLOSED, ERRORS, FAILED, FINE, INTERRUPTED, USAGE, UsageError, report, say

COMMANDS = {
    "check": "find every mistake in spec files",
    "fmt": "bring spec files into the canonical layout",
    "plan": "show what a pipeline will do before it runs",
    "diff": "compare two pipelines by meaning",
    "compile": "write the compiled artifact, or print what a stage of the compiler makes",
    "run": "train: a file, a shipped spec, or a compiled artifact",
    "runs": "list the runs in a folder and how they stand",
    "show": "show a run: what was learnt, and the course of every number",
    "report": "write a run as one HTML page with plots",
    "list": "show what a spec can use: definitions, built-ins, models, data",
    "explain": "explain a name of the language or the library, or an error code",
    "methods": "show the evidence for every shipped method",
    "verify": "compare a component with golden vectors",
    "claim": "run what a method promises against its baseline, over seeds",
}


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations and without exits: what it cannot read is a UsageError, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        from gradflow.language.diagnostics import nearest

        known = [option for action in self._actions for option in action.option_strings]
        unknown = [word for word in message.split() if word.startswith("-") and word.rstrip(",") not in known] if "unrecognized" in message else []
        hint = next((text for text in (nearest(word.partition("=")[0], known) for word in unknown) if text), "")
        raise UsageError(f"{message}{'; ' + hint if hint else ''}\n{self.format_usage().rstrip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return FINE if words else USAGE
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"gradflow {version('gradflow')}")
        return FINE
    return guarded(lambda: dispatch(words[0], words[1:]), words, traceback)


READING = ("check", "plan", "compile", "diff")  # what elaborates a spec and runs nothing of it


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: gradflow COMMAND ..", "", "A declarative language and a compiler for gradient methods.", "", *lines, "",
         "`gradflow COMMAND --help` shows a command's options; --traceback, anywhere, shows where gradflow itself failed."]
    )  # fmt: skip


def dispatch(name: str, words: Sequence[str]) -> int:
    """Reads the options of one command and runs it."""
    if name not in COMMANDS:
        from gradflow.language.diagnostics import nearest

        hint = "to check a file: `gradflow check FILE`" if name.endswith(".gflow") else nearest(name, COMMANDS) or "`gradflow --help` lists them"
        raise UsageError(f"there is no command `{name}`; {hint}")
    module = importlib.import_module(f"gradflow.cli.{name}")
    first, _, rest = (module.__doc__ or "").partition("\n")
    parser = Parser(
        prog=f"gradflow {name}", description=first, epilog=rest.strip(),
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    module.arguments(parser)
    if name in READING:
        parser.add_argument("--allow-python", action="store_true", help="let the spec name Python code of yours: what it names is imported")
    options = parser.parse_args(list(words))
    options.words = list(words)
    if name not in READING:
        return module.run(options)
    from gradflow.library.python_models import python_allowed

    with python_allowed(options.allow_python):
        return module.run(options)


def guarded(action: Callable[[], int], words: Sequence[str], traceback: bool) -> int:
    """What the action returns; of an exception one sentence on stderr, and the code that it stands for."""
    from gradflow.language.diagnostics import GradflowError

    try:
        code = action()
        sys.stdout.flush()
        return code
    except UsageError as error:
        say(f"error: {error}")
        return USAGE
    except GradflowError as error:
        report(error.diagnostics, sys.stderr, words=words)
        return ERRORS
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FINE
    except Exception as error:
        if traceback:
            import traceback as printer

            printer.print_exc()
        else:
            say(f"error: {sentence(error)}\n(--traceback shows where this happened)")
        return FAILED


def sentence(error: Exception) -> str:
    """What an exception says, on one line; errors that carry their own sentence are not given the name of their class."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    own = type(error).__module__.startswith("gradflow")
    return text if own or isinstance(error, OSError) else f"gradflow failed: {type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())

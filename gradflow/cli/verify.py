"""Compare a component with golden vectors.

COMPONENT is named as in the file: `18-sapo.loss`. Every case is computed and compared within the file's tolerances. Exit code 1 on a
mismatch. --record writes the outcome beside the vectors, where `gradflow methods` looks for it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gradflow.cli.terminal import ERRORS, FINE, UsageError, say


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("component", metavar="COMPONENT", help="its name, as in the file: 18-sapo.loss")
    parser.add_argument("vectors", type=Path, metavar="VECTORS.json")
    parser.add_argument("--backend", default="reference", help="reference (float64, the default) or torch")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--record", action="store_true", help="write the outcome beside the vectors")


def run(options: argparse.Namespace) -> int:
    from gradflow.verify import verify_file

    check_vectors(options.vectors)
    if options.backend not in ("reference", "torch"):
        raise UsageError(f"there is no backend `{options.backend}`: it is reference or torch")
    verdict = verify_file(options.vectors, options.component, options.backend).as_json()
    if options.format == "json":
        print(json.dumps(verdict, indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(verdict)))
    if options.record:
        from gradflow.cli.methods import record

        say(f"recorded in {record(options.vectors, verdict['component'], verdict)}")
    return FINE if verdict["passed"] == verdict["cases"] else ERRORS


def check_vectors(path: Path) -> None:
    """Raises UsageError for a file that holds no vectors."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"`{path}` is no JSON: {error}") from None
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, dict) and {"name", "outputs"} <= set(case) for case in cases):
        raise UsageError(f"`{path}` holds no vectors: it needs `cases`, a list of objects with `name`, `params`, `inputs` and `outputs`")
    if not cases:
        raise UsageError(f"`{path}` holds no case")


def lines(verdict: dict[str, Any]) -> list[str]:
    head = f"{verdict['component']}: {verdict['passed']} of {verdict['cases']} cases agree ({verdict['backend']})"
    failed = [": ".join(part for part in (one["case"], one["output"], one["message"]) if part) for one in verdict["failures"]]
    return [head, *(f"  {text}" for text in failed)]

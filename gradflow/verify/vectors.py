"""Vector files: reading, evaluating and comparing. JSON as in `tests/golden`: {component, cases: [{name, params, inputs, outputs, rtol, atol}]}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from gradflow.language.diagnostics import Diagnostic, GradflowError, nearest
from gradflow.language.source import Source
from gradflow.passes.scope import Module, module, standard_files, standard_folder
from gradflow.passes.values import NONE


@dataclass(frozen=True)
class CaseFailure:
    """One output of one case that does not agree (or an error, then `output` is empty)."""

    case: str
    output: str
    message: str


@dataclass(frozen=True)
class Verdict:
    component: str
    backend: str
    cases: int
    passed: int
    failures: tuple[CaseFailure, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        failures = [{"case": f.case, "output": f.output, "message": f.message} for f in self.failures]
        return {"component": self.component, "backend": self.backend, "cases": self.cases, "passed": self.passed, "failures": failures}


def find_component(component: str) -> tuple[Module, str]:
    """The file and definition of `NN-slug.name`. Raises GradflowError."""
    slug, _, name = component.rpartition(".")
    stem = slug.replace("-", "_")
    candidates = [standard_folder() / "golden" / f"{stem}.gflow", *(path for path in standard_files() if path.stem == stem)]
    for path in candidates:
        if path.exists():
            found = module(path)
            if name in found.definitions:
                return found, name
    known = sorted(known_components())
    where = Source("<component>", component).span(0, len(component))
    raise GradflowError(
        [
            Diagnostic(
                "E0216",
                f"there is no component `{component}`",
                where,
                fix=nearest(component, known),
                why="a component is a definition of a shipped spec or of its wrapper",
            )
        ]
    )


def known_components() -> list[str]:
    found = []
    for path in sorted((standard_folder() / "golden").glob("*.gflow")):
        slug = path.stem.replace("_", "-")
        found += [f"{slug}.{name}" for name in module(path).definitions]
    return found


def option(value: Any) -> Any:
    """A JSON value as an option of the language: words lose what no name may hold (`seq-mean` is `seq_mean`), null is `none`, "inf" a number."""
    if value is None:
        return NONE
    if isinstance(value, str) and value.lower().lstrip("+-") in ("inf", "infinity"):
        return float(value)
    if isinstance(value, str):
        word = re.sub(r"\W+", "_", value)
        return f"_{word}" if word[:1].isdigit() else word
    if isinstance(value, list):
        return tuple(option(item) for item in value)
    return value


def array(value: Any) -> numpy.ndarray:
    """A tensor of a vector file, a torch tensor or a number, as numpy."""
    if isinstance(value, Mapping):
        data = [float(x) if isinstance(x, str) else x for x in value["data"]]
        kind = "float32" if value["dtype"] == "bfloat16" else value["dtype"]  # of which numpy has none; every such number is a float32 too
        return numpy.array(data, dtype=kind).reshape(value["shape"])
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return numpy.asarray(value)


def evaluate(component: str, params: Mapping[str, Any], inputs: Mapping[str, Any], backend: str = "reference") -> dict[str, Any]:
    """The outputs of a component as torch tensors, names as in its card.

    `inputs` are torch tensors, numpy arrays or the tensors of a vector file. `backend` is reference (float64) or torch (float64 too).
    Raises GradflowError for an unknown component, option or a missing input.
    """
    import torch

    outputs = compute(component, params, inputs, backend)
    return {name: torch.as_tensor(value) for name, value in outputs.items()}


def compute(component: str, params: Mapping[str, Any], inputs: Mapping[str, Any], backend: str) -> dict[str, numpy.ndarray]:
    from gradflow.language.diagnostics import Mistake
    from gradflow.verify.drivers import drive

    home, name = find_component(component)
    try:
        return drive(home, name, {k: option(x) for k, x in params.items()}, {k: array(x) for k, x in inputs.items()}, backend)
    except Mistake as error:
        raise GradflowError([error.diagnostic]) from None


def verify_file(path: str | Path, component: str | None = None, backend: str = "reference") -> Verdict:
    """Runs every case of a file. A case passes when every recorded output is there and agrees within the case's tolerances."""
    document = json.loads(Path(path).read_text())
    name = component or document["component"]
    find_component(name)
    failures: list[CaseFailure] = []
    passed = 0
    for case in document["cases"]:
        found = list(_case(name, case, backend))
        failures += found
        passed += not found
    return Verdict(name, backend, len(document["cases"]), passed, tuple(failures))


def _case(component: str, case: Mapping[str, Any], backend: str) -> list[CaseFailure]:
    inputs, unread = _tensors(case, "inputs")
    recorded, unread_too = _tensors(case, "outputs")
    if unread or unread_too:
        return unread + unread_too
    try:
        outputs = compute(component, case.get("params", {}), inputs, backend)
    except GradflowError as error:
        return [CaseFailure(case["name"], "", str(error))]
    except Exception as error:  # what the inputs make impossible, such as an index beyond an axis, fails this case and not the ones behind it
        return [CaseFailure(case["name"], "", f"cannot be computed ({type(error).__name__}): {error}")]
    failures = []
    for name, expected in recorded.items():
        message = _difference(outputs.get(name), expected, case.get("rtol", 1e-6), case.get("atol", 0.0))
        if message:
            failures.append(CaseFailure(case["name"], name, message))
    return failures


def _tensors(case: Mapping[str, Any], part: str) -> tuple[dict[str, numpy.ndarray], list[CaseFailure]]:
    found, unread = {}, []
    for name, value in case.get(part, {}).items():
        try:
            found[name] = array(value)
        except (KeyError, TypeError, ValueError) as error:
            unread.append(CaseFailure(case["name"], name, f"this is no tensor of the form shape, dtype, data ({error})"))
    return found, unread


def _difference(found: Any, expected: numpy.ndarray, rtol: float, atol: float) -> str:
    if found is None:
        return "this output is missing"
    found = numpy.asarray(found)
    if found.shape != expected.shape:
        return f"shape {list(found.shape)} instead of {list(expected.shape)}"
    close = numpy.isclose(found.astype(float), expected.astype(float), rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return ""
    gap = numpy.abs(found.astype(float) - expected.astype(float))
    place = numpy.unravel_index(int(numpy.argmax(numpy.where(close, 0, gap))), gap.shape) if gap.ndim else ()
    most = f"{found[place]:.10g} instead of {expected[place]:.10g}"
    return f"{int((~close).sum())} of {close.size} entries differ, most at {list(map(int, place))}: {most}"

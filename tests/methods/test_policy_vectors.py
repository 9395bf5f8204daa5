"""The recorded outputs of TRL and verl, for the policy baselines and SAPO, on every backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradflow.verify import verify_file

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(path for stem in ("00-policy-baselines", "18-sapo") for path in GOLDEN.glob(f"{stem}.*.json"))


def test_every_component_has_its_file() -> None:
    assert len(FILES) == 10


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_case_agrees(path: Path, backend: str) -> None:
    verdict = verify_file(path, backend=backend)
    assert not verdict.failures, "\n".join(f"{f.case} {f.output}: {f.message}" for f in verdict.failures)
    assert verdict.passed == verdict.cases > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_recorded_outputs_are_not_trivial(path: Path) -> None:
    """Every output takes several values, in one case or over the cases."""
    values: dict[str, set[float]] = {}
    for case in json.loads(path.read_text())["cases"]:
        for name, output in case["outputs"].items():
            values.setdefault(name, set()).update(output["data"])
    assert all(len(found) > 1 for found in values.values())

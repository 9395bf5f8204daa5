"""The recorded outputs of official code, of well-known libraries and of independent references, on every backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradflow.verify import verify_file

GOLDEN = Path(__file__).parent.parent / "golden"
# Outputs that are one number in all recorded cases; the property tests of the method vary them.
CONSTANT = {("19-grpo-guard.loss", "kl"), ("22-dcpo.loss", "clipfrac_lower"), ("28-agentic-aepo.policy_loss", "dual_clip_fraction")}
FILES = sorted(GOLDEN.glob("[0-9]*.json"))


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
    single = {name for name, found in values.items() if len(found) < 2}
    assert values and single == {name for stem, name in CONSTANT if stem == path.stem}, single


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_case_that_cannot_be_computed_fails_alone(tmp_path: Path, backend: str) -> None:
    """Fewer draws than calls: an index beyond the axis, found only when it runs."""
    document = json.loads((GOLDEN / "09-igpo.sampler.json").read_text())
    good = next(case for case in document["cases"] if case["params"]["temperature"] > 0)
    noise = good["inputs"]["noise"]
    short = {"shape": [1, *noise["shape"][1:]], "dtype": noise["dtype"], "data": noise["data"][: len(noise["data"]) // noise["shape"][0]]}
    bad = good | {"name": "short", "inputs": good["inputs"] | {"noise": short}}
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps(document | {"cases": [bad, good]}))
    verdict = verify_file(path, backend=backend)
    assert (verdict.passed, verdict.cases) == (1, 2)
    (failure,) = verdict.failures
    assert failure.case == "short" and "cannot be computed" in failure.message

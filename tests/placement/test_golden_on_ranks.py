"""The golden trajectories of the exchanges, with their nodes spread over several ranks: the same vectors, within the files' own tolerances."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradflow.runtime import embed
from gradflow.verify.vectors import verify_file
from tests.placement.threads import reports_on_ranks

GOLDEN = Path(__file__).parent.parent / "golden"
COMPONENTS = [
    "00-communication-baselines.allreduce_sgd", "00-communication-baselines.dsgd", "00-communication-baselines.gradient_tracking",
    "00-communication-baselines.local_sgd", "00-communication-baselines.token_sgd", "03-sa-srrw.sa", "06-fzoos.rounds", "13-dadao.trajectory",
    "14-econtrol.trajectory", "25-diff2.diff2_bvr", "25-diff2.diff2_gd",
]  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("component", COMPONENTS)
def test_vectors_hold_on_several_ranks(component: str, count: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "run_reports", reports_on_ranks(count))
    verdict = verify_file(GOLDEN / f"{component}.json", component, backend)
    assert verdict.cases > 0 and not verdict.failures, verdict.failures[:3]

"""Every objective of the family with every advantage, aggregation and selection: it runs, or is refused with a reason, as its signature says."""

from __future__ import annotations

import math
from itertools import cycle

import pytest

from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute

from .family import SELECTIONS, advantages, aggregations, called, objectives, program, taken


def test_the_tables_hold_the_family() -> None:
    """At least these; whatever is new is in them by being there."""
    known = {
        "grpo",
        "ppo",
        "dapo",
        "gspo",
        "cispo",
        "rloo",
        "dr_grpo",
        "sapo",
        "copo",
        "gppo",
        "ngrpo",
        "drpo",
        "dcpo",
        "d3s",
        "turn_ppo",
        "entropy_balanced",
    }
    assert known <= set(objectives())
    assert {"group_norm", "leave_one_out", "outcome", "calibrated", "by_entropy"} <= set(advantages()) and len(advantages()) >= 10
    assert {"token_mean", "token_sum", "sequence_mean", "sequence_sum", "sequence_mean_sum"} <= set(aggregations())


@pytest.mark.parametrize("objective", objectives())
def test_parts_are_swapped(objective: str) -> None:
    """Aggregations and selections go round while the advantages do: every pair with the objective comes up."""
    own = taken(objective)
    assert own is not None
    wholes, masks = cycle(aggregations()), cycle(SELECTIONS.values())
    ran = 0
    for credit in [None, *advantages(), *(None for _ in range(max(0, len(aggregations()) - len(advantages()))))]:
        given = {"mask": next(masks)}
        if credit is not None:
            given["advantage"] = f"{credit}(scored)"
        given["aggregate"] = f"{next(wholes)}()"
        found, diagnostics = program(called(objective, **given), settings="")
        unknown = [name for name in given if name not in (*own.parameters, *own.inputs)]
        if unknown:
            assert found is None
            assert any(d.code == "E0404" and any(f"`{name}`" in d.message for name in unknown) and d.why and d.fix for d in diagnostics), diagnostics
            found, diagnostics = program(called(objective, **{name: text for name, text in given.items() if name not in unknown}), settings="")
        assert found is not None, [(d.code, d.message, d.why) for d in diagnostics]
        losses = [event.loss for event in execute(found, Options()) if isinstance(event, UnitDone)]
        assert len(losses) == 2 and all(loss is not None and math.isfinite(loss) for loss in losses)
        ran += 1
    assert ran >= len(advantages())


def test_what_does_not_fit_says_why() -> None:
    """Axes that do not meet, in the words of the reader's own spec."""
    wrong = {
        "grpo(scored, advantage: samples.prompt_id)": "E0523",  # its mean is left with an axis
        "grpo(scored, aggregate: group_norm())": "E0",
        "grpo(scored, surrogate: token_mean())": "E0",
        "grpo(scored, mask: samples.reward)": "E0",
        "drpo(scored, aggregate: token_mean())": "E0404",
        "grpo(samples)": "E0205",
    }
    for loss, code in wrong.items():
        found, diagnostics = program(loss)
        assert found is None, loss
        assert any(d.code.startswith(code) and d.why and d.fix for d in diagnostics), (loss, [(d.code, d.message) for d in diagnostics])

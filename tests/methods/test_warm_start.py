"""Learning from given answers first: the likelihood of answers, and the pipeline that goes on from there with its own."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, load
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, execute

from .cases import few, seeds
from .harness import evaluate_text
from .policy_cases import Batch, batches, same

ASKED = """
objective asked {
  input logp   : [sample, token]
  input mask   : bool[sample, token]
  input reward : [sample]
  minimize imitation(logp: logp, mask: mask, reward: reward BEST)
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
@few
@given(batches(), seeds, st.sampled_from([None, 1.0, 2.0, "none"]))
def test_imitation_is_the_mean_over_the_tokens_of_the_right(backend: str, batch: Batch, seed: int, best: float | str | None) -> None:
    """0 with zero gradient where nothing is right, and whatever stands behind the mask."""
    reward = torch.tensor(numpy.random.default_rng(seed).integers(0, 3, len(batch.logp))).double()
    logp = batch.logp.clone().requires_grad_()
    right = batch.mask if best == "none" else batch.mask & (reward == (1.0 if best is None else best))[:, None]
    loss = -torch.where(right, logp, 0.0).sum() / max(int(right.sum()), 1)
    loss.backward()
    text = ASKED.replace("BEST", "" if best is None else f", best: {best}")
    inputs = {"logp": batch.inputs(float("nan"))["logp"], "mask": batch.mask.double(), "reward": reward}
    found = evaluate_text(text, "asked", {}, inputs, backend)
    same(found["loss"], loss.detach())
    same(found["grad_logp"], logp.grad)


def test_both_phases_of_the_small_pipeline_run_alike_on_every_backend() -> None:
    """Two units of each; the second imitates what a policy that cannot yet add says instead."""
    program, diagnostics = build(load("baselines/policy")[0], "small", ["prompts=4", "loss=imitation(best: 0)"])
    assert program is not None, diagnostics
    found = []
    for backend in ("reference", "torch"):
        options = Options(backend=backend, precision="float64", steps=2)
        found.append([event.loss for event in execute(program, options) if isinstance(event, UnitDone) and event.loss is not None])
    assert len(found[0]) == 4 and len(set(found[0])) == 4
    same(*found)

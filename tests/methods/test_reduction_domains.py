"""What a loss is divided by is said, and is one: the cut of a batch into micro-batches, its spread over ranks, and packing never change a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradflow import compiler
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.placement.devices import Unplaced
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.snapshots import tensors_of
from gradflow.views.plan import summary
from tests.placement.threads import on_ranks

from .family import aggregations, called, objectives, program

STILL = ("reference_kl", "turn_bias")  # on-policy they have no gradient


def policy(run: Run) -> torch.Tensor:
    return tensors_of(run)["param/policy"].clone()


def stepped(one: Any, **options: Any) -> torch.Tensor:
    run = Run(one, Options(precision="float64", **options))
    list(run.events())
    return policy(run)


def one_step(loss: str, **more: str) -> Any:
    found, diagnostics = program(loss, units=1, settings="", **more)
    assert found is not None, [(d.code, d.message) for d in diagnostics]
    return found


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", objectives())
def test_every_objective_states_its_normalizer(objective: str) -> None:
    (flow,) = summary(one_step(called(objective)))["phases"][0]["flows"]
    assert flow["loss"], f"the plan says nothing about what `{objective}` is normalized by"
    assert any(word in term for term in flow["loss"] for word in ("over sample", "over token", "over prompt", "entries of", "mean over", "sum over"))


@pytest.mark.parametrize("objective", objectives())
def test_micro_batches_never_change_a_step(objective: str) -> None:
    one = one_step(called(objective))
    whole = stepped(one)
    assert objective in STILL or whole.abs().max() > 1e-4, "nothing moved"
    for micro in (2, 5):
        close(stepped(one, micro=micro), whole)


@pytest.mark.parametrize("aggregate", aggregations())
def test_aggregations_divide_by_what_they_say(aggregate: str) -> None:
    """With responses of several lengths, which the lock's policy does not have: the mask leaves tokens out."""
    mask = "samples.mask and (samples.action != 1)"
    one = one_step(called("grpo", aggregate=f"{aggregate}()", mask=mask))
    whole = stepped(one)
    close(stepped(one, micro=3), whole)
    other = next(name for name in aggregations() if name != aggregate)
    assert not torch.allclose(whole, stepped(one_step(called("grpo", aggregate=f"{other}()", mask=mask))), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", objectives())
def test_ranks_never_change_a_step(objective: str) -> None:
    """Or they are refused with a sentence: what takes the batch as a whole cannot be spread over its rows."""
    whole = stepped(one_step(called(objective)))
    try:
        found = on_ranks(one_step(called(objective), over=" over devices()"), 2, Options(precision="float64"), watch=policy)
    except Unplaced as refused:
        assert "rows" in str(refused) or "sample" in str(refused)
        return
    for _, params in found:
        close(params, whole)


PACKED = """
pipeline packed {{
  data  tasks  = arithmetic(digits: 1, size: 20, test: 0)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
  samples ~ sample(policy, tasks, group: 4, prompts: 4, max_tokens: 3)
  scored  = score(policy, samples)
  flow policy: {loss} -> backprop -> sgd(lr: 0.5)
  {schedule}
  train 2 rollouts (seed: 0)
}}
"""


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "gspo", "sapo", "drpo", "d3s", "entropy_balanced", "rloo"])
def test_packing_never_changes_a_step(objective: str) -> None:
    texts = (PACKED.format(loss=called(objective), schedule=schedule) for schedule in ("", "schedule = shared_prefix()"))
    plain, packed = (compiler.build(Module.of(Source("packed.gflow", text)), None)[0] for text in texts)
    assert plain is not None and packed is not None
    whole = stepped(plain)
    for found in (stepped(packed), stepped(packed, micro=2)):
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-10)

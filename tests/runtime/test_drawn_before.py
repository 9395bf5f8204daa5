"""What one `train` block drew is there for the blocks behind it, as it was drawn last; also for a run that is resumed there."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gradflow.compiler import check_source
from gradflow.language.source import Source
from gradflow.runtime.checkpoints import newest_checkpoint
from gradflow.runtime.events import Report, UnitDone
from gradflow.runtime.executor import Options, Run
from gradflow.runtime.state import copied

from .harness import of_kind, ran, written

PHASES = """
pipeline phases {
  data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
  train 2 rollouts (seed: 0) {
    first ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 3)
    every 1 rollouts { report length = mean(first.logp_old, over: [sample, token]) }
  }
  model rater = classifier(copy(policy))
  train 4 rollouts (minibatches: 2) {
    flow rater: reward_odds(logit: score(rater, first).logit, label: first.length > 2) -> backprop -> sgd(lr: 0.1)
    every 1 rollouts { report length = mean(first.logp_old, over: [sample, token]) }
  }
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_later_blocks_read_what_was_drawn_last(backend):
    _, events = ran(written(PHASES), backend=backend)
    lengths = [event.values["length"] for event in of_kind(events, Report) if event.values]
    first, last, *held = lengths
    assert first != last and len(set(held)) == 1 and held[0] == last
    losses = [event.loss for event in of_kind(events, UnitDone)][2:]
    assert all(b < a for a, b in zip(losses, losses[1:])), "the classifier learns from it"


def test_a_run_goes_on_in_a_block_that_reads_it(tmp_path):
    whole, _ = ran(written(PHASES))
    half = Run(written(PHASES), Options(), None, tmp_path)
    for event in half.events():
        if isinstance(event, UnitDone) and event.tick == 3:
            half.stop()
    rest = Run(written(PHASES), Options(), resume=newest_checkpoint(tmp_path)[0])
    list(rest.events())
    assert all(torch.equal(value, rest.parameters("rater")[name]) for name, value in whole.parameters("rater").items())


def test_a_block_does_not_read_what_is_drawn_behind_it():
    turned = """
    pipeline turned {
      data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
      model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
      train 1 rollouts { flow policy: grpo(score(policy, later)) -> backprop -> sgd(lr: 0.1) }
      train 1 rollouts { later ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 3) }
    }
    """
    assert "E0201" in {d.code for d in check_source(Source("turned.gflow", turned))}


def test_a_copied_module_has_memory_of_its_own():
    """Also where it is a view of more: the copy keeps nothing alive but itself, and a plan, whose tensors have no memory, can copy too."""
    flat = torch.arange(20.0)
    module = torch.nn.Linear(3, 2)
    module.weight.data, module.bias.data = flat[2:8].view(2, 3), flat[8:10]
    module.register_buffer("seen", flat[10:12])
    again = copied(module)
    assert all(
        torch.equal(a, b) and a.untyped_storage().nbytes() == 4 * a.numel() for a, b in zip(again.state_dict().values(), module.state_dict().values())
    )
    assert isinstance(again.weight, torch.nn.Parameter) and again.weight.data_ptr() != module.weight.data_ptr()
    with FakeTensorMode():
        blank = torch.nn.Linear(3, 2)
        assert copied(blank).weight.shape == (2, 3)

"""Mini-batches of a rollout: every sample once an epoch; whole groups where an update sums over the samples of a group, and only there."""

from __future__ import annotations

import pytest
import torch

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.runtime import random
from gradflow.runtime.cuts import grouping, pieces
from gradflow.runtime.events import RunFailed, UnitDone
from gradflow.runtime.executor import Options, execute

CPU = torch.device("cpu")
KEY = random.key(0, "minibatches", 3, 1)

SPEC = """
objective plain {
  input logp   : [sample, token]
  input mask   : bool[sample, token]
  input reward : [sample]
  input group  : [sample -> prompt]
  credit = reward - mean(reward, by: group)
  minimize -mean(credit * logp, where: mask)
}

function ahead {
  input merit : [sample]
  input group : [sample -> prompt]
  n = sum(0 * merit + 1, by: group)
  return (gap: sum(where(n > 0, max(merit, by: group) - mean(merit, by: group), 0)), whole: mean(n == 3, where: n > 0), some: sum(n > 0))
}

objective contrasted {
  input logp  : [sample, token]
  input mask  : bool[sample, token]
  input group : [sample -> prompt]
  merit = mean(logp, over: token, where: mask)
  found = ahead(merit, group)
  minimize found.gap
  report whole = found.whole
  report some  = found.some
}

pipeline cut(loss: objective = contrasted(), prompts: int >= 1 = 7, minibatches: int >= 1 = 3) {
  data  tasks  = combination_lock(prompts: 12, length: 2, vocabulary: 4)
  model policy = table_policy(prompts: 12, length: 2, vocabulary: 4)
  samples ~ sample(policy, tasks, group: 3, prompts: prompts, max_tokens: 2)
  flow policy: loss(score(policy, samples)) -> backprop -> sgd(lr: 0.1)
  train 1 rollouts (seed: 0, minibatches: minibatches)
}
"""


def program(*parameters: str, loss: str = "contrasted"):
    found, diagnostics = build(Module.of(Source("<test>", SPEC.replace("contrasted()", f"{loss}()"))), "cut", parameters)
    assert found is not None, diagnostics
    return found


def updates(found):
    return [action for phase in found.phases for action in phase.actions if hasattr(action, "rollout")]


def test_every_sample_is_seen_once() -> None:
    found = list(pieces(KEY, 11, 3, None, CPU))
    assert sorted(torch.cat(found).tolist()) == list(range(11))
    assert [len(piece) for piece in found] == [3, 4, 4]
    assert torch.cat(found).tolist() != list(range(11))


@pytest.mark.parametrize("owner", [[0, 0, 1, 1, 2, 2, 3, 3], [3, 0, 2, 0, 1, 2, 2, 2, 0], [0, 1, 2]])
def test_groups_stay_whole(owner: list[int]) -> None:
    index = torch.tensor(owner)
    found = list(pieces(KEY, len(owner), 3, index, CPU))
    assert sorted(torch.cat(found).tolist()) == list(range(len(owner)))
    groups = [set(index[piece].tolist()) for piece in found]
    assert sum(map(len, groups)) == len(set(owner)) and all(groups)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_groups_are_kept_where_a_live_sum_needs_them() -> None:
    (live,), (taken,) = (updates(program(loss=loss)) for loss in ("contrasted", "plain"))
    index = grouping([live.region])
    assert index is not None and index[-1] == "group"
    assert grouping([taken.region]) is None, "what the record alone says is summed before the cut"


def test_a_run_cuts_by_whole_groups() -> None:
    (metrics,) = (event.metrics for event in execute(program(), Options(precision="float64")) if isinstance(event, UnitDone))
    assert metrics["whole"] == 1 and metrics["some"] == pytest.approx(7 / 3)


def test_fewer_groups_than_mini_batches_are_refused() -> None:
    with pytest.raises(RunFailed, match="2 groups, which an update needs whole, cannot be cut into 3 minibatches"):
        list(execute(program("prompts=2"), Options()))
    list(execute(program("prompts=2", loss="plain"), Options()))

"""Heads: what they read and where, that the trunk stays what it was, and what a pipeline makes of a critic."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch

from gradflow.library.catalogue import catalogue
from gradflow.library.heads import classifier, value_head
from gradflow.library.models import mlp, transformer
from gradflow.library.rollouts import RESULT_TYPES, sample, score
from gradflow.library.tabular_policy import table_policy
from gradflow.library.text_tasks import Tasks, arithmetic, combination_lock
from gradflow.plan.artifact import decode, encode
from gradflow.runtime.checkpoints import newest_checkpoint
from gradflow.runtime.events import UnitDone
from gradflow.runtime.executor import Options, Run, execute
from tests.library.rows import take_rows
from tests.runtime.harness import of_kind, ran, shipped, written

TRUNK = transformer(vocabulary=22, layers=1, width=16, heads=2, length=24)
TASKS = arithmetic(digits=1, size=60, test=10)


@pytest.fixture(scope="module")
def policy():
    return TRUNK.build(0)


@pytest.fixture(scope="module")
def samples(policy):
    return sample(policy, Tasks.of(TASKS), group=3, prompts=5, max_tokens=6, seed=0, tick=0)


@pytest.mark.parametrize("spec", [value_head(TRUNK), classifier(TRUNK), classifier(TRUNK, classes=3), classifier(value_head(TRUNK))])
def test_leaves_are_those_of_the_module_and_the_trunk_is_untouched(spec, policy):
    module = spec.build(0)
    assert [(leaf.name, leaf.shape) for leaf in spec.leaves] == [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    ids = torch.tensor([[2, 3, 4, 5]])
    assert torch.equal(module.logits(ids), policy.logits(ids))


@pytest.mark.parametrize("spec", [value_head(TRUNK), classifier(TRUNK), classifier(TRUNK, classes=3)])
def test_declared_fields_are_what_score_gives(spec, samples):
    fields = RESULT_TYPES["score"](spec, RESULT_TYPES["sample"](TRUNK, TASKS, group=3, prompts=5, max_tokens=6))
    for name in ("value", "logit"):
        assert (name in fields) == (name in spec.methods)
        if name in fields:
            assert score(spec.build(0), samples, head=name)[name].shape == tuple(size for _, size in fields[name].axes) and fields[name].live


def alone(samples, row):
    """Prompt and response of one row, without padding."""
    return samples["ids"][row][samples["prompt_mask"][row]], samples["action"][row][samples["mask"][row]]


def test_a_value_is_read_before_each_token(samples):
    critic = value_head(TRUNK).build(0)
    found = score(critic, samples, head="value")["value"]
    assert (found[~samples["mask"]] == 0).all() and found[samples["mask"]].unique().numel() > 5
    for row in range(len(found)):
        asked, answer = alone(samples, row)
        hidden = critic.hidden(torch.cat([asked, answer])[None])[0, len(asked) - 1 : -1]
        wanted = hidden @ critic.value_head.weight[0] + critic.value_head.bias
        torch.testing.assert_close(found[row][samples["mask"][row]], wanted, rtol=1e-4, atol=1e-6)


def test_a_class_is_read_after_the_last_token(samples):
    rater = classifier(TRUNK, classes=3).build(0)
    found = score(rater, samples, head="logit")["logit"]
    for row in range(len(found)):
        hidden = rater.hidden(torch.cat(alone(samples, row))[None])[0, -1]
        torch.testing.assert_close(found[row], hidden @ rater.classifier.weight.T + rater.classifier.bias, rtol=1e-4, atol=1e-6)


def test_a_response_without_tokens_is_read_after_its_prompt(samples):
    rater, empty = classifier(TRUNK).build(0), dict(samples)
    empty |= {"mask": samples["mask"].clone(), "length": samples["length"].clone()}
    empty["mask"][0], empty["length"][0] = False, 0
    found = score(rater, empty, head="logit")["logit"]
    hidden = rater.hidden(alone(samples, 0)[0][None])[0, -1]
    torch.testing.assert_close(found[0], (hidden @ rater.classifier.weight.T + rater.classifier.bias)[0], rtol=1e-4, atol=1e-6)


def test_no_samples_have_no_scores(samples):
    model = classifier(value_head(TRUNK), classes=2).build(0)
    none = take_rows(samples, slice(0, 0))
    found = {**score(model, none, entropy=True), **score(model, none, head="value"), **score(model, none, head="logit")}
    assert found["logp"].shape == found["entropy"].shape == found["value"].shape == (0, 6) and found["logit"].shape == (0, 2)


@pytest.mark.parametrize("field", ["value", "logit"])
def test_a_row_does_not_depend_on_the_others(field, samples):
    model = {"value": value_head, "logit": classifier}[field](TRUNK).build(0)
    whole = score(model, samples, head=field)[field]
    piece = score(model, take_rows(samples, [4, 7]), head=field)[field]
    torch.testing.assert_close(piece, whole[[4, 7]], rtol=1e-4, atol=1e-6)


def test_a_table_has_a_critic_too():
    critic = value_head(table_policy(prompts=4, length=2, vocabulary=3)).build(0)
    locks = Tasks.of(combination_lock(prompts=4, length=2, vocabulary=3))
    with torch.no_grad():
        critic.theta.copy_(torch.arange(24.0).reshape(4, 2, 3))
    drawn = sample(critic, locks, group=2, max_tokens=2, seed=0, tick=0)
    found = score(critic, drawn, head="value")["value"]
    wanted = critic.theta @ critic.value_head.weight[0] + critic.value_head.bias
    torch.testing.assert_close(found, wanted[drawn["prompt_id"][drawn["group"]]])


def test_what_has_no_hidden_states_has_no_head():
    for spec, said in ((mlp(3, 2), "no language model"), (value_head(TRUNK), "already"), (dataclasses.replace(TRUNK, leaves=()), "when it is built")):
        with pytest.raises(ValueError, match=said):
            value_head(spec)
    assert catalogue()["value_head"].domains == {"of": "model"}


# ---- in a pipeline

CRITIC = """
pipeline critic {
  data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
  model other  = HEAD
  samples ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 3)
  worth  = score(other, samples)
  loss   = mean((worth.value - samples.reward)^2, over: [sample, token], where: samples.mask)
  flow other: loss -> backprop -> sgd(lr: 0.5)
  train 3 rollouts (seed: 0, epochs: 1, minibatches: 2) {
    every 1 rollouts { report apart = max(abs(worth.value - worth.value_old)) }
  }
}
"""


def test_a_head_on_a_copy_starts_from_the_copied_trunk():
    run, _ = ran(written(CRITIC.replace("HEAD", "value_head(copy(policy))")), steps=0)
    theirs, ours = run.parameters("policy"), run.parameters("other")
    assert set(ours) == {*theirs, "value_head.weight", "value_head.bias"} and ours["value_head.weight"].abs().max() > 0
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    fresh, _ = ran(written(CRITIC.replace("HEAD", "value_head(transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24))")), steps=0)
    assert not torch.equal(fresh.parameters("other")["token.weight"], theirs["token.weight"])


def test_a_head_behind_a_train_line_stands_on_what_was_trained():
    text = """
    pipeline two {
      data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
      model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
      samples ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 3)
      train 1 rollouts { flow policy: mean(score(policy, samples).logp, over: [sample, token]) -> backprop -> sgd(lr: 0.1) }
      model rater = classifier(copy(policy), classes: 2)
      train 1 rollouts { flow rater: mean(score(rater, samples).logit, over: [sample, class]) -> backprop -> sgd(lr: 0) }
    }
    """
    run, _ = ran(written(text))
    assert torch.equal(run.parameters("rater")["token.weight"], run.parameters("policy")["token.weight"])
    assert run.parameters("rater")["classifier.weight"].shape == (2, 16)


def test_the_old_value_is_that_of_the_start_of_the_rollout():
    program = written("""
    pipeline held {
      data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
      model critic = value_head(transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24))
      samples ~ sample(critic, tasks, group: 4, prompts: 6, max_tokens: 3)
      worth = score(critic, samples)
      flow critic: apart(worth) -> backprop -> sgd(lr: 1)
      train 2 rollouts (seed: 0, epochs: 3)
    }
    objective apart {
      input value, value_old : [sample, token]
      input mask             : bool[sample, token]
      minimize mean(value, where: mask)
      report moved = mean(value - value_old, where: mask)
      report first = mean(value_old, where: mask)
    }
    """)
    for backend in ("reference", "torch"):
        moved = [event.metrics["moved"] for event in execute(program, Options(backend=backend)) if isinstance(event, UnitDone)]
        assert len(moved) == 2 and all(value < -0.1 for value in moved), "over three epochs the value falls below what was held"
    one = dataclasses.replace(program, phases=(dataclasses.replace(program.phases[0], settings={"seed": 0, "epochs": 1}),))
    assert [event.metrics["moved"] for event in execute(one, Options()) if isinstance(event, UnitDone)] == [0, 0]


def test_a_plan_with_heads_is_written_and_read_and_runs_the_same():
    for head in ("value_head(copy(policy))", "value_head(transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24))"):
        program = written(CRITIC.replace("HEAD", head))
        again = decode(encode(program))
        assert again.models["other"].head == ("value_head", (), ()) and encode(again) == encode(program)
        first, second = ([e.loss for e in execute(one, Options(steps=2)) if isinstance(e, UnitDone)] for one in (program, again))
        assert first == second and len(set(first)) == 2


def test_a_run_with_a_critic_goes_on_bit_for_bit(tmp_path):
    program = shipped("baselines/policy", "ppo_small")
    whole, _ = ran(program, steps=4)
    half = Run(program, Options(steps=4), None, tmp_path)
    for event in half.events():
        if isinstance(event, UnitDone) and event.tick == 1:
            half.stop()
    rest = Run(program, Options(steps=4), resume=newest_checkpoint(tmp_path)[0])
    list(rest.events())
    for model in ("policy", "critic"):
        assert all(torch.equal(value, rest.parameters(model)[name]) for name, value in whole.parameters(model).items())


def test_ppo_with_a_critic_is_the_same_on_both_backends():
    program = shipped("baselines/policy", "ppo_small")
    found = []
    for backend in ("reference", "torch"):
        *_, event = of_kind(execute(program, Options(backend=backend, precision="float64", steps=1)), UnitDone)
        found.append([event.loss, *(event.metrics[name] for name in ("clip_fraction", "critic.loss"))])
    assert numpy.abs(found[0]).min() > 1e-6
    numpy.testing.assert_allclose(found[0], found[1], rtol=1e-8)

"""Rewards beside the verifier's: forms, lengths, functions of the user's own (where Python code is allowed), and how a pipeline weighs them."""

from __future__ import annotations

import sys

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradflow.compiler import build, check_source
from gradflow.language.source import Source
from gradflow.library import python_models
from gradflow.library.python_models import python_allowed
from gradflow.library.rewards import matches, python_reward
from gradflow.library.text_tasks import Tasks, arithmetic
from gradflow.passes.scope import Module
from gradflow.plan.artifact import ArtifactError, decode, encode
from gradflow.runtime.events import Report, RunFailed
from gradflow.runtime.executor import Options, execute
from tests.methods.cases import few
from tests.methods.harness import evaluate_text
from tests.runtime.harness import of_kind, shipped

CODE = """
def polite(completions, prompts, **columns):
    return [float(len(text)) + (prompt[0] == "1") for text, prompt in zip(completions, prompts)]

def right(completions, answer):
    return [None if text != wanted else 2 for text, wanted in zip(completions, answer)]

def short(completions):
    return completions[:1]

number = 3
"""
JUDGED = """
pipeline judged {
  data  tasks  = arithmetic(digits: 1, size: 40, test: 10)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
  samples ~ sample(policy, tasks, group: 4, prompts: 6, max_tokens: 3)
  polite  ~ python_reward(samples, tasks, "judges_of_tests:NAME")
  flow policy: grpo(score(policy, samples), reward: samples.reward + 0.1 * polite) -> backprop -> sgd(lr: 0.1)
  train 2 rollouts (seed: 0) { every 1 rollouts { report polite = mean(polite); report most = max(polite) } }
}
"""


@pytest.fixture
def judges(tmp_path, monkeypatch):
    (tmp_path / "judges_of_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(python_models, "_known", {})
    yield
    sys.modules.pop("judges_of_tests", None)


def spec(name="polite"):
    return JUDGED.replace("NAME", name)


def test_a_form_is_that_of_the_whole_response():
    found = matches({"text": ["12", " 7\n", "1a", "", "3\n4"]}, "[0-9]+")
    assert found.tolist() == [1, 1, 0, 0, 0]
    assert matches({"text": ["<a>\n</a>", "x<a></a>"]}, "<a>.*</a>").tolist() == [1, 0]
    text = spec().replace('python_reward(samples, tasks, "judges_of_tests:polite")', 'matches(samples, "(")')
    assert [(d.code, d.message.startswith("`(` is no regular expression")) for d in check_source(Source("form.gflow", text))] == [("E0407", True)]


def test_nothing_is_imported_unless_it_is_allowed(judges):
    (found,) = [d for d in check_source(Source("judged.gflow", spec())) if d.code == "E0407"]
    assert "only `--allow-python` allows" in found.message and "judges_of_tests" not in sys.modules


@pytest.mark.parametrize(("name", "said"), [("missing", "cannot be imported"), ("number", "must be a function")])
def test_what_is_no_function_is_told_when_the_spec_is_compiled(judges, name, said):
    with python_allowed(True):
        assert any(said in d.message for d in check_source(Source("judged.gflow", spec(name))))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_function_sees_questions_responses_and_columns(judges, backend):
    with python_allowed(True):
        program, diagnostics = build(Module.of(Source("judged.gflow", spec())), "judged")
    assert program is not None, diagnostics
    reports = [event.values for event in of_kind(execute(program, Options(backend=backend)), Report) if event.values]
    assert len(reports) == 2 and all(1 <= values["polite"] <= 4 and values["most"] >= 3 for values in reports)


def test_a_plan_asks_again(judges):
    with python_allowed(True):
        program, _ = build(Module.of(Source("judged.gflow", spec())), "judged")
        data = encode(program)
        assert encode(decode(data)) == data
    with pytest.raises(ArtifactError, match="only `--allow-python` allows"):
        decode(data)


def test_none_is_nothing_and_anything_else_is_refused(judges):
    tasks = Tasks.of(arithmetic(digits=1, size=10, test=0))
    samples = {"task": torch.tensor([4, 2]), "text": [tasks.answers[4], "no"]}
    with python_allowed(True):
        assert python_reward(samples, tasks, "judges_of_tests:right").tolist() == [2, 0]
        with pytest.raises(ValueError, match="a number for each of the 2 responses"):
            python_reward(samples, tasks, "judges_of_tests:short")
        program, _ = build(Module.of(Source("judged.gflow", spec("short"))), "judged")
    with pytest.raises(RunFailed, match="a number for each of the 24 responses"):
        list(execute(program, Options()))


# ---- lengths and weights


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (2, 4), (3, 5)]), st.floats(0, 2))
def test_of_right_responses_the_shortest_earns_most(seed, shape, most):
    r = numpy.random.default_rng(seed)
    length, correct = r.integers(1, 6, shape), r.uniform(size=shape) < 0.6
    group = numpy.repeat(numpy.arange(shape[0]), shape[1])
    text = """
    function worth(most: real >= 0) {
      input length  : [sample]
      input correct : bool[sample]
      input group   : [sample -> prompt]
      return (earned: concise(length: length, correct: correct, group: group, most: most))
    }
    """
    inputs = {"length": length.ravel().astype(float), "correct": correct.ravel(), "group": group}
    found = numpy.asarray(evaluate_text(text, "worth", {"most": most}, inputs)["earned"]).reshape(shape)
    low, high = length.min(1, keepdims=True), length.max(1, keepdims=True)
    plain = numpy.where(low == high, 0, 2 * most * (0.5 - (length - low) / numpy.maximum(high - low, 1)))
    numpy.testing.assert_allclose(found, numpy.where(correct, plain, numpy.minimum(plain, 0)), atol=1e-12)
    assert (found <= most + 1e-12).all() and (found[~correct] <= 0).all()


def test_several_rewards_are_weighed_alike_on_both_backends():
    program = shipped("baselines/policy", "several_small")
    found = []
    for backend in ("reference", "torch"):
        events = list(execute(program, Options(backend=backend, precision="float64", steps=1)))
        found.append([value for event in of_kind(events, Report) for value in event.values.values()] + [e.loss for e in events if hasattr(e, "loss")])
    assert len(found[0]) >= 4
    numpy.testing.assert_allclose(found[0], found[1], rtol=1e-8)

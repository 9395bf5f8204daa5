"""Final answers as numbers: equal texts, marks, braces, what has no mark; and the map that a pipeline gets."""

import pytest
import torch

from gradflow.compiler import build
from gradflow.language.source import Source
from gradflow.library.answers import final_answer, identify, identify_fields
from gradflow.library.catalogue import FieldSpec
from gradflow.passes.scope import Module
from gradflow.runtime.events import Report
from gradflow.runtime.executor import Options, execute


def test_equal_texts_are_one_answer_in_the_order_of_their_first():
    assert identify(["7", " 12", "7 ", "", "12\n", "x"]).tolist() == [0, 1, 0, 2, 1, 3]
    assert identify([]).tolist() == [] and identify([]).dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "mark", "found"),
    [
        ("so it is #### 42 \nindeed", "####", (True, "42")),
        ("#### 1 or #### 2", "####", (True, "2")),
        ("no mark here ", "####", (False, "no mark here")),
        ("thus \\boxed{\\frac{1}{2}} holds", "\\boxed{", (True, "\\frac{1}{2}")),
        ("thus \\boxed{\\frac{1}{2", "\\boxed{", (False, "thus \\boxed{\\frac{1}{2")),
        ("\\boxed{}", "\\boxed{", (True, "")),
        ("12", "", (False, "12")),
    ],
)
def test_the_final_answer_stands_behind_the_last_mark(text, mark, found):
    assert final_answer(text, mark) == found


def test_a_text_without_the_mark_is_of_its_own_kind():
    assert identify(["a #### 7", "7", "b #### 7", "7"], "####").tolist() == [0, 1, 0, 1]


def test_the_declared_result_is_a_map_for_each_text():
    assert identify_fields(FieldSpec("text", (("sample", 6),)), mark="") == FieldSpec("int", (("sample", 6),), target=("answer", None))


SPEC = """
pipeline p {
  data  tasks  = arithmetic(digits: 1, size: 80, test: 20)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 24)
  samples ~ sample(policy, tasks, group: 4, prompts: 16, max_tokens: 2, temperature: 0.5)
  answer  ~ identify(samples.text)
  other   = rename(samples.action, sample: other)
  flow policy: copo(score(policy, samples), answer: answer) -> backprop -> sgd(lr: 0.1)
  train 2 rollouts (seed: 0, minibatches: 2) {
    every rollout {
      same    = all(samples.action == other, over: token)
      report equal = mean(answer == rename(answer, sample: other), over: [sample, other], where: same)
      report alike = sum(same, over: [sample, other])
      report pairs = sum(answer == rename(answer, sample: other), over: [sample, other])
    }
  }
}
"""


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_a_pipeline_holds_the_answers_of_its_samples(backend):
    """Equal tokens are equal texts; with blanks and ends, some others are too."""
    program, diagnostics = build(Module.of(Source("<test>", SPEC)), "p")
    assert program is not None, diagnostics
    reports = [event.values for event in execute(program, Options(backend=backend)) if isinstance(event, Report)]
    told = [one for one in reports if "pairs" in one]
    assert told and all(one["equal"] == 1 and 64 < one["alike"] <= one["pairs"] < 64 * 64 for one in told)

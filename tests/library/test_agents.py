"""Agents: what a record of several turns holds, answers of tools between them, limits, independence of batch and pieces, branches, demonstrations.

`Expert` is a policy without parameters that writes what a function of the text so far says; its cache is the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import gradflow
from gradflow.library import sampling, tools
from gradflow.library.agent_tests import agent_pass_at_1, tool_demonstrations
from gradflow.library.agents import agent
from gradflow.library.language_models import CharacterTokenizer
from gradflow.library.models import transformer
from gradflow.library.paths import branch_paths, call_tools, continue_paths, open_paths, verify_paths
from gradflow.library.python_models import python_allowed
from gradflow.library.rollouts import RESULT_TYPES, score
from gradflow.library.text_tasks import Tasks
from gradflow.library.tool_tasks import tool_arithmetic
from gradflow.library.tools import calculated, calculator, made
from gradflow.plan.artifact import ArtifactError, decode, encode
from gradflow.runtime.events import UnitDone
from tests.library.rows import take_rows

SPEC = tool_arithmetic(steps=2, size=40, test=10)
MODEL = transformer(vocabulary=22, layers=1, width=32, heads=4, length=48)


class Expert(nn.Module):
    def __init__(self, says: Callable[[str], str]):
        super().__init__()
        self.tokenizer, self.says = CharacterTokenizer(22), says
        self.head = torch.zeros(22, 1)

    def step(self, ids: Tensor, cache: Any = (), attention_mask: Tensor | None = None, last: bool = False) -> tuple[Tensor, Any]:
        seen = torch.cat([cache[0][0][:, 0, :, 0].long(), ids], dim=1) if cache else ids
        logits = torch.full((len(ids), 1, 22), -50.0)
        for row, (words, here) in enumerate(zip(seen, attention_mask if attention_mask is not None else seen * 0 + 1, strict=True)):
            text = self.tokenizer.decode(words[here.bool()].tolist())
            next_ = self.says(text)
            logits[row, 0, self.tokenizer.encode(next_)[0] if next_ else self.tokenizer.eos_id] = 50
        kept = seen[:, None, :, None].float()
        return logits, ((kept, kept),)


def solves(text: str) -> str:
    """The next character of a right solution: each operation from the left in brackets, then the value."""
    question, _, said = text.partition("=")
    lines = said.split("\n")
    numbers = question.replace("-", "+-").lstrip("+").split("+")
    numbers = [n for n in numbers if n]
    value, calls = numbers[0], []
    for number in numbers[1:]:
        sign = number if number.startswith("-") else f"+{number}"
        calls.append(f"({value}{sign})")
        value = str(int(value) + int(number))
    wanted = [*calls, value][len(lines) - 1] if len(lines) <= len(calls) + 1 else ""
    return wanted[len(lines[-1]) : len(lines[-1]) + 1]


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks.of(SPEC)


@pytest.fixture(scope="module")
def policy() -> Any:
    """A small transformer with its weights enlarged, so that it calls now and then and what it says depends on what it reads."""
    model = MODEL.build(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def drawn(policy: Any, tasks: Tasks, **options: Any) -> dict[str, Any]:
    return agent(policy, tasks, **{"group": 3, "prompts": 4, "max_tokens": 24, "max_calls": 2, "seed": 1, "tick": 2, **options})


def test_an_expert_calls_reads_and_answers(tasks: Tasks) -> None:
    record = drawn(Expert(solves), tasks, keep_top=3)
    assert record["reward"].tolist() == [1.0] * 12 and record["finished"].all() and record["calls"].tolist() == [2] * 12
    row = record["prompt_id"][record["group"][0]]
    question, calls = tasks.questions[row], tasks.fields["worked"][row].split("\n")
    one, other = (calculated(call) for call in calls)
    assert record["text"][0] == f"({calls[0]})={one}\n({calls[1]})={other}\n{tasks.answers[row]}" and question.count("=") == 1
    tokens = Expert(solves).tokenizer.encode(record["text"][0]) + [1]
    assert record["action"][0, : len(tokens)].tolist() == tokens and int(record["length"][0]) == len(tokens)


def test_only_what_the_policy_wrote_is_its_own(tasks: Tasks) -> None:
    record = drawn(Expert(solves), tasks, keep_top=3)
    decode = Expert(solves).tokenizer.decode
    for row in range(12):
        own, turn = record["mask"][row], record["turn"][row]
        assert turn[~own].unique().tolist() == [3]  # none of the turns 0 .. max_calls
        texts = [decode(record["action"][row][turn == k].tolist()) for k in range(3)]
        assert [text[0] + text[-1] for text in texts[:2]] == ["()", "()"] and texts[2] == tasks.answers[record["prompt_id"][record["group"][row]]]
        assert all("=" not in text for text in texts)
        assert not record["likely"][row][~own].any() and not record["logp_old"][row][~own].any()
    assert not record["mask"][torch.arange(24) >= record["length"][:, None]].any()


def test_declared_types_are_those_of_the_record(tasks: Tasks, policy: Any) -> None:
    fields = RESULT_TYPES["agent"](MODEL, SPEC, group=3, prompts=4, max_tokens=24, max_calls=2, keep_top=5)
    record = drawn(policy, tasks, keep_top=5)
    assert set(fields) == set(record)  # type: ignore[arg-type]
    for name, spec in fields.items():  # type: ignore[union-attr]
        value = record[name]
        if isinstance(value, Tensor):
            assert [n for _, n in spec.axes if n is not None] == [n for (_, m), n in zip(spec.axes, value.shape, strict=True) if m is not None], name
            assert value.dtype == {"int": torch.int64, "bool": torch.bool, "real": torch.float32}[spec.base], name
            if spec.target is not None and spec.target[1] is not None:
                assert int(value.min()) >= 0 and int(value.max()) < spec.target[1], name


def test_one_more_call_than_allowed_ends_a_response(tasks: Tasks) -> None:
    record = drawn(Expert(solves), tasks, max_calls=1)
    assert record["calls"].tolist() == [1] * 12 and not record["finished"].any() and not record["correct"].any()
    assert all(text.count("=") == 1 and text.endswith(")") for text in record["text"])
    assert drawn(Expert(solves), tasks, max_calls=0)["calls"].sum() == 0


@pytest.mark.parametrize("length", [1, 4, 7, 9, 12])
def test_a_response_is_cut_where_it_is_too_long(tasks: Tasks, length: int) -> None:
    whole, cut = drawn(Expert(solves), tasks), drawn(Expert(solves), tasks, max_tokens=length)
    assert cut["action"].equal(whole["action"][:, :length]) and cut["mask"].equal(whole["mask"][:, :length])
    assert cut["length"].equal(whole["length"].clamp(max=length))


def test_what_cannot_be_worked_out_has_an_empty_answer(tasks: Tasks) -> None:
    def stubborn(text: str) -> str:
        said = text.partition("=")[2]
        return "(1+)7"[len(said) if len(said) < 4 else len(said) - 2 :][:1]

    record = drawn(Expert(stubborn), tasks, prompts=1, group=1)
    assert record["text"] == ["(1+)=\n7"]


def test_scores_are_those_of_the_sampler(tasks: Tasks, policy: Any) -> None:
    record = drawn(policy, tasks, group=6)
    assert int(record["calls"].sum()) > 0  # tools were heard, or the test says nothing
    live = score(policy, record, entropy=True)
    torch.testing.assert_close(live["logp"], record["logp_old"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(live["entropy"], record["entropy_old"], rtol=1e-4, atol=1e-5)
    part = score(policy, take_rows(record, slice(3, 9)))
    torch.testing.assert_close(part["logp"], record["logp_old"][3:9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_response_does_not_depend_on_those_beside_it(tasks: Tasks, policy: Any, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn(policy, tasks, group=6)
    monkeypatch.setattr(sampling, "ROWS", rows)
    pieces = drawn(policy, tasks, group=6)
    assert pieces["action"].equal(whole["action"]) and pieces["turn"].equal(whole["turn"])
    picked = tasks.draw(1, 2, 4)
    alone = drawn(policy, dataclasses.replace(picked, rows=picked.rows[2:3]), group=2)
    assert alone["action"].equal(whole["action"][12:14])


def test_seed_tick_and_site_are_the_draw(tasks: Tasks, policy: Any) -> None:
    found = [drawn(policy, tasks, **more)["action"] for more in ({}, {}, {"seed": 5}, {"site": ("x",)})]
    assert found[0].equal(found[1]) and not found[0].equal(found[2]) and not found[0].equal(found[3])


# ---- paths


def steps(policy: Any, tasks: Tasks, **options: Any) -> dict[str, Any]:
    """A response call by call."""
    paths = open_paths(policy, tasks, copies=3, prompts=4, max_tokens=24, max_calls=2, seed=1, tick=2, **options)
    for number in range(5):
        paths = call_tools(policy, continue_paths(policy, paths, seed=1, tick=2, site=(number,)))
    assert not paths["active"].any()
    return verify_paths(policy, tasks, paths)


def test_call_by_call_an_expert_says_the_same(tasks: Tasks) -> None:
    whole, pieces = drawn(Expert(solves), tasks, keep_top=3), steps(Expert(solves), tasks, keep_top=3)
    assert pieces["text"] == whole["text"]
    for name in ("ids", "prompt_mask", "mask", "action", "turn", "length", "finished", "calls", "reward", "group", "task", "likely", "logp_old"):
        torch.testing.assert_close(pieces[name], whole[name])


@pytest.mark.parametrize("tokens", [1, 3])
def test_calls_may_be_cut_into_pieces(tasks: Tasks, tokens: int) -> None:
    paths = open_paths(Expert(solves), tasks, copies=1, prompts=4, max_tokens=24, max_calls=2, seed=1, tick=2)
    for number in range(24):
        paths = call_tools(Expert(solves), continue_paths(Expert(solves), paths, tokens=tokens, seed=1, tick=2, site=(number,)))
    assert verify_paths(Expert(solves), tasks, paths)["correct"].all()


def test_paths_score_like_any_record(tasks: Tasks, policy: Any) -> None:
    record = steps(policy, tasks)
    torch.testing.assert_close(score(policy, record)["logp"], record["logp_old"], rtol=1e-4, atol=1e-5)


def test_branches_share_what_was_said_and_go_on_by_themselves(tasks: Tasks, policy: Any) -> None:
    paths = open_paths(policy, tasks, copies=2, prompts=3, max_tokens=20, max_calls=3, seed=0, tick=0)
    said = call_tools(policy, continue_paths(policy, paths, tokens=4, seed=0, tick=0))
    more = branch_paths(said, forks=torch.tensor([0, 2, 0, 0, 1, 0]), starts=torch.tensor([0, 1, 0]))
    assert more["group"].tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 2, 1] and more["copy"].tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 2, 2]
    for row, source in ((6, 1), (7, 1), (8, 4)):
        for name in ("ids", "action", "mask", "turn", "length", "calls", "active"):
            assert more[name][row].equal(said[name][source])
        assert more["born"][row] == said["calls"][source]
    assert int(more["length"][9]) == 0 and bool(more["active"][9]) and more["prompt_mask"][9].equal(more["prompt_mask"][2])
    later = continue_paths(policy, more, seed=0, tick=0, site=(1,))
    if bool(more["active"][6]):
        assert not later["action"][6].equal(later["action"][7])
    assert later["action"][6, : int(said["length"][1])].equal(said["action"][1, : int(said["length"][1])])


def test_verified_paths_are_filled_up_prompt_by_prompt(tasks: Tasks) -> None:
    expert = Expert(solves)
    paths = open_paths(expert, tasks, copies=torch.tensor([1, 3]), prompts=2, max_tokens=24, seed=1, tick=2)
    for number in range(4):
        paths = call_tools(expert, continue_paths(expert, paths, seed=1, tick=2, site=(number,)))
    record = verify_paths(expert, tasks, paths, group=2)
    assert record["group"].tolist() == [0, 0, 1, 1] and record["copy"].tolist() == [0, 0, 0, 1] and record["correct"].all()


# ---- demonstrations, accuracy, tools


def test_demonstrations_are_what_an_expert_says(tasks: Tasks) -> None:
    shown = tool_demonstrations(Expert(solves), tasks, prompts=4, max_tokens=24, max_calls=2, seed=1, tick=2)
    said = drawn(Expert(solves), tasks, group=1)
    assert shown["correct"].all() and shown["text"] == said["text"]
    for name in ("ids", "mask", "action", "turn", "length", "calls", "finished"):
        assert shown[name].equal(said[name]), name
    spoiled = tool_demonstrations(Expert(solves), tasks, prompts=40, max_tokens=24, max_calls=2, wrong=1.0, seed=1, tick=2)
    assert float(spoiled["reward"].mean()) < 0.3


def test_accuracy_of_experts_and_of_nobody(tasks: Tasks) -> None:
    assert float(agent_pass_at_1(Expert(solves), tasks, max_calls=2, max_tokens=24)) == 1
    assert float(agent_pass_at_1(Expert(lambda text: ""), tasks)) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("3+4*2", "11"), ("7/2", "7/2"), (" -3 + 4 ", "1"), ("(1-4)*-2", "6"), ("1/0", ""), ("2**9", ""), ("", ""), ("x", ""), ("((", "")],
)  # fmt: skip
def test_the_calculator(text: str, value: str) -> None:
    assert calculated(text) == value


def test_marks_are_options_of_a_tool() -> None:
    tool = made(("calculator", (("opens", "<<"), ("closes", ">>"), ("before", " "), ("after", "."))))
    assert tool.call_in("so <<1+2>> then") == "1+2" and tool.observation("1+2") == " 3." and tool.call_in("1+2>>") is None
    with pytest.raises(ValueError, match="marks"):
        calculator(opens="")
    for wrong in ("calculator", ("sample", ()), ("nothing", ())):
        with pytest.raises(ValueError, match="tool"):
            made(wrong)


OWN = """
pipeline own {
  data  tasks  = tool_arithmetic(steps: 1, size: 40, test: 10)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 32)
  samples ~ agent(policy, tasks, tools: python("tests.library.test_agents:doubled"), group: 2, prompts: 4, max_tokens: 8)
  flow policy: grpo(score(policy, samples)) -> backprop -> sgd(lr: 0.1)
  train 1 rollouts { every 1 rollouts { report calls = mean(samples.calls) } }
}
"""


def doubled(call: str) -> str:
    return str(2 * int(call))


def test_a_tool_of_the_users_own_has_to_be_allowed() -> None:
    assert [d.code for d in gradflow.check(OWN)] == ["E0407"]
    with pytest.raises(gradflow.GradflowError, match="--allow-python"):
        gradflow.compile(OWN)
    assert "calls" in gradflow.compile(OWN, allow_python=True).run().finish()
    plan = encode(gradflow.compile(OWN, allow_python=True).program)
    tools._granted.clear()
    with pytest.raises(ArtifactError, match="--allow-python"):
        decode(plan)
    with python_allowed(True):
        assert decode(plan).name == "own"
    tool = made(("python_tool", (("where", "tests.library.test_agents:doubled"),)))
    assert tool.observation("21") == "=42\n" and tool.observation("x") == "=\n"


def test_questions_differ_and_are_worked_out(tasks: Tasks) -> None:
    assert len(set(tasks.questions)) == 40
    for answer, worked in zip(tasks.answers, tasks.fields["worked"], strict=True):
        values = [calculated(call) for call in worked.split("\n")]
        assert values[-1] == answer and worked.split("\n")[1].startswith(values[0])


def test_words_count_the_last_number() -> None:
    spec = tool_arithmetic(steps=1, size=4, test=0, words=True)
    answer = spec.load()["train"]["answer"][0]
    said = [f"It is {answer}.", f"({answer})", f"{answer} or 100", "", f"(1+1) so {answer}"]
    assert spec.verify is not None
    numpy.testing.assert_array_equal(spec.verify(numpy.zeros(5, int), said), [1, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="different questions"):
        tool_arithmetic(steps=1, size=1000, test=0)
    with pytest.raises(ValueError, match="operations"):
        tool_arithmetic(operations="+%")


LEARNING = """
pipeline learns(loss: objective = grpo()) {
  data  tasks  = tool_arithmetic(steps: 1, size: 40, test: 10)
  model policy = transformer(vocabulary: 22, layers: 1, width: 16, heads: 2, length: 32)
  samples ~ agent(policy, tasks, tools: calculator(), group: 2, prompts: 4, max_tokens: 8)
  reward  ~ normal([samples.reward])
  flow policy: loss(score(policy, samples), reward: reward) -> backprop -> sgd(lr: 0.1)
  train 1 rollouts (epochs: 2, minibatches: 2)
}
"""


@pytest.mark.parametrize(
    "loss",
    ["ppo()", "reinforce()", "grpo()", "rloo()", "dapo()", "gspo()", "luspo()", "cispo()", "dr_grpo(longest: 8)", "turn_ppo()", "turn_bias()"],
)  # fmt: skip
def test_every_objective_takes_the_record(loss: str) -> None:
    run = gradflow.compile(LEARNING.replace("loss: objective = grpo()", f"loss: objective = {loss}")).run()
    found = [event.loss for event in run if isinstance(event, UnitDone)]
    assert len(found) == 1 and found[0] is not None and numpy.isfinite(found[0])
    assert loss == "turn_bias()" or found[0] != 0


def test_a_missing_extra_field_is_missed_where_it_is_read() -> None:
    """Turns are in the record of `agent`, not in that of `sample`."""
    text = LEARNING.replace("agent(policy, tasks, tools: calculator(),", "sample(policy, tasks,").replace("grpo()", "turn_ppo()")
    found = [d for d in gradflow.check(text) if d.code.startswith("E")]
    assert [d.code for d in found] == ["E0205"] and "`turn`" in found[0].message

"""Episodes: tries that read notes, texts for texts, a game of locks, and the scripts that act."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch

from gradflow.library.catalogue import FieldSpec
from gradflow.library.episodes import SYMPTOMS, episode, generate, lock_game, notes_by_task, scripted_actor
from gradflow.library.models import transformer
from gradflow.library.rollouts import RESULT_TYPES, score
from gradflow.library.scripts import calculator, follow
from gradflow.library.tabular_policy import table_policy
from gradflow.library.text_tasks import Tasks, exact_match

MODEL = transformer(vocabulary=22, layers=1, width=16, heads=2, length=32)
GAME = lock_game(causes=4, prompts=40, test=8, seed=1)


@pytest.fixture(scope="module")
def writer():
    return MODEL.build(0)


@pytest.fixture(scope="module")
def actor():
    return scripted_actor().build(0)


def tasks(*rows, split="train"):
    return dataclasses.replace(Tasks.of(GAME, split), rows=numpy.array(rows))


# ---- the game


def test_complaints_tell_the_key_and_numbers_do_not():
    loaded, feedback = GAME.load(), GAME.feedback
    keys = [*loaded["train"]["answer"], *loaded["test"]["answer"]]
    said = feedback(numpy.arange(48), ["x"] * 48)
    assert set(keys) == {"0", "1", "2", "3"} and set("".join(said)) <= set(SYMPTOMS)
    meaning = dict(zip(keys, said))
    assert len(set(meaning.values())) == 4 and all(meaning[key] == word for key, word in zip(keys, said)), "in the held out split too"
    assert feedback([0, 0], [keys[0], " " + keys[0] + " "]) == ["", ""]
    assert lock_game(causes=4, prompts=40, seed=1).load()["train"]["answer"] == keys[:40]
    assert lock_game(causes=4, prompts=40, seed=2).load()["train"]["answer"] != keys[:40]


def test_a_try_without_notes_then_with_the_right_one(actor):
    before = episode(actor, tasks(3, 5, 9), seed=0, tick=0)
    keys = [GAME.load()["train"]["answer"][row] for row in (3, 5, 9)]
    assert before["answer"] == ["0"] * 3 and before["reward"].tolist() == [float(key == "0") for key in keys]
    assert before["text"] == [f"({row}) 0 {GAME.feedback([row], ['0'])[0]}".rstrip() for row in (3, 5, 9)]
    notes = {"task": torch.tensor([9, 3, 9]), "text": ["7", keys[0], f"try\n {keys[2]}"]}
    after = episode(actor, tasks(3, 5, 9), notes, seed=0, tick=0)
    assert after["answer"] == [keys[0], "0", keys[2]], "each task reads its own notes, the newest last"
    assert after["correct"].tolist() == [True, keys[1] == "0", True] and after["task"].tolist() == [3, 5, 9]


def test_the_text_never_holds_the_right_answer(actor):
    """What is tried is in it, what would have been right is not."""
    run = episode(actor, tasks(*range(40)), {"task": torch.arange(40), "text": ["9"] * 40}, seed=0, tick=0)
    assert not run["correct"].any()
    for row, text in enumerate(run["text"]):
        assert text == f"({row}) 9 {GAME.feedback([row], ['9'])[0]}"


def test_a_language_model_acts_and_reads_its_notes(writer):
    asked = Tasks(("(1)", "(2)"), ("3", "4"), numpy.array([7, 8]), exact_match(lambda: [""] * 7 + ["3", "4"]))
    likeliest = episode(writer, asked, max_tokens=2, seed=0, tick=0)
    assert likeliest["answer"] == episode(writer, asked, max_tokens=2, seed=5, tick=9)["answer"], "no draw at temperature 0"
    assert likeliest["task"].tolist() == [7, 8] and likeliest["text"] == [
        " ".join(filter(None, both)) for both in zip(asked.questions, likeliest["answer"])
    ]
    hot = [episode(writer, asked, max_tokens=4, temperature=5.0, seed=0, tick=tick)["answer"] for tick in range(3)]
    assert len({tuple(answers) for answers in hot}) > 1
    noted = [episode(writer, asked, {"task": torch.tensor([8]), "text": [note]}, max_tokens=4, seed=0, tick=0)["answer"] for note in ("9=", "((")]
    assert [answers[0] for answers in noted] == [likeliest_of(writer, "(1)")] * 2 and noted[0][1] == likeliest_of(writer, "9=\n(2)")


def likeliest_of(model, text):
    asked = Tasks((text,), ("",), numpy.array([0]), lambda ids, said: numpy.zeros(1))
    return episode(model, asked, max_tokens=4, seed=0, tick=0)["answer"][0]


def test_notes_are_sorted_by_task_and_stand_on_a_line():
    record = {"task": torch.tensor([2, 1, 2]), "text": ["a\nb ", "c", "d"]}
    assert notes_by_task(record) == {2: ["a b", "d"], 1: ["c"]} and notes_by_task(None) == notes_by_task({}) == {}


# ---- texts for texts


def test_texts_are_written_keyed_by_task_and_scored_like_samples(writer, actor):
    run = episode(actor, tasks(*range(12)), seed=0, tick=0)
    notes = generate(writer, run, group=2, max_tokens=5, seed=3, tick=4)
    assert notes["task"].tolist() == [row for row in range(12) for _ in range(2)] and notes["group"].tolist() == notes["task"].tolist()
    assert len({*notes["text"]}) > 6 and notes["copy"].tolist() == [0, 1] * 12
    asked = writer.tokenizer.decode(notes["ids"][6][notes["prompt_mask"][6]])
    assert asked == run["text"][3]
    torch.testing.assert_close(score(writer, notes)["logp"].detach(), notes["logp_old"], rtol=1e-4, atol=1e-5)
    few = {name: value[5:] if isinstance(value, list) else value[5:] for name, value in run.items()}
    assert generate(writer, few, group=2, max_tokens=5, seed=3, tick=4)["text"] == notes["text"][10:], "a note does not depend on the others"
    assert generate(writer, run, group=2, max_tokens=5, seed=3, tick=5)["text"] != notes["text"]
    told = generate(writer, run, instruction="==", max_tokens=5, seed=3, tick=4)
    assert writer.tokenizer.decode(told["ids"][0][told["prompt_mask"][0]]) == "==" + run["text"][0]


def test_declared_fields_are_what_comes_back(writer, actor):
    run = episode(actor, tasks(*range(5)), seed=0, tick=0)
    notes = generate(writer, run, max_tokens=3, seed=0, tick=0)
    tried = RESULT_TYPES["episode"](scripted_actor(), GAME)
    wrote = RESULT_TYPES["generate"](MODEL, tried, max_tokens=3)
    assert set(tried) == set(run) and set(wrote) == set(notes)
    assert tried["task"].target == wrote["task"].target == ("task", 48)
    bases = {"int": torch.int64, "bool": torch.bool}
    for name, spec in {**tried, **wrote}.items():
        value = notes.get(name, run.get(name))
        assert isinstance(spec, FieldSpec)
        if spec.base == "text":
            assert isinstance(value, list) and len(value) == 5
        else:
            assert value.ndim == len(spec.axes) and value.dtype == bases.get(spec.base, value.dtype), name


def test_a_table_writes_for_the_number_that_it_reads():
    policy = table_policy(prompts=3, length=2, vocabulary=4).build(0)
    with torch.no_grad():
        policy.theta[..., 1] = 50.0
    assert generate(policy, {"text": ["2", "0"]}, max_tokens=2, seed=0, tick=0)["text"] == ["1 1", "1 1"]


# ---- scripts


def test_who_follows_takes_the_first_number_of_the_newest_note():
    assert [follow("?", notes) for notes in ([], ["no"], ["3"], ["3", "try 12, not 4"], ["3", "none"])] == ["0", "0", "3", "12", "0"]


@pytest.mark.parametrize(
    ("question", "plain", "meant"),
    [
        ("Calculate 3 + 4 * 2.", "14", "11"), ("2*(3+4)-1=", "13", "13"), ("-(2+3)*4-1", "-21", "-21"), ("8 - 6 / 2", "1", "5"), ("7", "7", "7"),
        ("1 + 2 * 3 - 4 / 2", "2.5", "5"), ("2 - 3 - 4", "-5", "-5"), ("1/0", "?", "?"), ("2*(3", "?", "?"), ("nothing", "?", "?"),
        ("8/3", str(8 / 3), str(8 / 3)),
    ],
)  # fmt: skip
def test_a_calculator_goes_from_left_to_right_unless_told(question, plain, meant):
    assert calculator(question, ["be careful"]) == plain
    assert calculator(question, ["remember the order of operations"]) == meant
    assert calculator(question, ["Multiply first", "be careful"]) == meant

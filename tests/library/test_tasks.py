"""Task sets: questions, answers, verifiers, splits, and the draw of a tick's prompts."""

import numpy
import pytest

from gradflow.library import text_tasks
from gradflow.library.catalogue import MissingExtra
from gradflow.library.text_tasks import Tasks, arithmetic, combination_lock, last_digits, long_prompts, parse_options, reasoning_gym

gym = pytest.mark.skipif(text_tasks.importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


def specs():
    """One of each."""
    yield arithmetic(digits=2, size=50, operations="+-*", test=10)
    yield combination_lock(prompts=12)
    if text_tasks.importlib.util.find_spec("reasoning_gym") is not None:
        yield reasoning_gym("basic_arithmetic", size=30, test=6)


@pytest.mark.parametrize("spec", list(specs()), ids=lambda spec: spec.name)
def test_answers_pass_their_own_verifier(spec):
    assert spec.splits == ("train", "test")
    loaded = spec.load()
    for split in spec.splits:
        rows = loaded[split]
        count = spec.fields[split]["question"].axes[0][1]
        assert set(rows) == set(spec.fields[split]) and all(len(rows[field]) == count for field in rows)
        assert (spec.verify(rows["id"], list(rows["answer"])) == 1).all()
        assert (spec.verify(rows["id"], [f" {answer}\n" for answer in rows["answer"]]) == 1).all(), "blanks around an answer do not count"
        wrong = spec.verify(rows["id"], ["none"] * count)
        assert wrong.dtype == numpy.float64 and (wrong == 0).all()


@pytest.mark.parametrize("make", [lambda seed: arithmetic(digits=2, seed=seed), lambda seed: combination_lock(seed=seed)])
def test_the_seed_decides(make):
    first, again, other = (make(seed).load()["train"] for seed in (0, 0, 1))
    assert first["answer"] == again["answer"] != other["answer"]


def test_arithmetic_is_right_and_unseen_in_test():
    loaded = arithmetic(digits=1, size=250, operations="+-*", test=50).load()
    questions = loaded["train"]["question"] + loaded["test"]["question"]
    assert len(set(questions)) == 300, "all questions there are, none twice"
    for question, answer in zip(questions, loaded["train"]["answer"] + loaded["test"]["answer"]):
        assert str(eval(question[:-1])) == answer
    assert loaded["test"]["id"].tolist() == list(range(250, 300))


def test_last_digits_are_right_for_all_pairs():
    rows = last_digits(length=6).load()["train"]
    assert sorted(rows["question"]) == [f"{pair:02d}" for pair in range(100)]
    for question, answer in zip(rows["question"], rows["answer"]):
        a, b = map(int, question)
        assert answer == "".join(str(n % 10) for n in (a + b, a * b, a - b, a + 2 * b, a * a + b, a + b * b))


def test_right_answers_can_differ_where_only_the_first_digits_are_scored():
    answer = last_digits(length=4).load()["train"]["answer"][0]
    others = [answer, f" {answer} ", answer[:2] + "xx", answer[:2], answer[:1], "", answer + "0"]
    assert last_digits(length=4).verify([0] * 7, others).tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert last_digits(length=4, scored=2).verify([0] * 7, others).tolist() == [1, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"operations": "+/"}, "operations are characters of `+-*`, found `+/`"),
        ({"operations": ""}, "operations are characters"),
        ({"size": 90, "test": 11}, "90 + 11 different questions were asked for, there are 100"),
    ],
)
def test_arithmetic_refuses(arguments, message):
    with pytest.raises(ValueError) as error:
        arithmetic(**arguments)
    assert message in str(error.value)


def test_lock_codes_avoid_word_zero_and_match_the_answers():
    loaded = combination_lock(prompts=200, length=3, vocabulary=4).load()["train"]
    code = loaded["code"]
    assert code.shape == (200, 3) and set(code.ravel().tolist()) == {1, 2, 3}
    assert [" ".join(map(str, row)) for row in code.tolist()] == loaded["answer"]


@gym
def test_reasoning_gym_gives_part_of_the_credit_and_takes_settings():
    spec = reasoning_gym("basic_arithmetic", size=20, test=0, options="max_terms=2, max_digits=1, whitespace=single")
    rows = spec.load()["train"]
    assert spec.splits == ("train",) and all(sum(map(str.isdigit, question)) == 2 for question in rows["question"])
    part = spec.verify(rows["id"][:1], [f"it is {rows['answer'][0]}"])
    assert 0 < part[0] < 1


@gym
@pytest.mark.parametrize(
    "name, options, message",
    [
        ("basic_arithmetics", "", "no task family `basic_arithmetics`; did you mean `basic_arithmetic`?"),
        ("basic_arithmetic", "terms=2", "`basic_arithmetic` has no setting `terms`; it has: allow_negation"),
    ],
)
def test_reasoning_gym_names_what_is_unknown(name, options, message):
    with pytest.raises(ValueError) as error:
        reasoning_gym(name, size=5, options=options).load()
    assert message in str(error.value)


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setattr(text_tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'gradflow\[llm\]'"):
        reasoning_gym("basic_arithmetic", size=5).load()


def test_options_are_parsed():
    assert parse_options("a=1, b=0.5,c=true , d=word") == {"a": 1, "b": 0.5, "c": True, "d": "word"}
    assert parse_options("") == {}
    with pytest.raises(ValueError, match="name=value, found `a`"):
        parse_options("a")


def test_prompts_are_drawn_without_replacement_in_an_epoch():
    tasks = Tasks.of(arithmetic(size=50, test=0))
    ticks = [tasks.draw(seed=3, visit=visit, prompts=12).rows for visit in range(8)]
    for epoch in (ticks[:4], ticks[4:]):
        assert len(set(numpy.concatenate(epoch).tolist())) == 48
    assert ticks[0].tolist() != ticks[4].tolist(), "a new order each epoch"
    assert tasks.draw(seed=3, visit=5, prompts=12).rows.tolist() == ticks[5].tolist()
    assert tasks.draw(seed=4, visit=5, prompts=12).rows.tolist() != ticks[5].tolist()
    assert sorted(tasks.draw(seed=0, visit=0).rows.tolist()) == list(range(50)), "no number given: all"
    assert len(Tasks.of(arithmetic(size=50, batch=7)).draw(0, 0).rows) == 7, "the data set's own number"
    with pytest.raises(ValueError, match="51 prompts a tick were asked for, the split has 50"):
        tasks.draw(0, 0, prompts=51)


def test_a_sentence_in_a_long_text():
    """Every prompt has exactly its length, holds the code once where the name is, and asks for it at the end."""
    spec = long_prompts("needle", length=200, size=30, test=10, digits=3)
    loaded = spec.load()
    questions, answers = ([*loaded["train"][name], *loaded["test"][name]] for name in ("question", "answer"))
    assert {len(question) for question in questions} == {200} and len(set(questions)) == 40 and len(set(answers)) > 20
    for question, answer in zip(questions, answers):
        name = question.split()[-2]
        assert question.endswith(f"the code of {name} = ") and f"the code of {name} is {answer} " in question
        assert question.count(answer) == 1 and len(answer) == 3
    places = [question.index(" is ") for question in questions]
    assert min(places) < 40 < 120 < max(places)
    said = [f"it is {answers[0]}.", answers[0], "999 " + answers[0], "none"]
    assert spec.verify(numpy.zeros(4, int), said).tolist() == [1, 1, 0.1, 0]
    assert spec.facts["characters"] == 200

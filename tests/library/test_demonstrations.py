"""Given answers: right ones but for a share that is spoiled in one word, in the form of drawn responses, keyed by what they belong to."""

import dataclasses

import numpy
import pytest
import torch

from gradflow.library.demonstrations import demonstrations
from gradflow.library.models import transformer
from gradflow.library.rollouts import RESULT_TYPES, sample, score
from gradflow.library.tabular_policy import table_policy
from gradflow.library.text_tasks import Tasks, arithmetic, combination_lock, exact_match

MODEL = transformer(vocabulary=22, layers=1, width=16, heads=2, length=24)
TASKS = arithmetic(digits=2, size=60, operations="+-", test=10)


@pytest.fixture(scope="module")
def policy():
    return MODEL.build(0)


@pytest.fixture(scope="module")
def tasks():
    return Tasks.of(TASKS)


def right(tasks, record):
    return [tasks.answers[row] for row in record["prompt_id"][record["group"]].tolist()]


def test_the_answers_are_right_and_end(policy, tasks):
    record = demonstrations(policy, tasks, prompts=12, max_tokens=6, seed=0, tick=3)
    assert record["text"] == right(tasks, record)
    assert record["reward"].tolist() == [1.0] * 12 and record["correct"].all() and record["finished"].all()
    ends = record["action"][torch.arange(12), record["length"] - 1]
    assert (ends == policy.tokenizer.eos_id).all() and (record["mask"].sum(1) == record["length"]).all()
    assert record["length"].tolist() == [len(text) + 1 for text in record["text"]]
    assert not record["logp_old"].any() and not record["entropy_old"].any()


def test_the_record_is_that_of_sample(policy, tasks):
    """Field by field: type, shape, what is padding; and the same prompts."""
    given = demonstrations(policy, tasks, group=3, prompts=5, max_tokens=7, wrong=0.5, seed=1, tick=2)
    drawn = sample(policy, tasks, group=3, prompts=5, max_tokens=7, seed=1, tick=2)
    assert set(given) == set(drawn) - {"tokens_per_second"}
    for name in set(given) - {"text"}:
        assert given[name].shape == drawn[name].shape and given[name].dtype == drawn[name].dtype, name
    for name in ("prompt_id", "group", "copy", "prompt_mask"):
        assert torch.equal(given[name], drawn[name])
    width = given["ids"].shape[1] - 7
    assert torch.equal(given["ids"][:, :width], drawn["ids"][:, :width]) and torch.equal(given["ids"][:, width:], given["action"])
    assert not given["action"][~given["mask"]].any()


@pytest.mark.parametrize("given", [{}, {"group": 3, "prompts": 5, "max_tokens": 7, "wrong": 0.5}])
def test_the_declared_record_is_the_one_that_comes(policy, tasks, given):
    fields = RESULT_TYPES["demonstrations"](policy=MODEL, tasks=TASKS, **given)
    record = demonstrations(policy, tasks, seed=0, tick=0, **given)
    assert set(fields) == set(record)
    bases = {"int": torch.int64, "bool": torch.bool, "real": torch.float32}
    for name, field in fields.items():
        if field.base == "text":
            assert len(record[name]) == field.axes[0][1]
        else:
            assert record[name].dtype == bases[field.base]
            assert all(size in (None, found) for (_, size), found in zip(field.axes, record[name].shape, strict=True)), name


def test_a_spoiled_answer_differs_in_one_word_that_other_answers_hold(policy, tasks):
    record = demonstrations(policy, tasks, group=4, max_tokens=6, wrong=0.5, seed=0, tick=0)
    known = {letter for answer in tasks.answers for letter in answer}
    places = set()
    for text, answer, reward in zip(record["text"], right(tasks, record), record["reward"].tolist()):
        changed = [i for i, (a, b) in enumerate(zip(text, answer, strict=True)) if a != b]
        assert len(changed) == (reward == 0) and set(text) <= known
        places.update(changed)
    assert places == {0, 1, 2}
    assert 0.4 < float(record["correct"].float().mean()) < 0.6, "240 draws: beyond 3 standard deviations"
    assert len(set(record["correct"].reshape(60, 4).sum(1).tolist())) == 5, "each copy has its own draw"


def test_none_and_all_may_be_spoiled(policy, tasks):
    for wrong, share in ((0.0, 1.0), (1.0, 0.0)):
        assert float(demonstrations(policy, tasks, max_tokens=6, wrong=wrong, seed=0, tick=0)["reward"].mean()) == share


def test_what_is_spoiled_depends_on_the_prompt_alone(policy, tasks):
    """Not on what stands beside it, and not on the order."""
    whole = demonstrations(policy, tasks, prompts=10, group=2, wrong=0.5, seed=3, tick=4)
    drawn = tasks.draw(3, 4, 10)
    part = demonstrations(policy, dataclasses.replace(drawn, rows=drawn.rows[[7, 2]]), group=2, wrong=0.5, seed=3, tick=4)
    assert part["text"] == [whole["text"][row] for row in (14, 15, 4, 5)]


def test_draws_are_keyed_by_seed_tick_and_site(policy, tasks):
    rows = dataclasses.replace(tasks, rows=numpy.arange(30))
    one, again, later, other, elsewhere = (
        demonstrations(policy, rows, wrong=0.5, seed=seed, tick=tick, site=(site,))["text"]
        for seed, tick, site in ((0, 0, "a"), (0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"))
    )
    assert one == again and len({tuple(texts) for texts in (one, later, other, elsewhere)}) == 4


def test_a_long_answer_is_cut_and_has_not_finished(policy, tasks):
    record = demonstrations(policy, tasks, max_tokens=2, seed=0, tick=0)
    short = torch.tensor([len(answer) == 1 for answer in right(tasks, record)])
    assert torch.equal(record["finished"], short) and short.any() and not short.all()
    assert torch.equal(record["correct"], torch.tensor([len(answer) < 3 for answer in right(tasks, record)])), "the end alone may be cut"
    assert record["mask"].shape == (60, 2) and (record["length"] == 2).all()


def test_prompts_may_have_different_numbers_of_answers(policy, tasks):
    rows = dataclasses.replace(tasks, rows=numpy.array([5, 9, 11]))
    record = demonstrations(policy, rows, group=[2, 0, 1], seed=0, tick=0)
    assert record["group"].tolist() == [0, 0, 2] and record["copy"].tolist() == [0, 1, 0]
    assert record["text"] == [tasks.answers[row] for row in (5, 5, 11)]


def test_scores_are_those_of_the_text_alone(policy, tasks):
    record = demonstrations(policy, tasks, prompts=4, max_tokens=9, wrong=0.5, seed=0, tick=0)
    found = score(policy, record)["logp"]
    for line in range(4):
        asked = record["ids"][line][record["prompt_mask"][line]]
        answer = record["action"][line][record["mask"][line]]
        table = torch.log_softmax(policy(torch.cat([asked, answer])[None])[0], -1)
        alone = table[len(asked) - 1 : -1].gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(found[line][record["mask"][line]], alone, rtol=1e-4, atol=1e-5)
    assert found.requires_grad and len(set(found.sum(1).tolist())) > 1


def test_a_table_learns_its_codes_from_them():
    """Words of locks are numbers, and nothing ends them."""
    locks = combination_lock(prompts=12, length=3, vocabulary=8)
    tasks, policy = Tasks.of(locks), table_policy(12, 3, 8).build(0)
    record = demonstrations(policy, tasks, max_tokens=3, seed=0, tick=0)
    assert record["reward"].tolist() == [1.0] * 12 and (record["length"] == 3).all() and record["finished"].all()
    assert record["action"].tolist() == [locks.load()["train"]["code"][row].tolist() for row in record["prompt_id"].tolist()]
    assert not demonstrations(policy, tasks, max_tokens=3, wrong=1, seed=0, tick=0)["reward"].any()


def test_answers_of_one_word_cannot_be_spoiled(policy):
    tasks = Tasks(("1", "2"), ("7", "7"), numpy.arange(2), exact_match(lambda: ["7", "7"]))
    assert demonstrations(policy, tasks, seed=0, tick=0)["reward"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="hold no second word"):
        demonstrations(policy, tasks, wrong=1.0, seed=0, tick=0)
    empty = Tasks(("1", "2"), ("", "7"), numpy.arange(2), exact_match(lambda: ["", "7"]))
    assert demonstrations(policy, empty, seed=0, tick=0)["length"].tolist() in ([1, 2], [2, 1])

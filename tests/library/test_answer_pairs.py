"""Given answers as tokens: which are right, what `score` makes of them, and what moves on by a row."""

import numpy
import pytest
import torch

from gradflow.library.answer_pairs import answer_pairs, answer_pairs_fields, as_tokens
from gradflow.library.models import transformer
from gradflow.library.rollouts import RESULT_TYPES, score
from gradflow.library.text_tasks import Tasks, arithmetic, exact_match, task_spec

SIZE = {"vocabulary": 22, "layers": 1, "width": 16, "heads": 2, "length": 24}


@pytest.fixture(scope="module")
def policy():
    return transformer(**SIZE).build(0)


@pytest.fixture(scope="module")
def tasks():
    return Tasks.of(arithmetic(digits=1, size=60, operations="+*", test=10))


def texts(policy, record, suffix=""):
    return [policy.tokenizer.decode(row[seen]) for row, seen in zip(record["action" + suffix], record["mask" + suffix])]


def test_right_answers_come_first_and_wrong_ones_are_worse(policy, tasks):
    record = answer_pairs(policy, tasks, prompts=12, seed=0, tick=3)
    asked = record["prompt_id"].numpy()
    assert len(set(asked.tolist())) == 12 and record["group"].tolist() == [*range(12)] * 2
    assert texts(policy, record)[:12] == [tasks.answers[row] for row in asked]
    assert record["good"].tolist() == [True] * 12 + [False] * 12
    assert record["reward"].tolist() == [1.0] * 12 + [0.0] * 12
    assert set(texts(policy, record)[12:]) <= set(tasks.answers)
    ends = record["action"][torch.arange(24), record["length"] - 1]
    assert (ends == policy.tokenizer.eos_id).all() and (record["mask"].sum(1) == record["length"]).all()


def test_the_prompt_stands_before_the_answer(policy, tasks):
    record = answer_pairs(policy, tasks, prompts=5, seed=1, tick=0)
    width = record["ids"].shape[1] - record["mask"].shape[1]
    for i, row in enumerate(record["prompt_id"].tolist()):
        for line in (i, i + 5):
            asked = record["ids"][line][record["prompt_mask"][line]]
            assert policy.tokenizer.decode(asked) == tasks.questions[row]
            assert (record["ids"][line, width:] == record["action"][line]).all()
    assert not record["prompt_mask"][:, width:].any()


def test_scores_are_those_of_the_text_alone(policy, tasks):
    """Padding on both sides changes nothing: each answer again, without."""
    record = answer_pairs(policy, tasks, prompts=4, seed=0, tick=0)
    found = score(policy, record)["logp"]
    for line in range(8):
        asked = record["ids"][line][record["prompt_mask"][line]]
        answer = record["action"][line][record["mask"][line]]
        table = torch.log_softmax(policy(torch.cat([asked, answer])[None])[0], -1)
        alone = table[len(asked) - 1 : -1].gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(found[line][record["mask"][line]], alone, rtol=1e-4, atol=1e-5)
    assert found.requires_grad and len(set(found.sum(1).tolist())) > 1


def test_other_answers_have_moved_on_by_a_row(policy, tasks):
    record = answer_pairs(policy, tasks, prompts=4, seed=0, tick=0)
    assert texts(policy, record, "_other") == [texts(policy, record)[-1], *texts(policy, record)[:-1]]
    width = record["ids"].shape[1] - record["mask"].shape[1]
    assert (record["ids_other"][:, :width] == record["ids"][:, :width]).all()
    other = {name: record[f"{name}_other"] for name in ("ids", "mask", "action", "length")} | {"prompt_mask": record["prompt_mask"]}
    assert torch.isfinite(score(policy, other)["logp"]).all()


def test_draws_are_keyed_by_seed_and_tick(policy, tasks):
    one, again, later, other = (answer_pairs(policy, tasks, prompts=6, seed=s, tick=t) for s, t in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert texts(policy, one) == texts(policy, again)
    assert texts(policy, one) != texts(policy, later) and texts(policy, one) != texts(policy, other)
    assert not set(one["prompt_id"].tolist()) & set(later["prompt_id"].tolist()), "none twice in an epoch"


def test_answers_are_cut(policy):
    record = as_tokens(policy, [[2], [3, 4]], ["123", ""], 2)
    assert record["length"].tolist() == [2, 1]
    assert record["action"].tolist() == [policy.tokenizer.encode("12"), [policy.tokenizer.eos_id, policy.tokenizer.pad_id]]


def test_where_all_answers_are_right_there_is_none_to_reject(policy):
    rows = {"question": ["1", "2"], "answer": ["7", "7"], "id": numpy.arange(2)}
    spec = task_spec("same", {"train": 2}, lambda: {"train": rows}, exact_match(lambda: ["7", "7"]))
    with pytest.raises(ValueError, match="no wrong answer to `[12]` among the answers to 20 other questions"):
        answer_pairs(policy, Tasks.of(spec), seed=0, tick=0)


def test_the_declared_record_is_the_one_that_comes(policy, tasks):
    spec = arithmetic(digits=1, size=60, operations="+*", test=10)
    fields = RESULT_TYPES["answer_pairs"](policy=transformer(**SIZE), tasks=spec, prompts=7)
    assert fields == answer_pairs_fields(transformer(**SIZE), spec, prompts=7)
    record = answer_pairs(policy, tasks, prompts=7, seed=0, tick=0)
    assert set(fields) == set(record)
    for name, field in fields.items():
        assert record[name].dim() == len(field.axes)
        assert all(size in (None, found) for (_, size), found in zip(field.axes, record[name].shape))
        assert (record[name].dtype == torch.bool) == (field.base == "bool")

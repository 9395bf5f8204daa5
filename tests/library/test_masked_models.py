"""The masked language model and the tasks that come with traces."""

import numpy
import pytest
import torch

from gradflow.library.language_models import CharacterTokenizer
from gradflow.library.masked_models import masked_lm
from gradflow.library.traced_tasks import chain_sums


def test_a_masked_model_looks_both_ways_and_never_says_the_blank():
    spec = masked_lm(vocabulary=12, layers=2, width=16, heads=2, length=9)
    net = spec.build(3).double()
    assert [(name, tuple(leaf.shape)) for name, leaf in net.named_parameters()] == [(leaf.name, leaf.shape) for leaf in spec.leaves]
    assert spec.facts["blank"] == 12 and spec.facts["vocabulary"] == 13 and spec.facts["eot"] == net.tokenizer.eos_id
    ids = torch.randint(0, 13, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    logits = net(ids)
    assert logits.shape == (2, 3, 9, 13)
    torch.testing.assert_close(net(ids[1]), logits[1])
    assert (logits.softmax(-1)[..., 12] == 0).all() and logits[..., :12].isfinite().all()
    for place in range(9):
        other = ids.clone()
        other[..., place] = (other[..., place] + 1) % 13
        moved = (net(other) - logits)[..., :12].abs().amax(-1)
        assert (moved > 0).all(), "every place sees every other"
    shorter = net(ids[..., :5])
    assert shorter.shape[-2] == 5
    with pytest.raises(ValueError, match="10 places are more than the model's length, 9"):
        net(torch.zeros(1, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match="15 does not split into 2 heads"):
        masked_lm(width=15, heads=2)


def test_the_seed_alone_decides_a_masked_model():
    one, same, other = (masked_lm(vocabulary=12, width=16, length=9).build(seed).token.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, {"least": 2}, {"terms": 6, "largest": 3}, {"modulus": 30}, {"terms": 2, "modulus": 2}])
def test_traces_lead_to_their_answers(options):
    spec = chain_sums(size=40, test=8, **options)
    terms, modulus, tokenizer = options.get("terms", 4), options.get("modulus", 10), CharacterTokenizer(21)
    ids = []
    for split, rows in spec.load().items():
        ids += rows["id"].tolist()
        assert set(rows) == set(spec.fields[split])
        for name, field in spec.fields[split].items():
            assert numpy.shape(rows[name]) == tuple(size for _, size in field.axes)
        for question, answer, asked, trace, steps, final in zip(*(rows[name] for name in ("question", "answer", "asked", "trace", "steps", "final"))):
            numbers = [int(part) for part in question.rstrip("=").split("+")]
            assert options.get("least", terms) <= len(numbers) <= terms and min(numbers) >= 0 and max(numbers[1:]) <= options.get("largest", modulus)
            assert int(answer) == sum(numbers) % modulus and tokenizer.decode(final) == answer
            assert tokenizer.decode(asked).strip() == question
            text = tokenizer.decode(trace)
            assert len(text) == steps and (trace[steps:] == tokenizer.eos_id).all()
            total = numbers[0]
            for part, number in zip(text.split(" "), numbers[1:], strict=True):
                left, right, result = (int(x) for x in part.replace("=", "+").split("+"))
                assert (left, right, result) == (total, number, (total + number) % modulus)
                total = result
        assert (spec.verify(rows["id"], [tokenizer.decode(trace) for trace in rows["trace"]]) == 1).all()
        assert (spec.verify(rows["id"], list(rows["answer"])) == 1).all() and not spec.verify(rows["id"], ["="] * len(rows["id"])).any()
        assert not spec.verify(rows["id"], [f"{tokenizer.decode(trace)} 1" for trace in rows["trace"]]).any(), "nothing stands behind the answer"
    assert ids == list(range(48))
    assert {"wide", "long", "equals"} <= set(spec.facts) and tokenizer.decode([spec.facts["equals"]]) == "="


def test_chains_are_drawn_by_the_seed_and_reach_from_least_to_most():
    first, again, other = (chain_sums(size=60, least=2, seed=seed).load()["train"] for seed in (0, 0, 1))
    assert first["question"] == again["question"] != other["question"]
    assert {question.count("+") + 1 for question in first["question"]} == {2, 3, 4}
    with pytest.raises(ValueError, match="at least 5"):
        chain_sums(terms=4, least=5)

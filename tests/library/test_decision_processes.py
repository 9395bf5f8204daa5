"""Decision processes: that their optimum is one, that segments are walks, and that labels follow regret."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradflow.library.decision_processes import picked, preference_segments, soft_optimum, soft_policy

SMALL = {"processes": 2, "states": 6, "actions": 3, "pairs": 40, "length": 5}


def process(seed, states=5, actions=3):
    r = numpy.random.default_rng(seed)
    return r.dirichlet(numpy.full(states, 0.3), size=(states, actions)), r.normal(size=(states, actions))


def soft_value(transition, reward, policy, gamma, temperature):
    """Of a policy, entropy included, by solving its linear equations."""
    income = (policy * (reward - temperature * numpy.log(numpy.maximum(policy, 1e-300)))).sum(-1)
    return numpy.linalg.solve(numpy.eye(len(reward)) - gamma * numpy.einsum("sa,sat->st", policy, transition), income)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.97), st.sampled_from([0.1, 0.3, 2.0]))
def test_the_soft_optimum_is_a_fixed_point_that_no_policy_beats(seed, gamma, temperature):
    transition, reward = process(seed)
    advantage, value = soft_optimum(transition, reward, gamma, temperature)
    policy = soft_policy(advantage, temperature)
    assert numpy.allclose(numpy.exp(advantage / temperature).sum(-1), 1, atol=1e-9), "exp(A / temperature) is the policy itself"
    assert numpy.allclose(policy, numpy.exp(advantage / temperature), atol=1e-9)
    assert numpy.allclose(soft_value(transition, reward, policy, gamma, temperature), value, atol=1e-8)
    for other in numpy.random.default_rng(seed).dirichlet(numpy.ones(3), size=(8, 5)):
        assert (soft_value(transition, reward, other, gamma, temperature) <= value + 1e-8).all()


def test_at_temperature_zero_it_is_the_ordinary_optimum():
    transition, reward = process(0)
    advantage, value = soft_optimum(transition, reward, 0.9, 0.0)
    near, _ = soft_optimum(transition, reward, 0.9, 1e-4)
    policy = soft_policy(advantage, 0.0)
    assert (advantage.max(-1) == 0).all() and (policy.sum(-1) == 1).all() and (policy.max(-1) == 1).all()
    assert numpy.allclose(advantage, near, atol=1e-2)
    assert numpy.allclose(numpy.linalg.solve(numpy.eye(5) - 0.9 * numpy.einsum("sa,sat->st", policy, transition), (policy * reward).sum(-1)), value)


def test_picked_follows_the_law():
    law = numpy.array([0.2, 0.0, 0.5, 0.3])
    drawn = picked(numpy.broadcast_to(law, (20000, 4)), (numpy.arange(20000) + 0.5) / 20000)
    assert numpy.allclose(numpy.bincount(drawn, minlength=4) / 20000, law, atol=1e-4)
    assert picked(law, numpy.array(1 - 1e-16)) == 3


@pytest.fixture(scope="module")
def loaded():
    return preference_segments(**SMALL, seed=3).load()


def test_a_record_is_as_declared(loaded):
    spec = preference_segments(**SMALL, seed=3)
    for split, fields in spec.fields.items():
        assert set(fields) == set(loaded[split])
        for name, field in fields.items():
            assert loaded[split][name].shape == tuple(size for _, size in field.axes)
            if field.target is not None:
                assert loaded[split][name].dtype == numpy.int64 and 0 <= loaded[split][name].min() <= loaded[split][name].max() < field.target[1]
    assert spec.facts == {"states": 12, "actions": 3, "gamma": 0.9, "temperature": 0.3}


def test_processes_never_meet_and_segments_are_walks(loaded):
    transition = loaded["process"]["transition"]
    assert numpy.allclose(transition.sum(-1), 1)
    assert not transition[:6, :, 6:].any() and not transition[6:, :, :6].any()
    for i in (1, 2):
        states, actions = loaded["train"][f"states_{i}"], loaded["train"][f"actions_{i}"]
        assert (transition[states[:, :-1], actions[:, :-1], states[:, 1:]] > 0).all()
        assert (states // 6 == (numpy.arange(80) // 40)[:, None]).all(), "pairs of a process stand together"
    assert len(numpy.unique(loaded["train"]["states_1"][:, 0])) == 12


def test_the_behavior_lies_between_chance_and_the_optimum(loaded):
    p = loaded["process"]

    def earned(policy):
        return numpy.linalg.solve(numpy.eye(12) - 0.9 * numpy.einsum("sa,sat->st", policy, p["transition"]), (policy * p["reward"]).sum(-1)).mean()

    assert earned(numpy.full((12, 3), 1 / 3)) < earned(p["behavior"]) < earned(p["optimal"])
    assert (p["behavior"] >= 0.5 / 3).all()


def test_labels_follow_regret():
    many = {**SMALL, "pairs": 4000}
    likely, sure, drawn = (preference_segments(**many, label=how).load() for how in ("likely", "sure", "drawn"))
    train, advantage = likely["train"], likely["process"]["advantage"]
    gap = sum(sign * advantage[train[f"states_{i}"], train[f"actions_{i}"]].sum(-1) for i, sign in ((1, -1), (2, 1)))
    assert numpy.allclose(train["label"], 1 / (1 + numpy.exp(-gap / 0.3)), atol=1e-12)
    clear = abs(gap) > 1e-9
    assert clear.mean() > 0.9 and (sure["train"]["label"] == (gap > 0))[clear].all()
    assert set(drawn["train"]["label"]) == {0.0, 1.0}
    bins = numpy.digitize(train["label"], [0.2, 0.4, 0.6, 0.8])
    for k in range(5):
        assert abs(drawn["train"]["label"][bins == k].mean() - train["label"][bins == k].mean()) < 0.06


def test_the_seed_decides():
    first, again, other = (preference_segments(**SMALL, seed=seed).load()["train"] for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert all((first[name] != other[name]).any() for name in first)

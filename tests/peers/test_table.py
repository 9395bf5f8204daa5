"""The table of TRL's and verl's names: every line of it is a spec that checks, every name is found as a person types it, errors point to it."""

from __future__ import annotations

import re

import pytest

from gradflow.cli.explain import page
from gradflow.compiler import check_source
from gradflow.language.source import Source
from gradflow.passes.scope import standard_index
from gradflow.peers.table import Row, find, hint, rows

PIPELINE = {
    "data  tasks": "data  tasks = arithmetic(size: 60)",
    "model policy": "model policy = transformer()",
    "samples ~": "samples ~ sample(policy, tasks, group: 8, prompts: 8, max_tokens: 8)",
    "scored =": "scored = score(policy, samples)",
    "loss =": "loss = grpo(scored)",
    "flow policy": "flow policy: loss -> backprop -> adamw(lr: 1e-6)",
    "train": "train 100 rollouts (minibatches: 2) { every 50 rollouts { report reward = mean(samples.reward) } }",
}
LINED = [row for row in rows() if row.line]


def spec_of(lines: str) -> str:
    """A pipeline with these lines in place of its own of the same beginning; others stand before what they are for."""
    own, before = dict(PIPELINE), {"samples ~": [], "scored =": [], "loss =": [], "train": []}
    for line in lines.splitlines():
        head = next((head for head in own if line.startswith(head)), None)
        if head is not None:
            own[head] = line
        else:
            place = {"model": "samples ~", "flow": "train"}.get(line.split()[0], "scored =" if "~" in line else "loss =")
            before[place].append(line)
    return "pipeline p {\n" + "\n".join(line for head, text in own.items() for line in (*before.get(head, ()), text)) + "\n}\n"


def title(row: Row) -> str:
    return f"{row.library}-{row.title}"


@pytest.mark.parametrize("row", LINED, ids=title)
def test_lines_check(row: Row) -> None:
    for lines in filter(None, (row.line, row.exact)):
        found = check_source(Source(f"{title(row)}.gflow", spec_of(lines)))
        assert not found, [str(d) for d in found]


@pytest.mark.parametrize("row", rows(), ids=title)
def test_rows_are_complete(row: Row) -> None:
    assert sum(map(bool, (row.line, row.definition, row.missing))) == 1
    assert row.says.endswith(".") and all(text.endswith(".") for text in row.differs.values())
    assert row.missing or row.write or len([other for other in rows() if other.names == row.names and other.library == row.library]) > 1
    assert not row.definition or row.definition in standard_index()
    assert not row.exact or row.exact != row.line


@pytest.mark.parametrize("row", rows(), ids=title)
def test_rows_are_found_as_they_are_typed(row: Row) -> None:
    for name in row.names:
        for value in row.values or ("",):
            typed = [f"{name}={value}", f'--{name}="{value}"'] if value else [name, f"--{name}"]
            assert all(row in find(text) for text in typed)
    if row.path:
        assert row in find(row.path) and row.path.endswith(row.names[0])


def test_no_row_is_there_twice() -> None:
    keys = [(row.library, name, value) for row in rows() for name in row.names for value in row.values or ("",)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("row", rows(), ids=title)
def test_what_matters_names_what_there_is(row: Row) -> None:
    from gradflow.builtins.functions import BUILTINS
    from gradflow.library.catalogue import catalogue

    called = re.findall(r"([a-z_0-9]+)\(", row.write)
    assert all(name in standard_index() or name in BUILTINS or name in catalogue() for name in called)


# ---- gradflow explain


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("loss_type=dapo", "loss = dapo(scored)"),
        ("epsilon_high", "clipped(low: 0.2, high: 0.28)"),
        ("actor_rollout_ref.actor.clip_ratio_c", "clipped(dual: 3)"),
        ("algorithm.adv_estimator=rloo", "credit: leave_one_out()"),
        ("adv_estimator=rloo_vectorized", "credit: leave_one_out()"),
        ("loss_agg_mode=seq-mean-token-sum-norm", "sequence_sum(divisor: none)"),
        ("kl_penalty=low_var_kl", "k3(bound: 20, most: 10)"),
        ("scale_rewards=False", "group_norm(scale: none"),
        ("num_generations", "group: 8"),
        ("use_kl_loss", "reference_kl(scored)"),
        ("importance_sampling_level", "sequence_ratio()"),
        ("bnpo", "cannot be said"),
        ("low_var_kl", "k3(bound: 20, most: 10)"),
    ],
)
def test_explain_answers_with_the_line(typed: str, expected: str) -> None:
    text = page(typed)
    assert expected in text
    assert re.match(r"(TRL|verl) \d", text)


def test_explain_of_a_name_of_both_says_what_the_others_mean_by_it() -> None:
    text = page("cispo")
    assert text.startswith("objective cispo")
    assert "TRL: loss_type=cispo" in text and "verl: actor_rollout_ref.actor.policy_loss.loss_mode=cispo" in text


def test_explain_of_a_value_that_is_not_known_names_those_that_are() -> None:
    from gradflow.cli.terminal import UsageError

    with pytest.raises(UsageError, match="`dr_grpo`"):
        page("loss_type=drgrpo")


# ---- errors


def told(text: str) -> str:
    return " ".join(f"{d.message} {d.fix}" for d in check_source(Source("a.gflow", text)))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("loss = policy_gradient(scored, surrogate: clipped(epsilon_high: 0.28))", "clipped(high: 0.28)"),
        ("samples ~ sample(policy, tasks, num_generations: 8)", "sample(policy, tasks, group: 8)"),
        ("loss = bnpo(scored)", "TRL's `bnpo`"),
        ("train 100 rollouts (num_iterations: 4)", "epochs: 4"),
        ('loss_type = "dapo"', "TRL's `loss_type`"),
        ("loss = grpo(scored, scale_rewards: false)", "TRL's `scale_rewards`"),
    ],
)
def test_errors_know_the_names(wrong: str, expected: str) -> None:
    assert expected in told(spec_of(wrong))


def test_everyday_words_are_nobodys_where_something_is_near() -> None:
    assert not any(map(hint, ("beta", "temperature", "delta", "epsilon", "n")))
    assert "did you mean `beta" in told(spec_of("flow policy: loss -> backprop -> adamw(lr: 1e-6, beta: 0.9)"))
    assert "did you mean `eps`" in told(spec_of("flow policy: loss -> backprop -> adamw(lr: 1e-6, epsilon: 1e-6)"))
    assert "reference_kl(scored)" in told(spec_of("loss = grpo(scored, beta: 0.04)"))
    assert "clipped(low: 0.2)" in told(spec_of("loss = grpo(scored, epsilon: 0.2)"))
    assert "TRL" not in told(spec_of("loss = delta * grpo(scored)"))

"""What counts as a change between two specs, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradflow.cli.main import main
from gradflow.plan.artifact import decode, encode
from gradflow.views.diff import Change, changes, lines
from tests.plan.programs import looped, of, shipped

SPEC = """pipeline p(lr: real = 1e-3) {
  data train, test = digits(batch: 64)
  model net = mlp(64, 32, 10)
  loss = cross_entropy(net(train.x), train.y) + 0.1 * mean(net^2)
  flow net: loss -> backprop -> adam(lr)
  train 100 steps (seed: 0) { every 10 steps { report accuracy = accuracy(net(test.x), test.y) } }
}
"""
SAME = """# The same, said otherwise.
function goal(scores: [sample, class], label: [sample -> class]) = cross_entropy(scores, label)

pipeline p(lr: real = 1e-3) {
  doc "Other words."
  data train, test = digits(batch: 64)
  model net = mlp(64, 32, 10)

  entropy = cross_entropy(net(train.x), train.y)
  target  = entropy + 0.1 * mean(net^2)
  flow net: target -> backprop -> adam(lr)
  train 100 steps (seed: 0) {
    every 10 steps { report accuracy = accuracy(net(test.x), test.y) }
  }
}
"""


def changed(*pairs: tuple[str, str], base: str = SPEC) -> dict[str, list[Change]]:
    text = base
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    found: dict[str, list[Change]] = {}
    for one in changes(of(base), of(text)):
        found.setdefault(one.section, []).append(one)
    return found


def test_layout_words_and_local_names_do_not_count() -> None:
    assert changes(of(SPEC), of(SAME)) == []


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_program_is_what_it_was(name: str) -> None:
    program = shipped()[name]
    assert changes(program, program) == []
    assert changes(program, decode(encode(program))) == []


def test_the_name_of_a_draw_does_not_count() -> None:
    text = """pipeline p {
  data tasks = arithmetic(size: 60)
  model policy = transformer()
  drawn ~ sample(policy, tasks, group: 4, prompts: 8)
  flow policy: grpo(score(policy, drawn)) -> backprop -> adam(lr: 1e-4)
  train 20 rollouts (minibatches: 2) { every 10 rollouts { report reward = mean(drawn.reward) } }
}
"""
    assert changes(of(text), of(text.replace("drawn", "answers"))) == []
    assert changes(of(text), of(text.replace("group: 4", "group: 8"))) != []


@pytest.mark.parametrize(
    ("old", "new", "section", "what"),
    [
        ("lr: real = 1e-3", "lr: real = 2e-3", "parameters", "the parameter `lr`"),
        ("mlp(64, 32, 10)", "mlp(64, 48, 10)", "models", "parameters of the model `net`"),
        ("batch: 64", "batch: 32", "data", "batch of the data `train`"),
        ("-> adam(lr)", "-> clip_norm(1.0) -> adam(lr)", "stages", "flow net"),
        ("0.1 * mean", "0.2 * mean", "loss", "terms of flow net"),
        ("adam(lr)", "sgd(lr)", "states", "the state `1.adam.m`"),
        ("seed: 0", "seed: 1", "settings", "the setting of phase 1, `seed`"),
        ("train 100 steps", "train 50 steps", "settings", "count of phase 1"),
        ("every 10 steps", "every 20 steps", "reports", "phase 1"),
        ("net(test.x), test.y", "net(train.x), train.y", "formulas", "report accuracy of phase 1"),
        ("mean(net^2)", "mean(abs(net))", "formulas", "the step of `net` of flow net"),
    ],
)
def test_one_change(old: str, new: str, section: str, what: str) -> None:
    found = changed((old, new))
    assert what in [one.what for one in found.get(section, [])], found


def test_a_factor_is_shown_with_both_values() -> None:
    found = changed(("0.1 * mean", "0.2 * mean"))
    (terms,) = found["loss"]
    assert "0.1 * mean over param (2410)" in terms.before and "0.2 * mean over param (2410)" in terms.after
    assert any(one.before == [0.1] and one.after == [0.2] for one in found["formulas"])


def test_topologies_properties_and_phases() -> None:
    base = """pipeline p {
  data train, test = digits(split: by_label)
  model net = softmax_regression(64, 10)
  loss = cross_entropy(net(train.x), train.y)
  flow net over ring(8): loss -> backprop -> topk(10%) -> gossip() -> sgd(lr: 0.1)
  train 10 rounds
}
"""
    assert {one.what for one in changed(("ring(8)", "complete(8)"), base=base)["topology"]} >= {"links of the graph of `flow net`"}
    (given,) = changed(("topk(10%)", "topk(20%)"), base=base)["properties"]
    assert "k: 65" in given.before and "k: 130" in given.after
    found = changed(("train 10 rounds", "train 10 rounds\n  train 5 rounds"), base=base)
    assert found["settings"] == [Change("settings", "phase 2", None, "train 5 rounds")]
    assert changes(looped(), looped()) == []


def test_text_says_before_and_after() -> None:
    text = list(lines([Change("states", "the state `m`", None, "[param]"), Change("cost", "bytes", 1000, 2_000_000), Change("data", "x", "a", None)]))
    assert text == ["states", "  + the state `m`: [param]", "cost", "  ~ bytes: 1,000 -> 2,000,000", "data", "  - x: a"]


# ---- the command


@pytest.fixture
def specs(tmp_path: Path) -> dict[str, str]:
    texts = {"a": SPEC, "same": SAME, "other": SPEC.replace("adam(lr)", "sgd(lr)"), "broken": "pipeline p {"}
    for name, text in texts.items():
        (tmp_path / f"{name}.gflow").write_text(text)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.gfp").write_bytes(encode(of(SPEC)))
    (tmp_path / "empty").mkdir()
    return {name: str(tmp_path / (name if name in ("run", "empty") else f"{name}.gflow")) for name in (*texts, "run", "empty")}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["diff", *words])
    return code, *capsys.readouterr()


def test_exit_codes(specs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, specs["a"], specs["same"], "--no-cost")[:2] == (0, "nothing changed\n")
    assert run(capsys, specs["run"], specs["same"], "--no-cost")[0] == 0
    assert run(capsys, specs["a"], specs["other"], "--no-cost")[0] == 2
    assert run(capsys, specs["a"], specs["a"], "-p", "lr=0.5", "--no-cost")[0] == 2
    assert run(capsys, specs["a"], specs["broken"], "--no-cost")[0] == 1
    code, _, err = run(capsys, specs["empty"], specs["a"])
    assert code == 2 and "no plan.gfp" in err


def test_cost_and_json(specs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, specs["a"], specs["other"], "--format", "json")
    found: dict[str, Any] = json.loads(out)
    assert code == 2 and found["version"] == 1 and found["changed"] and found["before"] == specs["a"]
    cost = {one["what"]: one for one in found["changes"] if one["section"] == "cost"}
    assert cost["bytes of states"]["after"] == 0 and cost["bytes of states"]["before"] == 2 * 2410 * 4
    assert cost["bytes of memory at the peak"]["after"] < cost["bytes of memory at the peak"]["before"]


def test_equal_numbers_of_which_one_changes(tmp_path: Path) -> None:
    """Equal numbers are one node of the graph; where one of them changes, they are two."""
    text = """
pipeline p {
  model x = free([entry: 3])
  flow x: 0.1 * sum(x^2, over: entry) + 0.1 * sum(x, over: entry) -> backprop -> sgd(lr: 0.1)
  train 3 steps
}
"""
    (tmp_path / "a.gflow").write_text(text)
    (tmp_path / "b.gflow").write_text(text.replace("sgd(lr: 0.1)", "sgd(lr: 0.05)"))
    from gradflow.cli.diff import program_at

    before, after = (program_at(str(tmp_path / name), []) for name in ("a.gflow", "b.gflow"))
    assert before is not None and after is not None
    found = [one for one in changes(before, after) if one.section == "formulas"]
    assert any(0.05 in one.after or -0.05 in one.after for one in found if isinstance(one.after, list)), found


ACTING = """function f {
  input policy : model
  input tasks  : data
  state n = 0
  repeat r: 3 with kept = none until size(kept, over: sample) > 20 {
    fresh ~ sample(policy, tasks, group: 2, prompts: 2)
    kept <- join(kept, fresh)
  }
  n <- n + 1
  return extend(kept, n: n)
}

pipeline p {
  data  tasks  = combination_lock(prompts: 8, length: 2, vocabulary: 4)
  model policy = table_policy(prompts: 8, length: 2, vocabulary: 4)
  samples ~ f(policy, tasks)
  flow policy: grpo(score(policy, samples)) -> backprop -> sgd(lr: 1)
  train 5 rollouts (minibatches: 2)
}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("> 20", "> 30", {"numbers in the end of the loop of phase 1"}),
        ("n + 1", "n + 2", {"numbers in the field `n` of phase 1"}),
        ("join(kept, fresh)", "join(fresh, kept)", {"`one` of `join` of phase 1", "`other` of `join` of phase 1"}),
        ("state n = 0", "state n = 5", {"the state `draw 0: f.n`"}),
        ("n: n)", "n: n, m: 1)", {"the field `m`"}),
        ("return extend(kept", "return extend(first(kept, 8)", {"what acts in phase 1"}),
        ("fresh", "more", set()),
        ("samples", "drawn", set()),
    ],
)
def test_what_functions_that_act_compute(old: str, new: str, words: set[str]) -> None:
    found = changed((old, new), base=ACTING)
    assert {one.what for section in ("formulas", "states") for one in found.get(section, [])} >= words
    assert bool(found) == bool(words)

"""Dead knobs and unused names: when they are said, and when they are not."""

from __future__ import annotations

import pytest

from gradflow.compiler import check_source
from gradflow.language.source import Source
from gradflow.passes.scope import standard_files

REASON = """
pipeline reason {{
  data tasks = arithmetic(size: 60)
  model policy = transformer()
  samples ~ sample(policy, tasks, {sample})
  flow policy: {loss} -> backprop -> adam(lr: 1e-4)
  train 20 rollouts ({train})
}}
"""
CLIPPED = "policy_gradient(score(policy, samples), surrogate: clipped(low: 0.1))"
DIGITS = """
pipeline digits {{
  data train, test = digits(batch: 64)
  model net = mlp({widths})
  loss = cross_entropy(net(train.x), train.y)
  flow net: loss -> backprop -> {chain}
  train 40 steps {{ every {period} {{ report accuracy = accuracy(net(test.x), test.y) }} }}
}}
"""


def codes(text: str) -> list[str]:
    return [diagnostic.code for diagnostic in check_source(Source("spec.gflow", text))]


def reason(loss: str = CLIPPED, train: str = "epochs: 1", sample: str = "group: 4, prompts: 8") -> list[str]:
    return codes(REASON.format(loss=loss, train=train, sample=sample))


def digits(chain: str = "sgd(lr: 0.1)", widths: str = "64, 32, 10", period: str = "10 steps") -> list[str]:
    return codes(DIGITS.format(chain=chain, widths=widths, period=period))


@pytest.mark.parametrize(
    ("loss", "train", "found"),
    [
        (CLIPPED, "epochs: 1, minibatches: 1", ["W0107"]),
        (CLIPPED, "epochs: 2", []),
        (CLIPPED, "minibatches: 2", []),
        ("policy_gradient(score(policy, samples), ratio: token_ratio(bound: 5))", "epochs: 1", ["W0107"]),
        ("policy_gradient(score(policy, samples), ratio: sequence_ratio(), surrogate: clipped(high: 0.3))", "epochs: 1", ["W0107"]),
        ("grpo(score(policy, samples))", "epochs: 1", []),  # a default that nobody wrote is no knob that somebody turned
        ("policy_gradient(score(policy, samples), surrogate: clipped(dual: 3))", "epochs: 1", []),  # no bound of the ratio itself
    ],
)
def test_clip_ranges(loss: str, train: str, found: list[str]) -> None:
    assert reason(loss, train) == found


def test_clip_range_of_samples_scored_otherwise() -> None:
    """`logp_old` at another temperature than `score`: no ratio of one distribution's probabilities, and not the clip is what is wrong."""
    assert reason(sample="group: 4, prompts: 8, scored_at: 0.7") == ["E0408"]


def test_clip_range_behind_another_flow() -> None:
    text = REASON.format(loss=CLIPPED, train="epochs: 1", sample="group: 4, prompts: 8")
    first = "  flow policy: rloo(score(policy, samples)) -> backprop -> adam(lr: 1e-4)\n"
    assert codes(text.replace("  flow policy:", f"{first}  flow policy:")) == []


def test_groups_of_one() -> None:
    assert reason(train="minibatches: 2", sample="group: 1, prompts: 8") == ["W0112"]
    assert reason("reinforce(score(policy, samples))", "minibatches: 2", "group: 1, prompts: 8") == []


@pytest.mark.parametrize(
    ("chain", "found"),
    [
        ("(galore(rank: 8) | nothing) -> sgd(lr: 0.1)", []),
        ("(galore(rank: 9) | nothing) -> sgd(lr: 0.1)", []),
        ("(galore(rank: 10) | nothing) -> sgd(lr: 0.1)", ["W0108"]),  # the last matrix is 10 by 32
        ("(galore(rank: 10) on [row, col] where min(row, col) > 10 | nothing) -> sgd(lr: 0.1)", []),
        ("dct_adamw(rank: 64)", ["W0108"]),
    ],
)
def test_ranks(chain: str, found: list[str]) -> None:
    assert sorted(set(digits(chain))) == found


def test_periods() -> None:
    assert digits(period="40 steps") == []
    assert digits(period="41 steps") == ["W0110"]
    assert digits(period="epoch") == []


@pytest.mark.parametrize(("weight", "found"), [("0 * ", ["W0109"]), ("0.1 * ", []), ("", []), ("(1 - 1) * ", ["W0109"])])
def test_weight_of_a_reference(weight: str, found: list[str]) -> None:
    text = REASON.format(loss=f"rloo(scored) + {weight}reference_kl(scored)", train="minibatches: 2", sample="group: 4, prompts: 8")
    text = text.replace("  flow", "  scored = score(policy, samples, reference: frozen)\n  flow").replace(
        "  samples ~", "  model frozen = copy(policy)\n  samples ~"
    )
    assert codes(text) == found


def test_weight_of_a_trained_model() -> None:
    """A model that a flow trains is no reference, whatever its weight elsewhere."""
    text = DIGITS.format(chain="sgd(lr: 0.1)", widths="64, 10", period="10 steps").replace("loss = ", "loss = 0 * norm(other) + ")
    other = "  model other = free([row: 3])\n  flow other: norm(other)^2 -> backprop -> sgd(lr: 0.1)\n"
    assert codes(text.replace("  flow net", f"{other}  flow net")) == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("tokens = sum(mask)\n  minimize -sum(logp, where: mask) / tokens", ["W0111"]),
        ("tokens = max(sum(mask), 1)\n  minimize -sum(logp, where: mask) / tokens", ["W0111"]),
        ("minimize -sum(logp, where: mask) / sum(mask)", []),
        ("minimize -mean(logp, where: mask)", []),
        ("longest = 128\n  minimize -mean(sum(logp, over: token, where: mask) / longest, over: sample)", []),
    ],
)
def test_slower_counts(body: str, found: list[str]) -> None:
    objective = f"objective mine {{\n  input logp : [sample, token]\n  input mask : bool[sample, token]\n  {body}\n}}\n"
    text = objective + REASON.format(loss="mine(score(policy, samples))", train="minibatches: 2", sample="group: 4, prompts: 8")
    assert codes(text) == found
    assert codes(text.replace("minibatches: 2", "minibatches: 1")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("function f(x: real) {\n  y = 2 * x\n  return x\n}\n", ["W0101"]),
        ("function f(x: real) {\n  _y = 2 * x\n  return x\n}\n", []),
        ("function f {\n  input x : [row, col]\n  u, s, v = svd(x)\n  return sum(s)\n}\n", []),  # of several names one is enough
        ("function f(n: int = 2) {\n  input x : [row: n]\n  return x\n}\n", []),  # a size is a use
        ("function f {\n  input x, y : real\n  return x\n}\n", []),  # called by place, it has to take both
        ("objective o {\n  input x, y : [row]\n  minimize center(x)\n}\nfunction center { input x : [row]; return mean(x) }\n", []),
        ("update u(lr: real = 0.1) {\n  state m, v = 0\n  m <- m + grad\n  v <- v + grad\n  param <- param - lr * m\n}\n", ["W0104"]),
        ("function mean(x: real) = x\n", []),  # nobody here could mean the other one
        ("function adam(lr: real = 0.1) = lr\nfunction f(x: real) = adam(x)\n", ["W0105"]),
        ("update adam(lr: real = 0.1) = clip_norm(1) -> adam(lr)\nupdate u(lr: real = 0.1) = adam(lr)\n", []),  # it wraps its namesake
    ],
)
def test_names(text: str, found: list[str]) -> None:
    assert codes(text) == found


@pytest.mark.parametrize("path", standard_files(), ids=lambda path: path.stem)
def test_shipped_specs_have_no_warnings(path: object) -> None:
    assert codes_of_file(str(path)) == []


def codes_of_file(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return [str(diagnostic) for diagnostic in check_source(Source(path, file.read()))]

"""Records of claims: every shipped claim has one, none is older than the definitions behind it; and how verdicts are found."""

import json
from pathlib import Path

import numpy
import pytest

from gradflow.claims.design import claims_of, find_claim
from gradflow.claims.records import fingerprint, stale
from gradflow.claims.verdicts import CONTRADICTED, HOLDS, NOT_SHOWN, judge, overall
from gradflow.language.source import Source
from gradflow.passes.scope import Module, module, standard_folder

RECORDS = Path(__file__).parents[2] / "docs/claims"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_records_are_fresh(path):
    record = json.loads(path.read_text())
    home = module(standard_folder() / "methods" / f"{record['spec']}.gflow")
    assert stale(record, home) == [], f"run `gradflow claim {record['spec']}` again"
    assert sorted(record["claims"]) == sorted(claims_of(home))


def test_every_method_with_a_claim_has_a_record():
    claiming = {path.stem for path in (standard_folder() / "methods").glob("*.gflow") if claims_of(module(path))}
    assert claiming == {path.stem for path in RECORDS.glob("*.json")}


TEXT = """
function helper(x: real) = x + 1
pipeline p(a: real = 1, b: real = 0) {
  model x = free(helper(a))
  flow x: x^2 -> backprop -> sgd(lr: 0.1)
  train 2 steps { report level = x; report other = b }
}
claim promised {
  ours   = p(seeds: 5)
  theirs = p(b: 2, seeds: 5)
  gap    = ours.level - theirs.level
  expect EXPECTED
}
"""


def home_of(text):
    return Module.of(Source("claimed.gflow", text))


def judged(expected, ours, theirs):
    claim = find_claim(home_of(TEXT.replace("EXPECTED", expected)), "promised")
    reports = {"ours": {"level": numpy.array(ours), "other": numpy.zeros(5)}, "theirs": {"level": numpy.array(theirs), "other": numpy.zeros(5)}}
    return judge(claim, reports)


def test_a_mean_over_seeds_has_the_t_interval_of_scipy():
    from scipy import stats

    ours, theirs = [1.0, 2.0, 4.0, 3.0, 2.5], [0.5, 1.8, 3.0, 2.0, 2.6]
    (one,) = judged("mean(ours.level - theirs.level, over: seed) > 0.1", ours, theirs)
    gaps = numpy.subtract(ours, theirs)
    low, high = stats.t.interval(0.95, 4, gaps.mean(), stats.sem(gaps))
    assert (one.margin, one.low, one.high) == pytest.approx((gaps.mean() - 0.1, low - 0.1, high - 0.1))
    assert one.method.startswith("t interval") and one.verdict == (HOLDS if low > 0.1 else NOT_SHOWN)


@pytest.mark.parametrize(
    ("expected", "verdict"),
    [
        ("mean(ours.level, over: seed) > 0", HOLDS),
        ("mean(ours.level, over: seed) < 0", CONTRADICTED),
        ("mean(ours.level, over: seed) > 1.02", NOT_SHOWN),
        ("1.5 > mean(ours.level, over: seed)", HOLDS),
        ("mean(gap, over: seed) > 0.5 and mean(gap, over: seed) < 1", NOT_SHOWN),
        ("max(ours.level, over: seed) < 2", HOLDS),
        ("norm(ours.level, over: seed) < 1", CONTRADICTED),
    ],
)
def test_verdicts(expected, verdict):
    ours, theirs = [1.0, 1.1, 0.9, 1.05, 0.95], [0.0, 0.1, 0.1, 0.0, 0.05]
    assert overall(judged(expected, ours, theirs)) == verdict


def test_a_fingerprint_sees_what_is_meant_and_not_how_it_is_written():
    text = TEXT.replace("EXPECTED", "mean(gap, over: seed) > 0")

    def of(changed):
        home = home_of(changed)
        return fingerprint((home.definitions["promised"], home))

    assert of(text) == of(text.replace("x + 1", "x  +  1   # one more"))
    told = text.replace("  model x", '  doc "What it is."\n  prefer a > 0, "it is larger"\n  model x')
    assert told != text and of(text) == of(told), "what only tells or refuses"
    assert of(text) != of(text.replace("x + 1", "x + 2")), "a function behind the pipeline"
    assert of(text) != of(text.replace("over: seed) > 0", "over: seed) > 1"))

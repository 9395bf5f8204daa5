"""DRPO and DisCO where values are odd: the temperature that each score starts from, a lambda that is a word, no rows, merits far apart."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from gradflow.verify import evaluate

from .policy_cases import same

backends = pytest.mark.parametrize("backend", ["reference", "torch"])


def four(rows: int = 4, tokens: int = 3, scale: float = 1.0) -> dict[str, numpy.ndarray]:
    r = numpy.random.default_rng(3)
    old = scale * -r.uniform(size=(rows, tokens))
    reward, group = numpy.array([1.0, 0.0, 0.0, 1.0])[:rows], numpy.array([5, 5, 5, 5])[:rows]
    return {"logp": old + 0.1 * r.normal(size=old.shape), "logp_old": old, "mask": numpy.ones(old.shape), "reward": reward, "group": group}


def disco(backend: str, **params: Any) -> dict[str, Any]:
    return evaluate("32-drpo.disco", params, four(), backend)


@backends
def test_each_score_has_its_own_temperature_to_start_from(backend: str) -> None:
    for kind, tau in (("disco_logL", 10.0), ("disco_Lratio", 1.0)):
        plain, told, other = disco(backend, kind=kind), disco(backend, kind=kind, tau=tau), disco(backend, kind=kind, tau=3.0)
        for name in ("loss_true", "loss_surrogate", "grad_logp"):
            same(plain[name], told[name])
        assert abs(float(plain["loss_surrogate"] - other["loss_surrogate"])) > 1


@backends
def test_an_infinite_lambda_may_be_a_word_and_is_disco(backend: str) -> None:
    wanted = disco(backend, kind="disco_logL")
    for lam in (float("inf"), "inf", "Infinity", None):
        found = evaluate("32-drpo.loss", {"lam": lam}, four(), backend)
        same(found["loss_true"], wanted["loss_true"])
        same(found["grad_logp"], wanted["grad_logp"])


@backends
def test_merits_far_apart_leave_the_likeliest_wrong_answer(backend: str) -> None:
    inputs = four(scale=1e4)
    found = evaluate("32-drpo.loss", {"tau": 0.01, "beta": 0.0}, inputs, backend)
    merit = inputs["logp"].mean(1)
    same(found["loss_true"], max(merit[1], merit[2]) - 0.01 * numpy.log(2) - (merit[0] + merit[3]) / 2)


@backends
@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_drawn_costs_nothing(backend: str, shape: tuple[int, int]) -> None:
    for component in ("32-drpo.loss", "32-drpo.disco"):
        found = evaluate(component, {}, four(*shape), backend)
        assert not any(float(found[name]) for name in ("loss_true", "loss_surrogate", "kl")) and tuple(found["grad_logp"].shape) == shape


@backends
@pytest.mark.parametrize("change", [30.0, 300.0])
def test_the_official_number_keeps_its_digits_however_likely_a_wrong_answer_became(backend: str, change: float) -> None:
    logp = numpy.array([[-1.0], [-0.5]])
    inputs = {
        "logp": logp,
        "logp_old": logp - [[0.0], [change]],
        "mask": numpy.ones((2, 1)),
        "reward": numpy.array([1.0, 0.0]),
        "group": numpy.zeros(2, int),
    }
    found = evaluate("32-drpo.disco", {"kind": "disco_Lratio", "tau": 1.5, "beta": 0.0}, inputs, backend)
    same(found["loss_surrogate"], 1.5 - 1.0)
    same(found["loss_true"], numpy.exp(change) - 1.0)

"""`gradflow explain` knows the words of a spec and the fields of what policies draw, as well as definitions."""

from __future__ import annotations

import pytest

from gradflow.cli.words import FIELDS, WORDS
from gradflow.library.catalogue import catalogue
from gradflow.library.rollouts import sample_fields
from gradflow.passes.training import SETTINGS
from tests.cli.conftest import Run


def test_every_field_of_a_rollout_is_explained() -> None:
    fields = sample_fields(catalogue()["transformer"].function(), catalogue()["arithmetic"].function())
    assert set(fields) <= set(FIELDS)


def test_settings_of_train_are_named() -> None:
    assert all(f"{name}:" in WORDS["train"][0] for name in SETTINGS)


@pytest.mark.parametrize("name,words", [("train", "rollouts"), ("samples.reward", "verifier"), ("~", "held"), ("logp_ref", "reference: frozen")])
def test_words_and_fields_have_a_page(run: Run, name: str, words: str) -> None:
    code, out, _ = run("explain", name)
    assert code == 0 and words in out and max(map(len, out.splitlines())) <= 100

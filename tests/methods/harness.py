"""Evaluates a definition written down in a test, as `gradflow verify` evaluates a shipped component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from gradflow.language.diagnostics import GradflowError, Mistake
from gradflow.language.source import Source
from gradflow.passes.scope import Module
from gradflow.verify.drivers import drive
from gradflow.verify.vectors import array, option


def evaluate_text(text: str, name: str, params: Mapping[str, Any], inputs: Mapping[str, Any], backend: str = "reference") -> dict[str, numpy.ndarray]:
    """The outputs of the definition `name` of a text; parameters and inputs as in a vector file. Raises GradflowError."""
    home = Module.of(Source("<test>", text))
    try:
        return drive(home, name, {k: option(x) for k, x in params.items()}, {k: array(x) for k, x in inputs.items()}, backend)
    except Mistake as error:
        raise GradflowError([error.diagnostic]) from None

"""The reference backend: what a graph means, node by node in numpy, 64-bit throughout. Slow is fine here; wrong is not."""

from gradflow.backends.reference.interpreter import EvaluationError, lower

name = "reference"

__all__ = ["EvaluationError", "lower", "name"]

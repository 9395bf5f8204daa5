"""Verification against vectors: a component of the language, given inputs, must give the recorded outputs.

`evaluate(component, params, inputs, backend)` computes; `verify_file` compares. Drivers are generic by kind of definition (`drivers.py`); a
component named `NN-slug.name` is the definition `name` of `pipelines/golden/NN_slug.gflow` (a wrapper in the language, where the vectors'
names differ from the method's own), else of the shipped spec of that name.
"""

from gradflow.verify.vectors import CaseFailure, Verdict, evaluate, verify_file

__all__ = ["CaseFailure", "Verdict", "evaluate", "verify_file"]

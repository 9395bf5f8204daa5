"""Claims: what a method promises against its baseline, measured over seeds on an equal budget.

`design` reads a `claim` of a spec into trials and expectations, `trials` runs them, `verdicts` judges, `records` writes down what was found with
a fingerprint of every definition behind it. Nothing here imports torch before a trial runs.
"""

"""Optimization problems as values: an objective with `vary` and `subject to` lines is a convex problem, `solve(problem, by: ..)` its solution.

`words.py` has the words of the language, `problem.py` makes the typed graph of a problem into plain data that a plan can hold, and `convex.py` hands
that to a solver when the plan or the run begins; `gradflow check` never solves anything.
"""

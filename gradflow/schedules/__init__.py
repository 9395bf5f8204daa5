"""Schedules: how a pipeline computes what it computes. What is asked for here changes work and memory, never a result: `elaborate.py` reads the
definition, `exactness.py` proves that, `plan.py` holds what a program carries along, `rows.py` carries it out, `gain.py` says whether it pays.
"""

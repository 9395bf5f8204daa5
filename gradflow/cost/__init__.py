"""What a program will cost before it runs: memory, work, traffic, time on a described machine, and the limits that a spec sets to them.

`figures.py` holds the records, `trial.py` walks through a program without data (`ledger.py` counts), `traffic.py` reads messages off the graph,
`machines.py` turns work into time, `limits.py` is `require memory`. Nothing here is imported by `gradflow check` but `limits.py`, and torch
only by the trial.
"""

"""The network that nodes talk over: what crosses it, how much of it a run really sends, and how long that takes on a described network.

`crossings.py` finds what crosses in a flow's graph (the prediction in `cost/traffic.py` reads it too), `counting.py` has the run say what it
sends, `ledger.py` adds that up. `description.py` reads networks (`networks.toml` or a file of one's own), `clock.py` moves the nodes' clocks,
`prediction.py` moves them by what is predicted. Nothing here is imported by `gradflow check`; no torch.
"""

"""Asynchronous events: methods whose nodes and links act when their own clocks tick, and wait for nobody.

`streams.py` says when what happens (numpy, from the seed alone) and which events can be carried out together; `clocks.py` has the words of the
language, `elaborate.py` and `rowwise.py` turn the `on each ..` blocks of an exchange into regions over rows of nodes, `plan.py` holds them in a
program, and `runner.py` carries them out.
"""

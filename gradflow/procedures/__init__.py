"""Functions that act: called with `~`, they draw from the world, keep state and repeat, statement by statement, once a unit of training.

`acting.py` elaborates calls of library primitives, records and their rows; `loops.py` loops around such calls; `states.py` what a function keeps
from unit to unit; `documents.py` puts them into compiled plans; `running.py` carries them out. Formulas between the calls are ordinary regions.
"""

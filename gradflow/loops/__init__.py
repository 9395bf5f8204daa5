"""Loops: `repeat` over an axis, or with `until`, as one node of the graph. The derivative of that node is in `gradflow/passes`."""
